package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weaveguard/weaveguard/keys"
	"github.com/weaveguard/weaveguard/keys/keystest"
)

// fakeSource is a keyring that a test changes.
type fakeSource struct {
	ring keys.Keyring
	err  error
}

func (s *fakeSource) read(context.Context) (keys.Keyring, error) { return s.ring, s.err }
func (s *fakeSource) foreign() error                             { return errors.New("foreign") }
func (s *fakeSource) pace() (interval, hold time.Duration)       { return 10 * time.Second, 30 * time.Second }

// follows runs a follower on a fake clock: script changes the source, and calls wait to let time go by.
func follows(t *testing.T, unread bool, script func(s *fakeSource, wait func(time.Duration), state func() string)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		source := &fakeSource{ring: keystest.Ring("a")}
		used, kept, changes := keystest.Ring("a"), keystest.Ring("a"), 0
		f := newKeyringFollower(source, keys.NewFollowed(used), func(ring keys.Keyring) error {
			used = ring
			return nil
		})
		f.keep = func(ring keys.Keyring) error {
			kept = ring
			return nil
		}
		f.changed = func() { changes++ }
		f.unread = unread
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- f.run(ctx) }()
		script(source, func(d time.Duration) {
			time.Sleep(d)
			synctest.Wait()
		}, func() string {
			text := keystest.Letters(used) + " " + keystest.Letters(kept)
			for _, p := range f.problems() {
				text += " " + p.Message
			}
			if changes > 9 {
				t.Errorf("told %d times of another problem", changes)
			}
			return text
		})
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// Whatever the operator does at once, a new key encrypts after a hold, and the old one decrypts for another.
func TestFollowKeyring(t *testing.T) {
	t.Parallel()
	follows(t, false, func(s *fakeSource, wait func(time.Duration), state func() string) {
		check := func(d time.Duration, want string) {
			t.Helper()
			wait(d)
			if got := state(); got != want {
				t.Errorf("after %s more: %q, want %q", d, got, want)
			}
		}
		check(time.Minute, "a a")
		s.ring = keystest.Ring("ba")
		check(13*time.Second, "ab ab")
		s.ring = keystest.Ring("b")
		check(13*time.Second, "ab ab")
		check(40*time.Second, "ba ba")
		check(time.Minute, "b b")
	})
}

// A source at fault changes nothing, is told of once, and no more when it is good again.
func TestFollowKeyringKeepsWhatItHas(t *testing.T) {
	t.Parallel()
	follows(t, false, func(s *fakeSource, wait func(time.Duration), state func() string) {
		has := "; the agent keeps the keyring that it has (" + keys.Fingerprint(keystest.Ring("a")[0]) + ")"
		for _, step := range []struct {
			ring keys.Keyring
			err  error
			want string
		}{
			{nil, errors.New("emptied"), "a a emptied" + has},
			{nil, errUnknown, "a a emptied" + has},
			{keystest.Ring("x"), nil, "a a foreign" + has},
			{keystest.Ring("a"), nil, "a a"},
			{nil, errUnknown, "a a"},
			{nil, errors.New("deleted"), "a a deleted" + has},
			{keystest.Ring("a"), nil, "a a"},
		} {
			s.ring, s.err = step.ring, step.err
			wait(5 * time.Minute)
			if got := state(); got != step.want {
				t.Errorf("%v, %v: %q, want %q", step.ring, step.err, got, step.want)
			}
		}
	})
}

// An agent that started while the API server was away may have missed everything since: it takes what is there then.
func TestFollowKeyringAfterAStartInTheDark(t *testing.T) {
	t.Parallel()
	follows(t, true, func(s *fakeSource, wait func(time.Duration), state func() string) {
		s.ring, s.err = nil, errUnknown
		wait(time.Minute)
		s.ring, s.err = keystest.Ring("x"), nil
		wait(time.Minute)
		if got := state(); got != "x x" {
			t.Errorf("%q, want the new keyring", got)
		}
		s.ring = keystest.Ring("y")
		wait(time.Minute)
		if got := state(); !strings.HasPrefix(got, "x x foreign") {
			t.Errorf("%q, want the keyring kept this time", got)
		}
	})
}

// The file is read as it changes, and what is wrong with it is told without what is in it.
func TestKeyringFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "ring")
	f := &keyringFile{path: path}
	read := func() (keys.Keyring, error) {
		t.Helper()
		if ring, err := f.read(t.Context()); !errors.Is(err, errUnknown) {
			t.Errorf("what was read once counts: %v, %v", ring, err)
		}
		return f.read(t.Context())
	}
	if _, err := f.read(t.Context()); !errors.Is(err, errUnknown) {
		t.Errorf("no file, once: %v", err)
	}
	_, err := f.read(t.Context())
	if message, remedy := explainKeyring(err); !strings.Contains(message, "doesn't exist") || remedy == "" {
		t.Errorf("no file: %q, %q", message, remedy)
	}
	for text, want := range map[string]string{
		"":         "no gossip key",
		"secretly": "line 1",
		string(keystest.Ring("a").Text()) + "sec": "line 2",
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := read()
		message, remedy := explainKeyring(err)
		if !strings.Contains(message, want) || !strings.Contains(message, path) || remedy == "" || strings.Contains(message, "sec") {
			t.Errorf("%q, %q; want %q in it", message, remedy, want)
		}
	}
	if err := keystest.Ring("ab").Save(path); err != nil {
		t.Fatal(err)
	}
	if ring, err := read(); err != nil || keystest.Letters(ring) != "ab" {
		t.Errorf("%s, %v", keystest.Letters(ring), err)
	}
	if ring, err := f.read(t.Context()); err != nil || keystest.Letters(ring) != "ab" {
		t.Errorf("read again: %s, %v", keystest.Letters(ring), err)
	}
}
