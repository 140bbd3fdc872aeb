// Package tunneltest helps to test what configures WireGuard: a fake that refuses what the design forbids, and
// namespaces in which a test's real devices can't touch the machine's. It is for tests only.
package tunneltest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

const isolatedVariable = "WEAVEGUARD_TEST_ISOLATED"

// Isolate runs the tests of a package in a network and a mount namespace of their own, with an empty /run, and
// returns the exit code for TestMain. Only processes can be in a namespace for sure (a goroutine changes threads),
// so it starts the test binary again; the namespaces end with that. It needs root.
func Isolate(m *testing.M) int {
	if os.Getenv(isolatedVariable) != "" {
		if err := enter(); err != nil {
			fmt.Fprintf(os.Stderr, "preparing the namespaces of the test: %v\n", err)
			return 1
		}
		return m.Run()
	}
	runtime.LockOSThread() // the child ends with this thread
	defer runtime.UnlockOSThread()
	child := exec.Command("/proc/self/exe", os.Args[1:]...)
	child.Args[0] = os.Args[0]
	child.Env = append(os.Environ(), isolatedVariable+"=1")
	child.Stdin, child.Stdout, child.Stderr = os.Stdin, os.Stdout, os.Stderr
	child.SysProcAttr = &unix.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS, Pdeathsig: unix.SIGKILL}
	err := child.Run()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		return exit.ExitCode()
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "starting the test in namespaces of its own: %v; it needs root\n", err)
		return 1
	}
	return 0
}

// enter makes a world of the new namespaces.
func enter() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("making the mounts private: %w", err)
	}
	run, err := filepath.EvalSymlinks("/var/run") // /run, as a rule
	if err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", run, "tmpfs", 0, "mode=0755"); err != nil {
		return fmt.Errorf("mounting over %s: %w", run, err)
	}
	return setLoopbackUp()
}

func setLoopbackUp() error {
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("setting the loopback up: %w", err)
	}
	defer unix.Close(socket) // nothing was written to it
	request, err := unix.NewIfreq("lo")
	if err == nil {
		request.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
		err = unix.IoctlIfreq(socket, unix.SIOCSIFFLAGS, request)
	}
	if err != nil {
		return fmt.Errorf("setting the loopback up: %w", err)
	}
	return nil
}
