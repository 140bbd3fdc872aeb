package product_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weaveguard/weaveguard/mesh/kube"
)

// testProtection takes the policies out of force and applies the manifest again.
func (w *world) testProtection(t *testing.T) {
	node := w.nodes[0]
	if missing, err := w.missingPolicies(t.Context(), node); len(missing) > 0 || err != nil {
		t.Errorf("under the policies: it misses %q, %v", missing, err)
	}
	w.kubectl(t, "delete", "validatingadmissionpolicybinding", kube.NodePolicy, kube.KeyringPolicy, kube.LeasePolicy)
	// An agent that runs looks each ten minutes; one that starts, at once.
	pod, err := w.agentPod(t.Context(), node)
	if err != nil {
		t.Fatal(err)
	}
	w.keepSaid(t, node)
	w.kubectl(t, "delete", "pod", pod.Name, "-n", system)
	w.awaitProblem(t, node, kube.NodePolicy, "change another Node", "apply Weaveguard's manifest")
	w.awaitProblem(t, node, kube.KeyringPolicy, "replace the gossip key", "apply Weaveguard's manifest")
	w.awaitProblem(t, node, kube.LeasePolicy, "other nodes' claims", "apply Weaveguard's manifest")
	for _, reason := range []string{kube.ReasonNotProtected, kube.ReasonKeyringNotProtected, kube.ReasonClaimsNotProtected} {
		w.describes(t, node, reason)
	}
	if _, err := w.claims().Get(t.Context(), "v4-0.0.0.0-32", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("what the agent tried is there: %v", err)
	}
	if _, err := w.KubectlApply(t.Context(), w.manifest); err != nil {
		t.Fatal(err)
	}
	w.eventually(t, "the warnings go", func(ctx context.Context) error {
		missing, err := w.missingPolicies(ctx, node)
		if len(missing) > 0 {
			err = fmt.Errorf("it still misses %q", missing)
		}
		return err
	})
	// It isn't that the agent doesn't know.
	log, err := w.log(t.Context(), node)
	for _, what := range []string{"protects the Nodes again", "protects the gossip key again",
		"protects the claims of pod CIDRs again"} {
		if err != nil || !strings.Contains(log, what) {
			t.Errorf("the log doesn't say that a policy %s (%v):\n%s", what, err, log)
		}
	}
}

// missingPolicies are those that a node's agent says are missing.
func (w *world) missingPolicies(ctx context.Context, node string) (missing []string, err error) {
	status, err := w.status(ctx, node)
	for _, problem := range status.Problems {
		if policy, ok := strings.CutPrefix(problem.Subject, "admission policy "); ok {
			missing = append(missing, policy)
		}
	}
	return missing, err
}
