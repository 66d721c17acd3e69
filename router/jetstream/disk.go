package jetstream

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/mqgate/mqgate/router"
)

// overhead is what the server may take above Options.MaxBytes: mailboxes' records
// must still be written when messages are refused, or nothing could be settled
// and trimmed any more. It is more than arrives between two looks.
const overhead = 512 << 20

// watchSpace refuses appends while the store is at its limit or the disk has
// less free than the reserve. The server itself does not recover from a full
// disk, and would refuse records too at its own limit.
func (s *Store) watchSpace() {
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for {
		s.checkSpace()
		select {
		case <-tick.C:
		case <-s.pub.stop:
			return
		}
	}
}

func (s *Store) checkSpace() {
	if s.node.External() {
		return // its own limits refuse what is too much
	}
	used, _ := s.Usage()
	full := s.opt.MaxBytes > 0 && int64(used) >= s.opt.MaxBytes
	if s.full.Swap(full) != full {
		s.spaceChanged(full, "the store is at its limit", "used_bytes", used, "max_bytes", s.opt.MaxBytes)
	}
	free, err := FreeBytes(s.opt.Dir)
	if err != nil {
		s.opt.Log.Warn("cannot tell the disk's free space", "error", err)
		return
	}
	low := free < s.opt.MinFreeBytes
	if s.diskLow.Swap(low) != low {
		s.spaceChanged(low, "the disk is nearly full", "free_bytes", free, "reserve_bytes", s.opt.MinFreeBytes)
	}
}

func (s *Store) spaceChanged(bad bool, what string, args ...any) {
	if bad {
		s.opt.Log.Error(what+": refusing messages that must be stored", args...)
	} else {
		s.opt.Log.Info("there is room again", args...)
	}
}

// room returns why appends are refused now, or nil.
func (s *Store) room() error {
	text := ""
	switch {
	case s.full.Load():
		text = "the store is full (storage.max_bytes): consume or purge, then try again"
	case s.diskLow.Load():
		text = "the disk is nearly full (storage.min_free_bytes): consume, purge or free space, then try again"
	default:
		return nil
	}
	return &router.Error{Op: "store", Class: router.Full, RetryAfter: 5 * time.Second, Text: text}
}

// DiskLow reports whether the node's disk has less free than its reserve; never where nothing is stored on it.
func (n *Node) DiskLow() bool {
	if n.External() || n.Clustered() && !n.keepsReplicas() {
		return false
	}
	free, err := FreeBytes(n.opt.Dir)
	return err == nil && free < n.opt.MinFreeBytes
}

// Crammed reports whether the node had no room and its copies have not been complete since: what could not be written then is
// missing until it is copied.
func (n *Node) Crammed() bool { return n.crammed.Load() }

// mending is a node's recovery from a full disk.
type mending struct {
	node  *Node
	pause time.Duration // between two starts of the store that did not help
	again time.Time     // when it may start once more
}

const (
	mendLook               = time.Second
	mendFirst, mendLongest = 15 * time.Second, 10 * time.Minute
)

// watchDisk mends what a full disk broke, until ctx ends.
func (n *Node) watchDisk(ctx context.Context) {
	if !n.keepsReplicas() {
		return
	}
	m := mending{node: n, pause: mendFirst}
	for pause(ctx, mendLook) {
		m.look()
	}
}

// look starts the embedded server's JetStream again once there is room above the reserve, where it stopped since the disk had no byte
// left, or gave up a copy: the server itself waits for a restart of the process. What the others stored meanwhile is copied.
func (m *mending) look() {
	n := m.node
	why := "it had stopped"
	switch enabled := n.server.JetStreamEnabled(); {
	case n.DiskLow():
		n.crammed.Store(true)
		return
	case !enabled && n.server.JetStreamConfig() != nil:
		return // it is still stopping
	case !enabled:
	case n.Current() == nil:
		n.crammed.Store(false)
		m.pause = mendFirst
		return
	default:
		if why = n.givenUp(); why == "" {
			return // it copies
		}
	}
	n.crammed.Store(true)
	if time.Now().Before(m.again) {
		return
	}
	m.again = time.Now().Add(m.pause)
	m.pause = min(2*m.pause, mendLongest)
	n.log.Info("there is room on the disk: this node's store starts again", "why", why)
	if err := n.restart(); err != nil {
		n.log.Error("this node's store could not start again; it will try again", "error", err)
	}
}

// restart starts JetStream alone again; the server and its connections stay.
func (n *Node) restart() error {
	if err := n.server.ShutdownJetStream(); err != nil {
		return err
	}
	err := n.server.EnableJetStream(&server.JetStreamConfig{
		StoreDir: n.opt.Dir, MaxMemory: n.limits.MaxMemory, MaxStore: n.limits.MaxStore, SyncInterval: n.limits.SyncInterval,
		SyncAlways: n.limits.SyncAlways, Strict: n.limits.Strict,
	})
	if err != nil { // it calls itself enabled all the same (2.15.2)
		err = errors.Join(err, n.server.ShutdownJetStream())
	}
	return err
}

// givenUp tells of a copy that the server gave up: one that it could not begin, or not write. It never tries again.
func (n *Node) givenUp() string {
	for _, e := range n.server.Healthz(&server.HealthzOptions{Details: true}).Errors {
		if strings.Contains(e.Error, "stream assignment error") || strings.Contains(e.Error, "write error") {
			return e.Error
		}
	}
	return ""
}

// DiskLow reports whether appends are refused for lack of disk space.
func (s *Store) DiskLow() bool { return s.diskLow.Load() || s.full.Load() }
