package secrets

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"
)

// secret is 32 bytes whose base64 forms differ from each other.
func secret() []byte {
	s := make([]byte, 32)
	for i := range s {
		s[i] = byte(0xff - 7*i)
	}
	return s
}

func checker(t *testing.T) *Checker {
	t.Helper()
	var c Checker
	if err := c.Add("key", secret()); err != nil {
		t.Fatal(err)
	}
	return &c
}

func TestFindsEachForm(t *testing.T) {
	s := secret()
	for name, planted := range map[string]string{
		"raw":              string(s),
		"base64":           base64.StdEncoding.EncodeToString(s),
		"raw base64":       base64.RawStdEncoding.EncodeToString(s),
		"base64url":        base64.URLEncoding.EncodeToString(s),
		"raw base64url":    base64.RawURLEncoding.EncodeToString(s),
		"hex":              hex.EncodeToString(s),
		"hex in capitals":  strings.ToUpper(hex.EncodeToString(s)),
		"numbers":          fmt.Sprint(s),
		"raw half":         string(s[5:21]),
		"hex half":         hex.EncodeToString(s[16:]),
		"base64 in a JSON": base64.StdEncoding.EncodeToString(append([]byte("x"), s...)),
		"base64 half":      base64.StdEncoding.EncodeToString(s[3:19]),
	} {
		t.Run(name, func(t *testing.T) {
			if finds := checker(t).Scan("log", []byte("level=INFO key="+planted+" more\n")); len(finds) == 0 {
				t.Error("not found")
			}
		})
	}
}

func TestFindsNothingElse(t *testing.T) {
	s := secret()
	other := make([]byte, 32)
	for i := range other {
		other[i] = s[i] ^ 0x55
	}
	text := base64.StdEncoding.EncodeToString(other) + hex.EncodeToString(other) + hex.EncodeToString(s[:8])
	if finds := checker(t).Scan("log", []byte(text)); len(finds) != 0 {
		t.Errorf("found %v", finds)
	}
}

func TestShortSecret(t *testing.T) {
	var c Checker
	if err := c.Add("short", make([]byte, 15)); err == nil {
		t.Error("a secret of 15 bytes was taken")
	}
}

// reporter stands for a test that may fail.
type reporter struct{ errors []string }

func (r *reporter) Helper() {}

func (r *reporter) Errorf(format string, args ...any) {
	r.errors = append(r.errors, fmt.Sprintf(format, args...))
}

func TestCheckFailsWithoutTellingTheSecret(t *testing.T) {
	c := checker(t)
	var r reporter
	c.Check(&r, "agent's log", []byte("nothing here"))
	if len(r.errors) != 0 {
		t.Fatalf("an innocent output failed: %q", r.errors)
	}
	c.Check(&r, "agent's log", []byte(hex.EncodeToString(secret())))
	if len(r.errors) != 1 || !strings.Contains(r.errors[0], "agent's log has the secret key as hex") {
		t.Fatalf("got %q", r.errors)
	}
	if finds := c.Scan("failure", []byte(r.errors[0])); len(finds) != 0 {
		t.Error("the failure itself has the secret")
	}
}
