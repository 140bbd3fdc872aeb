package record

import (
	"errors"

	"github.com/weaveguard/weaveguard/keys"
)

// LossKind is the first byte of a signed Loss, and LossVersion the second one. Behind them: 64 bytes of Ed25519 signature,
// then the payload.
const (
	LossKind    = 'l'
	LossVersion = 1
)

// MaxLossSize is the largest signed Loss in bytes. This version's have at most 413, with the longest name and the largest
// numbers; a later one's may have further fields.
const MaxLossSize = 512

var lossLetter = letter{
	name: "loss", article: "a", kind: LossKind, version: LossVersion, most: MaxLossSize, context: "weaveguard loss v1",
}

// Loss is a node's word to another that it has no session with it on one of their links, or the other's question whether that
// is still so: a word may be on its way for long, and there may be a session since. It is for that node alone: its name and
// identity are signed with it, and aren't in it.
type Loss struct {
	From     string // the node that says so
	Sequence uint64 // grows with what From has to say to that node, so that a replay is known
	// Own is From's WireGuard key, and Peer the other node's: they are the link.
	Own, Peer keys.PublicKey
	// Asks: it is the question.
	Asks bool
	// Answers is the Sequence of the question that this is the answer to; 0: nobody asked.
	Answers uint64
}

// Validate returns an error that names the first field that isn't valid.
func (l Loss) Validate() error {
	if err := validateSender(l.From); err != nil {
		return err
	}
	switch {
	case l.Own == (keys.PublicKey{}):
		return errors.New("the sender's key is missing")
	case l.Peer == (keys.PublicKey{}):
		return errors.New("the receiver's key is missing")
	case l.Own == l.Peer:
		return errors.New("the two keys are the same")
	case l.Asks && l.Answers != 0:
		return errors.New("it is a question and an answer at once")
	}
	return nil
}

func (l Loss) sender() string { return l.From }

// SignLoss returns l as it goes over the wire to the node named to, at most MaxLossSize bytes. The signer is the identity of
// l.From.
func SignLoss(l Loss, to string, toIdentity keys.PublicIdentity, signer keys.Identity) ([]byte, error) {
	wire := wireLoss{From: l.From, Sequence: l.Sequence, Own: l.Own[:], Peer: l.Peer[:], Asks: l.Asks, Answers: l.Answers}
	return lossLetter.sign(l, wire, to, toIdentity, signer)
}

// OpenLoss decodes what SignLoss made for the node named to with this identity, and verifies it with the identity that
// identityOf gives for the sender. An error is one of ErrKind, ErrSize, ErrVersion, ErrMalformed, ErrSender and ErrSignature,
// wrapped.
func OpenLoss(raw []byte, to string, toIdentity keys.PublicIdentity,
	identityOf func(node string) (keys.PublicIdentity, bool)) (Loss, error) {
	return openLetter(lossLetter, raw, to, toIdentity, identityOf, decodeLoss)
}

// wireLoss is the signed payload, encoded and extended by the same rules as wire.
type wireLoss struct {
	From     string `cbor:"1,keyasint"`
	Sequence uint64 `cbor:"2,keyasint"`
	Own      []byte `cbor:"3,keyasint"`
	Peer     []byte `cbor:"4,keyasint"`
	Asks     bool   `cbor:"5,keyasint,omitempty"`
	Answers  uint64 `cbor:"6,keyasint,omitempty"`
}

func decodeLoss(payload []byte) (Loss, error) {
	var w wireLoss
	if err := unmarshal(payload, &w); err != nil {
		return Loss{}, err
	}
	own, err := fixed[keys.PublicKey]("the sender's key", w.Own)
	if err != nil {
		return Loss{}, err
	}
	peer, err := fixed[keys.PublicKey]("the receiver's key", w.Peer)
	if err != nil {
		return Loss{}, err
	}
	l := Loss{From: w.From, Sequence: w.Sequence, Own: own, Peer: peer, Asks: w.Asks, Answers: w.Answers}
	return l, l.Validate()
}
