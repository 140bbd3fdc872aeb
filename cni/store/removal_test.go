package store_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/weaveguard/weaveguard/cni/poll"
	"github.com/weaveguard/weaveguard/cni/store"
)

// removals is a store with attachments that are removed by many at once, each of which is in the place of a process.
type removals struct {
	*testing.T
	s      *store.Store
	dir    string
	mu     sync.Mutex
	groups [][]string // the containers that were detached together
	seen   []store.Attachment
	bad    map[string]error // by container: what detach says
	before func()           // called by each detach
}

func newRemovals(t *testing.T, count int) (*removals, []store.ID) {
	t.Helper()
	r := &removals{T: t, dir: t.TempDir(), bad: map[string]error{}, before: func() {}}
	r.s = open(t, r.dir)
	tx := lock(t, r.s)
	defer unlock(t, tx)
	var ids []store.ID
	for i := range count {
		a := attachment(fmt.Sprint("c", i), fmt.Sprintf("10.32.6.%d", i+2))
		put(t, tx, a)
		ids = append(ids, a.ID)
	}
	return r, ids
}

func (r *removals) detach(all []store.Attachment) []error {
	r.before()
	r.mu.Lock()
	defer r.mu.Unlock()
	errs := make([]error, len(all))
	var names []string
	for i, a := range all {
		errs[i] = r.bad[a.ContainerID]
		names = append(names, a.ContainerID)
	}
	r.groups, r.seen = append(r.groups, names), append(r.seen, all...)
	return errs
}

func (r *removals) remove(id store.ID) error {
	ctx, cancel := context.WithTimeout(r.Context(), 20*time.Second)
	defer cancel()
	return r.s.RemoveTogether(ctx, id, r.detach)
}

// marked waits until so many are marked.
func (r *removals) marked(count int) {
	r.Helper()
	ctx, cancel := context.WithTimeout(r.Context(), 20*time.Second)
	defer cancel()
	if err := poll.Until(ctx, func() (bool, error) { return r.count("removals") == count, nil }); err != nil {
		r.Errorf("%d are marked, want %d: %v", r.count("removals"), count, err)
	}
}

func (r *removals) count(dir string) int {
	entries, err := os.ReadDir(filepath.Join(r.dir, dir))
	if err != nil {
		r.Error(err)
	}
	return len(entries)
}

func (r *removals) wantLeft(count int) {
	r.Helper()
	for _, dir := range []string{"attachments", "addresses"} {
		if left := r.count(dir); left != count {
			r.Errorf("%d %s are left, want %d", left, dir, count)
		}
	}
	if left := r.count("removals"); left > 0 {
		r.Errorf("%d marks are left", left)
	}
}

// While one removes its own, others come: the next removes all of theirs.
func TestRemoveTogether(t *testing.T) {
	const count = store.Together + 30
	r, ids := newRemovals(t, count)
	r.before = sync.OnceFunc(func() { r.marked(count) })
	var all sync.WaitGroup
	for _, id := range ids {
		all.Go(func() {
			if err := r.remove(id); err != nil {
				t.Errorf("%s: %v", id, err)
			}
		})
	}
	all.Wait()
	r.wantLeft(0)
	removed := 0
	for _, group := range r.groups {
		removed += len(group)
	}
	if len(r.groups) > 3 || removed != count {
		t.Errorf("they were removed in groups of %v", r.groups)
	}
	for _, group := range r.groups {
		if len(group) > store.Together {
			t.Errorf("%d at once", len(group))
		}
	}
}

// What can't be removed fails in its own process, and in no other.
func TestRemoveTogetherFailsForOneAlone(t *testing.T) {
	r, ids := newRemovals(t, 3)
	broken := errors.New("broken")
	r.bad["c1"] = broken
	r.before = sync.OnceFunc(func() { r.marked(3) })
	var all sync.WaitGroup
	for i, id := range ids {
		all.Go(func() {
			err := r.remove(id)
			if want := r.bad[id.ContainerID]; !errors.Is(err, want) {
				t.Errorf("%d: %v, want %v", i, err, want)
			}
		})
	}
	all.Wait()
	r.wantLeft(1)
	clear(r.bad)
	if err := r.remove(ids[1]); err != nil {
		t.Error(err)
	}
	r.wantLeft(0)
}

func TestRemoveTogetherOfWhatIsNotStored(t *testing.T) {
	r, ids := newRemovals(t, 1)
	if err := r.remove(store.ID{ContainerID: "none", IfName: "eth0"}); !errors.Is(err, store.ErrAlone) {
		t.Errorf("one that isn't stored: %v", err)
	}
	path := filepath.Join(r.s.AttachmentsDir(), r.only("attachments"))
	if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := r.remove(ids[0]); !errors.Is(err, store.ErrAlone) {
		t.Errorf("a damaged one: %v", err)
	}
	r.wantLeft(1)
	other := attachment("other", "10.32.5.9")
	tx := lock(t, r.s)
	put(t, tx, other)
	unlock(t, tx)
	r.copy(other.ID, path)
	if err := r.remove(ids[0]); !errors.Is(err, store.ErrAlone) || len(r.groups) > 0 {
		t.Errorf("one whose file has another: %v, and removed were %v", err, r.groups)
	}
	marks := filepath.Join(r.dir, "removals")
	if err := errors.Join(os.RemoveAll(marks), os.Symlink("/dev/null/none", marks)); err != nil { // there is no room for it
		t.Fatal(err)
	}
	if err := open(t, r.dir).RemoveTogether(t.Context(), other.ID, r.detach); !errors.Is(err, store.ErrAlone) {
		t.Errorf("without a directory for marks: %v", err)
	}
}

// copy makes the file at path like an attachment's.
func (r *removals) copy(id store.ID, path string) {
	r.Helper()
	matches, err := filepath.Glob(filepath.Join(r.s.AttachmentsDir(), id.ContainerID+".*"))
	if err != nil || len(matches) != 1 {
		r.Fatal(matches, err)
	}
	b, err := os.ReadFile(matches[0])
	if err := errors.Join(err, os.WriteFile(path, b, 0o600)); err != nil {
		r.Fatal(err)
	}
}

func (r *removals) only(dir string) string {
	r.Helper()
	entries, err := os.ReadDir(filepath.Join(r.dir, dir))
	if err != nil || len(entries) != 1 {
		r.Fatal(entries, err)
	}
	return entries[0].Name()
}

// A process that was killed leaves its mark. The next removes that attachment too, unless it is another by now.
func TestMarkOfAKilledProcess(t *testing.T) {
	mark := func(r *removals, container string) {
		r.Helper()
		matches, err := filepath.Glob(filepath.Join(r.s.AttachmentsDir(), container+".*"))
		if err != nil || len(matches) != 1 {
			r.Fatal(matches, err)
		}
		if err := os.Link(matches[0], filepath.Join(r.dir, "removals", filepath.Base(matches[0]))); err != nil {
			r.Fatal(err)
		}
	}
	t.Run("is removed", func(t *testing.T) {
		r, ids := newRemovals(t, 3)
		mark(r, "c0")
		if err := r.remove(ids[1]); err != nil {
			t.Fatal(err)
		}
		r.wantLeft(1)
	})
	again := func(t *testing.T) (*removals, []store.ID) {
		r, ids := newRemovals(t, 2)
		mark(r, "c0")
		tx := lock(t, r.s)
		defer unlock(t, tx)
		if err := tx.Remove(ids[0]); err != nil {
			t.Fatal(err)
		}
		put(t, tx, attachment("c0", "10.32.5.9"))
		return r, ids
	}
	t.Run("is of what isn't stored any more", func(t *testing.T) {
		r, ids := newRemovals(t, 2)
		mark(r, "c0")
		tx := lock(t, r.s)
		if err := tx.Remove(ids[0]); err != nil {
			t.Fatal(err)
		}
		unlock(t, tx)
		if err := r.remove(ids[1]); err != nil {
			t.Fatal(err)
		}
		if len(r.seen) != 1 {
			t.Errorf("detached were %v", r.groups) // and with them what is attached again by then
		}
		r.wantLeft(0)
	})
	t.Run("is another", func(t *testing.T) {
		r, ids := again(t)
		if err := r.remove(ids[1]); err != nil {
			t.Fatal(err)
		}
		r.wantLeft(1)
		if err := r.remove(ids[0]); err != nil {
			t.Fatal(err)
		}
		r.wantLeft(0)
	})
	t.Run("is another, and that is removed", func(t *testing.T) {
		r, ids := again(t)
		if err := r.remove(ids[0]); err != nil {
			t.Fatal(err)
		}
		r.wantLeft(1)
	})
	t.Run("is swept", func(t *testing.T) {
		r, ids := again(t)
		mark(r, "c1")
		tx := lock(t, r.s)
		if err := tx.Sweep(); err != nil {
			t.Fatal(err)
		}
		if left := r.count("removals"); left != 1 {
			t.Errorf("%d marks are left, want that of what is stored", left)
		}
		unlock(t, tx)
		if err := r.remove(ids[1]); err != nil {
			t.Fatal(err)
		}
		r.wantLeft(1)
	})
}

// While this one waits, its attachment is written anew. It removes that.
func TestRemoveTogetherOfWhatIsWrittenAnew(t *testing.T) {
	r, ids := newRemovals(t, 2)
	var second sync.WaitGroup
	r.before = sync.OnceFunc(func() {
		second.Go(func() {
			if err := r.remove(ids[1]); err != nil {
				t.Error(err)
			}
		})
		r.marked(2)
		tx := lock(t, r.s)
		defer unlock(t, tx)
		if err := tx.Remove(ids[1]); err != nil {
			t.Error(err)
		}
		put(t, tx, attachment("c1", "10.32.5.9"))
	})
	if err := r.remove(ids[0]); err != nil {
		t.Fatal(err)
	}
	second.Wait()
	r.wantLeft(0)
	if last := r.seen[len(r.seen)-1]; fmt.Sprint(last.Addresses) != "[10.32.5.9]" {
		t.Errorf("detached last was %+v", last)
	}
}

// Who can't get the lock in time says so, and leaves no mark.
func TestRemoveTogetherGivesUp(t *testing.T) {
	r, ids := newRemovals(t, 2)
	ctx, cancel := context.WithCancel(t.Context())
	r.before = sync.OnceFunc(func() {
		go func() {
			r.marked(2)
			cancel()
		}()
		if err := r.s.RemoveTogether(ctx, ids[1], r.detach); !errors.Is(err, context.Canceled) {
			t.Errorf("it ended with %v", err)
		}
	})
	if err := r.remove(ids[0]); err != nil {
		t.Fatal(err)
	}
	r.wantLeft(1)
}
