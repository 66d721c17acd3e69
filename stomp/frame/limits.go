package frame

// Limits bounds one frame. Every figure is a maximum that is still accepted; zero allows none of the thing and negative
// figures count as zero. Figures above 1 GiB count as 1 GiB.
type Limits struct {
	// Command is the length of the command line in bytes, without its end of line.
	Command int
	// HeaderLine is the length of one header line in bytes, without its end of line and before unescaping.
	HeaderLine int
	// HeaderBytes is the length in bytes of everything before the body: command, headers, ends of lines, blank line.
	HeaderBytes int
	// Headers is the number of header lines, repeated ones included.
	Headers int
	// Body is the length of the body in bytes.
	Body int
}

const maxLimit = 1 << 30

// DefaultLimits gives the limits for a client that has logged in. Header lines and their number are ActiveMQ's; all
// headers together and the body are tighter. A connection may hold 32 MiB under them, and only while it sends such a
// frame.
func DefaultLimits() Limits {
	return Limits{Command: 64, HeaderLine: 10 << 10, HeaderBytes: 64 << 10, Headers: 1000, Body: 16 << 20}
}

// PreLoginLimits gives the limits for a stranger: a frame of 8 KiB without a body, which is ample for a CONNECT that
// carries a token. It fits the smallest pooled buffer.
func PreLoginLimits() Limits {
	return Limits{Command: 64, HeaderLine: 8 << 10, HeaderBytes: 8 << 10, Headers: 100, Body: 0}
}

// clamped makes the limits safe to add up in an int of any size.
func (l Limits) clamped() Limits {
	for _, n := range []*int{&l.Command, &l.HeaderLine, &l.HeaderBytes, &l.Headers, &l.Body} {
		*n = min(max(*n, 0), maxLimit)
	}
	return l
}
