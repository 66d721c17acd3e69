package integration

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/mqgate/mqgate/integration/harness"
)

// TestTransactionsAtTheirLimits: transactions of as many messages, and of as many bytes,
// as the README says are committed, to one queue and to several, and are there after a
// crash. One message more is an ERROR, and nothing of it is there.
func TestTransactionsAtTheirLimits(t *testing.T) {
	const messages, bytesInAll = 1000, 16 << 20
	b := harness.Start(t)
	w := harness.MustLogin(t, b.Addr())
	begin := func(n, size int, queues ...string) {
		t.Helper()
		w.Must(t, "BEGIN", nil, "transaction:t")
		body := bytes.Repeat([]byte("x"), size)
		for i := range n {
			w.Must(t, "SEND", body, "transaction:t", "destination:/queue/"+queues[i%len(queues)])
		}
	}
	refused := func(want string) {
		t.Helper()
		if f := w.Expect(t, "ERROR"); !strings.Contains(f.Headers["message"], want) {
			t.Errorf("beyond the limit came %s", f)
		}
		w.Must(t, "COMMIT", nil, "transaction:t")
		if f := w.Expect(t, "ERROR"); !strings.Contains(f.Headers["message"], "rolled back") {
			t.Errorf("COMMIT of it was answered by %s", f)
		}
	}
	want := map[string]int{}
	for _, queues := range [][]string{{"one"}, {"two.1", "two.2"}} {
		begin(messages, 10, queues...)
		w.MustConfirm(t, "COMMIT", nil, "transaction:t")
		begin(messages+1, 10, queues...)
		refused("more than 1000 messages")
		const large = 15
		begin(large, bytesInAll/(large+1), queues...)
		w.MustConfirm(t, "COMMIT", nil, "transaction:t")
		begin(large+1, bytesInAll/(large+1), queues...) // a message counts a little more than its body
		refused("more than 16777216 bytes")
		for i := range messages + large {
			if i < messages {
				want[queues[i%len(queues)]]++
			} else {
				want[queues[(i-messages)%len(queues)]]++
			}
		}
	}
	b.Kill()
	b.Start()
	for queue, n := range want {
		if d := b.Depths(queue); d.Depth != n {
			t.Errorf("after the crash queue %s has %+v, want %d", queue, d, n)
		}
	}
	if all := b.AllDepths(); len(all) != len(want) {
		t.Errorf("there are other queues: %s", fmt.Sprint(all))
	}
}
