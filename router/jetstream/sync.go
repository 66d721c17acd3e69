package jetstream

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/mqgate/mqgate/router"
	"github.com/mqgate/mqgate/router/outbox"
)

// syncer makes what JetStream acknowledged durable before it is answered. While
// one fsync runs, further acknowledgements gather; the next fsync serves them
// all. JetStream appends to the block file with the highest number and starts
// another when it is full.
type syncer struct {
	store *Store
	dir   string // of the stream; the blocks are in msgs/
	flush func(*os.File) error

	mu      sync.Mutex
	waiting []acknowledged
	running bool
	closed  bool

	// The rest is run's. All blocks below index are synced.
	index  int
	file   *os.File
	listed time.Time // of the directory, when it was listed last
}

type acknowledged struct {
	stored router.Stored
	done   func(router.Stored, error, *outbox.Batch)
}

func newSyncer(s *Store, stream string) *syncer {
	return &syncer{store: s, dir: s.node.streamDir(stream), flush: datasync}
}

func (s *syncer) blocks() string { return filepath.Join(s.dir, "msgs") }

func (s *syncer) block(i int) string { return filepath.Join(s.blocks(), strconv.Itoa(i)+".blk") }

// add has done called once what was stored up to now is on the disk.
func (s *syncer) add(stored router.Stored, done func(router.Stored, error, *outbox.Batch)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waiting = append(s.waiting, acknowledged{stored, done})
	if !s.running {
		s.running = true
		s.store.group.Go(s.run)
	}
}

// run syncs and answers until nothing waits.
func (s *syncer) run() {
	var w outbox.Batch
	for {
		s.mu.Lock()
		batch := s.waiting
		s.waiting = nil
		if len(batch) == 0 {
			s.running = false
			if s.closed {
				s.drop()
			}
			s.mu.Unlock()
			return
		}
		s.mu.Unlock()
		s.store.syncs <- struct{}{}
		err := s.sync()
		<-s.store.syncs
		if err != nil {
			err = unavailable(fmt.Errorf("sync %s: %w", s.dir, err))
			s.store.opt.Log.Error("the disk did not confirm", "error", err)
		}
		for _, a := range batch {
			a.done(a.stored, err, &w)
		}
		w.Flush()
	}
}

// sync flushes the blocks that were written to since the last sync: those from
// index on.
func (s *syncer) sync() error {
	for {
		if err := s.follow(); err != nil {
			return err
		}
		if err := s.flush(s.file); err != nil {
			return err
		}
		// Another block may have been begun while this one was synced.
		if _, err := os.Stat(s.block(s.index + 1)); errors.Is(err, fs.ErrNotExist) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// follow makes file the block of the highest number, and syncs those between. The
// server may have replaced or removed the one we know.
func (s *syncer) follow() error {
	dir, err := os.Stat(s.blocks())
	if err != nil {
		return err
	}
	_, err = os.Stat(s.block(s.index + 1))
	if s.current() && dir.ModTime().Equal(s.listed) && errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	numbers, err := s.numbers()
	if err != nil {
		return err
	}
	s.listed = dir.ModTime()
	for _, i := range numbers[:len(numbers)-1] {
		if i < s.index {
			continue
		}
		f, err := os.Open(s.block(i))
		if errors.Is(err, fs.ErrNotExist) {
			continue // it held only what was trimmed
		}
		if err != nil {
			return err
		}
		err = s.flush(f)
		f.Close()
		if err != nil {
			return err
		}
	}
	last := numbers[len(numbers)-1]
	if last == s.index && s.current() {
		return nil
	}
	s.drop()
	if s.file, err = os.Open(s.block(last)); err != nil {
		return err
	}
	s.index = last
	return syncPath(s.blocks())
}

// current reports whether file is the file that bears its number now.
func (s *syncer) current() bool {
	if s.file == nil {
		return false
	}
	have, err := s.file.Stat()
	if err != nil {
		return false
	}
	there, err := os.Stat(s.block(s.index))
	return err == nil && os.SameFile(have, there)
}

func (s *syncer) drop() {
	if s.file != nil {
		s.file.Close()
		s.file = nil
	}
}

var errNoBlocks = errors.New("no block files")

// numbers returns the block numbers, ascending; there is at least one.
func (s *syncer) numbers() ([]int, error) {
	entries, err := os.ReadDir(s.blocks())
	if err != nil {
		return nil, err
	}
	var out []int
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), ".blk")
		if i, err := strconv.Atoi(name); ok && err == nil {
			out = append(out, i)
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%w in %s", errNoBlocks, s.blocks())
	}
	slices.Sort(out)
	return out, nil
}

// syncFirst flushes the oldest block: trimming may have rewritten it.
func (s *syncer) syncFirst() error {
	numbers, err := s.numbers()
	if err != nil {
		return err
	}
	if err := syncPath(s.block(numbers[0])); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return syncPath(s.blocks())
}

// begin flushes what an earlier run may have left, and notes that it did.
func (s *syncer) begin() error {
	numbers, err := s.numbers()
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, errNoBlocks) {
		return err
	}
	if err == nil {
		s.index = numbers[len(numbers)-1]
	}
	return s.syncTree()
}

// syncTree flushes all files of a stream, and the directories down to it.
func (s *syncer) syncTree() error {
	err := filepath.WalkDir(s.dir, func(path string, _ fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // the server removed it meanwhile
		}
		if err != nil {
			return err
		}
		if err := syncPath(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	})
	for dir := filepath.Dir(s.dir); err == nil && len(dir) >= len(s.store.opt.Dir); dir = filepath.Dir(dir) {
		err = syncPath(dir)
	}
	if err != nil {
		return fmt.Errorf("sync stream files: %w", err)
	}
	return nil
}

// verify reports an error if the server keeps its files elsewhere than we sync.
func (s *syncer) verify() error {
	if _, err := s.numbers(); err != nil {
		return fmt.Errorf("this version of the embedded server keeps its files in an unknown way (%w); storage.sync must be a duration", err)
	}
	return nil
}

func (s *syncer) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	if !s.running {
		s.drop()
	}
}

func syncPath(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}
