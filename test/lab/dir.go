package lab

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

// dirPrefix names the lab's directories in the temporary directory.
const dirPrefix = "wglab-"

// ownedDir is a directory that is locked for as long as its owner lives, so
// that others can tell which directories are left over.
type ownedDir struct {
	path string
	lock *os.File
}

// newOwnedDir makes an empty directory and removes what dead owners left.
func newOwnedDir(kind string) (*ownedDir, error) {
	sweep(os.TempDir())
	// Under its first name no sweep looks at it; it gets its real name locked.
	fresh, err := os.MkdirTemp("", "."+dirPrefix)
	if err != nil {
		return nil, fmt.Errorf("making the lab's directory: %w", err)
	}
	lock, err := lockDir(fresh)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("locking the lab's directory: %w", err), os.Remove(fresh))
	}
	path := filepath.Join(os.TempDir(), fmt.Sprintf("%s%s-%d-%08x", dirPrefix, kind, os.Getpid(), rand.Uint32()))
	if err := os.Rename(fresh, path); err != nil {
		return nil, errors.Join(fmt.Errorf("naming the lab's directory: %w", err), lock.Close(), os.Remove(fresh))
	}
	return &ownedDir{path: path, lock: lock}, nil
}

func (d *ownedDir) remove() error {
	err := os.RemoveAll(d.path)
	return errors.Join(err, d.lock.Close())
}

// lockDir takes the lock of a directory, or fails at once.
func lockDir(path string) (*os.File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// sweep removes the directories in dir whose owners are dead. It is best
// effort: what it can't remove, a later sweep will.
func sweep(dir string) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	for _, e := range entries {
		if !e.IsDir() || !strings.HasPrefix(e.Name(), dirPrefix) {
			continue
		}
		path := filepath.Join(dir, e.Name())
		lock, err := lockDir(path)
		if errors.Is(err, unix.EWOULDBLOCK) || errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			_ = os.RemoveAll(path)
			_ = lock.Close()
		}
	}
}
