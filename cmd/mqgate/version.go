package main

import (
	"fmt"
	"runtime"
	"runtime/debug"
)

// version is set at release: -ldflags "-X main.version=v1.2.3".
var version string

// VersionCmd prints what this binary is.
type VersionCmd struct{}

// Run prints version, revision, Go version and platform on one line.
func (*VersionCmd) Run(p *process) error {
	info, _ := debug.ReadBuildInfo()
	_, err := fmt.Fprintf(p.stdout, "mqgate %s %s %s/%s\n", versionText(version, info), runtime.Version(), runtime.GOOS, runtime.GOARCH)
	return err
}

// versionText prefers the release's version to what the build recorded.
func versionText(release string, info *debug.BuildInfo) string {
	text, revision, modified := release, "", false
	if info != nil {
		if text == "" {
			text = info.Main.Version
		}
		for _, s := range info.Settings {
			switch s.Key {
			case "vcs.revision":
				revision = s.Value
			case "vcs.modified":
				modified = s.Value == "true"
			}
		}
	}
	if text == "" {
		text = "(devel)"
	}
	const short = 12
	if revision != "" {
		text += " " + revision[:min(short, len(revision))]
	}
	if modified {
		text += "+changes"
	}
	return text
}

// versionNumber is the release's version, or "devel": what clients are told.
func versionNumber() string {
	if version == "" {
		return "devel"
	}
	return version
}
