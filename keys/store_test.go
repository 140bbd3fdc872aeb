package keys_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/weaveguard/weaveguard/keys"
)

func open(t *testing.T, dir string) *keys.Store {
	t.Helper()
	s, err := keys.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func closeStore(t *testing.T, s *keys.Store) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func write(t *testing.T, path string, data []byte, mode fs.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, data, mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

func modeOf(t *testing.T, path string) fs.FileMode {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Mode().Perm()
}

// secrets are the base64 texts of all that is secret in a key file.
func secrets(t *testing.T, raw []byte) []string {
	t.Helper()
	var f struct {
		Identity    string
		Generations []struct{ PrivateKey string }
	}
	if err := json.Unmarshal(raw, &f); err != nil {
		t.Fatal(err)
	}
	all := []string{f.Identity}
	for _, g := range f.Generations {
		all = append(all, g.PrivateKey)
	}
	return all
}

func TestKeysSurviveReopening(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "store")
	first := open(t, dir)
	identity, generations := first.Identity().Public(), first.Generations()
	if identity.IsZero() || len(generations) != 1 || generations[0].Number != 0 || generations[0].Private.IsZero() {
		t.Fatalf("a new store has identity %s and generations %v", identity, generations)
	}
	closeStore(t, first)
	second := open(t, dir)
	if got := second.Identity().Public(); got != identity {
		t.Errorf("identity %s, want %s", got, identity)
	}
	private, ok := second.Private(0)
	if !ok || private.Bytes() != generations[0].Private.Bytes() {
		t.Error("the WireGuard key has changed")
	}
	if _, ok := second.Private(1); ok {
		t.Error("there is a key of a generation that never was")
	}
	message := []byte("message")
	if !identity.Verify(message, second.Identity().Sign(message)) {
		t.Error("the identity signs otherwise than before")
	}
}

func TestStoresDiffer(t *testing.T) {
	a, b := open(t, t.TempDir()), open(t, t.TempDir())
	if a.Identity().Public() == b.Identity().Public() ||
		a.Generations()[0].Private.Public() == b.Generations()[0].Private.Public() {
		t.Error("two stores have the same keys")
	}
}

func TestModes(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	s := open(t, dir)
	if _, err := s.NextSequence(); err != nil {
		t.Fatal(err)
	}
	if got := modeOf(t, dir); got != 0o700 {
		t.Errorf("the directory has mode %o", got)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if got := modeOf(t, filepath.Join(dir, e.Name())); got != 0o600 {
			t.Errorf("%s has mode %o", e.Name(), got)
		}
	}
}

// A hostPath volume makes the directory with 0755, and a restored backup may have any mode.
func TestModesAreTightened(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	closeStore(t, open(t, dir))
	path := filepath.Join(dir, keys.FileName)
	for name, mode := range map[string]fs.FileMode{dir: 0o755, path: 0o644} {
		if err := os.Chmod(name, mode); err != nil {
			t.Fatal(err)
		}
	}
	open(t, dir)
	if modeOf(t, dir) != 0o700 || modeOf(t, path) != 0o600 {
		t.Errorf("modes %o and %o, want 700 and 600", modeOf(t, dir), modeOf(t, path))
	}
}

// What a crash left half written is removed; what others put there isn't.
func TestUnfinishedWritesAreRemoved(t *testing.T) {
	dir := t.TempDir()
	closeStore(t, open(t, dir))
	half, backup := filepath.Join(dir, ".keys.json1234567"), filepath.Join(dir, ".keys.json.bak")
	write(t, half, []byte(`{"version":1,"identi`), 0o600)
	write(t, backup, []byte("{}"), 0o600)
	open(t, dir)
	if _, err := os.Stat(half); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the unfinished write: %v, want it gone", err)
	}
	if _, err := os.Stat(backup); err != nil {
		t.Errorf("somebody's backup: %v", err)
	}
}

// No secret is ever written outside of the store's own directory.
func TestNothingIsWrittenElsewhere(t *testing.T) {
	tmp := t.TempDir()
	t.Setenv("TMPDIR", tmp)
	before, err := os.Stat(tmp)
	if err != nil {
		t.Fatal(err)
	}
	s := open(t, filepath.Join(t.TempDir(), "store"))
	if _, err := s.NextSequence(); err != nil {
		t.Fatal(err)
	}
	after, err := os.Stat(tmp)
	if err != nil {
		t.Fatal(err)
	}
	if !after.ModTime().Equal(before.ModTime()) {
		t.Error("the directory for temporary files was written to")
	}
}

func TestLock(t *testing.T) {
	dir := t.TempDir()
	first := open(t, dir)
	if _, err := keys.Open(dir); !errors.Is(err, keys.ErrInUse) {
		t.Errorf("opening a store twice: %v, want ErrInUse", err)
	}
	closeStore(t, first)
	open(t, dir)
}

// A key file that can't be used is refused, is left as it is, and nothing of it is in the error.
func TestCorruptFiles(t *testing.T) {
	good := func(t *testing.T) (dir string, raw []byte) {
		dir = t.TempDir()
		closeStore(t, open(t, dir))
		return dir, read(t, filepath.Join(dir, keys.FileName))
	}
	edit := func(path ...any) func(t *testing.T, raw []byte) []byte {
		return func(t *testing.T, raw []byte) []byte { return set(t, raw, path) }
	}
	key := base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{7}, 32))
	generation := func(number any) map[string]any { return map[string]any{"number": number, "privateKey": key} }
	tests := []struct {
		name  string
		spoil func(t *testing.T, raw []byte) []byte
		want  string
	}{
		{"empty", func(*testing.T, []byte) []byte { return nil }, "JSON"},
		{"cut short", func(_ *testing.T, raw []byte) []byte { return raw[:len(raw)/2] }, "JSON"},
		{"zeros", func(_ *testing.T, raw []byte) []byte { return make([]byte, len(raw)) }, "JSON"},
		{"with something behind", func(_ *testing.T, raw []byte) []byte { return append(raw, raw...) }, "JSON"},
		{"a list", func(*testing.T, []byte) []byte { return []byte("[]") }, "JSON"},
		{"another program's", func(*testing.T, []byte) []byte { return []byte("{}") }, "version 0"},
		{"newer", edit("version", 2), "version 2"},
		{"no identity", edit("identity", ""), "identity"},
		{"a short identity", edit("identity", key[:20]), "identity"},
		{"a long identity", edit("identity", strings.TrimRight(key, "=")+"AAAAAAA="), "identity"},
		{"no keys", edit("generations", []any{}), "0 WireGuard keys"},
		{"three keys", edit("generations", []any{generation(0), generation(1), generation(2)}), "3 WireGuard keys"},
		{"a gap", edit("generations", []any{generation(4), generation(6)}), "generation 6 follows generation 4"},
		{"the wrong order", edit("generations", []any{generation(1), generation(0)}), "generation 0 follows generation 1"},
		{"a number that wraps", edit("generations", []any{generation(uint32(1<<32 - 1)), generation(0)}), "follows"},
		{"a key that isn't base64", edit("generations", 0, "privateKey", "!"+key[1:]), "generation 0"},
		{"a key of zeros", edit("generations", 0, "privateKey", base64.StdEncoding.EncodeToString(make([]byte, 32))), "zeros"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir, raw := good(t)
			path := filepath.Join(dir, keys.FileName)
			broken := tt.spoil(t, bytes.Clone(raw))
			write(t, path, broken, 0o600)
			_, err := keys.Open(dir)
			if corrupt := new(keys.CorruptError); !errors.As(err, &corrupt) || corrupt.Path != path {
				t.Fatalf("error %v, want a CorruptError about %s", err, path)
			}
			if text := err.Error(); !strings.Contains(text, tt.want) || !strings.Contains(text, path) {
				t.Errorf("error %q, want the path and %q in it", text, tt.want)
			}
			for _, secret := range append(secrets(t, raw), key[1:]) {
				for n := 8; n < len(secret); n++ {
					if strings.Contains(err.Error(), secret[n-8:n]) {
						t.Fatal("a piece of a key is in the error")
					}
				}
			}
			if !bytes.Equal(read(t, path), broken) {
				t.Error("the file was changed")
			}
			write(t, path, raw, 0o600) // the lock is free, and a restored backup works
			open(t, dir)
		})
	}
}

// set changes one value of a JSON text: a path of keys and indexes, and the value.
func set(t *testing.T, raw []byte, path []any) []byte {
	t.Helper()
	var root any
	if err := json.Unmarshal(raw, &root); err != nil {
		t.Fatal(err)
	}
	at := root
	for i, step := range path[:len(path)-1] {
		last := i == len(path)-2
		switch step := step.(type) {
		case string:
			if m := at.(map[string]any); last {
				m[step] = path[len(path)-1]
			} else {
				at = m[step]
			}
		case int:
			at = at.([]any)[step]
		}
	}
	changed, err := json.Marshal(root)
	if err != nil {
		t.Fatal(err)
	}
	return changed
}

func TestUnreadableKeyFile(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, keys.FileName), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := keys.Open(dir); err == nil || !strings.Contains(err.Error(), keys.FileName) {
		t.Errorf("a directory as key file: %v", err)
	}
}

func TestDirectoryThatCannotBe(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	write(t, file, nil, 0o600)
	_, err := keys.Open(filepath.Join(file, "store"))
	if err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("a store below a file: %v, want an error that names it", err)
	}
}

// A disk that turns read-only keeps what there is, and a store on it can be used: its numbers go by the clock once those that
// are reserved are used up, and are reserved again when the disk can be written.
func TestReadOnlyDirectory(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	identity, key := s.Identity().Public(), s.Generations()[0].Private.Public()
	before := next(t, s)
	unmount := mountReadOnly(t, dir)
	if n := next(t, s); n != before+1 {
		t.Errorf("the next of the reserved numbers is %d; want %d", n, before+1)
	}
	raised := before + 1<<20
	if err := s.RaiseSequence(raised); err != nil {
		t.Errorf("raising the sequence: %v", err)
	}
	if n := next(t, s); n != raised+1 {
		t.Errorf("%d after %d was seen", n, raised)
	}
	closeStore(t, s)
	again := open(t, dir)
	if again.Identity().Public() != identity || again.Generations()[0].Private.Public() != key {
		t.Error("a read-only store has other keys")
	}
	if n := next(t, again); n <= before+1 {
		t.Errorf("%d after %d", n, before+1)
	}
	if _, err := again.RequestRotation(); !errors.Is(err, unix.EROFS) {
		t.Errorf("a request for another key: %v, want EROFS", err)
	}
	if _, err := keys.Open(dir); !errors.Is(err, keys.ErrInUse) {
		t.Errorf("a read-only store is opened twice: %v", err)
	}
	last := next(t, again)
	unmount()
	last = max(last, next(t, again)) // which reserves
	closeStore(t, again)
	if n := next(t, open(t, dir)); n < last+1<<15 {
		t.Errorf("%d after %d was used, and others reserved", n, last)
	}
	empty := t.TempDir()
	mountReadOnly(t, empty)
	if _, err := keys.Open(filepath.Join(empty, "store")); !errors.Is(err, unix.EROFS) {
		t.Errorf("making a store on a read-only disk: %v, want EROFS", err)
	}
	if _, err := keys.Open(empty); !errors.Is(err, unix.EROFS) {
		t.Errorf("making keys on a read-only disk: %v, want EROFS", err)
	}
}

// A store whose lock is gone, on a disk that can't be written, is held by its directory; what is open to others, or half
// written, waits until it can be.
func TestReadOnlyWithoutLock(t *testing.T) {
	dir := t.TempDir()
	closeStore(t, open(t, dir))
	if err := errors.Join(os.Remove(filepath.Join(dir, "lock")), os.Chmod(filepath.Join(dir, keys.FileName), 0o644)); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, ".keys.json1234567"), []byte("{"), 0o600)
	mountReadOnly(t, dir)
	open(t, dir)
	if _, err := keys.Open(dir); !errors.Is(err, keys.ErrInUse) {
		t.Errorf("it is opened twice: %v", err)
	}
}

// mountReadOnly makes dir read-only, also for root, until the test ends or what it returns is called.
func mountReadOnly(t *testing.T, dir string) (unmount func()) {
	t.Helper()
	if err := unix.Mount(dir, dir, "", unix.MS_BIND, ""); err != nil {
		t.Fatalf("this test needs root, to mount %s read-only: %v", dir, err)
	}
	unmount = sync.OnceFunc(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Errorf("unmounting %s: %v", dir, err)
		}
	})
	t.Cleanup(unmount)
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""); err != nil {
		t.Fatalf("mounting %s read-only: %v", dir, err)
	}
	return unmount
}

func TestGenerationsAreCopies(t *testing.T) {
	s := open(t, t.TempDir())
	s.Generations()[0] = keys.Generation{Number: 9}
	if got := s.Generations()[0].Number; got != 0 {
		t.Errorf("a caller changed the store: generation %d", got)
	}
}

func ExampleCorruptError() {
	fmt.Println(&keys.CorruptError{Path: "/var/lib/weaveguard/keys.json", Err: errors.New("it is empty")})
	// Output: /var/lib/weaveguard/keys.json can't be used: it is empty; restore it from a backup, or move it away: the node then makes new keys and comes back under a new identity
}
