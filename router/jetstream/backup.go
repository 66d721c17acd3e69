package jetstream

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/mqgate/mqgate/router"
)

// A backup is a tar archive:
//
//	mqgate-backup.json     what it is
//	streams/NAME/config    the stream's configuration
//	streams/NAME/00000001  and so on: its snapshot, in the server's own format
//	manifest.json          what was written, with checksums
//	manifest.sha256        last: the checksum of the manifest
//
// Without the manifest it is not complete. It is consistent in this sense: all
// that was confirmed before it began is in it, and what was consumed or settled
// while it was made may come back, marked redelivered. For that, nothing is
// trimmed meanwhile, and what refers to messages is read before the messages:
// transactions, then records, then logs.
const (
	backupFormat   = 1
	backupHead     = "mqgate-backup.json"
	backupManifest = "manifest.json"
	backupSeal     = "manifest.sha256"
	// partBytes is the size of one entry of a snapshot, whose own size is not known before.
	partBytes = 4 << 20
	// maxBackupJSON bounds the parts of a backup that are read at once.
	maxBackupJSON = 64 << 20
)

// backupAbout begins a backup.
type backupAbout struct {
	Format int       `json:"format"`
	Node   string    `json:"node"`
	Began  time.Time `json:"began"`
}

// BackupStream is one stream in a backup.
type BackupStream struct {
	Name     string `json:"name"`
	Messages uint64 `json:"messages"`
	FirstSeq uint64 `json:"first_seq"`
	LastSeq  uint64 `json:"last_seq"`
	Bytes    int64  `json:"bytes"` // in the archive
	Parts    int    `json:"parts"`
	SHA256   string `json:"sha256"` // of the configuration and all parts
}

// Backup says what is in a backup.
type Backup struct {
	Node    string         `json:"node"`
	Began   time.Time      `json:"began"`
	Ended   time.Time      `json:"ended"`
	Streams []BackupStream `json:"streams"`
}

// Messages counts what is stored in queues, inboxes and histories.
func (b *Backup) Messages() (n uint64) {
	for _, s := range b.Streams {
		if !strings.HasPrefix(s.Name, systemPrefix) {
			n += s.Messages
		}
	}
	return n
}

// systemPrefix begins the names of the streams that hold no messages of clients.
const systemPrefix = "MQGATE_"

// valueStreams keep the last value of each key, in the order in which they are read.
var valueStreams = []string{recordsStream, sessionsStream, bindingsStream, retainedStream}

// WriteBackup writes all that is stored to w, while clients work. One runs at a time.
func (s *Store) WriteBackup(ctx context.Context, w io.Writer) (*Backup, error) {
	if !s.holdTrims() {
		return nil, &router.Error{Op: "backup", Class: router.Conflict, Text: "another backup is being made"}
	}
	defer s.releaseTrims()
	began := time.Now().UTC()
	b := &backupWriter{store: s, tar: tar.NewWriter(w), backup: Backup{Node: s.opt.NodeName, Began: began}}
	if err := b.json(backupHead, backupAbout{Format: backupFormat, Node: s.opt.NodeName, Began: began}); err != nil {
		return nil, err
	}
	if err := b.stream(ctx, transactionsStream, s.snapshot); err != nil {
		return nil, err
	}
	for _, name := range valueStreams {
		if err := b.stream(ctx, name, s.dumpValues); err != nil {
			return nil, err
		}
	}
	logs, err := s.logStreams(ctx, began)
	if err != nil {
		return nil, err
	}
	for _, name := range logs {
		if err := s.room(); err != nil {
			return nil, fmt.Errorf("nothing is trimmed during a backup, and %w", err)
		}
		// A queue may be deleted meanwhile; its record is left out at the restore.
		if err := b.stream(ctx, name, s.snapshot); err != nil && !errors.Is(err, errNoStream) {
			return nil, err
		}
	}
	b.backup.Ended = time.Now().UTC()
	if err := b.seal(); err != nil {
		return nil, err
	}
	return &b.backup, b.tar.Close()
}

// holdTrims has logs keep what is settled; false: they do so already.
func (s *Store) holdTrims() bool {
	s.trims.Lock() // waits for those under way
	defer s.trims.Unlock()
	if s.trimsHeld {
		return false
	}
	s.trimsHeld = true
	return true
}

func (s *Store) releaseTrims() {
	s.trims.Lock()
	s.trimsHeld = false
	s.trims.Unlock()
}

// logStreams lists the streams with messages that existed at a time.
func (s *Store) logStreams(ctx context.Context, at time.Time) ([]string, error) {
	list := s.js.ListStreams(ctx)
	var names []string
	for info := range list.Info() {
		if name := info.Config.Name; !strings.HasPrefix(name, systemPrefix) && info.Created.Before(at) {
			names = append(names, name)
		}
	}
	if err := list.Err(); err != nil {
		return nil, unavailable(fmt.Errorf("list the streams: %w", err))
	}
	slices.Sort(names)
	return names, nil
}

// backupWriter writes the archive.
type backupWriter struct {
	store  *Store
	tar    *tar.Writer
	backup Backup
}

// seal writes the manifest and its checksum.
func (b *backupWriter) seal() error {
	text, err := json.MarshalIndent(b.backup, "", "  ")
	if err != nil {
		return fmt.Errorf("encode the manifest: %w", err)
	}
	if err := b.entry(backupManifest, text); err != nil {
		return err
	}
	return b.entry(backupSeal, []byte(checksum(text)))
}

func checksum(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

func (b *backupWriter) json(name string, v any) error {
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("encode %s: %w", name, err)
	}
	return b.entry(name, text)
}

func (b *backupWriter) entry(name string, data []byte) error {
	h := &tar.Header{Name: name, Mode: 0o600, Size: int64(len(data)), ModTime: b.backup.Began, Format: tar.FormatPAX}
	if err := b.tar.WriteHeader(h); err != nil {
		return fmt.Errorf("write the backup: %w", err)
	}
	if _, err := b.tar.Write(data); err != nil {
		return fmt.Errorf("write the backup: %w", err)
	}
	return nil
}

// source writes a stream's snapshot to w, and returns what is in it and its configuration.
type source func(ctx context.Context, name string, w io.Writer) (BackupStream, json.RawMessage, error)

// stream writes one stream. The configuration comes behind the parts, since it is
// known with the snapshot; a restore has read the whole archive before.
func (b *backupWriter) stream(ctx context.Context, name string, from source) error {
	p := &partWriter{out: b, name: name, sum: sha256.New()}
	entry, config, err := from(ctx, name, p)
	if err == nil {
		err = p.flush()
	}
	if err != nil {
		return fmt.Errorf("back up stream %s: %w", name, err)
	}
	p.sum.Write(config)
	entry.Name, entry.Parts, entry.Bytes = name, p.parts, p.bytes
	entry.SHA256 = hex.EncodeToString(p.sum.Sum(nil))
	b.backup.Streams = append(b.backup.Streams, entry)
	return b.entry(configName(name), config)
}

func configName(stream string) string { return "streams/" + stream + "/config" }

func partName(stream string, n int) string { return fmt.Sprintf("streams/%s/%08d", stream, n) }

// partWriter cuts a snapshot into entries.
type partWriter struct {
	out   *backupWriter
	name  string
	buf   bytes.Buffer
	sum   hash.Hash
	parts int
	bytes int64
}

func (p *partWriter) Write(data []byte) (int, error) {
	n := len(data)
	for len(data) > 0 {
		take := min(len(data), partBytes-p.buf.Len())
		p.buf.Write(data[:take])
		data = data[take:]
		if p.buf.Len() == partBytes {
			if err := p.flush(); err != nil {
				return 0, err
			}
		}
	}
	return n, nil
}

func (p *partWriter) flush() error {
	if p.buf.Len() == 0 {
		return nil
	}
	p.parts++
	p.bytes += int64(p.buf.Len())
	p.sum.Write(p.buf.Bytes())
	err := p.out.entry(partName(p.name, p.parts), p.buf.Bytes())
	p.buf.Reset()
	return err
}
