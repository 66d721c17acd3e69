package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/mqgate/mqgate/config"
	"github.com/mqgate/mqgate/gateway"
	"github.com/mqgate/mqgate/gateway/admin"
	"github.com/mqgate/mqgate/router"
)

// QueueCmd has the operator's verbs on queues. They talk to the running gateway.
type QueueCmd struct {
	Ls    QueueLsCmd    `cmd:"" help:"List queues and durable subscriptions with their depths."`
	Info  QueueInfoCmd  `cmd:"" help:"Show one queue, and which consumers hold its messages."`
	Peek  QueuePeekCmd  `cmd:"" help:"Show messages without taking them."`
	Purge QueuePurgeCmd `cmd:"" help:"Remove all messages that no consumer holds."`
	Move  QueueMoveCmd  `cmd:"" help:"Move waiting messages to another queue, such as dead letters back to where they failed."`
	Rm    QueueRmCmd    `cmd:"" help:"Delete a queue that has no consumers, with its messages."`
}

// endpoint is how a verb reaches the gateway: by the socket in its data
// directory, or by its admin address.
type endpoint struct {
	Config       string   `name:"config" placeholder:"FILE" help:"The gateway's configuration file: its data_dir has the admin socket."`
	Set          []string `name:"set" sep:"none" placeholder:"KEY=VALUE" help:"Set one key of the configuration, such as data_dir."`
	URL          string   `name:"url" placeholder:"URL" help:"Use the admin listener at this URL instead of the socket, such as http://127.0.0.1:9090."`
	TLSCA        string   `name:"tls-ca" type:"existingfile" placeholder:"FILE" help:"Certificates (PEM) to trust instead of the system's, for --url https://…"`
	User         string   `name:"user" help:"User with admin rights, for --url."`
	PasswordFile string   `name:"password-file" placeholder:"FILE" help:"File with that user's password."`
	Output       string   `name:"output" short:"o" enum:"table,json" default:"table" help:"table or json."`
}

// callTimeout bounds a verb; a backup takes longest.
const callTimeout = 6 * time.Hour

// call makes a request and decodes its answer into v; raw is the answer as sent.
func (e *endpoint) call(p *process, method, path string, params url.Values, v any) (raw []byte, err error) {
	body, err := e.open(p, method, path+"?"+params.Encode())
	if err != nil {
		return nil, err
	}
	defer body.Close()
	if raw, err = io.ReadAll(body); err != nil {
		return nil, fmt.Errorf("read the answer: %w", err)
	}
	if err := json.Unmarshal(raw, v); err != nil {
		return nil, fmt.Errorf("read the answer: %w", err)
	}
	return raw, nil
}

// open makes a request and returns the body of its answer, to be read to the end and closed.
func (e *endpoint) open(p *process, method, target string) (io.ReadCloser, error) {
	client, base, err := e.client(p)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(context.Background(), method, base+target, nil)
	if err != nil {
		return nil, usageError{err.Error()}
	}
	req.Header.Set("X-Mqgate-Admin", "1")
	if e.User != "" {
		password, err := os.ReadFile(e.PasswordFile)
		if err != nil {
			return nil, fmt.Errorf("read the password: %w", err)
		}
		req.SetBasicAuth(e.User, strings.TrimRight(string(password), "\r\n"))
	}
	resp, err := client.Do(req)
	if err != nil {
		var failed *url.Error
		if errors.As(err, &failed) {
			err = failed.Err // without the address of the request, which is of no use behind a socket
		}
		if e.URL != "" {
			return nil, fmt.Errorf("is the gateway running? %w", err)
		}
		return nil, fmt.Errorf("is the gateway running? The socket is looked for in data_dir, which --config FILE or --set data_dir=DIR name: %w", err)
	}
	if resp.StatusCode == http.StatusOK {
		return resp.Body, nil
	}
	defer resp.Body.Close()
	var failure struct{ Error string }
	if json.NewDecoder(resp.Body).Decode(&failure) == nil && failure.Error != "" {
		return nil, errors.New(failure.Error)
	}
	return nil, fmt.Errorf("the gateway answered %s", resp.Status)
}

func (e *endpoint) client(p *process) (*http.Client, string, error) {
	if e.URL != "" {
		secure, err := trusting(e.TLSCA)
		if err != nil {
			return nil, "", usageError{err.Error()}
		}
		return &http.Client{Timeout: callTimeout, Transport: &http.Transport{Proxy: http.ProxyFromEnvironment, TLSClientConfig: secure, DisableKeepAlives: true}}, strings.TrimSuffix(e.URL, "/"), nil
	}
	cfg, err := e.load(p)
	if err != nil {
		return nil, "", err
	}
	socket := filepath.Join(cfg.DataDir, gateway.AdminSocket)
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", socket)
	}
	return &http.Client{Timeout: callTimeout, Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}, "http://localhost", nil
}

// load reads the gateway's configuration.
func (e *endpoint) load(p *process) (*config.Config, error) {
	return config.Load(config.Sources{File: e.Config, Environ: p.environ, Set: e.Set})
}

// print writes the answer as it came, or has f write a table.
func (e *endpoint) print(p *process, raw []byte, f func(w io.Writer)) error {
	if e.Output == "json" {
		_, err := p.stdout.Write(raw)
		return err
	}
	w := tabwriter.NewWriter(p.stdout, 0, 0, 2, ' ', 0)
	f(w)
	return w.Flush()
}

// QueueLsCmd lists queues.
type QueueLsCmd struct{ endpoint }

// Run prints one line for each.
func (c *QueueLsCmd) Run(p *process) error {
	var queues []router.MailboxInfo
	raw, err := c.call(p, "GET", "/api/v1/queues", url.Values{}, &queues)
	if err != nil {
		return err
	}
	return c.print(p, raw, func(w io.Writer) {
		fmt.Fprintln(w, "NAME\tKIND\tREADY\tUNACKED\tDELAYED\tBYTES\tCONSUMERS")
		for _, q := range queues {
			fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%d\t%d\t%d\n", q.Name, q.Kind, q.Ready, q.Unacked, q.Delayed, q.Bytes, q.Consumers)
		}
	})
}

// QueueInfoCmd shows a queue.
type QueueInfoCmd struct {
	Queue string `arg:"" help:"Name of the queue."`
	endpoint
}

// Run prints the queue and its consumers.
func (c *QueueInfoCmd) Run(p *process) error {
	var q router.MailboxInfo
	raw, err := c.call(p, "GET", "/api/v1/queue", url.Values{"name": {c.Queue}}, &q)
	if err != nil {
		return err
	}
	return c.print(p, raw, func(w io.Writer) {
		fmt.Fprintf(w, "name\t%s\nkind\t%s\ndepth\t%d\nready\t%d\nunacked\t%d\ndelayed\t%d\nbytes\t%d\nconsumers\t%d\n",
			q.Name, q.Kind, q.Depth, q.Ready, q.Unacked, q.Delayed, q.Bytes, q.Consumers)
		if q.MaxLength > 0 {
			fmt.Fprintf(w, "max_length\t%d\n", q.MaxLength)
		}
		if q.MaxBytes > 0 {
			fmt.Fprintf(w, "max_bytes\t%d\n", q.MaxBytes)
		}
		for _, h := range q.Holders {
			fmt.Fprintf(w, "consumer\t%s %s holds %d of %d", h.Remote, orDash(h.User), h.Unacked, h.Credit)
			if h.Paused {
				fmt.Fprint(w, ", does not read")
			}
			fmt.Fprintln(w)
		}
	})
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// QueuePeekCmd shows messages.
type QueuePeekCmd struct {
	Queue string `arg:"" help:"Name of the queue."`
	endpoint
	From  uint64 `name:"from" help:"Sequence to begin at."`
	Limit int    `name:"limit" short:"n" default:"10" help:"How many, at most 1000."`
}

// Run prints the messages; bodies at most 4 KiB each.
func (c *QueuePeekCmd) Run(p *process) error {
	var messages []admin.Message
	params := url.Values{"name": {c.Queue}, "from": {strconv.FormatUint(c.From, 10)}, "limit": {strconv.Itoa(c.Limit)}}
	raw, err := c.call(p, "GET", "/api/v1/queue/messages", params, &messages)
	if err != nil {
		return err
	}
	return c.print(p, raw, func(w io.Writer) {
		fmt.Fprintln(w, "SEQUENCE\tSTATE\tDELIVERIES\tTIME\tBYTES\tBODY")
		for _, m := range messages {
			fmt.Fprintf(w, "%d\t%s\t%d\t%s\t%d\t%s\n", m.Sequence, m.State, m.Deliveries,
				time.UnixMilli(m.Timestamp).UTC().Format(time.RFC3339), m.Size, oneLine(m.Body))
		}
	})
}

// oneLine shortens a body for a table, and keeps terminals from reading it.
func oneLine(s string) string {
	const most = 60
	var b bytes.Buffer
	for i, r := range s {
		if i >= most {
			b.WriteString("…")
			break
		}
		if r < ' ' || r == 0x7f || (r >= 0x80 && r < 0xa0) {
			r = '.'
		}
		b.WriteRune(r)
	}
	return b.String()
}

// QueuePurgeCmd empties a queue.
type QueuePurgeCmd struct {
	Queue string `arg:"" help:"Name of the queue."`
	endpoint
}

// Run prints how many messages were removed.
func (c *QueuePurgeCmd) Run(p *process) error {
	var n struct{ Purged int }
	raw, err := c.call(p, "POST", "/api/v1/queue/purge", url.Values{"name": {c.Queue}}, &n)
	if err != nil {
		return err
	}
	return c.print(p, raw, func(w io.Writer) { fmt.Fprintf(w, "removed %d messages from %s\n", n.Purged, c.Queue) })
}

// QueueMoveCmd moves messages.
type QueueMoveCmd struct {
	From string `arg:"" help:"Queue to take from."`
	To   string `arg:"" help:"Queue to put into."`
	endpoint
	Limit int `name:"limit" short:"n" help:"How many; all that wait if not given."`
}

// Run prints how many messages were moved.
func (c *QueueMoveCmd) Run(p *process) error {
	var n struct{ Moved int }
	params := url.Values{"from": {c.From}, "to": {c.To}, "limit": {strconv.Itoa(c.Limit)}}
	raw, err := c.call(p, "POST", "/api/v1/queue/move", params, &n)
	if err != nil {
		return err
	}
	return c.print(p, raw, func(w io.Writer) { fmt.Fprintf(w, "moved %d messages from %s to %s\n", n.Moved, c.From, c.To) })
}

// QueueRmCmd deletes a queue.
type QueueRmCmd struct {
	Queue string `arg:"" help:"Name of the queue."`
	endpoint
}

// Run prints that it is gone.
func (c *QueueRmCmd) Run(p *process) error {
	var gone struct{ Deleted string }
	raw, err := c.call(p, "DELETE", "/api/v1/queue", url.Values{"name": {c.Queue}}, &gone)
	if err != nil {
		return err
	}
	return c.print(p, raw, func(w io.Writer) { fmt.Fprintf(w, "deleted %s\n", gone.Deleted) })
}
