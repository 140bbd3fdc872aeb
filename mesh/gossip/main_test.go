package gossip_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
)

// inside marks the process that runs in a network namespace of its own.
const inside = "WEAVEGUARD_TEST_NETNS"

// TestMain runs the tests in a network namespace of their own, so that they have port 6783 on many addresses and
// can cut the network between them.
func TestMain(m *testing.M) {
	if os.Getenv(inside) == "" {
		os.Exit(rerun())
	}
	lo, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.LinkSetUp(lo)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bringing up lo in the tests' network namespace:", err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// rerun runs this test binary again in a new network namespace, which goes when the process does.
func rerun() int {
	runtime.LockOSThread() // Pdeathsig is about the thread that started the child
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	err := cmd.Run()
	if exit := new(exec.ExitError); errors.As(err, &exit) {
		return max(1, exit.ExitCode())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "these tests need root, for a network namespace of their own:", err)
		return 1
	}
	return 0
}
