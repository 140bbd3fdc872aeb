package product_test

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/weaveguard/weaveguard/test/cluster"
)

// TestBadInput gives a cluster what it can't work with, one thing after the other: each is said clearly on the node
// and in Kubernetes, and when it is put right nobody has to restart anything.
func TestBadInput(t *testing.T) {
	t.Parallel() // it counts no packets
	// Nodes that claim a podCIDR by themselves would lack nothing: see TestClaims.
	w := &world{manifest: withArgument(readManifest(t), "--claim=never"), address: map[string]netip.Addr{}, pods: map[string]netip.Prefix{}}
	w.probe = buildProgram(t, "./test/probe")
	image := imageTar(t)
	w.Cluster = cluster.ForTest(t, cluster.Options{Nodes: 2, NoPodCIDR: true})
	w.nodes = []string{"node-1", "node-2"}
	if err := w.LoadImage(t.Context(), image); err != nil {
		t.Fatal(err)
	}
	if !t.Run("the Secret is missing", w.testNoSecret) || !t.Run("nodes have no podCIDR", w.testNoPodCIDR) {
		return
	}
	t.Run("podCIDRs overlap", w.testOverlap)
	t.Run(noSecretSaid, w.testSecrets)
}

// testNoSecret applies a manifest without the gossip Secret.
func (w *world) testNoSecret(t *testing.T) {
	parts := strings.Split(w.manifest, "\n---\n")
	kept := parts[:0:0]
	for _, part := range parts {
		if !strings.Contains(part, "\nkind: Secret\n") {
			kept = append(kept, part)
		}
	}
	if len(kept) != len(parts)-1 {
		t.Fatalf("the manifest has %d Secrets, want one", len(parts)-len(kept))
	}
	if _, err := w.KubectlApply(t.Context(), strings.Join(kept, "\n---\n")); err != nil {
		t.Fatal(err)
	}
	words := []string{"weaveguard-gossip", "kube-system"}
	for _, node := range w.nodes {
		w.awaitProblem(t, node, words...)
		w.eventually(t, "the log of "+node+" says it", func(ctx context.Context) error {
			log, err := w.log(ctx, node)
			if err != nil {
				return err
			}
			for line := range strings.Lines(log) {
				if strings.Contains(line, "level=ERROR") && saysAll(line, words) {
					return nil
				}
			}
			return fmt.Errorf("it is\n%s", log)
		})
	}
}

// testNoPodCIDR applies the whole manifest, in a cluster that gives nodes no podCIDRs.
func (w *world) testNoPodCIDR(t *testing.T) {
	agents := w.agentStarts(t)
	if _, err := w.KubectlApply(t.Context(), w.manifest); err != nil {
		t.Fatal(err)
	}
	for _, node := range w.nodes {
		w.awaitProblem(t, node, "no pod CIDR", "--allocate-node-cidrs")
		w.awaitUnavailable(t, node, "no pod CIDR", "--allocate-node-cidrs")
	}
	text, err := w.cli(t.Context(), w.nodes[0], "status")
	if err != nil || !strings.HasPrefix(text, "not healthy") || !strings.Contains(text, "no pod CIDR") {
		t.Errorf("weaveguard status says %v\n%s", err, text)
	}
	if now := w.agentStarts(t); fmt.Sprint(now) != fmt.Sprint(agents) {
		t.Errorf("agents were %v and are %v: they went on only by a restart", agents, now)
	}
}

// testOverlap gives two nodes podCIDRs of which one is in the other. The older node keeps its own.
func (w *world) testOverlap(t *testing.T) {
	older, younger := w.byAge(t)
	wide, narrow := "10.77.0.0/24", "10.77.0.128/25"
	w.setPodCIDR(t, older, wide)
	if err := w.WaitNodesReady(t.Context(), older); err != nil {
		t.Fatal(err)
	}
	w.setPodCIDR(t, younger, narrow)
	for _, node := range w.nodes {
		w.awaitProblem(t, node, younger, narrow, "overlaps", wide, older)
	}
	w.awaitUnavailable(t, younger, narrow, "overlaps", wide, older)
	// The older node goes on serving its pods.
	if condition := condition(w.nodeObject(t, older)); condition.Status != corev1.ConditionFalse {
		t.Errorf("%s has NetworkUnavailable %q: %s", older, condition.Status, condition.Message)
	}
	w.runPods(t, map[string]string{"web": older})
	if _, err := w.get(t.Context(), place{name: older}, w.podIP(t, "web").String(), httpPort); err != nil {
		t.Error(err)
	}
}

// byAge returns the names of the two nodes, the older one first; of two of one second, the smaller name.
func (w *world) byAge(t *testing.T) (older, younger string) {
	t.Helper()
	a, b := w.nodeObject(t, w.nodes[0]), w.nodeObject(t, w.nodes[1])
	if b.CreationTimestamp.Before(&a.CreationTimestamp) {
		return b.Name, a.Name
	}
	return a.Name, b.Name
}

func (w *world) setPodCIDR(t *testing.T, node, cidr string) {
	t.Helper()
	w.kubectl(t, "patch", "node", node, "--type=merge", "-p", fmt.Sprintf(`{"spec":{"podCIDR":%q,"podCIDRs":[%q]}}`, cidr, cidr))
}

// withArgument is the manifest with one more argument for the agents.
func withArgument(manifest, argument string) string {
	return strings.Replace(manifest, "        - --kubernetes\n", "        - --kubernetes\n        - "+argument+"\n", 1)
}

func condition(node *corev1.Node) corev1.NodeCondition {
	return cluster.Condition(*node, corev1.NodeNetworkUnavailable)
}
