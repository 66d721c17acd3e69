package jetstream_test

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/mqgate/mqgate/router"
	"github.com/mqgate/mqgate/router/jetstream"
)

// harm is what a node's files suffer while it is down.
var harm = map[string]func(t *testing.T, dir string){
	"lost": func(t *testing.T, dir string) {
		if err := os.RemoveAll(filepath.Join(dir, "jetstream")); err != nil {
			t.Fatal(err)
		}
	},
	"blocks changed":     func(t *testing.T, dir string) { damageFiles(t, dir, "*.blk", changed) },
	"blocks cut off":     func(t *testing.T, dir string) { damageFiles(t, dir, "*.blk", cut) },
	"Raft state changed": func(t *testing.T, dir string) { damageFiles(t, filepath.Join(dir, "jetstream", "$SYS"), "*", changed) },
	"Raft state cut off": func(t *testing.T, dir string) { damageFiles(t, filepath.Join(dir, "jetstream", "$SYS"), "*", cut) },
}

func changed(b []byte) []byte { b[len(b)/2] ^= 0xff; return b }

func cut(b []byte) []byte { return b[:len(b)*2/3] }

// damageFiles damages the files below a directory whose names match.
func damageFiles(t *testing.T, dir, pattern string, how func([]byte) []byte) {
	t.Helper()
	files := 0
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		if ok, err := filepath.Match(pattern, d.Name()); !ok || err != nil {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil || len(b) == 0 {
			return err
		}
		files++
		return os.WriteFile(path, how(b), 0o600)
	})
	if err != nil || files == 0 {
		t.Fatalf("no file was damaged: %v", err)
	}
}

// Nodes whose data directory was lost, or damaged while they were down, get everything from the others: all three in turn, so
// that in the end there is nothing but what they got, and each then stands in for it with another gone.
func TestClusterHealsLostAndDamagedData(t *testing.T) {
	for name, do := range harm {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			testHeals(t, do)
		})
	}
}

func testHeals(t *testing.T, do func(t *testing.T, dir string)) {
	c := newCluster(t, nil)
	c.startAll()
	s := c.open(0)
	logs := []router.MailboxID{crashQueue, crashInbox}
	want := map[router.MailboxID][]string{}
	more := func(s *jetstream.Store, prefix string, n int) {
		t.Helper()
		for _, id := range logs {
			bodies := numbered(prefix+" "+strings.Repeat("x", 200)+" ", n)
			appendN(t, openLog(t, s, id), bodies...)
			want[id] = append(want[id], bodies...)
		}
	}
	check := func(s *jetstream.Store, who string) {
		t.Helper()
		for _, id := range logs {
			if got := bodies(readAll(t, openLog(t, s, id), 1, 500)); !slices.Equal(got, want[id]) {
				t.Fatalf("%s: %v has %d messages, want %d", who, id, len(got), len(want[id]))
			}
		}
		if got := values(t, s, router.ValueRetained); got != "map[topic:kept]" {
			t.Fatalf("%s: retained are %s", who, got)
		}
		if b, err := s.Bindings(context.Background()); err != nil || len(b) != 1 || string(b[0]) != "binding" {
			t.Fatalf("%s: bindings %q, %v", who, b, err)
		}
	}
	more(s, "before", 500)
	put(t, s, router.ValueRetained, "topic", "kept")
	if err := s.PutBinding(context.Background(), "k", []byte("binding")); err != nil {
		t.Fatal(err)
	}
	s.Close()
	for i := range c.nodes {
		who, other := c.opts[i].NodeName, (i+1)%len(c.nodes)
		c.stop(i)
		s := c.open(other)
		more(s, "while "+who+" was down", 50)
		do(t, c.opts[i].Dir)
		c.startAnew(i)
		more(s, "after "+who+" was back", 50)
		s.Close()
		c.awaitCurrent(i)
		s = c.open(i)
		check(s, who)
		s.Close()
	}
	for i := range c.nodes {
		other := (i + 1) % len(c.nodes)
		c.stop(i)
		s := c.open(other)
		check(s, c.opts[other].NodeName+", with "+c.opts[i].NodeName+" gone")
		more(s, "by "+c.opts[other].NodeName, 10)
		s.Close()
		c.start(i)
		c.awaitCurrent(i)
	}
}

// startAnew starts a node, if need be without the data that it does not start with, as the manual has it.
func (c *cluster) startAnew(i int) {
	c.t.Helper()
	n, err := jetstream.StartNode(c.opts[i])
	if err != nil {
		c.t.Logf("%s does not start: %v", c.opts[i].NodeName, err)
		if err := os.RemoveAll(filepath.Join(c.opts[i].Dir, "jetstream")); err != nil {
			c.t.Fatal(err)
		}
		c.start(i)
		return
	}
	c.nodes[i] = n
}
