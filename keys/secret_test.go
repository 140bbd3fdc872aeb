package keys_test

import (
	"bytes"
	"crypto/ecdh"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"

	"github.com/weaveguard/weaveguard/keys"
)

// leaks reports how text shows secret, in any of the ways in which fmt and encoders write bytes.
func leaks(text string, secret []byte) string {
	list := func(format, separator string) string {
		var parts []string
		for _, b := range secret {
			parts = append(parts, fmt.Sprintf(format, b))
		}
		return strings.Join(parts[8:24], separator)
	}
	for _, form := range []string{
		string(secret[8:24]),
		hex.EncodeToString(secret[8:24]),
		base64.StdEncoding.EncodeToString(secret[9:24]),
		list("%d", " "), list("%d", ","), list("%d", ", "), list("0x%x", ", "), list("%x", " "), list("%X", ""),
		list("%X", " "), list("%o", " "), list("%b", " "), list("%c", " "), list("%q", " "), list("%U", " "),
	} {
		if strings.Contains(text, form) {
			return form
		}
	}
	return ""
}

// Whatever holds a key, in exported fields or not, and however it is printed: the key isn't in it.
func TestKeysDoNotPrint(t *testing.T) {
	dir := t.TempDir()
	store := open(t, dir)
	private := store.Generations()[0].Private
	wireguard := private.Bytes()
	seed, err := base64.StdEncoding.DecodeString(secrets(t, read(t, filepath.Join(dir, keys.FileName)))[0])
	if err != nil {
		t.Fatal(err)
	}
	ring, err := keys.NewKeyring()
	if err != nil {
		t.Fatal(err)
	}
	type exported struct {
		Key      keys.PrivateKey
		Identity keys.Identity
	}
	type unexported struct {
		key         keys.PrivateKey
		identity    *keys.Identity
		generations []keys.Generation
		byName      map[string]keys.Identity
	}
	identity := store.Identity()
	holders := map[string]any{
		"key": private, "pointer": &private, "identity": identity, "generations": store.Generations(),
		"store": store, "ring": ring, "exported": exported{private, identity},
		"unexported": &unexported{private, &identity, store.Generations(), map[string]keys.Identity{"a": identity}},
		"key in map": map[string]keys.PrivateKey{"a": private}, "key as key": []any{private, identity},
	}
	for name, holder := range holders {
		check := func(how, text string) {
			for what, secret := range map[string][]byte{"WireGuard key": wireguard[:], "identity": seed, "gossip key": ring[0]} {
				if form := leaks(text, secret); form != "" {
					t.Errorf("%s, %s: shows the %s as %q", name, how, what, form)
				}
			}
		}
		for _, verb := range "vTtbcdoOqxXUeEfFgGsp" {
			for _, flags := range []string{"", "+", "#", " ", "0", "80", ".3", "# "} {
				format := "%" + flags + string(verb)
				check(format, fmt.Sprintf(format, holder))
			}
		}
		check("Sprint", fmt.Sprint(holder))
		check("error", fmt.Errorf("with %v", holder).Error())
		if raw, err := json.Marshal(holder); err == nil {
			check("json", string(raw))
		}
		var out bytes.Buffer
		for _, handler := range []slog.Handler{slog.NewTextHandler(&out, nil), slog.NewJSONHandler(&out, nil)} {
			slog.New(handler).Info("message", "attr", holder, slog.Group("group", "in", holder))
		}
		check("slog", out.String())
	}
	if !strings.Contains(fmt.Sprint(identity), identity.Public().String()) {
		t.Error("an identity doesn't print as its public half")
	}
}

// leaks must find what it looks for, or the test above shows nothing.
func TestLeaksAreFound(t *testing.T) {
	secret := []byte("0123456789abcdefghijklmnopqrstuv")
	for _, text := range []string{
		fmt.Sprint(secret), fmt.Sprintf("%x", secret), fmt.Sprintf("%#v", secret), string(secret),
		fmt.Sprintf("% X", secret), fmt.Sprintf("%+v", struct{ a [32]byte }{[32]byte(secret)}),
		base64.StdEncoding.EncodeToString(secret),
	} {
		if leaks(text, secret) == "" {
			t.Errorf("not found in %s", text)
		}
	}
}

func TestUnsetKeys(t *testing.T) {
	var private keys.PrivateKey
	var identity keys.Identity
	if !private.IsZero() || private.Bytes() != [32]byte{} || !private.Public().IsZero() || !identity.Public().IsZero() {
		t.Error("an unset key isn't all zero")
	}
}

func TestPublicText(t *testing.T) {
	store := open(t, t.TempDir())
	identity, key := store.Identity().Public(), store.Generations()[0].Private.Public()
	if got, err := keys.ParsePublicIdentity(identity.String()); err != nil || got != identity {
		t.Errorf("parsing %s: %v, %v", identity, got, err)
	}
	if got, err := keys.ParsePublicKey(key.String()); err != nil || got != key {
		t.Errorf("parsing %s: %v, %v", key, got, err)
	}
	for _, bad := range []string{"", "x", key.String()[:40], key.String() + "=", " " + key.String(), key.String() + "\n",
		strings.TrimRight(key.String(), "="), strings.Repeat("!", 44)} {
		if _, err := keys.ParsePublicKey(bad); err == nil {
			t.Errorf("%q is taken as a key", bad)
		}
		if _, err := keys.ParsePublicIdentity(bad); err == nil {
			t.Errorf("%q is taken as an identity", bad)
		}
	}
}

// What is on disk is what the standards say: RFC 8032, section 7.1, test 1, and X25519 of RFC 7748.
func TestStandardKeys(t *testing.T) {
	dir := t.TempDir()
	closeStore(t, open(t, dir))
	path := filepath.Join(dir, keys.FileName)
	b64 := func(text string) string {
		raw, err := hex.DecodeString(text)
		if err != nil {
			t.Fatal(err)
		}
		return base64.StdEncoding.EncodeToString(raw)
	}
	seed := b64("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
	write(t, path, set(t, read(t, path), []any{"identity", seed}), 0o600)
	s := open(t, dir)
	if want := b64("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"); s.Identity().Public().String() != want {
		t.Errorf("identity %s, want %s", s.Identity().Public(), want)
	}
	private := s.Generations()[0].Private
	secret := private.Bytes()
	x25519, err := ecdh.X25519().NewPrivateKey(secret[:])
	if err != nil {
		t.Fatal(err)
	}
	if got := private.Public(); !bytes.Equal(got[:], x25519.PublicKey().Bytes()) {
		t.Errorf("public key %s isn't X25519's", got)
	}
}
