package tunnel

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"golang.org/x/sys/unix"
)

// explain adds what to do to an error of WireGuard's; port is that of the device, or 0 when it isn't about one.
func explain(err error, port uint16) error {
	switch {
	case errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES):
		return fmt.Errorf("%w; the agent needs CAP_NET_ADMIN", err)
	case port != 0 && isInUse(err):
		return fmt.Errorf("%w: UDP port %d is taken; find out by whom with `ss -lunp sport = %d`, and stop that", err,
			port, port)
	case errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ECONNREFUSED):
		return fmt.Errorf("%w; the device went away, and is made again in the next pass", err)
	}
	return err
}

// isInUse tells a taken port, by the kernel's error or by the errno in the text that wgctrl gives for a userspace
// device (wgctrl keeps only the text of it).
func isInUse(err error) bool {
	return errors.Is(err, unix.EADDRINUSE) || strings.Contains(err.Error(), fmt.Sprintf("errno=-%d", unix.EADDRINUSE))
}
