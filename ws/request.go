package ws

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/mqgate/mqgate/router"
)

// request is a message of a client; PROTOCOL.md says what each op takes.
type request struct {
	ID uint64 `json:"id"` // 0: no reply is wanted but to an error
	Op string `json:"op"`

	// connect
	Token    *string `json:"token"`
	User     *string `json:"user"`
	Password string  `json:"password"`
	ClientID string  `json:"clientId"`
	Name     string  `json:"name"`

	// publish, request
	To            string          `json:"to"`
	Body          *string         `json:"body"`
	Data          json.RawMessage `json:"data"`
	Base64        []byte          `json:"base64"`
	ContentType   string          `json:"contentType"`
	Headers       orderedHeaders  `json:"headers"`
	ReplyTo       string          `json:"replyTo"`
	CorrelationID string          `json:"correlationId"`
	DedupID       string          `json:"dedupId"`
	TTLMs         int64           `json:"ttlMs"`
	Priority      *uint8          `json:"priority"`
	Persistent    *bool           `json:"persistent"`
	Retain        bool            `json:"retain"`
	TimeoutMs     int64           `json:"timeoutMs"`

	// subscribe, unsubscribe, credit
	Sub      string        `json:"sub"`
	Ack      string        `json:"ack"`
	Credit   int           `json:"credit"`
	Durable  string        `json:"durable"`
	NoLocal  bool          `json:"noLocal"`
	Forget   bool          `json:"forget"`
	Presence bool          `json:"presence"`
	Retained bool          `json:"retained"`
	History  *historyStart `json:"history"`

	// ack, nack
	Delivery uint64 `json:"delivery"`
	DelayMs  *int64 `json:"delayMs"`
	Reject   bool   `json:"reject"`
	Cause    string `json:"cause"`
}

// historyStart is from where a subscription wants the history.
type historyStart struct {
	Last    int    `json:"last"`
	SinceMs int64  `json:"sinceMs"`
	Seq     uint64 `json:"seq"`
	Epoch   uint64 `json:"epoch"`
}

// orderedHeaders keeps the order of a JSON object's members.
type orderedHeaders []router.Header

const (
	maxHeaders     = 64
	maxHeaderBytes = 8 << 10
	maxPriority    = 9
)

// UnmarshalJSON reads an object of strings.
func (h *orderedHeaders) UnmarshalJSON(b []byte) error {
	d := json.NewDecoder(bytes.NewReader(b))
	if t, err := d.Token(); err != nil || t == nil {
		return err
	} else if t != json.Delim('{') {
		return fmt.Errorf("headers must be an object of strings")
	}
	size := 0
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return err
		}
		value, err := d.Token()
		if err != nil {
			return err
		}
		text, ok := value.(string)
		if !ok {
			return fmt.Errorf("header %.64q must be a string", name)
		}
		size += len(name.(string)) + len(text)
		if len(*h) == maxHeaders || size > maxHeaderBytes {
			return fmt.Errorf("at most %d headers of %d bytes together are allowed", maxHeaders, maxHeaderBytes)
		}
		*h = append(*h, router.Header{Name: name.(string), Value: text})
	}
	return nil
}

// decodeRequest reads one request. It returns what it could read of it with an error.
func decodeRequest(b []byte) (*request, error) {
	var r request
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields() // a misspelt member must not be ignored
	if err := d.Decode(&r); err != nil {
		return &r, mistake("%s", explainJSON(err))
	}
	if _, err := d.Token(); err != io.EOF {
		return &r, mistake("a message is one JSON object; something follows it")
	}
	return &r, nil
}

func explainJSON(err error) string {
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return "the message is not JSON: it ends early"
	}
	text := strings.ReplaceAll(strings.TrimPrefix(err.Error(), "json: "), "Go struct field request.", "")
	if len(text) > 200 {
		text = text[:200]
	}
	return "bad message: " + strings.ToValidUTF8(text, "?")
}

// message makes a router's message of a publish.
func (r *request) message(vhost string) (*router.Message, error) {
	to, _, err := router.ParseDestination(vhost, r.To)
	if err != nil {
		return nil, err
	}
	m := &router.Message{
		To: to, ContentType: r.ContentType, ReplyTo: r.ReplyTo, CorrelationID: r.CorrelationID, Headers: r.Headers,
		DedupID: r.DedupID, Priority: router.DefaultPriority, Flags: router.FlagPersistent,
	}
	if err := r.body(m); err != nil {
		return nil, err
	}
	if r.Priority != nil {
		if m.Priority = *r.Priority; m.Priority > maxPriority {
			return nil, mistake("priority must be 0 to %d", maxPriority)
		}
	}
	if r.Persistent != nil && !*r.Persistent {
		m.Flags &^= router.FlagPersistent
	}
	if r.Retain {
		m.Flags |= router.FlagRetain
	}
	if r.TTLMs < 0 {
		return nil, mistake("ttlMs must not be negative")
	}
	return m, checkLines(r.ContentType, r.ReplyTo, r.CorrelationID, r.DedupID)
}

// checkLines refuses what does not fit in the headers of the other protocols.
func checkLines(contentType, replyTo, correlationID, dedupID string) error {
	for _, s := range [...]string{contentType, replyTo, correlationID, dedupID} {
		if len(s) > router.MaxNameBytes || strings.ContainsAny(s, "\x00\r\n") || !utf8.ValidString(s) {
			return mistake("content type, reply-to, correlation id and dedup id are at most %d bytes of UTF-8 in one line", router.MaxNameBytes)
		}
	}
	return nil
}

// jsonType is the content type of data.
const jsonType = "application/json"

func (r *request) body(m *router.Message) error {
	n := 0
	if r.Body != nil {
		n++
		m.Body = []byte(*r.Body)
		m.Flags |= router.FlagText | router.FlagUTF8
	}
	if r.Data != nil {
		n++
		m.Body = r.Data
		m.Flags |= router.FlagText | router.FlagUTF8
		if m.ContentType == "" {
			m.ContentType = jsonType
		}
	}
	if r.Base64 != nil {
		n++
		m.Body = r.Base64
	}
	if n > 1 {
		return mistake("give one of body, data and base64")
	}
	if strings.IndexByte(string(m.Body), 0) >= 0 {
		m.Flags &^= router.FlagText // a STOMP frame without content-length would end there
	}
	return nil
}

// appendQuoted appends a JSON string. What is not UTF-8 becomes U+FFFD.
func appendQuoted[T string | []byte](dst []byte, s T) []byte {
	const hex = "0123456789abcdef"
	dst = append(dst, '"')
	from := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c < utf8.RuneSelf {
			if c >= ' ' && c != '"' && c != '\\' {
				i++
				continue
			}
			dst = append(dst, s[from:i]...)
			switch c {
			case '"', '\\':
				dst = append(dst, '\\', c)
			case '\n':
				dst = append(dst, '\\', 'n')
			default:
				dst = append(dst, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
			}
			i++
			from = i
			continue
		}
		r, size := utf8.DecodeRuneInString(string(s[i:min(i+utf8.UTFMax, len(s))]))
		if r == utf8.RuneError && size == 1 {
			dst = append(dst, s[from:i]...)
			dst = append(dst, "\ufffd"...)
			from = i + 1
		}
		i += size
	}
	dst = append(dst, s[from:]...)
	return append(dst, '"')
}
