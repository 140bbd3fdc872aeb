package attach

import (
	"context"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/weaveguard/weaveguard/cni/store"
	"github.com/weaveguard/weaveguard/mesh/backoff"
)

const (
	// watchInterval is how often directories are looked for that are others by now, and missingInterval while one isn't
	// watched, such as one that somebody took away and Apply is about to make again; that gets longer up to pollInterval.
	watchInterval   = 5 * time.Second
	missingInterval = 250 * time.Millisecond
	// pollInterval is how often files are looked at that can't be watched.
	pollInterval = time.Second
	// maxUnwatched is the longest pause before it is tried again to watch any.
	maxUnwatched = time.Minute
)

// Watch calls changed after each change of a file that Apply keeps, or of another network configuration beside ours, whoever
// made it, until ctx ends; then it returns nil. Changed must not block: it sets a latch. Files that can't be watched, as the
// host has no room for more of it, are looked at each second, and it is tried again to watch them.
func (a *Attach) Watch(ctx context.Context, changed func()) error {
	newWatcher := a.cfg.NewWatcher
	if newWatcher == nil {
		newWatcher = fsnotify.NewWatcher
	}
	again := backoff.Backoff{Min: 2 * pollInterval, Max: maxUnwatched}
	said, seen := false, a.stamps()
	for ctx.Err() == nil {
		watcher, err := newWatcher()
		if err == nil {
			if said {
				a.cfg.Log.InfoContext(ctx, "CNI files are watched again")
				changed()
			}
			a.watch(ctx, watcher, changed)
			return nil
		}
		if !said {
			a.cfg.Log.WarnContext(ctx, "CNI files can't be watched, and are looked at each second instead; see fs.inotify.max_user_instances", "error", err)
			said = true
		}
		seen = a.poll(ctx, again.Next(), seen, changed)
	}
	return nil
}

// poll looks at the files from time to time, for so long, and returns how they are then.
func (a *Attach) poll(ctx context.Context, until time.Duration, seen map[string]stamp, changed func()) map[string]stamp {
	ctx, cancel := context.WithTimeout(ctx, until)
	defer cancel()
	for {
		select {
		case <-ctx.Done():
			return seen
		case <-time.After(backoff.Around(pollInterval, nil)):
		}
		now := a.stamps()
		if !maps.Equal(now, seen) {
			changed()
		}
		seen = now
	}
}

// stamps are those of all files that Watch tells of.
func (a *Attach) stamps() map[string]stamp {
	all := make(map[string]stamp)
	for _, dir := range a.watched() {
		entries, err := os.ReadDir(dir)
		if err != nil {
			continue // which the difference shows
		}
		for _, e := range entries {
			path := filepath.Join(dir, e.Name())
			if !a.concerns(fsnotify.Event{Name: path, Op: fsnotify.Remove}) {
				continue
			}
			if s, err := stampOf(path); err == nil {
				all[path] = s
			}
		}
	}
	return all
}

// watch is Watch with a watcher, which it closes.
func (a *Attach) watch(ctx context.Context, watcher *fsnotify.Watcher, changed func()) {
	defer func() { _ = watcher.Close() }()
	// Apart from the loop: the watcher says errors, such as that there was too much at once, with a lock that Add waits for.
	go func() { // ends with the watcher
		for range watcher.Errors {
			changed()
		}
	}()
	watched := make(map[string]fs.FileInfo)
	missing := backoff.Backoff{Min: missingInterval, Max: pollInterval}
	var seen map[string]stamp // as they were while one couldn't be watched
	again := time.NewTimer(0)
	defer again.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-again.C:
		case event := <-watcher.Events:
			_, gone := watched[event.Name] // or moved away, or its mode is another one
			if gone {
				delete(watched, event.Name)
				missing.Reset()
			}
			if gone || a.concerns(event) {
				changed()
			}
		}
		all := true
		for _, dir := range a.watched() {
			is, known := follow(watcher, dir, watched)
			if is && !known {
				changed() // what happened in it before nobody saw
			}
			all = all && (is || a.storeless(dir))
		}
		if all {
			missing.Reset()
			seen = nil
			again.Reset(watchInterval)
			continue
		}
		now := a.stamps()
		if seen != nil && !maps.Equal(now, seen) {
			changed()
		}
		seen = now
		again.Reset(missing.Next())
	}
}

// follow watches a directory, also when it is another one by now, and reports whether it is there and whether the same one was
// watched before. One that isn't there is made by Apply.
func follow(watcher *fsnotify.Watcher, dir string, watched map[string]fs.FileInfo) (is, known bool) {
	info, err := os.Stat(dir)
	if err == nil {
		err = watcher.Add(dir)
	}
	if err != nil {
		delete(watched, dir)
		return false, false
	}
	before := watched[dir]
	watched[dir] = info
	return true, before != nil && os.SameFile(before, info)
}

// watched are the directories of the files that Apply keeps, or puts back.
func (a *Attach) watched() []string {
	dirs := []string{filepath.Dir(a.cfg.ReadyFile), store.AttachmentsIn(a.cfg.StoreDir)}
	if a.cfg.PluginDir != "" {
		dirs = append(dirs, a.cfg.ConfDir, a.cfg.BinDir)
	}
	return dirs
}

// storeless reports whether a directory is the store's, which isn't there before the first pod.
func (a *Attach) storeless(dir string) bool {
	if dir != store.AttachmentsIn(a.cfg.StoreDir) {
		return false
	}
	_, err := os.Stat(a.cfg.StoreDir)
	return errors.Is(err, fs.ErrNotExist)
}

// concerns reports whether a file is one that Apply keeps, or that a runtime may take in place of our configuration, or an attachment
// that was removed, by whomever, or written to, which the plugin never does.
func (a *Attach) concerns(event fsnotify.Event) bool {
	path := event.Name
	switch name := filepath.Base(path); filepath.Dir(path) {
	case store.AttachmentsIn(a.cfg.StoreDir):
		return event.Has(fsnotify.Remove) || event.Has(fsnotify.Rename) || event.Has(fsnotify.Write) && filepath.Ext(name) == ".json"
	case filepath.Dir(a.cfg.ReadyFile):
		return path == a.cfg.ReadyFile
	case a.cfg.ConfDir:
		return isConfiguration(name)
	case a.cfg.BinDir:
		return slices.Contains(plugins(), name)
	}
	return false
}
