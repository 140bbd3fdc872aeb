package record_test

import (
	"math"
	"strings"
	"testing"

	"github.com/weaveguard/weaveguard/keys"
	"github.com/weaveguard/weaveguard/mesh/record"
)

func losses() map[string]record.Loss {
	return map[string]record.Loss{
		"loss":          {From: sender, Sequence: sequence, Own: publicKey(0xaa), Peer: publicKey(0xbb)},
		"loss-question": {From: sender, Sequence: sequence, Own: publicKey(0xaa), Peer: publicKey(0xbb), Asks: true},
		"loss-largest": {From: strings.Repeat("n", 253), Sequence: math.MaxUint64, Own: publicKey(0xff), Peer: publicKey(0xfe),
			Answers: math.MaxUint64},
	}
}

func signLoss(t testing.TB, id keys.Identity, l record.Loss) []byte {
	t.Helper()
	raw, err := record.SignLoss(l, name, receiver, id)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func TestLossRoundTrip(t *testing.T) {
	id := identity(t)
	for variant, want := range losses() {
		raw := signLoss(t, id, want)
		got, err := record.OpenLoss(raw, name, receiver, knows(id.Public()))
		if err != nil || got != want {
			t.Errorf("%s: opened %+v, %v; want %+v", variant, got, err, want)
		}
		checkGolden(t, variant, raw)
	}
	if size := len(signLoss(t, id, losses()["loss-largest"])); size != 413 {
		t.Errorf("the largest has %d bytes, and MaxLossSize says 413", size)
	}
}

func TestSignLossRefuses(t *testing.T) {
	id := identity(t)
	good := losses()["loss"]
	for what, change := range map[string]func(*record.Loss){
		"no sender":           func(l *record.Loss) { l.From = "" },
		"a name not in UTF-8": func(l *record.Loss) { l.From = "node\xff" },
		"no own key":          func(l *record.Loss) { l.Own = keys.PublicKey{} },
		"no key of the peer":  func(l *record.Loss) { l.Peer = keys.PublicKey{} },
		"one key":             func(l *record.Loss) { l.Peer = l.Own },
		"a question's answer": func(l *record.Loss) { l.Asks, l.Answers = true, 5 },
	} {
		l := good
		change(&l)
		if raw, err := record.SignLoss(l, name, receiver, id); err == nil || raw != nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v, want an error that names the node", what, err)
		}
	}
}

func FuzzOpenLoss(f *testing.F) {
	id := identity(f)
	for _, l := range losses() {
		raw := signLoss(f, id, l)
		f.Add(raw)
		f.Add(raw[66:])
	}
	f.Add([]byte(nil))
	f.Add([]byte("l"))
	fuzzLetter(f, id, "weaveguard loss v1", []byte{'l', 1}, record.OpenLoss, record.SignLoss)
}
