package config

import (
	"reflect"
	"regexp"
	"strings"
)

// EnvPrefix begins the name of every environment variable that is read.
const EnvPrefix = "MQGATE_"

// EnvFile names the configuration file when no --config does.
const EnvFile = EnvPrefix + "CONFIG"

// field is one key of a section, as its struct tags describe it.
type field struct {
	name     string // the key
	index    []int  // for reflect.Value.FieldByIndex
	typ      reflect.Type
	min, max string
	zero     string
	oneOf    []string
	relative bool
	secret   bool
}

// fieldsOf returns the keys of a section in the order of its struct; an
// embedded struct's keys stand in its place.
func fieldsOf(t reflect.Type) []field {
	var all []field
	for i := range t.NumField() {
		sf := t.Field(i)
		if sf.Anonymous {
			for _, f := range fieldsOf(sf.Type) {
				f.index = append([]int{i}, f.index...)
				all = append(all, f)
			}
			continue
		}
		f := field{
			name:     sf.Tag.Get("key"),
			index:    []int{i},
			typ:      sf.Type,
			min:      sf.Tag.Get("min"),
			max:      sf.Tag.Get("max"),
			zero:     sf.Tag.Get("zero"),
			relative: sf.Tag.Get("relative") == "file",
			secret:   sf.Tag.Get("secret") == "true",
		}
		if s := sf.Tag.Get("oneof"); s != "" {
			f.oneOf = strings.Split(s, ",")
		}
		all = append(all, f)
	}
	return all
}

func fieldNamed(fields []field, name string) (field, bool) {
	for _, f := range fields {
		if f.name == name {
			return f, true
		}
	}
	return field{}, false
}

// leaf is a key that holds a value rather than a section: a scalar or a list.
type leaf struct {
	field
	key   string        // dotted
	value reflect.Value // in the Config that was walked
}

// env is the name of the leaf's environment variable.
func (l leaf) env() string {
	return EnvPrefix + strings.ToUpper(strings.ReplaceAll(l.key, ".", "_"))
}

// leavesOf returns all leaves below v, a struct, in order.
func leavesOf(v reflect.Value, prefix string) []leaf {
	var all []leaf
	for _, f := range fieldsOf(v.Type()) {
		key, fv := prefix+f.name, v.FieldByIndex(f.index)
		if f.typ.Kind() == reflect.Struct && !isScalar(f.typ) {
			all = append(all, leavesOf(fv, key+".")...)
			continue
		}
		all = append(all, leaf{field: f, key: key, value: fv})
	}
	return all
}

func (c *Config) leaves() []leaf { return leavesOf(reflect.ValueOf(c).Elem(), "") }

// keyNames returns the dotted keys of all leaves.
func keyNames(leaves []leaf) []string {
	names := make([]string, len(leaves))
	for i, l := range leaves {
		names[i] = l.key
	}
	return names
}

// serviceLink matches what Kubernetes and Docker put in the environment of every
// container beside a service called mqgate. They begin with our prefix but are
// not meant for us, and nobody who meets them wrote them.
var serviceLink = regexp.MustCompile(
	`^MQGATE_([A-Z0-9_]+_)?(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT(_[0-9]+_(TCP|UDP)(_(PROTO|PORT|ADDR))?)?)$`)
