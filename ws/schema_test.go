package ws

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"unicode/utf8"
)

// schema is the part of JSON Schema 2020-12 that protocol.schema.json uses. A
// keyword that it does not know is an error: nothing is left unchecked.
type schema struct{ root map[string]any }

var protocolSchema = sync.OnceValue(func() *schema {
	b, err := os.ReadFile("protocol.schema.json")
	if err != nil {
		panic(err)
	}
	s := &schema{}
	if err := json.Unmarshal(b, &s.root); err != nil {
		panic(err)
	}
	return s
})

// check validates a value against a definition, "" is the whole schema.
func (s *schema) check(definition string, v any) error {
	if definition == "" {
		_, err := s.valid(s.root, v, "message")
		return err
	}
	_, err := s.valid(s.resolve("#/$defs/"+definition), v, definition)
	return err
}

func (s *schema) resolve(ref string) map[string]any {
	at := any(s.root)
	for _, name := range strings.Split(strings.TrimPrefix(ref, "#/"), "/") {
		at = at.(map[string]any)[name]
	}
	return at.(map[string]any)
}

// valid returns the members of v that the schema spoke of.
func (s *schema) valid(sub any, v any, path string) (spoken map[string]bool, err error) {
	if b, ok := sub.(bool); ok {
		if !b {
			return nil, fmt.Errorf("%s is not allowed", path)
		}
		return nil, nil
	}
	rules := sub.(map[string]any)
	spoken = map[string]bool{}
	for _, keyword := range slices.Sorted(maps.Keys(rules)) {
		if err := s.keyword(keyword, rules, v, path, spoken); err != nil {
			return nil, err
		}
	}
	if object, ok := v.(map[string]any); ok && (rules["unevaluatedProperties"] == false || rules["additionalProperties"] == false) {
		for name := range object {
			if !spoken[name] {
				return nil, fmt.Errorf("%s has the unknown member %q", path, name)
			}
		}
	}
	return spoken, nil
}

func (s *schema) keyword(keyword string, rules map[string]any, v any, path string, spoken map[string]bool) error {
	rule := rules[keyword]
	object, _ := v.(map[string]any)
	list, _ := v.([]any)
	text, isText := v.(string)
	number, isNumber := v.(float64)
	bad := func(format string, args ...any) error { return fmt.Errorf(path+" "+format, args...) }
	also := func(sub any) error {
		more, err := s.valid(sub, v, path)
		maps.Copy(spoken, more)
		return err
	}
	switch keyword {
	case "$schema", "$defs", "title", "description", "then", "unevaluatedProperties", "contentEncoding":
	case "$ref":
		return also(s.resolve(rule.(string)))
	case "type":
		if !typed(rule.(string), v) {
			return bad("is %v, not of type %s", v, rule)
		}
	case "enum":
		if !slices.Contains(rule.([]any), v) {
			return bad("is %v, none of %v", v, rule)
		}
	case "const":
		if v != rule {
			return bad("is %v, not %v", v, rule)
		}
	case "required":
		for _, name := range rule.([]any) {
			if _, ok := object[name.(string)]; object != nil && !ok {
				return bad("lacks %v", name)
			}
		}
	case "properties":
		for name, sub := range rule.(map[string]any) {
			if member, ok := object[name]; ok {
				spoken[name] = true
				if _, err := s.valid(sub, member, path+"."+name); err != nil {
					return err
				}
			}
		}
	case "additionalProperties":
		for name, member := range object {
			if rules["properties"] == nil {
				spoken[name] = true
				if _, err := s.valid(rule, member, path+"."+name); err != nil {
					return err
				}
			}
		}
	case "items":
		for i, item := range list {
			if _, err := s.valid(rule, item, fmt.Sprintf("%s[%d]", path, i)); err != nil {
				return err
			}
		}
	case "maxItems", "maxProperties":
		if n := max(len(list), len(object)); float64(n) > rule.(float64) {
			return bad("has %d entries, over %v", n, rule)
		}
	case "minLength":
		if isText && float64(utf8.RuneCountInString(text)) < rule.(float64) {
			return bad("is shorter than %v", rule)
		}
	case "maxLength":
		if isText && float64(utf8.RuneCountInString(text)) > rule.(float64) {
			return bad("is longer than %v", rule)
		}
	case "minimum":
		if isNumber && number < rule.(float64) {
			return bad("is under %v", rule)
		}
	case "maximum":
		if isNumber && number > rule.(float64) {
			return bad("is over %v", rule)
		}
	case "if":
		if _, err := s.valid(rule, v, path); err == nil {
			return also(rules["then"])
		}
	case "allOf":
		for _, sub := range rule.([]any) {
			if err := also(sub); err != nil {
				return err
			}
		}
	case "oneOf":
		var errs []string
		n := 0
		for _, sub := range rule.([]any) {
			more, err := s.valid(sub, v, path)
			if err == nil {
				n++
				maps.Copy(spoken, more)
			} else {
				errs = append(errs, err.Error())
			}
		}
		if n != 1 {
			return bad("is %d of the alternatives: %s", n, strings.Join(errs, "; "))
		}
	default:
		return bad("has a schema with the keyword %q, which the test does not know", keyword)
	}
	return nil
}

func typed(kind string, v any) bool {
	switch x := v.(type) {
	case map[string]any:
		return kind == "object"
	case []any:
		return kind == "array"
	case string:
		return kind == "string"
	case bool:
		return kind == "boolean"
	case float64:
		return kind == "number" || kind == "integer" && x == math.Trunc(x)
	}
	return false
}

func TestSchemaRefuses(t *testing.T) {
	for definition, texts := range map[string][]string{
		"request": {`{"op":"fly"}`, `{"op":"publish"}`, `{"op":"publish","to":""}`, `{"op":"ping","id":0}`, `{"op":"ping","id":1.5}`, `{"op":"ping","x":1}`,
			`{"op":"subscribe","to":"/queue/a"}`, `{"op":"ack","sub":"s"}`, `{"op":"publish","to":"/queue/a","priority":10}`, `{"op":"publish","to":"/queue/a","headers":{"a":1}}`,
			`{"op":"publish","to":"/queue/a","body":"x","data":1}`},
		"reply": {`{"reply":1}`, `{"reply":1,"ok":false}`, `{"reply":1,"ok":true,"error":{"code":"full","message":"","retry":true}}`, `{"reply":1,"error":{"code":"odd","message":"","retry":true}}`,
			`{"reply":1,"ok":true,"presents":[]}`},
		"event": {`{"event":"message","sub":"s"}`, `{"event":"message","sub":"s","id":"1","to":"/queue/a","timeMs":1}`,
			`{"event":"message","sub":"s","id":"1","to":"/queue/a","timeMs":1,"body":"","data":1}`, `{"event":"message","sub":"s","id":"1","to":"/queue/a","timeMs":1,"body":"","odd":1}`,
			`{"event":"presence","sub":"s","count":1}`, `{"event":"presence","sub":"s","count":1,"present":[{"session":"x"}]}`, `{"event":"missed","sub":"s"}`, `{"event":"odd"}`},
	} {
		for _, text := range texts {
			var v any
			if err := json.Unmarshal([]byte(text), &v); err != nil {
				t.Fatal(err)
			}
			if protocolSchema().check(definition, v) == nil {
				t.Errorf("%s is a valid %s", text, definition)
			}
		}
	}
}

// examples are the lines of JSON in PROTOCOL.md: those that are indented, each
// with one or more messages.
func examples(t *testing.T) []map[string]any {
	t.Helper()
	b, err := os.ReadFile("PROTOCOL.md")
	if err != nil {
		t.Fatal(err)
	}
	var all []map[string]any
	for line := range strings.Lines(string(b)) {
		if !strings.HasPrefix(line, "    {") {
			continue
		}
		for d := json.NewDecoder(strings.NewReader(line)); d.More(); {
			var v map[string]any
			if err := d.Decode(&v); err != nil {
				t.Fatalf("%s is not JSON: %v", strings.TrimSpace(line), err)
			}
			all = append(all, v)
		}
	}
	return all
}

func TestEveryExampleOfTheProtocolIsValid(t *testing.T) {
	ops, events, replies := map[string]bool{}, map[string]bool{}, 0
	for _, v := range examples(t) {
		if err := protocolSchema().check("", v); err != nil {
			t.Errorf("%v: %v", v, err)
		}
		if op, ok := v["op"].(string); ok && v["event"] == nil {
			ops[op] = true
		}
		if event, ok := v["event"].(string); ok {
			events[event] = true
		}
		if v["reply"] != nil {
			replies++
		}
	}
	request := protocolSchema().resolve("#/$defs/request")["properties"].(map[string]any)
	for _, op := range request["op"].(map[string]any)["enum"].([]any) {
		if !ops[op.(string)] {
			t.Errorf("PROTOCOL.md shows no %v", op)
		}
	}
	for _, event := range []string{"message", "presence", "missed", "error"} {
		if !events[event] {
			t.Errorf("PROTOCOL.md shows no event %s", event)
		}
	}
	if replies < 3 {
		t.Errorf("PROTOCOL.md shows %d replies", replies)
	}
}

// The client is to be read in one sitting, and to need nothing.
func TestTheClientIsSmall(t *testing.T) {
	b, err := os.ReadFile("client/mqgate.js")
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(b), "\n"); n >= 200 || strings.Contains(string(b), "\nimport ") {
		t.Errorf("%d lines", n)
	}
}
