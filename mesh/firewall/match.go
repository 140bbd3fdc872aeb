package firewall

import (
	"net/netip"
	"slices"

	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// family is an address family, by its netfilter number (NFPROTO_*).
type family byte

const (
	ipv4 = family(unix.NFPROTO_IPV4)
	ipv6 = family(unix.NFPROTO_IPV6)
)

// has reports whether an address is of this family.
func (f family) has(address netip.Addr) bool { return address.Is4() == (f == ipv4) }

// source and destination return where the addresses are in the IP header, and length their size, in bytes.
func (f family) source() uint32 {
	if f == ipv4 {
		return 12
	}
	return 8
}

func (f family) destination() uint32 { return f.source() + f.length() }

func (f family) length() uint32 {
	if f == ipv4 {
		return 4
	}
	return 16
}

// name is a rule's name in this family, and setName a set's.
func (f family) name(rule string) string {
	if f == ipv4 {
		return rule + "-ipv4"
	}
	return rule + "-ipv6"
}

func (f family) setName(set string) string {
	if f == ipv4 {
		return set + "4"
	}
	return set + "6"
}

// is matches packets of the family; what follows may look into the IP header.
func (f family) is() []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{byte(f)}},
	}
}

func (f family) in(offset uint32, set string) []expr.Any {
	return f.lookup(offset, set, false)
}

func (f family) notIn(offset uint32, set string) []expr.Any {
	return f.lookup(offset, set, true)
}

func (f family) lookup(offset uint32, set string, invert bool) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: f.length()},
		&expr.Lookup{SourceRegister: 1, SetName: f.setName(set), Invert: invert},
	}
}

// unicast matches packets whose destination is neither multicast nor the limited broadcast address.
func (f family) unicast() []expr.Any {
	if f == ipv6 {
		return []expr.Any{
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: f.destination(), Len: 1},
			&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: []byte{0xff}},
		}
	}
	destination := &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: f.destination(),
		Len: f.length()}
	return []expr.Any{
		destination,
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: []byte{0xf0, 0, 0, 0}, Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: []byte{0xe0, 0, 0, 0}},
		destination,
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: []byte{255, 255, 255, 255}},
	}
}

// protocol is a transport protocol, and the set of its guarded ports.
type protocol struct {
	name   string
	number byte
	set    string
}

func protocols() []protocol {
	return []protocol{{"tcp", unix.IPPROTO_TCP, setTCP}, {"udp", unix.IPPROTO_UDP, setUDP}}
}

// to matches packets to the protocol's guarded ports.
func (p protocol) to() []expr.Any {
	const destinationAt = 2
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{p.number}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: destinationAt, Len: 2},
		&expr.Lookup{SourceRegister: 1, SetName: p.set},
	}
}

// by and notBy match packets by the name of their incoming or outgoing device.
func by(direction expr.MetaKey, set string) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: direction, Register: 1},
		&expr.Lookup{SourceRegister: 1, SetName: set},
	}
}

func notBy(direction expr.MetaKey, set string) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: direction, Register: 1},
		&expr.Lookup{SourceRegister: 1, SetName: set, Invert: true},
	}
}

// marked matches packets whose mark has all of these bits.
func marked(bits uint32) []expr.Any {
	mark := binaryutil.NativeEndian.PutUint32(bits)
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyMARK, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: mark, Xor: []byte{0, 0, 0, 0}},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: mark},
	}
}

func join[T any](parts ...[]T) []T { return slices.Concat(parts...) }
