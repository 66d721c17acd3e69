package stomp

import (
	"github.com/mqgate/mqgate/router"
	"github.com/mqgate/mqgate/router/outbox"
	"github.com/mqgate/mqgate/stomp/frame"
)

// transaction is what a client sends and settles between BEGIN and COMMIT. Until then nothing of it has happened: messages
// wait here, and deliveries stay in the client's hands, claimed by it.
type transaction struct {
	id       string
	messages []*router.Message
	bytes    int
	failure  *refusal // why COMMIT will be refused
	accepts  []*held  // claims, under the connection's mu
	returns  []nack
}

// nack is a NACK that is carried out after the commit.
type nack struct {
	held    *held
	verdict verdict
}

// begin opens a transaction.
func (c *conn) begin(f *frame.Frame) error {
	id, found := f.Get("transaction")
	switch {
	case !found || len(id) == 0:
		return mistake("Add a transaction header with an id that is unique on the connection.", "BEGIN has no transaction header")
	case c.txs[string(id)] != nil:
		return mistake("COMMIT or ABORT it first, or choose another id.", "transaction %.64q has begun already", id)
	case len(c.txs) >= maxTransactions:
		return mistake("COMMIT or ABORT some of them.", "the connection has %d open transactions, which is the limit", len(c.txs))
	}
	if c.txs == nil {
		c.txs = map[string]*transaction{}
	}
	c.txs[string(id)] = &transaction{id: string(id)}
	c.confirm(f)
	return nil
}

// transactionOf gives the transaction that a frame names, nil if it names none.
func (c *conn) transactionOf(f *frame.Frame) (*transaction, error) {
	id, found := f.Get("transaction")
	if !found || len(id) == 0 {
		return nil, nil
	}
	tx := c.txs[string(id)]
	if tx == nil {
		return nil, mistake("Send BEGIN with this transaction id first.", "transaction %.64q has not begun", id)
	}
	return tx, nil
}

// sendLater keeps messages for the commit. Beyond the limits the whole transaction fails: half of it would be worse.
func (c *conn) sendLater(f *frame.Frame, tx *transaction, ms []*router.Message) error {
	if err := c.whyFailed(tx); err != nil {
		return err
	}
	size := 0
	for _, m := range ms {
		size += m.Size()
	}
	o := &c.server.opt
	var over *refusal
	switch {
	case c.buffered.messages+len(ms) > o.MaxTransactionMessages:
		over = mistake("Commit more often; the operator can set limits.transaction_messages to 1000 at most. This transaction is rolled back.",
			"transaction %.64q: more than %d messages are in open transactions", tx.id, o.MaxTransactionMessages)
	case c.buffered.bytes+size > o.MaxTransactionBytes:
		over = mistake("Commit more often; the operator can raise limits.transaction_bytes. This transaction is rolled back.",
			"transaction %.64q: more than %d bytes are in open transactions", tx.id, o.MaxTransactionBytes)
	}
	if over != nil {
		c.mu.Lock()
		tx.fail(over)
		c.mu.Unlock()
		c.unbuffer(tx)
		return over
	}
	tx.messages = append(tx.messages, ms...)
	tx.bytes += size
	c.buffered.messages += len(ms)
	c.buffered.bytes += size
	c.confirm(f)
	return nil
}

func (c *conn) whyFailed(tx *transaction) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if tx.failure == nil {
		return nil
	}
	return mistake("Send ABORT, and begin again.", "transaction %.64q is rolled back: %s", tx.id, tx.failure.message)
}

// unbuffer drops the messages of a transaction.
func (c *conn) unbuffer(tx *transaction) {
	c.buffered.messages -= len(tx.messages)
	c.buffered.bytes -= tx.bytes
	tx.messages, tx.bytes = nil, 0
}

// claim has deliveries wait for the commit; with the connection's mu held.
func (tx *transaction) claim(hs []*held, v verdict) {
	for _, h := range hs {
		h.tx = tx
		if v.fate == accepted {
			tx.accepts = append(tx.accepts, h)
		} else {
			tx.returns = append(tx.returns, nack{h, v})
		}
	}
}

// release gives the claims back to the client, who may settle them again; with the connection's mu held.
func (tx *transaction) release() {
	for _, h := range tx.accepts {
		h.tx = nil
	}
	for _, n := range tx.returns {
		n.held.tx = nil
	}
	tx.accepts, tx.returns = nil, nil
}

// fail has the commit refused; with the connection's mu held.
func (tx *transaction) fail(why *refusal) {
	tx.failure = why
	tx.release()
}

// named gives the transaction that COMMIT or ABORT must name.
func (c *conn) named(f *frame.Frame) (*transaction, error) {
	tx, err := c.transactionOf(f)
	if err == nil && tx == nil {
		err = mistake("Add the transaction header of BEGIN.", "%s has no transaction header", f.Command)
	}
	return tx, err
}

// commit does all of a transaction or nothing. What follows on the connection waits for it.
func (c *conn) commit(f *frame.Frame) error {
	tx, err := c.named(f)
	if err != nil {
		return err
	}
	err = c.whyFailed(tx)
	if err == nil {
		err = c.commitNow(tx.messages, tx.deliveries())
	}
	c.unbuffer(tx)
	delete(c.txs, tx.id)
	if err != nil {
		c.mu.Lock()
		tx.release()
		c.mu.Unlock()
		return err
	}
	c.settled(tx)
	c.confirm(f)
	return nil
}

func (tx *transaction) deliveries() []*router.Delivery {
	out := make([]*router.Delivery, len(tx.accepts))
	for i, h := range tx.accepts {
		out[i] = h.delivery
	}
	return out
}

// settled takes what a transaction settled from the client's hands, and carries out its NACKs.
func (c *conn) settled(tx *transaction) {
	c.mu.Lock()
	returned := make([]*router.Delivery, len(tx.returns))
	for i, n := range tx.returns {
		returned[i] = n.held.delivery
		c.forget(n.held)
	}
	for _, h := range tx.accepts {
		c.forget(h)
	}
	c.mu.Unlock()
	for i, n := range tx.returns {
		_ = c.tell(n.verdict, returned[i], false, nil) // an error means that it went back before
	}
	tx.accepts, tx.returns = nil, nil
}

// abort forgets a transaction. The messages that were acknowledged in it stay the client's, who may settle them again, as
// in ActiveMQ.
func (c *conn) abort(f *frame.Frame) error {
	tx, err := c.named(f)
	if err != nil {
		return err
	}
	c.mu.Lock()
	tx.release()
	c.mu.Unlock()
	c.unbuffer(tx)
	delete(c.txs, tx.id)
	c.confirm(f)
	return nil
}

// commitNow publishes and settles as one, and waits for the store.
func (c *conn) commitNow(ms []*router.Message, settle []*router.Delivery) error {
	var over bool
	var failed error
	done := func(_ router.Stored, err error, _ *outbox.Batch) {
		c.mu.Lock()
		defer c.mu.Unlock()
		over, failed = true, err
		c.changed.Broadcast()
	}
	if err := c.session.Commit(c.life, ms, settle, &c.batch, done); err != nil {
		return err
	}
	if !c.await(func() bool { return over }) {
		return errLeft // nobody is left to hear how it ended
	}
	return failed
}
