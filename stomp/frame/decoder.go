package frame

import (
	"bytes"
	"io"
)

// Side says whose frames a decoder reads.
type Side uint8

const (
	// ServerSide reads what clients send. It honours content-length on SEND only: client libraries send one on frames
	// without a body, and replay a MESSAGE's headers in its ACK, and would otherwise hang the stream.
	ServerSide Side = iota
	// ClientSide reads what servers send. It honours content-length on MESSAGE and ERROR only.
	ClientSide
)

// stage is what the decoder looks for next.
type stage uint8

const (
	betweenFrames stage = iota
	inCommand
	inHeaders
	inBody
	ready // a frame or an error waits for Next
	taken // the frame is with the caller, its bytes are not consumed yet
)

const (
	// spansKept is the number of headers of a frame for which a decoder has room of its own.
	spansKept = 12
	// spansRetained is the number up to which it keeps further room from one frame to the next: 1 KiB.
	spansRetained = 64
)

// Decoder reads frames from a byte stream. It takes about 1 KiB while idle and must not be copied after first use, nor
// used by two goroutines at once.
//
// The zero Decoder is on the server side, speaks 1.0 and has the limits of [PreLoginLimits]; give it a reader with
// Reset. A server raises version and limits when the client has logged in.
//
// To flush replies before waiting for the peer, ask Buffered after each frame. To keep thousands of quiet connections
// cheap, put a read deadline on the connection and call ReleaseIfEmpty when it passes; Next continues where it was.
type Decoder struct {
	in      input
	limits  Limits
	side    Side
	version Version
	strict  bool
	limited bool // limits were set

	stage     stage
	line      int // where the line that is being read begins; this and the next three count from in.start
	scanned   int // how far the delimiter being looked for is known to be absent
	bodyStart int
	frameEnd  int // behind the frame's NUL, or where it will be
	counted   bool
	lines     int // header lines, repeated ones included

	frame Frame
	err   error

	kept [spansKept]span
}

// NewDecoder gives a decoder of r with the limits of [PreLoginLimits], at version 1.0.
func NewDecoder(r io.Reader, side Side) *Decoder {
	d := &Decoder{side: side}
	d.Reset(r)
	return d
}

// Reset forgets what is buffered, errors and the count, and continues with r. Side, version, limits and strictness stay.
// With a nil reader it only gives buffers back, to end with; Next must not be called then.
func (d *Decoder) Reset(r io.Reader) {
	if !d.limited {
		d.SetLimits(PreLoginLimits())
	}
	d.in.reset(r)
	d.stage, d.err, d.frame = betweenFrames, nil, Frame{spans: d.kept[:0]}
}

// SetSide says whose frames follow.
func (d *Decoder) SetSide(s Side) { d.side = s }

// SetVersion sets the version that was agreed on. Call it before Buffered and Next parse the first frame it holds for.
func (d *Decoder) SetVersion(v Version) { d.version = v }

// SetLimits sets the limits for the frames that follow. Call it before Buffered and Next parse the first of them.
func (d *Decoder) SetLimits(l Limits) { d.limits, d.limited = l.clamped(), true }

// SetStrict makes undefined escape sequences an error, as STOMP 1.2 "Value Encoding" demands. By default they are kept
// as they are, because ActiveMQ keeps them and clients that never escape rely on it.
func (d *Decoder) SetStrict(strict bool) { d.strict = strict }

// Bytes is the number of bytes read since Reset. If it grows, the peer is alive, be it in the middle of a frame.
func (d *Decoder) Bytes() uint64 { return d.in.total }

// Next returns the next frame, valid until the next call of Next, Buffered, ReleaseIfEmpty or Reset.
//
// It skips heart-beats without returning. It returns an *Error, again at each call, when the peer breaks the protocol;
// io.EOF at the end of the stream between frames and io.ErrUnexpectedEOF within one; any other error of the reader as it
// came. After an error of the reader that was temporary, a deadline say, Next may be called again and loses nothing.
func (d *Decoder) Next() (*Frame, error) {
	for !d.Buffered() {
		if err := d.in.fill(); err != nil {
			if err == io.EOF && d.stage != betweenFrames {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
	}
	if d.err != nil {
		return nil, d.err
	}
	d.stage = taken
	return &d.frame, nil
}

// Buffered tells whether Next will return at once, without reading: a whole frame has arrived, or bytes that break the
// protocol. It parses ahead, so the last frame becomes invalid and Next repeats no work.
func (d *Decoder) Buffered() bool {
	if d.stage == taken {
		d.in.start += d.frameEnd
		d.stage = betweenFrames
	}
	for d.stage != ready {
		if !d.step() {
			return false
		}
	}
	return true
}

// ReleaseIfEmpty gives the read buffer back to the pool when nothing is buffered, and tells whether nothing was. The
// next bytes then arrive in a small buffer first. It makes the last frame invalid.
func (d *Decoder) ReleaseIfEmpty() bool {
	if d.Buffered() || d.stage != betweenFrames {
		return false
	}
	d.in.dropBlock()
	d.in.fed = 0
	d.frame = Frame{spans: d.kept[:0]}
	return true
}

// step advances by one part of a frame; false means that more bytes are needed.
func (d *Decoder) step() bool {
	switch d.stage {
	case betweenFrames:
		return d.skipNoise()
	case inCommand:
		return d.readCommand()
	case inHeaders:
		return d.readHeaders()
	default:
		return d.readBody()
	}
}

// fail makes err the answer of this Next and all later ones.
func (d *Decoder) fail(err *Error) bool {
	if err.Command == 0 {
		err.Command = d.frame.Command
	}
	d.err, d.stage = err, ready
	return true
}

// skipNoise passes heart-beats, the LF behind a frame, and the NULs that some clients send twice.
func (d *Decoder) skipNoise() bool {
	for d.in.start < d.in.end {
		switch d.in.bytes[d.in.start] {
		case '\n', '\r', 0:
		default:
			d.begin()
			return true
		}
		d.in.start++
	}
	return false
}

func (d *Decoder) begin() {
	spans := d.frame.spans[:0]
	if cap(spans) > spansRetained && cap(spans) > 4*len(d.frame.spans) {
		spans = d.kept[:0] // grown for one odd frame
	}
	d.frame = Frame{spans: spans}
	d.stage, d.line, d.scanned, d.counted, d.lines = inCommand, 0, 0, false, 0
}

// untilLF finds the end of the line at d.line: text is the line without its CR LF or LF, and next the offset of the
// line behind it. Without a LF it remembers how far it looked. STOMP 1.2 "Augmented BNF" allows CR LF in 1.2 only;
// clients of all versions send it.
func (d *Decoder) untilLF(data []byte) (text []byte, next int, found bool) {
	i := bytes.IndexByte(data[d.scanned:], '\n')
	if i < 0 {
		d.scanned = len(data)
		return data[d.line:], 0, false
	}
	end := d.scanned + i
	next = end + 1
	if end > d.line && data[end-1] == '\r' {
		end--
	}
	return data[d.line:end], next, true
}

// readCommand reads the first line of a frame.
func (d *Decoder) readCommand() bool {
	unseen := d.scanned
	line, next, found := d.untilLF(d.in.pending())
	switch {
	case !found && (line[0] < 'A' || line[0] > 'Z') && len(line) > 1:
		return d.fail(commandError(line, 0)) // nothing that follows can make it a command
	case !found && bytes.IndexByte(line[unseen:], 0) >= 0:
		return d.fail(syntaxError("frame ends in its command line: a blank line has to follow the headers"))
	case len(line) > d.limits.Command+1 || found && len(line) > d.limits.Command:
		// Without the LF, one byte more than the limit may still be the CR.
		if looksLikeHTTP(line) || looksLikeTLS(line) {
			return d.fail(commandError(line, 0))
		}
		return d.fail(limitError(d.limits.Command, "command line longer than %d bytes", d.limits.Command))
	case !found:
		return false
	}
	command, known := ParseCommand(bytes.TrimRight(line, " \t\r"))
	if !known || command.FromClient() != (d.side == ServerSide) {
		return d.fail(commandError(line, command))
	}
	d.frame.Command = command
	d.stage, d.line, d.scanned = inHeaders, next, next
	d.checkHeadLength(next)
	return true
}

// checkHeadLength fails when the head has grown beyond its limit, and tells whether it did.
func (d *Decoder) checkHeadLength(n int) bool {
	if n <= d.limits.HeaderBytes {
		return false
	}
	return d.fail(limitError(d.limits.HeaderBytes, "command and headers longer than %d bytes", d.limits.HeaderBytes))
}

// readHeaders reads header lines up to the blank line that ends them.
func (d *Decoder) readHeaders() bool {
	data := d.in.pending()
	for {
		unseen := d.scanned
		line, next, found := d.untilLF(data)
		if !found {
			return d.checkUnfinishedLine(line, data[unseen:])
		}
		if d.checkHeadLength(next) {
			return true
		}
		if len(line) == 0 {
			return d.finishHead(data, next)
		}
		if err := d.addHeader(line); err != nil {
			return d.fail(err)
		}
		d.line, d.scanned = next, next
	}
}

// checkUnfinishedLine refuses what can no longer become a good header line, before more of it is buffered.
func (d *Decoder) checkUnfinishedLine(line, unseen []byte) bool {
	// Without the LF, one byte more than the limit may still be the CR.
	if len(line) > d.limits.HeaderLine+1 {
		return d.fail(d.longLine())
	}
	if bytes.IndexByte(unseen, 0) >= 0 {
		return d.fail(nulInHead())
	}
	return d.checkHeadLength(d.line + len(line))
}

func (d *Decoder) longLine() *Error {
	return limitError(d.limits.HeaderLine, "header line longer than %d bytes", d.limits.HeaderLine)
}

func nulInHead() *Error {
	return syntaxError("NUL among the headers: a blank line has to follow them, even when there is no body")
}

// namelessHeader does not show the line: it may be a part of a passcode.
func namelessHeader(line int, c Command) *Error {
	return syntaxError("header line %d of %s has no name before a ':': headers are written name:value", line, c)
}

// addHeader notes where the header at d.line stands.
func (d *Decoder) addHeader(line []byte) *Error {
	d.lines++
	if len(line) > d.limits.HeaderLine {
		return d.longLine()
	}
	if d.lines > d.limits.Headers {
		return limitError(d.limits.Headers, "more than %d headers", d.limits.Headers)
	}
	colon := bytes.IndexByte(line, ':')
	if colon <= 0 {
		return namelessHeader(d.lines, d.frame.Command)
	}
	start := uint32(d.line)
	d.frame.spans = append(d.frame.spans, span{
		name: start, nameEnd: start + uint32(colon),
		value: start + uint32(colon) + 1, valueEnd: start + uint32(len(line)),
	})
	return nil
}

// readBody waits for the NUL that ends the frame.
func (d *Decoder) readBody() bool {
	data := d.in.pending()
	if d.counted {
		if len(data) < d.frameEnd {
			return false
		}
		if data[d.frameEnd-1] != 0 {
			return d.failWithReceipt(&Error{Kind: KindContentLength,
				Text: "no NUL behind the body: content-length is not the body's length in bytes"})
		}
		return d.finishFrame(data)
	}
	i := bytes.IndexByte(data[d.scanned:], 0)
	if i < 0 {
		d.scanned = len(data)
	} else {
		d.scanned += i
	}
	if d.scanned-d.bodyStart > d.limits.Body {
		return d.failWithReceipt(d.longBody())
	}
	if i < 0 {
		return false
	}
	d.frameEnd = d.scanned + 1
	return d.finishFrame(data)
}

func (d *Decoder) longBody() *Error {
	if d.limits.Body == 0 {
		return limitError(0, "%s may not have a body here", d.frame.Command)
	}
	return limitError(d.limits.Body, "body longer than %d bytes", d.limits.Body)
}

func (d *Decoder) finishFrame(data []byte) bool {
	d.frame.head = data[:d.bodyStart:d.bodyStart]
	d.frame.Body = data[d.bodyStart : d.frameEnd-1 : d.frameEnd-1]
	d.stage = ready
	return true
}
