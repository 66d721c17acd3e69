package harness

import (
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
)

// Ports that stay the same over restarts come from below the system's range, which outgoing connections use. A test process takes
// them a block at a time, and a block is its own while it listens on the first port of it: tests run beside each other.
const (
	lowestPort = 20000
	blockPorts = 100
	blocks     = 120
)

var addresses struct {
	mu     sync.Mutex
	claims []net.Listener // on the first port of each block; held until the process ends
	next   int
	end    int // of the last block
}

// FreeAddress returns an address on which nothing listens and that no test was given before: for a listener that is started again.
func FreeAddress(t testing.TB) string {
	t.Helper()
	a := &addresses
	a.mu.Lock()
	defer a.mu.Unlock()
	for range 20 * blocks {
		if a.next == a.end {
			first := lowestPort + rand.IntN(blocks)*blockPorts
			l, err := net.Listen("tcp", address(first))
			if err != nil {
				continue
			}
			a.claims = append(a.claims, l)
			a.next, a.end = first+1, first+blockPorts
		}
		a.next++
		if l, err := net.Listen("tcp", address(a.next-1)); err == nil {
			l.Close()
			return address(a.next - 1)
		}
	}
	t.Fatal("no port is free")
	return ""
}

func address(port int) string { return fmt.Sprintf("127.0.0.1:%d", port) }
