package record_test

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/weaveguard/weaveguard/keys"
	"github.com/weaveguard/weaveguard/mesh/record"
)

// sender acknowledges to the node name, whose identity is receiver.
const sender = "node-2"

var receiver = keys.PublicIdentity(bytes.Repeat([]byte{0x77}, 32))

func acks() map[string]record.Ack {
	longest := strings.Repeat("n", 253)
	return map[string]record.Ack{
		"ack-first": {From: sender, Generation: record.Generation{Number: 0, Key: publicKey(0xaa)}},
		"ack":       {From: sender, Sequence: sequence, Generation: record.Generation{Number: 5, Key: publicKey(0xbb)}},
		"ack-largest": {From: longest, Sequence: math.MaxUint64,
			Generation: record.Generation{Number: math.MaxUint32, Key: publicKey(0xff)}},
	}
}

func signAck(t testing.TB, id keys.Identity, a record.Ack) []byte {
	t.Helper()
	raw, err := record.SignAck(a, name, receiver, id)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// knows is an identityOf that has one identity, for the senders of acks.
func knows(public keys.PublicIdentity) func(string) (keys.PublicIdentity, bool) {
	return func(node string) (keys.PublicIdentity, bool) {
		for _, a := range acks() {
			if node == a.From {
				return public, true
			}
		}
		return keys.PublicIdentity{}, false
	}
}

func TestAckRoundTrip(t *testing.T) {
	id := identity(t)
	for variant, want := range acks() {
		got, err := record.OpenAck(signAck(t, id, want), name, receiver, knows(id.Public()))
		if err != nil || got != want {
			t.Errorf("%s: opened %+v, %v; want %+v", variant, got, err, want)
		}
	}
}

func TestAckSizes(t *testing.T) {
	id := identity(t)
	for variant, want := range map[string]int{"ack-first": 114, "ack": 122, "ack-largest": 374} {
		if got := len(signAck(t, id, acks()[variant])); got != want || got > record.MaxAckSize {
			t.Errorf("%s: %d bytes, want %d", variant, got, want)
		}
	}
}

func TestAckGolden(t *testing.T) {
	id := identity(t)
	for variant, a := range acks() {
		checkGolden(t, variant, signAck(t, id, a))
	}
}

// The signature is over the context, the receiver's name and identity and the payload, and by plain Ed25519. So an
// Ack is good for no other node, nor for one of the same name after its disk was wiped.
func TestAckIsForOneReceiver(t *testing.T) {
	id := identity(t)
	raw := signAck(t, id, acks()["ack"])
	public := id.Public()
	message := slices.Concat([]byte("weaveguard ack v1\x00"+name+"\x00"), receiver[:], raw[66:])
	if !ed25519.Verify(public[:], message, raw[2:66]) {
		t.Error("the signature isn't over what the format says")
	}
	for _, other := range []string{"node-3", sender, "node-", "node-1 ", "NODE-1", name + "\x77"} {
		if _, err := record.OpenAck(raw, other, receiver, knows(public)); !errors.Is(err, record.ErrSignature) {
			t.Errorf("for node %q: %v, want ErrSignature", other, err)
		}
	}
	later := receiver
	later[31]++
	if _, err := record.OpenAck(raw, name, later, knows(public)); !errors.Is(err, record.ErrSignature) {
		t.Errorf("for a later identity: %v, want ErrSignature", err)
	}
}

// Only the identity that the receiver has for the sender can speak for it.
func TestAckIsByItsSender(t *testing.T) {
	id := identity(t)
	raw := signAck(t, id, acks()["ack"])
	if _, err := record.OpenAck(raw, name, receiver, knows(receiver)); !errors.Is(err, record.ErrSignature) {
		t.Errorf("by another identity: %v, want ErrSignature", err)
	}
	asked := ""
	stranger := func(node string) (keys.PublicIdentity, bool) {
		asked = node
		return id.Public(), false
	}
	if _, err := record.OpenAck(raw, name, receiver, stranger); !errors.Is(err, record.ErrSender) {
		t.Errorf("by a stranger: %v, want ErrSender", err)
	}
	if asked != sender {
		t.Errorf("asked for the identity of %q, want %q", asked, sender)
	}
	zero := knows(keys.PublicIdentity{})
	if _, err := record.OpenAck(raw, name, receiver, zero); !errors.Is(err, record.ErrSender) {
		t.Errorf("by the zero identity: %v, want ErrSender", err)
	}
}

func TestTamperingWithAnyBitOfAnAck(t *testing.T) {
	id := identity(t)
	anybody := func(string) (keys.PublicIdentity, bool) { return id.Public(), true }
	refused := func(what string, at int, raw []byte) {
		a, err := record.OpenAck(raw, name, receiver, anybody)
		if err == nil || a != (record.Ack{}) || record.Reason(err) == "other" {
			t.Fatalf("%s %d: opened %+v, %v", what, at, a, err)
		}
	}
	for variant, a := range acks() {
		raw := signAck(t, id, a)
		for bit := range len(raw) * 8 {
			bad := bytes.Clone(raw)
			bad[bit/8] ^= 1 << (bit % 8)
			refused(variant+" with a bit flipped:", bit, bad)
		}
		for size := range raw {
			refused(variant+" cut to a size:", size, raw[:size])
		}
		refused(variant+" with a byte behind:", 0, append(bytes.Clone(raw), 0))
	}
}

// signedAck is an Ack as a hostile owner of an identity could make it: any payload, rightly signed.
func signedAck(t testing.TB, id keys.Identity, payload any) []byte {
	t.Helper()
	raw, ok := payload.([]byte)
	if !ok {
		raw = mustMarshal(t, payload)
	}
	message := slices.Concat([]byte("weaveguard ack v1\x00"+name+"\x00"), receiver[:], raw)
	return slices.Concat([]byte{'a', 1}, id.Sign(message), raw)
}

// ackFields is a good payload, with some fields in place of its own.
func ackFields(pairs ...any) map[any]any {
	key := publicKey(0xaa)
	f := map[any]any{1: sender, 2: 5, 3: 1, 4: key[:]}
	for i := 0; i < len(pairs); i += 2 {
		f[pairs[i]] = pairs[i+1]
	}
	return f
}

func TestOpenAckRefuses(t *testing.T) {
	id := identity(t)
	public := id.Public()
	good := signAck(t, id, acks()["ack"])
	begin := func(kind, version byte) []byte { return append([]byte{kind, version}, good[2:]...) }
	with := func(pairs ...any) []byte { return signedAck(t, id, ackFields(pairs...)) }
	foreign := func(context string, identity []byte) []byte {
		message := slices.Concat([]byte(context+"\x00"+name+"\x00"), identity, good[66:])
		return slices.Concat([]byte{'a', 1}, id.Sign(message), good[66:])
	}
	without := ackFields()
	delete(without, 1)
	tests := map[string]struct {
		raw  []byte
		want error
	}{
		"nothing":               {nil, record.ErrSize},
		"a kind alone":          {good[:1], record.ErrSize},
		"no payload":            {good[:66], record.ErrSize},
		"too much":              {slices.Concat(good, make([]byte, record.MaxAckSize)), record.ErrSize},
		"another kind":          {begin('b', 1), record.ErrKind},
		"a small other kind":    {[]byte{'b'}, record.ErrKind},
		"a large other kind":    {append([]byte{'b'}, make([]byte, 1000)...), record.ErrKind},
		"a record":              {sign(t, id, smallest(id)), record.ErrKind},
		"another version":       {begin('a', 2), record.ErrVersion},
		"no CBOR":               {signedAck(t, id, []byte{0xff, 0xff}), record.ErrMalformed},
		"no map":                {signedAck(t, id, []any{sender, 2}), record.ErrMalformed},
		"an empty map":          {signedAck(t, id, map[int]any{}), record.ErrMalformed},
		"a key twice":           {signedAck(t, id, []byte{0xa2, 0x02, 0x05, 0x02, 0x06}), record.ErrMalformed},
		"something behind":      {signedAck(t, id, append(mustMarshal(t, ackFields()), 0)), record.ErrMalformed},
		"no sender":             {signedAck(t, id, without), record.ErrMalformed},
		"bytes for a name":      {with(1, []byte(sender)), record.ErrMalformed},
		"an empty name":         {with(1, ""), record.ErrMalformed},
		"a NUL in the name":     {with(1, "node\x00"), record.ErrMalformed},
		"a long name":           {with(1, strings.Repeat("n", 254)), record.ErrMalformed},
		"a name not in UTF-8":   {with(1, "node\xff"), record.ErrMalformed},
		"a negative sequence":   {with(2, -1), record.ErrMalformed},
		"a generation too big":  {with(3, uint64(1)<<32), record.ErrMalformed},
		"no key":                {with(4, nil), record.ErrMalformed},
		"a short key":           {with(4, make([]byte, 31)), record.ErrMalformed},
		"a zero key":            {with(4, make([]byte, 32)), record.ErrMalformed},
		"an unknown sender":     {with(1, "node-3"), record.ErrSender},
		"a record's signature":  {foreign("weaveguard record v1", receiver[:]), record.ErrSignature},
		"signed for no one":     {foreign("weaveguard ack v1", nil), record.ErrSignature},
		"signed for the sender": {foreign("weaveguard ack v1", public[:]), record.ErrSignature},
	}
	for what, tt := range tests {
		t.Run(what, func(t *testing.T) {
			a, err := record.OpenAck(tt.raw, name, receiver, knows(id.Public()))
			if !errors.Is(err, tt.want) || a != (record.Ack{}) {
				t.Errorf("opened %+v, %v; want %v", a, err, tt.want)
			}
			if err != nil && !strings.Contains(err.Error(), name) {
				t.Errorf("error %q doesn't name the node", err)
			}
		})
	}
	if _, err := record.OpenAck(with(), name, receiver, knows(id.Public())); err != nil {
		t.Errorf("what the cases above spoil isn't good itself: %v", err)
	}
}

// A later version may add fields.
func TestUnknownFieldsOfAnAckArePassedOver(t *testing.T) {
	id := identity(t)
	raw := signedAck(t, id, ackFields(100, "more", 101, []any{1, 2}, "text", map[any]any{1: 2}))
	a, err := record.OpenAck(raw, name, receiver, knows(id.Public()))
	if err != nil || a.From != sender || a.Sequence != 5 {
		t.Errorf("opened %+v, %v", a, err)
	}
}

func TestSignAckRefuses(t *testing.T) {
	id := identity(t)
	tests := map[string]struct {
		change   func(*record.Ack)
		to       string
		identity keys.PublicIdentity
		want     string
	}{
		"no sender":            {func(a *record.Ack) { a.From = "" }, name, receiver, "sender"},
		"a NUL in the sender":  {func(a *record.Ack) { a.From = "a\x00b" }, name, receiver, "sender"},
		"a long sender":        {func(a *record.Ack) { a.From = strings.Repeat("n", 254) }, name, receiver, "254 bytes"},
		"not UTF-8":            {func(a *record.Ack) { a.From = "\xff" }, name, receiver, "UTF-8"},
		"no key":               {func(a *record.Ack) { a.Generation.Key = keys.PublicKey{} }, name, receiver, "generation 5"},
		"no receiver":          {func(*record.Ack) {}, "", receiver, "0 bytes"},
		"a NUL in the name":    {func(*record.Ack) {}, "a\x00b", receiver, "NUL"},
		"a long name":          {func(*record.Ack) {}, strings.Repeat("n", 254), receiver, "254 bytes"},
		"no receiver identity": {func(*record.Ack) {}, name, keys.PublicIdentity{}, "identity"},
	}
	for what, tt := range tests {
		t.Run(what, func(t *testing.T) {
			a := acks()["ack"]
			tt.change(&a)
			raw, err := record.SignAck(a, tt.to, tt.identity, id)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("signed %x, error %v, want one with %q", raw, err, tt.want)
			}
		})
	}
	raw := signAck(t, id, acks()["ack"])
	for _, bad := range []string{"", "a\x00b", strings.Repeat("n", 254)} {
		if _, err := record.OpenAck(raw, bad, receiver, knows(id.Public())); !errors.Is(err, record.ErrMalformed) {
			t.Errorf("opened for the name %q: %v", bad, err)
		}
	}
	if _, err := record.OpenAck(raw, name, keys.PublicIdentity{}, knows(id.Public())); !errors.Is(err, record.ErrMalformed) {
		t.Errorf("opened for the zero identity: %v", err)
	}
}

// FuzzOpenAck opens any bytes as they are, and as a rightly signed payload: never a panic, and what is accepted is
// valid and can be said again in the same words.
func FuzzOpenAck(f *testing.F) {
	id := identity(f)
	anybody := func(string) (keys.PublicIdentity, bool) { return id.Public(), true }
	for _, a := range acks() {
		raw := signAck(f, id, a)
		f.Add(raw)
		f.Add(raw[66:])
	}
	f.Add([]byte(nil))
	f.Add([]byte("a"))
	f.Add([]byte{0xbf, 0xff})
	f.Add(mustMarshal(f, ackFields(1, "node\xff")))
	f.Add(mustMarshal(f, ackFields(100, []any{1, 2})))
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, raw := range [][]byte{data, signedAck(t, id, data)} {
			a, err := record.OpenAck(raw, name, receiver, anybody)
			if err != nil {
				if record.Reason(err) == "other" {
					t.Errorf("no reason in %v", err)
				}
				if a != (record.Ack{}) {
					t.Errorf("refused, and %+v", a)
				}
				continue
			}
			if err := a.Validate(); err != nil {
				t.Errorf("an invalid Ack is opened: %v", err)
			}
			again, err := record.OpenAck(signAck(t, id, a), name, receiver, anybody)
			if err != nil || again != a {
				t.Errorf("said again: %+v, %v; want %+v", again, err, a)
			}
		}
	})
}
