package cluster

import (
	"context"
	"os"
	"strings"
	"testing"
)

// ForTest brings a cluster up for a test and takes it down with it. When the test fails, the logs of
// all hosts are kept in build/cluster-logs.
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
		}
		// The test's context has ended by now.
		if err := c.Down(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return c
}
