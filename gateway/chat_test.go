package gateway

import (
	"io"
	"mime"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/mqgate/mqgate/config"
)

// A run without a configuration has the chat on 127.0.0.1:8080, with everything that
// its page asks for and rooms that have a history.
func TestTheDefaultRunServesTheChat(t *testing.T) {
	if listen := config.Default().HTTP.Listen; listen != "127.0.0.1:8080" {
		t.Errorf("http.listen is %q", listen)
	}
	g := open(t, load(t, "stomp.listen=", "mqtt.listen=")) // browsers alone are enough
	run(t, g)
	at := "http://" + g.Addr("http").String()
	fetch := func(path string) (string, string) {
		t.Helper()
		resp, err := http.Get(at + path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("%s: %s, %v", path, resp.Status, err)
		}
		kind, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
		return string(b), kind
	}
	defer http.DefaultClient.CloseIdleConnections()

	page, kind := fetch("/chat/")
	if whole, _ := fetch("/"); whole != page {
		t.Errorf("/ does not lead to the chat but to %.100q", whole)
	}
	if kind != "text/html" || !strings.Contains(page, "Join the chat") {
		t.Errorf("/chat/ is %s: %.100q", kind, page)
	}
	kinds := map[string]string{"js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}
	seen := map[string]bool{}
	refers := regexp.MustCompile(`(?:src="|href="|from '\./|url\(|from ')(/?[a-z][a-z./]*\.(js|css|svg))`)
	for todo := refers.FindAllStringSubmatch(page, -1); len(todo) > 0; todo = todo[1:] {
		path, suffix := todo[0][1], todo[0][2]
		if !strings.HasPrefix(path, "/") {
			path = "/chat/" + path
		}
		if seen[path] {
			continue
		}
		seen[path] = true
		text, kind := fetch(path)
		if kind != kinds[suffix] {
			t.Errorf("%s is %s", path, kind)
		}
		todo = append(todo, refers.FindAllStringSubmatch(text, -1)...)
	}
	if len(seen) < 8 || !seen["/client/mqgate.js"] || !seen["/chat/payload.js"] {
		t.Errorf("the page refers to %v only", seen)
	}

	c := onWeb(t, g, "/ws", "", nil)
	say(t, c, helloJSON)
	hearOn(t, c, `"ok":true`)
	for _, kind := range []string{"rooms", "moderation", "system"} {
		say(t, c, `{"id":2,"op":"subscribe","sub":"`+kind+`","to":"/topic/chat/`+kind+`/any","history":{"last":200}}`)
		hearOn(t, c, `"reply":2,"ok":true,"epoch"`)
	}
}
