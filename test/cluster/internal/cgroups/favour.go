package cgroups

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Favour gives the group at dir, which is at or below that of the name top, and all between the two the
// largest weight there is. It reports whether the hierarchy gives the group processor time by weight.
func (h Hierarchy) Favour(top, dir string) (weighted bool, err error) {
	for at := dir; ; at = filepath.Dir(at) {
		shares, err1 := write(filepath.Join(at, "cpu.shares"), "262144") // of version 1
		weight, err2 := write(filepath.Join(at, "cpu.weight"), "10000")  // of version 2
		if err := errors.Join(err1, err2); err != nil {
			return false, err
		}
		if at == dir {
			weighted = shares || weight
		}
		if at == h.Dir(top) {
			return weighted, nil
		}
	}
}

// write writes a setting, if the group has it.
func write(file, value string) (has bool, err error) {
	if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err := os.WriteFile(file, []byte(value), 0); err != nil {
		return false, fmt.Errorf("write cgroup setting: %w", err)
	}
	return true, nil
}

// Find returns the group at dir or below that holds a process which matches; "" if there is none.
func Find(dir string, matches func(pid int) bool) (found string) {
	_ = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.IsDir() {
			return nil // a group that has just gone
		}
		for _, pid := range members(path) {
			if matches(pid) {
				found = path
				return fs.SkipAll
			}
		}
		return nil
	})
	return found
}
