package agents_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/weaveguard/weaveguard/test/full"
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
func throughRouter(t testing.TB, m *agents.Mesh, a, b *agents.Node) *detour {
	t.Helper()
	host, err := m.Lab.AddHost()
	if err != nil {
		t.Fatal(err)
	}
	r := &detour{Host: host, nodes: []*agents.Node{a, b}}
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

// carried is how large packets are that a path carries, and what follows.
type carried struct {
	mtu    int // of the path
	path   int // what probes find, in whole steps; 0: as much as it seems to
	inside int // in the tunnel
}

var wide, narrow, narrower = carried{1500, 0, 1440}, carried{1400, 1388, 1328}, carried{1300, 1292, 1232}

// followed waits until both nodes have the MTU of the path.
func (r *detour) followed(t testing.TB, c carried) {
	t.Helper()
	took := lab.Eventually(t, followDeadline, fmt.Sprintf("both nodes know that the path carries %d bytes", c.mtu), func() error {
		for i, n := range r.nodes {
			s, err := n.Status(t.Context())
			if err != nil {
				return err
			}
			other := r.nodes[1-i]
			for _, p := range s.Peers {
				if p.Node == other.Name && (p.PathMTU != c.path || p.MTU != c.inside) {
					return fmt.Errorf("%s: path %d, MTU %d in the tunnel to %s", n.Name, p.PathMTU, p.MTU, p.Node)
				}
			}
			route := n.MustRun(t, "ip", "route", "show", other.CIDR.String())
			if !strings.Contains(route, fmt.Sprintf(" mtu %d", c.inside)) {
				return fmt.Errorf("%s: the route is %s", n.Name, route)
			}
		}
		return nil
	})
	t.Logf("the path of %d bytes was followed after %s", c.mtu, took)
}

// passes sends datagrams and a stream between the pods of each pair, which must all arrive, with no packet fragmented
// between the nodes.
func passes(t *testing.T, m *agents.Mesh, round int, pairs ...[2]*agents.Pod) {
	t.Helper()
	capture := m.Lab.Capture(t, "")
	var flows []*lab.Flow
	var transfers []*lab.Transfer
	perSecond := int64(rate(t)) * 8 << 10
	for i, pair := range pairs {
		from, to, port := pair[0], pair[1], uint16(round*len(pairs)+i)
		flows = append(flows, lab.StartFlow(t, lab.FlowOptions{
			From: from, To: to, Addr: netip.AddrPortFrom(to.Addr, flowPort+port), Rate: rate(t), Size: 1400 - 28,
		}))
		transfers = append(transfers, lab.StartTransfer(t, lab.TransferOptions{
			From: from, To: to, Addr: netip.AddrPortFrom(to.Addr, 7100+port), Bytes: perSecond, Rate: perSecond,
		}))
	}
	for i, f := range flows {
		f.Send(t, uint64(rate(t)))
		transfers[i].Wait(t, time.Minute)
	}
	for i, f := range flows {
		if report := f.Stop(t); report.Lost() != 0 {
			t.Errorf("lost between %v and %v: %s", pairs[i][0], pairs[i][1], report)
		}
	}
	if report := capture.Stop(); report.Fragments != 0 || report.Packets == 0 || report.Dropped != 0 {
		t.Errorf("the underlay carried %s", report)
	}
}

// ofBare is how fast TCP goes between two pods over a slow router, as part of what it does between the hosts themselves.
// The router is slower than the machine, so that only what is sent counts.
func (r *detour) ofBare(t testing.TB, from, to *agents.Pod, mbit, bytes int64, round uint16) float64 {
	t.Helper()
	r.MustRun(t, "tc", "qdisc", "replace", "dev", lab.Port, "root", "tbf", "rate", fmt.Sprintf("%dmbit", mbit), "burst", "64kb",
		"latency", "50ms")
	defer r.MustRun(t, "tc", "qdisc", "del", "dev", lab.Port, "root")
	took := func(from, to lab.Location, addr netip.Addr) time.Duration {
		x := lab.StartTransfer(t, lab.TransferOptions{
			From: from, To: to, Addr: netip.AddrPortFrom(addr, 7300+round), Bytes: bytes,
		})
		return x.Wait(t, time.Minute).Duration
	}
	bare := took(r.nodes[0], r.nodes[1], r.nodes[1].Addr4)
	return bare.Seconds() / took(from, to, to.Addr).Seconds()
}

// leastOfBare is how much less than without Weaveguard TCP may get through a narrow path.
const leastOfBare = 0.8

// interfaceMTU is the MTU of a pod's own interface.
func interfaceMTU(t *testing.T, p *agents.Pod) string {
	t.Helper()
	_, after, _ := strings.Cut(p.MustRun(t, "ip", "link", "show", "dev", "eth0"), " mtu ")
	mtu, _, _ := strings.Cut(after, " ")
	return mtu
}

// Two paths of a node get narrower in the middle, and wider again. The router of one says so, and that of the other
// doesn't. The nodes follow, and what pods send arrives: datagrams that may be fragmented, and streams, also those that
// were begun before. New pods get the MTU of the widest path of now, and those that run keep theirs.
func TestPathIsFollowed(t *testing.T) {
	m := agents.New(t, 3)
	talks, silent := throughRouter(t, m, m.Nodes[0], m.Nodes[1]), throughRouter(t, m, m.Nodes[0], m.Nodes[2])
	silent.mute(t)
	for _, n := range m.Nodes {
		n.Start(t)
	}
	m.WaitUp(t, time.Minute)
	var old []*agents.Pod
	for _, n := range m.Nodes {
		old = append(old, fragmenting(t, n, "old"))
	}
	type step struct{ talks, silent, widest carried }
	steps := []step{{narrow, narrower, narrow}, {wide, wide, wide}}
	if full.Wanted() {
		steps = []step{{wide, wide, wide}, {narrow, narrow, narrow}, {narrower, narrow, narrow}, {narrow, narrower, narrow},
			{wide, wide, wide}, {narrower, narrower, narrower}, {wide, wide, wide}}
	}
	for round, step := range steps {
		var long []*lab.Transfer // begun on the paths of before
		for _, to := range old[1:] {
			long = append(long, lab.StartTransfer(t, lab.TransferOptions{
				From: old[0], To: to, Addr: netip.AddrPortFrom(to.Addr, 7200+uint16(round)), Bytes: 10 << 20, Rate: 1 << 20,
			}))
		}
		talks.narrow(t, step.talks.mtu)
		silent.narrow(t, step.silent.mtu)
		talks.followed(t, step.talks)
		silent.followed(t, step.silent)
		fresh := fragmenting(t, m.Nodes[0], fmt.Sprint("new-", round))
		if old, now := interfaceMTU(t, old[0]), interfaceMTU(t, fresh); old != "1440" || now != fmt.Sprint(step.widest.inside) {
			t.Errorf("in step %d a running pod has the MTU %s and a new one %s, want 1440 and %d", round, old, now, step.widest.inside)
		}
		// The last pair is on one node, where both MTUs meet.
		passes(t, m, round, [2]*agents.Pod{old[0], old[1]}, [2]*agents.Pod{old[0], old[2]}, [2]*agents.Pod{fresh, old[1]},
			[2]*agents.Pod{fresh, old[2]}, [2]*agents.Pod{old[0], fresh})
		for _, x := range long {
			x.Wait(t, 2*time.Minute)
		}
		if step.talks != wide {
			part := talks.ofBare(t, old[0], old[1], 40, 4<<20, uint16(round))
			if t.Logf("TCP through a path of %d bytes: %.2f of bare", step.talks.mtu, part); part < leastOfBare {
				t.Errorf("TCP gets %.2f of what it does without Weaveguard, want %.1f", part, leastOfBare)
			}
		}
		fresh.Remove(t)
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
// ratio.
func BenchmarkNarrowPath(b *testing.B) {
	m := agents.New(b, 2)
	r := throughRouter(b, m, m.Nodes[0], m.Nodes[1])
	r.narrow(b, narrow.mtu)
	for _, n := range m.Nodes {
		n.Start(b)
	}
	m.WaitUp(b, time.Minute)
	r.followed(b, narrow)
	from, to := m.Nodes[0].AddPod(b, "pod"), m.Nodes[1].AddPod(b, "pod")
	sum, rounds := 0.0, uint16(0)
	for ; b.Loop(); rounds++ {
		sum += r.ofBare(b, from, to, 200, 32<<20, rounds)
	}
	b.ReportMetric(sum/float64(rounds), "of-bare")
	if sum/float64(rounds) < leastOfBare {
		b.Errorf("want at least %.1f of bare", leastOfBare)
	}
}
