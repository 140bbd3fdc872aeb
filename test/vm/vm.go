// Package vm runs a command on another kernel: Debian's, which has WireGuard,
// nftables and much else as modules, under qemu's software emulation. The
// machine sees this one's files. What it writes is kept in its own memory, and
// is gone afterwards, but for what it writes to the directory that it was given
// as its disk. It has no network but a TAP device that it was given.
//
// The package owns the virtual machine and its boot. It never changes a file
// of this machine, but for its cache (build/vm in the module). Nothing that it
// starts outlives the process that called Run.
package vm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/weaveguard/weaveguard/test/internal/owned"
	"github.com/weaveguard/weaveguard/test/lab"
	"github.com/weaveguard/weaveguard/test/thread"
	"github.com/weaveguard/weaveguard/test/vm/guest"
)

// Options says what machine to make.
type Options struct {
	Memory  int       // MiB; 0 means 2048. Files that the command writes take from it
	CPUs    int       // 0 means 2
	Log     io.Writer // gets what the command prints, as it does; nil: nobody
	Console io.Writer // gets what the kernel prints; nil: errors quote its end
	Env     []string  // "KEY=value", beside PATH, HOME and TMPDIR
	Dir     string    // the command's working directory; "" means /
	Root    string    // the module's root, for its cache; "" means at or above here
	Disk    string    // directory of this machine that the command may write to, at guest.DiskDir; "": none
	Tap     *os.File  // TAP device behind the machine's eth0; nil: it has no network card
}

// powerOffTimeout is how long the machine may go on after its command.
const powerOffTimeout = 30 * time.Second

// Run boots a machine, runs cmd in it as root, and returns the command's exit
// code; 128 + the signal's number when a signal ended it. The error says that
// the machine couldn't be made, that the command couldn't be started or that
// the machine died before it said the exit code. When ctx ends first the
// machine is killed, and the error wraps the context's.
func Run(ctx context.Context, o Options, cmd []string) (exitCode int, err error) {
	o, err = o.complete()
	if err != nil {
		return 0, err
	}
	cache := filepath.Join(o.Root, "build", "vm")
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return 0, fmt.Errorf("making the cache: %w", err)
	}
	k, err := findKernel(ctx, cache)
	if err != nil {
		return 0, err
	}
	dir, err := owned.New("vm")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, dir.Remove()) }()
	init, err := buildInit(ctx, o.Root, dir.Path)
	if err != nil {
		return 0, err
	}
	job := guest.Job{
		Command: cmd, Env: o.environment(), Dir: o.Dir, Modules: modules[:], ModulesFrom: k.modules, Disk: o.Disk != "",
	}
	if err := writeInitrd(filepath.Join(dir.Path, initrd), init, k, job); err != nil {
		return 0, err
	}
	m := &machine{options: o, dir: dir.Path, kernel: k}
	return m.run(ctx)
}

func (o Options) complete() (Options, error) {
	if o.Memory == 0 {
		o.Memory = 2048
	}
	if o.CPUs == 0 {
		o.CPUs = 2
	}
	if o.Dir == "" {
		o.Dir = "/"
	}
	if o.Log == nil {
		o.Log = io.Discard
	}
	if o.Console == nil {
		o.Console = io.Discard
	}
	if os.Geteuid() != 0 {
		return o, errors.New("running a virtual machine needs root, to share the root filesystem read-only")
	}
	if o.Root == "" {
		root, err := lab.ModuleRoot()
		if err != nil {
			return o, err
		}
		o.Root = root
	}
	return o, nil
}

func (o Options) environment() []string {
	env := []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "TMPDIR=/var/tmp"}
	return append(env, o.Env...)
}

// machine is one that runs, or is about to.
type machine struct {
	options Options
	dir     string // of its sockets and initrd
	kernel  kernel
}

// file names a file in the machine's directory.
func (m *machine) file(name string) string { return filepath.Join(m.dir, name) }

// run starts the machine, and follows it to its end.
func (m *machine) run(ctx context.Context) (int, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var console tailBuffer
	var results strings.Builder
	reported := make(chan struct{}) // the guest has closed or sent its result
	ports := []struct {
		name string
		to   io.Writer
	}{
		{guest.OutPort, m.options.Log},
		{guest.ResultPort, &lineWatch{w: &results, seen: reported}},
		{consolePort, io.MultiWriter(&console, m.options.Console)},
	}
	copied := make(chan error, len(ports))
	var listeners []net.Listener
	for _, port := range ports {
		listener, err := net.Listen("unix", m.file(port.name))
		if err != nil {
			return 0, errors.Join(fmt.Errorf("making the port %s: %w", port.name, err), closeAll(listeners))
		}
		listeners = append(listeners, listener)
		go func() { copied <- copyPort(listener, port.to) }()
	}
	ended := make(chan error, 1)
	go thread.Do(func() { ended <- m.emulate(ctx) })

	var err error
	select {
	case err = <-ended:
	case <-reported:
		select {
		case err = <-ended:
		case <-time.After(powerOffTimeout):
			cancel()
			<-ended
			err = nil // the result is there, and that is what counts
		}
	}
	err = errors.Join(err, closeAll(listeners))
	for range ports {
		err = errors.Join(err, <-copied)
	}
	return outcome(ctx, err, results.String(), console.String())
}

// outcome reads the guest's result.
func outcome(ctx context.Context, err error, result, console string) (int, error) {
	var r guest.Result
	if parse := json.NewDecoder(strings.NewReader(result)).Decode(&r); parse != nil {
		cause := err
		if ctx.Err() != nil {
			cause = errors.Join(context.Cause(ctx), err)
		}
		if cause == nil {
			cause = errors.New("the machine ended without one")
		}
		return 0, fmt.Errorf("waiting for the command's exit code: %w\nthe console's last lines:\n%s", cause, console)
	}
	if r.Error != "" {
		return r.ExitCode, fmt.Errorf("in the machine: %s", r.Error)
	}
	return r.ExitCode, err
}

func closeAll(listeners []net.Listener) error {
	var errs []error
	for _, l := range slices.Backward(listeners) {
		errs = append(errs, l.Close())
	}
	return errors.Join(errs...)
}

// copyPort copies what comes on the one connection that qemu makes.
func copyPort(listener net.Listener, to io.Writer) error {
	conn, err := listener.Accept()
	if errors.Is(err, net.ErrClosed) {
		return nil // qemu didn't get so far
	}
	if err != nil {
		return fmt.Errorf("waiting for qemu to open a port: %w", err)
	}
	defer conn.Close()
	if _, err := io.Copy(to, conn); err != nil {
		return fmt.Errorf("reading from the machine: %w", err)
	}
	return nil
}
