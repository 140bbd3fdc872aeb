package netconf

import (
	"context"
	"time"

	"github.com/fsnotify/fsnotify"
)

const (
	// quiet is how long nothing must happen in the directory before it is read, and then how long a file that isn't there
	// must be away: an editor takes a file away and puts another one in its place. maxQuiet is how long it is waited for that.
	quiet    = 200 * time.Millisecond
	maxQuiet = 2 * time.Second
	// watchedInterval is how often the directory is read without a sign, for file systems that give none, and
	// unwatchedInterval while it can't be watched, because it isn't there or the kernel has no room.
	watchedInterval   = 10 * time.Second
	unwatchedInterval = 2 * time.Second
)

// Run follows the files until ctx ends. It returns nil.
func (n *Networks) Run(ctx context.Context) error {
	watcher, err := fsnotify.NewWatcher()
	overflow := make(chan struct{}, 1)
	if err != nil {
		n.cfg.Log.WarnContext(ctx, "network configurations can't be watched; they are read every "+unwatchedInterval.String(), "error", err)
		watcher = &fsnotify.Watcher{} // which says nothing
	} else {
		defer func() { _ = watcher.Close() }()
		// Apart from the loop: the watcher says errors with a lock that Add waits for.
		go func() { // ends with the watcher
			for range watcher.Errors {
				select {
				case overflow <- struct{}{}:
				default:
				}
			}
		}()
	}
	interval := func() time.Duration {
		if err == nil && watcher.Add(n.cfg.Dir) == nil { // also when it is another one by now
			return watchedInterval
		}
		return unwatchedInterval
	}
	due := time.NewTimer(0) // what changed before it was watched
	defer due.Stop()
	var since time.Time // of the first sign that wasn't followed by a reading; zero: there was none
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-watcher.Events:
		case <-overflow: // too many at once, for instance
		case <-due.C:
			since = time.Time{}
			next := interval() // before it is read: what changes from then on is told
			changed, again := n.read()
			if changed {
				n.cfg.Changed()
			}
			due.Reset(next)
			if again {
				due.Reset(quiet)
			}
			continue
		}
		if since.IsZero() {
			since = time.Now()
		}
		due.Reset(max(0, min(quiet, maxQuiet-time.Since(since))))
	}
}
