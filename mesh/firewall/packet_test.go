package firewall_test

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	rawpacket "github.com/weaveguard/weaveguard/test/packet"
)

// packet is an IP packet without options or extension headers.
type packet struct {
	source, destination netip.AddrPort // port 0 where there are none
	protocol            byte
	segment             []byte // TCP or UDP header and what follows
}

func (p packet) text() string {
	if p.protocol != unix.IPPROTO_UDP || len(p.segment) < 8 {
		return ""
	}
	return string(p.segment[8:])
}

func parse(raw []byte) (packet, bool) {
	var (
		p           packet
		from, to    netip.Addr
		header, end int
	)
	switch {
	case len(raw) >= 20 && raw[0] == 0x45:
		from, to = netip.AddrFrom4([4]byte(raw[12:16])), netip.AddrFrom4([4]byte(raw[16:20]))
		p.protocol, header, end = raw[9], 20, int(binary.BigEndian.Uint16(raw[2:]))
	case len(raw) >= 40 && raw[0]>>4 == 6:
		from, to = netip.AddrFrom16([16]byte(raw[8:24])), netip.AddrFrom16([16]byte(raw[24:40]))
		p.protocol, header, end = raw[6], 40, 40+int(binary.BigEndian.Uint16(raw[4:]))
	default:
		return p, false
	}
	if end > len(raw) || end < header {
		return p, false
	}
	p.segment = raw[header:end]
	var source, destination uint16
	if (p.protocol == unix.IPPROTO_TCP || p.protocol == unix.IPPROTO_UDP) && len(p.segment) >= 8 {
		source, destination = binary.BigEndian.Uint16(p.segment), binary.BigEndian.Uint16(p.segment[2:])
	}
	p.source, p.destination = netip.AddrPortFrom(from, source), netip.AddrPortFrom(to, destination)
	return p, true
}

// udp makes a UDP packet.
func udp(from, to netip.AddrPort, text string) []byte {
	segment := make([]byte, 8, 8+len(text))
	binary.BigEndian.PutUint16(segment[4:], uint16(8+len(text)))
	return assemble(from, to, unix.IPPROTO_UDP, append(segment, text...), 6)
}

// syn makes the first packet of a TCP connection.
func syn(from, to netip.AddrPort, segmentSize uint16) []byte {
	segment := make([]byte, 24)
	segment[7] = 1 // sequence number
	segment[12], segment[13] = 6<<4, 0x02
	binary.BigEndian.PutUint16(segment[14:], 65535)
	segment[20], segment[21] = 2, 4
	binary.BigEndian.PutUint16(segment[22:], segmentSize)
	return assemble(from, to, unix.IPPROTO_TCP, segment, 16)
}

// assemble puts ports, checksums and an IP header to a segment.
func assemble(from, to netip.AddrPort, protocol byte, segment []byte, checksumAt int) []byte {
	binary.BigEndian.PutUint16(segment, from.Port())
	binary.BigEndian.PutUint16(segment[2:], to.Port())
	return rawpacket.IP(from.Addr(), to.Addr(), protocol, checksumAt, segment)
}

// fromTunnel returns the next packet that leaves by a tunnel and that is wanted.
func fromTunnel(t *testing.T, tunnel *os.File, wanted func(packet) bool) packet {
	t.Helper()
	must(t, tunnel.SetReadDeadline(time.Now().Add(patience)))
	for {
		buffer := make([]byte, 2048)
		n, err := tunnel.Read(buffer)
		if err != nil {
			t.Fatalf("waiting for a packet in the tunnel: %v", err)
		}
		if p, ok := parse(buffer[:n]); ok && wanted(p) {
			return p
		}
	}
}

func text(want string) func(packet) bool {
	return func(p packet) bool { return p.text() == want }
}

// wire shows what arrives at the far end of the underlay.
type wire struct{ socket int }

func (w *world) tap(t *testing.T) wire {
	t.Helper()
	var tap wire
	w.in(t, w.outside, func() {
		protocol := int(uint16(unix.ETH_P_ALL)<<8 | uint16(unix.ETH_P_ALL)>>8)
		var err error
		tap.socket, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, protocol)
		must(t, err)
		must(t, unix.Bind(tap.socket,
			&unix.SockaddrLinklayer{Protocol: uint16(protocol), Ifindex: link(t, "eth0").Attrs().Index}))
	})
	t.Cleanup(func() { _ = unix.Close(tap.socket) })
	must(t, unix.SetsockoptInt(tap.socket, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20))
	must(t, unix.SetsockoptTimeval(tap.socket, unix.SOL_SOCKET, unix.SO_RCVTIMEO,
		&unix.Timeval{Sec: int64(patience.Seconds())}))
	return tap
}

// until returns the packets that arrived, up to the one with that text.
func (w wire) until(t *testing.T, last string) []packet {
	t.Helper()
	var packets []packet
	buffer := make([]byte, 4096)
	for {
		n, from, err := unix.Recvfrom(w.socket, buffer, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			t.Fatalf("waiting for %q on the underlay: %v", last, err)
		}
		if ll, ok := from.(*unix.SockaddrLinklayer); ok && ll.Pkttype == unix.PACKET_OUTGOING {
			continue
		}
		p, ok := parse(append([]byte(nil), buffer[:n]...))
		if !ok {
			continue
		}
		if p.text() == last {
			return packets
		}
		packets = append(packets, p)
	}
}
