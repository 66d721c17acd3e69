package config

import (
	"fmt"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// Validate checks every value and every combination. The error is an Errors.
// Combinations are only looked at once the values are right. Load has called it.
func (c *Config) Validate() error {
	found := c.checkKeys()
	if len(found) == 0 {
		found = c.checkTogether()
	}
	return found.orNil()
}

// checkKeys holds each value against its range, and each listener, pattern and
// user by itself.
func (c *Config) checkKeys() Errors {
	var found Errors
	for _, l := range c.leaves() {
		found = append(found, checkLeaf(l)...)
	}
	_, wrong := c.endpoints()
	found = append(found, wrong...)
	found = append(found, c.checkProxies()...)
	found = append(found, c.checkQueues()...)
	return append(found, c.checkUsers()...)
}

func checkLeaf(l leaf) Errors {
	if l.typ.Kind() != reflect.Slice {
		if p := checkScalar(l); p != nil {
			return Errors{p}
		}
		return nil
	}
	var found Errors
	for i := range l.value.Len() {
		e := l.value.Index(i)
		if e.Kind() != reflect.Struct {
			continue
		}
		for _, inner := range leavesOf(e, fmt.Sprintf("%s[%d].", l.key, i)) {
			found = append(found, checkLeaf(inner)...)
		}
	}
	return found
}

func checkScalar(l leaf) *Problem {
	if len(l.oneOf) > 0 && !slices.Contains(l.oneOf, l.value.String()) {
		return problem(l.key, didYouMeanValue(l), "must be %s, got %s", strings.Join(l.oneOf, " or "), quote(l.value.String()))
	}
	if l.min == "" && l.max == "" || l.zero != "" && l.value.IsZero() {
		return nil
	}
	if below := l.min != "" && l.value.Int() < bound(l.typ, l.min); below ||
		l.max != "" && l.value.Int() > bound(l.typ, l.max) {
		return problem(l.key, "", "must be %s, got %s", rangeText(l.field), formatScalar(l.value))
	}
	return nil
}

func didYouMeanValue(l leaf) string {
	if best := nearest(l.value.String(), l.oneOf); best != "" {
		return "did you mean " + best + "?"
	}
	return ""
}

// bound reads a min or max tag, which a test has read before.
func bound(t reflect.Type, text string) int64 {
	v := reflect.New(t).Elem()
	if err := setScalar(v, text); err != nil {
		panic("config: bad range tag: " + err.Error())
	}
	return v.Int()
}

// rangeText writes a range for people.
func rangeText(f field) string {
	text := "at least " + f.min
	if f.max != "" {
		text = "from " + f.min + " to " + f.max
	}
	if f.zero != "" {
		text += ", or 0 (" + f.zero + ")"
	}
	return text
}

func (c *Config) checkQueues() Errors {
	var found Errors
	first := make(map[string]int)
	for i, r := range c.Queues {
		key := "queues[" + strconv.Itoa(i) + "]"
		if text, hint := checkPattern(r.Pattern); text != "" {
			found = append(found, problem(key, hint, "%s", text))
			continue
		}
		if j, twice := first[r.Pattern]; twice {
			found = append(found, problem(key, "keep one of them", "the pattern %s stands in queues[%d] already", quote(r.Pattern), j))
			continue
		}
		first[r.Pattern] = i
		found = append(found, r.check(key)...)
	}
	return found
}

func (p Policy) check(key string) Errors {
	var found Errors
	switch {
	case p.DeadLetter == "":
		found = append(found, problem(key+".dead_letter", `write a queue's name, or "none" to drop dead letters`, "is empty"))
	case strings.ContainsAny(p.DeadLetter, ",?*>") || strings.Count(p.DeadLetter, queueVariable) > 1:
		found = append(found, problem(key+".dead_letter", "write a queue's name; "+queueVariable+" may stand in it once", "%s is not the name of a queue", quote(p.DeadLetter)))
	case strings.HasPrefix(p.DeadLetter, "/"):
		found = append(found, problem(key+".dead_letter", "write the queue's name alone", "%s has a destination prefix", quote(p.DeadLetter)))
	case p.DeadLetter == queueVariable:
		found = append(found, problem(key+".dead_letter", `write "DLQ.`+queueVariable+`" or "none"`, "a queue cannot be its own dead-letter queue"))
	case p.DeadLetter == DeadLetterNone && p.OnExpire == OnExpireDeadLetter:
		found = append(found, problem(key+".on_expire", "write on_expire: drop, or name a dead_letter queue", "there is no dead-letter queue for expired messages"))
	}
	if p.RedeliveryBackoffMax != 0 && p.RedeliveryBackoffMax < p.RedeliveryDelay {
		found = append(found, problem(key+".redelivery_backoff_max", "raise it, or write 0 to keep the delay constant",
			"%s is less than redelivery_delay %s", formatDuration(p.RedeliveryBackoffMax), formatDuration(p.RedeliveryDelay)))
	}
	if p.RedeliveryBackoffMax != 0 && p.RedeliveryDelay == 0 {
		found = append(found, problem(key+".redelivery_backoff_max", "set redelivery_delay", "there is no delay that could grow"))
	}
	return found
}

func (c *Config) checkUsers() Errors {
	var found Errors
	first := make(map[string]int)
	for i, u := range c.Users {
		key := "users[" + strconv.Itoa(i) + "]"
		if u.Name == "" {
			found = append(found, problem(key+".name", "clients without a login are set up under anonymous", "a user needs a name"))
			continue
		}
		if j, twice := first[u.Name]; twice {
			found = append(found, problem(key+".name", "keep one of them", "the user %s stands in users[%d] already", quote(u.Name), j))
		} else {
			first[u.Name] = i
		}
		switch {
		case u.PasswordHash != "" && u.PasswordFile != "":
			found = append(found, problem(key, "keep one of them", "user %s has a password_hash and a password_file", quote(u.Name)))
		case u.PasswordHash != "" && !strings.HasPrefix(u.PasswordHash, "$"):
			found = append(found, problem(key+".password_hash", `"mqgate passwd" makes one`, "is not a password hash"))
		}
	}
	return found
}

// checkTogether looks at combinations of keys.
func (c *Config) checkTogether() Errors {
	found := c.checkListeners()
	found = append(found, c.checkTLS()...)
	found = append(found, c.checkHTTP()...)
	found = append(found, c.checkCluster()...)
	found = append(found, c.Nats.check()...)
	found = append(found, c.Federation.check()...)
	found = append(found, c.checkLimits()...)
	found = append(found, c.checkLogins()...)
	found = append(found, c.checkTokens()...)
	return append(found, c.checkAccess()...)
}

func (c *Config) checkListeners() Errors {
	var found Errors
	all, _ := c.endpoints()
	all = append(all, c.peerEndpoints()...)
	for i, e := range all {
		for _, o := range all[:i] {
			if e.collides(o) {
				found = append(found, problem(e.key, "give one of them another port",
					"%s collides with %s %s", e.text, o.key, o.text))
				break
			}
		}
	}
	if len(c.Stomp.Open()) == 0 && c.Mqtt.Listen == "" && c.HTTP.Listen == "" && len(c.HTTP.Listeners) == 0 {
		found = append(found, problem("stomp.listen", `set it, such as "127.0.0.1:61613"`, "no client could connect: every listener is closed"))
	}
	return found
}

func (c *Config) checkTLS() Errors {
	found := checkTLSFiles("stomp.tls", c.Stomp.Listen, c.Stomp.TLS)
	found = append(found, checkTLSFiles("mqtt.tls", c.Mqtt.Listen, c.Mqtt.TLS)...)
	found = append(found, checkTLSFiles("http.tls", c.HTTP.Listen, c.HTTP.TLS)...)
	found = append(found, checkTLSFiles("admin.tls", c.Admin.Listen, c.Admin.TLS)...)
	for i, l := range c.HTTP.Listeners {
		found = append(found, checkTLSFiles("http.listeners["+strconv.Itoa(i)+"].tls", l.Listen, l.TLS)...)
	}
	for i, l := range c.Stomp.Listeners {
		found = append(found, checkTLSFiles("stomp.listeners["+strconv.Itoa(i)+"].tls", l.Listen, l.TLS)...)
	}
	return found
}

// checkHTTP refuses what the listeners for WebSocket cannot mean.
func (c *Config) checkHTTP() Errors {
	var found Errors
	for i, l := range c.HTTP.Listeners {
		key := "http.listeners[" + strconv.Itoa(i) + "]"
		if l.Carries == CarriesMQTT && l.Dialect != DialectActiveMQ {
			found = append(found, problem(key+".dialect", "leave it out", "dialects are of STOMP, and this listener carries mqtt"))
		}
		if l.Listen == "" {
			found = append(found, problem(key+".listen", `set it, such as "127.0.0.1:15674", or remove the listener`, "is empty"))
		}
	}
	for i, o := range c.HTTP.Origins {
		if o != "*" && !isOrigin(o) {
			found = append(found, problem("http.origins["+strconv.Itoa(i)+"]", "write scheme://host or scheme://host:port as a browser shows it, without a path",
				"%s is not an origin", quote(o)))
		}
	}
	return found
}

func isOrigin(text string) bool {
	u, err := url.Parse(text)
	return err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Host != "" && u.User == nil &&
		text == u.Scheme+"://"+u.Host
}

func checkTLSFiles(key, listen string, t TLS) Errors {
	switch {
	case (t.CertFile == "") != (t.KeyFile == ""):
		return Errors{problem(key, "set both, or neither for a plain listener", "cert_file and key_file belong together")}
	case t.ClientCAFile != "" && t.CertFile == "":
		return Errors{problem(key+".client_ca_file", "set cert_file and key_file too", "client certificates need TLS")}
	case t.Enabled() && listen == "":
		return Errors{problem(key, "set the address too, or remove the files", "there are certificates for a listener that is closed")}
	}
	return nil
}

func (c *Config) checkLimits() Errors {
	var found Errors
	atMost := func(key string, v Bytes, otherKey string, other Bytes) {
		if v > other {
			found = append(found, problem(key, "lower it, or raise "+otherKey, "%s is more than %s %s", v, otherKey, other))
		}
	}
	l := c.Limits
	atMost("limits.header_bytes", l.HeaderBytes, "limits.frame_bytes", l.FrameBytes)
	atMost("limits.frame_bytes", l.FrameBytes, "limits.transaction_bytes", l.TransactionBytes)
	if c.Storage.MaxBytes != 0 {
		atMost("limits.frame_bytes", l.FrameBytes, "storage.max_bytes", c.Storage.MaxBytes)
	}
	if l.ConnectionsPerUser > l.Connections {
		found = append(found, problem("limits.connections_per_user", "lower it, or raise limits.connections",
			"%d is more than limits.connections %d", l.ConnectionsPerUser, l.Connections))
	}
	return found
}

func (c *Config) checkLogins() Errors {
	var found Errors
	for i, u := range c.Users {
		if u.PasswordHash == "" && u.PasswordFile == "" && len(u.CertNames) == 0 {
			found = append(found, problem("users["+strconv.Itoa(i)+"]", `"mqgate passwd" makes a password_hash`, "user %s has no way to log in", quote(u.Name)))
		}
	}
	return found
}

// checkTokens refuses tokens without anyone whom they could be about.
func (c *Config) checkTokens() Errors {
	t := c.Tokens
	known := slices.ContainsFunc(c.Users, func(u User) bool { return u.Name == t.As })
	switch {
	case t.SecretFile == "" && t.As != "":
		return Errors{problem("tokens.as", "set tokens.secret_file too, or leave it out", "there are no tokens")}
	case t.As != "" && !known:
		return Errors{problem("tokens.as", "name one of the users", "there is no user %s", quote(t.As))}
	case t.SecretFile != "" && len(c.Users) == 0:
		return Errors{problem("tokens.secret_file", "add users, and name one in tokens.as", "there are no users whose rights a token could give")}
	}
	return nil
}

// checkAccess refuses a broker that nobody can log in to, and one that lets
// strangers from the network in.
func (c *Config) checkAccess() Errors {
	exposed := c.exposed()
	const fix = `set anonymous.allow: false and add users ("mqgate passwd" makes their hashes)`
	switch {
	case c.Anonymous.Allow == AnonymousYes && len(exposed) > 0:
		e := exposed[0]
		return Errors{problem("anonymous.allow", fix+", or listen on 127.0.0.1",
			"clients without a login would be let in from the network: %s is %s", e.key, quote(e.text))}
	case len(c.Users) > 0 || c.AnonymousAllowed():
		return nil
	case c.Anonymous.Allow == AnonymousAuto:
		e := exposed[0]
		return Errors{problem(e.key, `add users ("mqgate passwd" makes their hashes), or listen on 127.0.0.1`,
			"nobody could log in: there are no users, and %s can be reached from the network, where a login is needed", quote(e.text))}
	}
	return Errors{problem("users", `add users ("mqgate passwd" makes their hashes), or set anonymous.allow: auto`,
		"nobody could log in: there are no users, and anonymous.allow is false")}
}
