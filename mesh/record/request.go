package record

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"unicode/utf8"

	"github.com/weaveguard/weaveguard/keys"
)

// RequestKind is the first byte of a signed Request, and DocumentKind that of what answers it: a signed document behind the
// kind, and nothing else, as the document's hash says whose it is. RequestVersion is the second byte of a Request. Behind
// it: 64 bytes of Ed25519 signature, then the payload.
const (
	RequestKind    = 'r'
	DocumentKind   = 'd'
	RequestVersion = 1
)

// MaxRequestSize is the largest signed Request in bytes. This version's have at most 624, with the longest names and the
// largest numbers; a later one's may have further fields.
const MaxRequestSize = 768

var requestLetter = letter{
	name: "request", article: "a", kind: RequestKind, version: RequestVersion, most: MaxRequestSize, context: "weaveguard request v1",
}

// Request is a node's wish for a document, its receiver's or any other node's. It is for the receiver alone: its name and
// identity are signed with it, and aren't in it.
type Request struct {
	From     string // the node that wants it
	Sequence uint64 // grows with what From has to say to that node, so that a replay is known
	Node     string // whose document it is
	Hash     [sha256.Size]byte
}

// Validate returns an error that names the first field that isn't valid.
func (r Request) Validate() error {
	for _, field := range []struct{ what, name string }{{"the sender", r.From}, {"the document's node", r.Node}} {
		if err := validateName(field.name); err != nil {
			return fmt.Errorf("%s: %w", field.what, err)
		}
		if !utf8.ValidString(field.name) {
			return fmt.Errorf("%s: the name isn't UTF-8, which text in CBOR must be", field.what)
		}
	}
	if r.Hash == ([sha256.Size]byte{}) {
		return errors.New("the document's hash is missing")
	}
	return nil
}

func (r Request) sender() string { return r.From }

// SignRequest returns r as it goes over the wire to the node named to, at most MaxRequestSize bytes. The signer is the
// identity of r.From.
func SignRequest(r Request, to string, toIdentity keys.PublicIdentity, signer keys.Identity) ([]byte, error) {
	wire := wireRequest{From: r.From, Sequence: r.Sequence, Node: r.Node, Hash: r.Hash[:]}
	return requestLetter.sign(r, wire, to, toIdentity, signer)
}

// OpenRequest decodes what SignRequest made for the node named to with this identity, and verifies it with the identity
// that identityOf gives for the sender. An error is one of ErrKind, ErrSize, ErrVersion, ErrMalformed, ErrSender and
// ErrSignature, wrapped.
func OpenRequest(raw []byte, to string, toIdentity keys.PublicIdentity,
	identityOf func(node string) (keys.PublicIdentity, bool)) (Request, error) {
	return openLetter(requestLetter, raw, to, toIdentity, identityOf, decodeRequest)
}

// wireRequest is the signed payload, encoded and extended by the same rules as wire.
type wireRequest struct {
	From     string `cbor:"1,keyasint"`
	Sequence uint64 `cbor:"2,keyasint"`
	Node     string `cbor:"3,keyasint"`
	Hash     []byte `cbor:"4,keyasint"`
}

func decodeRequest(payload []byte) (Request, error) {
	var w wireRequest
	if err := unmarshal(payload, &w); err != nil {
		return Request{}, err
	}
	hash, err := fixed[[sha256.Size]byte]("the document's hash", w.Hash)
	if err != nil {
		return Request{}, err
	}
	r := Request{From: w.From, Sequence: w.Sequence, Node: w.Node, Hash: hash}
	return r, r.Validate()
}
