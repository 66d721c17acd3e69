package jetstream_test

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"github.com/mqgate/mqgate/router/jetstream"
)

// Every node hears from every other, and one that is gone is missed.
func TestNodesTellEachOtherHowTheyAre(t *testing.T) {
	c := newCluster(t, nil)
	c.startAll()
	st := make([]*jetstream.Status, 3)
	for i, n := range c.nodes {
		var err error
		if st[i], err = n.Status(func() []byte { return fmt.Append(nil, "I am n", i+1) }); err != nil {
			t.Fatal(err)
		}
	}
	answers := func(i int) string {
		out, err := st[i].Ask(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		var text []string
		for _, b := range out {
			text = append(text, string(b))
		}
		slices.Sort(text)
		return fmt.Sprint(text)
	}
	for i := range st {
		eventually(t, func() error {
			if got := answers(i); got != "[I am n1 I am n2 I am n3]" {
				return fmt.Errorf("n%d heard %s", i+1, got)
			}
			return nil
		})
	}
	s := c.open(0)
	openLog(t, s, crashQueue)
	eventually(t, func() error {
		streams, err := st[1].Streams(context.Background())
		if err != nil {
			return err
		}
		queue := streams[len(streams)-1]
		if len(streams) < 6 || queue.Leader == "" || len(queue.Replicas) != 2 || !queue.Replicas[0].Current || !queue.Replicas[1].Current {
			return fmt.Errorf("streams %+v", streams)
		}
		return nil
	})
	s.Close()
	st[2].Close()
	c.stop(2)
	eventually(t, func() error {
		if got := answers(0); got != "[I am n1 I am n2]" {
			return fmt.Errorf("n1 heard %s", got)
		}
		return nil
	})
	st[0].Close()
	st[1].Close()
}
