// Package owned keeps temporary directories that go with their owner: when that
// was killed, whoever makes the next one removes them.
package owned

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// prefix names the directories in the temporary directory.
const prefix = "wgtest-"

// ErrInUse means that a directory's owner is alive.
var ErrInUse = errors.New("the directory's owner is alive")

// Dir is a directory that is locked for as long as its owner lives, so that
// others can tell which directories are left over.
type Dir struct {
	Path string

	lock *os.File
}

// New makes an empty directory and removes what dead owners left. kind is for
// people who look at the names.
func New(kind string) (*Dir, error) {
	sweep(os.TempDir())
	// Under its first name no sweep looks at it; it gets its real name locked.
	fresh, err := os.MkdirTemp("", "."+prefix)
	if err != nil {
		return nil, fmt.Errorf("making the directory: %w", err)
	}
	lock, err := lockDir(fresh)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("locking the directory: %w", err), os.Remove(fresh))
	}
	path := filepath.Join(os.TempDir(), fmt.Sprintf("%s%s-%d-%08x", prefix, kind, os.Getpid(), rand.Uint32()))
	if err := os.Rename(fresh, path); err != nil {
		return nil, errors.Join(fmt.Errorf("naming the directory: %w", err), lock.Close(), os.Remove(fresh))
	}
	return &Dir{Path: path, lock: lock}, nil
}

// Remove removes the directory and all in it.
func (d *Dir) Remove() error {
	err := os.RemoveAll(d.Path)
	return errors.Join(err, d.lock.Close())
}

// lockDir takes the lock of a directory, or fails at once.
func lockDir(path string) (*os.File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = ErrInUse
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// Alive reports whether the owner of the directory lives.
func Alive(path string) (bool, error) {
	lock, err := lockDir(path)
	switch {
	case errors.Is(err, ErrInUse):
		return true, nil
	case errors.Is(err, fs.ErrNotExist):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("looking for the owner of %s: %w", path, err)
	}
	return false, lock.Close()
}

// sweep removes the directories in dir whose owners are dead. It is best
// effort: what it can't remove, a later sweep will.
func sweep(dir string) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	for _, e := range entries {
		if !e.IsDir() || !strings.HasPrefix(e.Name(), prefix) {
			continue
		}
		path := filepath.Join(dir, e.Name())
		lock, err := lockDir(path)
		if err == nil {
			_ = os.RemoveAll(path)
			_ = lock.Close()
		}
	}
}
