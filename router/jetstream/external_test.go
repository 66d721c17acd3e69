package jetstream_test

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/mqgate/mqgate/router"
	"github.com/mqgate/mqgate/router/jetstream"
)

func tcpAddr(t *testing.T, addr string) *net.TCPAddr {
	t.Helper()
	a, err := net.ResolveTCPAddr("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// natsServer runs a NATS of its own that listens at addr.
func natsServer(t *testing.T, addr, dir string) *server.Server {
	t.Helper()
	a := tcpAddr(t, addr)
	s, err := server.NewServer(&server.Options{Host: a.IP.String(), Port: a.Port, NoSigs: true, NoLog: true,
		JetStream: dir != "", StoreDir: dir, Username: "gateway", Password: "pass"})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	if !s.ReadyForConnections(30 * time.Second) {
		t.Fatal("NATS is not ready")
	}
	return s
}

func external(t *testing.T, addr string) jetstream.Options {
	t.Helper()
	return jetstream.Options{Dir: t.TempDir(), NodeName: "g1", Log: quiet(), External: &jetstream.ExternalOptions{URL: "nats://gateway:pass@" + addr}}
}

// A store in a NATS elsewhere confirms and keeps as the embedded one does, also
// what is appended while NATS restarts.
func TestExternalNATS(t *testing.T) {
	addr, dir := freeAddrs(t, 1)[0], t.TempDir()
	nats := natsServer(t, addr, dir)
	defer func() { nats.Shutdown(); nats.WaitForShutdown() }()
	o := external(t, addr)
	o.MinFreeBytes = 1 << 60
	n, err := jetstream.StartNode(o)
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	probed := func() uint64 {
		t.Helper()
		if err := n.Healthy(); err != nil {
			t.Error(err)
		}
		n.Usage()
		v, err := nats.Varz(nil)
		if err != nil {
			t.Fatal(err)
		}
		return v.TotalConnections
	}
	if first, then := probed(), probed(); then != first {
		t.Errorf("who asks how NATS is made %d connections", then-first)
	}
	if n.DiskLow() {
		t.Error("the local disk counts, where nothing is stored")
	}
	if second, err := jetstream.StartNode(o); err == nil {
		second.Close()
		t.Error("another node starts on the same data directory")
	} else if !strings.Contains(err.Error(), "in use by another mqgate process") {
		t.Error(err)
	}
	s, err := n.OpenStore(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	want := numbered("message ", 200)
	logs := []router.Log{openLog(t, s, crashQueue), openLog(t, s, crashInbox)}
	for _, l := range logs {
		appendN(t, l, want...)
		save(t, l, "record")
	}
	appendAll(t, logs[0], "a", "b", "c")
	if used, _ := n.Usage(); used == 0 {
		t.Error("nothing is used")
	}

	answers := make(chan answer, 500)
	more := numbered("while it restarts ", 500)
	for i, b := range more {
		logs[0].Append([]byte(b), "", into(answers))
		if i == 250 {
			nats.Shutdown()
			nats.WaitForShutdown()
		}
	}
	nats = natsServer(t, addr, dir)
	for range more {
		if a := hear(t, answers); a.err != nil {
			t.Fatal(a.err)
		}
	}
	all := slices.Concat(want, []string{"a", "b", "c"}, more)
	if got := bodies(readAll(t, logs[0], 1, 100)); !slices.Equal(got, all) {
		t.Errorf("%d messages, want %d in order", len(got), len(all))
	}
	if got := bodies(readAll(t, logs[1], 1, 100)); !slices.Equal(got, want) {
		t.Errorf("%d messages in the inbox, want %d", len(got), len(want))
	}
}

// natsCluster runs servers that are one NATS, and returns their addresses with commas between.
func natsCluster(t *testing.T, servers int) (all []*server.Server, addrs string) {
	t.Helper()
	clients, routes := freeAddrs(t, servers), freeAddrs(t, servers)
	var urls []*url.URL
	for _, a := range routes {
		urls = append(urls, &url.URL{Scheme: "nats-route", Host: a})
	}
	for i := range clients {
		client, route := tcpAddr(t, clients[i]), tcpAddr(t, routes[i])
		s, err := server.NewServer(&server.Options{ServerName: fmt.Sprint("nats", i+1), Host: "127.0.0.1", Port: client.Port, NoSigs: true, NoLog: true,
			JetStream: true, StoreDir: t.TempDir(), Username: "gateway", Password: "pass", Routes: urls,
			Cluster: server.ClusterOpts{Name: "nats", Host: "127.0.0.1", Port: route.Port}})
		if err != nil {
			t.Fatal(err)
		}
		s.Start()
		t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
		all = append(all, s)
		clients[i] = "nats://gateway:pass@" + clients[i]
	}
	within(t, time.Minute, func() error {
		for _, s := range all {
			if h := s.Healthz(nil); h.Error != "" {
				return fmt.Errorf("%s: %s", s.Name(), h.Error)
			}
		}
		return nil
	})
	return all, strings.Join(clients, ",")
}

// In a NATS of several servers each stream has three replicas, and the loss of its leader fails no append.
func TestExternalNATSOfSeveral(t *testing.T) {
	all, addrs := natsCluster(t, 3)
	o := external(t, "")
	o.External.URL = addrs
	n, err := jetstream.StartNode(o)
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	s, err := n.OpenStore(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	l := openLog(t, s, crashQueue)
	want := numbered("message ", 200)
	appendN(t, l, want[:100]...)
	status, err := n.Status(func() []byte { return []byte("g1") })
	if err != nil {
		t.Fatal(err)
	}
	defer status.Close()
	streams, err := status.Streams(context.Background())
	if err != nil || len(streams) == 0 {
		t.Fatalf("%d streams, %v", len(streams), err)
	}
	leader := ""
	for _, st := range streams {
		if len(st.Replicas) != 2 {
			t.Errorf("%s has %d copies, not 3", st.Name, len(st.Replicas)+1)
		}
		leader = st.Leader // the queue's is the last
	}
	for _, nats := range all {
		if nats.Name() == leader {
			nats.Shutdown()
			nats.WaitForShutdown()
		}
	}
	appendN(t, l, want[100:]...)
	if got := bodies(readAll(t, l, 1, 100)); !slices.Equal(got, want) {
		t.Errorf("%d messages, want %d in order", len(got), len(want))
	}
}

// In a NATS of two servers three replicas have no place: the gateway says so instead of waiting for a leader for ever. With fewer it starts.
func TestExternalNATSOfTwo(t *testing.T) {
	_, addrs := natsCluster(t, 2)
	o := external(t, "")
	o.External.URL = addrs
	n, err := jetstream.StartNode(o)
	if err == nil {
		n.Close()
	}
	for _, part := range []string{"fewer than 3 servers", "start 3 servers of its cluster with JetStream", "nats.replicas"} {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Fatalf("error %v, want %q", err, part)
		}
	}
	o.External.Replicas = 2
	if n, err = jetstream.StartNode(o); err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	s, err := n.OpenStore(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	appendN(t, openLog(t, s, crashQueue), "stored")
}

// One server becomes three: the streams of before get three replicas.
func TestExternalNATSGrows(t *testing.T) {
	_, addrs := natsCluster(t, 3)
	o := external(t, "")
	o.External.URL, o.External.Replicas = addrs, 1
	for _, copies := range []int{1, 3} {
		o.External.Replicas = copies
		n, err := jetstream.StartNode(o)
		if err != nil {
			t.Fatal(err)
		}
		s, err := n.OpenStore(context.Background())
		if err != nil {
			n.Close()
			t.Fatal(err)
		}
		appendN(t, openLog(t, s, crashQueue), "stored")
		status, err := n.Status(func() []byte { return nil })
		if err != nil {
			t.Fatal(err)
		}
		within(t, time.Minute, func() error {
			return replicated(copies, func() ([]jetstream.StreamStatus, error) { return status.Streams(context.Background()) })
		})
		status.Close()
		s.Close()
		n.Close()
	}
}

func TestExternalNATSThatCannot(t *testing.T) {
	none := freeAddrs(t, 1)[0]
	bare := natsServer(t, none, "")
	defer func() { bare.Shutdown(); bare.WaitForShutdown() }()
	for _, tt := range []struct{ name, addr, want string }{
		{"without JetStream", none, "has no JetStream"},
		{"2.9", oldServer(t, "2.9.10"), "version 2.9.10 and lacks"},
		{"2.11", oldServer(t, "2.11.4"), "version 2.11.4 and lacks"},
		{"nobody", freeAddrs(t, 1)[0], "nats.url"},
	} {
		n, err := jetstream.StartNode(external(t, tt.addr))
		if err == nil {
			n.Close()
		}
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: error %v, want %q", tt.name, err, tt.want)
		}
	}
}

// oldServer greets as a NATS server of a version does, and answers pings.
func oldServer(t *testing.T, version string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				fmt.Fprintf(c, `INFO {"server_id":"x","version":%q,"max_payload":1048576,"headers":true}`+"\r\n", version)
				for in := bufio.NewScanner(c); in.Scan(); {
					if strings.HasPrefix(in.Text(), "PING") {
						fmt.Fprint(c, "PONG\r\n")
					}
				}
			}()
		}
	}()
	return l.Addr().String()
}
