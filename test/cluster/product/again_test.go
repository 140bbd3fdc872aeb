package product_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weaveguard/weaveguard/mesh/contract"
	"github.com/weaveguard/weaveguard/test/cluster"
	"github.com/weaveguard/weaveguard/test/faults"
	"github.com/weaveguard/weaveguard/test/full"
)

// forgotten is after what time Kubernetes has deleted the pods of a Node that is gone, at most: it looks each 20 seconds,
// and again 40 seconds later.
const forgotten = 2 * time.Minute

// orphan is what a Node was, and the pod of its agent, which runs on while the node's kubelet is stopped.
type orphan struct {
	node    *corev1.Node
	agent   *corev1.Pod
	address netip.Addr
	cidr    netip.Prefix
	resume  func(context.Context) error // of the kubelet
}

// oldPod is the network namespace of what stands for a pod that nobody ends with its Node, as one is whose kubelet has other
// things to do. The plugin attaches it, and Kubernetes knows nothing of it.
const oldPod = "old-pod"

// oldPodScript has the plugin do something for the old pod.
const oldPodScript = `
export CNI_COMMAND=$1 CNI_CONTAINERID=$2 CNI_NETNS=/run/netns/$2 CNI_IFNAME=eth0 CNI_PATH=/opt/cni/bin
echo '{"cniVersion":"1.0.0","name":"weaveguard","type":"weaveguard"}' | /opt/cni/bin/weaveguard
`

// orphaned attaches the old pod, and stops a node's kubelet, so that the Node's deletion doesn't end its pods.
func (w *world) orphaned(t *testing.T, node string) *orphan {
	t.Helper()
	agent, err := w.agentPod(t.Context(), node)
	if err != nil {
		t.Fatal(err)
	}
	w.on(t, node, "ip", "netns", "add", oldPod)
	w.on(t, node, "sh", "-ec", oldPodScript, "sh", "ADD", oldPod)
	return &orphan{
		node: w.nodeObject(t, node), agent: agent, address: w.address[node], cidr: w.pods[node], resume: w.stopKubelet(t, node),
	}
}

// otherPlace is where a Node that is made again has its address, in the underlay's network of 256.
const otherPlace = 200

// testMadeAgain has the node of a deleted Node come back with another address, and its kubelet make the Node again, to which
// Kubernetes gives another pod CIDR: the others follow, and keep nothing of what it had; its agent attaches no pod while an old one
// is there, and says so. In full Kubernetes first takes the pods of the deleted Node away, and with its pod the token of the agent
// that still runs there.
func (w *world) testMadeAgain(t *testing.T, o *orphan, running *traffic) {
	node := o.node.Name
	if full.Wanted() {
		w.awaitForgotten(t, o)
	}
	before := running.check(t, w)
	w.moveNode(t, o)
	w.on(t, node, "sh", "-c", "kill -KILL "+agentPID+" $(pidof kubelet)") // it registers its Node when it starts
	if err := o.resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	made := w.awaitMade(t, o)
	for _, other := range w.nodes {
		w.eventually(t, other+" has it as its peer again", func(ctx context.Context) error { return w.hasPlace(ctx, other, node) })
	}
	took := time.Since(made)
	for _, other := range w.nodes {
		if err := w.hasNothing(t.Context(), other, o.address, o.cidr.String()); err != nil {
			t.Errorf("of what the Node was before: %v", err)
		}
	}
	since := time.Since(w.agentStarted(t, node)) - time.Since(made) + took
	w.refusesPods(t, o)
	sent := running.check(t, w) - before
	if !t.Failed() {
		faults.Record(t, faults.Measurement{
			Order: 24, Table: faults.Outages, Fault: "a Node is deleted, and made again with another address and pod CIDR", Lane: faults.Cluster,
			Allowed: "followed within 5 s; 0 lost between others", Sent: sent, Recovery: took,
			Within: comeback, Fails: 6 * comeback, // a busy machine is slow, and the kubelet starts meanwhile
			Note: fmt.Sprintf("(its agent was started again meanwhile, %.1f s before the last peer had it)", since.Seconds()),
		})
	}
	w.drained(t, o)
}

// awaitForgotten waits until Kubernetes has taken the agent's pod away, and the agent says that its token isn't accepted.
func (w *world) awaitForgotten(t *testing.T, o *orphan) {
	t.Helper()
	program := buildProgram(t, "./cmd/weaveguard")
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
		return w.saysRevoked(ctx, t, o.node.Name, program)
	})
}

// moveNode gives a node another address on the underlay.
func (w *world) moveNode(t *testing.T, o *orphan) {
	t.Helper()
	node, bytes := o.node.Name, o.address.As4()
	bytes[3] = otherPlace
	next := netip.AddrFrom4(bytes)
	w.on(t, node, "sh", "-ec", `
router=$(ip route show default dev eth0 | sed 's/.*via \([^ ]*\).*/\1/')
ip address del "$1/24" dev eth0
ip address add "$2/24" dev eth0
ip route replace default via "$router"
`, "sh", o.address.String(), next.String())
	w.address[node] = next
}

// awaitMade waits until the kubelet has made its Node again, without an address, as the one that it is told isn't there, and gives
// it the node's. It returns when it saw the Node.
func (w *world) awaitMade(t *testing.T, o *orphan) (made time.Time) {
	t.Helper()
	node := o.node.Name
	w.eventually(t, "the Node is made again", func(ctx context.Context) error {
		now, err := w.Client().CoreV1().Nodes().Get(ctx, node, metav1.GetOptions{})
		if err == nil && now.UID == o.node.UID {
			err = errors.New("it is the one that was deleted")
		}
		return err
	})
	made = time.Now()
	address := fmt.Sprintf(`{"status":{"addresses":[{"type":"InternalIP","address":%q},{"type":"Hostname","address":%q}]}}`, w.address[node], node)
	w.kubectl(t, "patch", "node", node, "--subresource=status", "--type=merge", "-p", address)
	w.eventually(t, "Kubernetes gives it another pod CIDR", func(ctx context.Context) error {
		now, err := w.Client().CoreV1().Nodes().Get(ctx, node, metav1.GetOptions{})
		if err != nil {
			return err
		}
		w.pods[node], err = netip.ParsePrefix(now.Spec.PodCIDR)
		return err
	})
	if w.pods[node].Overlaps(o.cidr) {
		t.Fatalf("it has the pod CIDR %s as before: this test can't tell", o.cidr)
	}
	return made
}

// refusesPods sees that a node says that the old pod is in the way, and attaches no pod. Its Node has who it was as before.
func (w *world) refusesPods(t *testing.T, o *orphan) {
	t.Helper()
	node := o.node.Name
	w.awaitProblem(t, node, "pod CIDR is "+w.pods[node].String()+" now", oldPod, "no pod is attached here until they are gone", "drain")
	const next = "next-pod"
	w.on(t, node, "ip", "netns", "add", next)
	if _, err := w.OnNode(t.Context(), node, "test", "!", "-e", readyFile); err != nil {
		t.Errorf("while an old pod is there: there is the ready file %s (%v)", readyFile, err)
	}
	answer := w.on(t, node, "sh", "-c", oldPodScript+"exit 0", "sh", "ADD", next)
	if !strings.Contains(answer, `"code": 11`) {
		t.Errorf("while an old pod is there, ADD answers %s, want the code 11, try again later", answer)
	}
	w.eventually(t, "the Node says who the node is", func(ctx context.Context) error {
		now, err := w.Client().CoreV1().Nodes().Get(ctx, node, metav1.GetOptions{})
		if err == nil && now.Annotations[contract.AnnotationIdentity] != o.node.Annotations[contract.AnnotationIdentity] {
			err = fmt.Errorf("its annotations were %v and are %v", o.node.Annotations, now.Annotations)
		}
		return err
	})
}

// drained ends the old pod, and whatever else has an address that it had: now pods are attached, with the node's new addresses.
func (w *world) drained(t *testing.T, o *orphan) {
	t.Helper()
	node := o.node.Name
	w.on(t, node, "sh", "-ec", oldPodScript, "sh", "DEL", oldPod)
	w.kubectl(t, "delete", "pods", "--field-selector=spec.nodeName="+node, "--force", "--grace-period=0")
	w.awaitPeers(t, node, len(w.nodes))
	if err := w.WaitNodesReady(t.Context(), node); err != nil {
		t.Fatal(err)
	}
	w.runPods(t, map[string]string{"web-5": node})
	address := w.podIP(t, "web-5")
	if !w.pods[node].Contains(address) {
		t.Errorf("a pod of %s has the address %s, want one of %s", node, address, w.pods[node])
	}
	if _, err := w.get(t.Context(), place{pod1, true}, address.String(), httpPort); err != nil {
		t.Error(err)
	}
	status, err := w.status(t.Context(), node)
	if err != nil {
		t.Fatal(err)
	}
	if hasProblem(status, []string{"pods have other addresses"}) == nil {
		t.Errorf("the node says still: %v", status.Problems)
	}
}
