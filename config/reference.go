package config

import (
	"bytes"
	"fmt"
	"reflect"
	"strings"

	"go.yaml.in/yaml/v3"
)

const referenceHead = `# mqgate: every key with its default.
#
# A key can also be set by an environment variable (stomp.listen is
# MQGATE_STOMP_LISTEN) or by --set stomp.listen=…, which win over this file in
# that order; a list is written there as YAML, [a, b].
# Sizes: 512, 64KiB, 16MiB, 1GiB. Durations: 500ms, 10s, 5m, 24h, 7d.
# Lines that begin with "#" and no space show an element of a list.
`

// Reference returns a YAML file with every key, its meaning, range and default.
// Loading it gives the same configuration as no file.
func Reference() []byte {
	w := &referenceWriter{}
	w.WriteString(referenceHead)
	w.section(reflect.ValueOf(Default()).Elem(), "", 0)
	return w.Bytes()
}

type referenceWriter struct{ bytes.Buffer }

// section writes the keys of a struct, indented by depth levels.
func (w *referenceWriter) section(v reflect.Value, prefix string, depth int) {
	indent := strings.Repeat("  ", depth)
	for _, f := range fieldsOf(v.Type()) {
		key, fv := prefix+f.name, v.FieldByIndex(f.index)
		if depth == 0 {
			w.WriteByte('\n')
		}
		w.comment(indent, docs[key], facts(f))
		switch {
		case isScalar(f.typ):
			fmt.Fprintf(w, "%s%s: %s\n", indent, f.name, yamlText(fv))
		case f.typ.Kind() == reflect.Struct:
			fmt.Fprintf(w, "%s%s:\n", indent, f.name)
			w.section(fv, key+".", depth+1)
		default:
			fmt.Fprintf(w, "%s%s: %s\n", indent, f.name, yamlList(fv))
			w.element(f, key, indent)
		}
	}
}

// element shows one element of a list of structs as a comment.
func (w *referenceWriter) element(f field, key, indent string) {
	if f.typ.Elem().Kind() != reflect.Struct {
		return
	}
	e := reflect.New(f.typ.Elem()).Elem()
	setElementDefault(e)
	for i, line := range elementLines(e, key+"[].") {
		dash := "  "
		if i == 0 {
			dash = "- "
		}
		fmt.Fprintf(w, "%s#%s%s\n", indent, dash, line)
	}
}

// elementLines are the lines of an element, each with what it means behind it.
func elementLines(v reflect.Value, prefix string) []string {
	var lines []string
	for _, f := range fieldsOf(v.Type()) {
		key, fv := prefix+f.name, v.FieldByIndex(f.index)
		text, sampled := samples[key]
		switch {
		case sampled:
		case isScalar(f.typ):
			text = yamlText(fv)
		case f.typ.Kind() == reflect.Struct:
			lines = append(lines, withMeaning(f.name+":", docs[key]))
			for _, l := range elementLines(fv, key+".") {
				lines = append(lines, "  "+l)
			}
			continue
		default:
			text = yamlList(fv)
		}
		lines = append(lines, withMeaning(f.name+": "+text, docs[key], facts(f)))
	}
	return lines
}

func withMeaning(line string, meaning ...string) string {
	if text := strings.TrimSpace(strings.Join(meaning, " ")); text != "" {
		return line + "  # " + text
	}
	return line
}

// facts are what the tags say about the values of a key.
func facts(f field) string {
	switch {
	case len(f.oneOf) > 0:
		return "One of: " + strings.Join(f.oneOf, ", ") + "."
	case f.max != "":
		return "Range: " + rangeText(f) + "."
	case f.zero != "":
		return "0: " + f.zero + "."
	}
	return ""
}

// comment writes text as comment lines of at most 96 characters.
func (w *referenceWriter) comment(indent string, parts ...string) {
	const width = 96
	line := ""
	for _, word := range strings.Fields(strings.Join(parts, " ")) {
		if line != "" && len(indent)+len(line)+len(word)+3 > width {
			fmt.Fprintf(w, "%s# %s\n", indent, line)
			line = ""
		}
		if line != "" {
			line += " "
		}
		line += word
	}
	if line != "" {
		fmt.Fprintf(w, "%s# %s\n", indent, line)
	}
}

// yamlText writes a scalar as YAML, quoted where YAML needs it.
func yamlText(v reflect.Value) string {
	text := formatScalar(v)
	if v.Kind() == reflect.String && v.String() != AnonymousYes && v.String() != AnonymousNo {
		return yamlString(text)
	}
	return text
}

func yamlList(v reflect.Value) string {
	items := make([]string, 0, v.Len())
	for i := range v.Len() {
		if v.Index(i).Kind() == reflect.String {
			items = append(items, yamlString(v.Index(i).String()))
		}
	}
	return "[" + strings.Join(items, ", ") + "]"
}

func yamlString(s string) string {
	out, err := yaml.Marshal(s)
	if err != nil || s == ">" {
		return fmt.Sprintf("%q", s)
	}
	return strings.TrimSuffix(string(out), "\n")
}
