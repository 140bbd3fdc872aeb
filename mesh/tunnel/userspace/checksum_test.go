package userspace

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Of 65,536 datagrams that differ in 16 bits the checksum of one comes out as 0. It leaves with all ones, as the kernel
// itself would send it.
func TestNoDatagramWithoutChecksum(t *testing.T) {
	const device, port = "weave-wg2", 7000
	here, there := netip.MustParseAddr("fd00::1"), netip.MustParseAddr("fd00::2")
	d, err := createTUN(device, 1420)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	link, err := netlink.LinkByName(device)
	if err != nil {
		t.Fatal(err)
	}
	address := &netlink.Addr{IPNet: &net.IPNet{IP: here.AsSlice(), Mask: net.CIDRMask(64, 128)}, Flags: unix.IFA_F_NODAD}
	if err := errors.Join(netlink.AddrAdd(link, address), netlink.LinkSetUp(link)); err != nil {
		t.Fatal(err)
	}
	conn, err := net.DialUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(here, port)), net.UDPAddrFromAddrPort(netip.AddrPortFrom(there, port)))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	packet, sizes := make([]byte, 2048), []int{0}
	var none, ones int
	for word := range 1 << 16 {
		if _, err := conn.Write(binary.BigEndian.AppendUint16(nil, uint16(word))); err != nil {
			t.Fatal(err)
		}
		for sent := false; !sent; { // the kernel has packets of its own
			if _, err := d.Read([][]byte{packet}, sizes, 0); err != nil {
				t.Fatal(err)
			}
			if sent = packet[nextHeader6] == unix.IPPROTO_UDP; !sent {
				continue
			}
			switch binary.BigEndian.Uint16(packet[header6+checksumUDP:]) {
			case 0:
				none++
			case 0xffff:
				ones++
			}
		}
	}
	if none != 0 || ones != 1 {
		t.Errorf("%d datagrams had no checksum, and %d all ones; want 0 and 1", none, ones)
	}
}

// udp6 is an IPv6 packet with what is between the headers, and a datagram without a checksum of this payload.
func udp6(next byte, between []byte, payload []byte) []byte {
	p := make([]byte, header6, 128)
	p[0], p[nextHeader6] = 0x60, next
	binary.BigEndian.PutUint16(p[4:], uint16(len(between)+headerUDP+len(payload)))
	p[source6], p[source6+16] = 0xfd, 0xfd
	p = append(p, between...)
	p = binary.BigEndian.AppendUint16(append(p, 0, 1, 0, 2), uint16(headerUDP+len(payload)))
	return append(append(p, 0, 0), payload...)
}

// summingTo0 is the payload behind two bytes that make the checksum of udp6 come out as 0.
func summingTo0(payload ...byte) []byte {
	length := headerUDP + 2 + len(payload)
	sum := onesSum(2*0xfd00+uint64(2*length)+unix.IPPROTO_UDP+1+2, payload)
	return append(binary.BigEndian.AppendUint16(nil, uint16(0xffff-sum)), payload...)
}

// Only a datagram whose checksum came out as 0 is changed, and no packet is too short to be looked at.
func TestMendChecksum(t *testing.T) {
	hopByHop := []byte{unix.IPPROTO_UDP, 0, 1, 4, 0, 0, 0, 0}
	fragment := []byte{unix.IPPROTO_UDP, 0, 0, 1, 0, 0, 0, 1}
	tests := []struct {
		name   string
		packet []byte
		at     int // of the checksum that is mended; 0: none is
	}{
		{"comes out as 0", udp6(unix.IPPROTO_UDP, nil, summingTo0(1, 2, 3, 4)), header6 + checksumUDP},
		{"an odd length", udp6(unix.IPPROTO_UDP, nil, summingTo0(1, 2, 0xff)), header6 + checksumUDP},
		{"behind options", udp6(unix.IPPROTO_HOPOPTS, hopByHop, summingTo0()), header6 + len(hopByHop) + checksumUDP},
		{"sent without", udp6(unix.IPPROTO_UDP, nil, []byte{1, 2, 3, 4}), 0},
		{"a fragment", udp6(unix.IPPROTO_FRAGMENT, fragment, summingTo0()), 0},
		{"TCP", udp6(unix.IPPROTO_TCP, nil, summingTo0()), 0},
		{"options longer than the packet", udp6(unix.IPPROTO_HOPOPTS, []byte{unix.IPPROTO_UDP, 200}, nil), 0},
		{"nothing", nil, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			want := slices.Clone(tt.packet)
			if tt.at != 0 {
				want[tt.at], want[tt.at+1] = 0xff, 0xff
			}
			got := slices.Clone(tt.packet)
			mendChecksum(got)
			if !slices.Equal(got, want) {
				t.Errorf("made of\n%x\nis\n%x", tt.packet, got)
			}
			for n := range tt.packet {
				mendChecksum(slices.Clone(tt.packet[:n]))
			}
		})
	}
	four := udp6(unix.IPPROTO_UDP, nil, summingTo0())
	four[0] = 0x45
	if mendChecksum(four); four[header6+checksumUDP] != 0 {
		t.Error("a packet of IPv4 was changed")
	}
}
