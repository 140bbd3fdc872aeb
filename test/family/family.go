// Package family names the address families that tests run with.
package family

import (
	"fmt"
	"net/netip"
)

// Family is one address family, or both.
type Family int

// The families.
const (
	IPv4 Family = iota
	IPv6
	Dual
)

// String is the family's name.
func (f Family) String() string { return [...]string{"IPv4", "IPv6", "dual stack"}[f] }

// Set is for flags: ipv4, ipv6 or dual.
func (f *Family) Set(text string) error {
	for family, name := range []string{"ipv4", "ipv6", "dual"} {
		if text == name {
			*f = Family(family)
			return nil
		}
	}
	return fmt.Errorf("family %q: it is ipv4, ipv6 or dual", text)
}

// Type is what flags call it.
func (f *Family) Type() string { return "family" }

// Of are the prefixes of the family, IPv4 first.
func (f Family) Of(v4, v6 netip.Prefix) []netip.Prefix {
	switch f {
	case IPv6:
		return []netip.Prefix{v6}
	case Dual:
		return []netip.Prefix{v4, v6}
	}
	return []netip.Prefix{v4}
}

// Each are the families that it consists of, IPv4 first.
func (f Family) Each() []Family {
	if f == Dual {
		return []Family{IPv4, IPv6}
	}
	return []Family{f}
}

// Has tells whether an address is of the family.
func (f Family) Has(a netip.Addr) bool { return f == Dual || (f == IPv4) == a.Is4() }
