package auth

import (
	"context"
	"strings"
	"testing"

	"github.com/mqgate/mqgate/router"
)

func login(t testing.TB, a *Authority, c router.Credentials) *router.Principal {
	t.Helper()
	p, err := a.Authenticate(context.Background(), c)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestAuthorize(t *testing.T) {
	o := team()
	o.Anonymous, o.Nobody = true, User{Read: []string{">"}, Write: []string{">"}}
	a := newAuthority(t, o)
	who := map[string]*router.Principal{
		"worker":    login(t, a, router.Credentials{User: "worker", Password: "w"}),
		"ops":       login(t, a, router.Credentials{User: "ops", Password: "o"}),
		"sensor":    login(t, a, router.Credentials{TLSNames: []string{"sensor.example"}}),
		"mine":      login(t, a, router.Credentials{User: "mine", Password: "m", ClientID: "c7"}),
		"anonymous": login(t, a, router.Credentials{}),
		"stranger":  router.NewPrincipal("stranger", "", true, nil),
		"nil":       nil,
	}
	const read, write, consume, admin = router.ActionRead, router.ActionWrite, router.ActionConsume, router.ActionAdmin
	tests := []struct {
		who    string
		action router.Action
		where  string
		want   bool
	}{
		{"worker", consume, "/queue/orders.eu", true},
		{"worker", consume, "/queue/orders", false},
		{"worker", write, "/queue/orders.eu", false},
		{"worker", write, "/queue/done", true},
		{"worker", read, "/topic/orders.eu", false},
		{"worker", admin, "/queue/orders.eu", false},
		{"worker", router.Action(99), "/queue/orders.eu", false},
		{"worker", 0, "/queue/orders.eu", false},
		{"ops", admin, "/queue/orders.eu", true},
		{"ops", consume, "/queue/orders.eu", false},
		{"ops", read, "/topic/$SYS.load", true},
		{"ops", write, "/topic/$SYS.load", false},
		{"ops", read, "/topic/plant.7", false},
		{"sensor", write, "/topic/plant.7.temp", true},
		{"sensor", write, "/topic/house", false},
		{"mine", read, "/topic/users.mine.mail", true},
		{"mine", read, "/topic/users.other.mail", false},
		{"mine", consume, "/queue/c7.inbox", true},
		{"mine", consume, "/queue/c8.inbox", false},
		{"anonymous", read, "/topic/plant.7", true},
		{"anonymous", read, "/topic/$SYS.load", false},
		{"anonymous", write, "/topic/$SYS.load", false},
		{"anonymous", consume, "/queue/orders.eu", false},
		{"anonymous", admin, "/queue/orders.eu", false},
		{"stranger", admin, "/queue/orders.eu", false},
		{"stranger", read, "/topic/$SYS.load", false},
		{"nil", read, "/topic/plant.7", false},
	}
	for _, tt := range tests {
		addr := address(t, tt.where)
		for what, err := range map[string]error{
			"Authorize":       a.Authorize(who[tt.who], tt.action, addr),
			"AuthorizeFilter": a.AuthorizeFilter(who[tt.who], tt.action, router.FilterOf(addr)),
		} {
			if (err == nil) != tt.want {
				t.Errorf("%s: %s %s %s: %v, want allowed %t", what, tt.who, tt.action, tt.where, err, tt.want)
			}
			if err != nil && router.ClassOf(err) != router.Denied {
				t.Errorf("%s: class %s", what, router.ClassOf(err))
			}
		}
	}
	for name, p := range who {
		if a.Authorize(p, read, router.Address{}) == nil || a.AuthorizeFilter(p, read, router.Filter{}) == nil {
			t.Errorf("%s may read nothing in particular", name)
		}
	}
}

func TestAuthorizeFilter(t *testing.T) {
	a := newAuthority(t, Options{Users: []User{
		{Name: "reader", PasswordHash: cheapHash("r"), Read: []string{"/topic/plant.*.temp", "/topic/$SYS.load"}},
		{Name: "ops", PasswordHash: cheapHash("o"), Admin: true, Write: []string{">", "/topic/$x.>"}},
	}})
	reader := login(t, a, router.Credentials{User: "reader", Password: "r"})
	ops := login(t, a, router.Credentials{User: "ops", Password: "o"})
	tests := []struct {
		p      *router.Principal
		action router.Action
		filter string
		want   bool
	}{
		{reader, router.ActionRead, "/topic/>", true},
		{reader, router.ActionRead, "/topic/plant.>", true},
		{reader, router.ActionRead, "/topic/*.7.temp", true},
		{reader, router.ActionRead, "/topic/*.7", false},
		{reader, router.ActionRead, "/topic/house.>", false},
		{reader, router.ActionRead, "/topic/$SYS.>", true},
		{reader, router.ActionRead, "/topic/$other.>", false},
		{reader, router.ActionWrite, "/topic/>", false},
		{ops, router.ActionRead, "/topic/$SYS.>", true},
		{ops, router.ActionRead, "/topic/>", false},
		{ops, router.ActionAdmin, "/topic/>", true},
		{ops, router.ActionWrite, "/topic/>", true},
		{ops, router.ActionWrite, "/topic/$x.>", false},
		{ops, router.ActionWrite, "/topic/$x.a", false},
		{nil, router.ActionRead, "/topic/>", false},
	}
	for _, tt := range tests {
		if err := a.AuthorizeFilter(tt.p, tt.action, filter(t, tt.filter)); (err == nil) != tt.want {
			t.Errorf("%s %s: %v, want allowed %t", tt.action, tt.filter, err, tt.want)
		}
	}
}

func TestRefusalSaysWhoAndWhat(t *testing.T) {
	a := newAuthority(t, Options{Anonymous: true, Users: team().Users})
	worker := login(t, a, router.Credentials{User: "worker", Password: "w"})
	for want, err := range map[string]error{
		`user "worker" may not consume /queue/secret`:      a.Authorize(worker, router.ActionConsume, address(t, "/queue/secret")),
		`user "worker" may not read /topic/plant/#`:        a.AuthorizeFilter(worker, router.ActionRead, filter(t, "/topic/plant.>")),
		`an anonymous client may not write /topic/plant/7`: a.Authorize(login(t, a, router.Credentials{}), router.ActionWrite, address(t, "/topic/plant.7")),
	} {
		if got := strings.ReplaceAll(router.TextOf(err), ">", "#"); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

func TestAuthorizeDoesNotAllocate(t *testing.T) {
	a := newAuthority(t, team())
	p, addr := login(t, a, router.Credentials{User: "worker", Password: "w"}), address(t, "/queue/orders.eu")
	if n := testing.AllocsPerRun(100, func() {
		if a.Authorize(p, router.ActionConsume, addr) != nil {
			t.Fatal("refused")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
