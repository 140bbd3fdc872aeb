package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// podLogs prints the logs of the system's pods that a node has, and its tunnels, without secrets.
const podLogs = `for f in $(find /var/log/pods/kube-system_* -name '*.log' | sort); do echo "== $f"; cat "$f"; done
echo "== wg show"; wg show`

// ForTest brings a cluster up for a test and takes it down with it. When the test fails, the logs of
// all hosts, and of their kube-system pods, are kept in build/cluster-logs.
func ForTest(t testing.TB, options Options) *Cluster {
	t.Helper()
	if options.Log == nil {
		options.Log = t.Output()
	}
	c, err := Up(t.Context(), options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := os.Stat(c.dir); err != nil {
			return // the test took it down
		}
		if t.Failed() {
			dir := c.tree.Path("build", "cluster-logs", strings.ReplaceAll(t.Name(), "/", "-"))
			if err := c.SaveLogs(dir); err != nil {
				t.Error(err)
			} else {
				t.Logf("logs of the cluster are in %s", dir)
			}
			if err := c.savePodLogs(context.Background(), dir); err != nil {
				t.Error(err)
			}
		}
		// The test's context has ended by now.
		if err := c.Down(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return c
}

// savePodLogs adds to dir what the kube-system pods of all nodes said, as pods.log.
func (c *Cluster) savePodLogs(ctx context.Context, dir string) error {
	nodes, err := c.Nodes(ctx)
	if err != nil {
		return fmt.Errorf("save the logs of pods: %w", err)
	}
	var errs []error
	for _, node := range nodes {
		said, err := c.OnNode(ctx, node, "sh", "-c", podLogs)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, node, "pods.log"), []byte(said), 0o644)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("save the logs of pods of %s: %w", node, err))
		}
	}
	return errors.Join(errs...)
}
