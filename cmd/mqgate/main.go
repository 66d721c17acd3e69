// Command mqgate is the broker and its operator's tools in one binary.
//
// It parses the command line, wires and runs; everything else is in the packages
// it imports. Exit codes: 0 done, 1 failed, 2 the command line or the
// configuration is wrong; a verb may have further ones, which its help names.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/alecthomas/kong"

	"github.com/mqgate/mqgate/config"
)

// The exit codes.
const (
	exitOK      = 0
	exitFailure = 1
	exitUsage   = 2
)

// commands is the command line. Each verb has a file of its own with its struct
// and its Run(*process) error.
type commands struct {
	Serve  ServeCmd  `cmd:"" default:"withargs" help:"Run the broker. This is what mqgate does without a command."`
	Config ConfigCmd `cmd:"" help:"Check a configuration, or print the default one."`
	Passwd PasswdCmd `cmd:"" help:"Hash a password, or set one in a users file."`
	// Verbs that talk to a running broker; restore to none.
	Bench   BenchCmd   `cmd:"" help:"Put load on a broker, and check what arrives."`
	Queue   QueueCmd   `cmd:"" help:"List, inspect and repair queues of a running gateway."`
	Cluster ClusterCmd `cmd:"" help:"Show the nodes of a running cluster."`
	Drain   DrainCmd   `cmd:"" help:"Send the clients of a running gateway to other nodes, then end it."`
	Backup  BackupCmd  `cmd:"" help:"Save what a running gateway has stored to a file."`
	Restore RestoreCmd `cmd:"" help:"Fill an empty data directory from a backup."`
	Version VersionCmd `cmd:"" help:"Print the version."`
}

// process is what a verb may touch of the world around it.
type process struct {
	stdin   io.Reader
	stdout  io.Writer
	stderr  io.Writer
	environ []string
	exit    func(code int) // ends the process at once
}

func main() {
	p := &process{stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr, environ: os.Environ(), exit: os.Exit}
	os.Exit(p.run(os.Args[1:]))
}

// usageError is a mistake on the command line that the parser cannot see.
type usageError struct{ text string }

func (e usageError) Error() string { return e.text }

// run parses the arguments, runs the verb and returns the exit code.
func (p *process) run(args []string) int {
	asked := -1 // the exit code that the parser asked for: --help does
	parser, err := kong.New(&commands{},
		kong.Name("mqgate"),
		kong.Description("Message broker: STOMP, MQTT and WebSocket clients share queues and topics, stored on this machine or on several."),
		kong.Writers(p.stdout, p.stderr),
		kong.Exit(func(code int) { asked = code }),
	)
	if err != nil {
		return p.fail(err)
	}
	if len(args) > 0 && args[0] == "help" { // mqgate help queue ls
		args = append(slices.Clone(args[1:]), "--help")
	}
	ctx, err := parser.Parse(args)
	if asked >= 0 {
		return asked
	}
	if err != nil {
		return p.fail(usageError{err.Error() + "; see mqgate --help"})
	}
	return p.fail(ctx.Run(p))
}

// fail reports an error, one line per problem, and returns the exit code for it.
func (p *process) fail(err error) int {
	if err == nil {
		return exitOK
	}
	for line := range strings.Lines(err.Error()) {
		fmt.Fprintf(p.stderr, "mqgate: %s\n", strings.TrimSuffix(line, "\n"))
	}
	var own interface{ ExitCode() int }
	if errors.As(err, &own) {
		return own.ExitCode()
	}
	var usage usageError
	var wrong config.Errors
	if errors.As(err, &usage) || errors.As(err, &wrong) {
		return exitUsage
	}
	return exitFailure
}
