package lab

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// storeDir is where the fabric's mount namespace has a tmpfs with the hosts'
// files. It is under /run, so hosts, which mount their own /run, don't see it.
const storeDir = "/run/wglab"

// ready is what an init says on its standard output when its namespaces stand.
const ready = "ready"

// initMain is process 1 of the fabric (no arguments) or of a host (its name).
// It ends, and all in its PID namespace with it, when standard input ends.
func initMain(args []string) int {
	setup := setupFabric
	if len(args) > 0 {
		setup = func() error { return setupHost(args[0]) }
	}
	if err := setup(); err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println(ready)
	go reap()
	_, _ = io.Copy(io.Discard, os.Stdin)
	return 0
}

// reap waits for orphans, as process 1 must. It ends with the process.
func reap() {
	children := make(chan os.Signal, 1)
	signal.Notify(children, unix.SIGCHLD)
	for range children {
		for {
			pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil)
			if pid <= 0 && !errors.Is(err, unix.EINTR) {
				break
			}
		}
	}
}

func setupFabric() error {
	if err := privateRoot(); err != nil {
		return err
	}
	if err := mountTmpfs("/run"); err != nil {
		return err
	}
	if err := os.Mkdir(storeDir, 0o755); err != nil {
		return fmt.Errorf("making the hosts' store: %w", err)
	}
	return mountProcAndSys()
}

func setupHost(name string) error {
	if err := unix.Sethostname([]byte(name)); err != nil {
		return fmt.Errorf("setting the hostname: %w", err)
	}
	if err := privateRoot(); err != nil {
		return err
	}
	store := filepath.Join(storeDir, name)
	// A change to these stays in the host, and the machine needs no mount
	// points made in it.
	for _, dir := range []string{"/etc", "/opt", "/var/lib"} {
		if err := mountOverlay(dir, filepath.Join(store, dir)); err != nil {
			return err
		}
	}
	for _, dir := range []string{"/etc/cni", "/opt/cni", "/var/lib/weaveguard"} {
		if err := mountOwn(dir, filepath.Join(store, "own", dir)); err != nil {
			return err
		}
	}
	if err := os.WriteFile("/etc/hostname", []byte(name+"\n"), 0o644); err != nil {
		return fmt.Errorf("writing the hostname: %w", err)
	}
	if err := mountTmpfs("/run"); err != nil {
		return err
	}
	if info, err := os.Lstat("/var/run"); err == nil && info.IsDir() {
		if err := unix.Mount("/run", "/var/run", "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("mounting /var/run: %w", err)
		}
	}
	return mountProcAndSys()
}

// privateRoot stops mounts from going to or coming from the machine.
func privateRoot() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("making mounts private: %w", err)
	}
	return nil
}

func mountTmpfs(dir string) error {
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755"); err != nil {
		return fmt.Errorf("mounting a tmpfs on %s: %w", dir, err)
	}
	return nil
}

// mountOverlay makes dir writable without changing it: changes go to store.
func mountOverlay(dir, store string) error {
	upper, work := filepath.Join(store, "upper"), filepath.Join(store, "work")
	for _, d := range []string{upper, work} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return fmt.Errorf("making the host's store: %w", err)
		}
	}
	options := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", dir, upper, work)
	if err := unix.Mount("overlay", dir, "overlay", 0, options); err != nil {
		return fmt.Errorf("mounting an overlay on %s (%s): %w", dir, options, err)
	}
	return nil
}

// mountOwn puts store, at first empty, over dir.
func mountOwn(dir, store string) error {
	for _, d := range []string{dir, store} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return fmt.Errorf("making the host's %s: %w", dir, err)
		}
	}
	if err := unix.Mount(store, dir, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mounting the host's %s: %w", dir, err)
	}
	return nil
}

// mountProcAndSys shows the namespaces' own processes and devices.
func mountProcAndSys() error {
	for _, m := range []struct{ kind, dir string }{{"proc", "/proc"}, {"sysfs", "/sys"}} {
		if err := unix.Mount(m.kind, m.dir, m.kind, unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
			return fmt.Errorf("mounting %s: %w", m.dir, err)
		}
	}
	return nil
}

// machine is a set of namespaces with the init that holds them.
type machine struct {
	ns       *namespaces
	pid      int
	lifeline io.Closer // ends the init when closed, also by our death
	cmd      *exec.Cmd
	done     chan struct{} // closed when all that ran in it has ended
}

// boot starts an init in namespaces of its own. Its mounts start as a copy of
// those of from.
func boot(from *namespaces, log *os.File, args ...string) (*machine, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("finding this program: %w", err)
	}
	cmd := &exec.Cmd{Path: self, Args: helperArgs("init", args), Stderr: log, SysProcAttr: &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWUTS | unix.CLONE_NEWPID,
	}}
	lifeline, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("making a lifeline: %w", err)
	}
	said, err := cmd.StdoutPipe()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("making a pipe: %w", err), lifeline.Close())
	}
	if err := from.do(cmd.Start); err != nil {
		return nil, errors.Join(fmt.Errorf("starting an init (this needs root): %w", err), lifeline.Close())
	}
	m := &machine{pid: cmd.Process.Pid, lifeline: lifeline, cmd: cmd, done: make(chan struct{})}
	answer, readErr := readLine(said)
	go func() {
		defer close(m.done)
		_ = cmd.Wait() // it is always killed
	}()
	if answer != ready {
		if answer == "" {
			answer = "it said nothing: does TestMain of this package call lab.Main?"
		}
		m.halt()
		return nil, errors.Join(fmt.Errorf("starting an init: %s", answer), readErr)
	}
	if m.ns, err = namespacesOf(m.pid); err != nil {
		m.halt()
		return nil, err
	}
	return m, nil
}

// readLine reads up to a newline or the end.
func readLine(r io.Reader) (string, error) {
	var line strings.Builder
	b := make([]byte, 1)
	for {
		n, err := r.Read(b)
		if n == 1 && b[0] == '\n' {
			return line.String(), nil
		}
		if n == 1 {
			line.WriteByte(b[0])
		}
		if errors.Is(err, io.EOF) {
			return line.String(), nil
		}
		if err != nil {
			return line.String(), err
		}
	}
}

// halt kills the init, and with it all that runs in its PID namespace, and
// waits for the end.
func (m *machine) halt() {
	_ = m.cmd.Process.Kill()
	<-m.done
	_ = m.lifeline.Close()
	if m.ns != nil {
		_ = m.ns.close()
	}
}
