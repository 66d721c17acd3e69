package config

import "testing"

func TestCollides(t *testing.T) {
	tests := []struct {
		a, b string
		want bool
	}{
		{"127.0.0.1:1", "127.0.0.1:1", true},
		{"127.0.0.1:1", "127.0.0.1:2", false},
		{"127.0.0.1:1", "127.0.0.2:1", false},
		{"127.0.0.1:0", "127.0.0.1:0", false},
		{":0", "127.0.0.1:0", false},
		{":1", "127.0.0.1:1", true},
		{"0.0.0.0:1", "127.0.0.1:1", true},
		{"[::]:1", "0.0.0.0:1", true},
		{"[::]:1", "10.0.0.1:1", true},
		{"localhost:1", "127.0.0.1:1", true},
		{"LOCALHOST:1", "localhost:1", true},
		{"[::ffff:127.0.0.1]:1", "127.0.0.1:1", true},
		{"[::1]:1", "[0:0:0:0:0:0:0:1]:1", true},
		{"[::1]:1", "127.0.0.1:1", false},
		{"Host:1", "host:1", true},
		{"127.0.0.1:01", "127.0.0.1:1", true},
	}
	for _, tt := range tests {
		a, p := parseEndpoint("a", tt.a)
		b, q := parseEndpoint("b", tt.b)
		if p != nil || q != nil {
			t.Fatalf("%s, %s: %v, %v", tt.a, tt.b, p, q)
		}
		if a.collides(b) != tt.want || b.collides(a) != tt.want {
			t.Errorf("%s and %s: %t and %t, want %t", tt.a, tt.b, a.collides(b), b.collides(a), tt.want)
		}
	}
}

func TestLoopback(t *testing.T) {
	for text, want := range map[string]bool{
		"127.0.0.1:1": true, "127.9.9.9:1": true, "[::1]:1": true, "localhost:1": true, "[::ffff:127.0.0.1]:1": true,
		":1": false, "0.0.0.0:1": false, "[::]:1": false, "10.0.0.1:1": false, "myhost:1": false, "localhost.evil.example:1": false,
	} {
		e, p := parseEndpoint("k", text)
		if p != nil {
			t.Fatalf("%s: %v", text, p)
		}
		if e.loopback() != want {
			t.Errorf("%s: loopback %t, want %t", text, e.loopback(), want)
		}
	}
}

func TestAnonymousAllowed(t *testing.T) {
	tests := []struct {
		name  string
		allow string
		users int
		open  string
		want  bool
	}{
		{"auto, alone on loopback", AnonymousAuto, 0, "127.0.0.1:1", true},
		{"auto, with users", AnonymousAuto, 1, "127.0.0.1:1", false},
		{"auto, on the network", AnonymousAuto, 0, ":1", false},
		{"true, with users", AnonymousYes, 1, "127.0.0.1:1", true},
		{"false", AnonymousNo, 0, "127.0.0.1:1", false},
		{"anything else", "", 0, "127.0.0.1:1", false},
	}
	for _, tt := range tests {
		c := Default()
		c.Anonymous.Allow, c.Users, c.Stomp.Listen = tt.allow, make([]User, tt.users), tt.open
		if got := c.AnonymousAllowed(); got != tt.want {
			t.Errorf("%s: %t, want %t", tt.name, got, tt.want)
		}
	}
}
