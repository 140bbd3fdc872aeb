package firewall_test

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/weaveguard/weaveguard/mesh/firewall"
	"github.com/weaveguard/weaveguard/mesh/view"
)

// blue are the addresses of one family of the network blue in the world, whose pod is the default network's pod too.
type blue struct{ gateway, pod, remotePod netip.Addr }

// bluesOf are those by family.
func bluesOf() map[string]blue {
	a := netip.MustParseAddr
	return map[string]blue{
		"ipv4": {a("10.50.5.1"), a("10.50.5.7"), a("10.50.6.9")},
		"ipv6": {a("fd50:5::1"), a("fd50:5::7"), a("fd50:6::9")},
	}
}

// twoNetworks is the default network and blue. What blue is to reach comes last.
func twoNetworks(reaches ...string) view.Firewall {
	f := testFirewall()
	f.Networks = []view.FirewallNetwork{{Name: view.DefaultNetwork, Ranges: f.PodRanges, Gateways: f.Gateways}}
	return addNetwork(f, "blue", "10.50", "fd50", reaches...)
}

func addNetwork(f view.Firewall, name, v4, v6 string, reaches ...string) view.Firewall {
	p := netip.MustParsePrefix
	n := view.FirewallNetwork{
		Name: name, Reaches: reaches, Ranges: []netip.Prefix{p(v4 + ".0.0/16"), p(v6 + "::/16")},
		Gateways: []netip.Addr{netip.MustParseAddr(v4 + ".5.1"), netip.MustParseAddr(v6 + ":5::1")},
	}
	f.Networks = append(f.Networks[:len(f.Networks):len(f.Networks)], n)
	f.PodRanges = append(f.PodRanges[:len(f.PodRanges):len(f.PodRanges)], n.Ranges...)
	f.LocalPods = append(f.LocalPods[:len(f.LocalPods):len(f.LocalPods)], p(v4+".5.0/24"), p(v6+":5::/64"))
	f.Bridges = append(f.Bridges[:len(f.Bridges):len(f.Bridges)], "weave-"+name)
	return f
}

// addBlue gives the world's node and pod addresses of blue, and its node the way to the far node's part of it.
func (w *world) addBlue(t *testing.T) {
	t.Helper()
	addresses(t, "weave", "10.50.5.1/24", "fd50:5::1/64")
	run(t, "ip", "route", "add", "10.50.6.0/24", "dev", "weave-wg0", "src", "10.50.5.1")
	run(t, "ip", "route", "add", "fd50:6::/64", "dev", "weave-wg0", "src", "fd50:5::1")
	w.in(t, w.pod, func() {
		addresses(t, "eth0", "10.50.5.7/24", "fd50:5::7/64")
		for from, gateway := range map[string]string{"10.50.5.7": "10.50.5.1", "fd50:5::7": "fd50:5::1"} {
			family := map[bool]string{true: "-6", false: "-4"}[strings.Contains(from, ":")]
			run(t, "ip", family, "rule", "add", "from", from, "lookup", "50")
			run(t, "ip", family, "route", "add", "default", "via", gateway, "dev", "eth0", "table", "50")
		}
	})
}

// crossing is a packet that goes between networks, or stays in one.
type crossing struct {
	from, to netip.Addr
	here     bool // to an address of the node itself
	within   bool // one network
}

func crossings(e ends, b blue) []crossing {
	return []crossing{
		{from: e.remotePod, to: b.pod}, {from: b.remotePod, to: e.pod},
		{from: e.remotePod, to: b.gateway, here: true}, {from: b.remotePod, to: e.gateway, here: true},
		{from: b.remotePod, to: b.pod, within: true}, {from: e.remotePod, to: e.pod, within: true},
		{from: b.remotePod, to: b.gateway, here: true, within: true},
		{from: netip.MustParseAddr(map[bool]string{true: "192.0.2.77", false: "2001:db8::77"}[b.pod.Is4()]), to: b.pod, within: true},
	}
}

// What comes from one network reaches no other one, neither pods of this node nor the node itself nor, by a tunnel, others'
// pods; unless one of the two is to reach the other, whichever asks.
func TestNetworksAreApart(t *testing.T) {
	asks := map[string]view.Firewall{"apart": twoNetworks(), "asked": twoNetworks(view.DefaultNetwork), "asked by the other": twoNetworks()}
	asks["asked by the other"].Networks[0].Reaches = []string{"blue"}
	for name, f := range asks {
		together := name != "apart"
		for family, e := range families() {
			t.Run(name+"/"+family, func(t *testing.T) {
				w, b := newWorld(t), bluesOf()[family]
				w.addBlue(t)
				_, err := newApplier().Apply(t.Context(), f)
				must(t, err)
				for _, c := range crossings(e, b) {
					ns := w.pod
					if c.here {
						ns = w.node
					}
					at := w.listen(t, ns, c.to)
					w.inject(t, c.from, at, "question")
					w.inject(t, within(e, b, c.to), at, "last")
					if got, from := receive(t, at); (got == "question") != (together || c.within) {
						t.Errorf("%v received %q from %v first, sent from %v", c.to, got, from, c.from)
					}
				}
				w.sends(t, b.pod, e.remotePod, together)
				w.sends(t, e.pod, b.remotePod, together)
				w.sends(t, b.pod, b.remotePod, true)
				counters, err := newApplier().Counters(t.Context())
				must(t, err)
				if got := counters[firewall.Apart+"-"+family]; !together && got != 4 {
					t.Errorf("%d packets between networks were counted, want 4: %v", got, counters)
				}
				if got := counters[firewall.ApartHere+"-"+family]; !together && got != 2 {
					t.Errorf("%d packets to the node in another network were counted, want 2: %v", got, counters)
				}
			})
		}
	}
}

// within is a far pod of the network that an address is of.
func within(e ends, b blue, address netip.Addr) netip.Addr {
	if address == b.pod || address == b.gateway {
		return b.remotePod
	}
	return e.remotePod
}

// inject sends text to a socket by a tunnel.
func (w *world) inject(t *testing.T, from netip.Addr, to *net.UDPConn, text string) {
	t.Helper()
	_, err := w.tunnels[0].Write(udp(netip.AddrPortFrom(from, 4000), to.LocalAddr().(*net.UDPAddr).AddrPort(), text))
	must(t, err)
}

// sends checks whether what the pod sends to a far one leaves by the tunnel.
func (w *world) sends(t *testing.T, from, to netip.Addr, want bool) {
	t.Helper()
	pod := w.listen(t, w.pod, from)
	question, end := fmt.Sprintf("from %v to %v", from, to), fmt.Sprintf("after what went from %v to %v", from, to)
	send(t, pod, netip.AddrPortFrom(to, 4001), question)
	var same netip.Addr // a far pod of the same network
	for family, b := range bluesOf() {
		switch from {
		case b.pod:
			same = b.remotePod
		case families()[family].pod:
			same = families()[family].remotePod
		}
	}
	send(t, pod, netip.AddrPortFrom(same, 4001), end)
	p := fromTunnel(t, w.tunnels[0], func(p packet) bool { return p.text() == question || p.text() == end })
	if got := p.text() == question; got != want || p.source.Addr() != from {
		t.Errorf("from %v to %v there left %q with the source %v first", from, to, p.text(), p.source)
	}
}

// What the node itself sends to a network by a tunnel has an address of that network.
func TestForeignSourceTowardsNetworks(t *testing.T) {
	for family, e := range families() {
		t.Run(family, func(t *testing.T) {
			w, b := newWorld(t), bluesOf()[family]
			w.addBlue(t)
			_, err := newApplier().Apply(t.Context(), twoNetworks())
			must(t, err)
			for to, gateway := range map[netip.Addr]netip.Addr{b.remotePod: b.gateway, e.remotePod: e.gateway} {
				host := w.listen(t, w.node, e.host)
				target := netip.AddrPortFrom(to, 4000)
				send(t, host, target, "question")
				p := fromTunnel(t, w.tunnels[0], text("question"))
				if p.source.Addr() != gateway {
					t.Errorf("to %v it left with the source %v, want %v", to, p.source, gateway)
				}
				_, err = w.tunnels[0].Write(udp(target, p.source, "answer"))
				must(t, err)
				if got, from := receive(t, host); got != "answer" || from != target {
					t.Errorf("the node received %q from %v", got, from)
				}
			}
		})
	}
}

// A network that comes or goes changes the table in place: connections to it and by it go on, and counters live on.
func TestNetworksComeAndGo(t *testing.T) {
	newNamespace(t)
	a := newApplier()
	changed(t, a, testFirewall())
	handle := tableHandle(t)
	fresh := map[string]string{}
	steps := map[string]view.Firewall{"none": testFirewall(), "one": twoNetworks(), "two": addNetwork(twoNetworks(), "aqua", "10.49", "fd49", "blue"),
		"another": addNetwork(addNetwork(twoNetworks(view.DefaultNetwork), "red", "10.60", "fd60"), "teal", "10.61", "fd61")}
	for _, step := range []string{"one", "two", "another", "two", "none", "another", "none"} {
		changed(t, a, steps[step])
		if got := tableHandle(t); got != handle {
			t.Errorf("at %q the table was made again", step)
		}
		if now := listed(t); fresh[step] == "" {
			fresh[step] = now
		} else if now != fresh[step] {
			t.Errorf("at %q the table is\n%s\nand was\n%s", step, now, fresh[step])
		}
	}
}

// A table of a version that knew no networks is completed in place.
func TestOlderTableIsCompleted(t *testing.T) {
	newNamespace(t)
	a := newApplier()
	changed(t, a, testFirewall())
	want, handle := listed(t), tableHandle(t)
	run(t, "nft", "delete set inet weaveguard apart4; delete set inet weaveguard apart6")
	run(t, "nft", "delete chain inet weaveguard fragments")
	changed(t, a, testFirewall())
	if got := listed(t); got != want {
		t.Errorf("the table is\n%s\nwant\n%s", got, want)
	}
	if got := tableHandle(t); got != handle {
		t.Error("the table was made again")
	}
}

// tableHandle is the kernel's number of the inet table: another one when it is made again.
func tableHandle(t *testing.T) string {
	t.Helper()
	first, _, _ := strings.Cut(run(t, "nft", "-a", "list", "table", "inet", "weaveguard"), "\n")
	return first
}
