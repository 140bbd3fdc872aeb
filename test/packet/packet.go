// Package packet makes IP packets for tests that send them raw.
package packet

import (
	"encoding/binary"
	"net/netip"
)

// IP puts an IP header before a message of TCP, UDP or ICMPv6, and the message's checksum at an offset in it. IPv6 gets
// the hop limit 255, which neighbour discovery asks for (RFC 4861, section 7.1). Both addresses are of one family.
func IP(from, to netip.Addr, protocol byte, checksumAt int, message []byte) []byte {
	pseudo := append(from.AsSlice(), to.AsSlice()...)
	pseudo = binary.BigEndian.AppendUint32(pseudo, uint32(len(message)))
	pseudo = append(pseudo, 0, 0, 0, protocol)
	binary.BigEndian.PutUint16(message[checksumAt:], checksum(append(pseudo, message...)))
	if from.Is4() {
		header := []byte{0x45, 0, 0, 0, 0, 0, 0, 0, 64, protocol, 0, 0}
		binary.BigEndian.PutUint16(header[2:], uint16(20+len(message)))
		header = append(append(header, from.AsSlice()...), to.AsSlice()...)
		binary.BigEndian.PutUint16(header[10:], checksum(header))
		return append(header, message...)
	}
	header := []byte{0x60, 0, 0, 0, 0, 0, protocol, 255}
	binary.BigEndian.PutUint16(header[4:], uint16(len(message)))
	return append(append(append(header, from.AsSlice()...), to.AsSlice()...), message...)
}

// checksum is that of RFC 1071.
func checksum(data []byte) uint16 {
	if len(data)%2 == 1 {
		data = append(data, 0)
	}
	var sum uint32
	for i := 0; i < len(data); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(data[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
