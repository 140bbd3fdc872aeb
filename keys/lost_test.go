package keys_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/weaveguard/weaveguard/keys"
)

// Files that somebody removes under a running agent come back as they were, and the next start finds the same node.
func TestRestore(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	path, sequence := filepath.Join(dir, keys.FileName), filepath.Join(dir, "sequence")
	s := open(t, dir)
	if lost := s.Lost(); len(lost) > 0 {
		t.Errorf("a new store has lost %v", lost)
	}
	if restored, err := s.Restore(); err != nil || len(restored) > 0 {
		t.Errorf("a whole store is restored: %v, %v", restored, err)
	}
	last := next(t, s)
	for what, remove := range map[string]func() error{
		"the keys": func() error { return os.Remove(path) },
		"all files": func() error {
			return errors.Join(os.Remove(path), os.Remove(sequence), os.Remove(filepath.Join(dir, "lock")))
		},
		"the directory": func() error { return os.RemoveAll(dir) },
	} {
		before := read(t, path)
		if err := remove(); err != nil {
			t.Fatal(err)
		}
		lost := s.Lost()
		if !slices.Contains(lost, path) || what != "the keys" && !slices.Contains(lost, sequence) {
			t.Errorf("without %s it has lost %v", what, lost)
		}
		restored, err := s.Restore()
		if err != nil || !slices.Equal(restored, lost) || len(s.Lost()) > 0 {
			t.Errorf("without %s %v were restored, %v; want %v", what, restored, err, lost)
		}
		if string(read(t, path)) != string(before) || modeOf(t, path) != 0o600 || modeOf(t, dir) != 0o700 {
			t.Errorf("without %s the keys come back otherwise", what)
		}
		if _, err := keys.Open(dir); !errors.Is(err, keys.ErrInUse) {
			t.Errorf("without %s it is opened twice: %v", what, err)
		}
	}
	identity := s.Identity().Public()
	last = max(last, next(t, s))
	closeStore(t, s)
	again := open(t, dir)
	if again.Identity().Public() != identity || next(t, again) <= last {
		t.Error("the next start finds another identity, or goes back")
	}
}
