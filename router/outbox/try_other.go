//go:build !unix

package outbox

// Try returns how to write to a connection without waiting, or nil if it does
// not know how itself.
func Try(conn io.Writer) TryWriter {
	t, _ := conn.(TryWriter)
	return t
}
