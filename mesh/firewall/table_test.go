package firewall_test

import (
	"context"
	"encoding/binary"
	"net/netip"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/nftables"
	nl "github.com/mdlayher/netlink"
	"github.com/vishvananda/netns"
	"github.com/weaveguard/weaveguard/mesh/firewall"
	"github.com/weaveguard/weaveguard/mesh/view"
	"golang.org/x/sys/unix"
)

// generation is nftables' count of transactions, read without our code's help.
func generation(t *testing.T) uint32 {
	t.Helper()
	conn, err := nl.Dial(unix.NETLINK_NETFILTER, nil)
	must(t, err)
	defer func() { _ = conn.Close() }()
	replies, err := conn.Execute(nl.Message{
		Header: nl.Header{Type: unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETGEN, Flags: nl.Request},
		Data:   make([]byte, 4),
	})
	must(t, err)
	attributes, err := nl.UnmarshalAttributes(replies[0].Data[4:])
	must(t, err)
	for _, attribute := range attributes {
		if attribute.Type == unix.NFTA_GEN_ID {
			return binary.BigEndian.Uint32(attribute.Data)
		}
	}
	t.Fatal("no generation")
	return 0
}

// listed is both tables as nft(8) shows them, without what may differ: the counts, and the order of sets, of their elements and
// of chains.
func listed(t *testing.T) string {
	t.Helper()
	var all []string
	for _, family := range []string{"inet", "bridge"} {
		out := run(t, "nft", "list", "table", family, "weaveguard")
		out = strings.TrimSuffix(strings.TrimPrefix(out, "table "+family+" weaveguard {\n"), "}\n")
		parts := strings.Split(regexp.MustCompile(`packets \d+ bytes \d+`).ReplaceAllString(out, "packets N bytes N"), "\n\n")
		for i := range parts {
			head, elements, _ := strings.Cut(strings.TrimSpace(parts[i]), "elements = { ")
			list := strings.FieldsFunc(elements, func(r rune) bool { return strings.ContainsRune(",{}\n\t", r) })
			for i := range list {
				list[i] = strings.TrimSpace(list[i])
			}
			slices.Sort(list)
			parts[i] = family + " " + head + strings.Join(list, ", ")
		}
		slices.Sort(parts)
		all = append(all, parts...)
	}
	return strings.Join(all, "\n")
}

// changed applies once and checks that it was one transaction, or one for each table when there is none, and that once
// more is none.
func changed(t *testing.T, a *firewall.Applier, f view.Firewall) {
	t.Helper()
	want := 1
	if tables := run(t, "nft", "list tables"); !strings.Contains(tables, "inet weaveguard") &&
		!strings.Contains(tables, "bridge weaveguard") {
		want = 2
	}
	before := generation(t)
	writes, err := a.Apply(t.Context(), f)
	must(t, err)
	if after := generation(t); writes != want || int(after-before) != want {
		t.Errorf("%d writes, %d transactions, want %d", writes, after-before, want)
	}
	unchanged(t, a, f)
}

func unchanged(t *testing.T, a *firewall.Applier, f view.Firewall) {
	t.Helper()
	before := generation(t)
	writes, err := a.Apply(t.Context(), f)
	must(t, err)
	if after := generation(t); writes != 0 || after != before {
		t.Errorf("once more: %d writes, %d transactions", writes, after-before)
	}
}

// Whatever somebody did to the table, Apply notices and makes it good.
func TestTableIsRepaired(t *testing.T) {
	const rule = "inet weaveguard to_pods"
	tests := map[string][]string{
		"table deleted":   {"delete table inet weaveguard"},
		"all rules gone":  {"flush table inet weaveguard"},
		"a chain's gone":  {"flush chain inet weaveguard from_pods"},
		"rule added":      {"add rule " + rule + " accept"},
		"rule before":     {"insert rule " + rule + " accept comment \"weaveguard:to-pods-ipv4:0\""},
		"rule twice":      {"add rule " + rule + " ip daddr @pods4 drop"},
		"element removed": {"delete element inet weaveguard pods4 { 10.32.0.0/12 }"},
		"element added":   {"add element inet weaveguard pods4 { 203.0.113.0/24 }"},
		"neighbour added": {"add element inet weaveguard pods4 { 10.48.0.0/12 }"},
		"element replaced": {"delete element inet weaveguard pods6 { fd00::/16 }",
			"add element inet weaveguard pods6 { fd00::/17 }"},
		"set flushed":       {"flush set inet weaveguard local6"},
		"device removed":    {"delete element inet weaveguard inside { \"weave\" }"},
		"device added":      {"add element inet weaveguard inside { \"eth0\" }"},
		"policy":            {"chain inet weaveguard to_pods { policy drop; }"},
		"dormant":           {"add table inet weaveguard { flags dormant; }"},
		"chain added":       {"add chain inet weaveguard mine"},
		"set added":         {"add set inet weaveguard mine { type ipv4_addr; }"},
		"port removed":      {"delete element inet weaveguard udp_ports { 6783 }"},
		"port added":        {"add element inet weaveguard tcp_ports { 80 }"},
		"node removed":      {"delete element inet weaveguard nodes4 { 192.0.2.1 }"},
		"bridge deleted":    {"delete table bridge weaveguard"},
		"bridge flushed":    {"flush chain bridge weaveguard from_ports"},
		"bridge rule":       {"insert rule bridge weaveguard from_ports accept"},
		"bridge dormant":    {"add table bridge weaveguard { flags dormant; }"},
		"bridge set gone":   {"flush table bridge weaveguard", "delete set bridge weaveguard pods6"},
		"stranger's sender": {"add element bridge weaveguard pods4 { \"wv0123456789ab\" . 0a:57:0a:20:05:09 . 10.32.5.9 }"},
		"chain replaced": {"delete chain inet weaveguard to_pods",
			"add chain inet weaveguard to_pods { type filter hook forward priority 300; }"},
	}
	for name, spoil := range tests {
		t.Run(name, func(t *testing.T) {
			newNamespace(t)
			a := newApplier()
			changed(t, a, testFirewall())
			want := listed(t)
			for _, command := range spoil {
				run(t, "nft", command)
			}
			changed(t, a, testFirewall())
			if got := listed(t); got != want {
				t.Errorf("the table is\n%s\nwant\n%s", got, want)
			}
		})
	}
}

// Each change of the plan comes out as if the table had been written from nothing.
func TestTableFollowsThePlan(t *testing.T) {
	tests := map[string]func(f *view.Firewall){
		"pod range added": func(f *view.Firewall) {
			f.PodRanges = append(f.PodRanges, netip.MustParsePrefix("10.48.0.0/12"), netip.MustParsePrefix("100.64.0.0/10"))
		},
		"pod range larger":  func(f *view.Firewall) { f.PodRanges[0] = netip.MustParsePrefix("10.32.0.0/11") },
		"pod range smaller": func(f *view.Firewall) { f.PodRanges[1] = netip.MustParsePrefix("fd00::/20") },
		"no pod ranges":     func(f *view.Firewall) { f.PodRanges = nil },
		"other pod CIDR": func(f *view.Firewall) {
			f.LocalPods[0], f.Gateways[0] = netip.MustParsePrefix("10.32.9.0/24"), netip.MustParseAddr("10.32.9.1")
		},
		"IPv4 only":   func(f *view.Firewall) { f.Gateways = f.Gateways[:1] },
		"nothing":     func(f *view.Firewall) { *f = view.Firewall{} },
		"other ports": func(f *view.Firewall) { f.GuardedTCP, f.GuardedUDP = []uint16{80}, nil },
		"other nodes": func(f *view.Firewall) { f.Nodes = append(f.Nodes[1:], netip.MustParseAddr("192.0.2.7")) },
		"bridge":      func(f *view.Firewall) { f.Bridges = append(f.Bridges, "weave2") },
		"a network":   func(f *view.Firewall) { *f = twoNetworks() },
		"networks": func(f *view.Firewall) {
			*f = addNetwork(twoNetworks(view.DefaultNetwork), "red", "10.60", "fd60", "blue")
		},
	}
	for name, change := range tests {
		t.Run(name, func(t *testing.T) {
			newNamespace(t)
			a, f := newApplier(), testFirewall()
			change(&f)
			changed(t, a, f)
			want := listed(t)
			changed(t, a, testFirewall())
			changed(t, a, f)
			if got := listed(t); got != want {
				t.Errorf("the table is\n%s\nwant\n%s", got, want)
			}
		})
	}
}

// The order of the plan, addresses within prefixes, and prefixes within others make no difference.
func TestSetsAreNormal(t *testing.T) {
	newNamespace(t)
	a, f := newApplier(), testFirewall()
	changed(t, a, f)
	f.PodRanges = []netip.Prefix{netip.MustParsePrefix("fd00::/16"), netip.MustParsePrefix("10.32.5.0/24"),
		netip.MustParsePrefix("fd00:5::/64"), netip.MustParsePrefix("10.33.1.2/12"), netip.MustParsePrefix("10.32.0.0/12")}
	f.Tunnels = []string{"weave-wg3", "weave-wg2", "weave-wg1", "weave-wg0", "weave-wg0"}
	unchanged(t, a, f)
}

func TestSetsHoldAnyPrefix(t *testing.T) {
	newNamespace(t)
	a, f := newApplier(), testFirewall()
	for prefixes, want := range map[string][]string{
		"0.0.0.0/0 10.0.0.0/8 ::/0":                          {"0.0.0.0/0", "::/0"},
		"0.0.0.0/8 240.0.0.0/4 ffff::/16":                    {"0.0.0.0/8", "240.0.0.0/4", "ffff::/16"},
		"10.32.0.0/24 10.32.1.0/24 10.32.2.0/23":             {"10.32.0.0/24", "10.32.1.0/24", "10.32.2.0/23"},
		"10.32.0.7/32 255.255.255.255/32 fd00::1/128":        {"10.32.0.7", "255.255.255.255", "fd00::1"},
		"10.32.0.0/13 10.40.0.0/13 fd00::/17 fd00:8000::/17": {"10.32.0.0/13", "10.40.0.0/13", "fd00::/17", "fd00:8000::/17"},
	} {
		f.PodRanges = nil
		for _, prefix := range strings.Fields(prefixes) {
			f.PodRanges = append(f.PodRanges, netip.MustParsePrefix(prefix))
		}
		changed(t, a, f)
		shown := run(t, "nft", "list", "set", "inet", "weaveguard", "pods4") +
			run(t, "nft", "list", "set", "inet", "weaveguard", "pods6")
		for _, prefix := range want {
			if !strings.Contains(shown, prefix) {
				t.Errorf("of %s there isn't %s in %s", prefixes, prefix, shown)
			}
		}
	}
}

// Every pod CIDR ever seen may be a range, in a mesh without a configured one.
func TestThousandsOfPrefixes(t *testing.T) {
	newNamespace(t)
	a, f := newApplier(), testFirewall()
	f.PodRanges = nil
	for i := range 5000 {
		f.PodRanges = append(f.PodRanges, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 24),
			netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfd, 0, byte(i >> 8), byte(i)}), 64))
	}
	changed(t, a, f)
	f.PodRanges = f.PodRanges[:4000]
	changed(t, a, f)
}

func TestOthersRulesAreLeftAlone(t *testing.T) {
	newNamespace(t)
	run(t, "nft", "table inet mine { chain c { type filter hook postrouting priority 300; ip daddr 10.32.0.1 accept; }; }")
	run(t, "nft", "table ip weaveguard { chain c { type nat hook postrouting priority 99; masquerade; }; }")
	run(t, "iptables-nft", "-t", "nat", "-A", "POSTROUTING", "-s", "10.32.5.0/24", "-j", "MASQUERADE")
	others := func() string {
		return run(t, "nft", "list table inet mine") + run(t, "nft", "list table ip weaveguard") +
			run(t, "iptables-nft", "-t", "nat", "-S")
	}
	want, a := others(), newApplier()
	changed(t, a, testFirewall())
	f := testFirewall()
	f.Gateways = nil
	changed(t, a, f)
	if got := others(); got != want {
		t.Errorf("others' rules were\n%s\nand are\n%s", want, got)
	}
	for _, want := range []int{2, 0} { // the second time there is nothing left
		writes, err := a.Cleanup(t.Context())
		must(t, err)
		if writes != want {
			t.Errorf("cleaning up took %d writes, want %d", writes, want)
		}
	}
	if got := others(); got != want {
		t.Errorf("others' rules were\n%s\nand after cleaning up are\n%s", want, got)
	}
	if tables := run(t, "nft", "list tables"); strings.Contains(tables, "inet weaveguard") || strings.Contains(tables, "bridge weaveguard") {
		t.Errorf("the tables are %s", tables)
	}
}

// Other programs, kube-proxy among them, change their rules all the time.
func TestOthersNeverRest(t *testing.T) {
	here := newNamespace(t)
	a := newApplier()
	changed(t, a, testFirewall())
	stop := make(chan struct{})
	var others sync.WaitGroup
	others.Go(func() {
		runtime.LockOSThread()
		if err := netns.Set(here); err != nil {
			t.Error(err)
			return
		}
		for {
			select {
			case <-stop:
				return
			default:
			}
			conn, err := nftables.New()
			if err != nil {
				t.Error(err)
				return
			}
			for _, name := range []string{"a", "weaver", "zoo"} {
				other := &nftables.Table{Family: nftables.TableFamilyINet, Name: name}
				conn.AddTable(other)
				conn.DelTable(other)
				conn.AddTable(other)
				conn.AddChain(&nftables.Chain{Table: other, Name: "c"})
			}
			if err := conn.Flush(); err != nil {
				t.Error(err)
				return
			}
		}
	})
	before := generation(t)
	for range 8 {
		writes, err := a.Apply(t.Context(), testFirewall())
		must(t, err)
		if writes != 0 {
			t.Errorf("%d writes", writes)
		}
	}
	close(stop)
	others.Wait()
	t.Logf("others made %d transactions meanwhile", generation(t)-before)
}

func TestCountersLiveOn(t *testing.T) {
	newNamespace(t)
	a := newApplier()
	counters, err := a.Counters(t.Context())
	must(t, err)
	if len(counters) != 0 {
		t.Errorf("without a table: %v", counters)
	}
	changed(t, a, testFirewall())
	run(t, "ip", "link", "add", "br0", "type", "bridge")
	addresses(t, "br0", "192.0.2.1/24")
	run(t, "ip", "route", "add", "10.32.6.0/24", "dev", "br0")
	run(t, "ip", "neigh", "add", "10.32.6.9", "lladdr", "02:00:00:00:00:01", "dev", "br0")
	w := &world{}
	w.node, err = netns.Get()
	must(t, err)
	defer func() { _ = w.node.Close() }()
	host := w.listen(t, w.node, netip.MustParseAddr("192.0.2.1"))
	for range 3 {
		if _, err := host.WriteToUDPAddrPort([]byte("drop"), netip.MustParseAddrPort("10.32.6.9:7")); err == nil {
			t.Error("a packet for a pod could be sent")
		}
	}
	check := func() {
		t.Helper()
		counters, err := a.Counters(t.Context())
		must(t, err)
		var sum uint64
		for _, packets := range counters {
			sum += packets
		}
		if _, ok := counters[firewall.SpoofedARP]; counters[firewall.ToPods+"-ipv4"] != 3 || sum != 3 || !ok {
			t.Errorf("the counters are %v", counters)
		}
	}
	check()
	run(t, "nft", "add rule inet weaveguard to_pods accept") // its rules are replaced
	changed(t, a, testFirewall())
	check()
	run(t, "nft", "add chain inet weaveguard mine") // the table is replaced
	changed(t, a, testFirewall())
	check()
}

func TestWatchTellsOfOurTableOnly(t *testing.T) {
	here := newNamespace(t)
	a := newApplier()
	changed(t, a, testFirewall())
	var count atomic.Int64
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if err := netns.Set(here); err != nil {
			ended <- err
			return
		}
		ended <- a.Watch(ctx, func() { count.Add(1) })
	}()
	wait := func(what string, above int64) {
		t.Helper()
		for start := time.Now(); count.Load() <= above; time.Sleep(time.Millisecond) {
			if time.Since(start) > patience {
				t.Fatalf("no call for %s", what)
			}
		}
	}
	wait("the start", 0)
	run(t, "nft", "add table inet other")
	run(t, "nft", "add chain inet other c")
	run(t, "nft", "add table ip weaveguard")
	run(t, "nft", "delete element inet weaveguard pods4 { 10.32.0.0/12 }")
	wait("an element", 1)
	if n := count.Load(); n != 2 { // they come in order
		t.Errorf("%d calls, also for others' tables", n)
	}
	for _, command := range []string{
		"flush chain inet weaveguard to_pods",
		"add chain inet weaveguard mine",
		"delete table inet weaveguard",
	} {
		before := count.Load()
		run(t, "nft", command)
		wait(command, before)
	}
	cancel()
	must(t, <-ended)
}
