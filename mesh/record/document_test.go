package record_test

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/weaveguard/weaveguard/keys"
	"github.com/weaveguard/weaveguard/mesh/record"
)

// network is a network of these ranges and of these parts of them, as text with spaces between.
func network(name, ranges, cidrs string) record.Network {
	n := record.Network{Name: name}
	for _, text := range strings.Fields(ranges) {
		n.Ranges = append(n.Ranges, netip.MustParsePrefix(text))
	}
	for _, text := range strings.Fields(cidrs) {
		n.CIDRs = append(n.CIDRs, netip.MustParsePrefix(text))
	}
	return n
}

// documents are the largest, and what goes with it.
func documents() map[string]record.Document {
	largest := record.Document{Version: math.MaxUint64}
	for i := range record.MaxNetworks {
		name := fmt.Sprintf("%02d%s", i, strings.Repeat("n", record.MaxNetworkName-2))
		largest.Networks = append(largest.Networks, network(name, fmt.Sprintf("10.%d.0.0/16 fd00:%d::/32", i, i+1),
			fmt.Sprintf("10.%d.1.0/24 fd00:%d:1::/64", i, i+1)))
	}
	return map[string]record.Document{
		"document-empty": {Version: 1},
		"document-v4":    {Version: 7, Networks: []record.Network{network("blue", "10.50.0.0/16", "10.50.1.0/24")}},
		"document-v6":    {Version: 8, Networks: []record.Network{network("blue", "fd50::/48", "fd50:0:0:1::/64")}},
		"document-dual": {Version: sequence, Networks: []record.Network{
			network("blue", "10.50.0.0/16 fd50::/48", "10.50.1.0/24 fd50:0:0:1::/64"), network("red", "10.60.0.0/16", "10.60.1.0/24"),
		}},
		"document-roster": {Version: 9, Omitted: 3, Networks: []record.Network{network("blue", "10.50.0.0/16", "10.50.1.0/24")}, Roster: []record.Attachment{
			pod("", "3f1c", "eth0", "", "fd00:32::7"), pod("shop", "web-0", "eth0", "", "10.32.1.5 fd00:32::5"), pod("shop", "web-0", "net1", "blue", "10.50.1.9"),
		}},
		"document-largest": largest,
	}
}

func signDocument(t testing.TB, id keys.Identity, d record.Document) []byte {
	t.Helper()
	raw, err := record.SignDocument(name, d, id)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func TestDocumentRoundTrip(t *testing.T) {
	id := identity(t)
	for variant, want := range documents() {
		raw := signDocument(t, id, want)
		got, err := record.OpenDocument(name, raw, id.Public())
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: opened %+v, %v; want %+v", variant, got, err, want)
		}
		if len(raw) > 3<<10 {
			t.Errorf("%s has %d bytes, and MaxDocumentSize says less than 3 KiB", variant, len(raw))
		}
		checkGolden(t, variant, raw)
	}
}

func TestDocumentIsOfOneNodeAndIdentity(t *testing.T) {
	id := identity(t)
	raw := signDocument(t, id, documents()["document-dual"])
	for what, open := range map[string]func() (record.Document, error){
		"another node":      func() (record.Document, error) { return record.OpenDocument("node-2", raw, id.Public()) },
		"another identity":  func() (record.Document, error) { return record.OpenDocument(name, raw, keys.PublicIdentity{1}) },
		"the zero identity": func() (record.Document, error) { return record.OpenDocument(name, raw, keys.PublicIdentity{}) },
	} {
		if d, err := open(); !errors.Is(err, record.ErrSignature) || !reflect.DeepEqual(d, record.Document{}) {
			t.Errorf("%s: opened %+v, %v; want ErrSignature", what, d, err)
		}
	}
	// Nor is it a record's signature, or an acknowledgement's.
	r := sign(t, id, smallest(id))
	if _, err := record.OpenDocument(name, r, id.Public()); !errors.Is(err, record.ErrSignature) {
		t.Errorf("a record is opened as a document: %v", err)
	}
}

func TestTamperingWithAnyBitOfADocument(t *testing.T) {
	id := identity(t)
	raw := signDocument(t, id, documents()["document-dual"])
	refused := func(what string, at int, raw []byte) {
		d, err := record.OpenDocument(name, raw, id.Public())
		if err == nil || !reflect.DeepEqual(d, record.Document{}) || record.Reason(err) == "other" {
			t.Fatalf("%s %d: opened %+v, %v", what, at, d, err)
		}
	}
	for bit := range len(raw) * 8 {
		bad := bytes.Clone(raw)
		bad[bit/8] ^= 1 << (bit % 8)
		refused("a bit flipped:", bit, bad)
	}
	for size := range raw {
		refused("cut to a size:", size, raw[:size])
	}
	refused("a byte behind:", 0, append(bytes.Clone(raw), 0))
}

// signedDocument is a document as a hostile owner of an identity could make it: any payload, rightly signed.
func signedDocument(t testing.TB, id keys.Identity, payload any) []byte {
	t.Helper()
	raw, ok := payload.([]byte)
	if !ok {
		raw = mustMarshal(t, payload)
	}
	message := slices.Concat([]byte("weaveguard document v1\x00"+name+"\x00"), raw)
	return slices.Concat([]byte{1}, id.Sign(message), raw)
}

func TestOpenDocumentRefuses(t *testing.T) {
	id := identity(t)
	good := signDocument(t, id, documents()["document-v4"])
	net := func(pairs ...any) map[any]any {
		f := map[any]any{1: "blue", 2: []byte{10, 50, 0, 0, 16}, 4: []byte{10, 50, 1, 0, 24}}
		for i := 0; i < len(pairs); i += 2 {
			f[pairs[i]] = pairs[i+1]
			if pairs[i+1] == nil {
				delete(f, pairs[i])
			}
		}
		return f
	}
	with := func(networks ...any) []byte { return signedDocument(t, id, map[any]any{1: 5, 2: networks}) }
	many := make([]any, record.MaxNetworks+1)
	for i := range many {
		many[i] = net(1, fmt.Sprintf("n%02d", i))
	}
	tests := map[string]struct {
		raw  []byte
		want error
	}{
		"nothing":                   {nil, record.ErrSize},
		"no payload":                {good[:65], record.ErrSize},
		"too much":                  {make([]byte, record.MaxDocumentSize+1), record.ErrSize},
		"another version":           {append([]byte{2}, good[1:]...), record.ErrVersion},
		"no CBOR":                   {signedDocument(t, id, []byte{0xff, 0xff}), record.ErrMalformed},
		"no map":                    {signedDocument(t, id, []any{1, 2}), record.ErrMalformed},
		"version 0":                 {signedDocument(t, id, map[any]any{1: 0}), record.ErrMalformed},
		"no version":                {signedDocument(t, id, map[any]any{2: []any{net()}}), record.ErrMalformed},
		"something behind":          {signedDocument(t, id, append(mustMarshal(t, map[any]any{1: 5}), 0)), record.ErrMalformed},
		"a key twice":               {signedDocument(t, id, []byte{0xa2, 0x01, 0x05, 0x01, 0x06}), record.ErrMalformed},
		"a claim of many":           {signedDocument(t, id, []byte{0xa2, 0x01, 0x05, 0x02, 0x9b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}), record.ErrMalformed},
		"a network too many":        {with(many...), record.ErrMalformed},
		"a network twice":           {with(net(), net()), record.ErrMalformed},
		"not sorted":                {with(net(1, "red"), net(1, "blue")), record.ErrMalformed},
		"no name":                   {with(net(1, nil)), record.ErrMalformed},
		"a name with a slash":       {with(net(1, "blue/red")), record.ErrMalformed},
		"a name with a dot first":   {with(net(1, ".blue")), record.ErrMalformed},
		"a name that is long":       {with(net(1, strings.Repeat("n", 64))), record.ErrMalformed},
		"no range":                  {with(net(2, nil)), record.ErrMalformed},
		"no subnet":                 {with(net(4, nil)), record.ErrMalformed},
		"bits behind the length":    {with(net(2, []byte{10, 50, 0, 1, 16})), record.ErrMalformed},
		"an impossible length":      {with(net(2, []byte{10, 50, 0, 0, 33})), record.ErrMalformed},
		"all addresses":             {with(net(2, []byte{0, 0, 0, 0, 0})), record.ErrMalformed},
		"IPv6 in IPv4's place":      {with(net(2, append(make([]byte, 16), 64))), record.ErrMalformed},
		"IPv4 in IPv6's place":      {with(net(3, []byte{10, 50, 0, 0, 16})), record.ErrMalformed},
		"a mapped IPv4 address":     {with(net(3, []byte{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, 0, 104})), record.ErrMalformed},
		"multicast":                 {with(net(2, []byte{224, 0, 0, 0, 8}, 4, []byte{224, 1, 0, 0, 16})), record.ErrMalformed},
		"link-local in it":          {with(net(2, []byte{169, 0, 0, 0, 8}, 4, []byte{169, 1, 0, 0, 16})), record.ErrMalformed},
		"loopback in it":            {with(net(2, []byte{64, 0, 0, 0, 2}, 4, []byte{64, 1, 0, 0, 16})), record.ErrMalformed},
		"a subnet outside":          {with(net(4, []byte{10, 51, 1, 0, 24})), record.ErrMalformed},
		"a subnet wider":            {with(net(4, []byte{10, 0, 0, 0, 8})), record.ErrMalformed},
		"a subnet of no such range": {with(net(5, append([]byte{0xfd, 0x50}, append(make([]byte, 14), 64)...))), record.ErrMalformed},
	}
	for what, tt := range tests {
		t.Run(what, func(t *testing.T) {
			d, err := record.OpenDocument(name, tt.raw, id.Public())
			if !errors.Is(err, tt.want) || !reflect.DeepEqual(d, record.Document{}) {
				t.Errorf("opened %+v, %v; want %v", d, err, tt.want)
			}
			if err != nil && !strings.Contains(err.Error(), name) {
				t.Errorf("error %q doesn't name the node", err)
			}
		})
	}
	if _, err := record.OpenDocument(name, with(net()), id.Public()); err != nil {
		t.Errorf("what the cases above spoil isn't good itself: %v", err)
	}
}

// A later version may add fields, also long ones.
func TestUnknownFieldsOfADocumentArePassedOver(t *testing.T) {
	id := identity(t)
	long := make([]any, 2000)
	for i := range long {
		long[i] = map[any]any{1: "pod", 2: []any{[]byte{10, 50, 1, 2}}}
	}
	raw := signedDocument(t, id, map[any]any{1: 5, 2: []any{map[any]any{1: "blue", 2: []byte{10, 50, 0, 0, 16}, 4: []byte{10, 50, 1, 0, 24}, 9: "more"}},
		50: long, "text": map[any]any{1: 2}})
	d, err := record.OpenDocument(name, raw, id.Public())
	if err != nil || d.Version != 5 || len(d.Networks) != 1 {
		t.Errorf("opened %+v, %v", d, err)
	}
}

func TestSignDocumentRefuses(t *testing.T) {
	id := identity(t)
	for what, tc := range map[string]struct {
		node string
		d    record.Document
		want string
	}{
		"no node":    {"", record.Document{Version: 1}, "name has 0 bytes"},
		"no version": {name, record.Document{}, "version is 0"},
		"a network that isn't one": {name, record.Document{Version: 1, Networks: []record.Network{network("blue", "10.50.0.0/16", "10.51.0.0/24")}},
			"none of the ranges"},
		"IPv6 first": {name, record.Document{Version: 1, Networks: []record.Network{network("blue", "fd50::/48 10.50.0.0/16", "10.50.0.0/24")}},
			"IPv4 first"},
		"three ranges": {name, record.Document{Version: 1, Networks: []record.Network{network("blue", "10.50.0.0/16 10.51.0.0/16 fd50::/48", "10.50.0.0/24")}},
			"3 prefixes"},
	} {
		if raw, err := record.SignDocument(tc.node, tc.d, id); err == nil || raw != nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want an error with %q", what, err, tc.want)
		}
	}
}

func FuzzOpenDocument(f *testing.F) {
	id := identity(f)
	for _, d := range documents() {
		raw := signDocument(f, id, d)
		f.Add(raw)
		f.Add(raw[65:])
	}
	f.Add([]byte(nil))
	f.Add([]byte{0xbf, 0xff})
	f.Add([]byte{0xa2, 0x01, 0x05, 0x02, 0x9b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, raw := range [][]byte{data, signedDocument(t, id, data)} {
			d, err := record.OpenDocument(name, raw, id.Public())
			if err != nil {
				if record.Reason(err) == "other" || !reflect.DeepEqual(d, record.Document{}) {
					t.Errorf("refused for no reason, or with something: %+v, %v", d, err)
				}
				continue
			}
			if err := d.Validate(); err != nil {
				t.Errorf("an invalid document is opened: %v", err)
			}
			again, err := record.OpenDocument(name, signDocument(t, id, d), id.Public())
			if err != nil || !reflect.DeepEqual(again, d) {
				t.Errorf("said again: %+v, %v; want %+v", again, err, d)
			}
		}
	})
}
