package keys

import (
	"bytes"
	"encoding/base64"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// FuzzStore reads any bytes as the key store's file: never a panic, no error that quotes them, and what is accepted is
// kept as it is.
func FuzzStore(f *testing.F) {
	seed := base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{7}, 32))
	key := base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{9}, 32))
	for _, text := range []string{
		`{"version":1,"identity":"SEED","generations":[{"number":0,"private":"KEY"}]}`,
		`{"version":1,"identity":"SEED","announced":true,"requested":true,"madeAt":"2026-01-02T03:04:05Z","generations":[{"number":4,"private":"KEY"},{"number":5,"private":"SEED"}]}`,
		`{"version":1,"identity":"SEED","generations":[{"number":4294967295,"private":"KEY"},{"number":0,"private":"KEY"}]}`,
		`{"version":1,"identity":"SEED","generations":[]}`, `{"version":1,"identity":"KE","generations":[{"number":0,"private":"KEY"}]}`,
		`{"version":99}`, `{"version":1,"identity":"SEED","generations":[{"number":0,"private":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="}]}`,
		`null`, `[]`, ``, `{`,
	} {
		f.Add([]byte(strings.NewReplacer("SEED", seed, "KEY", key).Replace(text)))
	}
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, raw []byte) {
		s := &Store{dir: dir}
		given := bytes.Clone(raw)
		err := s.decode(raw)
		if !bytes.Equal(raw, given) {
			t.Error("the bytes were written to")
		}
		if err != nil {
			for _, word := range bytes.Fields(given) {
				if len(word) >= 16 && bytes.Contains([]byte(err.Error()), word) && !bytes.Contains([]byte("generation follows standard base64"), word) {
					t.Errorf("the error %q quotes the file", err)
				}
			}
			return
		}
		if n := len(s.Generations()); n < 1 || n > maxGenerations {
			t.Fatalf("%d generations", n)
		}
		if s.Identity().Public().IsZero() {
			t.Error("the identity is zero")
		}
		for _, g := range s.Generations() {
			if g.Private.Public().IsZero() {
				t.Error("a key is zero")
			}
		}
	})
}

// FuzzIdentity reads any text as what pins a node.
func FuzzIdentity(f *testing.F) {
	good := base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{7}, 32))
	for _, text := range []string{good, "", "x", good + "\n", good[:40], good + good, strings.TrimRight(good, "="), "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", strings.Repeat("A", 1<<16)} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		public, err := ParsePublicIdentity(text)
		if err == nil && public.String() != text {
			t.Errorf("%q is read as %s", text, public)
		}
	})
}

// FuzzSequence reads any bytes as the file with the last sequence number.
func FuzzSequence(f *testing.F) {
	for _, text := range []string{"7\n", "7", "", "18446744073709551615\n", "18446744073709551000\n", "-1\n", "0x10\n", "1\n2\n"} {
		f.Add([]byte(text))
	}
	path := filepath.Join(f.TempDir(), sequenceName)
	f.Fuzz(func(t *testing.T, raw []byte) {
		if err := os.WriteFile(path, raw, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := openSequence(path)
		if err != nil {
			t.Fatal(err)
		}
		if s.last != s.reserved || s.last > math.MaxUint64-sequenceBlock {
			t.Errorf("it goes on after %d, with %d reserved", s.last, s.reserved)
		}
	})
}

// FuzzKeyring reads any bytes as a gossip keyring: never a panic, no error that quotes them, and what is accepted is
// read again as the same keys.
func FuzzKeyring(f *testing.F) {
	key := base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{9}, GossipKeySize))
	for _, text := range []string{
		key, key + "\n", "# comment\r\n\n  " + key + "\t\n" + key, strings.Repeat(key+"\n", maxGossipKeys+1),
		key[:43], key + key, "", "#", "\x00", strings.ReplaceAll(key, "C", "-"),
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		ring, err := ParseKeyring(text)
		if err != nil {
			if ring != nil {
				t.Errorf("refused, and %d keys", len(ring))
			}
			for line := range bytes.Lines(text) {
				if line = bytes.TrimSpace(line); len(line) > 16 && strings.Contains(err.Error(), string(line)) {
					t.Errorf("an error quotes the keyring: %v", err)
				}
			}
			return
		}
		if len(ring) == 0 || len(ring) > maxGossipKeys {
			t.Errorf("%d keys", len(ring))
		}
		again, err := ParseKeyring(ring.Text())
		if err != nil || !ring.Equal(again) {
			t.Errorf("read again: %v", err)
		}
	})
}
