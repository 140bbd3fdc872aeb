package record_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"flag"
	"math"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/fxamacker/cbor/v2"

	"github.com/weaveguard/weaveguard/keys"
	"github.com/weaveguard/weaveguard/mesh/record"
)

var update = flag.Bool("update", false, "write the golden files anew: the format of a version must never change")

const name = "node-1"

// identity has a fixed seed, so that signatures, which are deterministic (RFC 8032), are the same each time.
func identity(t testing.TB) keys.Identity {
	t.Helper()
	dir := t.TempDir()
	file := `{"version":1,"identity":"AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA=",` +
		`"generations":[{"number":0,"privateKey":"IB8eHRwbGhkYFxYVFBMSERAPDg0MCwoJCAcGBQQDAgE="}]}`
	if err := os.WriteFile(filepath.Join(dir, keys.FileName), []byte(file), 0o600); err != nil {
		t.Fatal(err)
	}
	store, err := keys.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	return store.Identity()
}

func publicKey(b byte) keys.PublicKey {
	return keys.PublicKey(bytes.Repeat([]byte{b}, 32))
}

// sequence is as big as clocks make it, and so is its encoding.
const sequence = 1_763_700_065_536

// smallest is what a node on IPv4 that has never rotated says.
func smallest(id keys.Identity) record.Record {
	return record.Record{
		Identity:    id.Public(),
		Sequence:    sequence,
		Generations: []record.Generation{{Number: 0, Key: publicKey(0xaa)}},
		Endpoint4:   netip.MustParseAddrPort("192.0.2.1:51820"),
		PodCIDR4:    netip.MustParsePrefix("10.32.5.0/24"),
		MTU:         1500,
	}
}

// largest has all fields, the numbers as big as they get.
func largest(id keys.Identity) record.Record {
	return record.Record{
		Identity: id.Public(),
		Sequence: math.MaxUint64,
		Generations: []record.Generation{
			{Number: math.MaxUint32 - 1, Key: publicKey(0xaa)},
			{Number: math.MaxUint32, Key: publicKey(0xbb)},
		},
		Endpoint4:       netip.MustParseAddrPort("192.0.2.1:65532"),
		Endpoint6:       netip.MustParseAddrPort("[2001:db8::1]:51820"),
		PodCIDR4:        netip.MustParsePrefix("10.32.5.7/32"),
		PodCIDR6:        netip.MustParsePrefix("fd00:5::/64"),
		MTU:             math.MaxUint16,
		DocumentVersion: math.MaxUint64,
		DocumentHash:    sha256.Sum256([]byte("document")),
	}
}

func variants(id keys.Identity) map[string]record.Record {
	withDocument := smallest(id)
	withDocument.DocumentVersion, withDocument.DocumentHash = 7, sha256.Sum256([]byte("document"))
	dual := smallest(id)
	dual.Endpoint6 = netip.MustParseAddrPort("[2001:db8::1]:51820")
	dual.PodCIDR6 = netip.MustParsePrefix("fd00:5::/64")
	rotating := dual
	rotating.Generations = []record.Generation{{Number: 4, Key: publicKey(0xaa)}, {Number: 5, Key: publicKey(0xbb)}}
	rotating.DocumentVersion, rotating.DocumentHash = 7, sha256.Sum256([]byte("document"))
	bare := record.Record{Identity: id.Public(), Generations: []record.Generation{{Number: 0, Key: publicKey(1)}}}
	return map[string]record.Record{
		"bare": bare, "v4": smallest(id), "v4-document": withDocument, "dual": dual, "dual-rotating": rotating,
		"largest": largest(id),
	}
}

func sign(t testing.TB, id keys.Identity, r record.Record) []byte {
	t.Helper()
	raw, err := record.Sign(name, r, id)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func TestRoundTrip(t *testing.T) {
	id := identity(t)
	for variant, want := range variants(id) {
		raw := sign(t, id, want)
		got, err := record.Open(name, raw)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: opened %+v, %v; want %+v", variant, got, err, want)
		}
		if !got.Equal(want) {
			t.Errorf("%s: isn't equal to itself", variant)
		}
	}
}

func TestSizes(t *testing.T) {
	id := identity(t)
	for variant, want := range map[string]int{
		"bare": 141, "v4": 168, "v4-document": 205, "dual": 207, "dual-rotating": 280, "largest": 296,
	} {
		if got := len(sign(t, id, variants(id)[variant])); got != want || got > record.MaxSize {
			t.Errorf("%s: %d bytes, want %d", variant, got, want)
		}
	}
}

// Agents of all later versions must read what this one writes.
func TestGolden(t *testing.T) {
	id := identity(t)
	for variant, r := range variants(id) {
		checkGolden(t, variant, sign(t, id, r))
	}
}

// checkGolden compares raw with the golden file of this name.
func checkGolden(t *testing.T, file string, raw []byte) {
	t.Helper()
	path := filepath.Join("testdata", file+".hex")
	got := []byte(hex.EncodeToString(raw) + "\n")
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s: the format has changed\n got %s\nwant %s", file, got, want)
	}
}

// The signature is over the context, the node's name and the payload, and by plain Ed25519.
func TestSignatureIsOverNameAndContext(t *testing.T) {
	id := identity(t)
	raw := sign(t, id, smallest(id))
	public := id.Public()
	message := slices.Concat([]byte("weaveguard record v1\x00"+name+"\x00"), raw[65:])
	if !ed25519.Verify(public[:], message, raw[1:65]) {
		t.Error("the signature isn't over what the format says")
	}
	for _, other := range []string{"node-2", "node-", "node-1 ", "NODE-1"} {
		if _, err := record.Open(other, raw); !errors.Is(err, record.ErrSignature) {
			t.Errorf("as a record of %q: %v, want ErrSignature", other, err)
		}
	}
}

func TestTamperingWithAnyBit(t *testing.T) {
	id := identity(t)
	for variant, r := range variants(id) {
		raw := sign(t, id, r)
		for bit := range len(raw) * 8 {
			bad := bytes.Clone(raw)
			bad[bit/8] ^= 1 << (bit % 8)
			got, err := record.Open(name, bad)
			if err == nil || !reflect.DeepEqual(got, record.Record{}) {
				t.Fatalf("%s with bit %d flipped: %+v, %v", variant, bit, got, err)
			}
			if reason := record.Reason(err); reason == "other" {
				t.Fatalf("%s with bit %d flipped: no reason in %v", variant, bit, err)
			}
		}
		for size := range raw {
			if _, err := record.Open(name, raw[:size]); err == nil {
				t.Fatalf("%s cut to %d bytes is opened", variant, size)
			}
		}
		if _, err := record.Open(name, append(bytes.Clone(raw), 0)); err == nil {
			t.Fatalf("%s with a byte behind is opened", variant)
		}
	}
}

// signed is a record as a hostile owner of an identity could make it: any payload, rightly signed.
func signed(t testing.TB, id keys.Identity, node string, payload any) []byte {
	t.Helper()
	raw, ok := payload.([]byte)
	if !ok {
		var err error
		if raw, err = cbor.Marshal(payload); err != nil {
			t.Fatal(err)
		}
	}
	message := slices.Concat([]byte("weaveguard record v1\x00"+node+"\x00"), raw)
	return slices.Concat([]byte{record.Version}, id.Sign(message), raw)
}

// fields is a good payload, to be spoilt.
func fields(id keys.Identity) map[any]any {
	public := id.Public()
	key := publicKey(0xaa)
	return map[any]any{1: public[:], 2: 5, 3: []any{[]any{0, key[:]}}}
}

func TestOpenRefuses(t *testing.T) {
	id := identity(t)
	with := func(key, value any) map[any]any {
		f := fields(id)
		f[key] = value
		return f
	}
	generation := func(number any, key byte) []any { return []any{number, bytes.Repeat([]byte{key}, 32)} }
	public := id.Public()
	good := sign(t, id, smallest(id))
	other := slices.Clone(good)
	other[0] = 2
	tests := map[string]struct {
		raw  []byte
		want error
	}{
		"nothing":               {nil, record.ErrSize},
		"no payload":            {good[:65], record.ErrSize},
		"too much":              {slices.Concat(good, make([]byte, 512)), record.ErrSize},
		"another version":       {other, record.ErrVersion},
		"no CBOR":               {signed(t, id, name, []byte{0xff, 0xff}), record.ErrMalformed},
		"no map":                {signed(t, id, name, []any{1, 2}), record.ErrMalformed},
		"an empty map":          {signed(t, id, name, map[int]any{}), record.ErrMalformed},
		"a key twice":           {signed(t, id, name, append([]byte{0xa2, 0x02, 0x05}, 0x02, 0x06)), record.ErrMalformed},
		"an open map":           {signed(t, id, name, []byte{0xbf, 0x02, 0x05, 0xff}), record.ErrMalformed},
		"a tag":                 {signed(t, id, name, with(2, cbor.Tag{Number: 2, Content: []byte{5}})), record.ErrMalformed},
		"something behind":      {signed(t, id, name, append(mustMarshal(t, fields(id)), 0)), record.ErrMalformed},
		"text for bytes":        {signed(t, id, name, with(1, strings.Repeat("a", 32))), record.ErrMalformed},
		"a negative sequence":   {signed(t, id, name, with(2, -1)), record.ErrMalformed},
		"no identity":           {signed(t, id, name, with(1, nil)), record.ErrMalformed},
		"a short identity":      {signed(t, id, name, with(1, public[:31])), record.ErrMalformed},
		"another's identity":    {signed(t, id, name, with(1, bytes.Repeat([]byte{9}, 32))), record.ErrSignature},
		"no generations":        {signed(t, id, name, with(3, []any{})), record.ErrMalformed},
		"three generations":     {signed(t, id, name, with(3, []any{generation(0, 1), generation(1, 2), generation(2, 3)})), record.ErrMalformed},
		"many generations":      {signed(t, id, name, with(3, make([]any, 100))), record.ErrMalformed},
		"a generation too big":  {signed(t, id, name, with(3, []any{generation(uint64(1)<<32, 1)})), record.ErrMalformed},
		"a short key":           {signed(t, id, name, with(3, []any{[]any{0, make([]byte, 31)}})), record.ErrMalformed},
		"a zero key":            {signed(t, id, name, with(3, []any{generation(0, 0)})), record.ErrMalformed},
		"an endpoint of 1 byte": {signed(t, id, name, with(4, []byte{1})), record.ErrMalformed},
		"an endpoint of 5":      {signed(t, id, name, with(4, []byte{1, 2, 3, 4, 5})), record.ErrMalformed},
		"IPv6 as IPv4":          {signed(t, id, name, with(4, make([]byte, 18))), record.ErrMalformed},
		"a prefix of 1 byte":    {signed(t, id, name, with(6, []byte{24})), record.ErrMalformed},
		"a prefix too long":     {signed(t, id, name, with(6, []byte{10, 0, 0, 0, 33})), record.ErrMalformed},
		"host bits in a prefix": {signed(t, id, name, with(6, []byte{10, 0, 0, 1, 24})), record.ErrMalformed},
		"an MTU too big":        {signed(t, id, name, with(8, 65536)), record.ErrMalformed},
		"a short hash":          {signed(t, id, name, with(10, make([]byte, 31))), record.ErrMalformed},
		"nested too deep":       {signed(t, id, name, with(99, []any{[]any{[]any{[]any{1}}}})), record.ErrMalformed},
	}
	for what, tt := range tests {
		t.Run(what, func(t *testing.T) {
			r, err := record.Open(name, tt.raw)
			if !errors.Is(err, tt.want) || !reflect.DeepEqual(r, record.Record{}) {
				t.Errorf("opened %+v, %v; want %v", r, err, tt.want)
			}
			if err != nil && !strings.Contains(err.Error(), name) {
				t.Errorf("error %q doesn't name the node", err)
			}
		})
	}
	if _, err := record.Open(name, signed(t, id, name, fields(id))); err != nil {
		t.Errorf("what the cases above spoil isn't good itself: %v", err)
	}
}

func mustMarshal(t testing.TB, v any) []byte {
	t.Helper()
	raw, err := cbor.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// A later version may add fields.
func TestUnknownFieldsArePassedOver(t *testing.T) {
	id := identity(t)
	f := fields(id)
	f[100], f[101], f["text"] = "more", []any{1, 2}, map[any]any{1: 2}
	r, err := record.Open(name, signed(t, id, name, f))
	if err != nil || r.Sequence != 5 {
		t.Errorf("opened %+v, %v", r, err)
	}
}

func TestValidate(t *testing.T) {
	id := identity(t)
	addrPort, prefix := netip.MustParseAddrPort, netip.MustParsePrefix
	tests := map[string]struct {
		change func(*record.Record)
		want   string
	}{
		"no identity":       {func(r *record.Record) { r.Identity = keys.PublicIdentity{} }, "identity"},
		"no generation":     {func(r *record.Record) { r.Generations = nil }, "0 generations"},
		"three generations": {func(r *record.Record) { r.Generations = make([]record.Generation, 3) }, "3 generations"},
		"no key":            {func(r *record.Record) { r.Generations[0].Key = keys.PublicKey{} }, "generation 0"},
		"a gap": {func(r *record.Record) {
			r.Generations = []record.Generation{{Number: 1, Key: publicKey(1)}, {Number: 3, Key: publicKey(2)}}
		}, "generation 3 follows generation 1"},
		"wrapping around": {func(r *record.Record) {
			r.Generations = []record.Generation{{Number: math.MaxUint32, Key: publicKey(1)}, {Number: 0, Key: publicKey(2)}}
		}, "generation 0 follows"},
		"the same key twice": {func(r *record.Record) {
			r.Generations = []record.Generation{{Number: 1, Key: publicKey(1)}, {Number: 2, Key: publicKey(1)}}
		}, "the same key"},
		"IPv6 as endpoint4":    {func(r *record.Record) { r.Endpoint4 = addrPort("[2001:db8::1]:51820") }, "endpoint4"},
		"IPv4 as endpoint6":    {func(r *record.Record) { r.Endpoint6 = addrPort("192.0.2.1:51820") }, "endpoint6"},
		"mapped as endpoint4":  {func(r *record.Record) { r.Endpoint4 = addrPort("[::ffff:192.0.2.1]:51820") }, "endpoint4"},
		"mapped as endpoint6":  {func(r *record.Record) { r.Endpoint6 = addrPort("[::ffff:192.0.2.1]:51820") }, "endpoint6"},
		"a zone":               {func(r *record.Record) { r.Endpoint6 = addrPort("[fe80::1%eth0]:51820") }, "endpoint6"},
		"a link-local address": {func(r *record.Record) { r.Endpoint6 = addrPort("[fe80::1]:51820") }, "endpoint6"},
		"any address":          {func(r *record.Record) { r.Endpoint4 = addrPort("0.0.0.0:51820") }, "endpoint4"},
		"loopback":             {func(r *record.Record) { r.Endpoint4 = addrPort("127.0.0.1:51820") }, "endpoint4"},
		"multicast":            {func(r *record.Record) { r.Endpoint4 = addrPort("224.0.0.1:51820") }, "endpoint4"},
		"broadcast":            {func(r *record.Record) { r.Endpoint4 = addrPort("255.255.255.255:51820") }, "endpoint4"},
		"no port":              {func(r *record.Record) { r.Endpoint4 = addrPort("192.0.2.1:0") }, "port 0"},
		"no room for 4 ports":  {func(r *record.Record) { r.Endpoint4 = addrPort("192.0.2.1:65533") }, "port 65533"},
		"IPv6 as podCIDR4":     {func(r *record.Record) { r.PodCIDR4 = prefix("fd00::/64") }, "podCIDR4"},
		"IPv4 as podCIDR6":     {func(r *record.Record) { r.PodCIDR6 = prefix("10.0.0.0/8") }, "podCIDR6"},
		"host bits":            {func(r *record.Record) { r.PodCIDR4 = prefix("10.0.0.1/24") }, "podCIDR4"},
		"all of IPv4":          {func(r *record.Record) { r.PodCIDR4 = prefix("0.0.0.0/0") }, "podCIDR4"},
		"half of IPv4":         {func(r *record.Record) { r.PodCIDR4 = prefix("0.0.0.0/1") }, "podCIDR4"},
		"loopback pods":        {func(r *record.Record) { r.PodCIDR4 = prefix("127.1.0.0/16") }, "podCIDR4"},
		"multicast pods":       {func(r *record.Record) { r.PodCIDR6 = prefix("ff00::/8") }, "podCIDR6"},
		"link-local pods":      {func(r *record.Record) { r.PodCIDR4 = prefix("169.254.0.0/16") }, "podCIDR4"},
		"a small MTU":          {func(r *record.Record) { r.MTU = 575 }, "mtu is 575"},
		"a document's hash":    {func(r *record.Record) { r.DocumentHash[0] = 1 }, "document"},
		"a document's version": {func(r *record.Record) { r.DocumentVersion = 1 }, "document"},
	}
	for what, tt := range tests {
		t.Run(what, func(t *testing.T) {
			r := smallest(id)
			tt.change(&r)
			err := r.Validate()
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want one with %q", err, tt.want)
			}
			if raw, err := record.Sign(name, r, id); err == nil {
				t.Errorf("signed: %x", raw)
			}
		})
	}
}

func TestSignRefuses(t *testing.T) {
	id := identity(t)
	store, err := keys.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	if _, err := record.Sign(name, smallest(id), store.Identity()); err == nil {
		t.Error("a record is signed by another identity than it names")
	}
	for _, bad := range []string{"", "a\x00b", strings.Repeat("n", 254)} {
		if _, err := record.Sign(bad, smallest(id), id); err == nil {
			t.Errorf("signed for the name %q", bad)
		}
		if _, err := record.Open(bad, signed(t, id, bad, fields(id))); !errors.Is(err, record.ErrMalformed) {
			t.Errorf("opened for the name %q: %v", bad, err)
		}
	}
}

func TestEqual(t *testing.T) {
	id := identity(t)
	all := variants(id)
	for a, x := range all {
		for b, y := range all {
			if x.Equal(y) != (a == b) {
				t.Errorf("%s equals %s: %t", a, b, x.Equal(y))
			}
		}
	}
}

func TestReason(t *testing.T) {
	for err, want := range map[error]string{
		record.ErrSize: "size", record.ErrVersion: "version", record.ErrMalformed: "malformed",
		record.ErrSignature: "signature", record.ErrKind: "kind", record.ErrSender: "sender", errors.New("x"): "other", nil: "other",
	} {
		if got := record.Reason(err); got != want {
			t.Errorf("Reason(%v) = %s, want %s", err, got, want)
		}
	}
}

// FuzzOpen opens any bytes as they are, and as a rightly signed payload: never a panic, and what is accepted is
// valid and can be said again in the same words.
func FuzzOpen(f *testing.F) {
	id := identity(f)
	for _, r := range variants(id) {
		raw := sign(f, id, r)
		f.Add(raw)
		f.Add(raw[65:])
	}
	f.Add([]byte(nil))
	f.Add([]byte{0xbf, 0xff})
	f.Add([]byte{0x9b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, raw := range [][]byte{data, signed(t, id, name, data)} {
			r, err := record.Open(name, raw)
			if err != nil {
				if record.Reason(err) == "other" {
					t.Errorf("no reason in %v", err)
				}
				if !reflect.DeepEqual(r, record.Record{}) {
					t.Errorf("refused, and %+v", r)
				}
				continue
			}
			if err := r.Validate(); err != nil {
				t.Errorf("an invalid record is opened: %v", err)
			}
			again, err := record.Open(name, sign(t, id, r))
			if err != nil || !reflect.DeepEqual(again, r) {
				t.Errorf("said again: %+v, %v; want %+v", again, err, r)
			}
		}
	})
}
