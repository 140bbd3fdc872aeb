package record

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"

	"github.com/weaveguard/weaveguard/keys"
)

// MaxSize is the largest signed record in bytes: memberlist's limit for a member's metadata.
const MaxSize = 512

// MaxGenerations is how many WireGuard keys a record announces at most.
const MaxGenerations = 2

// LinkPorts is how many consecutive UDP ports, from an endpoint's port on, a node listens on for WireGuard.
const LinkPorts = 4

// MinMTU is the smallest MTU that a record may state: the least that IPv4 hosts must take (RFC 791).
const MinMTU = 576

// Generation is one WireGuard public key of a node, with its number.
type Generation struct {
	Number uint32
	Key    keys.PublicKey
}

// Record is what a node says about itself. Absent addresses and prefixes are zero values.
type Record struct {
	Identity    keys.PublicIdentity // signs the record
	Sequence    uint64              // grows with each record of one identity
	Generations []Generation        // 1 or 2 with consecutive numbers, oldest first
	Endpoint4   netip.AddrPort      // IPv4 underlay address, and the first of the node's LinkPorts UDP ports
	Endpoint6   netip.AddrPort      // the same in IPv6
	PodCIDR4    netip.Prefix        // masked
	PodCIDR6    netip.Prefix        // masked
	MTU         uint16              // bytes that the node's underlay carries at most, IP header included; 0: unknown

	DocumentVersion uint64            // 0: no document
	DocumentHash    [sha256.Size]byte // SHA-256 of the signed document
}

// Endpoints are those that the record has, IPv4 first.
func (r Record) Endpoints() []netip.AddrPort {
	return slices.DeleteFunc([]netip.AddrPort{r.Endpoint4, r.Endpoint6},
		func(e netip.AddrPort) bool { return !e.IsValid() })
}

// PodCIDRs are those that the record has, IPv4 first.
func (r Record) PodCIDRs() []netip.Prefix {
	return slices.DeleteFunc([]netip.Prefix{r.PodCIDR4, r.PodCIDR6}, func(p netip.Prefix) bool { return !p.IsValid() })
}

// Validate returns an error that names the first field that isn't valid.
func (r Record) Validate() error {
	if r.Identity.IsZero() {
		return errors.New("identity is missing")
	}
	if err := validateGenerations(r.Generations); err != nil {
		return err
	}
	if err := validateEndpoint("endpoint4", r.Endpoint4, netip.Addr.Is4); err != nil {
		return err
	}
	if err := validateEndpoint("endpoint6", r.Endpoint6, is6); err != nil {
		return err
	}
	if err := validateCIDR("podCIDR4", r.PodCIDR4, netip.Addr.Is4); err != nil {
		return err
	}
	if err := validateCIDR("podCIDR6", r.PodCIDR6, is6); err != nil {
		return err
	}
	if r.MTU != 0 && r.MTU < MinMTU {
		return fmt.Errorf("mtu is %d, want 0 or at least %d", r.MTU, MinMTU)
	}
	if (r.DocumentVersion == 0) != (r.DocumentHash == [sha256.Size]byte{}) {
		return errors.New("document version and hash don't go together")
	}
	return nil
}

func validateGenerations(generations []Generation) error {
	if len(generations) == 0 || len(generations) > MaxGenerations {
		return fmt.Errorf("%d generations, want 1 to %d", len(generations), MaxGenerations)
	}
	for i, g := range generations {
		if g.Key.IsZero() {
			return fmt.Errorf("the key of generation %d is missing", g.Number)
		}
		if i == 0 {
			continue
		}
		previous := generations[i-1]
		if previous.Number == math.MaxUint32 || g.Number != previous.Number+1 {
			return fmt.Errorf("generation %d follows generation %d", g.Number, previous.Number)
		}
		if g.Key == previous.Key {
			return fmt.Errorf("generations %d and %d have the same key", previous.Number, g.Number)
		}
	}
	return nil
}

func validateEndpoint(field string, e netip.AddrPort, family func(netip.Addr) bool) error {
	if e == (netip.AddrPort{}) {
		return nil
	}
	a := e.Addr()
	if !family(a) || a.Zone() != "" {
		return fmt.Errorf("%s is %s: of the wrong family, or with a zone", field, e)
	}
	if a.IsUnspecified() || a.IsMulticast() || a.IsLoopback() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
		return fmt.Errorf("%s is %s: not an address of one host", field, e)
	}
	if a.Is6() && a.IsLinkLocalUnicast() {
		return fmt.Errorf("%s is %s: a link-local address, which others can't reach without a zone", field, e)
	}
	if e.Port() == 0 || int(e.Port())+LinkPorts-1 > math.MaxUint16 {
		return fmt.Errorf("%s has port %d, want 1 to %d", field, e.Port(), math.MaxUint16-LinkPorts+1)
	}
	return nil
}

func validateCIDR(field string, p netip.Prefix, family func(netip.Addr) bool) error {
	if p == (netip.Prefix{}) {
		return nil
	}
	a := p.Addr()
	if !p.IsValid() || !family(a) || p != p.Masked() || p.Bits() == 0 {
		return fmt.Errorf("%s is %s: not a prefix of its family in canonical form", field, p)
	}
	if a.IsMulticast() || a.IsLoopback() || a.IsLinkLocalUnicast() || a.IsUnspecified() {
		return fmt.Errorf("%s is %s: not a range of unicast addresses", field, p)
	}
	return nil
}

func is6(a netip.Addr) bool { return a.Is6() && !a.Is4In6() }

// Equal reports whether two records say the same, byte for byte once encoded.
func (r Record) Equal(other Record) bool {
	a, errA := encode(r)
	b, errB := encode(other)
	return errA == nil && errB == nil && bytes.Equal(a, b)
}
