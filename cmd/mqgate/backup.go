package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/mqgate/mqgate/config"
	"github.com/mqgate/mqgate/gateway"
)

// BackupCmd saves what a running gateway has stored.
type BackupCmd struct {
	File string `arg:"" help:"File to write; it must not exist. It holds all messages: it is written with mode 0600."`
	endpoint
}

// Run writes beside the file, checks what was written, and puts it in its place.
func (c *BackupCmd) Run(p *process) (err error) {
	if _, err := os.Lstat(c.File); err == nil {
		return fmt.Errorf("%s exists already", c.File)
	}
	resp, err := c.open(p, "POST", "/api/v1/backup")
	if err != nil {
		return err
	}
	defer resp.Close()
	f, err := os.CreateTemp(filepath.Dir(c.File), "."+filepath.Base(c.File)+".*") // mode 0600
	if err != nil {
		return fmt.Errorf("write the backup: %w", err)
	}
	defer func() {
		f.Close()
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	began := time.Now()
	size, err := io.Copy(f, resp)
	if err != nil {
		return fmt.Errorf("the gateway broke the backup off; its log says why: %w", err)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("read the backup again: %w", err)
	}
	s, err := gateway.VerifyBackup(f)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("write the backup: %w", err)
	}
	if err := os.Link(f.Name(), c.File); err != nil { // unlike a rename it replaces nothing
		return fmt.Errorf("put the backup in its place: %w", err)
	}
	os.Remove(f.Name())
	fmt.Fprintf(p.stdout, "%s: %d messages in %d streams, %s, in %s\n", c.File, s.Messages, s.Streams, mebibytes(uint64(size)), time.Since(began).Round(time.Millisecond))
	return nil
}

// RestoreCmd makes a data directory of a backup.
type RestoreCmd struct {
	File   string   `arg:"" help:"Backup to read."`
	Config string   `name:"config" placeholder:"FILE" help:"The gateway's configuration file: its data_dir is filled, and must be empty. The gateway must not run."`
	Set    []string `name:"set" sep:"none" placeholder:"KEY=VALUE" help:"Set one key of the configuration, such as data_dir."`
	Check  bool     `name:"check" help:"Only check that the backup is complete and undamaged."`
}

// Run verifies the backup and restores it.
func (c *RestoreCmd) Run(p *process) error {
	if c.Check {
		f, err := os.Open(c.File)
		if err != nil {
			return fmt.Errorf("open the backup: %w", err)
		}
		defer f.Close()
		s, err := gateway.VerifyBackup(f)
		if err != nil {
			return err
		}
		printSummary(p.stdout, c.File+" is complete", s)
		return nil
	}
	cfg, err := config.Load(config.Sources{File: c.Config, Environ: p.environ, Set: c.Set})
	if err != nil {
		return err
	}
	s, err := gateway.Restore(context.Background(), cfg, newLogger(cfg.Log, p.stderr), c.File)
	if err != nil {
		return err
	}
	printSummary(p.stdout, "restored into "+cfg.DataDir, s)
	return nil
}

func printSummary(w io.Writer, what string, s gateway.BackupSummary) {
	fmt.Fprintf(w, "%s: %d messages in %d streams, of node %s at %s\n", what, s.Messages, s.Streams, orDash(s.Node), s.Began.Format(time.RFC3339))
}
