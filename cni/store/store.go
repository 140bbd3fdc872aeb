package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/weaveguard/weaveguard/cni/poll"
)

// DefaultDir is where the store is unless the plugin's configuration says otherwise.
const DefaultDir = "/run/weaveguard/cni"

const (
	attachmentsDir = "attachments"
	addressesDir   = "addresses"
	lockFile       = "lock"
	fileSuffix     = ".json"
	tempSuffix     = ".tmp"
)

var (
	// ErrNotFound says that no such attachment is stored.
	ErrNotFound = errors.New("not attached")
	// ErrExists says that the attachment is stored already.
	ErrExists = errors.New("already attached")
	// ErrUnopened says that a directory isn't a store, and can't be made one.
	ErrUnopened = errors.New("opening the store")
	// ErrUnlisted says that the directory of the attachments can't be listed, so none of them is known.
	ErrUnlisted = errors.New("listing attachments")
)

// Store is a directory of attachments. It holds no open files, and may be used by many processes and goroutines.
type Store struct {
	dir string
}

// Open returns the store in dir, an absolute path, and makes the directories that are missing (0700: only root
// may know or change who has which address).
func Open(dir string) (*Store, error) {
	if !filepath.IsAbs(dir) {
		return nil, fmt.Errorf("%w: %q isn't an absolute path", ErrUnopened, dir)
	}
	s := &Store{dir: dir}
	for _, sub := range []string{attachmentsDir, addressesDir, removalsDir} {
		path := filepath.Join(dir, sub)
		if info, err := os.Stat(path); err == nil && info.IsDir() {
			continue
		}
		// Without room for marks attachments are removed each alone.
		if err := os.MkdirAll(path, 0o700); err != nil && sub != removalsDir {
			return nil, fmt.Errorf("%w: %w", ErrUnopened, err)
		}
	}
	return s, nil
}

// AttachmentsDir is the directory in which a file appears for each attachment and disappears with it: to watch.
func (s *Store) AttachmentsDir() string { return AttachmentsIn(s.dir) }

// AttachmentsIn is the AttachmentsDir of the store in dir, which may not be there yet.
func AttachmentsIn(dir string) string { return filepath.Join(dir, attachmentsDir) }

func (s *Store) attachmentPath(id ID) string {
	return filepath.Join(s.dir, attachmentsDir, id.fileName())
}

func (s *Store) addressPath(a netip.Addr) string {
	return filepath.Join(s.dir, addressesDir, a.String())
}

// Get returns an attachment, without the lock. It returns ErrNotFound when there is none.
func (s *Store) Get(id ID) (Attachment, error) {
	a, err := read(s.attachmentPath(id))
	if errors.Is(err, fs.ErrNotExist) {
		return Attachment{}, fmt.Errorf("%s: %w", id, ErrNotFound)
	}
	if err != nil {
		return Attachment{}, err
	}
	if a.ID != id {
		return Attachment{}, fmt.Errorf("%s is of %s, not of %s", s.attachmentPath(id), a.ID, id)
	}
	return a, nil
}

// ListIn is List of the store in dir. Where nothing has ever been attached there is none, and looking makes no directories.
func ListIn(dir string) ([]Attachment, error) {
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	s, err := Open(dir)
	if err != nil {
		return nil, err
	}
	return s.List()
}

// InUseIn is InUse of a store's directory for several subnets, and doesn't make one: without, nothing is taken.
func InUseIn(dir string, subnets []netip.Prefix) ([]int, error) {
	used := make([]int, len(subnets))
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return used, nil
	}
	s, err := Open(dir)
	if err != nil {
		return nil, err
	}
	for i, subnet := range subnets {
		if used[i], err = s.InUse(subnet); err != nil {
			return nil, err
		}
	}
	return used, nil
}

// List returns all attachments in the order of container ID and interface, without the lock: one that comes or goes
// meanwhile may be in it or not. Files that can't be read don't hide the others: both results may be non-nil.
func (s *Store) List() ([]Attachment, error) {
	return s.list("")
}

// ByContainer returns the attachments of one container, like List.
func (s *Store) ByContainer(containerID string) ([]Attachment, error) {
	all, err := s.list(clip(containerID, 64) + ".")
	return slices.DeleteFunc(all, func(a Attachment) bool { return a.ContainerID != containerID }), err
}

func (s *Store) list(prefix string) ([]Attachment, error) {
	entries, err := os.ReadDir(s.AttachmentsDir())
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnlisted, err)
	}
	var all []Attachment
	var errs []error
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), prefix) || !strings.HasSuffix(e.Name(), fileSuffix) {
			continue
		}
		a, err := read(filepath.Join(s.AttachmentsDir(), e.Name()))
		switch {
		case errors.Is(err, fs.ErrNotExist): // detached since
		case err != nil:
			errs = append(errs, err)
		default:
			all = append(all, a)
		}
	}
	return all, errors.Join(errs...)
}

func read(path string) (Attachment, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return Attachment{}, fmt.Errorf("reading an attachment: %w", err)
	}
	a, err := decode(b)
	if err != nil {
		return Attachment{}, fmt.Errorf("the attachment file %s can't be used: %w", path, err)
	}
	return a, nil
}

// InUse returns how many addresses of a subnet are taken.
func (s *Store) InUse(subnet netip.Prefix) (int, error) {
	entries, err := os.ReadDir(filepath.Join(s.dir, addressesDir))
	if err != nil {
		return 0, fmt.Errorf("counting addresses: %w", err)
	}
	n := 0
	for _, e := range entries {
		if a, err := netip.ParseAddr(e.Name()); err == nil && subnet.Contains(a) && s.taken(a) {
			n++
		}
	}
	return n, nil
}

// taken reports whether an address's link leads to an attachment. A link that leads nowhere was left by a killed
// process.
func (s *Store) taken(a netip.Addr) bool {
	_, err := os.Stat(s.addressPath(a))
	return !errors.Is(err, fs.ErrNotExist)
}

// Lock waits for the store's lock, at most until ctx ends, and returns the right to change the store. The caller
// must Unlock; the end of the process, however it ends, does so as well.
func (s *Store) Lock(ctx context.Context) (*Tx, error) {
	f, err := os.OpenFile(filepath.Join(s.dir, lockFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("locking the store: %w", err)
	}
	if err := poll.Until(ctx, func() (bool, error) { return tryLock(f) }); err != nil {
		return nil, errors.Join(waited(ctx, f, err), f.Close())
	}
	return &Tx{s: s, lock: f}, nil
}

// waited adds to the error of poll.Until what was waited for, if ctx ended it. An error that wraps such a one is of another wait.
func waited(ctx context.Context, lock *os.File, err error) error {
	if err != nil && (err == context.DeadlineExceeded || err == ctx.Err()) {
		return fmt.Errorf("waiting for another process to release %s (`fuser %s` names it): %w", lock.Name(), lock.Name(), err)
	}
	return err
}

// unlock gives a lock back, also where a child process has a copy of the file open still.
func unlock(f *os.File) error {
	err := os.NewSyscallError("flock", syscall.Flock(int(f.Fd()), syscall.LOCK_UN))
	return errors.Join(err, f.Close())
}

// tryLock takes a lock by its open file, and reports whether nobody else has it.
func tryLock(f *os.File) (bool, error) {
	err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) || errors.Is(err, syscall.EINTR) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("locking the store by %s: %w", f.Name(), err)
	}
	return true, nil
}
