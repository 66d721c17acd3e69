package config

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"reflect"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

const (
	// maxFileBytes bounds a configuration or users file.
	maxFileBytes = 1 << 20
	// maxNodes bounds what aliases can make of it.
	maxNodes = 200_000
)

// decoder puts YAML into a Config or a part of it, and notes where each key was
// written. It goes on after a mistake, to report all of them.
type decoder struct {
	origin   func(line int) string
	dir      string            // where relative file names start, "" for the working directory
	origins  map[string]string // by dotted key
	problems Errors
	nodes    int
}

func (d *decoder) fail(n *yaml.Node, p *Problem) {
	p.Origin = d.origin(n.Line)
	d.problems = append(d.problems, p)
}

var yamlLine = regexp.MustCompile(`^yaml: (?:line (\d+): )?((?s).*)$`)

// parse reads exactly one YAML document. It returns nil for an empty one, and
// nil with a problem for one that is not YAML.
func (d *decoder) parse(text []byte) *yaml.Node {
	dec := yaml.NewDecoder(bytes.NewReader(text))
	var doc, second yaml.Node
	err := dec.Decode(&doc)
	switch {
	case err == io.EOF:
		return nil
	case err != nil:
		at := yaml.Node{}
		msg := err.Error()
		if m := yamlLine.FindStringSubmatch(msg); m != nil {
			at.Line, _ = strconv.Atoi(m[1])
			msg = m[2]
		}
		d.fail(&at, problem("", "check the indentation and quotes there", "not valid YAML: %s", msg))
		return nil
	}
	if err := dec.Decode(&second); err != io.EOF {
		d.fail(&second, problem("", "keep one and remove the \"---\" line", "there is more than one YAML document"))
		return nil
	}
	if len(doc.Content) == 0 {
		return nil
	}
	return doc.Content[0]
}

// value decodes one node into v.
func (d *decoder) value(n *yaml.Node, v reflect.Value, f field, key string) {
	if d.nodes++; d.nodes > maxNodes {
		if d.nodes == maxNodes+1 {
			d.fail(n, problem(key, "use fewer aliases", "the configuration is too large"))
		}
		return
	}
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	d.origins[key] = d.origin(n.Line)
	switch {
	case isScalar(v.Type()):
		d.scalar(n, v, f, key)
	case v.Kind() == reflect.Struct:
		if isNull(n) {
			return // a section whose keys are all commented out
		}
		d.section(n, v, key)
	case v.Type() == reflect.TypeFor[Queues]() && n.Kind == yaml.MappingNode:
		d.queueMap(n, v, key)
	case v.Kind() == reflect.Slice:
		d.list(n, v, f, key)
	default:
		panic(fmt.Sprintf("config: key %s has a type that cannot be decoded: %s", key, v.Type()))
	}
}

func (d *decoder) scalar(n *yaml.Node, v reflect.Value, f field, key string) {
	if n.Kind != yaml.ScalarNode || isNull(n) || !tagFits(n, v.Type(), f) {
		hint := ""
		if n.Kind == yaml.ScalarNode && expected(v.Type()) == "text" && !isNull(n) {
			hint = "put it in quotes"
		}
		if isNull(n) && v.Kind() == reflect.String {
			hint = `write "" if it is to be empty`
		}
		d.fail(n, problem(key, hint, "expected %s, got %s", expected(v.Type()), describe(n, f)))
		return
	}
	if err := setScalar(v, n.Value); err != nil {
		d.fail(n, asProblem(key, err))
		return
	}
	d.resolve(v, f)
}

// resolve makes a relative file name start at the file that holds it.
func (d *decoder) resolve(v reflect.Value, f field) {
	if f.relative && d.dir != "" && v.String() != "" && !filepath.IsAbs(v.String()) {
		v.SetString(filepath.Join(d.dir, v.String()))
	}
}

func (d *decoder) section(n *yaml.Node, v reflect.Value, key string) {
	if n.Kind != yaml.MappingNode {
		d.fail(n, problem(key, "write its keys below it, indented", "expected %s, got %s", expected(v.Type()), describe(n, field{})))
		return
	}
	fields := fieldsOf(v.Type())
	d.pairs(n, key, func(name, value *yaml.Node) {
		f, ok := fieldNamed(fields, name.Value)
		if !ok {
			d.fail(name, d.unknownKey(name.Value, fields, key))
			return
		}
		d.value(value, v.FieldByIndex(f.index), f, join(key, f.name))
	})
}

func (d *decoder) unknownKey(written string, fields []field, section string) *Problem {
	// {password_hash: $argon2id$…,t=2,…} without quotes: parts of the hash come as keys.
	if before, _, cut := strings.Cut(written, "$"); cut {
		return problem(join(section, before+"…"), "put a value with commas in quotes", "unknown key")
	}
	shown := []rune(written)
	if len(shown) > 60 {
		shown = append(shown[:60], '…')
	}
	return problem(join(section, string(shown)), d.unknownHint(written, fields, section), "unknown key")
}

// unknownHint names the nearest key of the section, or a key of that very name
// elsewhere.
func (d *decoder) unknownHint(written string, fields []field, section string) string {
	names := make([]string, len(fields))
	for i, f := range fields {
		names[i] = f.name
	}
	if nearest(written, names) == "" && section == "" {
		for _, l := range Default().leaves() {
			if strings.HasSuffix(l.key, "."+written) {
				return "did you mean " + l.key + "?"
			}
		}
	}
	return didYouMean(written, names)
}

// pairs calls each for the pairs of a mapping whose keys are plain text and
// occur once.
func (d *decoder) pairs(n *yaml.Node, section string, each func(name, value *yaml.Node)) {
	seen := make(map[string]int)
	for i := 0; i+1 < len(n.Content); i += 2 {
		name, value := n.Content[i], n.Content[i+1]
		if name.Kind == yaml.AliasNode {
			name = name.Alias
		}
		switch line, twice := seen[name.Value]; {
		case name.Kind != yaml.ScalarNode:
			d.fail(name, problem(section, "", "a key must be text, got %s", describe(name, field{})))
		case name.Tag == "!!merge":
			d.fail(name, problem(section, "repeat the keys", "merge keys (<<) are not supported"))
		case twice:
			d.fail(name, problem(join(section, name.Value), "keep one of them", "written twice, first on line %d", line))
		default:
			seen[name.Value] = name.Line
			each(name, value)
		}
	}
}

func (d *decoder) list(n *yaml.Node, v reflect.Value, f field, key string) {
	if isNull(n) {
		d.forget(v, key)
		return
	}
	if n.Kind != yaml.SequenceNode {
		d.fail(n, problem(key, `write [a, b] or one "- item" per line`, "expected %s, got %s", expected(v.Type()), describe(n, f)))
		return
	}
	d.forget(v, key)
	for i, item := range n.Content {
		d.element(item, v, f, fmt.Sprintf("%s[%d]", key, i))
	}
}

// forget empties a list that an earlier source may have filled.
func (d *decoder) forget(list reflect.Value, key string) {
	list.SetZero()
	maps.DeleteFunc(d.origins, func(k, _ string) bool { return strings.HasPrefix(k, key+"[") })
}

// element decodes an item onto the element's defaults and appends it to list.
func (d *decoder) element(n *yaml.Node, list reflect.Value, f field, key string) {
	e := reflect.New(list.Type().Elem()).Elem()
	setElementDefault(e)
	d.value(n, e, f, key)
	d.finishRule(e, key)
	list.Set(reflect.Append(list, e))
}

// queueMap decodes the other form of queues, {pattern: policy}.
func (d *decoder) queueMap(n *yaml.Node, list reflect.Value, key string) {
	d.forget(list, key)
	policy := fieldsOf(reflect.TypeFor[Policy]())
	d.pairs(n, key, func(name, value *yaml.Node) {
		r := QueueRule{Pattern: name.Value, Policy: DefaultPolicy()}
		at := fmt.Sprintf("%s[%d]", key, list.Len())
		d.origins[at] = d.origin(name.Line)
		if value.Kind == yaml.AliasNode {
			value = value.Alias
		}
		v := reflect.ValueOf(&r).Elem()
		if value.Kind == yaml.MappingNode {
			d.section(value, v.FieldByName("Policy"), at)
		} else if !isNull(value) {
			d.fail(value, problem(join(key, name.Value), didYouMean("", nameList(policy)), "expected %s, got %s", expected(v.Type()), describe(value, field{})))
		}
		d.finishRule(v, at)
		list.Set(reflect.Append(list, v))
	})
}

func nameList(fields []field) []string {
	names := make([]string, len(fields))
	for i, f := range fields {
		names[i] = f.name
	}
	return names
}

// finishRule gives a rule without a dead-letter queue the only on_expire that
// works there, unless the file says otherwise (which Validate then refuses).
func (d *decoder) finishRule(v reflect.Value, key string) {
	r, ok := v.Addr().Interface().(*QueueRule)
	if !ok || r.DeadLetter != DeadLetterNone {
		return
	}
	if _, written := d.origins[key+".on_expire"]; !written {
		r.OnExpire = OnExpireDrop
	}
}

// setElementDefault fills a new list element before it is decoded into.
func setElementDefault(e reflect.Value) {
	switch x := e.Addr().Interface().(type) {
	case *QueueRule:
		x.Policy = DefaultPolicy()
	case *Listener:
		x.Dialect = DialectActiveMQ
	case *WebListener:
		x.Dialect = DialectActiveMQ
	}
}

func join(section, name string) string {
	if section == "" {
		return name
	}
	return section + "." + name
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.Tag == "!!null" }

// tagFits reports whether a YAML scalar has the type that t is written in. A
// quoted number is text, and a bare true is no text: but where only certain
// words are allowed the word decides.
func tagFits(n *yaml.Node, t reflect.Type, f field) bool {
	if len(f.oneOf) > 0 {
		return true
	}
	text, number := n.Tag == "!!str", n.Tag == "!!int"
	switch {
	case t == typeDuration, t == typeBytes:
		return text || number
	case t == reflect.TypeFor[Sync]():
		return true
	}
	switch t.Kind() {
	case reflect.Bool:
		return n.Tag == "!!bool"
	case reflect.Int, reflect.Int64:
		return number
	}
	return text
}

// describe says what a node is, without showing a secret.
func describe(n *yaml.Node, f field) string {
	switch {
	case n.Kind == yaml.MappingNode:
		return "a section of keys"
	case n.Kind == yaml.SequenceNode:
		return "a list"
	case isNull(n):
		return "nothing"
	case f.secret:
		return "something else"
	case n.Tag == "!!int", n.Tag == "!!float":
		return "the number " + n.Value
	case n.Tag == "!!bool":
		return n.Value
	case n.Tag == "!!str":
		return "the text " + quote(n.Value)
	}
	return "a value of type " + quote(n.Tag)
}
