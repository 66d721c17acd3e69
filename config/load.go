package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
)

// Sources says what a configuration is loaded from.
type Sources struct {
	// File is a YAML file, or "" for none unless the environment names one in
	// MQGATE_CONFIG. A file that is named must exist.
	File string
	// Environ has NAME=value pairs as os.Environ returns them; those that do not
	// begin with MQGATE_ are not looked at. Nil is an empty environment.
	Environ []string
	// Set has key=value pairs, later ones winning.
	Set []string
}

// FileName returns the file that Load reads, or "" for none.
func (s Sources) FileName() string {
	if s.File != "" {
		return s.File
	}
	return lookup(s.Environ, EnvFile)
}

// Load returns the defaults, overlaid by the file, the environment and the
// pairs of Set, in this order. The error is an Errors with every problem found;
// what is checked across keys is only checked when the keys themselves are right.
func Load(src Sources) (*Config, error) {
	l := &loader{cfg: Default(), origins: make(map[string]string)}
	l.file(src)
	l.environ(src.Environ)
	l.set(src.Set)
	if l.cfg.UsersFile != "" {
		l.usersFile(l.cfg.UsersFile)
	}
	l.passwordFiles()
	l.nodeName()
	l.check()
	if err := l.problems.orNil(); err != nil {
		return nil, err
	}
	return l.cfg, nil
}

type loader struct {
	cfg      *Config
	origins  map[string]string // where each key was written last
	problems Errors
}

func (l *loader) fail(origin string, p *Problem) {
	p.Origin = origin
	l.problems = append(l.problems, p)
}

func (l *loader) file(src Sources) {
	name, named := src.FileName(), "--config"
	if name == "" {
		return
	}
	if src.File == "" {
		named = EnvFile
	}
	text, err := readFile(name)
	if err != nil {
		hint := ""
		if errors.Is(err, fs.ErrNotExist) {
			hint = "\"mqgate config default\" prints a file to start from"
		}
		l.fail(named, problem("", hint, "%v", err))
		return
	}
	d := l.decoder(name, filepath.Dir(name))
	if n := d.parse(text); n != nil && !isNull(n) {
		d.section(n, reflect.ValueOf(l.cfg).Elem(), "")
	}
	l.problems = append(l.problems, d.problems...)
}

// decoder returns a decoder whose problems are in the named file.
func (l *loader) decoder(name, dir string) *decoder {
	return &decoder{
		origin: func(line int) string {
			if line == 0 {
				return name
			}
			return fmt.Sprintf("%s:%d", name, line)
		},
		dir:     dir,
		origins: l.origins,
	}
}

// readFile reads a file of at most maxFileBytes.
func readFile(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxFileBytes+1))
	if err == nil && len(text) > maxFileBytes {
		err = fmt.Errorf("%s is larger than %s", name, Bytes(maxFileBytes))
	}
	return text, err
}

func lookup(environ []string, name string) string {
	value := ""
	for _, pair := range environ {
		if n, v, ok := strings.Cut(pair, "="); ok && n == name {
			value = v
		}
	}
	return value
}

func (l *loader) environ(environ []string) {
	leaves := l.cfg.leaves()
	byEnv := make(map[string]leaf, len(leaves))
	names := make([]string, 0, len(leaves))
	for _, lf := range leaves {
		byEnv[lf.env()] = lf
		names = append(names, lf.env())
	}
	for _, pair := range environ {
		name, value, ok := strings.Cut(pair, "=")
		if !ok || !strings.HasPrefix(name, EnvPrefix) || name == EnvFile || serviceLink.MatchString(name) {
			continue
		}
		lf, ok := byEnv[name]
		if !ok {
			l.fail(name, problem("", didYouMean(name, append(names, EnvFile)), "unknown environment variable"))
			continue
		}
		l.text(lf, value, name)
	}
}

func (l *loader) set(pairs []string) {
	leaves := l.cfg.leaves()
	for _, pair := range pairs {
		key, value, ok := strings.Cut(pair, "=")
		if !ok {
			l.fail("--set "+quote(pair), problem("", "write --set key=value", "there is no '='"))
			continue
		}
		origin, found := "--set", false
		for _, lf := range leaves {
			if lf.key == key {
				l.text(lf, value, origin)
				found = true
			}
		}
		if !found {
			l.fail(origin, problem(key, setHint(key, leaves), "unknown key"))
		}
	}
}

// setHint tells a section, or something inside a list, from a typing error.
func setHint(key string, leaves []leaf) string {
	for _, lf := range leaves {
		if strings.HasPrefix(lf.key, key+".") {
			return "it is a section: set one of its keys, such as " + lf.key
		}
		if lf.typ.Kind() == reflect.Slice && (strings.HasPrefix(key, lf.key+".") || strings.HasPrefix(key, lf.key+"[")) {
			return "set the whole list as YAML: --set " + lf.key + "='[…]'"
		}
	}
	return didYouMean(key, keyNames(leaves))
}

// text puts one line of text into a leaf: a scalar as it is, a list as YAML.
func (l *loader) text(lf leaf, value, origin string) {
	l.origins[lf.key] = origin
	if isScalar(lf.typ) {
		if err := setScalar(lf.value, value); err != nil {
			l.fail(origin, asProblem(lf.key, err))
		}
		return
	}
	d := l.decoder(origin, "")
	d.origin = func(int) string { return origin }
	if len(value) > maxFileBytes {
		l.fail(origin, problem(lf.key, "use a file", "the value is larger than %s", Bytes(maxFileBytes)))
		return
	}
	if n := d.parse([]byte(value)); n != nil {
		d.value(n, lf.value, lf.field, lf.key)
	} else if len(d.problems) == 0 {
		d.forget(lf.value, lf.key)
	}
	l.problems = append(l.problems, d.problems...)
}

func (l *loader) nodeName() {
	if l.cfg.NodeName != "" {
		return
	}
	name, err := os.Hostname()
	if err != nil {
		l.fail("", problem("node_name", "set it", "the host has no name: %v", err))
		return
	}
	l.cfg.NodeName = name
}

// check validates, and says of each problem where its key was written.
func (l *loader) check() {
	found := l.cfg.checkKeys()
	if len(l.problems) == 0 && len(found) == 0 {
		found = l.cfg.checkTogether()
	}
	for _, p := range found {
		p.Origin = l.originOf(p.Key)
	}
	l.problems = append(l.problems, found...)
}

// originOf returns where a key was written, or the nearest thing around it.
func (l *loader) originOf(key string) string {
	for key != "" {
		if o, ok := l.origins[key]; ok {
			return o
		}
		cut := strings.LastIndexAny(key, ".[")
		if cut < 0 {
			break
		}
		key = key[:cut]
	}
	return ""
}
