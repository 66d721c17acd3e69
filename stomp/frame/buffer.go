package frame

import (
	"io"
	"math/bits"
	"sync"
)

const (
	// idleBytes is the size of the buffer inside the decoder: what an idle connection reads its next bytes into. It
	// takes a whole ACK, heart-beat or small SEND, so that quiet connections never need another.
	idleBytes = 512
	// blockBytes is the size of the smallest pooled buffer; the others double up to largestPooledBytes.
	blockBytes         = 16 << 10
	blockClasses       = 11
	largestPooledBytes = blockBytes << (blockClasses - 1)
	// maxEmptyReads is how often a reader may return nothing at all before it counts as broken.
	maxEmptyReads = 100
)

// block is a buffer out of a pool, or one too large for any pool, which then belongs to the garbage collector.
type block struct{ bytes []byte }

// blockPools holds a pool for each power of two from blockBytes to largestPooledBytes.
var blockPools [blockClasses]sync.Pool

// blockClass gives the pool for a buffer of n bytes, rounded up.
func blockClass(n int) int {
	return max(bits.Len(uint(n-1))-bits.Len(blockBytes-1), 0)
}

// takeBlock gives a buffer of at least n bytes, with a stranger's old bytes in it.
func takeBlock(n int) *block {
	class := blockClass(n)
	if class >= blockClasses {
		return &block{bytes: make([]byte, n)}
	}
	if b, ok := blockPools[class].Get().(*block); ok {
		return b
	}
	return &block{bytes: make([]byte, blockBytes<<class)}
}

func (b *block) giveBack() {
	if len(b.bytes) <= largestPooledBytes {
		blockPools[blockClass(len(b.bytes))].Put(b)
	}
}

// input is the window of the stream that is in memory: bytes[start:end] has arrived and is not consumed.
//
// It sits in the small array while the peer sends little, takes a block when more arrives than fits, doubles it for a
// large frame, and falls back to the small array when nothing is pending and little came lately.
type input struct {
	reader     io.Reader
	bytes      []byte
	start, end int

	block    *block // nil while bytes is the small array
	small    [idleBytes]byte
	deferred error // came together with bytes, to be told once those are used up
	fed      int   // bytes since the input was last empty
	total    uint64
}

func (in *input) reset(r io.Reader) {
	in.dropBlock()
	in.reader, in.start, in.end, in.deferred, in.fed, in.total = r, 0, 0, nil, 0, 0
}

func (in *input) pending() []byte { return in.bytes[in.start:in.end] }

// dropBlock goes back to the small array; only for an empty input.
func (in *input) dropBlock() {
	if in.block != nil {
		in.block.giveBack()
		in.block = nil
	}
	in.bytes = in.small[:]
	in.start, in.end = 0, 0
}

// moveTo carries what is pending over to a buffer of at least n bytes.
func (in *input) moveTo(n int) {
	next := takeBlock(n)
	in.end = copy(next.bytes, in.pending())
	in.start = 0
	if in.block != nil {
		in.block.giveBack()
	}
	in.block, in.bytes = next, next.bytes
}

// makeRoom leaves at least one free byte after end. A frame is moved at most once without growth, since it then begins
// at 0, and growth doubles: moving is linear in what arrived, and the buffer is at most twice what is pending.
func (in *input) makeRoom() {
	held := in.end - in.start
	switch {
	case held == 0:
		// Nothing is pending and the next read may wait for hours: keep at most one small block, and that only for a
		// peer that sends more than the small array takes.
		if in.fed <= idleBytes {
			in.dropBlock()
		} else if len(in.bytes) > blockBytes {
			in.moveTo(blockBytes)
		}
		in.start, in.end, in.fed = 0, 0, 0
	case in.end < len(in.bytes):
	case in.block == nil:
		in.moveTo(blockBytes)
	case in.start == 0:
		in.moveTo(2 * len(in.bytes))
	case len(in.bytes) > blockBytes && held <= len(in.bytes)/4:
		in.moveTo(max(blockBytes, 2*held))
	default:
		in.end = copy(in.bytes, in.pending())
		in.start = 0
	}
}

// fill reads once. It returns nil if bytes arrived, else the reader's error; a caller may fill again after an error that
// was temporary, such as a deadline.
func (in *input) fill() error {
	if err := in.deferred; err != nil {
		in.deferred = nil
		return err
	}
	in.makeRoom()
	for range maxEmptyReads {
		n, err := in.reader.Read(in.bytes[in.end:])
		if n > 0 {
			in.end += n
			in.fed += n
			in.total += uint64(n)
			in.deferred = err
			return nil
		}
		if err != nil {
			return err
		}
	}
	return io.ErrNoProgress
}
