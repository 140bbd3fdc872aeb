package route_test

import (
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weaveguard/weaveguard/mesh/view"
	"golang.org/x/sys/unix"
)

// The kernel forgets what a router told of a path that was found to carry more, and that alone.
func TestLearntPathsAreForgotten(t *testing.T) {
	for family, e := range map[string]struct{ self, peer, router netip.Addr }{
		"IPv4": {netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("192.0.2.254")},
		"IPv6": {netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::2"), netip.MustParseAddr("2001:db8::254")},
	} {
		t.Run(family, func(t *testing.T) {
			a := newNamespace(t)
			wire := makeTun(t, "out")
			up(t, link(t, "out"))
			bits := map[bool]int{true: 24, false: 64}[e.self.Is4()]
			addAddress(t, "out", netip.PrefixFrom(e.self, bits).String())
			ask := func() string { return ip(t, "route", "get", e.peer.String()) }
			// The kernel makes an IPv6 address's own route a moment later, and takes nothing before.
			within(t, "the address is local", func() bool { return strings.HasPrefix(ip(t, "route", "get", e.self.String()), "local") })
			conn, err := net.ListenUDP("udp", &net.UDPAddr{IP: e.self.AsSlice()})
			must(t, err)
			defer func() { _ = conn.Close() }()
			_, err = conn.WriteToUDPAddrPort(make([]byte, 1400), netip.AddrPortFrom(e.peer, 9))
			must(t, err)
			packet := sentUDP(t, wire, e.peer)
			_, err = wire.Write(tooBig(e.router, e.self, packet, 1300))
			must(t, err)
			within(t, "the kernel has learnt what the path carries", func() bool { return strings.Contains(ask(), "mtu 1300") })
			for _, found := range []int{0, 1292, 1300} {
				writes, err := a.ApplyPaths(t.Context(), []view.Path{{Address: e.peer, Limit: 1500, Found: found}})
				if must(t, err); writes != 0 || !strings.Contains(ask(), "mtu 1300") {
					t.Errorf("with a path of %d bytes: %d writes, and %s", found, writes, ask())
				}
			}
			applied(t, func() (int, error) {
				return a.ApplyPaths(t.Context(), []view.Path{{Address: e.router, Limit: 1500}, {Address: e.peer, Limit: 1500, Found: 1500}})
			})
			if got := ask(); strings.Contains(got, "mtu") {
				t.Errorf("the kernel still knows: %s", got)
			}
		})
	}
}

// within waits for something.
func within(t *testing.T, what string, done func() bool) {
	t.Helper()
	for start := time.Now(); !done(); time.Sleep(time.Millisecond) {
		if time.Since(start) > patience {
			t.Fatalf("not after %s: %s", patience, what)
		}
	}
}

// sentUDP reads what leaves by a TUN device until it is a datagram to an address.
func sentUDP(t *testing.T, wire *os.File, to netip.Addr) []byte {
	t.Helper()
	must(t, wire.SetReadDeadline(time.Now().Add(patience)))
	b := make([]byte, 2000)
	for {
		n, err := wire.Read(b)
		must(t, err)
		p := b[:n]
		if p[0]>>4 == 4 && p[9] == unix.IPPROTO_UDP && slices.Equal(p[16:20], to.AsSlice()) ||
			p[0]>>4 == 6 && p[6] == unix.IPPROTO_UDP && slices.Equal(p[24:40], to.AsSlice()) {
			return p
		}
	}
}

// tooBig is a router's word that a packet is larger than mtu (RFC 1191, section 4; RFC 4443, section 3.2).
func tooBig(router, to netip.Addr, packet []byte, mtu int) []byte {
	if to.Is4() {
		message := append([]byte{3, 4, 0, 0, 0, 0, byte(mtu >> 8), byte(mtu)}, packet[:28]...)
		binary.BigEndian.PutUint16(message[2:], checksum(message))
		header := slices.Concat([]byte{0x45, 0, 0, byte(20 + len(message)), 0, 0, 0, 0, 64, unix.IPPROTO_ICMP, 0, 0}, router.AsSlice(), to.AsSlice())
		binary.BigEndian.PutUint16(header[10:], checksum(header))
		return append(header, message...)
	}
	message := append([]byte{2, 0, 0, 0, 0, 0, byte(mtu >> 8), byte(mtu)}, packet[:48]...)
	pseudo := slices.Concat(router.AsSlice(), to.AsSlice(), []byte{0, 0, 0, byte(len(message)), 0, 0, 0, unix.IPPROTO_ICMPV6}, message)
	binary.BigEndian.PutUint16(message[2:], checksum(pseudo))
	header := slices.Concat([]byte{0x60, 0, 0, 0, 0, byte(len(message)), unix.IPPROTO_ICMPV6, 64}, router.AsSlice(), to.AsSlice())
	return append(header, message...)
}

// checksum is the Internet checksum (RFC 1071) of an even number of bytes.
func checksum(b []byte) uint16 {
	var sum uint32
	for ; len(b) > 1; b = b[2:] {
		sum += uint32(binary.BigEndian.Uint16(b))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
