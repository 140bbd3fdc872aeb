package keys

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"fmt"
)

// SignatureSize is the length in bytes of an Ed25519 signature (RFC 8032, section 5.1.6).
const SignatureSize = ed25519.SignatureSize

// Identity is a node's long-lived Ed25519 key pair (RFC 8032). It signs what the node says about itself; it is
// not a WireGuard key. Its zero value can't sign. It prints as its public half.
type Identity struct {
	private ed25519.PrivateKey
}

// PublicIdentity is the public half of an Identity: 32 bytes, in text standard base64 with padding.
type PublicIdentity [ed25519.PublicKeySize]byte

func newIdentity() (Identity, error) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return Identity{}, fmt.Errorf("making an identity: %w", err)
	}
	return Identity{private: private}, nil
}

func identityFromSeed(seed []byte) (Identity, error) {
	if len(seed) != ed25519.SeedSize {
		return Identity{}, fmt.Errorf("the identity has %d bytes, want %d", len(seed), ed25519.SeedSize)
	}
	return Identity{private: ed25519.NewKeyFromSeed(seed)}, nil
}

// Public returns the half that others know this node by.
func (i Identity) Public() PublicIdentity {
	var public PublicIdentity
	if len(i.private) == ed25519.PrivateKeySize {
		copy(public[:], i.private[ed25519.SeedSize:])
	}
	return public
}

// Sign signs message. It panics on a zero Identity, which no constructor returns.
func (i Identity) Sign(message []byte) []byte {
	return ed25519.Sign(i.private, message)
}

// String returns the public half, so that an identity in a log line gives nothing away.
func (i Identity) String() string { return i.Public().String() }

// GoString does for %#v what String does for %v.
func (i Identity) GoString() string { return "keys.Identity(" + i.String() + ")" }

// Verify reports whether signature is p's over message.
func (p PublicIdentity) Verify(message, signature []byte) bool {
	return len(signature) == SignatureSize && ed25519.Verify(p[:], message, signature)
}

// IsZero reports whether p is unset.
func (p PublicIdentity) IsZero() bool { return p == PublicIdentity{} }

// String is the base64 form, as in the Node annotation weaveguard.io/identity.
func (p PublicIdentity) String() string { return base64.StdEncoding.EncodeToString(p[:]) }

// MarshalText gives the base64 form.
func (p PublicIdentity) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText reads the base64 form.
func (p *PublicIdentity) UnmarshalText(text []byte) error {
	return decodeKey("an identity", text, p[:])
}

// ParsePublicIdentity reads the base64 form.
func ParsePublicIdentity(text string) (PublicIdentity, error) {
	var public PublicIdentity
	err := public.UnmarshalText([]byte(text))
	return public, err
}

// decodeKey reads exactly len(into) bytes of standard base64. The text isn't in the error: it may be a secret.
func decodeKey(what string, text, into []byte) error {
	raw, err := base64.StdEncoding.Strict().DecodeString(string(text))
	if err != nil {
		return fmt.Errorf("%s must be %d bytes in standard base64: %w", what, len(into), err)
	}
	if len(raw) != len(into) {
		return fmt.Errorf("%s must be %d bytes in standard base64, not %d bytes", what, len(into), len(raw))
	}
	copy(into, raw)
	return nil
}
