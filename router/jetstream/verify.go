package jetstream

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/minio/highwayhash"
)

// A clustered server does not look whether what its replicas hold can still be
// read, and the others do not ask: a damaged replica would lead one day, without
// the message. So a node reads its replicas before it joins. One with damage in
// it is moved aside, and the server gets it anew from the others.
//
// A torn end of the last block is no damage but what a power cut leaves, maybe on
// all nodes at once: the server cuts it off, and the Raft log or the others have
// what belongs there. It does so if it reads the block, which it does not after an
// orderly stop: then it goes by its index, and meets the record that cannot be read
// when another is to replace it, which ends the replica until somebody removes it.
// So the index goes.

// damagedDir is where replicas with damage are kept for the operator.
const damagedDir = "damaged"

// setDamagedAside moves damaged replicas out of the server's way.
func (n *Node) setDamagedAside() error {
	dir := filepath.Dir(n.streamDir("x"))
	streams, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look into the replicas: %w", err)
	}
	for _, s := range streams {
		damage := verifyStream(n.streamDir(s.Name()), s.Name())
		if damage == nil {
			continue
		}
		if errors.Is(damage, errTorn) {
			n.log.Warn("the last record of this node's replica of a stream is incomplete; it comes anew", "stream", s.Name(), "found", damage)
			if err := removeIndex(n.streamDir(s.Name())); err != nil {
				return err
			}
			continue
		}
		to := filepath.Join(n.opt.Dir, damagedDir, s.Name()+"."+time.Now().UTC().Format("20060102T150405.000"))
		n.log.Error("this node's replica of a stream is damaged; it is kept aside and comes anew from the other nodes",
			"stream", s.Name(), "damage", damage, "kept", to)
		if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
			return fmt.Errorf("keep a damaged replica aside: %w", err)
		}
		if err := os.Rename(n.streamDir(s.Name()), to); err != nil {
			return fmt.Errorf("keep a damaged replica aside: %w", err)
		}
		if err := errors.Join(syncDir(dir), syncDir(n.opt.Dir)); err != nil {
			return err
		}
	}
	return nil
}

// removeIndex has the server read the blocks of a stream.
func removeIndex(dir string) error {
	if err := os.Remove(filepath.Join(dir, "msgs", "index.db")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the index of a replica: %w", err)
	}
	return syncDir(filepath.Join(dir, "msgs"))
}

// verifyStream reads all blocks of a stream and returns the first damage, or
// errTorn if there is none but that.
func verifyStream(dir, name string) error {
	files, err := filepath.Glob(filepath.Join(dir, "msgs", "*.blk"))
	if err != nil {
		return err
	}
	last := 0
	numbers := map[string]int{}
	for _, f := range files {
		n, err := strconv.Atoi(strings.TrimSuffix(filepath.Base(f), ".blk"))
		if err != nil {
			continue // none of the server's
		}
		numbers[f] = n
		last = max(last, n)
	}
	var torn error
	for f, n := range numbers {
		b, err := os.ReadFile(f)
		if err != nil {
			return err
		}
		err = verifyBlock(b, name, n, n == last)
		if err != nil {
			err = fmt.Errorf("%s: %w", filepath.Base(f), err)
		}
		if err != nil && !errors.Is(err, errTorn) {
			return err
		}
		torn = errors.Join(torn, err) // of one block only
	}
	return torn
}

// A record of a block: its length with the highest bit for "has headers", sequence, time, the subject's length, the subject,
// the headers' length if there are any, headers and body, and a checksum of all but the lengths.
const (
	recordHead = 22
	recordSum  = 8
)

var (
	errBadBlock = errors.New("damaged")
	errTorn     = errors.New("the last record is incomplete")
)

// verifyBlock checks the records of a block. In the last block what follows the
// last good record may be anything: then it is torn.
func verifyBlock(b []byte, stream string, number int, tail bool) error {
	key := sha256.Sum256(fmt.Appendf(nil, "%s-%d", stream, number))
	sum, err := highwayhash.NewDigest64(key[:])
	if err != nil {
		return err
	}
	bad := -1
	for at := 0; at < len(b); {
		rest := b[at:]
		if len(rest) < recordHead {
			if tail {
				return errTorn
			}
			return fmt.Errorf("%w: it ends inside the record at %d", errBadBlock, at)
		}
		size := binary.LittleEndian.Uint32(rest)
		lead := int(binary.LittleEndian.Uint16(rest[20:]))
		body := lead
		if size&(1<<31) != 0 {
			body += 4
			size &^= 1 << 31
		}
		n := int(size)
		if n > len(rest) || recordHead+body+recordSum > n {
			if tail && bad < 0 {
				return errTorn
			}
			return fmt.Errorf("%w: the record at %d has no sensible length", errBadBlock, at)
		}
		sum.Reset()
		sum.Write(rest[4:20])
		sum.Write(rest[recordHead : recordHead+lead])
		sum.Write(rest[recordHead+body : n-recordSum])
		good := bytes.Equal(sum.Sum(nil), rest[n-recordSum:n])
		if good && body > lead { // the checksum leaves out where the headers end
			end := uint64(binary.LittleEndian.Uint32(rest[recordHead+lead:]))
			headers := rest[recordHead+body : n-recordSum]
			good = end <= uint64(len(headers)) && bytes.HasSuffix(headers[:end], []byte("\r\n\r\n"))
		}
		if good && bad >= 0 || !good && !tail {
			if bad < 0 {
				bad = at
			}
			return fmt.Errorf("%w: the record at %d has another checksum", errBadBlock, bad)
		} else if !good && bad < 0 {
			bad = at
		}
		at += n
	}
	if bad >= 0 {
		return errTorn
	}
	return nil
}
