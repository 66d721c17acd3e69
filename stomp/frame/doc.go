// Package frame is the wire format of STOMP 1.0, 1.1 and 1.2: it turns a byte stream into frames and frames into bytes.
//
// It serves both ends. A server decodes what clients send and encodes CONNECTED, MESSAGE, RECEIPT and ERROR; a load
// generator or a test client does the reverse with the same [Decoder] set to [ClientSide].
//
// # What it guarantees
//
//   - Memory follows the bytes that arrived, never a number the peer wrote. A frame that breaks a limit of [Limits] is
//     refused before more of it is buffered, so a decoder holds at most twice the largest frame its limits allow
//     (buffers grow by doubling) and 16 KiB otherwise. Idle, it holds its own struct of about 1 KiB.
//   - Work is linear in the bytes that arrived, however small the reads: a byte is scanned for its delimiter once.
//   - Decoding and encoding a frame allocate nothing in steady state.
//   - Escaping follows the version: none in 1.0, three sequences in 1.1, four in 1.2, and never in CONNECT and
//     CONNECTED. What a version cannot escape cannot be injected by it either (see [AppendHeader]).
//   - Every encoded frame ends with NUL and LF in the same append, because the most used PHP client reads the byte after
//     NUL blindly and loses the next frame's first byte when it is not there.
//
// # What it tolerates
//
// CR LF in all versions, NULs and blank lines between frames, spaces after a command and around numbers, raw ':' in
// header values, unknown escape sequences (kept verbatim unless strict), repeated headers (the first one counts, the
// others are dropped as if never sent).
//
// # What it never does
//
// It knows no semantics beyond framing: not which headers a command needs, not who may send what, not whether text is
// valid UTF-8. It starts no goroutine, sets no deadline and writes to no connection; deadlines are the caller's duty.
//
// It imports nothing of this module and may be imported by the STOMP front-end, the bench verb and tests.
package frame
