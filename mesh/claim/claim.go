// Package claim decides which block of a range a node takes for its pods, where nobody else gives it one. It is pure: no
// I/O, no clock. Who holds what is for others to know, and to make unique by a block's Name.
package claim

import (
	"fmt"
	"hash/fnv"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Limits of a Range. A block leaves room for a gateway and pods; and a range this wide is a slip of the pen.
const (
	minBits4, maxBlock4 = 8, 30
	minBits6, maxBlock6 = 16, 126
	maxIndexBits        = 32 // at most 2³² blocks
)

// Range is what blocks are cut from: the prefixes of the length Bits that Prefix holds.
type Range struct {
	Prefix netip.Prefix
	Bits   int
}

// String is the range as text: 10.32.0.0/12 in blocks of /24.
func (r Range) String() string { return fmt.Sprintf("%s in blocks of /%d", r.Prefix, r.Bits) }

// Check says why blocks can't be cut from the range, or nothing.
func (r Range) Check() error {
	if !r.Prefix.IsValid() || r.Prefix.Addr().Is4In6() || r.Prefix != r.Prefix.Masked() {
		return fmt.Errorf("%s isn't a range of addresses such as 10.32.0.0/12", r.Prefix)
	}
	low, high := minBits4, maxBlock4
	if r.Prefix.Addr().Is6() {
		low, high = minBits6, maxBlock6
	}
	switch bits := r.Prefix.Bits(); {
	case bits < low:
		return fmt.Errorf("the range %s is too wide: /%d at most", r.Prefix, low)
	case r.Bits < bits:
		return fmt.Errorf("a block of /%d doesn't fit into %s", r.Bits, r.Prefix)
	case r.Bits > high:
		return fmt.Errorf("a block of /%d has no room for a gateway and pods: /%d at least", r.Bits, high)
	case r.Bits-bits > maxIndexBits:
		return fmt.Errorf("%s has more than 2^%d blocks of /%d: make the blocks larger", r.Prefix, maxIndexBits, r.Bits)
	}
	return nil
}

// Count is how many blocks the range has.
func (r Range) Count() uint64 { return 1 << (r.Bits - r.Prefix.Bits()) }

// Has reports whether a prefix is one of the range's blocks.
func (r Range) Has(block netip.Prefix) bool {
	return block.Bits() == r.Bits && block == block.Masked() && r.Prefix.Addr().BitLen() == block.Addr().BitLen() &&
		r.Prefix.Contains(block.Addr())
}

// Block is the block number i, below Count.
func (r Range) Block(i uint64) netip.Prefix {
	raw := r.Prefix.Addr().AsSlice()
	for place := r.Bits - 1; place >= r.Prefix.Bits(); place-- {
		raw[place/8] |= byte(i&1) << (7 - place%8)
		i >>= 1
	}
	address, _ := netip.AddrFromSlice(raw) // 4 or 16 bytes
	return netip.PrefixFrom(address, r.Bits)
}

// Next is the block that a node should try: the first of those that it had last which is free; else the first free one
// from a place on that follows from its name, so that nodes which start at once seldom want the same. There is none when
// all are taken. Taken are also the blocks inside of those of wide that are wider; it takes no longer for them, and calls
// taken about as often as there are others.
func Next(r Range, node string, last []netip.Prefix, taken func(netip.Prefix) bool, wide ...netip.Prefix) (netip.Prefix, bool) {
	for _, block := range last {
		if r.Has(block) && !taken(block) && r.inside(block, wide) == 0 {
			return block, true
		}
	}
	hash := fnv.New64a()
	_, _ = hash.Write([]byte(node)) // it never fails
	count := r.Count()
	start := hash.Sum64() % count
	for i := uint64(0); i < count; {
		at := (start + i) % count
		block := r.Block(at)
		if many := r.inside(block, wide); many > 0 {
			i += many - at%many // on to its end
		} else if i++; !taken(block) {
			return block, true
		}
	}
	return netip.Prefix{}, false
}

// inside is how many blocks the widest of some prefixes has that a block is inside of; 0: it is in none.
func (r Range) inside(block netip.Prefix, wide []netip.Prefix) uint64 {
	bits := -1
	for _, p := range wide {
		if p.Bits() <= r.Bits && p.Overlaps(block) && (bits < 0 || p.Bits() < bits) {
			bits = max(p.Bits(), r.Prefix.Bits())
		}
	}
	if bits < 0 {
		return 0
	}
	return 1 << (r.Bits - bits)
}

// Name is what a claim of a block is called where names are of lower case letters, digits, dots and dashes:
// v4-10.32.5.0-24, and in IPv6 all digits.
func Name(block netip.Prefix) string {
	if block.Addr().Is4() {
		return fmt.Sprintf("v4-%s-%d", block.Addr(), block.Bits())
	}
	return fmt.Sprintf("v6-%s-%d", strings.ReplaceAll(block.Addr().StringExpanded(), ":", "-"), block.Bits())
}

// ParseName reads a Name. Each block has one: any other spelling is an error.
func ParseName(name string) (netip.Prefix, error) {
	wrong := fmt.Errorf("%q isn't the name of a claim, such as v4-10.32.5.0-24", name)
	cut := strings.LastIndex(name, "-")
	if cut < 3 {
		return netip.Prefix{}, wrong
	}
	bits, err := strconv.Atoi(name[cut+1:])
	if err != nil {
		return netip.Prefix{}, wrong
	}
	text := name[3:cut]
	if strings.HasPrefix(name, "v6-") {
		text = strings.ReplaceAll(text, "-", ":")
	}
	address, err := netip.ParseAddr(text)
	if err != nil || address.Zone() != "" {
		return netip.Prefix{}, wrong
	}
	block, err := address.Prefix(bits)
	if err != nil || Name(block) != name {
		return netip.Prefix{}, wrong
	}
	return block, nil
}

// Equal reports whether two lists have the same ranges, in any order.
func Equal(a, b []Range) bool {
	return len(a) == len(b) && !slices.ContainsFunc(a, func(r Range) bool { return !slices.Contains(b, r) })
}
