package agents_test

import (
	"fmt"
	"maps"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/weaveguard/weaveguard/test/full"
	"github.com/weaveguard/weaveguard/test/lab"
	"github.com/weaveguard/weaveguard/test/lab/agents"
)

// leastMTU6 is what every link that carries IPv6 must carry (RFC 8200, section 5).
const leastMTU6 = 1280

// Pods of either family, and of both, reach each other over an underlay of either: on their node, across nodes, from and to
// hosts, out of the mesh; by keys that change, with an agent that is killed. Nothing is lost, nothing is in the clear, nobody
// speaks for another. Pods of both families send in each over either underlay; pods of one have cells of their own in full, since
// those of IPv4 are in all other tests, and those of IPv6 in the lane cluster.
func TestFamilies(t *testing.T) {
	for _, underlay := range []agents.Family{agents.IPv4, agents.IPv6} {
		for _, pods := range []agents.Family{agents.IPv4, agents.IPv6, agents.Dual} {
			if pods != agents.Dual && !full.Wanted() {
				continue
			}
			t.Run(fmt.Sprintf("%s pods, %s underlay", pods, underlay), func(t *testing.T) {
				newCell(t, agents.Options{Pods: pods, Underlay: underlay}).test(t)
			})
		}
	}
}

// cell is a mesh of certain families, with a pod on each node and a second one on the first.
type cell struct {
	*agents.Mesh
	pods      []*agents.Pod
	neighbour *agents.Pod
}

func newCell(t *testing.T, o agents.Options) *cell {
	t.Helper()
	m := agents.NewOf(t, 3, o)
	for _, n := range m.Nodes {
		for _, setting := range []string{"iptables", "ip6tables", "arptables"} {
			n.MustRun(t, "sh", "-c", "f=/proc/sys/net/bridge/bridge-nf-call-"+setting+"; [ ! -e $f ] || echo 1 > $f")
		}
		n.Start(t)
	}
	m.WaitUp(t, time.Minute)
	return &cell{Mesh: m, pods: podsOn(t, m.Nodes, "pod"), neighbour: m.Nodes[0].AddPod(t, "neighbour")}
}

func (c *cell) test(t *testing.T) {
	l := newLeaks(t, c.Mesh)
	c.reach(t)
	wgShow(t, c.Mesh)
	c.mtus(t)
	c.outside(t)
	c.speaks(t)
	l.betweenAll(t, c.pods[0], c.pods[1])
	l.none(t, "keys change under traffic", func() { c.rotations(t, l.marker) })
	l.midRotation(t, c.Nodes[0])
	l.noDevice(t, c.Nodes[0], strings.Fields(c.Nodes[0].MustRun(t, "wg", "show", "interfaces"))[0])
}

// rotations changes the key of one node, and then of all at once, and ends with an agent that is killed and started again.
// Nothing is lost meanwhile, nor for 5 s after that.
func (c *cell) rotations(t *testing.T, marker string) {
	t.Helper()
	flows := c.flows(t, marker)
	newKeys(t, c.Nodes[0])()
	newKeys(t, c.Nodes...)()
	if err := c.Nodes[1].Agent.Kill(); err != nil {
		t.Fatal(err)
	}
	c.Nodes[1].StartAgent(t)
	c.WaitUp(t, time.Minute)
	flows[0].Send(t, uint64(5*rate(t)))
	for _, f := range flows {
		if report := f.Stop(t); report.Lost() != 0 {
			t.Errorf("lost on the way: %s", report)
		}
	}
}

// flows starts numbered datagrams between the pods of each two nodes and of one, by each family.
func (c *cell) flows(t *testing.T, marker string) []*lab.Flow {
	t.Helper()
	var flows []*lab.Flow
	for _, pair := range [][2]*agents.Pod{
		{c.pods[0], c.pods[1]}, {c.pods[1], c.pods[2]}, {c.pods[2], c.pods[0]}, {c.pods[0], c.neighbour},
	} {
		for _, to := range pair[1].Addrs {
			flows = append(flows, lab.StartFlow(t, lab.FlowOptions{
				From: pair[0], To: pair[1], Addr: netip.AddrPortFrom(to, flowPort+uint16(len(flows))), Marker: []byte(marker), Rate: rate(t),
			}))
		}
	}
	return flows
}

// reach sends what is small and large between pods, and between pods and hosts.
func (c *cell) reach(t *testing.T) {
	t.Helper()
	for i, from := range c.pods {
		n, next := c.Nodes[i], c.pods[(i+1)%len(c.pods)]
		for f, to := range next.Addrs {
			ping(t, from, to)
			ping(t, n, to)
			ping(t, from, gatewayOf(c.Nodes[(i+1)%len(c.pods)].CIDRs[f]))
			ping(t, from, gatewayOf(n.CIDRs[f]))
		}
	}
	for i, to := range c.neighbour.Addrs {
		ping(t, c.pods[0], to)
		lab.StartTransfer(t, lab.TransferOptions{
			From: c.pods[0], To: c.pods[1], Addr: netip.AddrPortFrom(c.pods[1].Addrs[i], 7100), Bytes: int64(rate(t)) * 20 << 10,
		}).Wait(t, time.Minute)
	}
}

// ping sends small and large packets, which come back.
func ping(t *testing.T, from interface {
	MustRun(t testing.TB, name string, args ...string) string
}, to netip.Addr) {
	t.Helper()
	for _, size := range []string{"56", "4000"} {
		from.MustRun(t, "ping", "-c", "2", "-i", "0.1", "-W", "5", "-s", size, to.String())
	}
}

// speaks has a pod send as others: nothing arrives at its neighbour and at a pod of another node, until the node has neither
// agent nor guard. As whom else it can't send but as a pod of another node is TestPodsSpeakForThemselvesAlone's, and here seen in
// full.
func (c *cell) speaks(t *testing.T) {
	t.Helper()
	n, r := c.Nodes[0], rogue{Pod: c.pods[0], near: c.neighbour, far: c.pods[1]}
	r.MustRun(t, "sh", "-c", "echo 2 > /proc/sys/net/ipv4/conf/all/arp_announce")
	var nobody []netip.Addr
	for i, cidr := range n.CIDRs {
		free := cidr.Addr().Next().Next()
		for range 100 {
			free = free.Next()
		}
		nobody = append(nobody, free)
		others := map[string]netip.Addr{"another node's pod": r.far.Addrs[i]}
		if full.Wanted() {
			maps.Copy(others, map[string]netip.Addr{"a neighbour": r.near.Addrs[i], "nobody": free, "the gateway": gatewayOf(cidr)})
		}
		for name, as := range others {
			if near, far := r.send(t, as); near != 0 || far != 0 {
				t.Errorf("as %s, %s, %d packets arrived at the neighbour and %d at the far pod", name, as, near, far)
			}
		}
	}
	if err := n.Agent.Kill(); err != nil {
		t.Fatal(err)
	}
	n.MustRun(t, "nft", "delete", "table", "bridge", "weaveguard")
	for _, as := range nobody {
		if near, far := r.send(t, as); near == 0 || far == 0 {
			t.Errorf("without the guard, as %s, %d packets arrived at the neighbour and %d at the far pod: what else stops them?", as, near, far)
		}
	}
	n.StartAgent(t)
	c.WaitUp(t, time.Minute)
}

// mtus checks that routes to pods of other nodes carry what the underlay leaves, and what IPv6 demands.
func (c *cell) mtus(t *testing.T) {
	t.Helper()
	for i, n := range c.Nodes {
		for _, cidr := range c.Nodes[(i+1)%len(c.Nodes)].CIDRs {
			_, after, _ := strings.Cut(n.MustRun(t, "ip", "-family", family(cidr.Addr()), "route", "show", cidr.String()), " mtu ")
			text, _, _ := strings.Cut(after, " ")
			want := map[bool]int{true: 1440, false: 1408}[n.Addr.Is4()] // 1500 less 60 or 80, in steps of 16
			if mtu, err := strconv.Atoi(text); err != nil || mtu != want || mtu < leastMTU6 {
				t.Errorf("%s: the route to %s carries %q bytes, want %d", n.Name, cidr, text, want)
			}
		}
	}
}

// outside shows that what pods send to a host that isn't a node comes from their node's own address, where nodes have one of
// the family.
func (c *cell) outside(t *testing.T) {
	t.Helper()
	h, err := c.Lab.AddHost()
	if err != nil {
		t.Fatal(err)
	}
	for _, from := range c.pods[0].Addrs {
		to, as := h.Addr4, c.Nodes[0].Addr4
		if from.Is6() {
			to, as = h.Addr6, c.Nodes[0].Addr6
		}
		if !to.IsValid() {
			continue
		}
		heard := h.MustStart(t, lab.Command{Path: "tcpdump", Args: []string{"-l", "-n", "-c", "1", "-i", lab.Port,
			"(icmp[icmptype] = icmp-echo or icmp6[icmp6type] = icmp6-echo) and src host " + as.String()}})
		lab.Eventually(t, 20*time.Second, "the host outside hears "+as.String(), func() error {
			if _, err := c.pods[0].Run(t.Context(), "ping", "-c", "1", "-W", "2", to.String()); err != nil {
				return err
			}
			select {
			case <-heard.Done():
				return nil
			default:
				return fmt.Errorf("%s", heard.Log())
			}
		})
	}
}
