package jetstream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// A node that stood alone and becomes one of a cluster brings its data in. The
// server itself cannot: what a clustered server finds on its disk and not in the
// cluster's metadata it takes for left over, and deletes it. So the data is moved
// aside before the server starts, and the node that has such data opens the first
// store: it gives the cluster every stream, the records last, which make the store
// exist. After a crash in between it begins again. The old data stays, in
// standalone.adopted, for the operator to delete.
const (
	asideDir    = "standalone"
	adoptedDir  = "standalone.adopted"
	adoptStream = "MQGATE_ADOPTION" // there while a node brings its data in
	adoptAsk    = "mqgate.adoption" // who has data of its own answers
	adoptNode   = "mqgate.node"
)

// moveAside moves the data of a node that stood alone out of the server's way.
func (n *Node) moveAside() error {
	store := filepath.Join(n.opt.Dir, "jetstream")
	aside := filepath.Join(n.opt.Dir, asideDir)
	streams, err := os.ReadDir(filepath.Join(store, "$G", "streams"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("look for data of before: %w", err)
	}
	_, err = os.Stat(filepath.Join(store, "$SYS", "_js_", "_meta_"))
	if len(streams) > 0 && errors.Is(err, fs.ErrNotExist) {
		if err := os.MkdirAll(aside, 0o700); err != nil {
			return fmt.Errorf("move data of before aside: %w", err)
		}
		if err := os.Rename(store, filepath.Join(aside, "jetstream")); err != nil {
			return fmt.Errorf("move data of before aside: %w", err)
		}
		if err := syncDir(n.opt.Dir); err != nil {
			return err
		}
		n.log.Info("this node stood alone; its data moves into the cluster", "directory", aside)
	}
	_, err = os.Stat(filepath.Join(aside, "jetstream"))
	n.aside = err == nil
	return nil
}

// claimAdoption answers the nodes that ask whether one has data of its own.
func (n *Node) claimAdoption() error {
	if !n.aside {
		return nil
	}
	var err error
	if n.claim, err = n.dial("adoption"); err != nil {
		return err
	}
	_, err = n.claim.Subscribe(adoptAsk, func(m *nats.Msg) { _ = m.Respond([]byte(n.opt.NodeName)) })
	return err
}

var (
	errElsewhere = errors.New("another node has data of its own, which must move into the cluster first: it opens the store")
	errTwoStores = errors.New("this node has data of the time when it stood alone, and the cluster has data already")
)

// adopt brings in what a node had when it stood alone, if that is to be done.
func (n *Node) adopt(ctx context.Context, c *nats.Conn) error {
	if n.External() {
		return nil
	}
	exists, _, err := streamExists(ctx, c, recordsStream)
	if err != nil {
		return err
	}
	begun, by, err := streamExists(ctx, c, adoptStream)
	if err != nil {
		return err
	}
	switch {
	case exists && n.aside && begun && by == n.opt.NodeName:
		return n.adopted(ctx, c) // it was finished before a crash
	case exists && n.aside:
		return fmt.Errorf("%w; keep one of them: move %s away to join with nothing, or start the cluster anew with this node",
			errTwoStores, filepath.Join(n.opt.Dir, asideDir))
	case exists:
		return nil
	case begun && by != n.opt.NodeName:
		return unavailable(fmt.Errorf("%w: %s", errElsewhere, by))
	case n.aside:
		return n.bringIn(ctx, c)
	}
	m, err := c.Request(adoptAsk, nil, time.Second)
	if err == nil {
		return unavailable(fmt.Errorf("%w: %s", errElsewhere, m.Data))
	}
	if errors.Is(err, nats.ErrNoResponders) {
		return nil // who has data of its own and is slow is there, and is waited for
	}
	return unavailable(fmt.Errorf("ask for data of other nodes: %w", err))
}

// streamExists also returns the node that the stream's metadata names.
func streamExists(ctx context.Context, c *nats.Conn, name string) (bool, string, error) {
	for {
		var info struct {
			Config struct {
				Metadata map[string]string `json:"metadata"`
			} `json:"config"`
		}
		err := ask(ctx, c, "$JS.API.STREAM.INFO."+name, struct{}{}, &info)
		var refused *apiError
		switch {
		case err == nil:
			return true, info.Config.Metadata[adoptNode], nil
		case errors.As(err, &refused) && refused.Code == codeNoStream:
			return false, "", nil
		}
		if !pause(ctx, formingPoll) {
			return false, "", unavailable(fmt.Errorf("look for stream %s: %w", name, err))
		}
	}
}

// bringIn copies every stream into the cluster, the records last.
func (n *Node) bringIn(ctx context.Context, c *nats.Conn) error {
	js, err := jetstream.New(c)
	if err != nil {
		return err
	}
	lock := jetstream.StreamConfig{Name: adoptStream, Subjects: []string{"mqgate.adopting"}, Replicas: n.replicas(),
		Metadata: map[string]string{adoptNode: n.opt.NodeName}}
	for {
		if _, err = js.CreateStream(ctx, lock); err == nil || !mayPass(err) || !pause(ctx, formingPoll) {
			break
		}
	}
	if err != nil {
		return unavailable(fmt.Errorf("begin to bring data in: %w", err))
	}
	o := n.opt
	o.Dir, o.Cluster = filepath.Join(n.opt.Dir, asideDir), nil
	old, err := StartNode(o)
	if err != nil {
		return fmt.Errorf("open the data of before: %w", err)
	}
	defer old.Close()
	from, err := old.dial("adoption")
	if err != nil {
		return err
	}
	defer from.Close()
	if err := n.copyStreams(ctx, from, c); err != nil {
		return err
	}
	return n.adopted(ctx, c)
}

func (n *Node) copyStreams(ctx context.Context, from, to *nats.Conn) error {
	js, err := jetstream.New(from)
	if err != nil {
		return err
	}
	var names []string
	list := js.StreamNames(ctx)
	for name := range list.Name() {
		names = append(names, name)
	}
	if err := list.Err(); err != nil {
		return fmt.Errorf("list the streams of before: %w", err)
	}
	slices.SortFunc(names, func(a, b string) int {
		if a == recordsStream || b == recordsStream {
			return map[bool]int{true: 1, false: -1}[a == recordsStream]
		}
		return 0
	})
	for i, name := range names {
		// Another attempt may have copied it, since which the source has not changed. But a snapshot that broke off leaves a stream without
		// all of it.
		there, _, err := streamExists(ctx, to, name)
		if err != nil {
			return err
		}
		if there {
			whole, err := sameState(ctx, from, to, name)
			if err != nil {
				return err
			}
			if whole {
				continue
			}
			if err := ask(ctx, to, "$JS.API.STREAM.DELETE."+name, struct{}{}, new(struct{})); err != nil {
				return fmt.Errorf("delete what there is of stream %s, to bring it in again: %w", name, err)
			}
		}
		if err := n.copyStream(ctx, from, to, name); err != nil {
			return fmt.Errorf("bring stream %s into the cluster: %w", name, err)
		}
		n.log.Info("brought into the cluster", "stream", name, "number", i+1, "of", len(names))
	}
	return nil
}

// sameState reports whether a stream has the same messages in both places.
func sameState(ctx context.Context, from, to *nats.Conn, name string) (bool, error) {
	var a, b struct {
		State jetstream.StreamState `json:"state"`
	}
	if err := errors.Join(ask(ctx, from, "$JS.API.STREAM.INFO."+name, struct{}{}, &a), ask(ctx, to, "$JS.API.STREAM.INFO."+name, struct{}{}, &b)); err != nil {
		return false, fmt.Errorf("compare the copies of stream %s: %w", name, err)
	}
	return a.State.Msgs == b.State.Msgs && a.State.FirstSeq == b.State.FirstSeq && a.State.LastSeq == b.State.LastSeq, nil
}

// copyStream sends the snapshot of a stream as it comes.
func (n *Node) copyStream(ctx context.Context, from, to *nats.Conn, name string) error {
	var info struct {
		Config json.RawMessage       `json:"config"`
		State  jetstream.StreamState `json:"state"`
	}
	if err := ask(ctx, from, "$JS.API.STREAM.INFO."+name, struct{}{}, &info); err != nil {
		return err
	}
	r := &restorer{conn: to, configs: map[string]json.RawMessage{name: info.Config}, replicas: n.replicas(), log: n.log}
	if err := r.begin(ctx, name); err != nil {
		return err
	}
	read, write := io.Pipe()
	sent := make(chan error, 1)
	go func() {
		err := r.send(ctx, read)
		read.CloseWithError(err) // the writer must not wait for a reader that is gone
		sent <- err
	}()
	_, _, err := (&Store{reads: from}).snapshot(ctx, name, write)
	write.CloseWithError(err)
	if err := errors.Join(err, <-sent); err != nil {
		return err
	}
	if err := r.end(ctx); err != nil {
		return err
	}
	var got struct {
		State jetstream.StreamState `json:"state"`
	}
	for {
		err := ask(ctx, to, "$JS.API.STREAM.INFO."+name, struct{}{}, &got)
		if err == nil && got.State.LastSeq == info.State.LastSeq && got.State.Msgs == info.State.Msgs {
			return nil
		}
		if !pause(ctx, formingPoll) {
			return unavailable(fmt.Errorf("%d messages up to %d arrived of %d up to %d: %w",
				got.State.Msgs, got.State.LastSeq, info.State.Msgs, info.State.LastSeq, err))
		}
	}
}

// adopted keeps the old data out of the way and ends the adoption.
func (n *Node) adopted(ctx context.Context, c *nats.Conn) error {
	done := filepath.Join(n.opt.Dir, adoptedDir)
	if err := os.Rename(filepath.Join(n.opt.Dir, asideDir), done); err != nil {
		return fmt.Errorf("put the data of before away: %w", err)
	}
	if err := syncDir(n.opt.Dir); err != nil {
		return err
	}
	n.aside = false
	n.claim.Close()
	n.log.Info("all data is in the cluster; the copy of before may be deleted", "directory", done)
	if err := ask(ctx, c, "$JS.API.STREAM.DELETE."+adoptStream, struct{}{}, new(struct{})); err != nil {
		n.log.Warn("cannot forget that data was brought in; that does no harm", "error", err)
	}
	return nil
}
