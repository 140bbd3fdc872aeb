package cni_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/weaveguard/weaveguard/test/thread"
)

// A disk for attachments that is full fails ADD with what to do, and nothing of it stays; DEL works, and once there is
// room all does.
func TestFullDisk(t *testing.T) {
	n := newNode(t)
	n.add("first", newNS(t), nil)
	sandbox := newNS(t)
	stdin := n.config(nil)
	run := func(verb, container string) (string, error) {
		c := n.command(call{verb: verb, container: container, netns: sandbox.Path(), stdin: stdin})
		var out bytes.Buffer
		c.Stdout, c.Stderr = &out, &out
		err := c.Run()
		return out.String(), err
	}
	n.onSmallDisk(func() {
		filler := filepath.Join(n.dataDir, "filler")
		if out, err := exec.Command("dd", "if=/dev/zero", "of="+filler, "bs=4096").CombinedOutput(); err == nil {
			t.Errorf("the disk isn't full: %s", out)
		}
		out, err := run("ADD", "second")
		if _, failed := err.(*exec.ExitError); !failed || !strings.Contains(out, `"code": 5`) || !strings.Contains(out, "no space left on device") {
			t.Errorf("ADD on a full disk: %v, %s", err, out)
		}
		if out, err := run("DEL", "second"); err != nil {
			t.Errorf("DEL on a full disk: %v, %s", err, out)
		}
		if err := os.Remove(filler); err != nil {
			t.Error(err)
		}
		for _, verb := range []string{"ADD", "DEL"} {
			if out, err := run(verb, "second"); err != nil {
				t.Errorf("%s once there is room: %v, %s", verb, err, out)
			}
		}
	})
	n.del("first", "")
	n.wantNoLeftovers()
}

// A disk without room for one more file can't keep a DEL from freeing what is attached.
func TestDelWithoutInodes(t *testing.T) {
	n := newNode(t)
	sandbox := newNS(t)
	stdin := n.config(nil)
	if err := os.MkdirAll(n.dataDir, 0o700); err != nil {
		t.Fatal(err)
	}
	run := func(verb, container string) {
		c := n.command(call{verb: verb, container: container, netns: sandbox.Path(), stdin: stdin})
		if out, err := c.CombinedOutput(); err != nil {
			t.Errorf("%s of %s: %v, %s", verb, container, err, out)
		}
	}
	n.onSmallDisk(func() {
		run("ADD", "first")
		if err := os.RemoveAll(filepath.Join(n.dataDir, "removals")); err != nil {
			t.Error(err)
		}
		for i := 0; ; i++ {
			if err := os.Symlink("x", filepath.Join(n.dataDir, fmt.Sprint("filler", i))); errors.Is(err, unix.ENOSPC) {
				break
			} else if err != nil {
				t.Error(err)
				return
			}
		}
		run("DEL", "first")
		left, err := os.ReadDir(filepath.Join(n.dataDir, "attachments"))
		if err != nil || len(left) > 0 {
			t.Errorf("left is %v, %v", left, err)
		}
	})
	n.wantNoLeftovers()
}

// onSmallDisk does something with a small file system in the place of the node's data, which is there for that alone.
func (n *node) onSmallDisk(do func()) {
	n.Helper()
	thread.Do(func() {
		if err := n.ns.Set(); err != nil {
			n.Error(err)
			return
		}
		if err := smallDisk(n.dataDir); err != nil {
			n.Error(err)
			return
		}
		do()
	})
}

// smallDisk puts a small file system in the place of a directory, for this thread and its children alone.
func smallDisk(dir string) error {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return os.NewSyscallError("unshare", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return os.NewSyscallError("mount", err)
	}
	return os.NewSyscallError("mount", unix.Mount("small", dir, "tmpfs", 0, "size=64k,nr_inodes=64"))
}
