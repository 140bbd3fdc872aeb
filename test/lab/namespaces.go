package lab

import (
	"errors"
	"fmt"
	"os"
	"os/exec"

	"golang.org/x/sys/unix"

	"github.com/weaveguard/weaveguard/test/thread"
)

// namespaces holds namespaces open. A nil one means: stay where you are.
type namespaces struct {
	net, uts, pid, mnt *os.File
}

// namespacesOf opens the namespaces of a process.
func namespacesOf(pid int) (*namespaces, error) {
	n := &namespaces{}
	for _, ns := range []struct {
		name string
		file **os.File
	}{{"net", &n.net}, {"uts", &n.uts}, {"pid", &n.pid}, {"mnt", &n.mnt}} {
		f, err := os.Open(fmt.Sprintf("/proc/%d/ns/%s", pid, ns.name))
		if err != nil {
			return nil, errors.Join(fmt.Errorf("opening the %s namespace of process %d: %w", ns.name, pid, err), n.close())
		}
		*ns.file = f
	}
	return n, nil
}

func (n *namespaces) close() error {
	var errs []error
	for _, f := range []*os.File{n.net, n.uts, n.pid, n.mnt} {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	return errors.Join(errs...)
}

// do runs fn on a thread of its own that is in the namespaces; processes that
// fn starts are born in them. The thread ends with fn.
func (n *namespaces) do(fn func() error) (err error) {
	thread.Do(func() { err = n.enterAnd(fn) })
	return err
}

func (n *namespaces) enterAnd(fn func() error) error {
	if n.mnt != nil {
		// Threads share their working directory and root; a thread that does
		// can't change its mount namespace.
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			return fmt.Errorf("preparing a thread for another mount namespace: %w", err)
		}
	}
	for _, ns := range []struct {
		name string
		file *os.File
		kind int
	}{
		{"network", n.net, unix.CLONE_NEWNET}, {"UTS", n.uts, unix.CLONE_NEWUTS},
		{"PID", n.pid, unix.CLONE_NEWPID}, {"mount", n.mnt, unix.CLONE_NEWNS},
	} {
		if ns.file == nil {
			continue
		}
		if err := unix.Setns(int(ns.file.Fd()), ns.kind); err != nil {
			return fmt.Errorf("entering the %s namespace: %w", ns.name, err)
		}
	}
	return fn()
}

// StartIn starts cmd in the namespaces of the process pid, which is the init
// of a host (Host.InitPID) of this lab or of another process's.
func StartIn(pid int, cmd *exec.Cmd) error {
	ns, err := namespacesOf(pid)
	if err != nil {
		return err
	}
	err = ns.do(cmd.Start)
	return errors.Join(err, ns.close())
}
