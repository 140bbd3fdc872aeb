package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// netnsDir is where ip-netns(8) keeps network namespaces by name.
const netnsDir = "/run/netns"

// sandbox is a network namespace that an operator named.
type sandbox struct {
	path string
	id   string // what it is attached as, unless something else is asked for
}

// findSandbox reads the name of a network namespace as ip-netns(8) has it, the path of one, or the number of a process that
// is in it. Whether there is such a one is left open: what is detached may be gone.
func findSandbox(target string) (sandbox, error) {
	switch {
	case target == "" || target == "." || target == "..":
		return sandbox{}, fmt.Errorf("%q isn't the name or path of a network namespace, or the number of a process", target)
	case strings.Trim(target, "0123456789") == "":
		return sandbox{path: "/proc/" + target + "/ns/net", id: "pid-" + target}, nil
	case !strings.Contains(target, "/"):
		return sandbox{path: filepath.Join(netnsDir, target), id: target}, nil
	}
	path, err := filepath.Abs(target)
	if err != nil {
		return sandbox{}, fmt.Errorf("finding %s: %w", target, err)
	}
	id := filepath.Base(path)
	if rest, below := strings.CutPrefix(path, "/proc/"); below {
		if pid, ok := strings.CutSuffix(rest, "/ns/net"); ok {
			id = "pid-" + pid
		}
	}
	return sandbox{path: path, id: id}, nil
}

// check returns an error unless the sandbox is a network namespace (ioctl_ns(2)).
func (s sandbox) check() error {
	file, err := os.OpenFile(s.path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	switch {
	case errors.Is(err, fs.ErrNotExist) && strings.HasPrefix(s.path, "/proc/"):
		return &adviceError{fmt.Sprintf("there is no %s: the process has ended, or there never was one", s.path),
			"name a process that runs in the network namespace"}
	case errors.Is(err, fs.ErrNotExist):
		return &adviceError{fmt.Sprintf("there is no network namespace %s", s.path), "see `ip netns list`, or name a path, or a " +
			"process in it by its number"}
	case errors.Is(err, fs.ErrPermission):
		return &adviceError{fmt.Sprintf("%s can't be opened: %v", s.path, errors.Unwrap(err)), rootRemedy}
	case err != nil:
		return fmt.Errorf("looking at the network namespace: %w", err)
	}
	defer file.Close()
	kind, err := unix.IoctlRetInt(int(file.Fd()), unix.NS_GET_NSTYPE)
	if err == nil && kind == unix.CLONE_NEWNET {
		return nil
	}
	remedy := "see `ip netns list`, or name a process in it by its number"
	if err == nil {
		return &adviceError{fmt.Sprintf("%s is a namespace of another kind, not a network namespace", s.path), remedy}
	}
	return &adviceError{fmt.Sprintf("%s isn't a network namespace", s.path), remedy}
}

const rootRemedy = "run it as root, for instance with sudo"
