package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/weaveguard/weaveguard/test/cluster/internal/api"
	"github.com/weaveguard/weaveguard/test/cluster/internal/build"
	"github.com/weaveguard/weaveguard/test/cluster/internal/cgroups"
	"golang.org/x/sys/unix"
)

// downTimeout bounds how long a supervisor may take to end.
const downTimeout = 60 * time.Second

func stateRoot(tree build.Tree) string { return tree.Path("build", "cluster") }

func stateDir(tree build.Tree, name string) string { return filepath.Join(stateRoot(tree), name) }

// claim makes a cluster's directory and locks it. The lock goes with the last process that has the
// file open, which is how others know whether the cluster lives.
func claim(dir string) (*os.File, error) {
	unlock, err := lockRoot(filepath.Dir(dir))
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("make the cluster's directory: %w", err)
	}
	lock, err := lockDir(dir)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil, fmt.Errorf("cluster %s is running already: take it down, or choose another name", filepath.Base(dir))
	}
	return lock, err
}

// lockRoot keeps a sweep from taking a directory that is being claimed for a dead one.
func lockRoot(root string) (unlock func(), err error) {
	if err := os.MkdirAll(root, 0o755); err != nil {
		return nil, fmt.Errorf("make the directory of clusters: %w", err)
	}
	file, err := os.Open(root)
	if err != nil {
		return nil, fmt.Errorf("lock the directory of clusters: %w", err)
	}
	for {
		err := unix.Flock(int(file.Fd()), unix.LOCK_EX)
		if err == nil {
			return func() { file.Close() }, nil
		}
		if !errors.Is(err, unix.EINTR) {
			file.Close()
			return nil, fmt.Errorf("lock the directory of clusters: %w", err)
		}
	}
}

func lockDir(dir string) (*os.File, error) {
	file, err := os.OpenFile(filepath.Join(dir, api.LockFile), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("lock the cluster's directory: %w", err)
	}
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		file.Close()
		return nil, fmt.Errorf("lock the cluster's directory: %w", err)
	}
	return file, nil
}

// isClaimed tells whether a cluster's supervisor lives.
func isClaimed(dir string) (bool, error) {
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	lock, err := lockDir(dir)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return true, nil
	}
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil // it has just gone
	}
	if err != nil {
		return false, err
	}
	return false, lock.Close()
}

// Sweep removes what clusters of this work tree left whose supervisor was killed.
func Sweep(ctx context.Context) error {
	tree, err := build.Find()
	if err != nil {
		return err
	}
	unlock, err := lockRoot(stateRoot(tree))
	if err != nil {
		return err
	}
	defer unlock()
	entries, err := os.ReadDir(stateRoot(tree))
	if err != nil {
		return fmt.Errorf("look for clusters that were killed: %w", err)
	}
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		dir := filepath.Join(stateRoot(tree), e.Name())
		lock, err := lockDir(dir)
		if errors.Is(err, unix.EWOULDBLOCK) || errors.Is(err, fs.ErrNotExist) {
			continue // it lives, or has just gone
		}
		if err != nil {
			return err
		}
		err = removeDead(ctx, dir)
		if err := errors.Join(err, lock.Close()); err != nil {
			return err
		}
	}
	return nil
}

// removeDead removes a cluster whose supervisor is dead. The caller has its lock.
func removeDead(ctx context.Context, dir string) error {
	ctx, cancel := context.WithTimeout(ctx, downTimeout)
	defer cancel()
	data, err := os.ReadFile(filepath.Join(dir, api.CgroupsFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove cluster %s: %w", filepath.Base(dir), err)
	}
	var groups []string
	if err == nil {
		if err := json.Unmarshal(data, &groups); err != nil {
			return fmt.Errorf("remove cluster %s: read its cgroups: %w", filepath.Base(dir), err)
		}
	}
	for _, group := range groups {
		if err := cgroups.Remove(ctx, group); err != nil {
			return fmt.Errorf("remove cluster %s: %w", filepath.Base(dir), err)
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("remove cluster %s: %w", filepath.Base(dir), err)
	}
	return nil
}

// Remove takes the cluster of that name down, whether it lives or was killed. One that isn't there
// is fine.
func Remove(ctx context.Context, name string) error {
	tree, err := build.Find()
	if err != nil {
		return err
	}
	c := newCluster(tree, stateDir(tree, name))
	if response, err := c.post(ctx, "/down"); err == nil {
		response.Body.Close()
	}
	return c.remove(ctx)
}

// remove waits until the supervisor has ended, and removes what it may have left.
func (c *Cluster) remove(ctx context.Context) error {
	err := Poll(ctx, downTimeout, "the supervisor of cluster "+c.Name()+" ends", func(context.Context) error {
		alive, err := isClaimed(c.dir)
		if err == nil && alive {
			err = fmt.Errorf("it lives, see %s", filepath.Join(c.dir, api.SupervisorLog))
		}
		return err
	})
	if err != nil {
		return err
	}
	if published := filepath.Join(filepath.Dir(c.dir), api.KubeconfigFile); c.Name() == DefaultName {
		if err := os.Remove(published); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove the kubeconfig: %w", err)
		}
	}
	return removeDead(ctx, c.dir)
}

// publishKubeconfig puts the kubeconfig of the command line's cluster where people look for it.
func (c *Cluster) publishKubeconfig() error {
	data, err := os.ReadFile(c.Kubeconfig())
	if err != nil {
		return fmt.Errorf("publish the kubeconfig: %w", err)
	}
	if err := os.WriteFile(filepath.Join(filepath.Dir(c.dir), api.KubeconfigFile), data, 0o600); err != nil {
		return fmt.Errorf("publish the kubeconfig: %w", err)
	}
	return nil
}

// SaveLogs copies the logs of all services of all hosts, and the supervisor's, to dir.
func (c *Cluster) SaveLogs(dir string) error {
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("save logs: %w", err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("save logs: %w", err)
	}
	data, err := os.ReadFile(filepath.Join(c.dir, api.SupervisorLog))
	if err != nil {
		return fmt.Errorf("save logs: %w", err)
	}
	if err := os.WriteFile(filepath.Join(dir, api.SupervisorLog), data, 0o644); err != nil {
		return fmt.Errorf("save logs: %w", err)
	}
	err = os.CopyFS(dir, os.DirFS(filepath.Join(c.dir, api.LogDir)))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("save logs: %w", err)
	}
	return nil
}
