package record_test

import (
	"crypto/sha256"
	"math"
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
	for _, r := range requests() {
		raw := signRequest(f, id, r)
		f.Add(raw)
		f.Add(raw[66:])
	}
	f.Add([]byte(nil))
	f.Add([]byte("r"))
	fuzzLetter(f, id, "weaveguard request v1", []byte{'r', 1}, record.OpenRequest, record.SignRequest)
}
