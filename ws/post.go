package ws

import (
	"context"
	"errors"
	"io"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/mqgate/mqgate/router"
	"github.com/mqgate/mqgate/router/outbox"
)

// publishHeaders are the headers of a publish over HTTP.
var publishHeaders = []string{
	"Mqgate-Reply-To", "Mqgate-Correlation-Id", "Mqgate-Dedup-Id", "Mqgate-Ttl", "Mqgate-Priority", "Mqgate-Persistent", "Mqgate-Retain", "Mqgate-Header",
}

// apiPublish publishes the body of a request. It answers once it is stored where
// it is to be stored.
func (s *Server) apiPublish(w http.ResponseWriter, r *http.Request, p *router.Principal) error {
	if err := known(r); err != nil {
		return err
	}
	m, err := messageOf(r)
	if err != nil {
		return err
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, int64(s.opt.MaxMessageBytes)))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return &apiError{code: router.TooLarge.String(), text: "the body is over the limit of " + strconv.Itoa(s.opt.MaxMessageBytes) + " bytes"}
	case err != nil:
		return mistake("the body did not come whole")
	}
	m.Body = body
	if utf8.Valid(body) {
		m.Flags |= router.FlagUTF8
		if !slices.Contains(body, 0) && isText(m.ContentType) {
			m.Flags |= router.FlagText
		}
	}
	c, err := s.connectHTTP(r, p)
	if err != nil {
		return err
	}
	defer c.leave()
	if err := c.publishAndWait(m); err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, append(append([]byte(`{"ok":true,"id":"`), m.ID.AppendText(nil)...), "\"}\n"...))
	return nil
}

// publishAndWait returns when the store has said yes or no, or nothing in time.
func (c *caller) publishAndWait(m *router.Message) error {
	ctx, cancel := context.WithTimeout(c.server.life, operationTimeout)
	defer cancel()
	stored := make(chan error, 1)
	var w outbox.Batch
	pending, err := c.Publish(ctx, m, &w, func(_ router.Stored, err error, _ *outbox.Batch) { stored <- err })
	w.Flush()
	if err != nil || !pending {
		return err
	}
	return await(ctx, stored)
}

// await waits for the store's answer.
func await(ctx context.Context, stored <-chan error) error {
	select {
	case err := <-stored:
		return err
	case <-ctx.Done():
		return &apiError{code: router.Unavailable.String(), text: "the store has not confirmed in time; it may yet be stored", retry: true}
	}
}

// messageOf makes a message of the path and the headers of a request.
func messageOf(r *http.Request) (*router.Message, error) {
	to, _, err := router.ParseDestination(router.DefaultVhost, "/"+r.PathValue("destination"))
	if err != nil {
		return nil, err
	}
	h := r.Header
	m := &router.Message{
		To: to, ReplyTo: h.Get("Mqgate-Reply-To"), CorrelationID: h.Get("Mqgate-Correlation-Id"), DedupID: h.Get("Mqgate-Dedup-Id"),
		ContentType: contentType(h.Get("Content-Type")), Priority: router.DefaultPriority, Flags: router.FlagPersistent,
	}
	for name := range h {
		if strings.HasPrefix(name, "Mqgate-") && !slices.Contains(publishHeaders, name) {
			return nil, mistake("unknown header %.64q; there are %s", name, strings.Join(publishHeaders, ", "))
		}
	}
	if err := checkLines(m.ContentType, m.ReplyTo, m.CorrelationID, m.DedupID); err != nil {
		return nil, err
	}
	if err := readOptions(m, h); err != nil {
		return nil, err
	}
	m.Headers, err = userHeaders(h.Values("Mqgate-Header"))
	return m, err
}

// contentType leaves out what curl and browsers say when nobody told them.
func contentType(text string) string {
	if t, _, err := mime.ParseMediaType(text); err == nil && t == "application/x-www-form-urlencoded" {
		return ""
	}
	return text
}

// isText reports whether a body of a content type may be handled as text.
func isText(contentType string) bool {
	t, _, err := mime.ParseMediaType(contentType)
	return contentType == "" || err == nil && (strings.HasPrefix(t, "text/") || t == jsonType || strings.HasSuffix(t, "+json") || strings.HasSuffix(t, "xml"))
}

func readOptions(m *router.Message, h http.Header) error {
	if text := h.Get("Mqgate-Ttl"); text != "" {
		d, err := parseDuration(text)
		if err != nil || d <= 0 {
			return mistake("Mqgate-Ttl must be a time such as 30s, or milliseconds")
		}
		m.ExpiresUnixMs = time.Now().Add(d).UnixMilli()
	}
	if text := h.Get("Mqgate-Priority"); text != "" {
		n, err := strconv.ParseUint(text, 10, 8)
		if err != nil || n > maxPriority {
			return mistake("Mqgate-Priority must be 0 to %d", maxPriority)
		}
		m.Priority = uint8(n)
	}
	persistent, err := boolean(h, "Mqgate-Persistent", true)
	if err != nil {
		return err
	}
	retain, err := boolean(h, "Mqgate-Retain", false)
	if err != nil {
		return err
	}
	if !persistent {
		m.Flags &^= router.FlagPersistent
	}
	if retain {
		m.Flags |= router.FlagRetain
	}
	return nil
}

func boolean(h http.Header, name string, def bool) (bool, error) {
	switch h.Get(name) {
	case "":
		return def, nil
	case "true":
		return true, nil
	case "false":
		return false, nil
	}
	return false, mistake("%s must be true or false", name)
}

// userHeaders reads "Name: value" lines, in which names keep their case.
func userHeaders(lines []string) ([]router.Header, error) {
	var out []router.Header
	size := 0
	for _, line := range lines {
		name, value, ok := strings.Cut(line, ":")
		name, value = strings.TrimSpace(name), strings.TrimSpace(value)
		if size += len(line); !ok || name == "" || len(out) == maxHeaders || size > maxHeaderBytes || !utf8.ValidString(line) {
			return nil, mistake(`Mqgate-Header must be "Name: value" in UTF-8, at most %d of %d bytes together`, maxHeaders, maxHeaderBytes)
		}
		out = append(out, router.Header{Name: name, Value: value})
	}
	return out, nil
}
