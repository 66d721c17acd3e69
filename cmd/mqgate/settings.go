package main

import (
	"errors"
	"fmt"

	"github.com/mqgate/mqgate/config"
	"github.com/mqgate/mqgate/gateway/auth"
)

// ConfigCmd groups the verbs about configuration.
type ConfigCmd struct {
	Check   ConfigCheckCmd   `cmd:"" help:"Report everything that is wrong with a configuration, without starting."`
	Default ConfigDefaultCmd `cmd:"" help:"Print every key with its meaning, range and default, as a file to start from."`
}

// ConfigCheckCmd loads a configuration as serve would.
type ConfigCheckCmd struct {
	File string   `arg:"" help:"Configuration file (YAML)."`
	Set  []string `name:"set" sep:"none" placeholder:"KEY=VALUE" help:"As for serve."`
}

// Run prints "ok", or fails with all problems.
func (c *ConfigCheckCmd) Run(p *process) error {
	cfg, err := config.Load(config.Sources{File: c.File, Environ: p.environ, Set: c.Set})
	if err != nil {
		return err
	}
	if _, err := auth.New(auth.OptionsFrom(cfg)); err != nil {
		return usageError{err.Error()}
	}
	if err := checkSecrets(cfg); err != nil {
		return usageError{err.Error()}
	}
	_, err = fmt.Fprintf(p.stdout, "%s: ok\n", c.File)
	return err
}

// checkSecrets reads what nodes and sites share, as the start does.
func checkSecrets(cfg *config.Config) error {
	var node, site error
	if cfg.Cluster.Enabled() {
		_, node = cfg.Cluster.Secret()
	}
	if cfg.Federation.Enabled() {
		_, site = cfg.Federation.Secret()
	}
	return errors.Join(node, site)
}

// ConfigDefaultCmd prints the reference configuration.
type ConfigDefaultCmd struct{}

// Run prints it.
func (*ConfigDefaultCmd) Run(p *process) error {
	_, err := p.stdout.Write(config.Reference())
	return err
}
