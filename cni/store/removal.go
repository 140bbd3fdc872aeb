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

const removalsDir = "removals"

// Together is how many attachments are removed together at most.
const Together = 64

// ErrAlone says that an attachment can't be removed together with others: it isn't stored, or its file can't be read or
// linked to.
var ErrAlone = errors.New("not to be removed together with others")

// RemoveTogether removes an attachment, and is quick when many processes remove one each at the same time: whichever comes
// first removes its own and those that others have marked by then, and they need only see that theirs is gone.
//
// Detach takes from the kernel what these have there, and returns an error or nil for each. Those with nil are
// forgotten. An error of detach for this one is returned; those of others are left to their own processes. Other
// errors: ErrAlone, ctx's, else the file system's.
func (s *Store) RemoveTogether(ctx context.Context, id ID, detach func([]Attachment) []error) error {
	lock, err := os.Open(filepath.Join(s.dir, removalsDir))
	if err != nil {
		return fmt.Errorf("%w: %w", ErrAlone, err)
	}
	if err = s.mark(id); err != nil {
		err = fmt.Errorf("%w: %w", ErrAlone, err)
	} else if err = s.awaitRemoval(ctx, id, lock, detach); err != nil {
		err = errors.Join(err, s.unmark(id.fileName()))
	}
	return errors.Join(err, unlock(lock))
}

func (s *Store) awaitRemoval(ctx context.Context, id ID, lock *os.File, detach func([]Attachment) []error) error {
	err := poll.Until(ctx, func() (bool, error) {
		if s.marked(id) {
			if locked, err := tryLock(lock); !locked {
				return false, err
			}
			if err := s.removeMarked(ctx, id, detach); err != nil {
				return false, err
			}
		}
		return s.gone(id)
	})
	return waited(ctx, lock, err)
}

// gone reports whether an attachment that isn't marked any more isn't stored either. One that was written anew meanwhile,
// as the agent does with a damaged one, it marks again.
func (s *Store) gone(id ID) (bool, error) {
	if errors.Is(unix.Access(s.attachmentPath(id), unix.F_OK), fs.ErrNotExist) {
		return true, nil
	}
	if err := s.mark(id); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, fmt.Errorf("%w: %w", ErrAlone, err)
	}
	return false, nil
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
	if err != nil || len(all) == 0 {
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

// listMarked returns this attachment first, and then others, as many as are removed together. It returns none when this one
// isn't stored any more, as another process removed it meanwhile, or is another now.
func (s *Store) listMarked(id ID) ([]Attachment, error) {
	if !s.means(id.fileName()) {
		return nil, s.unmark(id.fileName())
	}
	own, err := read(s.markPath(id.fileName()))
	if err == nil && own.ID != id {
		err = fmt.Errorf("%s is of %s, not of %s", s.attachmentPath(id), own.ID, id)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrAlone, err)
	}
	all := []Attachment{own}
	marks, err := s.marks()
	if err != nil {
		return nil, err
	}
	for _, mark := range marks {
		if len(all) == Together {
			break
		}
		if !s.means(mark) {
			_ = s.unmark(mark) // or the next one does
			continue
		}
		// What can't be read its process removes alone.
		if a, err := read(s.markPath(mark)); err == nil && mark == a.fileName() && a.ID != id {
			all = append(all, a)
		}
	}
	return all, nil
}

// means reports whether a mark is of what is stored. One of an attachment that isn't any more, or of an earlier one of the same
// ID, was left by a killed process.
func (s *Store) means(mark string) bool {
	return sameFile(filepath.Join(s.AttachmentsDir(), mark), s.markPath(mark))
}

// removeMarked forgets an attachment, as Remove does, and then that it is to be removed. It doesn't forget one that was
// stored meanwhile.
func (tx *Tx) removeMarked(a Attachment) error {
	if tx.s.means(a.fileName()) {
		if err := tx.forget(a.ID, a.Addresses); err != nil {
			return err
		}
	}
	return tx.s.unmark(a.fileName())
}

// sweepMarks takes marks away that killed processes left, of attachments that aren't stored any more.
func (s *Store) sweepMarks() error {
	marks, err := s.marks()
	if err != nil {
		return err
	}
	for _, mark := range marks {
		if !s.means(mark) {
			if err := s.unmark(mark); err != nil {
				return err
			}
		}
	}
	return nil
}

// marks are the names of all marks. Without room for them there is no directory, and none.
func (s *Store) marks() ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(s.dir, removalsDir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("listing what is to be removed: %w", err)
	}
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name()
	}
	return names, nil
}
