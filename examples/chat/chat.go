// Package chat is an example: a chat of a few static files on mqgate's JavaScript
// client. Handler serves it; it needs the handler of package ws on the same host.
//
// It never lets a user's text become HTML: the page writes text nodes only, and
// its content security policy forbids everything that is not a file of its own,
// and has the browser refuse whatever would parse a string as HTML.
package chat

import (
	"embed"
	"io/fs"
	"net/http"
)

//go:embed page
var files embed.FS

const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"

// Handler serves the chat below a path prefix such as "/chat/".
func Handler(prefix string) http.Handler {
	page, err := fs.Sub(files, "page")
	if err != nil {
		panic(err) // the directory is embedded
	}
	static := http.StripPrefix(prefix, http.FileServerFS(page))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", policy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cache-Control", "no-cache")
		static.ServeHTTP(w, r)
	})
}
