package product_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weaveguard/weaveguard/cni/store"
	"github.com/weaveguard/weaveguard/mesh/contract"
	"github.com/weaveguard/weaveguard/mesh/view"
	"github.com/weaveguard/weaveguard/test/cluster"
	"github.com/weaveguard/weaveguard/test/full"
)

// waveSize is how many pods a wave has; this machine's kubelet and runtime choke on more.
const waveSize = 20

const waveLabel = "wave"

// testWaves has kubelet and containerd create and delete pods on a node, each wave while the one before is being deleted.
// No address is leaked or doubled, and in the end the node is as it was.
func (w *world) testWaves(t *testing.T) {
	waves := 3 // in full, 300 pods
	if full.Wanted() {
		waves = 15
	}
	node := w.nodes[1]
	// A pod of the test before may still be on its way out.
	w.eventually(t, "the store is what is attached", func(ctx context.Context) error { return w.storeIsTrue(ctx, node) })
	before := w.interfaces(t, node)
	for number := range waves {
		wave := fmt.Sprintf("wave-%d", number)
		for i := range waveSize {
			pod := cluster.Pod{
				Name: fmt.Sprintf("%s-%d", wave, i), Node: node, Image: cluster.PauseImage, Labels: map[string]string{waveLabel: wave},
			}
			if err := w.RunPod(t.Context(), pod); err != nil {
				t.Fatal(err)
			}
		}
		w.eventually(t, wave+" runs, and no address is doubled", func(ctx context.Context) error {
			return w.waveRuns(ctx, t, node, wave)
		})
		if number == 0 { // later ones have pods that are on their way out
			w.eventually(t, "another node's agent knows all pods", func(ctx context.Context) error { return w.podsAreKnown(ctx, w.nodes[0]) })
		}
		if _, err := w.Kubectl(t.Context(), "delete", "pods", "-l", waveLabel+"="+wave, "--wait=false"); err != nil {
			t.Fatal(err)
		}
	}
	w.eventually(t, "all waves are gone, and the store is what is attached", func(ctx context.Context) error {
		pods, err := w.podsOf(ctx, node)
		if err != nil {
			return err
		}
		for _, pod := range pods {
			if pod.Labels[waveLabel] != "" {
				return fmt.Errorf("pod %s is there", pod.Name)
			}
		}
		return w.storeIsTrue(ctx, node)
	})
	if after := w.interfaces(t, node); !slices.Equal(before, after) {
		t.Errorf("interfaces before: %v\nafter: %v", before, after)
	}
	t.Logf("%d pods came and went on %s", waves*waveSize, node)
}

// podsAreKnown wants a node's agent to tell of the pods of all nodes, by their names and addresses, as Kubernetes has them.
func (w *world) podsAreKnown(ctx context.Context, teller string) error {
	want, err := w.allPods(ctx)
	if err != nil {
		return err
	}
	text, err := w.cli(ctx, teller, "topology", "-o", "json")
	if err != nil {
		return err
	}
	return tellsOf(want, teller, text)
}

// allPods are the pods of all nodes as Kubernetes has them: their addresses by NODE NAMESPACE/NAME.
func (w *world) allPods(ctx context.Context) (map[string]string, error) {
	all := map[string]string{}
	for _, node := range w.nodes {
		pods, err := w.podsOf(ctx, node)
		if err != nil {
			return nil, err
		}
		for _, pod := range pods {
			all[node+" "+pod.Namespace+"/"+pod.Name] = pod.Status.PodIP
		}
	}
	return all, nil
}

// tellsOf wants what `weaveguard topology -o json` printed on a node to have these pods, and no others.
func tellsOf(want map[string]string, teller, text string) error {
	got := map[string]string{}
	var topology view.Topology
	if err := json.Unmarshal([]byte(text), &topology); err != nil {
		return fmt.Errorf("reading what `weaveguard topology` printed on %s: %w", teller, err)
	}
	for _, node := range topology.Nodes {
		for _, network := range node.Networks {
			for _, at := range network.Attachments {
				got[node.Name+" "+at.Namespace+"/"+at.Pod] = at.Addresses[0].String()
			}
		}
	}
	if !maps.Equal(got, want) {
		return fmt.Errorf("the agent of %s knows %v, and Kubernetes has %v", teller, got, want)
	}
	return nil
}

// podsOf are the pods on a node that have a network of their own, also those that are being deleted.
func (w *world) podsOf(ctx context.Context, node string) ([]corev1.Pod, error) {
	list, err := w.Client().CoreV1().Pods(metav1.NamespaceAll).List(ctx, metav1.ListOptions{FieldSelector: "spec.nodeName=" + node})
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(list.Items, func(pod corev1.Pod) bool { return pod.Spec.HostNetwork }), nil
}

// waveRuns wants all pods of a wave ready, and no address twice among all pods of the node.
func (w *world) waveRuns(ctx context.Context, t *testing.T, node, wave string) error {
	pods, err := w.podsOf(ctx, node)
	if err != nil {
		return err
	}
	running := 0
	has := map[string]string{}
	for _, pod := range pods {
		address := pod.Status.PodIP
		if address == "" || pod.DeletionTimestamp != nil { // its sandbox may be gone already, and its address another's
			continue
		}
		if other, doubled := has[address]; doubled {
			t.Fatalf("pods %s and %s both have %s", other, pod.Name, address)
		}
		has[address] = pod.Name
		if pod.Labels[waveLabel] == wave && pod.Status.Phase == corev1.PodRunning {
			running++
		}
	}
	if running != waveSize {
		return fmt.Errorf("%d of %d pods run", running, waveSize)
	}
	return nil
}

// storeIsTrue wants the plugin's store on a node to have the addresses of its pods and no others, an attachment for each.
func (w *world) storeIsTrue(ctx context.Context, node string) error {
	pods, err := w.podsOf(ctx, node)
	if err != nil {
		return err
	}
	var want []string
	for _, pod := range pods {
		want = append(want, pod.Status.PodIP)
	}
	slices.Sort(want)
	kept, err := w.OnNode(ctx, node, "ls", store.DefaultDir+"/addresses")
	if err != nil {
		return err
	}
	attachments, err := w.OnNode(ctx, node, "ls", store.DefaultDir+"/attachments")
	if err != nil {
		return err
	}
	addresses := slices.Sorted(slices.Values(strings.Fields(kept)))
	if !slices.Equal(addresses, want) || len(strings.Fields(attachments)) != len(want) {
		return fmt.Errorf("pods have %v, the store %v for %q", want, addresses, strings.Fields(attachments))
	}
	return nil
}

// interfaces are a node's, with the ports of its bridge.
func (w *world) interfaces(t *testing.T, node string) []string {
	t.Helper()
	all, err := w.OnNode(t.Context(), node, "ls", "/sys/class/net", "/sys/class/net/"+contract.BridgeName+"/brif")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Fields(all)
}
