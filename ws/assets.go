package ws

import (
	"embed"
	"net/http"
)

//go:embed client/mqgate.js client/mqgate.d.ts CLIENT.md PROTOCOL.md HTTP.md protocol.schema.json
var assets embed.FS

// clientHandler serves the JavaScript client, its types, and the protocol.
func clientHandler() http.Handler {
	types := map[string]string{
		"client/mqgate.js": "text/javascript; charset=utf-8", "client/mqgate.d.ts": "text/plain; charset=utf-8",
		"client/CLIENT.md": "text/plain; charset=utf-8", "client/PROTOCOL.md": "text/plain; charset=utf-8", "client/HTTP.md": "text/plain; charset=utf-8",
		"client/protocol.schema.json": "application/schema+json",
	}
	files := map[string]string{"client/CLIENT.md": "CLIENT.md", "client/PROTOCOL.md": "PROTOCOL.md", "client/HTTP.md": "HTTP.md", "client/protocol.schema.json": "protocol.schema.json"}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		path := r.URL.Path[min(1, len(r.URL.Path)):]
		kind, known := types[path]
		if !known {
			http.NotFound(w, r)
			return
		}
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			http.Error(w, "Use GET.", http.StatusMethodNotAllowed)
			return
		}
		if f := files[path]; f != "" {
			path = f
		}
		b, err := assets.ReadFile(path)
		if err != nil {
			http.NotFound(w, r)
			return
		}
		h := w.Header()
		h.Set("Content-Type", kind)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Cache-Control", "max-age=300")
		h.Set("Access-Control-Allow-Origin", "*") // a public file; connections are allowed by origin
		_, _ = w.Write(b)                         // an error is the client's leaving
	})
}
