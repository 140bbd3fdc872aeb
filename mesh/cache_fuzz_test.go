package mesh

import (
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/weaveguard/weaveguard/keys"
)

// FuzzRecall reads any bytes as the view cache, and takes in what they hold: never a panic, and nothing that isn't
// rightly signed.
func FuzzRecall(f *testing.F) {
	path := filepath.Join(f.TempDir(), "view.json")
	good := Remembered{
		Version: cacheVersion, Self: RememberedSelf{Node: "a", PodCIDRs: []netip.Prefix{netip.MustParsePrefix("10.244.1.0/24")},
			Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.1")}, Age: 7},
		Nodes:    map[string]RememberedRecord{"b": {Raw: []byte("\x01 not a record"), Age: 9}},
		PodCIDRs: []netip.Prefix{netip.MustParsePrefix("10.244.1.0/24")}, NodeAddresses: []netip.Addr{netip.MustParseAddr("203.0.113.1")},
	}
	if err := good.save(path); err != nil {
		f.Fatal(err)
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	for _, text := range []string{
		`{"version":1,"nodes":null}`, `{"version":1,"nodes":{"":{"record":"AQ=="}}}`, `{"version":1,"nodes":{"b":{"record":"!"}}}`, `{"version":2}`,
		`{"version":1,"self":{"podCIDRs":["10.0.0.0/99",""],"addresses":["x"]}}`, `{"version":1,"podCIDRs":[null]}`, `null`, `[]`, ``, `{`,
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		if err := os.WriteFile(path, raw, 0o600); err != nil {
			t.Fatal(err)
		}
		r, err := Recall(path)
		if err != nil && len(r.Nodes)+len(r.PodCIDRs) > 0 {
			t.Errorf("refused, and %+v", r)
		}
		b, d := newBook("a", keys.PublicIdentity{1}), newDocuments()
		for node, remembered := range r.Nodes {
			if err := b.load(node, remembered); err != nil {
				slog.New(slog.DiscardHandler).Warn("not used", "error", err)
			}
			if err := d.load(node, remembered.Document, b.entries[node].record.Identity); err != nil {
				slog.New(slog.DiscardHandler).Warn("not used", "error", err)
			}
		}
		for name, held := range d.held {
			if err := held.document.Validate(); err != nil || b.entries[name].raw == nil {
				t.Errorf("a document of %q counts: %v", name, err)
			}
		}
		for name, e := range b.entries {
			if err := e.record.Validate(); err != nil || name == "a" {
				t.Errorf("an invalid record of %q counts: %v", name, err)
			}
		}
		if err := r.save(path); err != nil {
			return // what JSON can say, and a prefix can't
		}
		if _, err := Recall(path); err != nil {
			t.Errorf("written again it isn't read: %v", err)
		}
	})
}

// A cache that is much too large isn't read into memory.
func TestHugeCache(t *testing.T) {
	path := filepath.Join(t.TempDir(), "view.json")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, maxCache+1); err != nil {
		t.Fatal(err)
	}
	if r, err := Recall(path); err == nil || len(r.Nodes) != 0 {
		t.Errorf("it is read: %v", err)
	}
}

// Pod CIDRs that were ever seen are kept up to a bound, and what couldn't be read again isn't written in place of what can.
func TestCacheIsBounded(t *testing.T) {
	t.Parallel()
	a := &Agent{}
	cidr := func(i int) netip.Prefix {
		return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 32)
	}
	for i := range maxCachedCIDRs - 1 {
		a.remembered.PodCIDRs = append(a.remembered.PodCIDRs, cidr(i))
	}
	if !a.rememberCIDRs([]netip.Prefix{cidr(1 << 20)}) || a.rememberCIDRs([]netip.Prefix{cidr(1<<20 + 1)}) || len(a.remembered.PodCIDRs) != maxCachedCIDRs {
		t.Errorf("%d are kept, want %d", len(a.remembered.PodCIDRs), maxCachedCIDRs)
	}
	p := &pass{}
	a.Config.PodRanges = nil
	if a.podRanges(p); len(p.problems) != 2 || p.problems[0].Remedy == "" {
		t.Errorf("problems %v", p.problems)
	}
	path := filepath.Join(t.TempDir(), "view.json")
	if err := a.remembered.save(path); err != nil {
		t.Fatal(err)
	}
	large := a.remembered
	large.Document = make([]byte, maxCache*3/4) // in base64
	if err := large.save(path); err == nil {
		t.Error("a cache that is too large is written")
	}
	if info, err := os.Stat(path); err != nil || info.Size() >= maxCache {
		t.Errorf("it is %v, %v", info, err)
	}
}
