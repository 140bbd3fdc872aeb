package vm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weaveguard/weaveguard/test/vm/guest"
)

// Names of files in the machine's directory.
const (
	consolePort = "console"
	rootSocket  = "root.sock"
	diskSocket  = "disk.sock"
	rootDir     = "root"
	initrd      = "initrd"
)

// accelEnv names the environment variable with qemu's accelerator. Software
// emulation is the default: it works everywhere, also inside other machines.
const accelEnv = "WEAVEGUARD_VM_ACCEL"

// virtiofsdPaths are where Debian and Ubuntu have it: with qemu, as a package
// of its own, and elsewhere.
var virtiofsdPaths = [...]string{"/usr/lib/qemu/virtiofsd", "/usr/libexec/virtiofsd", "/usr/bin/virtiofsd"}

// emulate runs virtiofsd and qemu until qemu ends. It must have a thread of its
// own: it moves that to another mount namespace, and with the thread the
// kernel kills both, should this process die.
func (m *machine) emulate(ctx context.Context) error {
	if err := m.shareRoot(); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	var servers []*exec.Cmd
	var stderr bytes.Buffer
	end := func() {
		cancel()
		for _, files := range servers {
			_ = files.Wait() // it ends with qemu's connection, or is killed
			fmt.Fprint(&stderr, files.Stderr)
		}
	}
	for socket, source := range m.shares() {
		files, err := m.serveFiles(ctx, socket, source)
		if err != nil {
			end()
			return err
		}
		servers = append(servers, files)
	}
	qemu := m.qemu(ctx)
	qemu.Stderr = &stderr
	qemu.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
	err := qemu.Run()
	end()
	if err != nil {
		return fmt.Errorf("running qemu: %w\n%s", err, stderr.Bytes())
	}
	return nil
}

// shares are the directories that the guest sees, by the socket of their server.
func (m *machine) shares() map[string]string {
	shares := map[string]string{rootSocket: m.file(rootDir)}
	if m.options.Disk != "" {
		shares[diskSocket] = m.options.Disk
	}
	return shares
}

// shareRoot makes a read-only view of all files, in a mount namespace of this
// thread's own.
func (m *machine) shareRoot() error {
	if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("making a mount namespace: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("making mounts private: %w", err)
	}
	if err := os.Mkdir(m.file(rootDir), 0o755); err != nil {
		return fmt.Errorf("making a place for the root: %w", err)
	}
	tree, err := unix.OpenTree(unix.AT_FDCWD, "/", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
	if err != nil {
		return fmt.Errorf("cloning the root: %w", err)
	}
	defer unix.Close(tree)
	attr := &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
	if err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, attr); err != nil {
		return fmt.Errorf("making the root read-only: %w", err)
	}
	if err := unix.MoveMount(tree, "", unix.AT_FDCWD, m.file(rootDir), unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("mounting the root: %w", err)
	}
	// The guest has its own.
	for _, dir := range []string{"/proc", "/sys", "/dev", "/run"} {
		err := unix.Unmount(m.file(rootDir)+dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("leaving %s out of the root: %w", dir, err)
		}
	}
	return nil
}

// serveFiles starts virtiofsd for a directory, and waits until it listens.
func (m *machine) serveFiles(ctx context.Context, socket, source string) (*exec.Cmd, error) {
	path := ""
	for _, p := range virtiofsdPaths {
		if _, err := os.Stat(p); err == nil {
			path = p
			break
		}
	}
	if path == "" {
		return nil, fmt.Errorf("starting virtiofsd: it is in none of %v: install the package qemu-system-common (Debian 12) or virtiofsd", virtiofsdPaths)
	}
	cmd := exec.CommandContext(ctx, path, "--socket-path="+m.file(socket), "-o", "source="+source,
		"-o", "sandbox=chroot", "-o", "cache=always", "--rlimit-nofile=0", "-f")
	cmd.Stderr = &bytes.Buffer{}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting virtiofsd: %w", err)
	}
	for start := time.Now(); ; time.Sleep(5 * time.Millisecond) {
		if _, err := os.Stat(m.file(socket)); err == nil {
			return cmd, nil
		}
		if unix.Kill(cmd.Process.Pid, 0) != nil || time.Since(start) > 10*time.Second || ctx.Err() != nil {
			_ = cmd.Process.Kill()
			err := cmd.Wait()
			return nil, fmt.Errorf("starting virtiofsd: %w\n%s", err, cmd.Stderr)
		}
	}
}

func (m *machine) qemu(ctx context.Context) *exec.Cmd {
	accel := os.Getenv(accelEnv)
	if accel == "" {
		accel = "tcg,thread=multi"
	}
	args := []string{
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-nic", "none",
		"-accel", accel, "-cpu", "max", "-smp", fmt.Sprint(m.options.CPUs), "-m", fmt.Sprintf("%dM", m.options.Memory),
		"-kernel", m.kernel.image, "-initrd", m.file(initrd),
		// A panic reboots at once, and a reboot ends qemu.
		"-append", "console=ttyS0 loglevel=4 panic=-1 random.trust_cpu=on mitigations=off rdinit=/init",
		"-object", fmt.Sprintf("memory-backend-memfd,id=memory,share=on,size=%dM", m.options.Memory),
		"-numa", "node,memdev=memory",
		"-chardev", "socket,id=files,path=" + m.file(rootSocket),
		"-device", "vhost-user-fs-pci,queue-size=1024,chardev=files,tag=" + guest.RootTag,
		"-chardev", "socket,id=console,path=" + m.file(consolePort), "-device", "isa-serial,chardev=console",
		"-device", "virtio-serial-pci",
	}
	if m.options.Disk != "" {
		args = append(args, "-chardev", "socket,id=disk,path="+m.file(diskSocket),
			"-device", "vhost-user-fs-pci,queue-size=1024,chardev=disk,tag="+guest.DiskTag)
	}
	if m.options.Tap != nil { // the first of ExtraFiles
		args = append(args, "-netdev", "tap,id=net,fd=3", "-device", "virtio-net-pci,netdev=net,romfile=")
	}
	for _, port := range []string{guest.OutPort, guest.ResultPort} {
		args = append(args, "-chardev", "socket,id="+port+",path="+m.file(port),
			"-device", "virtserialport,chardev="+port+",name="+port)
	}
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", args...)
	if m.options.Tap != nil {
		cmd.ExtraFiles = []*os.File{m.options.Tap}
	}
	return cmd
}
