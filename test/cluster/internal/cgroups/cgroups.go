// Package cgroups makes, lists and removes the control groups of test clusters, for version 1,
// version 2 and both at once. It never touches a group that it wasn't told of by path.
package cgroups

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Hierarchy is one mounted tree of control groups.
type Hierarchy struct {
	// Mount is where it is mounted.
	Mount string
	// Unified is version 2.
	Unified bool
	// Options are those that mount the same tree again, "cpu,cpuacct" or "none,name=systemd".
	Options string
	// base is the directory that our groups go into.
	base string
}

// Mounted lists the machine's hierarchies from /proc/self/mountinfo and /proc/self/cgroup. Groups
// of version 1 go below this process's own, those of version 2 below the root, since only the root
// may hold processes and pass controllers on at once (kernel, admin-guide/cgroup-v2).
func Mounted() ([]Hierarchy, error) {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("list the mounted cgroups: %w", err)
	}
	own, err := ownGroups()
	if err != nil {
		return nil, err
	}
	var all []Hierarchy
	for line := range strings.Lines(string(mounts)) {
		h, root, ok := parseMount(line)
		if !ok || slices.ContainsFunc(all, func(o Hierarchy) bool { return o.Mount == h.Mount }) {
			continue
		}
		h.base = h.Mount
		if !h.Unified {
			group, known := own[strings.TrimPrefix(h.Options, "none,")]
			if !known {
				continue
			}
			h.base = filepath.Join(h.Mount, strings.TrimPrefix(group, root))
		}
		all = append(all, h)
	}
	if len(all) == 0 {
		return nil, errors.New("no cgroup hierarchy is mounted: mount cgroup2 at /sys/fs/cgroup")
	}
	return all, nil
}

// parseMount reads a line of proc(5)'s mountinfo.
func parseMount(line string) (h Hierarchy, root string, ok bool) {
	before, after, found := strings.Cut(line, " - ")
	left, right := strings.Fields(before), strings.Fields(after)
	if !found || len(left) < 5 || len(right) < 3 {
		return h, "", false
	}
	h.Mount, root = left[4], strings.TrimSuffix(left[3], "/")
	switch right[0] {
	case "cgroup2":
		h.Unified = true
		return h, root, true
	case "cgroup":
		var options []string
		for option := range strings.SplitSeq(right[2], ",") {
			switch option {
			case "rw", "ro", "xattr", "clone_children", "noprefix":
			default:
				options = append(options, option)
			}
		}
		h.Options = strings.Join(options, ",")
		if strings.HasPrefix(h.Options, "name=") {
			h.Options = "none," + h.Options
		}
		return h, root, true
	}
	return h, "", false
}

// ownGroups maps the controllers of each hierarchy of version 1, as in /proc/self/cgroup, to this
// process's group.
func ownGroups() (map[string]string, error) {
	data, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil, fmt.Errorf("find the cgroups of this process: %w", err)
	}
	groups := map[string]string{}
	lines := bufio.NewScanner(bytes.NewReader(data))
	for lines.Scan() {
		if parts := strings.SplitN(lines.Text(), ":", 3); len(parts) == 3 {
			groups[parts[1]] = parts[2]
		}
	}
	return groups, nil
}

// Dir is where the hierarchy has the group of that name.
func (h Hierarchy) Dir(name string) string { return filepath.Join(h.base, name) }

// Create makes the group, which may be a path, and readies each new level for processes.
func (h Hierarchy) Create(name string) error {
	dir := h.base
	for part := range strings.SplitSeq(name, "/") {
		if h.Unified {
			passControllersOn(dir)
		}
		parent := dir
		dir = filepath.Join(dir, part)
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("make cgroup: %w", err)
		}
		if h.Unified {
			continue
		}
		for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
			if err := inherit(parent, dir, file); err != nil {
				return err
			}
		}
	}
	return nil
}

// passControllersOn lets the children of a version 2 group use all its controllers. What the kernel
// refuses is left: the kubelet says so if it needs it.
func passControllersOn(dir string) {
	controllers, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	if err != nil {
		return
	}
	for _, c := range strings.Fields(string(controllers)) {
		_ = os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+"+c), 0)
	}
}

// inherit copies a cpuset file from the parent: a new group of version 1 starts empty and then
// refuses processes.
func inherit(parent, dir, file string) error {
	value, err := os.ReadFile(filepath.Join(parent, file))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read cgroup setting: %w", err)
	}
	if err := os.WriteFile(filepath.Join(dir, file), value, 0); err != nil {
		return fmt.Errorf("write cgroup setting: %w", err)
	}
	return nil
}

// Join moves this whole process into the group at dir.
func Join(dir string) error {
	if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte("0"), 0); err != nil {
		return fmt.Errorf("join cgroup: %w", err)
	}
	return nil
}

// Remove ends the processes in the group at dir and below, and removes it with all its
// descendants. It waits for the dying until ctx ends. A group that isn't there is fine.
func Remove(ctx context.Context, dir string) error {
	for {
		err := removeTree(dir)
		if err == nil || !errors.Is(err, unix.EBUSY) {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w (processes: %v)", err, Processes(dir))
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func removeTree(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove cgroup: %w", err)
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeTree(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	for _, pid := range members(dir) {
		_ = unix.Kill(pid, unix.SIGKILL)
	}
	if err := unix.Rmdir(dir); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("remove cgroup %s: %w", dir, err)
	}
	return nil
}

// Processes lists the processes in the group at dir and below.
func Processes(dir string) []int {
	var all []int
	_ = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.IsDir() {
			all = append(all, members(path)...)
		}
		return nil
	})
	return all
}

func members(dir string) []int {
	data, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if err != nil {
		return nil
	}
	var pids []int
	for _, field := range strings.Fields(string(data)) {
		// 0 is a process that this PID namespace doesn't see.
		if pid, err := strconv.Atoi(field); err == nil && pid > 0 {
			pids = append(pids, pid)
		}
	}
	return pids
}
