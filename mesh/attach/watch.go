package attach

import (
	"context"
	"path/filepath"
	"slices"
	"time"

	"github.com/fsnotify/fsnotify"
)

// watchInterval is how often directories are looked for that weren't there, or are others by now.
const watchInterval = 5 * time.Second

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
	again := time.NewTicker(watchInterval)
	defer again.Stop()
	for {
		for _, dir := range a.watched() {
			_ = watcher.Add(dir) // one that isn't there is made by Apply
		}
		select {
		case <-ctx.Done():
			return nil
		case <-again.C:
		case event := <-watcher.Events:
			if a.concerns(event.Name) {
				changed()
			}
		case <-watcher.Errors: // too many at once, for instance
			changed()
		}
	}
}

// watched are the directories of the files that Apply keeps.
func (a *Attach) watched() []string {
	dirs := []string{filepath.Dir(a.cfg.ReadyFile)}
	if a.cfg.PluginDir != "" {
		dirs = append(dirs, a.cfg.ConfDir, a.cfg.BinDir)
	}
	return dirs
}

// concerns reports whether a file is one that Apply keeps, or that a runtime may take in place of our configuration.
func (a *Attach) concerns(path string) bool {
	switch name := filepath.Base(path); filepath.Dir(path) {
	case filepath.Dir(a.cfg.ReadyFile):
		return path == a.cfg.ReadyFile
	case a.cfg.ConfDir:
		return isConfiguration(name)
	case a.cfg.BinDir:
		return slices.Contains(plugins(), name)
	}
	return false
}
