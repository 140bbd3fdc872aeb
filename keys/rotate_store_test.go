package keys_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weaveguard/weaveguard/keys"
)

// advance takes a store one step on.
func advance(t *testing.T, s *keys.Store, o keys.Observation) keys.Rotation {
	t.Helper()
	if o.Now.IsZero() {
		o.Now = noon
	}
	o.Pruned = true
	r, err := s.Advance(func(r keys.Rotation) keys.Rotation {
		next, _ := keys.Step(r, o)
		return next
	})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func request(t *testing.T, s *keys.Store) (already bool) {
	t.Helper()
	already, err := s.RequestRotation()
	if err != nil {
		t.Fatal(err)
	}
	return already
}

// A rotation goes on from where it was after each change, however often the agent is killed; the old key stays until
// the end, and is then nowhere any more.
func TestRotationSurvivesCrashes(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := open(t, dir)
	crash := func() {
		t.Helper()
		closeStore(t, s)
		s = open(t, dir)
	}
	secret := s.Generations()[0].Private.Bytes()
	if request(t, s) || !request(t, s) {
		t.Error("the first request was noted already, or the second wasn't")
	}
	crash()
	if r := advance(t, s, keys.Observation{}); !slices.Equal(r.Generations, []uint32{0, 1}) || r.Announced || r.Requested {
		t.Fatalf("after the request: %+v", r)
	}
	crash()
	next := s.Generations()[1].Private.Public()
	if request(t, s) {
		t.Error("a request while one is under way was noted already")
	}
	if r := advance(t, s, keys.Observation{Prepared: true}); !r.Announced {
		t.Fatalf("when all stood: %+v", r)
	}
	crash()
	old := s.Generations()[0].Private
	if r := s.Rotation(); !r.Announced || !r.Requested || !r.MadeAt.Equal(noon) {
		t.Errorf("after a crash: %+v", r)
	}
	advance(t, s, keys.Observation{})
	if r := advance(t, s, keys.Observation{Now: noon.Add(time.Minute)}); !slices.Equal(r.Generations, []uint32{1}) || !r.Requested {
		t.Fatalf("at the end: %+v", r)
	}
	if held := s.Generations(); held[0].Private.Public() != next {
		t.Error("the next key isn't the one that was announced")
	}
	if old.Bytes() != [32]byte{} {
		t.Error("the old key is still in memory")
	}
	raw := read(t, filepath.Join(dir, keys.FileName))
	if bytes.Contains(raw, []byte(base64.StdEncoding.EncodeToString(secret[:]))) {
		t.Error("the old key is still on disk")
	}
	crash()
	if r := s.Rotation(); !slices.Equal(r.Generations, []uint32{1}) || !r.Requested {
		t.Errorf("after the end: %+v", r)
	}
}

// What can't be written doesn't happen: the request, a next key, the end of the old one.
func TestRotationOnAReadOnlyDisk(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := open(t, dir)
	unmount := mountReadOnly(t, dir)
	if _, err := s.RequestRotation(); err == nil || !strings.Contains(err.Error(), "read-only") {
		t.Errorf("a request on a read-only disk: %v", err)
	}
	unmount()
	request(t, s)
	unmount = mountReadOnly(t, dir)
	_, err := s.Advance(func(r keys.Rotation) keys.Rotation {
		next, _ := keys.Step(r, keys.Observation{Now: noon, Pruned: true})
		return next
	})
	if r := s.Rotation(); err == nil || !slices.Equal(r.Generations, []uint32{0}) || !r.Requested || len(s.Generations()) != 1 {
		t.Errorf("a next key on a read-only disk: %v, %+v", err, r)
	}
	unmount()
	advance(t, s, keys.Observation{})
	advance(t, s, keys.Observation{Prepared: true})
	unmount = mountReadOnly(t, dir)
	_, err = s.Advance(func(r keys.Rotation) keys.Rotation {
		next, _ := keys.Step(r, keys.Observation{Now: noon, Force: true})
		return next
	})
	if err == nil || len(s.Generations()) != 2 || s.Generations()[0].Private.Bytes() == [32]byte{} {
		t.Errorf("the end of a key on a read-only disk: %v", err)
	}
	unmount()
}

// No step may skip, repeat or lose a generation.
func TestAdvanceRefuses(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir())
	for _, generations := range [][]uint32{{1}, {0, 2}, {0, 1, 2}} {
		before := s.Rotation()
		_, err := s.Advance(func(r keys.Rotation) keys.Rotation {
			r.Generations = generations
			return r
		})
		if err == nil || !slices.Equal(s.Rotation().Generations, before.Generations) {
			t.Errorf("from %v to %v: %v", before.Generations, generations, err)
		}
	}
}

// The last generation has no next one: a number is never used again.
func TestLastGeneration(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	closeStore(t, open(t, dir))
	path := filepath.Join(dir, keys.FileName)
	write(t, path, set(t, read(t, path), []any{"generations", 0, "number", uint32(math.MaxUint32)}), 0o600)
	s := open(t, dir)
	request(t, s)
	_, err := s.Advance(func(r keys.Rotation) keys.Rotation {
		next, _ := keys.Step(r, keys.Observation{Now: noon, Pruned: true})
		return next
	})
	if err == nil || !strings.Contains(err.Error(), "last one") || len(s.Generations()) != 1 || s.Generations()[0].Number != math.MaxUint32 {
		t.Errorf("after the last generation: %v, %+v", err, s.Rotation())
	}
}

// An error is the same each time: whoever shows it while it lasts has no news.
func TestDiskErrorsAreAlike(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := open(t, dir)
	defer mountReadOnly(t, dir)()
	_, first := s.RequestRotation()
	_, second := s.RequestRotation()
	if first == nil || second == nil || first.Error() != second.Error() || !strings.Contains(first.Error(), keys.FileName) {
		t.Errorf("a request on a read-only disk: %v, and again: %v", first, second)
	}
}

// A file of an agent that didn't rotate is taken; its key was made when it was written.
func TestFileWithoutRotation(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := open(t, dir)
	closeStore(t, s)
	path := filepath.Join(dir, keys.FileName)
	raw := read(t, path)
	for _, field := range []string{"announced", "madeAt"} {
		raw = drop(t, raw, field)
	}
	write(t, path, raw, 0o600)
	s = open(t, dir)
	r := s.Rotation()
	if age := time.Since(r.MadeAt); !r.Announced || r.Requested || age < 0 || age > time.Hour {
		t.Errorf("it is %+v", r)
	}
}

// drop removes a field of a JSON object.
func drop(t *testing.T, raw []byte, field string) []byte {
	t.Helper()
	var all map[string]json.RawMessage
	if err := json.Unmarshal(raw, &all); err != nil {
		t.Fatal(err)
	}
	if _, has := all[field]; !has {
		t.Fatalf("there is no %q in %s", field, raw)
	}
	delete(all, field)
	changed, err := json.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	return changed
}
