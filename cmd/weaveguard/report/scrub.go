package report

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// fragment is how many bytes of a secret in a row count as the secret.
const fragment = 16

// Scrubber takes secrets out of texts: those that it knows, in whatever way they are written, and everything that looks
// like a key and isn't one that is known to be public. Its zero value knows none of either.
type Scrubber struct {
	forms  [][]byte        // ways in which parts of known secrets are written
	public map[string]bool // keys, as written in base64
}

// Public says that a text, such as a key in base64, may stay.
func (s *Scrubber) Public(texts ...string) {
	if s.public == nil {
		s.public = map[string]bool{}
	}
	for _, text := range texts {
		s.public[text] = true
	}
}

// Secret says that bytes are secret. Fewer than 16 are none: they would be found by chance.
func (s *Scrubber) Secret(secret []byte) {
	for i := 0; i+fragment <= len(secret); i++ {
		part := secret[i : i+fragment]
		digits := hex.EncodeToString(part)
		numbers := strings.Trim(fmt.Sprint(part), "[]")
		for _, form := range []string{
			string(part), digits, strings.ToUpper(digits), numbers, strings.ReplaceAll(numbers, " ", ", "), strings.ReplaceAll(numbers, " ", ","),
			strings.Trim(strconv.Quote(string(part)), `"`),
			// Base64 cuts its input into threes, so a part may start at any of three places; 15 bytes are five whole threes.
			base64.RawStdEncoding.EncodeToString(part[:15]), base64.RawURLEncoding.EncodeToString(part[:15]),
		} {
			s.forms = append(s.forms, []byte(form))
		}
	}
}

// What looks like a key of 32 bytes, or more: in base64, in hex with or without something in between, as numbers.
var keyLike = regexp.MustCompile(`[A-Za-z0-9+/_-]{40,}={0,2}` +
	`|\b[0-9a-fA-F]{2}(?:[: ]{1,2}[0-9a-fA-F]{2}){15,}\b` +
	`|\b[0-9]{1,3}(?:[, ]{1,2}[0-9]{1,3}){15,}\b` +
	`|(?:\\x[0-9a-fA-F]{2}){8,}`)

// Scrub returns the text with secrets replaced, as valid UTF-8.
func (s *Scrubber) Scrub(text []byte) []byte {
	text = keyLike.ReplaceAllFunc(s.withoutKnown(text), func(token []byte) []byte {
		if s.public[string(token)] || s.public[strings.TrimRight(string(token), "=")] || harmless(string(token)) {
			return token
		}
		return hidden(token)
	})
	return bytes.ToValidUTF8(text, []byte("?"))
}

func (s *Scrubber) scrubText(text string) string { return string(s.Scrub([]byte(text))) }

// hidden is what is written in place of a secret. The same secret is the same again, as by its fingerprint.
func hidden(secret []byte) []byte {
	sum := sha256.Sum256(secret)
	return []byte("(hidden " + hex.EncodeToString(sum[:4]) + ")")
}

// harmless reports whether a long word is none of random bytes: those have capitals and small letters both, or are
// hex, and so not the letters of a path or of a name.
func harmless(token string) bool {
	if strings.ContainsAny(token, " ,:\\") || strings.Trim(token, "0123456789abcdefABCDEF") == "" {
		return false
	}
	return strings.ToLower(token) == token || strings.ToUpper(token) == token
}

// withoutKnown replaces what is known to be secret, with all that may belong to it.
func (s *Scrubber) withoutKnown(text []byte) []byte {
	type span struct{ from, to int }
	var spans []span
	for _, form := range s.forms {
		for at := 0; ; {
			i := bytes.Index(text[at:], form)
			if i < 0 {
				break
			}
			from, to := at+i, at+i+len(form)
			spans = append(spans, span{from, to})
			at = from + 1
		}
	}
	if len(spans) == 0 {
		return text
	}
	for i := range spans {
		for spans[i].from > 0 && ofWord(text[spans[i].from-1]) {
			spans[i].from--
		}
		for spans[i].to < len(text) && ofWord(text[spans[i].to]) {
			spans[i].to++
		}
	}
	slices.SortFunc(spans, func(a, b span) int { return a.from - b.from })
	var clean []byte
	at := 0
	for i := 0; i < len(spans); {
		from, to := spans[i].from, spans[i].to
		for ; i < len(spans) && spans[i].from <= to; i++ {
			to = max(to, spans[i].to)
		}
		clean = append(append(clean, text[at:from]...), "(hidden)"...)
		at = to
	}
	return append(clean, text[at:]...)
}

// ofWord reports whether a byte may belong to the same base64 or hex as the one beside it.
func ofWord(b byte) bool {
	return b >= '0' && b <= '9' || b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z' || strings.IndexByte("+/=_-", b) >= 0
}
