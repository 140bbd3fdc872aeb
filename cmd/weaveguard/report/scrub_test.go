package report

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"
)

// key is 32 bytes that differ for each number.
func key(number byte) []byte {
	k := make([]byte, 32)
	for i := range k {
		k[i] = byte(0xff-7*i) ^ number
	}
	return k
}

// written is a secret in the ways that programs write bytes.
func written(k []byte) map[string]string {
	return map[string]string{
		"base64":        base64.StdEncoding.EncodeToString(k),
		"base64url":     base64.RawURLEncoding.EncodeToString(k),
		"base64 twice":  base64.StdEncoding.EncodeToString([]byte(base64.StdEncoding.EncodeToString(k))),
		"hex":           hex.EncodeToString(k),
		"HEX":           strings.ToUpper(hex.EncodeToString(k)),
		"hex in pairs":  strings.TrimSpace(fmt.Sprintf("% x", k)),
		"numbers":       fmt.Sprint(k),
		"numbers, JSON": strings.ReplaceAll(fmt.Sprint(k), " ", ","),
		"in a document": base64.StdEncoding.EncodeToString([]byte("key: " + string(k))),
	}
}

// What of a text must not be there: any of its words of eight letters.
func leaks(text, secret string) bool {
	for i := 0; i+8 <= len(secret); i++ {
		if strings.Contains(text, secret[i:i+8]) {
			return true
		}
	}
	return false
}

func TestScrubWhatLooksLikeAKey(t *testing.T) {
	for name, secret := range written(key(1)) {
		t.Run(name, func(t *testing.T) {
			var s Scrubber
			got := s.scrubText("level=INFO msg=start key=" + secret + " more\n")
			if leaks(got, secret) || !strings.HasPrefix(got, "level=INFO msg=start key=") || !strings.HasSuffix(got, " more\n") {
				t.Errorf("it became %q", got)
			}
		})
	}
}

// A secret that is known is found in parts, and where nothing looks like a key.
func TestScrubWhatIsKnown(t *testing.T) {
	k := key(1)
	forms := written(k)
	forms["raw"] = string(k)
	forms["quoted"] = fmt.Sprintf("%q", k)
	for name, part := range written(k[7:25]) {
		forms[name+" of a part"] = part
	}
	for name, secret := range forms {
		if strings.Contains(name, "twice") || strings.Contains(name, "pairs") && len(secret) < 60 {
			continue // those are found by how they look, when they are whole
		}
		t.Run(name, func(t *testing.T) {
			var s Scrubber
			s.Secret(key(9))
			s.Secret(k)
			got := s.scrubText("before " + secret + " after " + secret + "\n")
			if leaks(got, secret) || !strings.HasPrefix(got, "before ") || !strings.HasSuffix(got, "\n") || !strings.Contains(got, " after ") {
				t.Errorf("it became %q", got)
			}
		})
	}
}

// What a report is for stays.
func TestScrubLeavesTheRest(t *testing.T) {
	public := base64.StdEncoding.EncodeToString(key(2))
	var s Scrubber
	s.Public(public)
	s.Secret(key(1))
	for _, text := range []string{
		"peer " + public + " is up\n",
		"/var/lib/kubelet/pods/0b1c2d3e-0000-4000-8000-123456789abc/volumes/kubernetes.io\n",
		"weaveguard-userspace-with-a-name-that-is-quite-long-indeed-0123456789\n",
		"fd32:0000:0000:0001:0000:0000:0000:0001 dev weave-wg0 lladdr 0a:57:0a:20:01:01\n",
		"10.32.5.0/24 10.32.6.0/24 10.32.7.0/24 10.32.8.0/24 10.32.9.0/24 10.32.10.0/24\n",
		"2026-03-04T08:20:07Z level=INFO msg=\"ä ö ü\"\n",
	} {
		if got := s.scrubText(text); got != text {
			t.Errorf("%q became %q", text, got)
		}
	}
	if got := s.scrubText("bad \xff byte"); got != "bad ? byte" {
		t.Errorf("bytes that are no text became %q", got)
	}
}

// The same secret can be recognized as the same, and another as another.
func TestHiddenIsAFingerprint(t *testing.T) {
	var s Scrubber
	a, b := hex.EncodeToString(key(1)), hex.EncodeToString(key(2))
	got := strings.Split(s.scrubText(a+"|"+b+"|"+a), "|")
	if len(got) != 3 || got[0] != got[2] || got[0] == got[1] {
		t.Errorf("they became %q", got)
	}
}
