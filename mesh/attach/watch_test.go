package attach_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/weaveguard/weaveguard/mesh/attach"
	"github.com/weaveguard/weaveguard/test/output"
)

// watching is a Watch under way.
type watching struct {
	*testing.T
	told chan struct{} // as the agent's latch
	end  context.CancelFunc
	done chan error
}

func watch(t *testing.T, a *attach.Attach) *watching {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	w := &watching{T: t, told: make(chan struct{}, 1), end: cancel, done: make(chan error, 1)}
	go func() {
		w.done <- a.Watch(ctx, func() {
			select {
			case w.told <- struct{}{}:
			default:
			}
		})
	}()
	return w
}

// hears waits until a change is told.
func (w *watching) hears(what string) {
	w.Helper()
	select {
	case <-w.told:
	case <-time.After(4 * time.Second): // sooner than directories are looked for that need not be
		w.Fatalf("nothing is told of %s", what)
	}
}

// settles waits until nothing more is told.
func (w *watching) settles() {
	for {
		select {
		case <-w.told:
		case <-time.After(time.Second):
			return
		}
	}
}

// ends ends it.
func (w *watching) ends() {
	w.Helper()
	w.end()
	select {
	case err := <-w.done:
		if err != nil {
			w.Error(err)
		}
	case <-time.After(10 * time.Second):
		w.Fatal("it doesn't end")
	}
}

// What somebody does to our files is told, also when their directory went and is another one since.
func TestWatch(t *testing.T) {
	t.Parallel()
	cfg := host(t)
	a := attach.New(cfg)
	apply(t, a, ready(), 4)
	attached(t, cfg.StoreDir, "c1", "10.32.5.2")
	w := watch(t, a)
	defer w.ends()
	w.hears("what happened before")
	for _, step := range []struct {
		what string
		do   func() error
	}{
		{"a configuration that is removed", func() error { return os.Remove(filepath.Join(cfg.ConfDir, attach.ConflistName)) }},
		{"a plugin that is changed", func() error { return os.WriteFile(filepath.Join(cfg.BinDir, "weaveguard"), nil, 0o755) }},
		{"a ready file that is removed", func() error { return os.Remove(cfg.ReadyFile) }},
		{"attachments that are removed", func() error { return os.RemoveAll(cfg.StoreDir) }},
		{"an empty directory that is removed", func() error {
			err := os.RemoveAll(cfg.ConfDir)
			w.settles()
			err = errors.Join(err, os.Mkdir(cfg.ConfDir, 0o755))
			w.hears("a directory that is back")
			return errors.Join(err, os.Remove(cfg.ConfDir))
		}},
		{"a directory that is moved away", func() error { return os.Rename(cfg.BinDir, cfg.BinDir+".old") }},
	} {
		w.settles()
		if err := step.do(); err != nil {
			t.Fatal(err)
		}
		w.hears(step.what)
		if _, err := a.Apply(t.Context(), ready()); err != nil {
			t.Fatal(err)
		}
	}
	w.settles()
	for _, path := range []string{filepath.Join(cfg.ConfDir, attach.ConflistName), filepath.Join(cfg.BinDir, "weaveguard")} {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		w.hears(path + " in a directory that was made again")
		w.settles()
	}
}

// A directory that comes and goes all the time doesn't bring the watch to a halt.
func TestWatchGoesOn(t *testing.T) {
	t.Parallel()
	cfg := host(t)
	a := attach.New(cfg)
	apply(t, a, ready(), 4)
	w := watch(t, a)
	w.hears("what happened before")
	for begin := time.Now(); time.Since(begin) < 2*time.Second; {
		for i := range 3 {
			write(t, filepath.Join(cfg.ConfDir, fmt.Sprint(i, ".conf")), "")
			write(t, filepath.Join(cfg.BinDir, "other"), "") // so that what is gone is looked for at once
		}
		if err := errors.Join(os.Rename(cfg.ConfDir, cfg.ConfDir+".old"), os.RemoveAll(cfg.ConfDir+".old")); err != nil {
			t.Fatal(err)
		}
	}
	write(t, filepath.Join(cfg.ConfDir, attach.ConflistName), "")
	w.settles()
	write(t, filepath.Join(cfg.ConfDir, attach.ConflistName), "{}")
	w.hears("a change at last")
	w.ends()
}

// Where the host has no room to watch files, they are looked at each second, which is said once; and watched once there is room.
func TestWatchWithoutRoom(t *testing.T) {
	t.Parallel()
	cfg := host(t)
	var log output.Buffer
	cfg.Log = slog.New(slog.NewTextHandler(&log, nil))
	var tries atomic.Int32
	watched := make(chan struct{})
	cfg.NewWatcher = func() (*fsnotify.Watcher, error) {
		if tries.Add(1) <= 2 {
			return nil, syscall.EMFILE
		}
		close(watched)
		return fsnotify.NewWatcher()
	}
	a := attach.New(cfg)
	apply(t, a, ready(), 4)
	at := attached(t, cfg.StoreDir, "c1", "10.32.5.2")
	w := watch(t, a)
	defer w.ends()
	for what, do := range map[string]func() error{
		"a configuration that is removed": func() error { return os.Remove(filepath.Join(cfg.ConfDir, attach.ConflistName)) },
		"a plugin that is changed":        func() error { return os.WriteFile(filepath.Join(cfg.BinDir, "weaveguard"), nil, 0o755) },
	} {
		w.settles()
		if err := do(); err != nil {
			t.Fatal(err)
		}
		w.hears(what)
	}
	select {
	case <-watched:
	case <-time.After(20 * time.Second):
		t.Fatal("it isn't tried again to watch them")
	}
	w.hears("what may have happened meanwhile")
	w.settles()
	drop(t, cfg.StoreDir, at.ID)
	w.hears("an attachment that is removed")
	if text := log.String(); strings.Count(text, "can't be watched") != 1 || strings.Count(text, "watched again") != 1 {
		t.Errorf("the log has\n%s", text)
	}
}
