package keys_test

import (
	"bytes"
	"encoding/base64"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/weaveguard/weaveguard/keys"
)

func TestKeyringRoundTrip(t *testing.T) {
	ring, err := keys.NewKeyring()
	if err != nil {
		t.Fatal(err)
	}
	more, err := keys.NewKeyring()
	if err != nil {
		t.Fatal(err)
	}
	ring = append(ring, more...)
	path := filepath.Join(t.TempDir(), "keyring")
	write(t, path, nil, 0o644)
	if err := ring.Save(path); err != nil {
		t.Fatal(err)
	}
	if got := modeOf(t, path); got != 0o600 {
		t.Errorf("mode %o", got)
	}
	got, err := keys.LoadKeyring(path)
	if err != nil || !reflect.DeepEqual(got, ring) {
		t.Errorf("loaded %v, %v; want the same keys in the same order", got, err)
	}
	commented := "# first\n\n  " + strings.ReplaceAll(string(ring.Text()), "\n", " \r\n")
	if got, err := keys.ParseKeyring([]byte(commented)); err != nil || !reflect.DeepEqual(got, ring) {
		t.Errorf("with comments and blanks: %v, %v", got, err)
	}
}

// An empty keyring must not take the place of one that works.
func TestEmptyKeyringIsNotSaved(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keyring")
	ring, err := keys.NewKeyring()
	if err != nil {
		t.Fatal(err)
	}
	if err := ring.Save(path); err != nil {
		t.Fatal(err)
	}
	if err := (keys.Keyring{}).Save(path); err == nil {
		t.Error("an empty keyring was saved")
	}
	if kept, err := keys.LoadKeyring(path); err != nil || len(kept) != 1 {
		t.Errorf("kept %v, %v", kept, err)
	}
}

func TestKeyringRefuses(t *testing.T) {
	key := base64.StdEncoding.EncodeToString(bytes.Repeat([]byte("S"), 32))
	for name, tt := range map[string]struct{ text, want string }{
		"nothing":      {"", "no gossip key"},
		"comments":     {"# " + key, "no gossip key"},
		"a short key":  {key + "\n" + key[:20] + "\n", "line 2"},
		"a password":   {"SSSSSSSSecret!\n", "line 1"},
		"too many":     {strings.Repeat(key+"\n", 9), "more than 8"},
		"two in a row": {key + key + "\n", "line 1"},
	} {
		t.Run(name, func(t *testing.T) {
			ring, err := keys.ParseKeyring([]byte(tt.text))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v, %v; want an error with %q", ring, err, tt.want)
			}
			if err != nil && (strings.Contains(err.Error(), key[:8]) || strings.Contains(err.Error(), "SSSS")) {
				t.Errorf("a key is in the error: %v", err)
			}
		})
	}
	if _, err := keys.LoadKeyring(filepath.Join(t.TempDir(), "none")); err == nil || !strings.Contains(err.Error(), "none") {
		t.Errorf("no file: %v", err)
	}
}
