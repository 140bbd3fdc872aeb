package product_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/weaveguard/weaveguard/mesh/contract"
	"github.com/weaveguard/weaveguard/mesh/kube"
	"github.com/weaveguard/weaveguard/test/cluster"
)

// TestAdmission takes a node's credentials, and tries with them, and as an administrator, what the manifest's admission
// policies are there to refuse.
func TestAdmission(t *testing.T) {
	t.Parallel() // it counts no packets
	w := startWith(t, cluster.Options{Nodes: 2}, readManifest(t))
	t.Run("agents write on their own Nodes", w.testAgentsWrite)
	t.Run("a stolen node speaks for itself alone", w.testStolenNode)
	t.Run("an administrator can't write what agents say", w.testAdministrator)
	t.Run("a stolen node can't replace the gossip key", w.testStolenKeyring)
	t.Run("kubelets and a node that joins aren't affected", w.testKubelets)
	t.Run(noSecretSaid, w.testSecrets)
}

// testAgentsWrite sees that the agents in their containers write what they should under the policy.
func (w *world) testAgentsWrite(t *testing.T) {
	for _, name := range w.nodes {
		w.eventually(t, name+" has its annotations", func(ctx context.Context) error {
			node, err := w.Client().CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
			if err != nil {
				return err
			}
			for _, key := range []string{contract.AnnotationIdentity, contract.AnnotationPublicKey, contract.AnnotationKeyGeneration} {
				if node.Annotations[key] == "" {
					return fmt.Errorf("it lacks %s", key)
				}
			}
			if c := cluster.Condition(*node, corev1.NodeNetworkUnavailable); c.Status != corev1.ConditionFalse {
				return fmt.Errorf("NetworkUnavailable is %q: %s", c.Status, c.Message)
			}
			return nil
		})
	}
}

// agentToken is the token of a node's agent. The kubelet keeps it on the node, where whoever has taken it over reads it.
func (w *world) agentToken(t *testing.T, node string) string {
	t.Helper()
	pod, err := w.agentPod(t.Context(), node)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(w.on(t, node, "sh", "-c", "cat /var/lib/kubelet/pods/"+string(pod.UID)+"/volumes/kubernetes.io~projected/*/token"))
}

// thief is a client with the token of a node's agent: the one that its pod has, which names the node.
func (w *world) thief(t *testing.T, node string) kubernetes.Interface {
	t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", w.Kubeconfig())
	if err != nil {
		t.Fatal(err)
	}
	config.BearerToken, config.BearerTokenFile = w.agentToken(t, node), ""
	config.CertData, config.KeyData, config.CertFile, config.KeyFile, config.Username, config.Password = nil, nil, "", "", "", ""
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// try patches a Node, in a dry run: what is allowed must not be in the way of what comes after.
func try(ctx context.Context, client kubernetes.Interface, node, patch string, subresources ...string) error {
	_, err := client.CoreV1().Nodes().Patch(ctx, node, types.MergePatchType, []byte(patch),
		metav1.PatchOptions{DryRun: []string{metav1.DryRunAll}}, subresources...)
	return err
}

// wantRefused wants a refusal by a policy of the manifest that says all of the words.
func wantRefused(t *testing.T, what string, err error, policy string, words ...string) {
	t.Helper()
	if err == nil {
		t.Errorf("%s: allowed", what)
		return
	}
	if !apierrors.IsInvalid(err) && !apierrors.IsForbidden(err) || !saysAll(err.Error(), append(words, policy)) {
		t.Errorf("%s: %v, want it refused by %s with %q", what, err, policy, words)
	}
}

func annotate(key, value string) string {
	return fmt.Sprintf(`{"metadata":{"annotations":{%q:%q}}}`, key, value)
}

func (w *world) testStolenNode(t *testing.T) {
	thief, own, other := w.thief(t, w.nodes[0]), w.nodes[0], w.nodes[1]
	words := []string{own, "may not change another node"}
	for _, key := range []string{contract.AnnotationEndpoint, "example.com/other"} {
		wantRefused(t, key+" of another", try(t.Context(), thief, other, annotate(key, "192.0.2.1")), kube.NodePolicy, words...)
		wantRefused(t, key+" of another by its status", try(t.Context(), thief, other, annotate(key, "192.0.2.1"), "status"),
			kube.NodePolicy, words...)
	}
	// What agents probe for the policy with: it changes nothing, and is refused all the same.
	wantRefused(t, "the probe", try(t.Context(), thief, other, `{"metadata":{"annotations":{"weaveguard.io/protection-probe":null}}}`),
		kube.NodePolicy, words...)
	// The first rule to refuse is the one that speaks.
	for _, sub := range [][]string{nil, {"status"}} {
		wantRefused(t, fmt.Sprint("identity of another ", sub), try(t.Context(), thief, other, annotate(contract.AnnotationIdentity, "mine"),
			sub...), kube.NodePolicy, "only the Weaveguard agent on this node")
	}
	for what, patch := range map[string]string{
		"foreign annotation": annotate("example.com/other", "x"),
		"endpoint":           annotate(contract.AnnotationEndpoint, "192.0.2.1"),
		"request":            annotate(contract.AnnotationRotateKeys, contract.RotateNow),
		"label":              `{"metadata":{"labels":{"example.com/other":"x"}}}`,
		"finalizer":          `{"metadata":{"finalizers":["example.com/other"]}}`,
		"taint":              `{"spec":{"taints":[{"key":"example.com/other","effect":"NoSchedule"}]}}`,
	} {
		wantRefused(t, "own "+what, try(t.Context(), thief, own, patch), kube.NodePolicy, "the Weaveguard agent")
	}
	wantRefused(t, "own addresses", try(t.Context(), thief, own, `{"status":{"addresses":[]}}`, "status"), kube.NodePolicy,
		"NetworkUnavailable")
	if err := try(t.Context(), thief, own, annotate(contract.AnnotationIdentity, "mine")); err != nil {
		t.Errorf("an agent may not write its own identity: %v", err)
	}
}

func (w *world) testAdministrator(t *testing.T) {
	admin, node := w.Client(), w.nodes[1]
	for _, key := range []string{contract.AnnotationIdentity, contract.AnnotationPublicKey, contract.AnnotationRotation} {
		wantRefused(t, "admin "+key, try(t.Context(), admin, node, annotate(key, "x")), kube.NodePolicy, "only the Weaveguard agent")
	}
	wantRefused(t, "another value", try(t.Context(), admin, node, annotate(contract.AnnotationRotateKeys, "tomorrow")), kube.NodePolicy,
		"takes one value: now")
	for key, value := range map[string]string{contract.AnnotationRotateKeys: contract.RotateNow, contract.AnnotationEndpoint: "192.0.2.1",
		"weaveguard.io/persistent-keepalive": "25", "example.com/other": "x"} {
		if err := try(t.Context(), admin, node, annotate(key, value)); err != nil {
			t.Errorf("admin %s=%s: %v", key, value, err)
		}
	}
	// For real: the agent removes the request, which the policy must let it do.
	w.kubectl(t, "annotate", "node", node, contract.AnnotationRotateKeys+"="+contract.RotateNow)
	w.eventually(t, "the request is answered", func(ctx context.Context) error {
		object, err := w.Client().CoreV1().Nodes().Get(ctx, node, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if _, ok := object.Annotations[contract.AnnotationRotateKeys]; ok || object.Annotations[contract.AnnotationKeyGeneration] != "1" {
			return fmt.Errorf("the annotations are %v", object.Annotations)
		}
		return nil
	})
}

func (w *world) testStolenKeyring(t *testing.T) {
	secrets := w.thief(t, w.nodes[0]).CoreV1().Secrets(system)
	secret, err := secrets.Get(t.Context(), kube.SecretName, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(secret.Data) == 0 {
		t.Fatal("the Secret is empty")
	}
	for what, data := range map[string]map[string][]byte{
		"replaced": {kube.SecretKey: []byte("x")},
		"emptied":  nil,
		"the same": secret.Data, // what agents probe for the policy with
	} {
		changed := secret.DeepCopy()
		changed.Data = data
		_, err := secrets.Update(t.Context(), changed, metav1.UpdateOptions{DryRun: []string{metav1.DryRunAll}})
		wantRefused(t, what, err, kube.KeyringPolicy, "fills an empty gossip Secret only")
	}
}

func (w *world) testKubelets(t *testing.T) {
	name, err := w.AddNode(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := w.LoadImage(t.Context(), imageTar(t)); err != nil {
		t.Fatal(err)
	}
	if err := w.WaitNodesReady(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	for _, node := range w.nodes {
		w.eventually(t, "the heartbeat of "+node, func(ctx context.Context) error {
			lease, err := w.Client().CoordinationV1().Leases("kube-node-lease").Get(ctx, node, metav1.GetOptions{})
			if err == nil && time.Since(lease.Spec.RenewTime.Time) > 15*time.Second {
				err = fmt.Errorf("it was renewed at %s", lease.Spec.RenewTime)
			}
			return err
		})
		if c := cluster.Condition(*w.nodeObject(t, node), corev1.NodeReady); c.Status != corev1.ConditionTrue {
			t.Errorf("%s is Ready %q: %s", node, c.Status, c.Message)
		}
	}
}
