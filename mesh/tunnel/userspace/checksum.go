package userspace

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/tun"
)

// summedTUN is a TUN device whose packets have the checksums that their senders meant.
//
// The kernel leaves the checksum of a packet to the device, which is package tun. Of a UDP datagram whose checksum comes out
// as 0 that sends the 0, where it must send all ones (RFC 768): IPv6 takes no datagram without a checksum (RFC 8200, section
// 8.1), so one in 65,536 would be lost.
type summedTUN struct{ tun.Device }

// Read reads packets as tun.Device does.
func (d summedTUN) Read(packets [][]byte, sizes []int, offset int) (int, error) {
	n, err := d.Device.Read(packets, sizes, offset)
	for i := range n {
		mendChecksum(packets[i][offset : offset+sizes[i]])
	}
	return n, err
}

// Sizes in bytes, and where fields are in headers.
const (
	header6     = 40 // of IPv6
	headerUDP   = 8
	nextHeader6 = 6 // in the header of IPv6
	source6     = 8 // then come both addresses, to its end
	checksumUDP = 6 // in the header of UDP
)

// mendChecksum gives a UDP datagram of IPv6 all ones for its checksum, when it is 0 because it came out as that. One without
// a checksum, which some tunnels send (RFC 6935), stays as it is, and so does a fragment, which the kernel has summed.
func mendChecksum(packet []byte) {
	if len(packet) < header6 || packet[0]>>4 != 6 {
		return
	}
	datagram := udpOf(packet)
	if len(datagram) < headerUDP || datagram[checksumUDP] != 0 || datagram[checksumUDP+1] != 0 {
		return
	}
	// The pseudo-header (RFC 8200, section 8.1) has the addresses, the length and the protocol.
	sum := onesSum(onesSum(uint64(len(datagram))+unix.IPPROTO_UDP, packet[source6:header6]), datagram)
	if sum == 0xffff {
		datagram[checksumUDP], datagram[checksumUDP+1] = 0xff, 0xff
	}
}

// udpOf is the datagram of an IPv6 packet, without what may follow it; nil if the packet has another one, or part of one.
func udpOf(packet []byte) []byte {
	next, rest := packet[nextHeader6], packet[header6:]
	for next == unix.IPPROTO_HOPOPTS || next == unix.IPPROTO_ROUTING || next == unix.IPPROTO_DSTOPTS {
		if len(rest) < 2 || len(rest) < 8*(int(rest[1])+1) { // RFC 8200, sections 4.3 to 4.6
			return nil
		}
		next, rest = rest[0], rest[8*(int(rest[1])+1):]
	}
	if next != unix.IPPROTO_UDP || len(rest) < headerUDP {
		return nil
	}
	length := int(binary.BigEndian.Uint16(rest[4:]))
	if length < headerUDP || length > len(rest) {
		return nil
	}
	return rest[:length]
}

// onesSum adds bytes to a sum in ones' complement of 16 bits (RFC 1071); it stays below 2^16, and is 0 only if all was.
func onesSum(sum uint64, b []byte) uint64 {
	for ; len(b) >= 2; b = b[2:] {
		sum += uint64(b[0])<<8 | uint64(b[1])
	}
	if len(b) == 1 {
		sum += uint64(b[0]) << 8
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return sum
}
