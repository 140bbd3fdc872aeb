package cni_test

import (
	"encoding/binary"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/containernetworking/plugins/pkg/ns"
	"golang.org/x/sys/unix"

	"github.com/weaveguard/weaveguard/test/packet"
)

// ethernet makes a frame.
func ethernet(to, from net.HardwareAddr, etherType uint16, payload []byte) []byte {
	frame := append(append([]byte{}, to...), from...)
	return append(binary.BigEndian.AppendUint16(frame, etherType), payload...)
}

// tagged gives a frame a VLAN tag.
func tagged(frame []byte) []byte {
	return append(append(append([]byte{}, frame[:12]...), 0x81, 0x00, 0, 5), frame[12:]...)
}

// datagram makes an IP packet with text in UDP.
func datagram(from, to netip.Addr, text string) []byte {
	segment := binary.BigEndian.AppendUint16([]byte{0x1f, 0x40, 0x1f, 0x40}, uint16(8+len(text)))
	return packet.IP(from, to, unix.IPPROTO_UDP, 6, append(append(segment, 0, 0), text...))
}

// arp makes a message of RFC 826: 1 asks, 2 answers.
func arp(operation byte, senderMAC net.HardwareAddr, sender netip.Addr, targetMAC net.HardwareAddr, target netip.Addr) []byte {
	message := append([]byte{0, 1, 8, 0, 6, 4, 0, operation}, senderMAC...)
	message = append(append(message, sender.AsSlice()...), targetMAC...)
	return append(message, target.AsSlice()...)
}

// discovery makes a message of RFC 4861 about a target, with a link-layer address as option.
func discovery(from, to netip.Addr, kind, flags byte, target netip.Addr, option byte, mac net.HardwareAddr) []byte {
	message := append([]byte{kind, 0, 0, 0, flags, 0, 0, 0}, target.AsSlice()...)
	message = append(append(message, option, 1), mac...)
	return packet.IP(from, to, unix.IPPROTO_ICMPV6, 2, message)
}

// routerAdvertisement offers a default route, and a prefix.
func routerAdvertisement(from, to netip.Addr, mac net.HardwareAddr) []byte {
	message := []byte{134, 0, 0, 0, 64, 0, 0x07, 0x08, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1}
	message = append(message, mac...)
	message = append(message, 3, 4, 64, 0xc0, 0, 0, 0x0e, 0x10, 0, 0, 0x0e, 0x10, 0, 0, 0, 0)
	message = append(message, netip.MustParseAddr("2001:db8:bad::").AsSlice()...)
	return packet.IP(from, to, unix.IPPROTO_ICMPV6, 2, message)
}

// behind puts an extension header of 8 bytes before the message of an IPv6 packet (RFC 8200, section 4): options to be
// skipped, or, as header 44, one that makes the packet its own only fragment.
func behind(header byte, ip []byte) []byte {
	extension := []byte{ip[6], 0, 1, 4, 0, 0, 0, 0}
	if header == unix.IPPROTO_FRAGMENT {
		extension = []byte{ip[6], 0, 0, 0, 0, 0, 0, 7}
	}
	long := append(append(append([]byte{}, ip[:40]...), extension...), ip[40:]...)
	binary.BigEndian.PutUint16(long[4:], uint16(len(long)-40))
	long[6] = header
	return long
}

// wire is a socket for whole frames on an interface.
type wire struct {
	t  testing.TB
	fd int
}

// openWire opens an interface in a namespace.
func openWire(t testing.TB, n ns.NetNS, name string) wire {
	t.Helper()
	w := wire{t: t}
	in(t, n, func() error {
		device, err := net.InterfaceByName(name)
		if err != nil {
			return err
		}
		const all = unix.ETH_P_ALL<<8&0xff00 | unix.ETH_P_ALL>>8
		if w.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, all); err != nil {
			return err
		}
		if err = unix.SetsockoptInt(w.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20); err != nil {
			return err
		}
		return unix.Bind(w.fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: device.Index})
	})
	t.Cleanup(func() { _ = unix.Close(w.fd) })
	return w
}

func (w wire) send(frame []byte) {
	w.t.Helper()
	if _, err := unix.Write(w.fd, frame); err != nil {
		w.t.Fatal(err)
	}
}

// receive returns the next frame that came in, nil when there was none for so long.
func (w wire) receive(within time.Duration) []byte {
	w.t.Helper()
	buffer := make([]byte, 2048)
	for end := time.Now().Add(within); ; {
		left := time.Until(end)
		if left <= 0 {
			return nil
		}
		timeout := unix.NsecToTimeval(left.Nanoseconds())
		if err := unix.SetsockoptTimeval(w.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout); err != nil {
			w.t.Fatal(err)
		}
		n, from, err := unix.Recvfrom(w.fd, buffer, 0)
		if err != nil {
			continue // no frame, or a signal
		}
		if ll, ok := from.(*unix.SockaddrLinklayer); !ok || ll.Pkttype != unix.PACKET_OUTGOING {
			return buffer[:n]
		}
	}
}
