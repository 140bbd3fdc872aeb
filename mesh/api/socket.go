package api

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	socketMode = 0o660
	lockSuffix = ".lock"
	// maxSocketPath is what fits in sockaddr_un (unix(7)) with its final zero.
	maxSocketPath = 107
)

// SocketInUseError says that a live process serves the socket.
type SocketInUseError struct {
	Socket string
	PID    int // 0: not known, as of a process in another PID namespace
}

func (e *SocketInUseError) Error() string {
	who := "another agent"
	if e.PID > 0 {
		who = fmt.Sprintf("another agent, process %d,", e.PID)
	}
	return fmt.Sprintf("%s already serves %s: stop that one first, or give this one another socket", who, e.Socket)
}

// listenUnix opens the socket at path, mode 0660, in place of one that a dead agent left. It never takes the socket
// of a live one: whoever serves it holds a lock beside it, which ends with its process. unlock comes after the
// listener is closed.
func listenUnix(ctx context.Context, path string) (listener net.Listener, unlock func(), err error) {
	if len(path) > maxSocketPath {
		return nil, nil, fmt.Errorf("the socket path %s has %d bytes, and unix sockets allow %d: choose a shorter one",
			path, len(path), maxSocketPath)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, nil, fmt.Errorf("making the socket's directory: %w", err)
	}
	lock, err := lockSocket(path)
	if err != nil {
		return nil, nil, err
	}
	unlock = func() { _ = lock.Close() }
	listener, err = replaceSocket(ctx, path)
	if err != nil {
		unlock()
		return nil, nil, err
	}
	return listener, unlock, nil
}

func lockSocket(path string) (*os.File, error) {
	lock, err := os.OpenFile(path+lockSuffix, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the socket's lock: %w", err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			pid, _ := owner(path)
			err = &SocketInUseError{Socket: path, PID: pid}
		} else {
			err = fmt.Errorf("locking %s: %w", lock.Name(), err)
		}
		return nil, errors.Join(err, lock.Close())
	}
	return lock, nil
}

// Retire runs what is to be done when no agent runs, and starts none meanwhile: with the socket's lock. If that succeeds it
// removes what agents left of the socket, and its directory if nothing else is in there. It returns a SocketInUseError if an
// agent runs.
func Retire(socket string, do func() error) (err error) {
	if _, err := os.Stat(filepath.Dir(socket)); errors.Is(err, fs.ErrNotExist) {
		return do()
	}
	lock, err := lockSocket(socket)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	if err := do(); err != nil {
		return err
	}
	for _, path := range []string{socket, socket + lockSuffix} {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("removing the socket: %w", err)
		}
	}
	_ = os.Remove(filepath.Dir(socket)) // others may have something there, and a container's mount can't go
	return nil
}

// replaceSocket opens the socket under the lock.
func replaceSocket(ctx context.Context, path string) (net.Listener, error) {
	if pid, live := owner(path); live { // by one that doesn't know of the lock
		return nil, &SocketInUseError{Socket: path, PID: pid}
	}
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, fmt.Errorf("looking for an old socket: %w", err)
	case info.Mode()&fs.ModeSocket == 0:
		return nil, fmt.Errorf("%s isn't a socket: move it away, or choose another path", path)
	default:
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("removing the socket of a dead agent: %w", err)
		}
	}
	config := net.ListenConfig{Control: limitMode}
	listener, err := config.Listen(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, socketMode); err != nil { // the umask may have taken more
		return nil, errors.Join(fmt.Errorf("setting the socket's mode: %w", err), listener.Close())
	}
	return listener, nil
}

// limitMode makes Linux create the socket file with at most socketMode, so that there is no moment in which anyone
// may connect.
func limitMode(_, _ string, conn syscall.RawConn) error {
	var err error
	if controlErr := conn.Control(func(fd uintptr) { err = unix.Fchmod(int(fd), socketMode) }); controlErr != nil {
		return controlErr
	}
	return err
}

// owner reports whether a process listens on the socket, and its ID where the kernel tells (SO_PEERCRED, unix(7)).
func owner(path string) (pid int, live bool) {
	conn, err := net.DialTimeout("unix", path, time.Second)
	if err != nil { // a full queue means that someone listens, and is slow
		return 0, errors.Is(err, unix.EAGAIN) || errors.Is(err, os.ErrDeadlineExceeded)
	}
	defer conn.Close()
	raw, err := conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		return 0, true
	}
	_ = raw.Control(func(fd uintptr) {
		if peer, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			pid = int(peer.Pid)
		}
	})
	return pid, true
}
