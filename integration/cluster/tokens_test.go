package cluster

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/mqgate/mqgate/integration/harness"
)

const tokenSecret = "the secret of an application and its gateways"

// visitorsMayCome are settings by which tokens let in who is no user, with the rights of the one user.
func visitorsMayCome(t *testing.T) []string {
	t.Helper()
	file := filepath.Join(harness.TempDir(t), "tokens")
	if err := os.WriteFile(file, []byte(tokenSecret), 0o600); err != nil {
		t.Fatal(err)
	}
	return []string{"tokens.secret_file=" + file, "tokens.as=" + harness.ClusterUser}
}

// tokenOf signs a token about someone, as an application does.
func tokenOf(sub string) string {
	e := base64.RawURLEncoding.EncodeToString
	token := e([]byte(`{"alg":"HS256"}`)) + "." + e(fmt.Appendf(nil, `{"sub":%q,"exp":%d}`, sub, time.Now().Add(time.Hour).Unix()))
	mac := hmac.New(sha256.New, []byte(tokenSecret))
	mac.Write([]byte(token))
	return token + "." + e(mac.Sum(nil))
}

// visitorCrosses: what a visitor stores on x, who is no user but has a token, another takes on y; and the chat's room is told to both.
func visitorCrosses(t *testing.T, p place) {
	ann := pageOf(t, p.x, map[string]any{"token": tokenOf("ann@example.org")})
	bob := pageOf(t, p.y, map[string]any{"token": tokenOf("bob@example.org")})
	queue, room := p.queue("visited"), "/topic/chat/rooms/"+p.name
	for _, subscribe := range []map[string]any{{"to": queue}, {"to": room, "history": map[string]any{"last": 10}}} {
		to := subscribe["to"]
		ann.must(t, map[string]any{"op": "publish", "to": to, "body": "hello"})
		subscribe["op"], subscribe["sub"] = "subscribe", to
		bob.must(t, subscribe)
		if m, err := bob.read(); err != nil || m.Event != "message" || m.Body != "hello" {
			t.Fatalf("%s: %+v, %v", to, m, err)
		}
	}
}
