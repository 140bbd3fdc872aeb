package firewall

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"maps"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// nameSet is a set of interface names.
func nameSet(name string, interfaces []string) set {
	s := set{name: name, keyType: nftables.TypeIFName}
	for _, i := range slices.Compact(slices.Sorted(slices.Values(interfaces))) {
		key := make([]byte, unix.IFNAMSIZ)
		copy(key, i)
		s.elements = append(s.elements, nftables.SetElement{Key: key})
	}
	return s
}

// portSet is a set of TCP or UDP ports.
func portSet(name string, ports []uint16) set {
	s := set{name: name, keyType: nftables.TypeInetService}
	for _, port := range slices.Compact(slices.Sorted(slices.Values(ports))) {
		s.elements = append(s.elements, nftables.SetElement{Key: binary.BigEndian.AppendUint16(nil, port)})
	}
	return s
}

// singles are addresses as prefixes.
func singles(addresses []netip.Addr) []netip.Prefix {
	var prefixes []netip.Prefix
	for _, address := range addresses {
		address = address.Unmap()
		prefixes = append(prefixes, netip.PrefixFrom(address, address.BitLen()))
	}
	return prefixes
}

// prefixSet is a set of one family's addresses, as intervals.
func prefixSet(family family, name string, prefixes []netip.Prefix) set {
	s := set{name: family.setName(name), keyType: nftables.TypeIPAddr, interval: true}
	if family == ipv6 {
		s.keyType = nftables.TypeIP6Addr
	}
	for _, prefix := range family.of(prefixes) {
		s.elements = append(s.elements, interval(prefix)...)
	}
	return s
}

// of are the family's among prefixes, masked and sorted, without those that lie in others.
func (f family) of(prefixes []netip.Prefix) []netip.Prefix {
	var mine []netip.Prefix
	for _, prefix := range prefixes {
		if prefix.IsValid() && f.has(prefix.Addr()) {
			mine = append(mine, prefix.Masked())
		}
	}
	return outermost(mine)
}

// outermost leaves out prefixes that lie in others: the kernel refuses intervals that overlap. Neighbours stay
// apart, so that one can come or go without touching the other. The prefixes are masked.
func outermost(prefixes []netip.Prefix) []netip.Prefix {
	slices.SortFunc(prefixes, func(a, b netip.Prefix) int {
		return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
	})
	var out []netip.Prefix
	for _, prefix := range prefixes {
		if len(out) == 0 || !out[len(out)-1].Contains(prefix.Addr()) {
			out = append(out, prefix)
		}
	}
	return out
}

// interval is a prefix as elements of an interval set: its first address, and as its end the first one behind it,
// unless it reaches to the family's last address.
func interval(prefix netip.Prefix) []nftables.SetElement {
	elements := []nftables.SetElement{{Key: prefix.Addr().AsSlice()}}
	if end := behind(prefix); end.IsValid() {
		elements = append(elements, nftables.SetElement{Key: end.AsSlice(), IntervalEnd: true})
	}
	return elements
}

// behind returns the first address behind a prefix; the zero Addr when there is none.
func behind(prefix netip.Prefix) netip.Addr {
	address, _ := netip.AddrFromSlice(last(prefix))
	return address.Next()
}

// last returns the last address of a prefix.
func last(prefix netip.Prefix) []byte {
	last := prefix.Addr().AsSlice()
	for i := range last {
		switch free := prefix.Bits() - 8*i; {
		case free <= 0:
			last[i] = 0xff
		case free < 8:
			last[i] |= 0xff >> free
		}
	}
	return last
}

// entries groups elements into what comes and goes as one: an interval with its end, or a single element. The keys
// tell entries apart.
func entries(elements []nftables.SetElement) map[string][]nftables.SetElement {
	sorted := slices.SortedFunc(slices.Values(elements), func(a, b nftables.SetElement) int {
		if c := bytes.Compare(a.Key, b.Key); c != 0 || a.IntervalEnd == b.IntervalEnd {
			return c
		}
		if a.IntervalEnd { // of the interval before
			return -1
		}
		return 1
	})
	all := make(map[string][]nftables.SetElement)
	for i, element := range sorted {
		if element.IntervalEnd {
			continue // an end without a beginning says nothing
		}
		entry, key := []nftables.SetElement{element}, string(element.Key)+string(element.KeyEnd)
		if i+1 < len(sorted) && sorted[i+1].IntervalEnd {
			entry, key = append(entry, sorted[i+1]), key+string(sorted[i+1].Key)
		}
		all[key] = entry
	}
	return all
}

// missing returns the elements of the entries that are in a and not in b, in order.
func missing(a, b []nftables.SetElement) []nftables.SetElement {
	in, out := entries(a), entries(b)
	var elements []nftables.SetElement
	for _, key := range slices.Sorted(maps.Keys(in)) {
		if _, ok := out[key]; !ok {
			elements = append(elements, in[key]...)
		}
	}
	return elements
}
