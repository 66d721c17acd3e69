package jetstream

import (
	"crypto/sha256"
	"encoding/base32"
	"strings"

	"github.com/mqgate/mqgate/router"
)

var base32Name = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// hashName makes a token of 26 letters and digits that is safe in subjects,
// stream names and file names, of any text. Two texts that meet are not to be
// expected (128 bits).
func hashName(parts ...string) string {
	h := sha256.New()
	for _, p := range parts {
		h.Write([]byte(p))
		h.Write([]byte{0})
	}
	return base32Name.EncodeToString(h.Sum(nil)[:16])
}

func mailboxHash(id router.MailboxID) string {
	return hashName(string(rune('0'+id.Kind)), id.Vhost, id.Name)
}

// Subject returns the NATS subject of a topic address or filter below a prefix.
// Each level is escaped on its own and reversibly, so that no client's name can
// become a wildcard, a separator or a subject of the server:
//
//	empty level            ~e
//	byte b of ~ . * > and all up to space, and DEL   ~XX in hex
//	$ at the start of the first level                ~24
//
// A filter's "+" becomes "*" and its "#" becomes ">". Every subject ends in the
// token "~t", so that "a.>" alone covers a and all below it, as a filter's "a/#"
// does.
func Subject(prefix string, levels []string, filter bool) string {
	var b strings.Builder
	b.WriteString(prefix)
	for i, l := range levels {
		b.WriteByte('.')
		switch {
		case filter && l == "+":
			b.WriteByte('*')
		case filter && l == "#":
			b.WriteByte('>')
			return b.String()
		default:
			escapeLevel(&b, l, i == 0)
		}
	}
	b.WriteString(".~t")
	return b.String()
}

const hexDigits = "0123456789abcdef"

func escapeLevel(b *strings.Builder, l string, first bool) {
	if l == "" {
		b.WriteString("~e")
		return
	}
	for i := 0; i < len(l); i++ {
		c := l[i]
		if c <= ' ' || c == 0x7f || c == '~' || c == '.' || c == '*' || c == '>' || (c == '$' && first && i == 0) {
			b.WriteByte('~')
			b.WriteByte(hexDigits[c>>4])
			b.WriteByte(hexDigits[c&15])
			continue
		}
		b.WriteByte(c)
	}
}
