package host

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/weaveguard/weaveguard/test/cluster/internal/api"
	"github.com/weaveguard/weaveguard/test/cluster/internal/cgroups"
	"golang.org/x/sys/unix"
)

// unifiedLeaf is the group that a host's first process lives in under version 2.
const unifiedLeaf = "init"

func setUp(spec api.HostSpec) error {
	if err := unix.Sethostname([]byte(spec.Name)); err != nil {
		return fmt.Errorf("set the hostname: %w", err)
	}
	hierarchies, err := cgroups.Mounted()
	if err != nil {
		return err
	}
	// Nothing mounted here reaches the machine, nor the other way round; within the host mounts
	// are shared, as the container runtime wants it for mount propagation.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
		return fmt.Errorf("make mounts shared in the host: %w", err)
	}
	if err := detachBelow("/run"); err != nil {
		return err
	}
	if err := mountKernel(hierarchies); err != nil {
		return err
	}
	for _, dir := range spec.JoinUnified {
		if err := joinLeaf(hierarchies, dir); err != nil {
			return err
		}
	}
	if err := mountDisk(spec); err != nil {
		return err
	}
	for _, dir := range spec.Directories {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("set up the host's disk: %w", err)
		}
	}
	return setSysctls(spec.Sysctls)
}

// detachBelow lets go of the machine's mounts below a directory that the host will have of its own.
// Network namespaces that others made would else live on as long as the host.
func detachBelow(dir string) error {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return fmt.Errorf("list mounts: %w", err)
	}
	for line := range strings.Lines(string(mounts)) {
		fields := strings.Fields(line)
		if len(fields) < 5 || !strings.HasPrefix(fields[4], dir+"/") {
			continue
		}
		// Those of a mount that is gone already are gone with it.
		err := unix.Unmount(fields[4], unix.MNT_DETACH)
		if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("detach %s: %w", fields[4], err)
		}
	}
	return nil
}

// mountKernel gives the host a /proc of its PID namespace, a /sys of its network namespace and
// the cgroups below its own.
func mountKernel(hierarchies []cgroups.Hierarchy) error {
	const flags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	if err := unix.Mount("proc", "/proc", "proc", flags, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	if err := unix.Mount("sysfs", "/sys", "sysfs", flags, ""); err != nil {
		return fmt.Errorf("mount /sys: %w", err)
	}
	if !(len(hierarchies) == 1 && hierarchies[0].Unified) {
		if err := unix.Mount("tmpfs", "/sys/fs/cgroup", "tmpfs", flags, "mode=755"); err != nil {
			return fmt.Errorf("mount /sys/fs/cgroup: %w", err)
		}
	}
	for _, h := range hierarchies {
		if err := os.MkdirAll(h.Mount, 0o755); err != nil {
			return fmt.Errorf("mount cgroups: %w", err)
		}
		kind := "cgroup"
		if h.Unified {
			kind = "cgroup2"
		}
		if err := unix.Mount(kind, h.Mount, kind, flags, h.Options); err != nil {
			return fmt.Errorf("mount %s (%s) at %s: %w", kind, h.Options, h.Mount, err)
		}
		if err := linkControllers(h); err != nil {
			return err
		}
	}
	return nil
}

// linkControllers makes the customary names cpu and cpuacct for a mount "cpu,cpuacct".
func linkControllers(h cgroups.Hierarchy) error {
	base := filepath.Base(h.Mount)
	if h.Unified || !strings.Contains(base, ",") {
		return nil
	}
	for name := range strings.SplitSeq(base, ",") {
		err := os.Symlink(base, filepath.Join(filepath.Dir(h.Mount), name))
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("mount cgroups: %w", err)
		}
	}
	return nil
}

// joinLeaf moves this process out of the root of the host's unified hierarchy, so that the root
// may pass controllers on.
func joinLeaf(hierarchies []cgroups.Hierarchy, dir string) error {
	for _, h := range hierarchies {
		if !h.Unified || !strings.HasPrefix(dir, h.Mount+"/") {
			continue
		}
		leaf := filepath.Join(h.Mount, unifiedLeaf)
		if err := os.MkdirAll(leaf, 0o755); err != nil {
			return fmt.Errorf("make cgroup: %w", err)
		}
		if err := cgroups.Join(leaf); err != nil {
			return err
		}
	}
	return nil
}

func mountDisk(spec api.HostSpec) error {
	if spec.Etc != "" {
		upper, work := filepath.Join(spec.Etc, "upper"), filepath.Join(spec.Etc, "work")
		options := "lowerdir=/etc,upperdir=" + upper + ",workdir=" + work
		if err := unix.Mount("overlay", "/etc", "overlay", 0, options); err != nil {
			return fmt.Errorf("mount an overlay (%s) at /etc: %w", options, err)
		}
	}
	for _, b := range spec.Binds {
		if err := unix.Mount(b.Source, b.Target, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("mount %s at %s: %w", b.Source, b.Target, err)
		}
	}
	if err := unix.Mount("tmpfs", "/run", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755"); err != nil {
		return fmt.Errorf("mount /run: %w", err)
	}
	for _, target := range slices.Sorted(maps.Keys(spec.Contents)) {
		if err := mountContent(target, spec.Contents[target]); err != nil {
			return err
		}
	}
	return nil
}

// mountContent puts a file of our own in the place of one of the machine's.
func mountContent(target, content string) error {
	if _, err := os.Stat(target); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	source := filepath.Join("/run/host-contents", strings.ReplaceAll(target, "/", "-"))
	if err := os.MkdirAll(filepath.Dir(source), 0o755); err != nil {
		return fmt.Errorf("replace %s: %w", target, err)
	}
	if err := os.WriteFile(source, []byte(content), 0o644); err != nil {
		return fmt.Errorf("replace %s: %w", target, err)
	}
	if err := unix.Mount(source, target, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount %s at %s: %w", source, target, err)
	}
	return nil
}

func setSysctls(settings map[string]string) error {
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		err := os.WriteFile(filepath.Join("/proc/sys", name), []byte(settings[name]), 0)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("set %s: %w", name, err)
		}
	}
	return nil
}
