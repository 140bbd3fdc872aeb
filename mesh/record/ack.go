package record

import (
	"errors"
	"fmt"
	"slices"
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

const ackHeaderSize = 2 + keys.SignatureSize

// ackContext keeps a signature over an Ack from being one over anything else.
const ackContext = "weaveguard ack v1"

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

// SignAck returns a as it goes over the wire to the node named to, at most MaxAckSize bytes. The signer is the
// identity of a.From.
func SignAck(a Ack, to string, toIdentity keys.PublicIdentity, signer keys.Identity) ([]byte, error) {
	err := validateReceiver(to, toIdentity)
	if err == nil {
		err = a.Validate()
	}
	if err != nil {
		return nil, fmt.Errorf("signing an acknowledgement to node %q: %w", to, err)
	}
	payload, err := encodeAck(a)
	if err != nil {
		return nil, fmt.Errorf("encoding an acknowledgement to node %q: %w", to, err)
	}
	signature := signer.Sign(ackMessage(to, toIdentity, payload))
	raw := slices.Concat([]byte{AckKind, AckVersion}, signature, payload)
	if len(raw) > MaxAckSize {
		return nil, fmt.Errorf("the acknowledgement to node %q: %w: %d bytes, at most %d", to, ErrSize, len(raw),
			MaxAckSize)
	}
	return raw, nil
}

// OpenAck decodes what SignAck made for the node named to with this identity, and verifies it with the identity
// that identityOf gives for the sender. An error is one of ErrKind, ErrSize, ErrVersion, ErrMalformed, ErrSender
// and ErrSignature, wrapped.
func OpenAck(raw []byte, to string, toIdentity keys.PublicIdentity,
	identityOf func(node string) (keys.PublicIdentity, bool)) (Ack, error) {
	a, err := openAck(raw, to, toIdentity, identityOf)
	if err != nil {
		return Ack{}, fmt.Errorf("acknowledgement to node %q: %w", to, err)
	}
	return a, nil
}

func openAck(raw []byte, to string, toIdentity keys.PublicIdentity,
	identityOf func(node string) (keys.PublicIdentity, bool)) (Ack, error) {
	if len(raw) > 0 && raw[0] != AckKind { // before the size: other kinds have others
		return Ack{}, fmt.Errorf("%w %d: an acknowledgement has %d", ErrKind, raw[0], AckKind)
	}
	if len(raw) <= ackHeaderSize || len(raw) > MaxAckSize {
		return Ack{}, fmt.Errorf("%w: %d bytes, want %d to %d", ErrSize, len(raw), ackHeaderSize+1, MaxAckSize)
	}
	if raw[1] != AckVersion {
		return Ack{}, fmt.Errorf("%w %d: this agent knows version %d", ErrVersion, raw[1], AckVersion)
	}
	if err := validateReceiver(to, toIdentity); err != nil {
		return Ack{}, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	signature, payload := raw[2:ackHeaderSize], raw[ackHeaderSize:]
	a, err := decodeAck(payload)
	if err != nil {
		return Ack{}, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	sender, known := identityOf(a.From)
	if !known || sender.IsZero() { // anybody can sign for the zero identity: it is a point of small order
		return Ack{}, fmt.Errorf("%w: %q", ErrSender, a.From)
	}
	if !sender.Verify(ackMessage(to, toIdentity, payload), signature) {
		return Ack{}, fmt.Errorf("%w: not by the identity of node %q, for this node and identity", ErrSignature, a.From)
	}
	return a, nil
}

// validateReceiver refuses a receiver that no node is, and so one that an Ack could be for by mistake.
func validateReceiver(to string, identity keys.PublicIdentity) error {
	if identity.IsZero() {
		return errors.New("the receiver's identity is missing")
	}
	return validateName(to)
}

// ackMessage is what is signed. The identity has a fixed length, so it is clear where the payload begins.
func ackMessage(to string, identity keys.PublicIdentity, payload []byte) []byte {
	return message(ackContext, to, identity[:], payload)
}

// wireAck is the signed payload, encoded and extended by the same rules as wire.
type wireAck struct {
	From     string `cbor:"1,keyasint"`
	Sequence uint64 `cbor:"2,keyasint"`
	Number   uint32 `cbor:"3,keyasint"`
	Key      []byte `cbor:"4,keyasint"`
}

func encodeAck(a Ack) ([]byte, error) {
	return marshal(wireAck{From: a.From, Sequence: a.Sequence, Number: a.Generation.Number, Key: a.Generation.Key[:]})
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
