package federation

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/mqgate/mqgate/router"
	"github.com/mqgate/mqgate/router/outbox"
)

const (
	// forwardWindow is how many messages of a queue travel at once.
	forwardWindow = 64
	// forwardBytes is about how many bytes do.
	forwardBytes = 4 << 20
	// forwardTimeout is how long the other site may take to store them.
	forwardTimeout = 20 * time.Second
	// forwardPause is the wait after a failure.
	forwardPause = time.Second
)

// forwarder moves a queue's messages to another site, in order.
type forwarder struct {
	bridge     *Bridge
	to         string
	deliveries chan *router.Delivery
}

func (f *forwarder) Live(*router.Message, *outbox.Batch) bool { return false }

func (f *forwarder) Stored(d *router.Delivery, _ *outbox.Batch) bool {
	f.deliveries <- d // it has room for the credit
	return true
}

// run asks the other site to store what waits, until it has, and settles it then.
func (f *forwarder) run() {
	ctx := f.bridge.life
	var batch []*router.Delivery
	tries := 0
	told := false
	for {
		if len(batch) == 0 {
			select {
			case d := <-f.deliveries:
				batch = append(batch, d)
			case <-ctx.Done():
				return
			}
		}
		for size := len(batch[0].Message.Body); len(batch) < forwardWindow && len(f.deliveries) > 0 && size < forwardBytes; {
			d := <-f.deliveries
			batch = append(batch, d)
			size += len(d.Message.Body)
		}
		left, err := f.forward(ctx, batch, tries > 0)
		batch = left
		if err == nil {
			tries, told = 0, false
			continue
		}
		tries++
		if !told {
			told = true
			f.bridge.opt.Log.Warn("messages wait for another site", "site", f.to, "error", err)
		}
		select {
		case <-time.After(forwardPause):
		case <-ctx.Done():
			return
		}
	}
}

// forward sends a batch and settles what the other site has stored; the rest is
// returned.
func (f *forwarder) forward(ctx context.Context, batch []*router.Delivery, again bool) ([]*router.Delivery, error) {
	var request []byte
	for _, d := range batch {
		one := encode(f.bridge.opt.Site, again || d.Redelivered(), d.Message)
		request = binary.AppendUvarint(request, uint64(len(one)))
		request = append(request, one...)
	}
	ctx, cancel := context.WithTimeout(ctx, forwardTimeout)
	defer cancel()
	answer, err := f.bridge.opt.Transport.Ask(ctx, f.to, request)
	if err != nil {
		return batch, err
	}
	var results []string // of each message; empty: stored
	if err := json.Unmarshal(answer, &results); err != nil || len(results) != len(batch) {
		return batch, fmt.Errorf("unreadable answer of site %s", f.to)
	}
	var left []*router.Delivery
	var w outbox.Batch
	for i, d := range batch {
		if results[i] != "" {
			left = append(left, d)
			err = errors.New(results[i])
			continue
		}
		f.bridge.Stats.Forwarded.Add(1)
		if err := d.Ack(&w, nil); err != nil {
			f.bridge.opt.Log.Debug("a message that was forwarded is not held any more", "error", err)
		}
	}
	w.Flush()
	return left, err
}

// asked stores what another site forwards, and answers when that is done.
func (b *Bridge) asked(data []byte, answer func([]byte)) {
	var parts [][]byte
	for len(data) > 0 {
		n, size := binary.Uvarint(data)
		if size <= 0 || n > uint64(len(data)-size) || len(parts) == forwardWindow {
			return // none of ours: no answer
		}
		parts = append(parts, data[size:size+int(n)])
		data = data[size+int(n):]
	}
	results := make([]string, len(parts))
	var left atomic.Int32
	left.Store(int32(len(parts)) + 1) // one is ours: it cannot end before all are begun
	ended := func() {
		if left.Add(-1) == 0 {
			b.answer(results, answer)
		}
	}
	var w outbox.Batch
	for i, p := range parts {
		m, r, err := b.decode(p)
		if err == nil && m.To.Kind() != router.KindQueue {
			err = errUnreadable
		}
		if err == nil && matches(r.Queues, m.To) {
			err = fmt.Errorf("this site forwards the queue %s to site %s: it would go round", m.To, r.Site)
		}
		if err != nil {
			results[i] = err.Error()
			b.Stats.Refused.Add(1)
			ended()
			continue
		}
		stored := func(_ router.Stored, err error, _ *outbox.Batch) {
			if err != nil {
				results[i] = err.Error()
			}
			ended()
		}
		pending, err := b.publish(m, &w, stored)
		if err != nil {
			results[i] = err.Error()
		}
		if !pending {
			ended()
		}
	}
	w.Flush()
	ended()
}

// answer tells another site what became of each message that it forwarded: nothing if it is stored.
func (b *Bridge) answer(results []string, answer func([]byte)) {
	for _, r := range results {
		if r == "" {
			b.Stats.Stored.Add(1)
		}
	}
	if text, err := json.Marshal(results); err == nil {
		answer(text)
	}
}
