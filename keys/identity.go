package keys

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"io"
)

// SignatureSize is the length in bytes of an Ed25519 signature (RFC 8032, section 5.1.6).
const SignatureSize = ed25519.SignatureSize

// Identity is a node's long-lived Ed25519 key pair (RFC 8032). It signs what the node says about itself; it is
// not a WireGuard key. Its zero value can't sign. It prints, and marshals, as its public half.
type Identity struct {
	reveal func() ed25519.PrivateKey // a function for the same reason as in PrivateKey
}

func identity(private ed25519.PrivateKey) Identity {
	return Identity{reveal: func() ed25519.PrivateKey { return private }}
}

// PublicIdentity is the public half of an Identity: 32 bytes, in text standard base64 with padding.
type PublicIdentity [ed25519.PublicKeySize]byte

func newIdentity() (Identity, error) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return Identity{}, fmt.Errorf("making an identity: %w", err)
	}
	return identity(private), nil
}

func identityFromSeed(seed []byte) (Identity, error) {
	if len(seed) != ed25519.SeedSize {
		return Identity{}, fmt.Errorf("the identity has %d bytes, want %d", len(seed), ed25519.SeedSize)
	}
	return identity(ed25519.NewKeyFromSeed(seed)), nil
}

// Public returns the half that others know this node by.
func (i Identity) Public() PublicIdentity {
	var public PublicIdentity
	if i.reveal != nil {
		copy(public[:], i.reveal()[ed25519.SeedSize:])
	}
	return public
}

// Sign signs message. It panics on a zero Identity, which no constructor returns.
func (i Identity) Sign(message []byte) []byte {
	return ed25519.Sign(i.reveal(), message)
}

// String returns the public half, so that an identity in a log line gives nothing away.
func (i Identity) String() string { return i.Public().String() }

// Format prints the public half, whatever the verb of fmt.
func (i Identity) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, i.String()) }

// MarshalText gives the public half.
func (i Identity) MarshalText() ([]byte, error) { return []byte(i.String()), nil }

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
	if bytes.ContainsAny(text, "\r\n") { // the decoder would pass over them
		return fmt.Errorf("%s must be %d bytes in standard base64, on one line", what, len(into))
	}
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
