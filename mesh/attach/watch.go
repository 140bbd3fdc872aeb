package attach

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/weaveguard/weaveguard/cni/store"
)

const (
	// watchInterval is how often directories are looked for that are others by now, and missingInterval while one isn't
	// watched, such as one that somebody took away and Apply is about to make again.
	watchInterval   = 5 * time.Second
	missingInterval = 250 * time.Millisecond
)

// Watch calls changed after each change of a file that Apply keeps, or of another network configuration beside ours, whoever
// made it, until ctx ends; then it returns nil. Changed must not block: it sets a latch. Where files can't be watched, what
// changes is found when Apply runs next.
func (a *Attach) Watch(ctx context.Context, changed func()) error {
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		a.cfg.Log.WarnContext(ctx, "CNI files can't be watched; they are looked at from time to time", "error", err)
		return nil
	}
	defer func() { _ = watcher.Close() }()
	// Apart from the loop: the watcher says errors, such as that there was too much at once, with a lock that Add waits for.
	go func() { // ends with the watcher
		for range watcher.Errors {
			changed()
		}
	}()
	watched := make(map[string]fs.FileInfo)
	again := time.NewTimer(0)
	defer again.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-again.C:
		case event := <-watcher.Events:
			_, gone := watched[event.Name] // or moved away, or its mode is another one
			if gone {
				delete(watched, event.Name)
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
			again.Reset(watchInterval)
		} else {
			again.Reset(missingInterval)
		}
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
