package firewall

import (
	"bytes"
	"cmp"
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

// prefixSet is a set of one family's addresses, as intervals.
func prefixSet(family family, name string, prefixes []netip.Prefix) set {
	s := set{name: family.setName(name), keyType: nftables.TypeIPAddr}
	if family == ipv6 {
		s.keyType = nftables.TypeIP6Addr
	}
	var mine []netip.Prefix
	for _, prefix := range prefixes {
		if prefix.IsValid() && family.has(prefix.Addr()) {
			mine = append(mine, prefix.Masked())
		}
	}
	s.elements = intervals(mine)
	return s
}

// intervals turns prefixes into the elements of an interval set: the first address of each, and the first one
// behind it as its end, unless it reaches to the family's last address. The kernel refuses intervals that overlap,
// so those are merged, and so are neighbours. The prefixes are masked.
func intervals(prefixes []netip.Prefix) []nftables.SetElement {
	slices.SortFunc(prefixes, func(a, b netip.Prefix) int {
		return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
	})
	var elements []nftables.SetElement
	var end netip.Addr // behind the last interval; invalid: there is nothing behind it
	for _, prefix := range prefixes {
		if len(elements) > 0 && (!end.IsValid() || prefix.Addr().Less(end)) {
			continue // prefixes are apart, or one holds the other
		}
		if len(elements) > 0 && prefix.Addr() == end {
			elements = elements[:len(elements)-1]
		} else {
			elements = append(elements, nftables.SetElement{Key: prefix.Addr().AsSlice()})
		}
		if end = behind(prefix); end.IsValid() {
			elements = append(elements, nftables.SetElement{Key: end.AsSlice(), IntervalEnd: true})
		}
	}
	return elements
}

// behind returns the first address behind a prefix; the zero Addr when there is none.
func behind(prefix netip.Prefix) netip.Addr {
	last := prefix.Addr().AsSlice()
	for i := range last {
		switch free := prefix.Bits() - 8*i; {
		case free <= 0:
			last[i] = 0xff
		case free < 8:
			last[i] |= 0xff >> free
		}
	}
	address, _ := netip.AddrFromSlice(last)
	return address.Next()
}

// sameElements compares a set's elements with those that the kernel shows, in any order.
func sameElements(want, have []nftables.SetElement) bool {
	order := func(a, b nftables.SetElement) int {
		if c := bytes.Compare(a.Key, b.Key); c != 0 || a.IntervalEnd == b.IntervalEnd {
			return c
		}
		if a.IntervalEnd {
			return -1
		}
		return 1
	}
	return slices.EqualFunc(slices.SortedFunc(slices.Values(want), order), slices.SortedFunc(slices.Values(have), order),
		func(a, b nftables.SetElement) bool {
			return bytes.Equal(a.Key, b.Key) && a.IntervalEnd == b.IntervalEnd
		})
}
