package agents_test

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/weaveguard/weaveguard/test/lab"
	"github.com/weaveguard/weaveguard/test/lab/agents"
)

// flowPort is where the pods' numbered datagrams go.
const flowPort = 7000

// rateEnv is how many datagrams a second a flow sends, for machines that don't carry the usual number: an emulated
// one loses packets for want of time.
const rateEnv = "WEAVEGUARD_LAB_RATE"

func rate(t testing.TB) int {
	t.Helper()
	text := os.Getenv(rateEnv)
	if text == "" {
		return 500
	}
	n, err := strconv.Atoi(text)
	if err != nil || n <= 0 {
		t.Fatalf("%s is %q: it takes a number of datagrams a second", rateEnv, text)
	}
	return n
}

func flow(t testing.TB, from, to *agents.Pod, marker string) *lab.Flow {
	t.Helper()
	return lab.StartFlow(t, lab.FlowOptions{
		From: from, To: to, Addr: netip.AddrPortFrom(to.Addr, flowPort), Marker: []byte(marker), Rate: rate(t),
	})
}

// Three hosts find each other, and their pods talk through WireGuard: nothing of it is on the underlay in the clear,
// and wg(8) on each host lists the others with a handshake.
func TestMesh(t *testing.T) {
	m := agents.Up(t, 3)
	const marker = "what pods say to each other"
	capture := m.Lab.Capture(t, "", []byte(marker))
	pods := make([]*agents.Pod, len(m.Nodes))
	for i, n := range m.Nodes {
		pods[i] = n.AddPod(t, "pod")
	}
	neighbour := m.Nodes[0].AddPod(t, "neighbour")
	flows := []*lab.Flow{
		flow(t, pods[0], pods[1], marker), flow(t, pods[1], pods[2], marker), flow(t, pods[2], pods[0], marker),
		flow(t, pods[0], neighbour, marker),
	}
	for _, f := range flows {
		f.Send(t, uint64(2*rate(t)))
	}
	for _, f := range flows {
		if report := f.Stop(t); report.Lost() != 0 {
			t.Errorf("lost on the way: %s", report)
		}
	}
	for i, from := range m.Nodes {
		to := pods[(i+1)%len(pods)]
		from.MustRun(t, "ping", "-c", "3", "-i", "0.2", "-W", "2", to.Addr.String())
		to.MustRun(t, "ping", "-c", "3", "-i", "0.2", "-W", "2", gateway(from).String())
	}
	if report := capture.Stop(); report.Marked != 0 || report.Fragments != 0 || report.Packets == 0 {
		t.Errorf("the underlay carried %s", report)
	}
	wgShow(t, m)
}

func gateway(n *agents.Node) netip.Addr { return gatewayOf(n.CIDR) }

// gatewayOf is the bridge's address of a pod CIDR.
func gatewayOf(cidr netip.Prefix) netip.Addr { return cidr.Addr().Next() }

// wgShow checks what an operator sees with wg(8).
func wgShow(t *testing.T, m *agents.Mesh) {
	t.Helper()
	for _, n := range m.Nodes {
		out := n.MustRun(t, "wg", "show")
		if got := strings.Count(out, "latest handshake: "); got != len(m.Nodes)-1 {
			t.Errorf("wg show on %s lists %d peers with a handshake, want %d:\n%s", n.Name, got, len(m.Nodes)-1, out)
		}
		for _, other := range m.Nodes {
			if other != n && !strings.Contains(out, "endpoint: "+strings.TrimSuffix(netip.AddrPortFrom(other.Addr, 0).String(), "0")) {
				t.Errorf("wg show on %s has no endpoint of %s:\n%s", n.Name, other.Name, out)
			}
		}
		if s, err := n.Status(t.Context()); err != nil {
			t.Error(err)
		} else if want := map[bool]string{true: "kernel", false: "userspace"}[m.Kernel]; s.WireGuard != want {
			t.Errorf("%s uses WireGuard of the %s, want %s", n.Name, s.WireGuard, want)
		} else {
			t.Logf("%s uses WireGuard of the %s:\n%s", n.Name, s.WireGuard, out)
		}
	}
}

// A host that joins is known to all others within 5 s, and nobody is restarted for it.
func TestJoin(t *testing.T) {
	m := agents.Up(t, 3)
	before := m.Nodes[0].AddPod(t, "before")
	n := m.Join(t)
	took := lab.Eventually(t, 5*time.Second, "every host has the new one as a peer", func() error {
		for _, other := range m.Nodes[:3] {
			out, err := other.Run(t.Context(), "wg", "show", "all", "allowed-ips")
			if err != nil {
				return err
			}
			if !strings.Contains(out, n.CIDR.String()) {
				return fmt.Errorf("wg show on %s has no %s:\n%s", other.Name, n.CIDR, out)
			}
		}
		return nil
	})
	t.Logf("the new host was everybody's peer after %s", took)
	m.WaitUp(t, time.Minute)
	f := flow(t, before, n.AddPod(t, "pod"), "joined")
	f.Send(t, 100)
	if report := f.Stop(t); report.Lost() != 0 {
		t.Errorf("lost on the way: %s", report)
	}
}

// An agent that is killed and started again finds its keys, adopts what stands, and costs no packet and no handshake.
func TestAgentRestart(t *testing.T) {
	m := agents.Up(t, 2)
	a, b := m.Nodes[0], m.Nodes[1]
	f := flow(t, a.AddPod(t, "pod"), b.AddPod(t, "pod"), "restart")
	f.Send(t, 50)
	before := state(t, a)
	for round := range 2 {
		if err := a.Agent.Kill(); err != nil {
			t.Fatal(err)
		}
		f.Send(t, 100)
		late := a.AddPod(t, fmt.Sprintf("late-%d", round)) // pods come and go without the agent
		late.MustRun(t, "ping", "-c", "1", "-W", "2", gateway(b).String())
		late.Remove(t)
		a.StartAgent(t)
		m.WaitUp(t, time.Minute)
		f.Send(t, 200)
	}
	if after := state(t, a); after != before {
		t.Errorf("the restart changed the tunnels:\nbefore\n%safter\n%s", before, after)
	}
	if report := f.Stop(t); report.Lost() != 0 {
		t.Errorf("lost on the way: %s", report)
	}
	s, err := a.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if s.Counters.KernelWrites > 3 {
		t.Errorf("the agent made %d changes after it was started again, want the CNI files' at most", s.Counters.KernelWrites)
	}
}

// state is what must outlive an agent: keys, peers, their handshakes, and the interfaces themselves.
func state(t *testing.T, n *agents.Node) string {
	t.Helper()
	var b strings.Builder
	for _, what := range []string{"public-key", "allowed-ips", "latest-handshakes"} {
		b.WriteString(n.MustRun(t, "wg", "show", "all", what))
	}
	b.WriteString(n.MustRun(t, "ip", "-4", "route", "show", "table", "all", "proto", "213"))
	for _, device := range []string{"weave", "weave-wg0"} {
		b.WriteString(n.MustRun(t, "cat", "/sys/class/net/"+device+"/ifindex"))
	}
	return b.String()
}

// When the userspace daemon is replaced its devices and sessions are gone: the agent makes them again by itself, and
// meanwhile nothing leaves in the clear.
func TestUserspaceRestart(t *testing.T) {
	m := agents.New(t, 2)
	if m.Kernel {
		return // the kernel carries the tunnels: there is no daemon that could be replaced
	}
	for _, n := range m.Nodes {
		n.Start(t)
	}
	m.WaitUp(t, time.Minute)
	const marker = "never in the clear"
	capture := m.Lab.Capture(t, "", []byte(marker))
	a, b := m.Nodes[0].AddPod(t, "pod"), m.Nodes[1].AddPod(t, "pod")
	f := flow(t, a, b, marker)
	for _, n := range m.Nodes {
		if err := n.Userspace.Kill(); err != nil {
			t.Fatal(err)
		}
		n.StartUserspace(t)
		lab.Eventually(t, 30*time.Second, "the pods reach each other again", func() error {
			_, err := a.Run(t.Context(), "ping", "-c", "1", "-W", "1", b.Addr.String())
			return err
		})
	}
	m.WaitUp(t, time.Minute)
	t.Logf("while both daemons were replaced: %s", f.Stop(t))
	if report := capture.Stop(); report.Marked != 0 || report.Packets == 0 {
		t.Errorf("the underlay carried %s", report)
	}
}

// On an unchanged world the loop changes nothing in the kernel: nothing that the agent counts, no rtnetlink event
// and no nftables transaction.
func TestLoopChangesNothing(t *testing.T) {
	m := agents.Up(t, 2)
	n := m.Nodes[0]
	n.AddPod(t, "pod")
	settled(t, n)
	monitor := n.MustStart(t, lab.Command{Name: "ip-monitor", Path: "ip", Args: []string{"monitor", "link", "address", "route", "rule"}})
	generation := ruleGeneration(t, n)
	before, err := n.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for range 10 {
		reconcile(t, n)
	}
	after, err := n.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if before.Counters.KernelWrites != after.Counters.KernelWrites {
		t.Errorf("%d changes in %d passes of an unchanged world", after.Counters.KernelWrites-before.Counters.KernelWrites,
			after.Counters.Reconciles-before.Counters.Reconciles)
	}
	if now := ruleGeneration(t, n); now != generation {
		t.Errorf("the rules were written: generation %s became %s", generation, now)
	}
	if err := monitor.Stop(); err != nil {
		t.Logf("ending ip monitor: %v", err)
	}
	if log := monitor.Log(); strings.TrimSpace(log) != "" {
		t.Errorf("the kernel told of changes:\n%s", log)
	}
}

// settled waits until nothing has been written for a few passes.
func settled(t *testing.T, n *agents.Node) {
	t.Helper()
	var last uint64
	quiet := 0
	lab.Eventually(t, time.Minute, n.Name+" has nothing more to do", func() error {
		reconcile(t, n)
		s, err := n.Status(t.Context())
		if err != nil {
			return err
		}
		if quiet++; s.Counters.KernelWrites != last {
			last, quiet = s.Counters.KernelWrites, 0
		}
		if quiet < 5 {
			return fmt.Errorf("%d changes so far", last)
		}
		// The kernel's own: it tells of a link-local address once that has proven to be the only one.
		if tentative := n.MustRun(t, "ip", "-6", "address", "show", "tentative"); tentative != "" {
			return fmt.Errorf("addresses are being tried:\n%s", tentative)
		}
		return nil
	})
}

// reconcile lets the loop run at least once.
func reconcile(t *testing.T, n *agents.Node) {
	t.Helper()
	before, err := n.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	lab.Eventually(t, 10*time.Second, "the loop of "+n.Name+" runs", func() error {
		if err := n.Reconcile(t.Context()); err != nil {
			return err
		}
		s, err := n.Status(t.Context())
		if err == nil && s.Counters.Reconciles <= before.Counters.Reconciles {
			err = context.DeadlineExceeded
		}
		return err
	})
}

// ruleGeneration is nftables' count of transactions.
func ruleGeneration(t *testing.T, n *agents.Node) string {
	t.Helper()
	return strings.TrimSpace(n.MustRun(t, "nft", "--debug=netlink", "list", "tables"))
}
