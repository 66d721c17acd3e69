package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"sync"
	"syscall"

	"github.com/mqgate/mqgate/config"
	"github.com/mqgate/mqgate/gateway"
)

// ServeCmd runs the broker.
type ServeCmd struct {
	Config string   `name:"config" placeholder:"FILE" help:"Configuration file (YAML). Without it, MQGATE_CONFIG names one, or the defaults hold."`
	Set    []string `name:"set" sep:"none" placeholder:"KEY=VALUE" help:"Set one key, such as stomp.listen=:61613; may be repeated, and wins over file and environment."`
}

// headroomBytes are reserved to keep the garbage collector from running all the time while little lives: it collects when the heap has doubled, which
// with a few MiB is a hundred times a second under load, and took a third of the CPU. Nobody touches these bytes, so they are
// never in memory themselves; the heap may grow by as many more before it is collected, which is why they are few.
const headroomBytes = 12 << 20

// Run serves until a signal or a failure. The first SIGTERM or SIGINT drains;
// a second one ends the process at once with exit code 1.
func (c *ServeCmd) Run(p *process) error {
	src := config.Sources{File: c.Config, Environ: p.environ, Set: c.Set}
	cfg, err := config.Load(src)
	if err != nil {
		return err
	}
	headroom := make([]byte, headroomBytes)
	defer runtime.KeepAlive(headroom)
	log := newLogger(cfg.Log, p.stderr)
	log.Info("configuration", "file", src.FileName(), "changed", cfg)
	gw, err := gateway.New(cfg, gateway.Deps{Log: log, Version: versionNumber()})
	if err != nil {
		return fmt.Errorf("start: %w", err)
	}

	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(signals)
	return untilSignal(signals, log, p.exit, gw.Run)
}

// untilSignal runs run until it returns. The first signal cancels its context,
// the second calls exit.
func untilSignal(signals <-chan os.Signal, log *slog.Logger, exit func(code int), run func(context.Context) error) error {
	ctx, cancel := context.WithCancelCause(context.Background())
	over := make(chan struct{})
	var watch sync.WaitGroup
	watch.Go(func() {
		select {
		case s := <-signals:
			log.Info("draining; a second signal ends the process at once", "signal", s.String())
			cancel(fmt.Errorf("signal %s", s))
		case <-over:
			return
		}
		select {
		case s := <-signals:
			log.Warn("ending at once", "signal", s.String())
			exit(exitFailure)
		case <-over:
		}
	})
	err := run(ctx)
	close(over)
	watch.Wait()
	cancel(nil)
	return err
}

// newLogger writes to w as the configuration says.
func newLogger(c config.Log, w io.Writer) *slog.Logger {
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.Level)); err != nil {
		level = slog.LevelInfo // Validate lets nothing else through
	}
	o := &slog.HandlerOptions{Level: level}
	if c.Format == "json" {
		return slog.New(slog.NewJSONHandler(w, o))
	}
	return slog.New(slog.NewTextHandler(w, o))
}
