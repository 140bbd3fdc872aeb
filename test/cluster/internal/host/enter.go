// Package host is the first process of a test host: it makes the host's namespaces, mounts, and
// settings, runs its services, and ends everything when it ends. It never talks to Kubernetes and
// never configures links or addresses; the supervisor does that from outside, between the two.
package host

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"

	"github.com/weaveguard/weaveguard/test/cluster/internal/api"
	"github.com/weaveguard/weaveguard/test/cluster/internal/cgroups"
	"golang.org/x/sys/unix"
)

// What a host's first process says on its standard output, a line each.
const (
	SaysPID   = "pid "   // and its process ID as the machine sees it
	SaysReady = "ready"  // namespaces and mounts stand, services are started
	SaysError = "error " // and why it gave up
)

// Enter joins the host's cgroups, starts "RUN SPECFILE" of this same binary in namespaces of its
// own, says its PID, and waits for it. When this process dies, so does the host.
func Enter(specFile, run string) error {
	spec, err := readSpec(specFile)
	if err != nil {
		return err
	}
	// The parent-death signal goes with the thread that started the child.
	runtime.LockOSThread()
	for _, dir := range spec.Join {
		if err := cgroups.Join(dir); err != nil {
			return err
		}
	}
	cmd := exec.Command("/proc/self/exe", run, specFile)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWPID | unix.CLONE_NEWUTS |
			unix.CLONE_NEWIPC | unix.CLONE_NEWCGROUP,
		Pdeathsig: syscall.SIGKILL,
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start host %s: %w", spec.Name, err)
	}
	fmt.Printf("%s%d\n", SaysPID, cmd.Process.Pid)
	for _, dir := range spec.Leave {
		if err := cgroups.Join(dir); err != nil {
			return err
		}
	}
	return cmd.Wait()
}

func readSpec(file string) (api.HostSpec, error) {
	var spec api.HostSpec
	data, err := os.ReadFile(file)
	if err != nil {
		return spec, fmt.Errorf("read host specification: %w", err)
	}
	if err := json.Unmarshal(data, &spec); err != nil {
		return spec, fmt.Errorf("read host specification %s: %w", file, err)
	}
	return spec, nil
}
