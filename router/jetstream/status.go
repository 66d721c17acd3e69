package jetstream

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// statusSubject is where nodes ask each other how they are; what else they ask is a level more.
const statusSubject = "mqgate.status"

// Status is a node's conversation with the others about how they are.
type Status struct {
	node *Node
	conn *nats.Conn
	js   jetstream.JetStream
}

// Status has the node answer others with what self returns, until Close.
func (n *Node) Status(self func() []byte) (*Status, error) {
	conn, err := n.dial("status")
	if err != nil {
		return nil, err
	}
	s := &Status{node: n, conn: conn}
	if s.js, err = jetstream.New(conn); err == nil {
		_, err = conn.Subscribe(statusSubject, func(m *nats.Msg) { _ = m.Respond(self()) }) // a closed connection answers nobody
	}
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("answer other nodes: %w", err)
	}
	return s, nil
}

// Close ends the conversation.
func (s *Status) Close() { s.conn.Close() }

// Also has the node answer another question, until Close.
func (s *Status) Also(question string, answer func() []byte) error {
	if _, err := s.conn.Subscribe(statusSubject+"."+question, func(m *nats.Msg) { _ = m.Respond(answer()) }); err != nil {
		return fmt.Errorf("answer other nodes: %w", err)
	}
	return nil
}

const (
	// answerTime is how long the slowest node's answer is waited for.
	answerTime = time.Second
	// answerGap is how long another one is waited for where nobody knows how many there are.
	answerGap = 300 * time.Millisecond
)

// Ask returns how all nodes are that can be reached, this one too.
func (s *Status) Ask(ctx context.Context) ([][]byte, error) { return s.ask(ctx, statusSubject) }

// AskAlso returns their answers to another question.
func (s *Status) AskAlso(ctx context.Context, question string) ([][]byte, error) {
	return s.ask(ctx, statusSubject+"."+question)
}

func (s *Status) ask(ctx context.Context, subject string) ([][]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	inbox, err := s.conn.SubscribeSync(nats.NewInbox())
	if err != nil {
		return nil, fmt.Errorf("ask other nodes: %w", err)
	}
	defer inbox.Unsubscribe()
	if err := s.conn.PublishRequest(subject, inbox.Subject, nil); err != nil {
		return nil, fmt.Errorf("ask other nodes: %w", err)
	}
	var out [][]byte
	for want := 1 + len(s.node.Connected()); s.node.External() || len(out) < want; {
		wait := answerTime
		if s.node.External() && len(out) > 0 {
			wait = answerGap
		}
		m, err := nextMessage(ctx, inbox, wait)
		if err != nil {
			break // who has not answered is not there
		}
		if len(m.Data) > 0 { // else: nobody listens
			out = append(out, m.Data)
		}
	}
	return out, nil
}

func nextMessage(ctx context.Context, from *nats.Subscription, wait time.Duration) (*nats.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	return from.NextMsgWithContext(ctx)
}

// Connected names the nodes that this one has routes to.
func (n *Node) Connected() []string {
	if n.External() {
		return nil
	}
	routes, err := n.server.Routez(nil)
	if err != nil {
		return nil
	}
	var names []string
	for _, r := range routes.Routes {
		if !slices.Contains(names, r.RemoteName) {
			names = append(names, r.RemoteName)
		}
	}
	slices.Sort(names)
	return names
}

// Replica is a copy of a stream on a node that does not lead it.
type Replica struct {
	Node             string
	Current, Offline bool
	Lag              uint64
}

// StreamStatus is how a stream is replicated.
type StreamStatus struct {
	Name     string
	Leader   string
	Replicas []Replica
	// Missing is how many replicas there are less than there should be.
	Missing int
}

// Streams returns how all streams that are replicated are; it fails while no majority of
// the nodes is there.
func (s *Status) Streams(ctx context.Context) ([]StreamStatus, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	list := s.js.ListStreams(ctx)
	var out []StreamStatus
	for info := range list.Info() {
		if info.Cluster == nil {
			continue // of an external NATS that is one server
		}
		st := StreamStatus{Name: info.Config.Name, Leader: nodeName(info.Cluster.Leader), Missing: max(s.node.replicas()-info.Config.Replicas, 0)}
		for _, r := range info.Cluster.Replicas {
			st.Replicas = append(st.Replicas, Replica{Node: nodeName(r.Name), Current: r.Current, Offline: r.Offline, Lag: r.Lag})
		}
		out = append(out, st)
	}
	if err := list.Err(); err != nil && !errors.Is(err, jetstream.ErrEndOfData) {
		return nil, fmt.Errorf("list the streams: %w", err)
	}
	slices.SortFunc(out, func(a, b StreamStatus) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

// nameless is what the server says instead of the name of a node that it has not met since it started.
var nameless = regexp.MustCompile(`^Server name unknown at this time \(peerID: (\w+)\)$`)

// nodeName returns the name of a node, or for one that has not been met something that looks like none.
func nodeName(name string) string { return nameless.ReplaceAllString(name, "(unknown,$1)") }
