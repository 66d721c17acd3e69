package jetstream

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/mqgate/mqgate/router"
)

// restoringDir is where a restore builds the store in the data directory. One that
// is there tells that a restore was interrupted.
const restoringDir = "restoring"

var errBackup = errors.New("this is no complete backup")

// VerifyBackup reads a whole backup, checks that it is complete and undamaged, and
// says what is in it.
func VerifyBackup(r io.Reader) (*Backup, error) {
	b, _, err := verifyBackup(r)
	return b, err
}

// checkedBackup is what a first reading of a backup finds.
type checkedBackup struct {
	sums    map[string]hash.Hash
	parts   map[string]int
	configs map[string]json.RawMessage
}

func verifyBackup(r io.Reader) (*Backup, map[string]json.RawMessage, error) {
	t := tar.NewReader(r)
	var about backupAbout
	if err := readJSON(t, backupHead, &about); err != nil {
		return nil, nil, err
	}
	if about.Format != backupFormat {
		return nil, nil, fmt.Errorf("%w: its format is %d, and this version reads %d", errBackup, about.Format, backupFormat)
	}
	c := checkedBackup{map[string]hash.Hash{}, map[string]int{}, map[string]json.RawMessage{}}
	for {
		h, err := t.Next()
		if err != nil {
			return nil, nil, fmt.Errorf("%w: it ends without its manifest (%w)", errBackup, err)
		}
		if h.Name == backupManifest {
			break
		}
		if err := c.read(h, t); err != nil {
			return nil, nil, err
		}
	}
	b, err := readManifest(t)
	if err != nil {
		return nil, nil, err
	}
	return b, c.configs, c.compare(b)
}

// readManifest reads the manifest and its checksum.
func readManifest(t *tar.Reader) (*Backup, error) {
	text, err := io.ReadAll(io.LimitReader(t, maxBackupJSON))
	if err != nil {
		return nil, fmt.Errorf("%w: its manifest cannot be read (%w)", errBackup, err)
	}
	h, err := t.Next()
	if err != nil || h.Name != backupSeal {
		return nil, fmt.Errorf("%w: it ends before the checksum of its manifest", errBackup)
	}
	sum, err := io.ReadAll(io.LimitReader(t, 2*sha256.Size+1))
	if err != nil || string(sum) != checksum(text) {
		return nil, fmt.Errorf("%w: its manifest is damaged", errBackup)
	}
	var b Backup
	if err := json.Unmarshal(text, &b); err != nil {
		return nil, fmt.Errorf("%w: its manifest is damaged (%w)", errBackup, err)
	}
	return &b, nil
}

func readJSON(t *tar.Reader, name string, v any) error {
	h, err := t.Next()
	if err != nil || h.Name != name {
		return fmt.Errorf("%w: it does not begin with %s", errBackup, name)
	}
	if err := json.NewDecoder(io.LimitReader(t, maxBackupJSON)).Decode(v); err != nil {
		return fmt.Errorf("%w: %s is damaged (%w)", errBackup, name, err)
	}
	return nil
}

// read adds an entry to what is known of its stream.
func (c *checkedBackup) read(h *tar.Header, r io.Reader) error {
	stream, n, config, err := parseEntry(h.Name)
	if err != nil {
		return err
	}
	sum := c.sums[stream]
	if sum == nil {
		sum = sha256.New()
		c.sums[stream] = sum
	}
	if config {
		text, err := io.ReadAll(io.LimitReader(r, maxBackupJSON))
		if err != nil {
			return fmt.Errorf("%w: %s: %w", errBackup, h.Name, err)
		}
		c.configs[stream] = text
		sum.Write(text)
		return nil
	}
	if n != c.parts[stream]+1 {
		return fmt.Errorf("%w: %s does not follow part %d", errBackup, h.Name, c.parts[stream])
	}
	c.parts[stream] = n
	if _, err := io.Copy(sum, r); err != nil {
		return fmt.Errorf("%w: %s: %w", errBackup, h.Name, err)
	}
	return nil
}

// parseEntry reads the name of an entry of a stream.
func parseEntry(name string) (stream string, part int, config bool, err error) {
	words := strings.Split(name, "/")
	if len(words) != 3 || words[0] != "streams" || words[1] == "" || strings.ContainsAny(words[1], `\.`) {
		return "", 0, false, fmt.Errorf("%w: unexpected entry %q", errBackup, name)
	}
	if words[2] == "config" {
		return words[1], 0, true, nil
	}
	if _, err := fmt.Sscanf(words[2], "%08d", &part); err != nil || partName(words[1], part) != name {
		return "", 0, false, fmt.Errorf("%w: unexpected entry %q", errBackup, name)
	}
	return words[1], part, false, nil
}

// compare holds what was read against the manifest.
func (c *checkedBackup) compare(b *Backup) error {
	if len(b.Streams) != len(c.sums) {
		return fmt.Errorf("%w: its manifest names %d streams, and %d are there", errBackup, len(b.Streams), len(c.sums))
	}
	for _, s := range b.Streams {
		sum := c.sums[s.Name]
		if sum == nil || c.configs[s.Name] == nil || c.parts[s.Name] != s.Parts || hex.EncodeToString(sum.Sum(nil)) != s.SHA256 {
			return fmt.Errorf("%w: stream %s is damaged", errBackup, s.Name)
		}
	}
	return nil
}

// Restore makes a data directory, which must be empty, of a backup, which it
// verifies before. The directory is that of a node that stands alone; others can
// join it later. What is in it is its owner's.
func Restore(ctx context.Context, o Options, backup io.ReadSeeker) (_ *Backup, err error) {
	b, configs, err := verifyBackup(backup)
	if err != nil {
		return nil, err
	}
	if _, err := backup.Seek(0, io.SeekStart); err != nil {
		return nil, fmt.Errorf("read the backup again: %w", err)
	}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make data directory: %w", err)
	}
	if err := checkEmpty(o.Dir); err != nil {
		return nil, err
	}
	lock, err := lockDir(o.Dir)
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	build := filepath.Join(o.Dir, restoringDir)
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(build))
		}
	}()
	inside := o
	inside.Dir, inside.Cluster = build, nil
	if err := restoreInto(ctx, inside, b, configs, backup); err != nil {
		return nil, err
	}
	if err := giveToOwner(o.Dir, build, lock.Name()); err != nil {
		return nil, err
	}
	if err := syncTree(build); err != nil {
		return nil, fmt.Errorf("sync the restored store: %w", err)
	}
	const store = "jetstream"
	if err := os.Rename(filepath.Join(build, store), filepath.Join(o.Dir, store)); err != nil {
		return nil, fmt.Errorf("put the restored store in its place: %w", err)
	}
	if err := os.RemoveAll(build); err != nil {
		return nil, fmt.Errorf("tidy up: %w", err)
	}
	return b, syncDir(o.Dir)
}

// checkEmpty refuses a directory with anything in it but what a file system or the
// lock puts there.
func checkEmpty(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("look into the data directory: %w", err)
	}
	for _, e := range entries {
		if e.Name() != "lost+found" && e.Name() != "lock" {
			return fmt.Errorf("the data directory %s is not empty: there is %s; restore into an empty one", dir, e.Name())
		}
	}
	return nil
}

// restoreInto starts a server on an empty directory and gives it the streams.
func restoreInto(ctx context.Context, o Options, b *Backup, configs map[string]json.RawMessage, backup io.Reader) error {
	n, err := StartNode(o)
	if err != nil {
		return err
	}
	defer n.Close()
	c, err := n.dial("restore")
	if err != nil {
		return err
	}
	defer c.Close()
	r := &restorer{conn: c, configs: configs, log: n.log}
	t := tar.NewReader(backup)
	for {
		h, err := t.Next()
		if err != nil {
			return fmt.Errorf("read the backup again: %w", err)
		}
		if h.Name == backupManifest {
			break
		}
		if h.Name == backupHead {
			continue
		}
		if err := r.entry(ctx, h.Name, t); err != nil {
			return err
		}
	}
	if err := r.dropOrphans(ctx, b); err != nil {
		return err
	}
	return r.check(ctx, b)
}

// restorer sends streams to a server, one after the other.
type restorer struct {
	conn    *nats.Conn
	configs map[string]json.RawMessage
	log     *slog.Logger
	deliver string // where the parts of the current stream go
	// replicas of the streams; 0: 1.
	replicas int
}

// entry sends a part; the configuration, which comes last, ends a stream.
func (r *restorer) entry(ctx context.Context, name string, data io.Reader) error {
	stream, part, config, err := parseEntry(name)
	if err != nil {
		return err
	}
	if part == 1 {
		if err := r.begin(ctx, stream); err != nil {
			return fmt.Errorf("restore stream %s: %w", stream, err)
		}
	}
	if config {
		err = r.end(ctx)
	} else {
		err = r.send(ctx, data)
	}
	if err != nil {
		return fmt.Errorf("restore stream %s: %w", stream, err)
	}
	return nil
}

func (r *restorer) begin(ctx context.Context, stream string) error {
	var config map[string]any
	if err := json.Unmarshal(r.configs[stream], &config); err != nil {
		return err
	}
	config["num_replicas"] = max(r.replicas, 1)
	delete(config, "placement")
	var answer struct {
		Deliver string `json:"deliver_subject"`
	}
	if err := ask(ctx, r.conn, "$JS.API.STREAM.RESTORE."+stream, map[string]any{"config": config}, &answer); err != nil {
		return err
	}
	r.deliver = answer.Deliver
	return nil
}

// restoreChunk is what goes in one message.
const restoreChunk = 512 << 10

// takerTime is how long nobody may be known to take the parts.
const takerTime = 3 * time.Second

// send gives the server a part. Each chunk is answered, with an error if it is refused.
func (r *restorer) send(ctx context.Context, data io.Reader) error {
	buf := make([]byte, restoreChunk)
	for {
		n, err := io.ReadFull(data, buf)
		if n > 0 {
			if err := r.chunk(ctx, buf[:n], new(struct{})); err != nil {
				return err
			}
		}
		switch {
		case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
			return nil
		case err != nil:
			return err
		}
	}
}

func (r *restorer) chunk(ctx context.Context, data []byte, v any) error {
	ctx, cancel := context.WithTimeout(ctx, chunkTimeout)
	defer cancel()
	m, err := r.conn.RequestWithContext(ctx, r.deliver, data)
	// Another node may take the parts, and what it says of that comes before this one knows where they go.
	for end := time.Now().Add(takerTime); errors.Is(err, nats.ErrNoResponders) && time.Now().Before(end) && pause(ctx, formingPoll); {
		m, err = r.conn.RequestWithContext(ctx, r.deliver, data)
	}
	if err != nil {
		return fmt.Errorf("send a part: %w", err)
	}
	if len(m.Data) == 0 {
		return nil
	}
	return answered(m.Data, v)
}

// end tells the server that all parts were sent, and waits for the stream.
func (r *restorer) end(ctx context.Context) error { return r.chunk(ctx, nil, new(struct{})) }

// dropOrphans forgets the records of queues that were deleted while the backup was
// made: they would say that messages are missing.
func (r *restorer) dropOrphans(ctx context.Context, b *Backup) error {
	there := map[string]bool{}
	for _, s := range b.Streams {
		there[s.Name] = true
	}
	if !there[recordsStream] {
		return fmt.Errorf("%w: it has no records", errBackup)
	}
	for seq := uint64(1); ; {
		var v storedValue
		request := map[string]any{"seq": seq, "next_by_subj": "r.*"}
		err := ask(ctx, r.conn, "$JS.API.STREAM.MSG.GET."+recordsStream, request, &v)
		var refused *apiError
		if errors.As(err, &refused) && refused.Code == codeNoMessage {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read the records: %w", err)
		}
		seq = v.Message.Seq + 1
		if len(v.Message.Data) == 0 {
			continue // a barrier of a cluster
		}
		id, _, err := decodeID(v.Message.Data)
		if err != nil {
			return fmt.Errorf("read the records: %w", err)
		}
		if queue := "Q_" + strings.TrimPrefix(v.Message.Subject, "r."); id.Kind == router.KindQueueBox && !there[queue] {
			r.log.Info("a queue was deleted while the backup was made; it is left out", "queue", id.Name)
			if err := ask(ctx, r.conn, "$JS.API.STREAM.PURGE."+recordsStream, map[string]any{"filter": v.Message.Subject}, new(struct{})); err != nil {
				return fmt.Errorf("forget the record of %s: %w", id.Name, err)
			}
		}
	}
}

// check compares what the server holds with the manifest. Fewer messages than the
// snapshot announced may be there, as some were removed while it was read.
func (r *restorer) check(ctx context.Context, b *Backup) error {
	for _, s := range b.Streams {
		var info struct {
			State jetstream.StreamState `json:"state"`
		}
		if err := ask(ctx, r.conn, "$JS.API.STREAM.INFO."+s.Name, struct{}{}, &info); err != nil {
			return fmt.Errorf("look at stream %s: %w", s.Name, err)
		}
		if info.State.LastSeq != s.LastSeq || info.State.Msgs > s.Messages {
			return fmt.Errorf("%w: stream %s has %d messages up to %d, and the manifest says %d up to %d", errBackup,
				s.Name, info.State.Msgs, info.State.LastSeq, s.Messages, s.LastSeq)
		}
		if strings.HasPrefix(s.Name, "Q_") && info.State.Msgs != s.Messages {
			return fmt.Errorf("%w: stream %s has %d of %d messages", errBackup, s.Name, info.State.Msgs, s.Messages)
		}
	}
	return nil
}

// syncTree makes all below dir durable.
func syncTree(dir string) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() && !d.Type().IsRegular() {
			return err
		}
		return syncDir(path)
	})
}

// syncDir makes a file or directory durable.
func syncDir(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}
