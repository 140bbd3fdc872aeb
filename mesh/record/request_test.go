package record_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/weaveguard/weaveguard/keys"
	"github.com/weaveguard/weaveguard/mesh/record"
)

func requests() map[string]record.Request {
	long := strings.Repeat("n", 253)
	return map[string]record.Request{
		"request":         {From: sender, Sequence: sequence, Node: "node-3", Hash: sha256.Sum256([]byte("x"))},
		"request-largest": {From: long, Sequence: math.MaxUint64, Node: long, Hash: sha256.Sum256([]byte("y"))},
	}
}

func signRequest(t testing.TB, id keys.Identity, r record.Request) []byte {
	t.Helper()
	raw, err := record.SignRequest(r, name, receiver, id)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func TestRequestRoundTrip(t *testing.T) {
	id := identity(t)
	for variant, want := range requests() {
		raw := signRequest(t, id, want)
		got, err := record.OpenRequest(raw, name, receiver, func(string) (keys.PublicIdentity, bool) { return id.Public(), true })
		if err != nil || got != want {
			t.Errorf("%s: opened %+v, %v; want %+v", variant, got, err, want)
		}
		checkGolden(t, variant, raw)
	}
	if size := len(signRequest(t, id, requests()["request-largest"])); size != 624 {
		t.Errorf("the largest has %d bytes, and MaxRequestSize says 624", size)
	}
}

func TestRequestIsForOneReceiverByItsSender(t *testing.T) {
	id := identity(t)
	raw := signRequest(t, id, requests()["request"])
	for what, tc := range map[string]struct {
		to       string
		identity keys.PublicIdentity
		of       func(string) (keys.PublicIdentity, bool)
		want     error
	}{
		"another node":        {"node-9", receiver, knows(id.Public()), record.ErrSignature},
		"another identity":    {name, keys.PublicIdentity{9}, knows(id.Public()), record.ErrSignature},
		"by somebody else":    {name, receiver, knows(keys.PublicIdentity{9}), record.ErrSignature},
		"by the zero":         {name, receiver, knows(keys.PublicIdentity{}), record.ErrSender},
		"an unknown sender":   {name, receiver, func(string) (keys.PublicIdentity, bool) { return keys.PublicIdentity{}, false }, record.ErrSender},
		"no identity to open": {name, keys.PublicIdentity{}, knows(id.Public()), record.ErrMalformed},
	} {
		if r, err := record.OpenRequest(raw, tc.to, tc.identity, tc.of); !errors.Is(err, tc.want) || r != (record.Request{}) {
			t.Errorf("%s: opened %+v, %v; want %v", what, r, err, tc.want)
		}
	}
}

func TestTamperingWithAnyBitOfARequest(t *testing.T) {
	id := identity(t)
	raw := signRequest(t, id, requests()["request"])
	refused := func(what string, at int, raw []byte) {
		r, err := record.OpenRequest(raw, name, receiver, func(string) (keys.PublicIdentity, bool) { return id.Public(), true })
		if err == nil || r != (record.Request{}) || record.Reason(err) == "other" {
			t.Fatalf("%s %d: opened %+v, %v", what, at, r, err)
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
	refused("an acknowledgement:", 0, signAck(t, id, acks()["ack"]))
}

func TestSignRequestRefuses(t *testing.T) {
	id := identity(t)
	good := requests()["request"]
	for what, change := range map[string]func(*record.Request){
		"no sender":           func(r *record.Request) { r.From = "" },
		"no node":             func(r *record.Request) { r.Node = "" },
		"a name not in UTF-8": func(r *record.Request) { r.Node = "node\xff" },
		"no hash":             func(r *record.Request) { r.Hash = [sha256.Size]byte{} },
	} {
		r := good
		change(&r)
		if raw, err := record.SignRequest(r, name, receiver, id); err == nil || raw != nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v, want an error that names the node", what, err)
		}
	}
	if _, err := record.SignRequest(good, name, keys.PublicIdentity{}, id); err == nil {
		t.Error("signed for no identity")
	}
}

func FuzzOpenRequest(f *testing.F) {
	id := identity(f)
	anybody := func(string) (keys.PublicIdentity, bool) { return id.Public(), true }
	for _, r := range requests() {
		raw := signRequest(f, id, r)
		f.Add(raw)
		f.Add(raw[66:])
	}
	f.Add([]byte(nil))
	f.Add([]byte("r"))
	f.Fuzz(func(t *testing.T, data []byte) {
		message := slices.Concat([]byte("weaveguard request v1\x00"+name+"\x00"), receiver[:], data)
		for _, raw := range [][]byte{data, slices.Concat([]byte{'r', 1}, id.Sign(message), data)} {
			r, err := record.OpenRequest(raw, name, receiver, anybody)
			if err != nil {
				if record.Reason(err) == "other" || r != (record.Request{}) {
					t.Errorf("refused for no reason, or with something: %+v, %v", r, err)
				}
				continue
			}
			again, err := record.OpenRequest(signRequest(t, id, r), name, receiver, anybody)
			if err != nil || again != r {
				t.Errorf("said again: %+v, %v; want %+v", again, err, r)
			}
		}
	})
}
