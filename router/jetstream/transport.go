package jetstream

import (
	"fmt"

	"github.com/nats-io/nats.go"

	"github.com/mqgate/mqgate/router"
)

// linkPrefix begins the subjects of what edges and leaders say to each other.
const linkPrefix = "mqgate.link."

// Transport carries the links between the nodes' routers over core NATS. What
// the server drops since a node is slow is noticed there by its number.
type Transport struct{ conn *nats.Conn }

var _ router.Transport = (*Transport)(nil)

// Transport returns a transport on a connection of its own.
func (n *Node) Transport() (*Transport, error) {
	conn, err := n.dial("link")
	if err != nil {
		return nil, err
	}
	return &Transport{conn: conn}, nil
}

// Send publishes bytes for an address, which is letters, digits and dots.
func (t *Transport) Send(to string, b []byte) error {
	if err := t.conn.Publish(linkPrefix+to, b); err != nil {
		return fmt.Errorf("send over NATS: %w", err)
	}
	return nil
}

// Listen subscribes to an address. The server knows of it when Listen returns;
// other nodes' servers a moment later.
func (t *Transport) Listen(address string, receive func([]byte)) (func(), error) {
	sub, err := t.conn.Subscribe(linkPrefix+address, func(m *nats.Msg) { receive(m.Data) })
	if err == nil {
		err = sub.SetPendingLimits(-1, -1) // the links bound what is under way
	}
	if err == nil {
		err = t.conn.FlushTimeout(requestTimeout)
	}
	if err != nil {
		return nil, fmt.Errorf("listen over NATS: %w", err)
	}
	return func() { _ = sub.Unsubscribe() }, nil // an error says that the connection is closed
}

// Close ends the connection.
func (t *Transport) Close() { t.conn.Close() }
