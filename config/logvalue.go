package config

import (
	"fmt"
	"log/slog"
	"reflect"
	"strings"
)

// LogValue returns the keys that differ from the defaults, without secrets.
func (c *Config) LogValue() slog.Value {
	var attrs []slog.Attr
	ours, defaults := c.leaves(), Default().leaves()
	for i, l := range ours {
		if !reflect.DeepEqual(l.value.Interface(), defaults[i].value.Interface()) {
			attrs = append(attrs, slog.String(l.key, shown(l.value, l.field)))
		}
	}
	return slog.GroupValue(attrs...)
}

// shown writes a value for people; a secret only shows that it is set.
func shown(v reflect.Value, f field) string {
	switch {
	case f.secret && !v.IsZero():
		return "***"
	case isScalar(v.Type()):
		return formatScalar(v)
	case v.Kind() == reflect.Struct:
		var parts []string
		for _, inner := range fieldsOf(v.Type()) {
			if fv := v.FieldByIndex(inner.index); !fv.IsZero() {
				parts = append(parts, inner.name+": "+shown(fv, inner))
			}
		}
		return "{" + strings.Join(parts, ", ") + "}"
	case v.Kind() == reflect.Slice:
		parts := make([]string, v.Len())
		for i := range parts {
			parts[i] = shown(v.Index(i), field{})
		}
		return "[" + strings.Join(parts, ", ") + "]"
	}
	return fmt.Sprint(v.Interface())
}
