// Package secrets looks for secrets in what programs say: logs, status, metrics and errors. It never puts a secret
// into what it reports.
package secrets

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
)

// fragment is how many bytes of a secret in a row count as the secret.
const fragment = 16

// Checker knows secrets. Its zero value knows none.
type Checker struct {
	forms []form
}

// form is one way in which a part of a secret may be written.
type form struct {
	secret, name string
	text         []byte
}

// Find is a secret that an output has.
type Find struct {
	Secret string // the secret's name
	Form   string // how it was written
	Output string // the output's name
}

// String has no part of the secret.
func (f Find) String() string {
	return fmt.Sprintf("%s has the secret %s as %s", f.Output, f.Secret, f.Form)
}

// Add makes the checker look for a secret, or any 16 bytes in a row of it. A secret that is shorter is an error: it
// would be found by chance.
func (c *Checker) Add(name string, secret []byte) error {
	if len(secret) < fragment {
		return fmt.Errorf("the secret %s has %d bytes, want at least %d", name, len(secret), fragment)
	}
	for i := 0; i+fragment <= len(secret); i++ {
		part := secret[i : i+fragment]
		c.add(name, "raw bytes", part)
		c.add(name, "hex", []byte(hex.EncodeToString(part)))
		c.add(name, "hex in capitals", []byte(strings.ToUpper(hex.EncodeToString(part))))
		c.add(name, "list of numbers", []byte(strings.Trim(fmt.Sprint(part), "[]")))
		// Base64 cuts its input into threes, so a part may start at any of three places; 15 bytes are five whole threes.
		c.add(name, "base64", []byte(base64.RawStdEncoding.EncodeToString(part[:15])))
		c.add(name, "base64url", []byte(base64.RawURLEncoding.EncodeToString(part[:15])))
	}
	return nil
}

func (c *Checker) add(secret, name string, text []byte) {
	c.forms = append(c.forms, form{secret: secret, name: name, text: text})
}

// Scan returns what an output has of the secrets, each secret and form once.
func (c *Checker) Scan(output string, text []byte) []Find {
	var finds []Find
	for _, f := range c.forms {
		find := Find{Secret: f.secret, Form: f.name, Output: output}
		if bytes.Contains(text, f.text) && !slices.Contains(finds, find) {
			finds = append(finds, find)
		}
	}
	return finds
}

// Reporter is what a check needs of a testing.TB.
type Reporter interface {
	Helper()
	Errorf(format string, args ...any)
}

// Check fails the test for each secret that an output has.
func (c *Checker) Check(t Reporter, output string, text []byte) {
	t.Helper()
	for _, f := range c.Scan(output, text) {
		t.Errorf("%v", f)
	}
}
