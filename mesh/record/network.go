package record

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
)

const (
	// MaxNetworks is how many networks a document has at most.
	MaxNetworks = 16
	// MaxNetworkName is the longest name of a network in bytes.
	MaxNetworkName = 63
)

// Network is a network beside the default one, as its node has it. Prefixes are masked, at most one of each family,
// IPv4 first.
type Network struct {
	Name   string
	Ranges []netip.Prefix // of the whole network
	CIDRs  []netip.Prefix // the node's part: each inside the range of its family
}

// Validate returns an error that names the first field that isn't valid.
func (n Network) Validate() error {
	if err := ValidateNetworkName(n.Name); err != nil {
		return err
	}
	if err := validatePrefixes("ranges", n.Ranges); err != nil {
		return err
	}
	if err := validatePrefixes("subnets", n.CIDRs); err != nil {
		return err
	}
	for _, cidr := range n.CIDRs {
		if !slices.ContainsFunc(n.Ranges, func(r netip.Prefix) bool { return r.Bits() <= cidr.Bits() && r.Overlaps(cidr) }) {
			return fmt.Errorf("subnets has %s, which is in none of the ranges", cidr)
		}
	}
	return nil
}

// ValidateNetworkName refuses what can't be the name of a CNI network: the specification (1.1, section 1) wants letters,
// digits and _ . -, the first a letter or a digit.
func ValidateNetworkName(name string) error {
	if name == "" || len(name) > MaxNetworkName {
		return fmt.Errorf("name has %d bytes, want 1 to %d", len(name), MaxNetworkName)
	}
	for i, c := range []byte(name) {
		alphanumeric := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		if !alphanumeric && (i == 0 || c != '_' && c != '.' && c != '-') {
			return fmt.Errorf("name is %q, want letters, digits, and behind the first of them also _ . -", name)
		}
	}
	return nil
}

// validatePrefixes wants one or two prefixes, at most one of each family, IPv4 first.
func validatePrefixes(field string, prefixes []netip.Prefix) error {
	if len(prefixes) == 0 {
		return errors.New(field + " is missing")
	}
	if len(prefixes) > 2 {
		return fmt.Errorf("%s has %d prefixes, want one of each family at most", field, len(prefixes))
	}
	for _, p := range prefixes {
		family := netip.Addr.Is4
		if p.Addr().Is6() {
			family = is6
		}
		if p == (netip.Prefix{}) {
			return fmt.Errorf("%s has an invalid prefix", field)
		}
		if err := validateCIDR(field, p, family); err != nil {
			return err
		}
		if what := special(p); what != "" {
			return fmt.Errorf("%s is %s, which has %s in it: not a range of unicast addresses", field, p, what)
		}
	}
	if len(prefixes) == 2 && !(prefixes[0].Addr().Is4() && prefixes[1].Addr().Is6()) {
		return fmt.Errorf("%s are %s and %s, want one of each family, IPv4 first", field, prefixes[0], prefixes[1])
	}
	return nil
}

// special says which addresses in a prefix no pod can have, if there are any (RFC 6890, and RFC 4291, section 2.4).
func special(p netip.Prefix) string {
	for _, s := range []struct {
		prefix netip.Prefix
		what   string
	}{
		{netip.PrefixFrom(netip.AddrFrom4([4]byte{}), 8), "the unspecified address"},
		{netip.PrefixFrom(netip.AddrFrom4([4]byte{127}), 8), "loopback addresses"},
		{netip.PrefixFrom(netip.AddrFrom4([4]byte{169, 254}), 16), "link-local addresses"},
		{netip.PrefixFrom(netip.AddrFrom4([4]byte{224}), 4), "multicast addresses"},
		{netip.PrefixFrom(netip.AddrFrom4([4]byte{240}), 4), "reserved addresses"},
		{netip.PrefixFrom(netip.IPv6Unspecified(), 64), "the unspecified address"},
		{netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfe, 0x80}), 10), "link-local addresses"},
		{netip.PrefixFrom(netip.AddrFrom16([16]byte{0xff}), 8), "multicast addresses"},
	} {
		if s.prefix.Overlaps(p) {
			return s.what
		}
	}
	return ""
}
