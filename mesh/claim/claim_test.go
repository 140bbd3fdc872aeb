package claim

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

func prefixes(texts ...string) []netip.Prefix {
	var all []netip.Prefix
	for _, text := range texts {
		all = append(all, netip.MustParsePrefix(text))
	}
	return all
}

func TestNext(t *testing.T) {
	const four = "10.32.0.0/22"
	tests := []struct {
		name  string
		rng   string
		bits  int
		last  []string
		taken []string
		want  string // "": none
	}{
		{name: "by the name", rng: four, bits: 24, want: "10.32.3.0/24"},
		{name: "the next one, if that is taken", rng: four, bits: 24, taken: []string{"10.32.3.0/24"}, want: "10.32.0.0/24"},
		{name: "around the end", rng: four, bits: 24, taken: []string{"10.32.3.0/24", "10.32.0.0/24"}, want: "10.32.1.0/24"},
		{name: "the only one left", rng: four, bits: 24, taken: []string{"10.32.3.0/24", "10.32.0.0/24", "10.32.1.0/24"},
			want: "10.32.2.0/24"},
		{name: "none left", rng: four, bits: 24, taken: []string{"10.32.3.0/24", "10.32.0.0/24", "10.32.1.0/24", "10.32.2.0/24"}},
		{name: "its last", rng: four, bits: 24, last: []string{"10.32.1.0/24"}, want: "10.32.1.0/24"},
		{name: "its last is taken", rng: four, bits: 24, last: []string{"10.32.1.0/24"}, taken: []string{"10.32.1.0/24"},
			want: "10.32.3.0/24"},
		{name: "its last is of another range", rng: four, bits: 24, last: []string{"10.244.1.0/24"}, want: "10.32.3.0/24"},
		{name: "its last has another size", rng: four, bits: 24, last: []string{"10.32.1.0/25"}, want: "10.32.3.0/24"},
		{name: "its last is of the other family", rng: four, bits: 24, last: []string{"fd00::/64"}, want: "10.32.3.0/24"},
		{name: "the second of its last", rng: four, bits: 24, last: []string{"fd00::/64", "10.32.2.0/24"}, want: "10.32.2.0/24"},
		{name: "a range of one block", rng: "10.32.5.0/24", bits: 24, want: "10.32.5.0/24"},
		{name: "blocks within a byte", rng: "10.32.5.0/26", bits: 28, last: []string{"10.32.5.32/28"}, want: "10.32.5.32/28"},
		{name: "IPv6", rng: "fd00:32::/48", bits: 64, last: []string{"fd00:32:0:ff::/64"}, want: "fd00:32:0:ff::/64"},
		{name: "as many blocks as there may be", rng: "fd00:32::/32", bits: 64, last: []string{"fd00:32:ffff:ffff::/64"},
			want: "fd00:32:ffff:ffff::/64"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := Range{netip.MustParsePrefix(tt.rng), tt.bits}
			if err := r.Check(); err != nil {
				t.Fatal(err)
			}
			taken := map[netip.Prefix]bool{}
			for _, block := range prefixes(tt.taken...) {
				taken[block] = true
			}
			got, ok := Next(r, "node-1", prefixes(tt.last...), func(p netip.Prefix) bool { return taken[p] })
			if ok != (tt.want != "") || ok && got.String() != tt.want {
				t.Errorf("%s, %t, want %q", got, ok, tt.want)
			}
		})
	}
}

// All blocks of a range are given, each once, and none beside them.
func TestBlocksFillTheRange(t *testing.T) {
	for _, r := range []Range{
		{netip.MustParsePrefix("10.32.0.0/12"), 24}, {netip.MustParsePrefix("10.32.0.0/22"), 28},
		{netip.MustParsePrefix("fd00:32::/56"), 64}, {netip.MustParsePrefix("fd00:32::/120"), 125},
	} {
		taken := map[netip.Prefix]bool{}
		for i := range r.Count() {
			block, ok := Next(r, fmt.Sprintf("node-%d", i), nil, func(p netip.Prefix) bool { return taken[p] })
			if !ok || taken[block] || !r.Has(block) || !r.Prefix.Overlaps(block) {
				t.Fatalf("%s: block %d is %s, %t", r, i, block, ok)
			}
			taken[block] = true
		}
		if block, ok := Next(r, "more", nil, func(p netip.Prefix) bool { return taken[p] }); ok {
			t.Errorf("%s: %s beyond its end", r, block)
		}
	}
}

// Nodes whose names differ in a digit don't all start at the same place.
func TestNamesSpread(t *testing.T) {
	r := Range{netip.MustParsePrefix("10.32.0.0/12"), 24}
	first := map[netip.Prefix]bool{}
	for i := range 100 {
		block, _ := Next(r, fmt.Sprintf("node-%d", i), nil, func(netip.Prefix) bool { return false })
		first[block] = true
	}
	if len(first) < 90 {
		t.Errorf("100 nodes start at %d places", len(first))
	}
}

func TestCheck(t *testing.T) {
	for _, tt := range []struct {
		rng  string
		bits int
		want string // part of the error
	}{
		{"10.32.0.0/12", 24, ""},
		{"10.32.5.0/24", 24, ""},
		{"fd00::/48", 64, ""},
		{"10.32.0.0/12", 8, "doesn't fit"},
		{"10.32.0.0/12", 31, "no room"},
		{"fd00::/48", 127, "no room"},
		{"0.0.0.0/0", 24, "too wide"},
		{"10.32.0.1/12", 24, "isn't a range"},
		{"::ffff:10.0.0.0/112", 120, "isn't a range"},
		{"fd00::/16", 64, "more than 2^32"},
		{"", 24, "isn't a range"},
	} {
		var prefix netip.Prefix
		if tt.rng != "" {
			prefix = netip.MustParsePrefix(tt.rng)
		}
		err := Range{prefix, tt.bits}.Check()
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s of /%d: %v, want %q", tt.rng, tt.bits, err, tt.want)
		}
	}
}

func TestName(t *testing.T) {
	for block, name := range map[string]string{
		"10.32.5.0/24":      "v4-10.32.5.0-24",
		"fd00:32:0:ff::/64": "v6-fd00-0032-0000-00ff-0000-0000-0000-0000-64",
	} {
		if got := Name(netip.MustParsePrefix(block)); got != name {
			t.Errorf("%s is called %s, want %s", block, got, name)
		}
		if got, err := ParseName(name); err != nil || got.String() != block {
			t.Errorf("%s is %s, %v", name, got, err)
		}
	}
	for _, name := range []string{
		"", "range", "v4", "v4-", "v4--24", "v4-10.32.5.0", "v4-10.32.5.0-", "v4-10.32.5.1-24", "v4-10.32.5.0-33", "v4-10.32.5.0-024",
		"v4-10.32.05.0-24", "v4-10.32.5.0-+24", "v6-10.32.5.0-24", "v6-fd00--64", "v6-fd00-0032-0000-00ff-0000-0000-0000-0001-64",
		"v4-fd00-0032-0000-00ff-0000-0000-0000-0000-64", "v5-10.32.5.0-24",
	} {
		if block, err := ParseName(name); err == nil {
			t.Errorf("%q is taken for %s", name, block)
		}
	}
}

func FuzzParseName(f *testing.F) {
	f.Add("v4-10.32.5.0-24")
	f.Add("v6-fd00-0032-0000-00ff-0000-0000-0000-0000-64")
	f.Fuzz(func(t *testing.T, name string) {
		if block, err := ParseName(name); err == nil && (Name(block) != name || block != block.Masked()) {
			t.Errorf("%q is taken for %s, which is called %s", name, block, Name(block))
		}
	})
}

// Whoever has much of a range is passed at once.
func TestNextPassesWidePrefixes(t *testing.T) {
	for _, tt := range []struct {
		name, rng   string
		wide, taken []string
		want        string // "": none
	}{
		{name: "half of it", rng: "10.32.0.0/22", wide: []string{"10.32.2.0/23"}, want: "10.32.0.0/24"},
		{name: "the other half", rng: "10.32.0.0/22", wide: []string{"10.32.0.0/23"}, want: "10.32.3.0/24"},
		{name: "half of it, and one more", rng: "10.32.0.0/22", wide: []string{"10.32.2.0/23"}, taken: []string{"10.32.0.0/24"}, want: "10.32.1.0/24"},
		{name: "both halves", rng: "10.32.0.0/22", wide: []string{"10.32.2.0/23", "10.32.0.0/23"}},
		{name: "all and more", rng: "10.32.0.0/22", wide: []string{"10.0.0.0/8"}},
		{name: "all of 2^32", rng: "fd00:32::/32", wide: []string{"fd00:32::/32"}},
		{name: "all but one of 2^32", rng: "fd00:32::/32", wide: allBut("fd00:32:5:9::/64", 33), want: "fd00:32:5:9::/64"},
		{name: "something else", rng: "10.32.0.0/22", wide: []string{"10.40.0.0/23", "fd00::/8"}, want: "10.32.3.0/24"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := Range{netip.MustParsePrefix(tt.rng), 24}
			if r.Prefix.Addr().Is6() {
				r.Bits = 64
			}
			calls := 0
			got, ok := Next(r, "node-1", nil, func(p netip.Prefix) bool {
				if calls++; calls > 100 {
					t.Fatal("it goes through all")
				}
				return slices.Contains(prefixes(tt.taken...), p)
			}, prefixes(tt.wide...)...)
			if ok != (tt.want != "") || ok && got.String() != tt.want {
				t.Errorf("%s, %t, want %q", got, ok, tt.want)
			}
		})
	}
	r := Range{netip.MustParsePrefix("10.32.0.0/22"), 24}
	free := func(netip.Prefix) bool { return false }
	if got, _ := Next(r, "node-1", prefixes("10.32.2.0/24"), free, prefixes("10.32.2.0/23")...); got.String() != "10.32.0.0/24" {
		t.Errorf("what it had last is taken, and it gets %s", got)
	}
}

// allBut are prefixes that have all of a block's supernet of the bits above but the block.
func allBut(block string, from int) []string {
	var all []string
	p := netip.MustParsePrefix(block)
	for bits := from; bits <= p.Bits(); bits++ {
		raw := p.Addr().As16()
		raw[(bits-1)/8] ^= 1 << (7 - (bits-1)%8)
		all = append(all, netip.PrefixFrom(netip.AddrFrom16(raw), bits).Masked().String())
	}
	return all
}
