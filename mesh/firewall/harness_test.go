package firewall_test

import (
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"github.com/weaveguard/weaveguard/mesh/firewall"
	"github.com/weaveguard/weaveguard/mesh/view"
	"golang.org/x/sys/unix"
)

// patience bounds every wait.
const patience = 20 * time.Second

// newNamespace moves the test to a thread in a new network namespace, and returns it. All ends with the test.
func newNamespace(t *testing.T) netns.NsHandle {
	t.Helper()
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatalf("making a network namespace (this test needs root): %v", err)
	}
	ns, err := netns.Get()
	must(t, err)
	t.Cleanup(func() { _ = ns.Close() })
	must(t, netlink.LinkSetUp(link(t, "lo")))
	return ns
}

func newApplier() *firewall.Applier {
	return firewall.New(firewall.Config{Log: slog.New(slog.DiscardHandler)})
}

func testFirewall() view.Firewall {
	return view.Firewall{
		Tunnels:   []string{"weave-wg0", "weave-wg1", "weave-wg2", "weave-wg3"},
		Bridges:   []string{"weave"},
		PodRanges: []netip.Prefix{netip.MustParsePrefix("10.32.0.0/12"), netip.MustParsePrefix("fd00::/16")},
		LocalPods: []netip.Prefix{netip.MustParsePrefix("10.32.5.0/24"), netip.MustParsePrefix("fd00:5::/64")},
		Gateways:  []netip.Addr{netip.MustParseAddr("10.32.5.1"), netip.MustParseAddr("fd00:5::1")},
		Nodes:     []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")},
		// Ports that no test uses otherwise.
		GuardedTCP: []uint16{6782, 6783},
		GuardedUDP: []uint16{6783, 51820},
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func link(t *testing.T, name string) netlink.Link {
	t.Helper()
	l, err := netlink.LinkByName(name)
	must(t, err)
	return l
}

// run runs a program in the test's present namespace.
func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// world is a node with a pod, two tunnel devices whose far ends are files, and an underlay with a far host on it
// that is the node's default gateway. Both address families. The test is in the node's namespace.
type world struct {
	node, pod, outside netns.NsHandle
	tunnels            [2]*os.File
}

// ends are the addresses of one family in the world.
type ends struct {
	host, outside, gateway, pod, remotePod, anyone netip.Addr
}

func families() map[string]ends {
	e := func(addresses ...string) ends {
		var a []netip.Addr
		for _, s := range addresses {
			a = append(a, netip.MustParseAddr(s))
		}
		return ends{host: a[0], outside: a[1], gateway: a[2], pod: a[3], remotePod: a[4], anyone: a[5]}
	}
	return map[string]ends{
		"ipv4": e("192.0.2.1", "192.0.2.2", "10.32.5.1", "10.32.5.7", "10.32.6.9", "198.51.100.9"),
		"ipv6": e("2001:db8::1", "2001:db8::2", "fd00:5::1", "fd00:5::7", "fd00:6::9", "2001:db8:1::9"),
	}
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{}
	for _, ns := range []*netns.NsHandle{&w.outside, &w.pod, &w.node} {
		*ns = newNamespace(t)
		for _, setting := range []string{"all", "default"} {
			must(t, os.WriteFile("/proc/sys/net/ipv4/conf/"+setting+"/rp_filter", []byte("0"), 0))
			// A link-local address that is still being checked sends no neighbour solicitations.
			must(t, os.WriteFile("/proc/sys/net/ipv6/conf/"+setting+"/accept_dad", []byte("0"), 0))
			must(t, os.WriteFile("/proc/sys/net/ipv6/conf/"+setting+"/dad_transmits", []byte("0"), 0))
		}
	}
	must(t, os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0))
	must(t, os.WriteFile("/proc/sys/net/ipv6/conf/all/forwarding", []byte("1"), 0))
	run(t, "ip", "link", "add", "weave", "type", "bridge")
	w.cable(t, "eth0", w.outside)
	w.cable(t, "pod0", w.pod)
	run(t, "ip", "link", "set", "pod0", "master", "weave")
	addresses(t, "weave", "10.32.5.1/24", "fd00:5::1/64")
	addresses(t, "eth0", "192.0.2.1/24", "2001:db8::1/64")
	for i, name := range []string{"weave-wg0", "weave-wg1"} {
		w.tunnels[i] = makeTun(t, name)
		addresses(t, name, "10.32.5.1/32", "fd00:5::1/128")
	}
	w.route(t, "weave-wg0")
	run(t, "ip", "route", "add", "default", "via", "192.0.2.2")
	run(t, "ip", "route", "add", "default", "via", "2001:db8::2")
	w.in(t, w.pod, func() {
		addresses(t, "eth0", "10.32.5.7/24", "fd00:5::7/64")
		run(t, "ip", "route", "add", "default", "via", "10.32.5.1")
		run(t, "ip", "route", "add", "default", "via", "fd00:5::1")
	})
	w.in(t, w.outside, func() {
		addresses(t, "eth0", "192.0.2.2/24", "2001:db8::2/64")
		addresses(t, "lo", "10.32.6.9/32", "fd00:6::9/128", "198.51.100.9/32", "2001:db8:1::9/128")
		run(t, "ip", "route", "add", "10.32.5.0/24", "via", "192.0.2.1")
		run(t, "ip", "route", "add", "fd00:5::/64", "via", "2001:db8::1")
	})
	for _, device := range []string{"weave", "eth0"} {
		for start := time.Now(); link(t, device).Attrs().OperState != netlink.OperUp; time.Sleep(time.Millisecond) {
			if time.Since(start) > patience {
				t.Fatalf("%s never came up", device)
			}
		}
	}
	return w
}

// cable joins an interface of the node to eth0 in another namespace.
func (w *world) cable(t *testing.T, name string, other netns.NsHandle) {
	t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	must(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(other)}))
	must(t, netlink.LinkSetUp(link(t, name)))
}

// route leads to the far node's pods by a tunnel.
func (w *world) route(t *testing.T, device string) {
	t.Helper()
	run(t, "ip", "route", "replace", "10.32.6.0/24", "dev", device, "src", "10.32.5.1", "mtu", "1300")
	run(t, "ip", "route", "replace", "fd00:6::/64", "dev", device, "src", "fd00:5::1", "mtu", "1300")
}

// in calls f in another namespace; sockets that it makes stay there.
func (w *world) in(t *testing.T, ns netns.NsHandle, f func()) {
	t.Helper()
	must(t, netns.Set(ns))
	defer func() { must(t, netns.Set(w.node)) }()
	f()
}

func addresses(t *testing.T, device string, list ...string) {
	t.Helper()
	must(t, netlink.LinkSetUp(link(t, device)))
	for _, address := range list {
		a, err := netlink.ParseAddr(address)
		must(t, err)
		if a.IP.To4() == nil {
			a.Flags = unix.IFA_F_NODAD
		}
		must(t, netlink.AddrAdd(link(t, device), a))
	}
}

func makeTun(t *testing.T, name string) *os.File {
	t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	tun := &netlink.Tuntap{LinkAttrs: attrs, Mode: netlink.TUNTAP_MODE_TUN, Flags: netlink.TUNTAP_NO_PI,
		NonPersist: true, Queues: 1}
	if err := netlink.LinkAdd(tun); err != nil {
		t.Fatalf("making the TUN device %s (this test needs root and /dev/net/tun): %v", name, err)
	}
	t.Cleanup(func() { _ = tun.Fds[0].Close() })
	return tun.Fds[0]
}

// listen opens a UDP socket on an address in a namespace, at a port of the system's choice.
func (w *world) listen(t *testing.T, ns netns.NsHandle, address netip.Addr) *net.UDPConn {
	t.Helper()
	var conn *net.UDPConn
	w.in(t, ns, func() {
		var err error
		conn, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(address, 0)))
		must(t, err)
	})
	t.Cleanup(func() { _ = conn.Close() })
	must(t, conn.SetReadDeadline(time.Now().Add(patience)))
	return conn
}

func portOf(conn *net.UDPConn) uint16 { return conn.LocalAddr().(*net.UDPAddr).AddrPort().Port() }

// send sends text, and must succeed.
func send(t *testing.T, from *net.UDPConn, to netip.AddrPort, text string) {
	t.Helper()
	_, err := from.WriteToUDPAddrPort([]byte(text), to)
	must(t, err)
}

// receive returns the next text at a socket, and where it came from.
func receive(t *testing.T, at *net.UDPConn) (string, netip.AddrPort) {
	t.Helper()
	buffer := make([]byte, 2048)
	n, from, err := at.ReadFromUDPAddrPort(buffer)
	must(t, err)
	return string(buffer[:n]), netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
}
