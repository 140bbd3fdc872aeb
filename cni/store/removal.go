package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/weaveguard/weaveguard/cni/poll"
)

const (
	removalsDir     = "removals"
	removalLockFile = "removal-lock"
)

// Together is how many attachments are removed together at most.
const Together = 64

// ErrAlone says that an attachment can't be removed together with others: it isn't stored, or its file can't be read or
// linked to.
var ErrAlone = errors.New("not to be removed together with others")

// RemoveTogether removes an attachment, and is quick when many processes remove one each at the same time: whichever comes
// first removes its own and those that others have marked by then, and they need only see that theirs is gone.
//
// Detach takes from the kernel what these have there, and returns an error or nil for each. Those with nil are
// forgotten. An error of detach for this one is returned as it is; those of others are left to their own processes. Other
// errors: ErrAlone, ctx's, else the file system's.
func (s *Store) RemoveTogether(ctx context.Context, id ID, detach func([]Attachment) []error) error {
	if err := s.mark(id); err != nil {
		return fmt.Errorf("%w: %w", ErrAlone, err)
	}
	err := s.awaitRemoval(ctx, id, detach)
	if err != nil {
		return errors.Join(err, s.unmark(id.fileName()))
	}
	return nil
}

func (s *Store) awaitRemoval(ctx context.Context, id ID, detach func([]Attachment) []error) error {
	f, err := s.openLock(removalLockFile)
	if err != nil {
		return err
	}
	defer f.Close()
	return poll.Until(ctx, func() (bool, error) {
		if !s.marked(id) {
			return s.gone(id)
		}
		if locked, err := tryLock(f); !locked {
			return false, err
		}
		if s.marked(id) { // still, now that nobody else removes anything
			if err := s.removeMarked(ctx, id, detach); err != nil {
				return false, err
			}
		}
		return s.gone(id)
	})
}

// gone reports whether an attachment that isn't marked any more isn't stored either. One that was written anew meanwhile,
// as the agent does with a damaged one, it marks again.
func (s *Store) gone(id ID) (bool, error) {
	err := s.mark(id)
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	return false, err
}

// mark makes the hard link that says that an attachment is to be removed. A process that was killed may have left one
// to another attachment of this ID.
func (s *Store) mark(id ID) error {
	path, mark := s.attachmentPath(id), s.markPath(id.fileName())
	err := os.Link(path, mark)
	if !errors.Is(err, fs.ErrExist) {
		return err
	}
	if sameFile(path, mark) {
		return nil
	}
	return errors.Join(s.unmark(id.fileName()), os.Link(path, mark))
}

func (s *Store) markPath(file string) string { return filepath.Join(s.dir, removalsDir, file) }

func (s *Store) marked(id ID) bool {
	return !errors.Is(unix.Access(s.markPath(id.fileName()), unix.F_OK), fs.ErrNotExist)
}

func (s *Store) unmark(file string) error {
	if err := os.Remove(s.markPath(file)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("taking back that an attachment is to be removed: %w", err)
	}
	return nil
}

func sameFile(one, other string) bool {
	a, errA := os.Lstat(one)
	b, errB := os.Lstat(other)
	return errA == nil && errB == nil && os.SameFile(a, b)
}

// removeMarked removes this attachment, and others that are marked. The caller holds the lock of removals.
func (s *Store) removeMarked(ctx context.Context, id ID, detach func([]Attachment) []error) error {
	all, err := s.listMarked(id)
	if err != nil {
		return err
	}
	errs := detach(all)
	tx, err := s.Lock(ctx)
	if err != nil {
		return err
	}
	for i, a := range all {
		if errs[i] == nil {
			errs[i] = tx.removeMarked(a)
		}
	}
	return errors.Join(errs[0], tx.Unlock())
}

// listMarked returns this attachment first, and then others, as many as are removed together.
func (s *Store) listMarked(id ID) ([]Attachment, error) {
	own, err := read(s.markPath(id.fileName()))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrAlone, err)
	}
	all := []Attachment{own}
	entries, err := os.ReadDir(filepath.Join(s.dir, removalsDir))
	if err != nil {
		return nil, fmt.Errorf("listing what is to be removed: %w", err)
	}
	for _, e := range entries {
		if len(all) == Together {
			break
		}
		// What can't be read its process removes alone.
		a, err := read(s.markPath(e.Name()))
		if err != nil || e.Name() != a.fileName() || a.ID == id {
			continue
		}
		if s.replaced(a) {
			if err := s.unmark(e.Name()); err != nil {
				return nil, err
			}
			continue
		}
		all = append(all, a)
	}
	return all, nil
}

// replaced reports whether another attachment of the same ID has been stored since this one was marked.
func (s *Store) replaced(a Attachment) bool {
	path := s.attachmentPath(a.ID)
	_, err := os.Lstat(path)
	return err == nil && !sameFile(path, s.markPath(a.fileName()))
}

// removeMarked forgets an attachment, as Remove does, and then that it is to be removed.
func (tx *Tx) removeMarked(a Attachment) error {
	if !tx.s.replaced(a) {
		if err := tx.forget(a.ID, a.Addresses); err != nil {
			return err
		}
	}
	return tx.s.unmark(a.fileName())
}

// sweepMarks takes marks away that killed processes left, of attachments that aren't stored any more.
func (s *Store) sweepMarks() error {
	entries, err := os.ReadDir(filepath.Join(s.dir, removalsDir))
	if err != nil {
		return fmt.Errorf("listing what is to be removed: %w", err)
	}
	for _, e := range entries {
		if !sameFile(filepath.Join(s.AttachmentsDir(), e.Name()), s.markPath(e.Name())) {
			if err := s.unmark(e.Name()); err != nil {
				return err
			}
		}
	}
	return nil
}
