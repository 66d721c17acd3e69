package frame

import (
	"bytes"
	"strconv"
)

// Header is a header to encode, unescaped.
type Header struct{ Name, Value string }

// frameEnd follows every body. STOMP allows EOLs behind the NUL, and php-stomp depends on the first: it reads one byte
// more than the frame without looking at it.
const frameEnd = "\x00\n"

// A whole frame is made by AppendFrame, or piece by piece: AppendCommand, any number of AppendHeader and AppendIntHeader,
// one AppendBody. For a fan-out the pieces that all receivers share, the common headers and the body, are encoded once
// and appended as they are behind each receiver's command and own headers; that is valid for receivers of one version.

// AppendCommand appends the first line of a frame.
func AppendCommand(dst []byte, c Command) []byte {
	dst = append(dst, c.String()...)
	return append(dst, '\n')
}

// AppendHeader appends one header line, escaped for the version. The name must not be empty.
//
// For CONNECT and CONNECTED pass V10, which never escapes, and for STOMP V12, whatever the connection's version is;
// AppendFrame does so by itself.
//
// Whatever the strings hold, exactly one header line comes out: an octet that the version cannot express is replaced. NUL,
// and CR before 1.2, and LF in 1.0, become a space; ':' in a name of 1.0 becomes '_'. All other octets arrive as given,
// except that a 1.0 receiver may trim spaces around the value.
func AppendHeader[N, V ~string | ~[]byte](dst []byte, v Version, name N, value V) []byte {
	dst = appendEscaped(dst, &nameEscapes[min(v, V12)], name)
	dst = append(dst, ':')
	dst = appendEscaped(dst, &valueEscapes[min(v, V12)], value)
	return append(dst, '\n')
}

// AppendIntHeader appends one header line with a number. The name is written as it is and must be one that needs no
// escaping, such as "content-length".
func AppendIntHeader(dst []byte, name string, value int64) []byte {
	dst = append(dst, name...)
	dst = append(dst, ':')
	dst = strconv.AppendInt(dst, value, 10)
	return append(dst, '\n')
}

// AppendBody appends the blank line, the body and the frame's end, NUL and LF. A body that contains a NUL needs a
// content-length among the headers, and a command that may have one; see [NeedsContentLength].
func AppendBody[B ~string | ~[]byte](dst []byte, body B) []byte {
	dst = append(dst, '\n')
	dst = append(dst, body...)
	return append(dst, frameEnd...)
}

// NeedsContentLength tells whether a body cannot be sent without a content-length header, since it contains a NUL.
// Others can: ActiveMQ tells its clients text from bytes by the header's presence, so it is not always welcome.
func NeedsContentLength(body []byte) bool { return bytes.IndexByte(body, 0) >= 0 }

// AppendFrame appends a whole frame. The version is the connection's.
//
// The body is written only for commands that may have one ([Command.HasBody]); it must be empty for others. A
// content-length is added when the body needs it and the headers lack it. A content-length among the headers is the
// caller's word and has to be right.
func AppendFrame(dst []byte, v Version, c Command, body []byte, headers ...Header) []byte {
	v = c.escaping(v)
	dst = AppendCommand(dst, c)
	counted := false
	for _, h := range headers {
		counted = counted || h.Name == "content-length"
		dst = AppendHeader(dst, v, h.Name, h.Value)
	}
	if !c.HasBody() {
		return AppendBody(dst, "")
	}
	if !counted && NeedsContentLength(body) {
		dst = AppendIntHeader(dst, "content-length", int64(len(body)))
	}
	return AppendBody(dst, body)
}

// Append appends a decoded frame as it would be sent on a connection of version v. The result decodes to an equal frame
// unless it holds an octet that AppendHeader replaces. Like AppendFrame it writes no body for commands that may not have
// one.
func (f *Frame) Append(dst []byte, v Version) []byte {
	v = f.Command.escaping(v)
	dst = AppendCommand(dst, f.Command)
	for name, value := range f.All() {
		dst = AppendHeader(dst, v, name, value)
	}
	if !f.Command.HasBody() {
		return AppendBody(dst, "")
	}
	return AppendBody(dst, f.Body)
}

// escapes holds for each octet what is written for it; "" for the octet itself.
type escapes [256]string

// The rules for each version, STOMP 1.1 and 1.2 "Value Encoding". A CR has no escape in 1.1, and clients differ on
// whether a bare one ends a line, so it is not sent there.
var (
	valueEscapes = [...]escapes{
		V10: {0: " ", '\n': " ", '\r': " "},
		V11: {0: " ", '\n': `\n`, '\r': " ", ':': `\c`, '\\': `\\`},
		V12: {0: " ", '\n': `\n`, '\r': `\r`, ':': `\c`, '\\': `\\`},
	}
	nameEscapes = [...]escapes{
		V10: {0: " ", '\n': " ", '\r': " ", ':': "_"},
		V11: valueEscapes[V11],
		V12: valueEscapes[V12],
	}
)

// appendEscaped copies the stretches between octets that need an escape.
func appendEscaped[S ~string | ~[]byte](dst []byte, table *escapes, s S) []byte {
	plain := 0
	for i := 0; i < len(s); i++ {
		if e := table[s[i]]; e != "" {
			dst = append(dst, s[plain:i]...)
			dst = append(dst, e...)
			plain = i + 1
		}
	}
	return append(dst, s[plain:]...)
}
