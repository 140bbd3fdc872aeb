package product_test

import (
	"context"
	"errors"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// testRevokedToken deletes an agent's pod, and with it its token, while the node's kubelet doesn't see that: the agent goes
// on with what it knows and says what is wrong, and the next one has a good token.
func (w *world) testRevokedToken(t *testing.T) {
	node := w.nodes[0]
	program := buildProgram(t, "./cmd/weaveguard")
	running := w.startTraffic(t, pod1, pod2)
	resume := w.stopKubelet(t, node)
	old, err := w.agentPod(t.Context(), node)
	if err != nil {
		t.Fatal(err)
	}
	w.keepSaid(t, node)
	w.kubectl(t, "delete", "pod", old.Name, "-n", system, "--force", "--grace-period=0")
	w.eventually(t, "the agent says that its token isn't accepted", func(ctx context.Context) error {
		// Something that it would put right.
		if condition(w.nodeObject(t, node)).Status == corev1.ConditionFalse {
			const untrue = `{"status":{"conditions":[{"type":"NetworkUnavailable","status":"True","reason":"Test"}]}}`
			w.kubectl(t, "patch", "node", node, "--subresource=status", "-p", untrue)
		}
		return w.saysRevoked(ctx, t, node, program)
	})
	running.goOn(t, w, 1)
	if err := resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.eventually(t, "another agent puts right what the one before couldn't", func(ctx context.Context) error {
		pod, err := w.agentPod(ctx, node)
		if err != nil || pod.Name == old.Name {
			return errors.Join(errors.New("there is no new pod yet"), err)
		}
		if condition(w.nodeObject(t, node)).Status != corev1.ConditionFalse {
			return errors.New("the Node still says that its network is unavailable")
		}
		return nil
	})
	w.awaitMesh(t)
	running.goOn(t, w, 1)
	running.stop(t)
	if err := w.WaitNodesReady(t.Context(), node); err != nil {
		t.Fatal(err)
	}
}

// saysRevoked tells whether a node's agent says that its token isn't accepted. It isn't asked through the API server, which
// knows of no such pod.
func (w *world) saysRevoked(ctx context.Context, t *testing.T, node, program string) error {
	text, err := w.OnNode(ctx, node, program, "status", "-o", "json")
	if err != nil {
		return err
	}
	w.known.Check(t, "status of "+node, []byte(text))
	status, err := readStatus(node, text)
	if err != nil {
		return err
	}
	return hasProblem(status, []string{"doesn't accept this agent's token", "Unauthorized"})
}
