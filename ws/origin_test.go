package ws

import (
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/gorilla/websocket"
)

// from has requests seem to come from another machine.
func from(remote string, h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.RemoteAddr = remote
		h.ServeHTTP(w, r)
	})
}

func TestWithoutOriginFromAfarALoginIsNeeded(t *testing.T) {
	asked := make(chan bool, 1)
	g := newRig(t, func(o *Options) {
		o.ServeSTOMP = func(c net.Conn) {
			asked <- c.(interface{ CredentialRequired() bool }).CredentialRequired()
			c.Close()
		}
	})
	afar := httptest.NewServer(from("192.0.2.1:4711", g.server))
	t.Cleanup(afar.Close)
	url := "ws" + strings.TrimPrefix(afar.URL, "http")
	for name, c := range map[string]struct {
		header  http.Header
		request string
		ok      bool
	}{
		"nothing":       {nil, `{"id":1,"op":"connect"}`, false},
		"login":         {nil, `{"id":1,"op":"connect","user":"ann","password":"pw-ann"}`, true},
		"same origin":   {http.Header{"Origin": {afar.URL}}, `{"id":1,"op":"connect"}`, true},
		"authorization": {http.Header{"Authorization": {"Bearer x"}}, `{"id":1,"op":"connect"}`, true},
		"cookie":        {http.Header{"Cookie": {"session=x"}}, `{"id":1,"op":"connect"}`, false},
	} {
		t.Run(name, func(t *testing.T) {
			conn, _, err := websocket.DefaultDialer.Dial(url+"/ws", c.header)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			p := &peer{t: t, c: conn}
			if c.ok {
				p.call(c.request)
				return
			}
			p.refused("denied", c.request)
			closes(t, conn, closeLoginRefused)
		})
	}
	conn, _, err := websocket.DefaultDialer.Dial(url+"/stomp", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if !<-asked {
		t.Error("the STOMP server is not told")
	}
}

func TestPortsOfOneProtocol(t *testing.T) {
	g := newRig(t, func(o *Options) { o.ServeMQTT = nil })
	for name, c := range map[string]struct {
		h       http.Handler
		path    string
		offered []string
		status  int
	}{
		"stomp at the root":    {g.server.STOMP(nil), "/", nil, 101},
		"web-stomp":            {g.server.STOMP(nil), "/ws", []string{"v11.stomp"}, 101},
		"any path":             {g.server.STOMP(nil), "/stomp/websocket", []string{"stomp"}, 101},
		"json on a STOMP port": {g.server.STOMP(nil), "/ws", []string{JSONSubprotocol}, 400},
		"mqtt is off":          {g.server.MQTT(), "/mqtt", []string{"mqtt"}, 404},
	} {
		t.Run(name, func(t *testing.T) {
			s := httptest.NewServer(c.h)
			defer s.Close()
			d := websocket.Dialer{Subprotocols: c.offered}
			conn, resp, err := d.Dial("ws"+strings.TrimPrefix(s.URL, "http")+c.path, nil)
			if resp == nil || resp.StatusCode != c.status {
				t.Fatalf("%v %v, want %d", resp, err, c.status)
			}
			if err == nil {
				conn.Close()
			}
		})
	}
}

func TestPanicEndsOneConnection(t *testing.T) {
	g := newRig(t, func(o *Options) { o.ServeSTOMP = func(net.Conn) { panic("a fault") } })
	closes(t, g.dial("/stomp"), closeNormal)
	g.peer().call(`{"id":1,"op":"ping"}`)
	eventually(t, "it is counted", func() bool { return g.server.Stats.Panics.Load() == 1 })
}
