package admin

import (
	"encoding/base64"
	"net/http"
	"unicode/utf8"

	"github.com/mqgate/mqgate/router"
)

// maxPeek bounds the messages of one answer, maxPeekBody the bytes of a body in it.
const (
	maxPeek     = 1000
	maxPeekBody = 4 << 10
)

// Message is a stored message as operators see it.
type Message struct {
	Sequence    uint64            `json:"sequence"`
	State       string            `json:"state"`
	Deliveries  int               `json:"deliveries"`
	ID          string            `json:"id"`
	Destination string            `json:"destination"`
	ContentType string            `json:"content_type,omitempty"`
	ReplyTo     string            `json:"reply_to,omitempty"`
	Correlation string            `json:"correlation_id,omitempty"`
	Headers     map[string]string `json:"headers,omitempty"`
	Priority    uint8             `json:"priority"`
	Timestamp   int64             `json:"timestamp_ms"`
	Expires     int64             `json:"expires_ms,omitempty"`
	Size        int               `json:"size"` // of the body, bytes
	Body        string            `json:"body"`
	Base64      bool              `json:"base64,omitempty"` // the body is not text
	Truncated   bool              `json:"truncated,omitempty"`
}

func (h *handler) messages(r *http.Request, p *router.Principal) (any, error) {
	a, err := address(r, "name")
	if err != nil {
		return nil, err
	}
	from, err := number(r, "from", 0)
	if err != nil {
		return nil, err
	}
	limit, err := number(r, "limit", 10)
	if err != nil {
		return nil, err
	}
	peeked, err := h.Router.Peek(r.Context(), p, a, from, int(min(limit, maxPeek)))
	if err != nil {
		return nil, err
	}
	out := make([]Message, len(peeked))
	for i, m := range peeked {
		out[i] = view(m)
	}
	return out, nil
}

func view(p router.PeekedMessage) Message {
	m := p.Message
	v := Message{
		Sequence: p.Seq, State: p.State, Deliveries: p.Deliveries, ID: m.ID.String(), Destination: m.To.Text(router.StyleDot),
		ContentType: m.ContentType, ReplyTo: m.ReplyTo, Correlation: m.CorrelationID, Priority: m.Priority,
		Timestamp: m.TimestampMs, Expires: max(m.ExpiresUnixMs, 0), Size: len(m.Body),
	}
	for _, h := range m.Headers {
		if v.Headers == nil {
			v.Headers = map[string]string{}
		}
		if _, ok := v.Headers[h.Name]; !ok {
			v.Headers[h.Name] = h.Value
		}
	}
	body := m.Body
	if len(body) > maxPeekBody {
		body, v.Truncated = body[:maxPeekBody], true
		for len(body) > 0 && !utf8.Valid(body) && len(body) > maxPeekBody-utf8.UTFMax {
			body = body[:len(body)-1] // a character was cut in two
		}
	}
	if v.Base64 = !utf8.Valid(body); v.Base64 {
		v.Body = base64.StdEncoding.EncodeToString(body)
	} else {
		v.Body = string(body)
	}
	return v
}
