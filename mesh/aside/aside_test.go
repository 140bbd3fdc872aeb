package aside_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/weaveguard/weaveguard/mesh/aside"
)

// The first files that were put aside stay, however many follow, and each is told of until somebody removes it.
func TestAside(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "view.json")
	if _, err := aside.Put(path); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("putting nothing aside: %v", err)
	}
	if problems := aside.Problems(path, "names"); len(problems) != 0 {
		t.Errorf("problems %v with nothing aside", problems)
	}
	for _, content := range []string{"first", "second", "third", "fourth"} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		as, err := aside.Put(path)
		if err != nil {
			t.Fatal(err)
		}
		if raw, err := os.ReadFile(as); err != nil || string(raw) != content {
			t.Errorf("%s has %q, %v; want %q", as, raw, err, content)
		}
	}
	var held []string
	for _, p := range aside.Problems(path, "names of things") {
		raw, err := os.ReadFile(p.Subject)
		if err != nil || !p.Warning || !strings.Contains(p.Message, "names of things") || !strings.Contains(p.Remedy, path) {
			t.Errorf("%v, %v", p, err)
		}
		held = append(held, string(raw))
	}
	if !slices.Equal(held, []string{"first", "second", "fourth"}) {
		t.Errorf("held are %v", held)
	}
	if err := os.Remove(path + ".unusable"); err != nil {
		t.Fatal(err)
	}
	if problems := aside.Problems(path, "names"); len(problems) != 2 {
		t.Errorf("problems %v after one was removed", problems)
	}
}
