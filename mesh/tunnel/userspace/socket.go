package userspace

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// errSocketInUse says that another process answers at a socket.
var errSocketInUse = errors.New("another process answers there")

// listen listens at a unix socket of mode 0600, and replaces one whose process is gone. Closing the listener removes
// the socket.
func listen(ctx context.Context, path string) (*net.UnixListener, error) {
	// The kernel takes the mode of a socket's file from the socket, if that has one before it is bound.
	config := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		var chmod error
		err := raw.Control(func(fd uintptr) { chmod = unix.Fchmod(int(fd), 0o600) })
		return errors.Join(err, chmod)
	}}
	if err := removeStale(path); err != nil {
		return nil, err
	}
	listener, err := config.Listen(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("listening: %w", err)
	}
	return listener.(*net.UnixListener), nil
}

// removeStale removes the socket of a process that is gone. It returns errSocketInUse if one answers there.
func removeStale(path string) error {
	conn, err := net.Dial("unix", path)
	switch {
	case err == nil:
		conn.Close() // it said all that it had to
		return fmt.Errorf("socket %s: %w", path, errSocketInUse)
	case errors.Is(err, unix.ECONNREFUSED):
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("removing a socket whose process is gone: %w", err)
		}
		return nil
	case errors.Is(err, os.ErrNotExist):
		return nil
	}
	return fmt.Errorf("looking at the socket: %w", err)
}
