package product_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/weaveguard/weaveguard/test/cluster"
	"github.com/weaveguard/weaveguard/test/faults"
	"github.com/weaveguard/weaveguard/test/full"
	"github.com/weaveguard/weaveguard/test/internal/previous"
)

// TestUpgrade applies the manifest of the previous version with its image, and then this version's, under traffic. It takes the
// repository's history, so it runs in full only, and by `make faults`.
func TestUpgrade(t *testing.T) {
	if !full.Wanted() && !faults.Wanted() {
		t.Log("not now: it needs the repository's history, and `make test-full` and `make faults` run it, as docs/reliability.md says")
		return
	}
	image := imageTar(t)
	old, tree := previous.Image(t)
	manifest, err := os.ReadFile(filepath.Join(tree, "deploy", "weaveguard.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t)
	next := w.manifest
	w.manifest = string(manifest)
	w.Cluster = cluster.ForTest(t, cluster.Options{Nodes: 3})
	w.learn(t)
	w.install(t, old)
	w.learnSecrets(t, w.nodes)
	w.runPods(t, map[string]string{pod1: w.nodes[0], pod2: w.nodes[1], pod3: w.nodes[2]})
	w.haveVersion(t, true)
	w.fault(t, 25, "the DaemonSet of the previous version is replaced by this one's", func(t *testing.T) time.Duration {
		if err := w.LoadImage(t.Context(), image); err != nil {
			t.Fatal(err)
		}
		for _, node := range w.nodes {
			w.keepSaid(t, node)
		}
		begin := time.Now()
		if _, err := w.KubectlApply(t.Context(), next); err != nil {
			t.Fatal(err)
		}
		// Both images have one name here, so the manifest alone may start nothing anew.
		w.kubectl(t, "rollout", "restart", "daemonset/weaveguard", "-n", system)
		w.kubectl(t, "rollout", "status", "daemonset/weaveguard", "-n", system, "--timeout=5m")
		return time.Since(begin)
	})
	w.haveVersion(t, false)
	w.runPods(t, map[string]string{"later": w.nodes[1]})
	if _, err := w.get(t.Context(), place{pod1, true}, w.podIP(t, "later").String(), httpPort); err != nil {
		t.Error(err)
	}
	t.Run(noSecretSaid, w.testSecrets)
}

// haveVersion waits until all agents are of the previous version, or of this one.
func (w *world) haveVersion(t *testing.T, old bool) {
	t.Helper()
	for _, node := range w.nodes {
		w.eventually(t, fmt.Sprintf("the agent of %s is of the previous version: %t", node, old), func(ctx context.Context) error {
			s, err := w.status(ctx, node)
			if err == nil && (s.Version == previous.Version) != old {
				err = fmt.Errorf("it is %s", s.Version)
			}
			return err
		})
	}
}
