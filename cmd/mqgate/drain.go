package main

import (
	"errors"
	"fmt"
	"io"
	"net/url"
	"time"

	"github.com/mqgate/mqgate/gateway"
	"github.com/mqgate/mqgate/gateway/admin"
)

// DrainCmd sends the clients of a gateway away and ends it.
type DrainCmd struct {
	endpoint
	NoWait bool `name:"no-wait" help:"Return at once rather than when the gateway has ended."`
}

// drainPoll is how often the verb looks whether the gateway is gone.
const drainPoll = 200 * time.Millisecond

// Run begins the drain and waits for its end.
func (c *DrainCmd) Run(p *process) error {
	var s admin.DrainState
	raw, err := c.call(p, "POST", "/api/v1/drain", url.Values{}, &s)
	if err != nil {
		return err
	}
	err = c.print(p, raw, func(w io.Writer) {
		fmt.Fprintf(w, "draining: %s of grace, then %d STOMP, %d MQTT and %d WebSocket connections are closed over %s\n",
			s.Grace, s.Connections["stomp"], s.Connections["mqtt"], s.Connections["ws"], s.Spread)
	})
	if err != nil || c.NoWait {
		return err
	}
	limit := time.Now().Add(s.Grace + s.Spread + s.Timeout + time.Minute)
	for time.Now().Before(limit) {
		if gone, err := c.gone(p); gone || err != nil {
			return err
		}
		time.Sleep(drainPoll)
	}
	return errors.New("the gateway is still there; a second SIGTERM ends it at once")
}

// gone reports whether the gateway has ended. It stops answering before it has closed its store: who starts another on the
// same data directory, as a rolling restart does, waits for the directory's lock. Behind a URL only the silence is seen.
func (c *DrainCmd) gone(p *process) (bool, error) {
	if _, err := c.call(p, "GET", "/api/v1/cluster", url.Values{}, new(admin.Cluster)); err == nil {
		return false, nil
	}
	if c.URL != "" {
		return true, nil
	}
	cfg, err := c.load(p)
	if err != nil {
		return false, err
	}
	return !gateway.InUse(cfg.DataDir), nil
}
