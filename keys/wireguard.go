package keys

import (
	"encoding/base64"
	"fmt"
	"io"
	"log/slog"
	"sync"

	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"
)

// PublicKey is a WireGuard public key (Curve25519, RFC 7748): 32 bytes, in text as wg(8) prints it.
type PublicKey [wgtypes.KeyLen]byte

// PrivateKey is a WireGuard private key. It has no text form: printing, logging or marshalling one gives a
// placeholder, also from inside of other values. Only Bytes reveals it.
type PrivateKey struct {
	// Functions: fmt shows unexported fields without asking their methods, follows pointers for some verbs, and
	// never looks into a function.
	reveal func() wgtypes.Key
	erase  func()
	public PublicKey
}

// privateKey holds the one long-lived copy of a key: all copies of a PrivateKey are about it.
func privateKey(key wgtypes.Key) PrivateKey {
	var mu sync.RWMutex
	return PrivateKey{
		public: PublicKey(key.PublicKey()),
		reveal: func() wgtypes.Key {
			mu.RLock()
			defer mu.RUnlock()
			return key
		},
		erase: func() {
			mu.Lock()
			defer mu.Unlock()
			clear(key[:])
		},
	}
}

// Generation is one of a node's WireGuard keys within one identity. Numbers start at 0; rotation makes the next.
type Generation struct {
	Number  uint32
	Private PrivateKey
}

const hidden = "(private key)"

func newPrivateKey() (private PrivateKey, err error) {
	Secretly(func() {
		var key wgtypes.Key
		if key, err = wgtypes.GeneratePrivateKey(); err == nil {
			private = privateKey(key)
		}
	})
	if err != nil {
		return PrivateKey{}, fmt.Errorf("making a WireGuard key: %w", err)
	}
	return private, nil
}

// Public returns the matching public key; of an unset key, an unset one.
func (k PrivateKey) Public() PublicKey { return k.public }

// Bytes returns a copy of the secret, for the one who hands it to the kernel (see Secretly); of an unset or erased key,
// zeros.
func (k PrivateKey) Bytes() [wgtypes.KeyLen]byte {
	if k.reveal == nil {
		return [wgtypes.KeyLen]byte{}
	}
	return k.reveal()
}

// IsZero reports whether k is unset.
func (k PrivateKey) IsZero() bool { return k.reveal == nil }

// String hides the key.
func (k PrivateKey) String() string { return hidden }

// Format hides the key from all verbs of fmt.
func (k PrivateKey) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, hidden) }

// LogValue hides the key.
func (k PrivateKey) LogValue() slog.Value { return slog.StringValue(hidden) }

// MarshalText hides the key: no encoder can leak it by accident.
func (k PrivateKey) MarshalText() ([]byte, error) { return []byte(hidden), nil }

// IsZero reports whether k is unset.
func (k PublicKey) IsZero() bool { return k == PublicKey{} }

// String is the base64 form, as wg(8) prints it.
func (k PublicKey) String() string { return base64.StdEncoding.EncodeToString(k[:]) }

// MarshalText gives the base64 form.
func (k PublicKey) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText reads the base64 form.
func (k *PublicKey) UnmarshalText(text []byte) error {
	return decodeKey("a WireGuard public key", text, k[:])
}

// ParsePublicKey reads the base64 form.
func ParsePublicKey(text string) (PublicKey, error) {
	var key PublicKey
	err := key.UnmarshalText([]byte(text))
	return key, err
}
