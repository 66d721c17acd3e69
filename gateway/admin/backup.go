package admin

import (
	"io"
	"net/http"
)

// countingWriter tells whether an answer has begun.
type countingWriter struct {
	io.Writer
	n int64
}

func (w *countingWriter) Write(p []byte) (int, error) {
	n, err := w.Writer.Write(p)
	w.n += int64(n)
	return n, err
}

// backup streams a backup. One that fails on its way is cut off: it lacks its
// manifest, and who reads it notices.
func (h *handler) backup(w http.ResponseWriter, r *http.Request) {
	p, err := h.principal(r)
	if err != nil {
		h.refuse(w, err)
		return
	}
	h.Log.Info("admin", "verb", "backup", "user", p.Name())
	w.Header().Set("Content-Type", "application/x-tar")
	out := &countingWriter{Writer: w}
	if err = h.Backup(r.Context(), out); err == nil {
		return
	}
	h.Log.Error("the backup failed", "error", err)
	if out.n > 0 {
		panic(http.ErrAbortHandler)
	}
	writeError(w, err)
}
