package cluster

import (
	"context"
	"fmt"
	"net"
	"slices"

	"github.com/mqgate/mqgate/integration/harness"
)

func errorf(format string, args ...any) error { return fmt.Errorf(format, args...) }

func (l *load) stomp(headers ...string) (*harness.Wire, error) {
	return harness.Login(l.c.STOMP(), append([]string{"login:" + harness.ClusterUser, "passcode:" + harness.ClusterPassword}, headers...)...)
}

// stompSender sends numbered messages, and after a reconnect those again that were
// not confirmed, each with the x-dedup-id that it had.
type stompSender struct {
	load        *load
	ledger      *ledger
	name        string
	destination string
	w           *harness.Wire
	next        int
	open        []string
}

func (s *stompSender) connect() (net.Conn, error) {
	w, err := s.load.stomp()
	if err != nil {
		return nil, err
	}
	s.w = w
	return w.Socket, nil
}

func (s *stompSender) work(ctx context.Context) error {
	for _, id := range s.open {
		if err := s.send(id); err != nil {
			return err
		}
	}
	for {
		for len(s.open) < window && ctx.Err() == nil {
			id := makeID(s.name, s.next)
			s.next++
			s.ledger.sent()
			s.open = append(s.open, id)
			if err := s.send(id); err != nil {
				return err
			}
		}
		f, err := s.w.Read(patience)
		if err != nil {
			return err
		}
		if f.Command != "RECEIPT" {
			s.ledger.refuse(f.Headers["message"], s.open...)
			return errorf("%s", f)
		}
		id := f.Headers["receipt-id"]
		s.ledger.confirm(id)
		if at := slices.Index(s.open, id); at >= 0 {
			s.open = slices.Delete(s.open, at, at+1)
		}
		s.load.await(ctx)
	}
}

func (s *stompSender) send(id string) error {
	return s.w.Write("SEND", []byte(id), "destination:"+s.destination, "receipt:"+id, "x-dedup-id:"+id, "persistent:true")
}

// stompReceiver takes messages and acknowledges each.
type stompReceiver struct {
	once
	load        *load
	ledger      *ledger
	destination string
	clientID    string // of a durable subscription
	name        string
	w           *harness.Wire
}

func (r *stompReceiver) connect() (net.Conn, error) {
	var headers []string
	if r.clientID != "" {
		headers = append(headers, "client-id:"+r.clientID)
	}
	w, err := r.load.stomp(headers...)
	if err != nil {
		return nil, err
	}
	r.w = w
	return w.Socket, nil
}

func (r *stompReceiver) work(context.Context) error {
	headers := []string{"id:1", "destination:" + r.destination, "ack:client-individual", "activemq.prefetchSize:20", "receipt:subscribed"}
	if r.name != "" {
		headers = append(headers, "activemq.subscriptionName:"+r.name)
	}
	if err := r.w.Write("SUBSCRIBE", nil, headers...); err != nil {
		return err
	}
	for {
		f, err := r.w.Read(patience)
		if err != nil {
			return err
		}
		switch f.Command {
		case "RECEIPT":
			r.happened()
		case "MESSAGE":
			r.ledger.got(string(f.Body), f.Headers["redelivered"] == "true")
			if err := r.w.Write("ACK", nil, "id:"+f.Headers["ack"]); err != nil {
				return err
			}
		default:
			r.ledger.refuse(f.Headers["message"])
			return errorf("%s", f)
		}
	}
}
