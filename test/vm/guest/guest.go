// Package guest is what runs as the first process of a machine that package vm
// has booted: it builds the root filesystem, runs one command, says how that
// ended and switches the machine off. It owns the guest, and never runs
// anywhere else.
package guest

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Names that the guest and package vm agree on.
const (
	JobFile    = "/job.json"   // in the initrd
	ModulesDir = "/modules"    // in the initrd: what mounting the root needs
	RootTag    = "root"        // of the virtiofs device
	DiskTag    = "disk"        // of another, for what outlives the machine
	DiskDir    = "/disk"       // where that is
	OutPort    = "wgvm.output" // virtio port for what the command prints
	ResultPort = "wgvm.result" // virtio port for the Result
)

// Job is what to do.
type Job struct {
	Command []string
	Env     []string // "KEY=value": all of the command's environment
	Dir     string   // working directory
	Disk    bool     // there is one

	EarlyModules []string // file names in ModulesDir, in order
	Modules      []string // names for modprobe, once the root is there
	ModulesFrom  string   // directory of the kernel's modules, in the root
}

// Result says how the command ended: a line of JSON on the result port.
type Result struct {
	ExitCode int    // 128 + the signal's number when a signal ended it
	Error    string // why the command couldn't be run
}

// Main is process 1. It returns only when the machine can't be switched off.
func Main() error {
	err := boot()
	if err != nil {
		// The console is what is left to say it on.
		fmt.Println("wgvm:", err)
	}
	unix.Sync()
	if off := unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF); off != nil {
		return errors.Join(err, fmt.Errorf("switching the machine off: %w", off))
	}
	return err
}

func boot() error {
	b, err := os.ReadFile(JobFile)
	if err != nil {
		return fmt.Errorf("reading the job: %w", err)
	}
	var job Job
	if err := json.Unmarshal(b, &job); err != nil {
		return fmt.Errorf("reading the job: %w", err)
	}
	for _, name := range job.EarlyModules {
		if err := loadModule(filepath.Join(ModulesDir, name)); err != nil {
			return err
		}
	}
	if err := mountRoot(job.ModulesFrom); err != nil {
		return err
	}
	if job.Disk {
		disk := mount{source: DiskTag, target: DiskDir, kind: "virtiofs"}
		if err := disk.do(); err != nil {
			return err
		}
	}
	if err := loadModules(append([]string{"virtio_console"}, job.Modules...)); err != nil {
		return err
	}
	if err := configure(); err != nil {
		return err
	}
	out, err := openPort(OutPort)
	if err != nil {
		return err
	}
	result, err := openPort(ResultPort)
	if err != nil {
		return err
	}
	r := run(job, out)
	if err := out.Close(); err != nil {
		return fmt.Errorf("closing the output: %w", err)
	}
	if err := json.NewEncoder(result).Encode(r); err != nil {
		return fmt.Errorf("saying the result: %w", err)
	}
	return nil
}

func loadModule(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("loading a module: %w", err)
	}
	defer f.Close()
	if err := unix.FinitModule(int(f.Fd()), "", 0); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("loading the module %s: %w", filepath.Base(path), err)
	}
	return nil
}

func loadModules(names []string) error {
	args := append([]string{"--all"}, names...)
	cmd := exec.Command("/sbin/modprobe", args...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("loading modules: %w\n%s", err, out)
	}
	return nil
}

// configure does what a machine's boot does otherwise.
func configure() error {
	if err := unix.Sethostname([]byte("wgvm")); err != nil {
		return fmt.Errorf("setting the hostname: %w", err)
	}
	return loopbackUp()
}

func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("setting lo up: %w", err)
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		return fmt.Errorf("setting lo up: %w", err)
	}
	ifr.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr); err != nil {
		return fmt.Errorf("setting lo up: %w", err)
	}
	return nil
}

// openPort opens a virtio port by its name. Ports appear some time after their
// driver.
func openPort(name string) (*os.File, error) {
	for start := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		names, err := filepath.Glob("/sys/class/virtio-ports/*/name")
		if err != nil {
			return nil, fmt.Errorf("finding the port %s: %w", name, err)
		}
		for _, file := range names {
			b, err := os.ReadFile(file)
			if err == nil && strings.TrimSpace(string(b)) == name {
				return openDevice("/dev/" + filepath.Base(filepath.Dir(file)))
			}
		}
		if time.Since(start) > 30*time.Second {
			return nil, fmt.Errorf("finding the port %s: there are only %v", name, names)
		}
	}
}

// openDevice opens a port for blocking writes, which end when the other side
// has taken what was written.
func openDevice(path string) (*os.File, error) {
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("opening the port %s: %w", path, err)
	}
	return os.NewFile(uintptr(fd), path), nil
}

// run runs the command, and waits for orphans beside, as process 1 must.
func run(job Job, out *os.File) Result {
	if len(job.Command) == 0 {
		return Result{ExitCode: 127, Error: "there is no command"}
	}
	for _, kv := range job.Env {
		if path, ok := strings.CutPrefix(kv, "PATH="); ok {
			if err := os.Setenv("PATH", path); err != nil { // for LookPath
				return Result{ExitCode: 127, Error: err.Error()}
			}
		}
	}
	cmd := exec.Command(job.Command[0], job.Command[1:]...)
	cmd.Env, cmd.Dir, cmd.Stdout, cmd.Stderr = job.Env, job.Dir, out, out
	if err := cmd.Start(); err != nil {
		return Result{ExitCode: 127, Error: fmt.Sprintf("starting the command: %v", err)}
	}
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return Result{ExitCode: 127, Error: fmt.Sprintf("waiting for the command: %v", err)}
		case pid == cmd.Process.Pid && status.Signaled():
			return Result{ExitCode: 128 + int(status.Signal())}
		case pid == cmd.Process.Pid:
			return Result{ExitCode: status.ExitStatus()}
		}
	}
}
