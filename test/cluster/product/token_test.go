package product_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weaveguard/weaveguard/mesh/view"
	"github.com/weaveguard/weaveguard/test/cluster"
	"github.com/weaveguard/weaveguard/test/faults"
)

// forgotten is after what time Kubernetes has deleted the pods of a Node that is gone, at most: it looks each 20 seconds,
// and again 40 seconds later.
const forgotten = 2 * time.Minute

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

// orphan is what a Node was, and the pod of its agent, which runs on while the node's kubelet is stopped.
type orphan struct {
	node   *corev1.Node
	agent  *corev1.Pod
	resume func(context.Context) error // of the kubelet
}

// orphaned stops a node's kubelet, so that the Node's deletion doesn't end its pods.
func (w *world) orphaned(t *testing.T, node string) *orphan {
	t.Helper()
	agent, err := w.agentPod(t.Context(), node)
	if err != nil {
		t.Fatal(err)
	}
	return &orphan{node: w.nodeObject(t, node), agent: agent, resume: w.stopKubelet(t, node)}
}

// testMadeAgain has Kubernetes take the pods of a deleted Node away, and with its pod the token of the agent that still runs
// there, and then the kubelet make the Node again: the next agent has a good token, and pins the node's identity.
func (w *world) testMadeAgain(t *testing.T, o *orphan) {
	node, program := o.node.Name, buildProgram(t, "./cmd/weaveguard")
	if err := cluster.Poll(t.Context(), forgotten, "Kubernetes forgets the agent's pod", func(ctx context.Context) error {
		_, err := w.Client().CoreV1().Pods(system).Get(ctx, o.agent.Name, metav1.GetOptions{})
		if err == nil {
			err = errors.New("it is still there")
		}
		if apierrors.IsNotFound(err) {
			return nil
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	w.eventually(t, "the agent says that its token isn't accepted", func(ctx context.Context) error {
		return w.saysRevoked(ctx, t, node, program)
	})
	w.on(t, node, "sh", "-c", "kill -KILL $(pidof kubelet)") // it registers its Node when it starts
	if err := o.resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.eventually(t, "the Node is made again, and pins who the node was", func(ctx context.Context) error {
		now, err := w.Client().CoreV1().Nodes().Get(ctx, node, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if now.UID == o.node.UID || now.Annotations[view.AnnotationIdentity] != o.node.Annotations[view.AnnotationIdentity] {
			return fmt.Errorf("its UID was %s and is %s, its annotations were %v and are %v", o.node.UID, now.UID, o.node.Annotations, now.Annotations)
		}
		return nil
	})
	made := time.Now()
	w.learnNode(t, node) // it may have other addresses for its pods
	for _, other := range w.nodes {
		w.eventually(t, other+" has it as its peer again", func(ctx context.Context) error { return w.hasPlace(ctx, other, node) })
	}
	faults.Record(t, faults.Measurement{
		Order: 24, Table: faults.Outages, Fault: "a Node is deleted while its agent runs, and made again", Lane: faults.Cluster,
		Allowed: "followed within 5 s; 0 lost between others", Recovery: time.Since(made),
	})
	if err := w.WaitNodesReady(t.Context(), node); err != nil {
		t.Fatal(err)
	}
	if agent, err := w.agentPod(t.Context(), node); err != nil || agent.UID == o.agent.UID {
		t.Errorf("the agent's pod is the one that was deleted, %s (%v)", o.agent.Name, err)
	}
	w.awaitPeers(t, node, len(w.nodes))
	w.runPods(t, map[string]string{"web-5": node})
	if _, err := w.get(t.Context(), place{pod1, true}, w.podIP(t, "web-5").String(), httpPort); err != nil {
		t.Error(err)
	}
}
