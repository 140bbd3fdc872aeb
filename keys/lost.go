package keys

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Lost returns the paths of the store's files that were on disk and aren't there any more: somebody removed them.
func (s *Store) Lost() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lost()
}

func (s *Store) lost() []string {
	paths := []string{filepath.Join(s.dir, FileName)}
	if s.sequence.kept {
		paths = append(paths, s.sequence.path)
	}
	var lost []string
	for _, path := range paths {
		if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
			lost = append(lost, path)
		}
	}
	return lost
}

// Restore writes those files again, from memory, and takes the lock again where that is gone too. It returns the paths of
// those that it wrote.
func (s *Store) Restore() ([]string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	lost := s.lost()
	if len(lost) == 0 {
		return nil, nil
	}
	if err := s.relock(); err != nil {
		return nil, err
	}
	var restored []string
	for _, path := range lost {
		var err error
		if path == s.sequence.path {
			err = s.sequence.reserve(s.sequence.last)
		} else {
			Secretly(func() { err = s.write(s.generations, s.rotation) })
		}
		if err != nil {
			return restored, err
		}
		restored = append(restored, path)
	}
	return restored, nil
}

// relock holds the store also when its directory, or the lock in it, was removed.
func (s *Store) relock() error {
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return fmt.Errorf("making the key store: %w", err)
	}
	held, err := s.lock.Stat()
	if err != nil {
		return fmt.Errorf("looking at the key store's lock: %w", err)
	}
	if now, err := os.Stat(filepath.Join(s.dir, lockName)); err == nil && os.SameFile(held, now) {
		return nil
	}
	lock, err := lockDir(s.dir)
	if err != nil {
		return err
	}
	old := s.lock
	s.lock = lock
	return old.Close()
}
