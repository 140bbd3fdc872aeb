package record

import (
	"errors"
	"fmt"
	"unicode/utf8"

	"github.com/weaveguard/weaveguard/keys"
)

// AckKind is the first byte of a signed Ack, which tells it from other kinds of messages between agents, and
// AckVersion the second one. Behind them: 64 bytes of Ed25519 signature, then the payload.
const (
	AckKind    = 'a'
	AckVersion = 1
)

// MaxAckSize is the largest signed Ack in bytes. This version's have at most 374, with the longest name and the
// largest numbers; a later one's may have further fields.
const MaxAckSize = 448

var ackLetter = letter{
	name: "acknowledgement", article: "an", kind: AckKind, version: AckVersion, most: MaxAckSize, context: "weaveguard ack v1",
}

// Ack is a node's word to another about which of the other's WireGuard keys its traffic to it takes. It is for
// that node alone: its name and identity are signed with it, and aren't in it.
type Ack struct {
	From string // the node that says so
	// Sequence grows with what From has to say to that node, so that of two Acks the later is known, in whatever
	// order they come.
	Sequence   uint64
	Generation Generation // of the node that it is for
}

// Validate returns an error that names the first field that isn't valid.
func (a Ack) Validate() error {
	if err := validateName(a.From); err != nil {
		return fmt.Errorf("the sender: %w", err)
	}
	if !utf8.ValidString(a.From) {
		return errors.New("the sender's name isn't UTF-8, which text in CBOR must be")
	}
	return validateGenerations([]Generation{a.Generation})
}

func (a Ack) sender() string { return a.From }

// SignAck returns a as it goes over the wire to the node named to, at most MaxAckSize bytes. The signer is the
// identity of a.From.
func SignAck(a Ack, to string, toIdentity keys.PublicIdentity, signer keys.Identity) ([]byte, error) {
	return ackLetter.sign(a, encodeAck(a), to, toIdentity, signer)
}

// OpenAck decodes what SignAck made for the node named to with this identity, and verifies it with the identity
// that identityOf gives for the sender. An error is one of ErrKind, ErrSize, ErrVersion, ErrMalformed, ErrSender
// and ErrSignature, wrapped.
func OpenAck(raw []byte, to string, toIdentity keys.PublicIdentity,
	identityOf func(node string) (keys.PublicIdentity, bool)) (Ack, error) {
	return openLetter(ackLetter, raw, to, toIdentity, identityOf, decodeAck)
}

// wireAck is the signed payload, encoded and extended by the same rules as wire.
type wireAck struct {
	From     string `cbor:"1,keyasint"`
	Sequence uint64 `cbor:"2,keyasint"`
	Number   uint32 `cbor:"3,keyasint"`
	Key      []byte `cbor:"4,keyasint"`
}

func encodeAck(a Ack) wireAck {
	return wireAck{From: a.From, Sequence: a.Sequence, Number: a.Generation.Number, Key: a.Generation.Key[:]}
}

func decodeAck(payload []byte) (Ack, error) {
	var w wireAck
	if err := unmarshal(payload, &w); err != nil {
		return Ack{}, err
	}
	key, err := fixed[keys.PublicKey]("the generation's key", w.Key)
	if err != nil {
		return Ack{}, err
	}
	a := Ack{From: w.From, Sequence: w.Sequence, Generation: Generation{Number: w.Number, Key: key}}
	return a, a.Validate()
}
