package record

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/weaveguard/weaveguard/keys"
)

// Version is the first byte of a signed record. Behind it: 64 bytes of Ed25519 signature, then the payload.
const Version = 1

const headerSize = 1 + keys.SignatureSize

// recordContext keeps a signature over a record from being one over anything else.
const recordContext = "weaveguard record v1"

// maxName is the longest name of a node in bytes: a DNS subdomain, as Kubernetes names Nodes (RFC 1123).
const maxName = 253

// What a record, a document, an Ack, a Request, a Loss, a RowRequest or a Row is refused for. Reason names them for counters.
var (
	ErrSize      = errors.New("wrong size")
	ErrVersion   = errors.New("unknown version")
	ErrMalformed = errors.New("malformed")
	ErrSignature = errors.New("wrong signature")
	ErrKind      = errors.New("unknown kind")   // of what one node says to another alone
	ErrSender    = errors.New("unknown sender") // likewise
)

// Sign returns the record of node as it goes over the wire, at most MaxSize bytes. The node's name is signed
// with it, and isn't in it. The identity in the record must be the signer's.
func Sign(node string, r Record, signer keys.Identity) ([]byte, error) {
	if err := validateName(node); err != nil {
		return nil, fmt.Errorf("signing the record of node %q: %w", node, err)
	}
	if r.Identity != signer.Public() {
		return nil, fmt.Errorf("signing the record of node %q: it names another identity", node)
	}
	if err := r.Validate(); err != nil {
		return nil, fmt.Errorf("signing the record of node %q: %w", node, err)
	}
	payload, err := encode(r)
	if err != nil {
		return nil, fmt.Errorf("encoding the record of node %q: %w", node, err)
	}
	raw := append([]byte{Version}, signer.Sign(message(recordContext, node, payload))...)
	raw = append(raw, payload...)
	if len(raw) > MaxSize {
		return nil, fmt.Errorf("the record of node %q: %w: %d bytes, at most %d", node, ErrSize, len(raw), MaxSize)
	}
	return raw, nil
}

// Open decodes what Sign made for node, and verifies it with the identity inside. An error is one of ErrSize,
// ErrVersion, ErrMalformed and ErrSignature, wrapped.
func Open(node string, raw []byte) (Record, error) {
	if len(raw) <= headerSize || len(raw) > MaxSize {
		return Record{}, fmt.Errorf("record of node %q: %w: %d bytes, want %d to %d", node, ErrSize, len(raw),
			headerSize+1, MaxSize)
	}
	if raw[0] != Version {
		return Record{}, fmt.Errorf("record of node %q: %w %d: this agent knows version %d", node, ErrVersion,
			raw[0], Version)
	}
	if err := validateName(node); err != nil {
		return Record{}, fmt.Errorf("record of node %q: %w: %w", node, ErrMalformed, err)
	}
	signature, payload := raw[1:headerSize], raw[headerSize:]
	r, err := decode(payload)
	if err != nil {
		return Record{}, fmt.Errorf("record of node %q: %w: %w", node, ErrMalformed, err)
	}
	if !r.Identity.Verify(message(recordContext, node, payload), signature) {
		return Record{}, fmt.Errorf("record of node %q: %w: not by the identity that it names, for this name",
			node, ErrSignature)
	}
	return r, nil
}

// validateName refuses names that would make two meanings of one signed message, or that no node has.
func validateName(node string) error {
	if node == "" || len(node) > maxName || strings.ContainsRune(node, 0) {
		return fmt.Errorf("the node's name has %d bytes, want 1 to %d without NUL", len(node), maxName)
	}
	return nil
}

// message is what is signed: context and name, each ended by a byte that isn't in them, and the rest. Of the parts
// of the rest all but the last have a fixed length.
func message(context, node string, rest ...[]byte) []byte {
	return slices.Concat([]byte(context+"\x00"+node+"\x00"), slices.Concat(rest...))
}

// Reason is the refusal in err as one word for a counter: size, version, malformed, signature, kind, sender or
// other.
func Reason(err error) string {
	switch {
	case errors.Is(err, ErrSize):
		return "size"
	case errors.Is(err, ErrVersion):
		return "version"
	case errors.Is(err, ErrMalformed):
		return "malformed"
	case errors.Is(err, ErrSignature):
		return "signature"
	case errors.Is(err, ErrKind):
		return "kind"
	case errors.Is(err, ErrSender):
		return "sender"
	}
	return "other"
}
