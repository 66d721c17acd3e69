package router

import "sync"

// Offer is the retained messages that a new subscription is still to be sent, for
// front-ends whose buffers need not have room for all of them. It is opened before
// the deliveries start and filled afterwards, so nothing is missed in between; a newer
// value of a topic that comes meanwhile takes the older one's place, which would come
// behind it otherwise.
type Offer struct {
	mu    sync.Mutex
	newer map[Address]*Message // nil: it was delivered
	ended bool
}

// NewOffer opens an offer.
func NewOffer() *Offer { return &Offer{newer: map[Address]*Message{}} }

// Superseded notes that m was delivered, or is about to be.
func (o *Offer) Superseded(m *Message) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.newer[m.To] = nil
}

// Live has put deliver a retained message that is published meanwhile. One that put
// has no room for waits in the offer, since it is in memory anyway; false means that
// the offer has ended.
func (o *Offer) Live(m *Message, put func() bool) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case put():
		o.newer[m.To] = nil
	case o.ended:
		return false
	default:
		o.newer[m.To] = m
	}
	return true
}

// Send has put deliver the retained messages that match, and what came meanwhile. Put
// returns false if it has no room; room is asked before each try and returns what
// waits for more, which returns false if nobody is left to wait for. So does Send then.
func (o *Offer) Send(ms []*Message, put func(*Message) bool, room func() (wait func() bool)) bool {
	for ; len(ms) > 0; ms = o.rest() {
		for _, m := range ms {
			for wait := room(); !o.give(m, put); wait = room() {
				if !wait() {
					return false
				}
			}
		}
	}
	return true
}

// give delivers one message, or the newer one that came meanwhile.
func (o *Offer) give(m *Message, put func(*Message) bool) bool {
	o.mu.Lock() // until the bytes are in the outbox: what is delivered later comes behind them
	defer o.mu.Unlock()
	if newer, known := o.newer[m.To]; known {
		m = newer
	}
	if m == nil {
		return true
	}
	if !put(m) {
		return false
	}
	o.newer[m.To] = nil
	return true
}

// rest gives the newer values that wait to be sent. Without any the offer has ended.
func (o *Offer) rest() (ms []*Message) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, m := range o.newer {
		if m != nil {
			ms = append(ms, m)
		}
	}
	o.ended = len(ms) == 0
	return ms
}
