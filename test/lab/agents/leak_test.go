package agents_test

import (
	"crypto/rand"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/weaveguard/weaveguard/mesh/contract"
	"github.com/weaveguard/weaveguard/test/lab"
	"github.com/weaveguard/weaveguard/test/lab/agents"
)

// backstop adds or deletes the routes behind the tunnels'.
func (l *leaks) backstop(t *testing.T, n *agents.Node, verb string) {
	t.Helper()
	for _, r := range l.PodRanges() {
		n.MustRun(t, "ip", "route", verb, "unreachable", r.String())
	}
}

// leaks looks for what leaves a mesh in the clear. The first two nodes have each other as default route, so that whatever
// isn't held back leaves.
type leaks struct {
	*agents.Mesh
	marker  string // begins those of all senders
	senders []*sender
}

// sender sends a marker of its own.
type sender struct {
	*lab.Process
	on     *agents.Node
	marker string
}

func newLeaks(t *testing.T, m *agents.Mesh) *leaks {
	for i, n := range m.Nodes[:2] {
		for _, r := range m.PodRanges() {
			defaultRoute(t, n, r.Addr(), m.Nodes[1-i])
		}
	}
	return &leaks{Mesh: m, marker: rand.Text()}
}

// defaultRoute gives a node one of the family of an address, over a neighbour, which needn't have an address of that family.
func defaultRoute(t *testing.T, n *agents.Node, of netip.Addr, over *agents.Node) {
	t.Helper()
	via := over.Addr4
	if of.Is6() || !via.IsValid() {
		via = over.Addr6
	}
	n.MustRun(t, "ip", "-family", family(of), "route", "add", "default", "via", family(via), via.String())
}

// family is what ip(8) calls the family of an address.
func family(a netip.Addr) string {
	if a.Is4() {
		return "inet"
	}
	return "inet6"
}

// starter is a place to send from: a pod, or a host.
type starter interface {
	MustStart(t testing.TB, c lab.Command) *lab.Process
}

// send sends a marker from a node to an address without pause, whatever comes of it.
func (l *leaks) send(t *testing.T, on *agents.Node, from starter, to netip.Addr) {
	t.Helper()
	s := &sender{on: on, marker: l.marker + rand.Text()}
	s.Process = from.MustStart(t, lab.Command{Name: fmt.Sprintf("sender-%d", len(l.senders)), Path: "bash", Args: []string{"-c",
		fmt.Sprintf("while :; do echo -n %s 2>/dev/null >/dev/udp/%s/9999; echo tried; sleep 0.005; done 2>/dev/null", s.marker, to)}})
	l.senders = append(l.senders, s)
}

// seen is what captures of markers see while something is done, and until each sender has tried 50 times more.
func (l *leaks) seen(t *testing.T, do func(), markers ...string) []lab.CaptureReport {
	t.Helper()
	var captures []*lab.Capture
	for _, marker := range markers {
		captures = append(captures, l.Lab.Capture(t, "", []byte(marker)))
	}
	do()
	var processes []*lab.Process
	for _, s := range l.senders {
		processes = append(processes, s.Process)
		before := strings.Count(s.Log(), "tried")
		lab.Eventually(t, 30*time.Second, s.Name+" has tried 50 times more", func() error {
			if tried := strings.Count(s.Log(), "tried") - before; tried < 50 {
				return fmt.Errorf("%d times", tried)
			}
			return nil
		})
	}
	return lab.StopQuiet(t, processes, captures...)
}

// none fails the test if anything leaves in the clear while something is done, and after that.
func (l *leaks) none(t *testing.T, doing string, do func()) {
	t.Helper()
	if report := l.seen(t, do, l.marker)[0]; report.Marked != 0 {
		t.Errorf("%s: %v\n%s", doing, report, report.First)
	}
}

// leaves fails the test unless something of each sender on a node leaves in the clear as things are.
func (l *leaks) leaves(t *testing.T, n *agents.Node) {
	t.Helper()
	var here []*sender
	var markers []string
	for _, s := range l.senders {
		if s.on == n {
			here, markers = append(here, s), append(markers, s.marker)
		}
	}
	for i, report := range l.seen(t, func() {}, markers...) {
		if report.Marked == 0 {
			t.Errorf("without guards the capture has seen of %s on %s: %v: it can't tell", here[i].Name, n.Name, report)
		}
	}
}

// without kills a node's agent as things are, takes something away, shows what holds the marker back then, and starts the
// agent again.
func (l *leaks) without(t *testing.T, n *agents.Node, what string, take func()) {
	t.Helper()
	l.none(t, "the agent is killed", func() {
		if err := n.Agent.Kill(); err != nil {
			t.Fatal(err)
		}
	})
	l.none(t, "without "+what, take)
	l.guards(t, n)
	n.StartAgent(t)
	lab.Eventually(t, time.Minute, "the guards are back", func() error {
		s, err := n.Status(t.Context())
		if err == nil && !s.Ready {
			err = fmt.Errorf("%v", s.Problems)
		}
		return err
	})
	l.none(t, "the agent is back", func() {})
}

// noTunnels takes the routes to a node's tunnels away.
func noTunnels(t *testing.T, n *agents.Node) {
	t.Helper()
	for _, device := range strings.Fields(n.MustRun(t, "wg", "show", "interfaces")) {
		for _, family := range []string{"-4", "-6"} {
			n.MustRun(t, "ip", family, "route", "flush", "dev", device)
		}
	}
}

// guards shows that of the two guards on a node without an agent each is enough, and that without both the marker leaves.
func (l *leaks) guards(t *testing.T, n *agents.Node) {
	t.Helper()
	l.none(t, "the table alone", func() { l.backstop(t, n, "del") })
	l.none(t, "both again", func() { l.backstop(t, n, "add") })
	l.none(t, "the route alone", func() { n.MustRun(t, "nft", "delete", "table", "inet", contract.FirewallTable) })
	l.backstop(t, n, "del")
	l.leaves(t, n)
}

// betweenAll sends from a pod and from a host to a pod of the other node, by each of the pods' families, and back from
// there.
func (l *leaks) betweenAll(t *testing.T, here, there *agents.Pod) {
	t.Helper()
	a, b := l.Nodes[0], l.Nodes[1]
	for i, to := range there.Addrs {
		l.send(t, a, here, to)
		l.send(t, b, there, here.Addrs[i])
		l.send(t, a, a, to)
	}
}

// noDevice shows that nothing leaves while a tunnel device is missing or down, until the agent has mended that.
func (l *leaks) noDevice(t *testing.T, n *agents.Node, device string) {
	t.Helper()
	for what, change := range map[string][]string{"deleted": {"link", "del", device}, "set down": {"link", "set", device, "down"}} {
		l.none(t, "the device is "+what, func() {
			n.MustRun(t, "ip", change...)
			l.WaitUp(t, time.Minute)
		})
	}
}

// midRotation shows that nothing leaves when in the midst of a rotation of all nodes one has no agent and no tunnels.
func (l *leaks) midRotation(t *testing.T, n *agents.Node) {
	t.Helper()
	await := newKeys(t, l.Nodes...)
	lab.Eventually(t, rotationDeadline, "the node has two keys", func() error {
		s, err := n.Status(t.Context())
		if err == nil && len(s.Generations) != 2 {
			err = fmt.Errorf("it has %v, and its rotation is %s", s.Generations, s.Rotation)
		}
		return err
	})
	l.without(t, n, "routes to tunnels, while all nodes rotate", func() {
		if devices := strings.Fields(n.MustRun(t, "wg", "show", "interfaces")); len(devices) < 2 {
			t.Errorf("no rotation is under way any more: there is %v", devices)
		}
		noTunnels(t, n)
	})
	await()
	l.WaitUp(t, time.Minute)
}

// What pods and hosts send to pods of other nodes never leaves in the clear, whatever is missing; and it does leave when the
// guards are missing as well.
func TestNothingLeaks(t *testing.T) {
	m := agents.Up(t, 2)
	l := newLeaks(t, m)
	a, b := m.Nodes[0], m.Nodes[1]
	pods := podsOn(t, m.Nodes, "leak")
	l.betweenAll(t, pods[0], pods[1])
	l.none(t, "at rest", func() {})
	l.without(t, a, "routes to tunnels", func() { noTunnels(t, a) })
	m.WaitUp(t, time.Minute)
	l.noDevice(t, a, contract.DeviceName(0))
	l.none(t, "both nodes rotate", newKeys(t, m.Nodes...))
	l.midRotation(t, a)
	device := strings.Fields(a.MustRun(t, "wg", "show", "interfaces"))[0]
	for name, change := range map[string][]string{
		"its device":                    {"link", "del", device},
		"its device, which is set down": {"link", "set", device, "down"},
		"the route to the peer":         {"route", "del", b.CIDR.String()},
	} {
		t.Run("without "+name+", and no agent", func(t *testing.T) {
			l.without(t, a, name, func() { a.MustRun(t, "ip", change...) })
			m.WaitUp(t, time.Minute)
		})
	}
}
