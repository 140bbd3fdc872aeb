package record

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
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

// requestContext keeps a signature over a Request from being one over anything else.
const requestContext = "weaveguard request v1"

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

// SignRequest returns r as it goes over the wire to the node named to, at most MaxRequestSize bytes. The signer is the
// identity of r.From.
func SignRequest(r Request, to string, toIdentity keys.PublicIdentity, signer keys.Identity) ([]byte, error) {
	err := validateReceiver(to, toIdentity)
	if err == nil {
		err = r.Validate()
	}
	if err != nil {
		return nil, fmt.Errorf("signing a request to node %q: %w", to, err)
	}
	payload, err := marshal(wireRequest{From: r.From, Sequence: r.Sequence, Node: r.Node, Hash: r.Hash[:]})
	if err != nil {
		return nil, fmt.Errorf("encoding a request to node %q: %w", to, err)
	}
	signature := signer.Sign(message(requestContext, to, toIdentity[:], payload))
	raw := slices.Concat([]byte{RequestKind, RequestVersion}, signature, payload)
	if len(raw) > MaxRequestSize {
		return nil, fmt.Errorf("the request to node %q: %w: %d bytes, at most %d", to, ErrSize, len(raw), MaxRequestSize)
	}
	return raw, nil
}

// OpenRequest decodes what SignRequest made for the node named to with this identity, and verifies it with the identity
// that identityOf gives for the sender. An error is one of ErrKind, ErrSize, ErrVersion, ErrMalformed, ErrSender and
// ErrSignature, wrapped.
func OpenRequest(raw []byte, to string, toIdentity keys.PublicIdentity,
	identityOf func(node string) (keys.PublicIdentity, bool)) (Request, error) {
	r, err := openRequest(raw, to, toIdentity, identityOf)
	if err != nil {
		return Request{}, fmt.Errorf("request to node %q: %w", to, err)
	}
	return r, nil
}

func openRequest(raw []byte, to string, toIdentity keys.PublicIdentity,
	identityOf func(node string) (keys.PublicIdentity, bool)) (Request, error) {
	const header = 2 + keys.SignatureSize
	if len(raw) > 0 && raw[0] != RequestKind {
		return Request{}, fmt.Errorf("%w %d: a request has %d", ErrKind, raw[0], RequestKind)
	}
	if len(raw) <= header || len(raw) > MaxRequestSize {
		return Request{}, fmt.Errorf("%w: %d bytes, want %d to %d", ErrSize, len(raw), header+1, MaxRequestSize)
	}
	if raw[1] != RequestVersion {
		return Request{}, fmt.Errorf("%w %d: this agent knows version %d", ErrVersion, raw[1], RequestVersion)
	}
	if err := validateReceiver(to, toIdentity); err != nil {
		return Request{}, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	signature, payload := raw[2:header], raw[header:]
	r, err := decodeRequest(payload)
	if err != nil {
		return Request{}, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	sender, known := identityOf(r.From)
	if !known || sender.IsZero() {
		return Request{}, fmt.Errorf("%w: %q", ErrSender, r.From)
	}
	if !sender.Verify(message(requestContext, to, toIdentity[:], payload), signature) {
		return Request{}, fmt.Errorf("%w: not by the identity of node %q, for this node and identity", ErrSignature, r.From)
	}
	return r, nil
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
	if err := r.Validate(); err != nil {
		return Request{}, err
	}
	return r, nil
}
