package cluster

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/mqgate/mqgate/integration/harness"
)

// nodeCount is how many nodes the tests run, unless MQGATE_TEST_NODES says.
const nodeCount = 3

func nodes(t *testing.T) int { return setting(t, "MQGATE_TEST_NODES", nodeCount) }

// setting reads a number from the environment.
func setting(t *testing.T, name string, otherwise int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

func duration(t *testing.T, name string, otherwise time.Duration) time.Duration {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return d
}

// chance chooses nodes; its seed is in the log.
func chance(t *testing.T) *rand.Rand {
	seed := uint64(setting(t, "MQGATE_TEST_SEED", int(time.Now().UnixNano()&0xffffff)))
	t.Logf("MQGATE_TEST_SEED=%d", seed)
	return rand.New(rand.NewPCG(seed, 1))
}

// pace is between two messages of a sender: with six of them some hundred a second.
const pace = 10 * time.Millisecond

// gaps are the longest times without any confirmation, one for each fault.
type gaps []time.Duration

func (g gaps) log(t *testing.T, what string) {
	t.Helper()
	if len(g) == 0 {
		return
	}
	sorted := slices.Sorted(slices.Values(g))
	t.Logf("ledger of faults: %d times %s; longest time without any confirmation around each: median %s, worst %s",
		len(g), what, sorted[len(sorted)/2].Round(time.Millisecond), sorted[len(sorted)-1].Round(time.Millisecond))
}

// outage is what one fault did: the longest times without a confirmation around it.
type outage struct {
	leads bool // the node that led had the fault
	any   time.Duration
	kinds []time.Duration // of each kind of load
}

// outage returns the longest times without a confirmation since the last call.
func (l *load) outage(leads bool) outage {
	o := outage{leads: leads, any: everything.reset()}
	for _, g := range l.ledgers {
		o.kinds = append(o.kinds, g.pulse.reset())
	}
	return o
}

// logOutages prints a line for the faults of leaders and one for those of other nodes.
func (l *load) logOutages(what string, all []outage) {
	l.t.Helper()
	for _, leads := range []bool{true, false} {
		var g gaps
		worst := make([]time.Duration, len(l.ledgers))
		for _, o := range all {
			if o.leads != leads {
				continue
			}
			g = append(g, o.any)
			for i, d := range o.kinds {
				worst[i] = max(worst[i], d)
			}
		}
		who := "a node that follows"
		if leads {
			who = "the leader"
		}
		g.log(l.t, who+" "+what)
		if len(g) > 0 {
			l.t.Logf("ledger of faults: worst by kind of load when %s %s: %s", who, what, l.byKind(worst))
		}
	}
}

// byKind names the kind of load of each of some times.
func (l *load) byKind(times []time.Duration) string {
	var text []string
	for i, d := range times {
		text = append(text, fmt.Sprintf("%s %s", l.ledgers[i].name, d.Round(time.Millisecond)))
	}
	return strings.Join(text, ", ")
}

// TestKills kills a random node with SIGKILL every 10 seconds under the load of all
// protocols and starts it again: nothing that was confirmed is lost, nothing comes
// twice without a mark, nothing of QoS 2 at all.
func TestKills(t *testing.T) {
	if os.Getenv("CI") == "" { // where it belongs to the others
		chaos(t)
	}
	c := harness.NewCluster(t, harness.ClusterOptions{Nodes: nodes(t)})
	l := start(t, c, pace)
	r := chance(t)
	l.progress(50, time.Minute)
	var all []outage
	for end := time.Now().Add(duration(t, "MQGATE_TEST_CHAOS", 5*time.Minute)); time.Now().Before(end); {
		next := time.After(10 * time.Second)
		n := c.Nodes[r.IntN(len(c.Nodes))]
		leads := len(c.Nodes) == 1 || c.Leader(t) == n.Name
		l.outage(leads) // those before do not count
		n.Kill()
		if err := n.Restart(); err != nil {
			t.Fatal(err)
		}
		c.AwaitReady(t, n, true)
		l.progress(10, time.Minute) // of each kind
		o := l.outage(leads)
		all = append(all, o)
		t.Logf("kill %d: %s, leader %v: longest time without any confirmation %s; by kind of load: %s", len(all), n.Name, leads, o.any.Round(time.Millisecond), l.byKind(o.kinds))
		<-next
	}
	l.finish()
	l.logOutages("was killed", all)
}

// TestRollingRestart drains one node after the other under load and starts it
// again: nothing is lost, and clients see nothing but the ends of connections that were
// announced.
func TestRollingRestart(t *testing.T) {
	chaos(t)
	c := harness.NewCluster(t, harness.ClusterOptions{Nodes: nodes(t)})
	l := start(t, c, pace)
	l.progress(50, time.Minute)
	var g gaps
	for _, n := range c.Nodes {
		everything.reset()
		code, out, errs := n.Command("", "drain", "--set", "data_dir="+n.DataDir())
		if code != 0 {
			t.Errorf("mqgate drain on %s: %d %s", n.Name, code, errs)
		}
		t.Logf("%s: %s", n.Name, out)
		if code := n.Wait(); code != 0 {
			t.Errorf("%s ended with %d", n.Name, code)
		}
		if err := n.Restart(); err != nil {
			t.Fatal(err)
		}
		c.AwaitReady(t, n, true)
		l.progress(20, time.Minute)
		g = append(g, everything.reset())
	}
	l.finish()
	g.log(t, "a node was drained")
	if ends := l.unannounced(); len(ends) > 0 {
		t.Errorf("ends of connections that were not announced: %v", ends)
	}
	for _, k := range l.ledgers {
		if refused := k.refusals(); refused != "" {
			t.Errorf("%s was refused:%s", k.name, refused)
		}
	}
}
