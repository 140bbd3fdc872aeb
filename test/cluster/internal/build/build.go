// Package build makes what a test cluster is made of: the programs of Kubernetes from source, the
// test images, and the harness's own command. All goes below build/ in the work tree, and is made
// again only when its sources change.
package build

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Version of Kubernetes; that of its modules is in test/cluster/kubernetes/go.mod.
const Version = "v1.36.3"

const module = "module github.com/weaveguard/weaveguard"

// Tree is a work tree of this project.
type Tree struct{ Root string }

// Find looks for the work tree upwards from the working directory, then from this program.
func Find() (Tree, error) {
	var starts []string
	if wd, err := os.Getwd(); err == nil {
		starts = append(starts, wd)
	}
	if program, err := os.Executable(); err == nil {
		starts = append(starts, filepath.Dir(program))
	}
	for _, dir := range starts {
		for ; dir != "/" && dir != "."; dir = filepath.Dir(dir) {
			if isRoot(filepath.Join(dir, "go.mod")) {
				return Tree{dir}, nil
			}
		}
	}
	return Tree{}, fmt.Errorf("find the work tree: no go.mod of Weaveguard in or above %s: run this in a clone", strings.Join(starts, ", "))
}

func isRoot(file string) bool {
	f, err := os.Open(file)
	if err != nil {
		return false
	}
	defer f.Close()
	line, _ := bufio.NewReader(f).ReadString('\n')
	return strings.TrimSpace(line) == module
}

// Path of something in the work tree.
func (t Tree) Path(parts ...string) string {
	return filepath.Join(append([]string{t.Root}, parts...)...)
}

// Programs is where Kubernetes puts its programs.
func (t Tree) Programs() string { return t.Path("build", "kubernetes") }

// program is one main package of the nested module.
type program struct{ name, path string }

func programs() []program {
	list := []program{{"etcd", "go.etcd.io/etcd/server/v3"}}
	for _, name := range []string{
		"kubectl", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy",
	} {
		list = append(list, program{name, "k8s.io/kubernetes/cmd/" + name})
	}
	return list
}

// Kubernetes builds etcd and the programs of Kubernetes, unless build/kubernetes has them already,
// and says what it does on log: it takes minutes the first time.
func (t Tree) Kubernetes(ctx context.Context, log io.Writer) error {
	source := t.Path("test", "cluster", "kubernetes")
	version, err := exec.CommandContext(ctx, "go", "version").Output()
	if err != nil {
		return fmt.Errorf("ask go for its version: %w", err)
	}
	stamp, err := stampOf([]string{source}, Version, string(version))
	if err != nil {
		return err
	}
	return once(ctx, t.Programs(), stamp, func() error {
		begin, list := time.Now(), programs()
		for i, p := range list {
			start := time.Now()
			fmt.Fprintf(log, "building %s (%d/%d) ...\n", p.name, i+1, len(list))
			cmd := exec.CommandContext(ctx, "go", "build", "-trimpath",
				"-ldflags=-s -w -X k8s.io/component-base/version.gitVersion="+Version,
				"-o", filepath.Join(t.Programs(), p.name), p.path)
			cmd.Dir = source
			cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=", "GOWORK=off")
			if output, err := cmd.CombinedOutput(); err != nil {
				return fmt.Errorf("build %s: %w\n%s", p.name, err, tail(output))
			}
			fmt.Fprintf(log, "built %s in %s\n", p.name, time.Since(start).Round(time.Second))
		}
		fmt.Fprintf(log, "built Kubernetes %s in %s\n", Version, time.Since(begin).Round(time.Second))
		return nil
	})
}

// Command builds the harness's own command and returns its path.
func (t Tree) Command(ctx context.Context) (string, error) {
	dir := t.Path("build", "cluster-bin")
	path := filepath.Join(dir, "wgcluster")
	err := locked(ctx, dir, func() error {
		return t.goBuild(ctx, path, "./test/cluster/wgcluster")
	})
	return path, err
}

// goBuild builds a static program of this module.
func (t Tree) goBuild(ctx context.Context, output, pkg string) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", output, pkg)
	cmd.Dir = t.Root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if output, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w\n%s", pkg, err, tail(output))
	}
	return nil
}

// once runs do, unless it succeeded before with the same stamp. Its result is in dir.
func once(ctx context.Context, dir, stamp string, do func() error) error {
	file := filepath.Join(dir, "stamp")
	return locked(ctx, dir, func() error {
		if old, err := os.ReadFile(file); err == nil && string(old) == stamp {
			return nil
		}
		if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("build anew: %w", err)
		}
		if err := do(); err != nil {
			return err
		}
		if err := os.WriteFile(file, []byte(stamp), 0o644); err != nil {
			return fmt.Errorf("mark as built: %w", err)
		}
		return nil
	})
}

// locked keeps other processes from building in dir meanwhile.
func locked(ctx context.Context, dir string, do func() error) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make the build directory: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(dir, ".lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return fmt.Errorf("lock the build directory: %w", err)
	}
	defer lock.Close()
	for {
		err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return do()
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("lock the build directory: %w", err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for another build in %s: %w", dir, ctx.Err())
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// stampOf changes with any file in the directories, with their own names, and with the words.
func stampOf(dirs []string, words ...string) (string, error) {
	sum := sha256.New()
	fmt.Fprintf(sum, "%q\n", words)
	for _, dir := range dirs {
		err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
			if err != nil || e.IsDir() {
				return err
			}
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			name, err := filepath.Rel(dir, path)
			fmt.Fprintf(sum, "%s %x\n", name, sha256.Sum256(data))
			return err
		})
		if err != nil {
			return "", fmt.Errorf("read sources: %w", err)
		}
	}
	return hex.EncodeToString(sum.Sum(nil)) + "\n", nil
}

func tail(output []byte) string {
	const limit = 4000
	return string(output[max(0, len(output)-limit):])
}
