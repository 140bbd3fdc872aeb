package record_test

import (
	"bytes"
	"errors"
	"reflect"
	"slices"
	"testing"

	"github.com/weaveguard/weaveguard/keys"
	"github.com/weaveguard/weaveguard/mesh/record"
)

// letters are the kinds of messages of one node to another beside acknowledgements, each with a good one of this identity.
func letters(t testing.TB, id keys.Identity) map[string]sealed {
	return map[string]sealed{
		"request":     {signRequest(t, id, requests()["request"]), opener(record.OpenRequest)},
		"loss":        {signLoss(t, id, losses()["loss"]), opener(record.OpenLoss)},
		"row request": {signRowRequest(t, id, rowRequests()["row-request"]), opener(record.OpenRowRequest)},
		"row":         {signRow(t, id, rows()["row"]), opener(record.OpenRow)},
	}
}

// sealed is a letter, and what opens it: it reports whether nothing came out.
type sealed struct {
	raw  []byte
	open func(raw []byte, to string, toIdentity keys.PublicIdentity, of identityOf) (nothing bool, err error)
}

type identityOf = func(string) (keys.PublicIdentity, bool)

func opener[L any](open func([]byte, string, keys.PublicIdentity, identityOf) (L, error)) func([]byte, string,
	keys.PublicIdentity, identityOf) (bool, error) {
	return func(raw []byte, to string, toIdentity keys.PublicIdentity, of identityOf) (bool, error) {
		got, err := open(raw, to, toIdentity, of)
		var none L
		return reflect.DeepEqual(got, none), err
	}
}

func TestLettersAreForOneReceiverByTheirSender(t *testing.T) {
	id := identity(t)
	for kind, letter := range letters(t, id) {
		for what, tc := range map[string]struct {
			to       string
			identity keys.PublicIdentity
			of       identityOf
			want     error
		}{
			"good":                {name, receiver, knows(id.Public()), nil},
			"another node":        {"node-9", receiver, knows(id.Public()), record.ErrSignature},
			"another identity":    {name, keys.PublicIdentity{9}, knows(id.Public()), record.ErrSignature},
			"by somebody else":    {name, receiver, knows(keys.PublicIdentity{9}), record.ErrSignature},
			"by the zero":         {name, receiver, knows(keys.PublicIdentity{}), record.ErrSender},
			"an unknown sender":   {name, receiver, func(string) (keys.PublicIdentity, bool) { return keys.PublicIdentity{}, false }, record.ErrSender},
			"no identity to open": {name, keys.PublicIdentity{}, knows(id.Public()), record.ErrMalformed},
		} {
			nothing, err := letter.open(letter.raw, tc.to, tc.identity, tc.of)
			if !errors.Is(err, tc.want) || nothing == (tc.want == nil) {
				t.Errorf("a %s, %s: nothing came of it: %t, %v; want %v", kind, what, nothing, err, tc.want)
			}
		}
	}
}

func TestTamperingWithAnyBitOfALetter(t *testing.T) {
	id := identity(t)
	for kind, letter := range letters(t, id) {
		refused := func(what string, at int, raw []byte) {
			nothing, err := letter.open(raw, name, receiver, func(string) (keys.PublicIdentity, bool) { return id.Public(), true })
			if err == nil || !nothing || record.Reason(err) == "other" {
				t.Fatalf("a %s, %s %d: nothing came of it: %t, %v", kind, what, at, nothing, err)
			}
		}
		for bit := range len(letter.raw) * 8 {
			bad := bytes.Clone(letter.raw)
			bad[bit/8] ^= 1 << (bit % 8)
			refused("a bit flipped:", bit, bad)
		}
		for size := range letter.raw {
			refused("cut to a size:", size, letter.raw[:size])
		}
		refused("a byte behind:", 0, append(bytes.Clone(letter.raw), 0))
		for other, l := range letters(t, id) {
			if other != kind {
				refused("a "+other+":", 0, l.raw)
			}
		}
		refused("an acknowledgement:", 0, signAck(t, id, acks()["ack"]))
	}
}

// fuzzLetter opens any bytes as they are, and as a rightly signed payload: never a panic, and what is accepted can be said
// again in the same words.
func fuzzLetter[L any](f *testing.F, id keys.Identity, context string, begin []byte,
	open func([]byte, string, keys.PublicIdentity, identityOf) (L, error),
	sign func(L, string, keys.PublicIdentity, keys.Identity) ([]byte, error)) {
	var none L
	anybody := func(string) (keys.PublicIdentity, bool) { return id.Public(), true }
	f.Fuzz(func(t *testing.T, data []byte) {
		message := slices.Concat([]byte(context+"\x00"+name+"\x00"), receiver[:], data)
		for _, raw := range [][]byte{data, slices.Concat(begin, id.Sign(message), data)} {
			got, err := open(raw, name, receiver, anybody)
			if err != nil {
				if record.Reason(err) == "other" || !reflect.DeepEqual(got, none) {
					t.Errorf("refused for no reason, or with something: %+v, %v", got, err)
				}
				continue
			}
			signed, err := sign(got, name, receiver, id)
			if err != nil {
				t.Fatalf("what was opened can't be said: %v", err)
			}
			if again, err := open(signed, name, receiver, anybody); err != nil || !reflect.DeepEqual(again, got) {
				t.Errorf("said again: %+v, %v; want %+v", again, err, got)
			}
		}
	})
}
