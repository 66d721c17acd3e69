package jetstream

import (
	"context"
	"testing"
	"time"

	"github.com/mqgate/mqgate/router"
	"github.com/mqgate/mqgate/router/outbox"
)

// TestAnEndThatFailsIsRepeated: a transaction whose end the server could not take is ended once it can. One that is gone is not
// asked for again.
func TestAnEndThatFailsIsRepeated(t *testing.T) {
	ctx := context.Background()
	s := openInternal(t, nil)
	defer s.Close()
	begin := func() {
		answer := make(chan error, 1)
		s.transactions.publish("t", nil, []byte("x"), func(_ router.Stored, err error, _ *outbox.Batch) { answer <- err })
		if err := <-answer; err != nil {
			t.Fatal(err)
		}
	}
	st, err := s.js.Stream(ctx, transactionsStream)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.js.DeleteStream(ctx, transactionsStream); err != nil {
		t.Fatal(err)
	}
	heard := make(chan error, 1)
	if err := s.pub.publish("$JS.API.STREAM.MSG.DELETE."+transactionsStream, nil, []byte(`{"seq":1}`), func(_ router.Stored, err error, _ *outbox.Batch) { heard <- err }); err != nil {
		t.Fatal(err)
	}
	s.EndTransaction(1)
	if err := <-heard; err == nil { // so is what is asked for behind it, on the same connection
		t.Fatal("a message of a stream that is not there was deleted")
	}
	if _, err := s.js.CreateStream(ctx, st.CachedInfo().Config); err != nil {
		t.Fatal(err)
	}
	begin()
	begin()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(2 * time.Millisecond) {
		txs, err := s.Transactions(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if len(txs) == 1 && txs[0].Seq == 2 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("transactions %+v", txs)
		}
	}
	again := make(chan error, 1)
	if err := s.pub.publish("$JS.API.STREAM.MSG.DELETE."+transactionsStream, nil, []byte(`{"seq":1,"no_erase":true}`), func(_ router.Stored, err error, _ *outbox.Batch) { again <- err }); err != nil {
		t.Fatal(err)
	}
	if err := <-again; err == nil || mayEndLater(err) {
		t.Errorf("the end of one that is gone: %v, and is repeated", err)
	}
	if err := unavailable(errNoAnswer); !mayEndLater(err) {
		t.Errorf("%v is not repeated", err)
	}
}
