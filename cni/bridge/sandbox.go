package bridge

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

var (
	// ErrNotNetns says that a path doesn't lead to a network namespace.
	ErrNotNetns = errors.New("not a network namespace")
	// ErrOwnNetns says that a path leads to the namespace of the node itself.
	ErrOwnNetns = errors.New("the node's own network namespace")
)

// Sandbox is an open network namespace of a sandbox.
type Sandbox struct {
	ns, host *os.File
	inode    uint64
}

// OpenSandbox opens the network namespace at path, and keeps it alive until Close. Errors: ErrNotNetns, ErrOwnNetns,
// fs.ErrNotExist.
func OpenSandbox(path string) (*Sandbox, error) {
	ns, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("opening the sandbox's namespace: %w", err)
	}
	s := &Sandbox{ns: ns}
	if err := s.open(); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", path, err), s.Close())
	}
	return s, nil
}

func (s *Sandbox) open() error {
	if kind, err := unix.IoctlRetInt(int(s.ns.Fd()), unix.NS_GET_NSTYPE); err != nil || kind != unix.CLONE_NEWNET {
		return ErrNotNetns
	}
	var err error
	if s.host, err = os.Open("/proc/thread-self/ns/net"); err != nil {
		return fmt.Errorf("opening the node's namespace: %w", err)
	}
	var sandbox, host unix.Stat_t
	if err := errors.Join(unix.Fstat(int(s.ns.Fd()), &sandbox), unix.Fstat(int(s.host.Fd()), &host)); err != nil {
		return fmt.Errorf("looking at the namespace: %w", err)
	}
	if sandbox.Ino == host.Ino && sandbox.Dev == host.Dev {
		return ErrOwnNetns
	}
	s.inode = sandbox.Ino
	return nil
}

// Inode is the number that tells namespaces apart while they live.
func (s *Sandbox) Inode() uint64 { return s.inode }

// Close lets go of the namespace.
func (s *Sandbox) Close() error {
	err := s.ns.Close()
	if s.host != nil {
		err = errors.Join(err, s.host.Close())
	}
	return err
}

// do calls f with the calling thread in the sandbox's namespace, and brings the thread back.
func (s *Sandbox) do(f func() error) (err error) {
	if err := unix.Setns(int(s.ns.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("entering the sandbox's namespace: %w", err)
	}
	defer func() {
		if back := unix.Setns(int(s.host.Fd()), unix.CLONE_NEWNET); back != nil {
			err = errors.Join(err, fmt.Errorf("returning to the node's namespace: %w", back))
		}
	}()
	return f()
}
