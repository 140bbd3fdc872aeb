package route_test

import (
	"context"
	"fmt"
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
	"github.com/vishvananda/netlink/nl"
	"github.com/weaveguard/weaveguard/mesh/contract"
	"github.com/weaveguard/weaveguard/mesh/route"
	"github.com/weaveguard/weaveguard/mesh/view"
	"golang.org/x/sys/unix"
)

// patience bounds every wait for something that the kernel does by itself.
const patience = 20 * time.Second

// newNamespace moves the test to a thread in a network namespace of its own. Both end with the test.
func newNamespace(t *testing.T) *route.Applier {
	t.Helper()
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatalf("making a network namespace (this test needs root): %v", err)
	}
	up(t, link(t, "lo"))
	return route.New(route.Config{Log: slog.New(slog.DiscardHandler)})
}

func link(t *testing.T, name string) netlink.Link {
	t.Helper()
	l, err := netlink.LinkByName(name)
	must(t, err)
	return l
}

func up(t *testing.T, l netlink.Link) {
	t.Helper()
	must(t, netlink.LinkSetUp(l))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// makeTun makes a TUN device; what leaves by it can be read from the file.
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

// makeVeth makes a pair of which one end is name, and returns the other's.
func makeVeth(t *testing.T, name string) netlink.Link {
	t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	must(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: name + "-peer"}))
	up(t, link(t, name))
	up(t, link(t, name+"-peer"))
	return link(t, name+"-peer")
}

func addAddress(t *testing.T, device, address string) {
	t.Helper()
	addr, err := netlink.ParseAddr(address)
	must(t, err)
	if addr.IP.To4() == nil {
		addr.Flags = unix.IFA_F_NODAD
	}
	must(t, netlink.AddrAdd(link(t, device), addr))
}

// ip runs ip(8) in the test's namespace, as an outsider that looks at the result.
func ip(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command("ip", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("ip %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// ourRoutes is what ip(8) shows of our routes, one a line, without what it adds of its own.
func ourRoutes(t *testing.T) string {
	t.Helper()
	out := ip(t, "-4", "route", "show", "proto", "213") + ip(t, "-6", "route", "show", "proto", "213")
	var lines []string
	for line := range strings.Lines(out) {
		line = strings.TrimSpace(strings.NewReplacer(" pref medium", "", " linkdown", "", " error -113", "").Replace(line))
		lines = append(lines, strings.Join(strings.Fields(line), " "))
	}
	return strings.Join(lines, "\n")
}

// applied checks that apply succeeds, and that once more is no change at all: by its own count, and by what the
// kernel announces.
func applied(t *testing.T, apply func() (int, error)) {
	t.Helper()
	writes, err := apply()
	must(t, err)
	if writes == 0 {
		t.Error("the first time: no writes")
	}
	changesNothing(t, apply)
}

// changesNothing checks that apply changes nothing. The kernel also announces what it does by itself, such as the
// loss of a carrier a moment after a bridge is up; that ends, and what apply does comes every time.
func changesNothing(t *testing.T, apply func() (int, error)) {
	t.Helper()
	var heard []string
	for start := time.Now(); time.Since(start) < patience; {
		heard = announced(t, func() {
			writes, err := apply()
			must(t, err)
			if writes != 0 {
				t.Errorf("once more: %d writes", writes)
			}
		})
		if t.Failed() || len(heard) == 0 {
			return
		}
	}
	t.Errorf("once more: the kernel announced %s", strings.Join(heard, ", "))
}

// announced returns what the kernel announced of links, addresses and routes while f ran.
func announced(t *testing.T, f func()) []string {
	t.Helper()
	socket, err := nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR,
		unix.RTNLGRP_IPV6_IFADDR, unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE)
	must(t, err)
	defer socket.Close()
	f()
	end := fmt.Sprintf("end-%d", time.Now().UnixNano())
	must(t, netlink.LinkSetAlias(link(t, "lo"), end))
	var heard []string
	for {
		messages, _, err := socket.Receive()
		must(t, err)
		for _, m := range messages {
			if m.Header.Type == unix.RTM_NEWLINK {
				header := unix.NlMsghdr(m.Header)
				l, err := netlink.LinkDeserialize(&header, m.Data)
				must(t, err)
				if l.Attrs().Alias == end {
					return heard
				}
				heard = append(heard, "link "+l.Attrs().Name)
				continue
			}
			heard = append(heard, fmt.Sprintf("message type %d", m.Header.Type))
		}
	}
}

// wants checks that err says all of these.
func wants(t *testing.T, err error, texts ...string) {
	t.Helper()
	if err == nil {
		t.Fatal("no error")
	}
	for _, text := range texts {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("the error %q lacks %q", err, text)
		}
	}
}

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

func mac(s string) net.HardwareAddr {
	m, err := net.ParseMAC(s)
	if err != nil {
		panic(err)
	}
	return m
}

// testBridge is the bridge of a node with both address families.
func testBridge() view.Bridge {
	return view.Bridge{Name: "weave", MAC: contract.BridgeMAC(addr("10.32.5.1")), MTU: 1420,
		Addresses: []netip.Prefix{prefix("10.32.5.1/24"), prefix("fd00:5::1/64")}}
}

func testDevice(name string) view.Device {
	return view.Device{Name: name, MTU: 1420, Addresses: []netip.Prefix{prefix("10.32.5.1/32"), prefix("fd00:5::1/128")}}
}

// eventually waits for a condition.
func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for !condition() {
		if ctx.Err() != nil {
			t.Fatalf("never came: %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}
