package jetstream

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// ExternalOptions name a NATS that stores instead of the embedded server. The
// account must be the gateways' own: they use subjects without a common prefix.
// Several gateways may use it; one leads, as in a cluster.
type ExternalOptions struct {
	// URL of one server or several, with commas between.
	URL string
	// CredentialsFile is as nsc makes it; empty: none.
	CredentialsFile string
	TLS             *tls.Config
	// Replicas of each stream; 0: 3 if the servers are a cluster, else 1.
	Replicas int
}

const (
	// The oldest version with atomic batches, and its API level.
	oldestMajor, oldestMinor, oldestLevel = 2, 12, 2
	externalTimeout                       = 10 * time.Second
	// meetingTime is how long servers that have just started are given to know of each other.
	meetingTime = 5 * time.Second
	// headerRoom is what a message's headers may take of the largest payload.
	headerRoom = 4 << 10
)

// External reports whether a NATS outside of this process stores.
func (n *Node) External() bool { return n.opt.External != nil }

// shared reports whether other nodes use the same store, so that one must lead
// and the connection to the store may be lost.
func (n *Node) shared() bool { return n.Clustered() || n.External() }

// mayLead reports whether the node may open the store at all.
func (n *Node) mayLead() bool { return n.External() || n.keepsReplicas() }

// reachExternal checks that the servers can do what is needed.
func (n *Node) reachExternal() error {
	c, err := n.dial("check")
	if err != nil {
		return err
	}
	n.api = c
	if err := checkVersion(c.ConnectedServerVersion()); err != nil {
		return err
	}
	if err := checkJetStream(c); err != nil {
		return err
	}
	if n.opt.External.Replicas == 0 {
		o := *n.opt.External
		o.Replicas = 1
		if c.ConnectedClusterName() != "" {
			o.Replicas = defaultReplicas
		}
		n.opt.External = &o
	}
	if err := n.checkReplicas(c); err != nil {
		return err
	}
	if most := int(c.MaxPayload()) - headerRoom; most < n.opt.MaxMessageBytes {
		n.opt.MaxMessageBytes = most
		n.log.Info("NATS takes smaller messages than the gateway would", "max_message_bytes", most, "hint", "raise max_payload of NATS")
	}
	return nil
}

// checkVersion refuses a server that is too old.
func checkVersion(v string) error {
	major, rest, _ := strings.Cut(v, ".")
	minor, _, _ := strings.Cut(rest, ".")
	a, errA := strconv.Atoi(major)
	b, errB := strconv.Atoi(minor)
	if errA != nil || errB != nil {
		return fmt.Errorf("the NATS server calls its version %q, which cannot be read", v)
	}
	if a < oldestMajor || a == oldestMajor && b < oldestMinor {
		return fmt.Errorf("the NATS server is version %s and lacks atomic batches, which transactions need (2.12), and reading in batches (2.11); use %d.%d or later",
			v, oldestMajor, oldestMinor)
	}
	return nil
}

// checkJetStream asks for the account's JetStream and what it can do.
func checkJetStream(c *nats.Conn) error {
	m, err := c.Request("$JS.API.INFO", nil, externalTimeout)
	if errors.Is(err, nats.ErrNoResponders) {
		return errors.New("the NATS server has no JetStream: start it with jetstream { store_dir: … }")
	}
	if err != nil {
		return fmt.Errorf("ask NATS for its JetStream: %w", err)
	}
	var a struct {
		API struct {
			Level int `json:"level"`
		} `json:"api"`
		Error *apiError `json:"error"`
	}
	if err := json.Unmarshal(m.Data, &a); err != nil {
		return fmt.Errorf("ask NATS for its JetStream: unreadable answer: %w", err)
	}
	if a.Error != nil {
		return fmt.Errorf("the account has no JetStream in NATS, or may not use it: %w", a.Error)
	}
	if a.API.Level < oldestLevel {
		return fmt.Errorf("JetStream of NATS has API level %d, and level %d is needed: every server of its cluster must be %d.%d or later",
			a.API.Level, oldestLevel, oldestMajor, oldestMinor)
	}
	return nil
}

// checkReplicas makes the first stream, unless it is there: NATS refuses more replicas than it has servers for, and no gateway could
// ever lead.
func (n *Node) checkReplicas(c *nats.Conn) error {
	js, err := jetstream.New(c)
	if err != nil {
		return fmt.Errorf("use JetStream: %w", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), meetingTime)
	defer cancel()
	var refusal error
	for {
		err := n.makeLease(ctx, js)
		if err == nil {
			return nil
		}
		if !errors.Is(err, context.DeadlineExceeded) { // the last look may be cut short
			refusal = err
		}
		if !pause(ctx, formingPoll) {
			break
		}
	}
	if !isCode(refusal, codeClusterNoPeers) {
		return nil // NATS elects, and the gateway waits for that
	}
	r := n.replicas()
	return fmt.Errorf("NATS has fewer than %d servers that could store, and each stream is to have %d replicas: start %d servers of its cluster with JetStream, or set nats.replicas to what there are: %w",
		r, r, r, refusal)
}

// makeLease makes the lease's stream, or finds that it is there.
func (n *Node) makeLease(ctx context.Context, js jetstream.JetStream) error {
	ctx, cancel := context.WithTimeout(ctx, meetingTime/5) // servers that elect may not answer at all
	defer cancel()
	_, err := js.Stream(ctx, leaseStream)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		_, err = js.CreateStream(ctx, n.leaseConfig())
	}
	if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
		return nil // of another gateway, which was faster
	}
	return err
}

func (n *Node) dialExternal(name string, opts ...nats.Option) (*nats.Conn, error) {
	o := n.opt.External
	opts = append(opts,
		nats.Name("mqgate "+n.opt.NodeName+" "+name), nats.MaxReconnects(-1), nats.ReconnectWait(250*time.Millisecond),
		nats.PingInterval(2*time.Second), nats.MaxPingsOutstanding(2),
		nats.ReconnectBufSize(-1), // what could not be sent is known to be not sent
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil {
				n.log.Warn("connection to NATS lost; trying again", "connection", name, "error", err)
			}
		}),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			n.log.Error("connection to NATS", "connection", name, "error", err)
		}))
	if o.CredentialsFile != "" {
		opts = append(opts, nats.UserCredentials(o.CredentialsFile))
	}
	if o.TLS != nil {
		opts = append(opts, nats.Secure(o.TLS))
	}
	c, err := nats.Connect(o.URL, opts...)
	if err != nil {
		return nil, fmt.Errorf("connect to NATS (nats.url): %w", err)
	}
	return c, nil
}

// externalUsage is what the account uses, and may.
func (n *Node) externalUsage() (used, limit uint64) {
	var a struct {
		Storage uint64 `json:"storage"`
		Limits  struct {
			Storage int64 `json:"max_storage"`
		} `json:"limits"`
	}
	if err := ask(context.Background(), n.api, "$JS.API.INFO", struct{}{}, &a); err != nil {
		return 0, 0
	}
	return a.Storage, uint64(max(a.Limits.Storage, 0))
}

// externalHealthy returns nil if JetStream answers.
func (n *Node) externalHealthy() error {
	if !n.api.IsConnected() {
		return errors.New("no contact with NATS (nats.url)")
	}
	return apiAnswers(context.Background(), n.api)
}
