package jetstream_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/mqgate/mqgate/router"
	"github.com/mqgate/mqgate/router/jetstream"
)

// restore restores a backup and opens it.
func restore(t *testing.T, backup []byte) *jetstream.Store {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "restored")
	if _, err := jetstream.Restore(context.Background(), jetstream.Options{Dir: dir, Log: quiet()}, bytes.NewReader(backup)); err != nil {
		t.Fatal(err)
	}
	return openStore(t, dir, true)
}

func put(t *testing.T, s *jetstream.Store, c router.ValueClass, key, value string) {
	t.Helper()
	answers := make(chan answer, 1)
	s.PutValue(c, key, []byte(value), into(answers))
	if a := hear(t, answers); a.err != nil {
		t.Fatal(a.err)
	}
}

func values(t *testing.T, s *jetstream.Store, c router.ValueClass) string {
	t.Helper()
	got := map[string]string{}
	if err := s.Values(context.Background(), c, func(k string, v []byte) error { got[k] = string(v); return nil }); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprint(got)
}

// fill puts something of every kind into a store.
func fill(t *testing.T, s *jetstream.Store) (queue, box router.Log) {
	t.Helper()
	queue, box = openLog(t, s, crashQueue), openLog(t, s, crashInbox)
	for i := range 10 {
		mustAppend(t, queue, fmt.Sprint("q", i))
		mustAppend(t, box, fmt.Sprint("i", i))
	}
	if err := queue.Trim(context.Background(), 4); err != nil {
		t.Fatal(err)
	}
	save(t, queue, "queue's")
	save(t, box, "inbox's")
	if err := s.PutBinding(context.Background(), "b", []byte("binding")); err != nil {
		t.Fatal(err)
	}
	put(t, s, router.ValueRetained, "old", "v1")
	put(t, s, router.ValueRetained, "gone", "v")
	put(t, s, router.ValueRetained, "gone", "")
	put(t, s, router.ValueRetained, "old", "v2")
	put(t, s, router.ValueSession, "client", "session")
	for _, body := range []string{"ended", "tx"} {
		answers := make(chan answer, 1)
		s.BeginTransaction([]byte(body), into(answers))
		a := hear(t, answers)
		if a.err != nil {
			t.Fatal(a.err)
		}
		if body == "ended" {
			s.EndTransaction(a.s.Seq)
		}
	}
	eventually(t, func() error { // an end is not waited for
		if txs, err := s.Transactions(context.Background()); err != nil || len(txs) != 1 {
			return fmt.Errorf("transactions %+v, %w", txs, err)
		}
		return nil
	})
	return queue, box
}

func TestABackupHasEverything(t *testing.T) {
	s := openStore(t, t.TempDir(), true)
	fill(t, s)
	var backup bytes.Buffer
	b, err := s.WriteBackup(context.Background(), &backup)
	if err != nil {
		t.Fatal(err)
	}
	if b.Messages() != 16 {
		t.Errorf("%d messages in the backup", b.Messages())
	}
	s.Close()
	s = restore(t, backup.Bytes())
	defer s.Close()
	ctx := context.Background()
	queue, box := openLog(t, s, crashQueue), openLog(t, s, crashInbox)
	if got := bodies(readAll(t, queue, 1, 3)); fmt.Sprint(got) != "[q4 q5 q6 q7 q8 q9]" {
		t.Errorf("the queue holds %v", got)
	}
	if b := bounds(t, queue, 4); b.First != 5 || b.Last != 10 || b.Holes != 0 {
		t.Errorf("bounds %+v", b)
	}
	if got := bodies(readAll(t, box, 1, 3)); fmt.Sprint(got) != "[i0 i1 i2 i3 i4 i5 i6 i7 i8 i9]" {
		t.Errorf("the inbox holds %v", got)
	}
	if st, err := s.Mailboxes(ctx); err != nil || len(st) != 2 || string(st[0].Record)+string(st[1].Record) != "queue'sinbox's" {
		t.Errorf("mailboxes %+v, %v", st, err)
	}
	if b, err := s.Bindings(ctx); err != nil || len(b) != 1 || string(b[0]) != "binding" {
		t.Errorf("bindings %q, %v", b, err)
	}
	if txs, err := s.Transactions(ctx); err != nil || len(txs) != 1 || string(txs[0].Body) != "tx" || txs[0].Seq != 2 {
		t.Errorf("transactions %+v, %v", txs, err)
	}
	if got := values(t, s, router.ValueRetained); got != "map[old:v2]" {
		t.Errorf("retained %s", got)
	}
	if got := values(t, s, router.ValueSession); got != "map[client:session]" {
		t.Errorf("sessions %s", got)
	}
	if seq := mustAppend(t, queue, "new"); seq != 11 {
		t.Errorf("a new message has sequence %d", seq)
	}
}

// While a backup is made, clients go on: what they do may be in it or not, and
// does not spoil it. It stands still after its first bytes until all is done.
func TestABackupWhileClientsWork(t *testing.T) {
	s := openStore(t, t.TempDir(), false)
	queue, _ := fill(t, s)
	doomed := openLog(t, s, router.MailboxID{Kind: router.KindQueueBox, Vhost: "/", Name: "doomed"})
	mustAppend(t, doomed, "x")
	save(t, doomed, "doomed's")

	r, w := io.Pipe()
	done := make(chan error, 1)
	go func() {
		_, err := s.WriteBackup(context.Background(), w)
		w.CloseWithError(err)
		done <- err
	}()
	var backup bytes.Buffer
	if _, err := io.CopyN(&backup, r, 512); err != nil {
		t.Fatal(err)
	}
	// A second backup is refused.
	if _, err := s.WriteBackup(context.Background(), io.Discard); router.ClassOf(err) != router.Conflict {
		t.Errorf("a second backup: %v", err)
	}
	mustAppend(t, queue, "late")
	// Settled and trimmed: the record in the backup may be older than that.
	if err := queue.Trim(context.Background(), 8); err != nil {
		t.Fatal(err)
	}
	if err := doomed.Remove(context.Background()); err != nil {
		t.Fatal(err)
	}
	put(t, s, router.ValueRetained, "old", "v3")
	young := openLog(t, s, router.MailboxID{Kind: router.KindQueueBox, Vhost: "/", Name: "young"})
	mustAppend(t, young, "y")
	save(t, young, "young's")
	if _, err := io.Copy(&backup, r); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if b := bounds(t, queue, 4); b.First != 5 {
		t.Errorf("the queue was trimmed during the backup: %+v", b)
	}
	if err := queue.Trim(context.Background(), 9); err != nil {
		t.Fatal(err)
	}
	if b := bounds(t, queue, 9); b.First != 10 {
		t.Errorf("the queue is not trimmed after the backup: %+v", b)
	}
	s.Close()

	s = restore(t, backup.Bytes())
	defer s.Close()
	queue = openLog(t, s, crashQueue)
	if got := bodies(readAll(t, queue, 1, 100)); !strings.HasPrefix(fmt.Sprint(got), "[q4 q5 q6 q7 q8 q9") {
		t.Errorf("the queue holds %v", got)
	}
	st, err := s.Mailboxes(context.Background())
	if err != nil || len(st) != 2 {
		t.Errorf("mailboxes %+v, %v: want neither the deleted queue nor the new one", st, err)
	}
	if got := values(t, s, router.ValueRetained); got != "map[old:v3]" && got != "map[old:v2]" {
		t.Errorf("retained %s", got)
	}
}

func TestABackupThatIsNotWholeIsRefused(t *testing.T) {
	s := openStore(t, t.TempDir(), false)
	fill(t, s)
	var buf bytes.Buffer
	if _, err := s.WriteBackup(context.Background(), &buf); err != nil {
		t.Fatal(err)
	}
	s.Close()
	whole := buf.Bytes()
	if _, err := jetstream.VerifyBackup(bytes.NewReader(whole)); err != nil {
		t.Fatal(err)
	}
	for n := 0; n < len(whole)-2048; n += 509 { // only padding is behind that
		if _, err := jetstream.VerifyBackup(bytes.NewReader(whole[:n])); err == nil {
			t.Fatalf("the first %d of %d bytes pass for a backup", n, len(whole))
		}
	}
	refused := 0
	for at := 600; at < len(whole)-1024; at += 251 {
		bad := bytes.Clone(whole)
		bad[at] ^= 0x10
		if b, err := jetstream.VerifyBackup(bytes.NewReader(bad)); err != nil {
			refused++
		} else if good, _ := jetstream.VerifyBackup(bytes.NewReader(whole)); fmt.Sprint(b.Streams) != fmt.Sprint(good.Streams) {
			t.Errorf("a changed byte at %d goes unnoticed", at)
		}
	}
	if refused == 0 { // padding and dates may change unnoticed, content may not
		t.Error("no changed byte was noticed")
	}
	dir := t.TempDir()
	if _, err := jetstream.Restore(context.Background(), jetstream.Options{Dir: dir, Log: quiet()}, bytes.NewReader(whole[:len(whole)/2])); err == nil {
		t.Error("half a backup was restored")
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("a refused restore left %v, %v", left, err)
	}
}

func TestARestoreNeedsAnEmptyDirectory(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir, false)
	fill(t, s)
	var buf bytes.Buffer
	if _, err := s.WriteBackup(context.Background(), &buf); err != nil {
		t.Fatal(err)
	}
	s.Close()
	restoreTo := func(dir string) error {
		_, err := jetstream.Restore(context.Background(), jetstream.Options{Dir: dir, Log: quiet()}, bytes.NewReader(buf.Bytes()))
		return err
	}
	if err := restoreTo(dir); err == nil || !strings.Contains(err.Error(), "not empty") {
		t.Errorf("restored over a store: %v", err)
	}
	s = openStore(t, dir, false)
	if st, err := s.Mailboxes(context.Background()); err != nil || len(st) != 2 {
		t.Errorf("the refused restore changed the store: %+v, %v", st, err)
	}
	s.Close()
	// A directory where a restore was interrupted is no store, and is not taken for an empty one.
	dir = t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "restoring"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := jetstream.Open(context.Background(), jetstream.Options{Dir: dir, Log: quiet()}); err == nil || !strings.Contains(err.Error(), "interrupted") {
		t.Errorf("opened what a restore left: %v", err)
	}
	if err := restoreTo(dir); err == nil {
		t.Error("restored beside what another restore left")
	}
}

// FuzzVerifyBackup: whatever a file holds, it is refused or read, without a panic.
func FuzzVerifyBackup(f *testing.F) {
	s := openStore(f, f.TempDir(), false)
	answers := make(chan answer, 1)
	openLog(f, s, crashQueue).Append([]byte("x"), "", into(answers))
	hear(f, answers)
	var buf bytes.Buffer
	_, err := s.WriteBackup(context.Background(), &buf)
	s.Close()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(buf.Bytes())
	f.Add(buf.Bytes()[:1536])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, in []byte) {
		b, err := jetstream.VerifyBackup(bytes.NewReader(in))
		if err == nil && b == nil {
			t.Error(errors.New("no error and no backup"))
		}
	})
}

// What root restores is the service's, whose directory it is; by a link, as systemd has it, too.
func TestARestoreIsItsOwners(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root restores for another")
	}
	s := openStore(t, t.TempDir(), false)
	defer s.Close()
	fill(t, s)
	var backup bytes.Buffer
	if _, err := s.WriteBackup(context.Background(), &backup); err != nil {
		t.Fatal(err)
	}
	const owner = 61184 // none that is somebody's
	dir := filepath.Join(t.TempDir(), "private")
	link := filepath.Join(t.TempDir(), "data")
	if err := errors.Join(os.Mkdir(dir, 0o700), os.Chown(dir, owner, owner), os.Symlink(dir, link)); err != nil {
		t.Fatal(err)
	}
	if _, err := jetstream.Restore(context.Background(), jetstream.Options{Dir: link, Log: quiet()}, bytes.NewReader(backup.Bytes())); err != nil {
		t.Fatal(err)
	}
	files := 0
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		files++
		info, err := d.Info()
		if err != nil {
			return err
		}
		if s := info.Sys().(*syscall.Stat_t); s.Uid != owner || s.Gid != owner {
			t.Errorf("%s belongs to %d:%d", path, s.Uid, s.Gid)
		}
		return nil
	})
	if err != nil || files < 5 {
		t.Errorf("%d files, %v", files, err)
	}
}
