package agents_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/weaveguard/weaveguard/test/lab"
	"github.com/weaveguard/weaveguard/test/lab/agents"
)

// followDeadline is how long two nodes may need to notice that the path between them is another one. Seconds are enough;
// a busy machine loses some more.
const followDeadline = 40 * time.Second

// detour is a path between two nodes that leads over a router.
type detour struct {
	*lab.Host
	nodes []*agents.Node
}

// throughRouter adds a router to the lab, and sends over it what two nodes send each other.
func throughRouter(t testing.TB, m *agents.Mesh) *detour {
	t.Helper()
	host, err := m.Lab.AddHost()
	if err != nil {
		t.Fatal(err)
	}
	r := &detour{Host: host, nodes: m.Nodes[:2]}
	set := func(h *lab.Host, key, value string) { h.MustRun(t, "sh", "-c", "echo "+value+" > /proc/sys/"+key) }
	set(host, "net/ipv4/ip_forward", "1")
	for _, device := range []string{"all", lab.Port} {
		set(host, "net/ipv4/conf/"+device+"/send_redirects", "0")
	}
	r.narrow(t, 1500)
	for i, n := range r.nodes {
		n.MustRun(t, "ip", "route", "add", r.nodes[1-i].Addr4.String()+"/32", "via", host.Addr4.String())
	}
	return r
}

// narrow makes the router send nothing on that is larger.
func (r *detour) narrow(t testing.TB, mtu int) {
	t.Helper()
	for _, n := range r.nodes {
		r.MustRun(t, "ip", "route", "replace", n.Addr4.String()+"/32", "dev", lab.Port, "mtu", fmt.Sprint(mtu))
	}
}

// mute makes the router say nothing of what it drops.
func (r *detour) mute(t testing.TB) {
	t.Helper()
	r.MustRun(t, "nft", "add table ip quiet; add chain ip quiet out { type filter hook output priority 0; }; "+
		"add rule ip quiet out icmp type destination-unreachable counter drop")
}

// followed waits until both nodes have the MTU of the path.
func (r *detour) followed(t testing.TB, path, inside int) {
	t.Helper()
	took := lab.Eventually(t, followDeadline, fmt.Sprintf("both nodes know that the path carries %d bytes", path), func() error {
		for i, n := range r.nodes {
			s, err := n.Status(t.Context())
			if err != nil {
				return err
			}
			for _, p := range s.Peers {
				if p.PathMTU != path || p.MTU != inside {
					return fmt.Errorf("%s: path %d, MTU %d in the tunnel to %s", n.Name, p.PathMTU, p.MTU, p.Node)
				}
			}
			route := n.MustRun(t, "ip", "route", "show", r.nodes[1-i].CIDR.String())
			if !strings.Contains(route, fmt.Sprintf(" mtu %d", inside)) {
				return fmt.Errorf("%s: the route is %s", n.Name, route)
			}
		}
		return nil
	})
	t.Logf("the path of %d bytes was followed after %s", path, took)
}

// passes sends datagrams and a stream between two pods, which must all arrive, with no packet fragmented between the nodes.
func passes(t *testing.T, m *agents.Mesh, from, to *agents.Pod, round int) {
	t.Helper()
	capture := m.Lab.Capture(t, "")
	f := lab.StartFlow(t, lab.FlowOptions{
		From: from, To: to, Addr: netip.AddrPortFrom(to.Addr, flowPort+uint16(round)), Rate: rate(t), Size: 1400 - 28,
	})
	transfer := lab.StartTransfer(t, lab.TransferOptions{
		From: from, To: to, Addr: netip.AddrPortFrom(to.Addr, 7100+uint16(round)), Bytes: 16 << 20,
	})
	f.Send(t, uint64(rate(t)))
	report := transfer.Wait(t, time.Minute)
	t.Logf("TCP: %.0f Mbit/s", float64(report.Bytes)*8/1e6/report.Duration.Seconds())
	if report := f.Stop(t); report.Lost() != 0 {
		t.Errorf("lost on the way: %s", report)
	}
	if report := capture.Stop(); report.Fragments != 0 || report.Packets == 0 || report.Dropped != 0 {
		t.Errorf("the underlay carried %s", report)
	}
}

// interfaceMTU is the MTU of a pod's own interface.
func interfaceMTU(t *testing.T, p *agents.Pod) string {
	t.Helper()
	_, after, _ := strings.Cut(p.MustRun(t, "ip", "link", "show", "dev", "eth0"), " mtu ")
	mtu, _, _ := strings.Cut(after, " ")
	return mtu
}

// A path gets narrower in the middle, twice, and wider again, and its router says so or doesn't. The nodes follow, and
// what pods send arrives: datagrams that may be fragmented, and streams, also those that were begun before. New pods get
// the MTU of now, and those that run keep theirs.
func TestPathIsFollowed(t *testing.T) {
	for name, mute := range map[string]bool{"with ICMP": false, "without ICMP": true} {
		t.Run(name, func(t *testing.T) {
			m := agents.New(t, 2)
			r := throughRouter(t, m)
			if mute {
				r.mute(t)
			}
			for _, n := range m.Nodes {
				n.Start(t)
			}
			m.WaitUp(t, time.Minute)
			a, b := fragmenting(t, m.Nodes[0], "old"), fragmenting(t, m.Nodes[1], "old")
			passes(t, m, a, b, 0)
			round := 1
			for _, step := range []struct{ mtu, path, inside int }{
				{1400, 1388, 1328}, {1300, 1292, 1232}, {1500, 0, 1440},
			} {
				long := lab.StartTransfer(t, lab.TransferOptions{
					From: a, To: b, Addr: netip.AddrPortFrom(b.Addr, 7200+uint16(round)), Bytes: 8 << 20, Rate: 1 << 20,
				})
				r.narrow(t, step.mtu)
				r.followed(t, step.path, step.inside)
				passes(t, m, a, b, 2*round)
				long.Wait(t, 2*time.Minute) // it was begun on the path of before
				fresh := fragmenting(t, m.Nodes[1], fmt.Sprintf("new-%d", step.mtu))
				if old, now := interfaceMTU(t, b), interfaceMTU(t, fresh); old != "1440" || now != fmt.Sprint(step.inside) {
					t.Errorf("with a path of %d bytes a running pod has the MTU %s and a new one %s", step.mtu, old, now)
				}
				passes(t, m, a, fresh, 2*round+1)
				passes(t, m, b, fresh, 2*round) // on one node, where both MTUs meet
				fresh.Remove(t)
				round++
			}
		})
	}
}

// fragmenting is a new pod whose datagrams may be fragmented.
func fragmenting(t *testing.T, n *agents.Node, name string) *agents.Pod {
	t.Helper()
	p := n.AddPod(t, name)
	p.MustRun(t, "sysctl", "-q", "-w", "net.ipv4.ip_no_pmtu_disc=1")
	return p
}

// What TCP gets through a narrow path between pods, against what it gets between the hosts themselves: make bench shows the
// ratio. The path is slower than the machine, so that only what is sent counts.
func BenchmarkNarrowPath(b *testing.B) {
	m := agents.New(b, 2)
	r := throughRouter(b, m)
	r.narrow(b, 1400)
	r.MustRun(b, "tc", "qdisc", "add", "dev", lab.Port, "root", "tbf", "rate", "200mbit", "burst", "256kb", "latency", "50ms")
	for _, n := range m.Nodes {
		n.Start(b)
	}
	m.WaitUp(b, time.Minute)
	r.followed(b, 1388, 1328)
	from, to := m.Nodes[0].AddPod(b, "pod"), m.Nodes[1].AddPod(b, "pod")
	var bare, pods time.Duration
	for round := uint16(0); b.Loop(); round++ {
		for _, run := range []struct {
			took     *time.Duration
			from, to lab.Location
			addr     netip.Addr
		}{{&bare, m.Nodes[0], m.Nodes[1], m.Nodes[1].Addr4}, {&pods, from, to, to.Addr}} {
			transfer := lab.StartTransfer(b, lab.TransferOptions{
				From: run.from, To: run.to, Addr: netip.AddrPortFrom(run.addr, 7300+round), Bytes: 32 << 20,
			})
			*run.took += transfer.Wait(b, time.Minute).Duration
		}
	}
	b.ReportMetric(bare.Seconds()/pods.Seconds(), "of-bare")
}
