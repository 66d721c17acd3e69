package frame

import "bytes"

// Version is a version of the protocol; later ones are greater. The zero value is 1.0, which holds until a version is
// agreed on.
type Version uint8

// The versions there are.
const (
	V10 Version = iota
	V11
	V12
)

// String gives the version as it stands in the version header.
func (v Version) String() string {
	switch v {
	case V10:
		return "1.0"
	case V11:
		return "1.1"
	case V12:
		return "1.2"
	}
	return "?"
}

// Negotiate gives the highest version in the value of an accept-version header, a list separated by commas. An empty
// value means 1.0, as an absent header does (STOMP 1.2 "Protocol Negotiation"). It reports false when the list names no
// version known here.
func Negotiate(acceptVersion []byte) (Version, bool) {
	rest := bytes.TrimSpace(acceptVersion)
	if len(rest) == 0 {
		return V10, true
	}
	best, found := V10, false
	for more := true; more; {
		var one []byte
		one, rest, more = bytes.Cut(rest, []byte{','})
		one = bytes.TrimSpace(one)
		for v := V10; v <= V12; v++ {
			if string(one) == v.String() {
				best, found = max(best, v), true
			}
		}
	}
	return best, found
}
