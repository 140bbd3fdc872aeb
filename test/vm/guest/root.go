package guest

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

type mount struct {
	source, target, kind string
	flags                uintptr
	options              string
}

func (m mount) do() error {
	if err := os.MkdirAll(m.target, 0o755); err != nil {
		return fmt.Errorf("making %s: %w", m.target, err)
	}
	if err := unix.Mount(m.source, m.target, m.kind, m.flags, m.options); err != nil {
		return fmt.Errorf("mounting %s on %s: %w", m.kind, m.target, err)
	}
	return nil
}

func mountAll(mounts []mount) error {
	for _, m := range mounts {
		if err := m.do(); err != nil {
			return err
		}
	}
	return nil
}

// mountRoot makes the machine's files, with all changes kept in memory, this
// process's root.
func mountRoot(modulesFrom string) error {
	const root = "/newroot"
	err := mountAll([]mount{
		{source: RootTag, target: "/lower", kind: "virtiofs", flags: unix.MS_RDONLY},
		{source: "tmpfs", target: "/changes", kind: "tmpfs"},
	})
	if err != nil {
		return err
	}
	for _, dir := range []string{"/changes/upper", "/changes/work"} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return fmt.Errorf("making %s: %w", dir, err)
		}
	}
	overlay := mount{source: "overlay", target: root, kind: "overlay", options: "lowerdir=/lower,upperdir=/changes/upper,workdir=/changes/work"}
	if err := overlay.do(); err != nil {
		return err
	}
	if err := os.Chdir(root); err != nil {
		return fmt.Errorf("entering the root: %w", err)
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("moving the root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("entering the root: %w", err)
	}
	if err := os.Chdir("/"); err != nil {
		return fmt.Errorf("entering the root: %w", err)
	}
	return mountSystem(modulesFrom)
}

// mountSystem mounts what the kernel provides, and fresh temporary places.
func mountSystem(modulesFrom string) error {
	const quiet = unix.MS_NOSUID | unix.MS_NODEV
	err := mountAll([]mount{
		{source: "proc", target: "/proc", kind: "proc", flags: quiet | unix.MS_NOEXEC},
		{source: "sysfs", target: "/sys", kind: "sysfs", flags: quiet | unix.MS_NOEXEC},
		{source: "devtmpfs", target: "/dev", kind: "devtmpfs", flags: unix.MS_NOSUID, options: "mode=755"},
		{source: "devpts", target: "/dev/pts", kind: "devpts", flags: unix.MS_NOSUID | unix.MS_NOEXEC, options: "mode=620,ptmxmode=666"},
		{source: "tmpfs", target: "/dev/shm", kind: "tmpfs", flags: quiet},
		{source: "tmpfs", target: "/run", kind: "tmpfs", flags: quiet, options: "mode=755"},
		// /tmp shows the machine's, where the command itself may be.
		{source: "tmpfs", target: "/var/tmp", kind: "tmpfs", flags: quiet, options: "mode=1777"},
	})
	if err != nil {
		return err
	}
	for name, target := range map[string]string{"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2"} {
		if err := os.Symlink(target, "/dev/"+name); err != nil {
			return fmt.Errorf("making /dev/%s: %w", name, err)
		}
	}
	modules := mount{source: modulesFrom, target: filepath.Join("/lib/modules", filepath.Base(modulesFrom)), flags: unix.MS_BIND}
	return modules.do()
}
