package record

import (
	"errors"
	"fmt"
	"slices"

	"github.com/weaveguard/weaveguard/keys"
)

// letter is a kind of signed message of one node to another. It is for that node alone: its name and identity are signed
// with it, and aren't in it.
type letter struct {
	name, article string // in words for errors
	kind, version byte   // the first bytes of each
	most          int    // its largest size in bytes
	// context keeps a signature over a letter of this kind from being one over anything else.
	context string
}

// letterHeader is what is before a letter's payload, in bytes.
const letterHeader = 2 + keys.SignatureSize

// words are what a letter says.
type words interface {
	Validate() error
	sender() string
}

// sign returns w, which is encoded as wire, as it goes to the node named to. The signer is the identity of its sender.
func (l letter) sign(w words, wire any, to string, toIdentity keys.PublicIdentity, signer keys.Identity) ([]byte, error) {
	err := validateReceiver(to, toIdentity)
	if err == nil {
		err = w.Validate()
	}
	if err != nil {
		return nil, fmt.Errorf("signing %s %s to node %q: %w", l.article, l.name, to, err)
	}
	payload, err := marshal(wire)
	if err != nil {
		return nil, fmt.Errorf("encoding %s %s to node %q: %w", l.article, l.name, to, err)
	}
	raw := slices.Concat([]byte{l.kind, l.version}, signer.Sign(l.message(to, toIdentity, payload)), payload)
	if len(raw) > l.most {
		return nil, fmt.Errorf("the %s to node %q: %w: %d bytes, at most %d", l.name, to, ErrSize, len(raw), l.most)
	}
	return raw, nil
}

// message is what is signed. The identity has a fixed length, so it is clear where the payload begins.
func (l letter) message(to string, identity keys.PublicIdentity, payload []byte) []byte {
	return message(l.context, to, identity[:], payload)
}

// openLetter decodes what sign made for the node named to with this identity, and verifies it with the identity that
// identityOf gives for the sender. An error is one of ErrKind, ErrSize, ErrVersion, ErrMalformed, ErrSender and
// ErrSignature, wrapped.
func openLetter[W words](l letter, raw []byte, to string, toIdentity keys.PublicIdentity,
	identityOf func(node string) (keys.PublicIdentity, bool), decode func(payload []byte) (W, error)) (W, error) {
	var none W
	w, err := none, l.check(raw, to, toIdentity)
	if err == nil {
		if w, err = decode(raw[letterHeader:]); err != nil {
			err = fmt.Errorf("%w: %w", ErrMalformed, err)
		}
	}
	if err == nil {
		err = l.verify(raw, w.sender(), to, toIdentity, identityOf)
	}
	if err != nil {
		return none, fmt.Errorf("%s to node %q: %w", l.name, to, err)
	}
	return w, nil
}

// check looks at what can be told without decoding.
func (l letter) check(raw []byte, to string, toIdentity keys.PublicIdentity) error {
	if len(raw) > 0 && raw[0] != l.kind { // before the size: other kinds have others
		return fmt.Errorf("%w %d: %s %s has %d", ErrKind, raw[0], l.article, l.name, l.kind)
	}
	if len(raw) <= letterHeader || len(raw) > l.most {
		return fmt.Errorf("%w: %d bytes, want %d to %d", ErrSize, len(raw), letterHeader+1, l.most)
	}
	if raw[1] != l.version {
		return fmt.Errorf("%w %d: this agent knows version %d", ErrVersion, raw[1], l.version)
	}
	if err := validateReceiver(to, toIdentity); err != nil {
		return fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return nil
}

// verify looks whether the sender has signed it.
func (l letter) verify(raw []byte, from, to string, toIdentity keys.PublicIdentity,
	identityOf func(node string) (keys.PublicIdentity, bool)) error {
	sender, known := identityOf(from)
	if !known || sender.IsZero() { // anybody can sign for the zero identity: it is a point of small order
		return fmt.Errorf("%w: %q", ErrSender, from)
	}
	if !sender.Verify(l.message(to, toIdentity, raw[letterHeader:]), raw[2:letterHeader]) {
		return fmt.Errorf("%w: not by the identity of node %q, for this node and identity", ErrSignature, from)
	}
	return nil
}

// validateReceiver refuses a receiver that no node is, and so one that a letter could be for by mistake.
func validateReceiver(to string, identity keys.PublicIdentity) error {
	if identity.IsZero() {
		return errors.New("the receiver's identity is missing")
	}
	return validateName(to)
}
