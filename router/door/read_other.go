//go:build !linux

package door

import (
	"io"
	"net"
)

// Reader returns how a connection's one reader reads.
func Reader(conn net.Conn) io.Reader { return conn }
