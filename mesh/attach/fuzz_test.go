package attach

import (
	"encoding/json"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"
)

// FuzzNetworkOf reads any bytes as the configuration of another CNI: never a panic, and what is said of it is a short
// quoted name that the file has, on one line of printable characters, or nothing.
func FuzzNetworkOf(f *testing.F) {
	for _, text := range []string{
		`{"cniVersion":"1.0.0","name":"cbr0","plugins":[{"type":"flannel"}]}`, `{"name":"a\nb\u0000\u202e\u001b[31m"}`, `{"NAME":"x","name":"y"}`,
		`{"name":"` + strings.Repeat("x", 100) + `"}`, `{"name":"` + strings.Repeat("x", 101) + `"}`, `{"name":"` + strings.Repeat("\xff", 50) + `"}`,
		`{"name":""}`, `{"name":7}`, `{"name":null}`, `{"name":"x"} y`, `["name"]`, `null`, ``, `{`, "\x00\xff", strings.Repeat(`{"name":`, 20000),
	} {
		f.Add([]byte(text))
	}
	path := filepath.Join(f.TempDir(), "00-other.conf")
	f.Fuzz(func(t *testing.T, raw []byte) {
		if err := os.WriteFile(path, raw, 0o600); err != nil {
			t.Fatal(err)
		}
		said := networkOf(path)
		if said == "" {
			return
		}
		quoted, opened := strings.CutPrefix(said, " (network ")
		quoted, closed := strings.CutSuffix(quoted, ")")
		name, err := strconv.Unquote(quoted)
		if !opened || !closed || err != nil || name == "" || len(name) > 100 || !utf8.ValidString(said) {
			t.Fatalf("%q: %v", said, err)
		}
		if strings.ContainsFunc(said, func(r rune) bool { return !strconv.IsPrint(r) }) {
			t.Errorf("%q isn't printable", said)
		}
		var object map[string]any
		if err := json.Unmarshal(raw, &object); err != nil {
			t.Fatalf("named %q, and it isn't an object: %v", name, err)
		}
		for key, value := range object {
			if strings.EqualFold(key, "name") && value == name {
				return
			}
		}
		t.Errorf("named %q, which no name in the file is", name)
	})
}

// Of a file of any size no more is read than a configuration can have.
func TestNetworkOfHugeFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "00-other.conf")
	if err := os.WriteFile(path, []byte(`{"name":"huge"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, 256<<20); err != nil {
		t.Fatal(err)
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	said := networkOf(path)
	runtime.ReadMemStats(&after)
	if allocated := after.TotalAlloc - before.TotalAlloc; said != "" || allocated > 16<<20 {
		t.Errorf("said %q, with %d MiB", said, allocated>>20)
	}
}
