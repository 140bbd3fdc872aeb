package product_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weaveguard/weaveguard/mesh/view"
	"github.com/weaveguard/weaveguard/test/cluster"
	"github.com/weaveguard/weaveguard/test/cluster/internal/build"
	"github.com/weaveguard/weaveguard/test/family"
	"github.com/weaveguard/weaveguard/test/internal/secrets"
)

// patience is how long anything may take that has no deadline of its own: a busy machine is slow.
const patience = time.Minute

// system is the namespace that Weaveguard is installed in.
const system = "kube-system"

// world is a cluster with Weaveguard, and what tests know of it.
type world struct {
	*cluster.Cluster
	manifest string        // that users apply
	nodes    []string      // at the start, sorted
	family   family.Family // whose addresses are used; of a cluster that has both, one at a time
	address  map[string]netip.Addr
	pods     map[string]netip.Prefix // of a node
	probe    string                  // the probe's file, for hosts
	known    secrets.Checker         // the secrets that were learnt
	logs     map[string]string       // of agents that are gone, of a node
}

// newWorld is one without a cluster.
func newWorld(t *testing.T) *world {
	t.Helper()
	return &world{
		manifest: readManifest(t), address: map[string]netip.Addr{}, pods: map[string]netip.Prefix{},
		probe: buildProgram(t, "./test/probe"),
	}
}

// start brings up a cluster, installs Weaveguard, and waits until all nodes are ready.
func start(t *testing.T) *world {
	t.Helper()
	w := newWorld(t)
	if name := os.Getenv("WEAVEGUARD_USE_CLUSTER"); name != "" {
		w.reuse(t, name)
	} else {
		image := imageTar(t)
		w.Cluster = cluster.ForTest(t, cluster.Options{Nodes: 3})
		w.learn(t)
		w.install(t, image)
	}
	w.learnSecrets(t, w.nodes)
	return w
}

// startWith brings up a cluster, applies a manifest, and waits until all nodes are ready and all peers up.
func startWith(t *testing.T, options cluster.Options, manifest string) *world {
	t.Helper()
	w := newWorld(t)
	w.manifest = manifest
	image := imageTar(t)
	w.Cluster = cluster.ForTest(t, options)
	var err error
	if w.nodes, err = w.Nodes(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := w.LoadImage(t.Context(), image); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if _, err := w.KubectlApply(t.Context(), w.manifest); err != nil {
		t.Fatal(err)
	}
	if err := w.WaitNodesReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.awaitMesh(t)
	t.Logf("all peers are up %.1f s after kubectl apply", time.Since(began).Seconds())
	w.learnSecrets(t, w.nodes)
	return w
}

// install applies the manifest, on nodes as br_netfilter leaves them.
func (w *world) install(t *testing.T, image string) {
	t.Helper()
	if err := w.LoadImage(t.Context(), image); err != nil {
		t.Fatal(err)
	}
	for _, node := range w.nodes {
		for _, setting := range []string{"bridge-nf-call-iptables", "bridge-nf-call-ip6tables", "bridge-nf-call-arptables"} {
			if value := strings.TrimSpace(w.on(t, node, "cat", "/proc/sys/net/bridge/"+setting)); value != "1" {
				t.Fatalf("%s is %s on %s before the agent starts, want 1", setting, value, node)
			}
		}
	}
	began := time.Now()
	if _, err := w.KubectlApply(t.Context(), w.manifest); err != nil {
		t.Fatal(err)
	}
	if err := w.WaitNodesReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Logf("all nodes are ready %.1f s after kubectl apply", time.Since(began).Seconds())
	w.awaitMesh(t)
	t.Logf("all peers are up %.1f s after kubectl apply", time.Since(began).Seconds())
}

// reuse takes a running cluster, and removes the pods and Services that earlier tests left in it.
func (w *world) reuse(t *testing.T, name string) {
	t.Helper()
	var err error
	if w.Cluster, err = cluster.Open(name); err != nil {
		t.Fatal(err)
	}
	w.kubectl(t, "delete", "pods", "--all", "--force")
	w.kubectl(t, "delete", "services", pod2, neighbour, "--ignore-not-found")
	w.learn(t)
	w.awaitMesh(t)
}

// learn looks at the nodes.
func (w *world) learn(t *testing.T) {
	t.Helper()
	var err error
	if w.nodes, err = w.Nodes(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(w.nodes) != 3 {
		t.Fatalf("the cluster has the nodes %v, want three", w.nodes)
	}
	for _, node := range w.nodes {
		w.learnNode(t, node)
	}
	w.address[cluster.Outside] = w.addressOf(t, cluster.Outside)
}

func (w *world) learnNode(t *testing.T, node string) {
	t.Helper()
	w.address[node] = w.addressOf(t, node)
	err := cluster.Poll(t.Context(), patience, node+" has a podCIDR", func(ctx context.Context) error {
		object, err := w.Client().CoreV1().Nodes().Get(ctx, node, metav1.GetOptions{})
		if err != nil {
			return err
		}
		for _, text := range object.Spec.PodCIDRs {
			cidr, err := netip.ParsePrefix(text)
			if err != nil || w.family.Has(cidr.Addr()) {
				w.pods[node] = cidr
				return err
			}
		}
		return fmt.Errorf("its podCIDRs are %q", object.Spec.PodCIDRs)
	})
	if err != nil {
		t.Fatal(err)
	}
}

func (w *world) addressOf(t *testing.T, host string) netip.Addr {
	t.Helper()
	return w.choose(t, host, w.Addresses)
}

// choose takes the address of the family that is used from those that something of a name has.
func (w *world) choose(t *testing.T, name string, addresses func(context.Context, string) ([]netip.Addr, error)) netip.Addr {
	t.Helper()
	all, err := addresses(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	for _, address := range all {
		if w.family.Has(address) {
			return address
		}
	}
	t.Fatalf("%s has the addresses %v, want one of %s", name, all, w.family)
	return netip.Addr{}
}

// gateway is a node's address among its pods.
func (w *world) gateway(node string) netip.Addr { return w.pods[node].Addr().Next() }

// awaitMesh waits until every node sees every other one as up.
func (w *world) awaitMesh(t *testing.T) {
	t.Helper()
	for _, node := range w.nodes {
		w.awaitPeers(t, node, len(w.nodes)-1)
	}
}

// awaitPeers waits until a node sees so many peers, and all of them as up.
func (w *world) awaitPeers(t *testing.T, node string, peers int) {
	t.Helper()
	w.eventually(t, node+" has all peers", func(ctx context.Context) error {
		status, err := w.status(ctx, node)
		if err != nil {
			return err
		}
		if len(status.Peers) != peers {
			return fmt.Errorf("it lists %d peers", len(status.Peers))
		}
		for _, peer := range status.Peers {
			if !peer.Up {
				return fmt.Errorf("%s isn't up: %s", peer.Node, peer.Reason)
			}
		}
		return nil
	})
}

// eventually waits for what has no deadline of its own.
func (w *world) eventually(t *testing.T, what string, check func(context.Context) error) {
	t.Helper()
	if err := cluster.Poll(t.Context(), patience, what, check); err != nil {
		t.Fatal(err)
	}
}

// kubectl runs kubectl, which must succeed.
func (w *world) kubectl(t *testing.T, args ...string) string {
	t.Helper()
	text, err := w.Kubectl(t.Context(), args...)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// on runs a command on a host, which must succeed.
func (w *world) on(t *testing.T, host string, command ...string) string {
	t.Helper()
	text, err := w.OnNode(t.Context(), host, command...)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// agentPod is the pod of a node's agent.
func (w *world) agentPod(ctx context.Context, node string) (*corev1.Pod, error) {
	list, err := w.Client().CoreV1().Pods(system).List(ctx, metav1.ListOptions{
		LabelSelector: "app.kubernetes.io/name=weaveguard,app.kubernetes.io/component=agent",
		FieldSelector: "spec.nodeName=" + node,
	})
	if err != nil {
		return nil, err
	}
	for i, pod := range list.Items {
		if pod.DeletionTimestamp == nil {
			return &list.Items[i], nil
		}
	}
	return nil, fmt.Errorf("%s has no pod of the agent", node)
}

// cli runs `weaveguard` in the agent's pod.
func (w *world) cli(ctx context.Context, node string, args ...string) (string, error) {
	pod, err := w.agentPod(ctx, node)
	if err != nil {
		return "", err
	}
	return w.Kubectl(ctx, append([]string{"exec", "-n", system, pod.Name, "-c", "weave", "--", "weaveguard"}, args...)...)
}

// status is what a node's agent says.
func (w *world) status(ctx context.Context, node string) (view.Status, error) {
	text, err := w.cli(ctx, node, "status", "-o", "json")
	if err != nil {
		return view.Status{}, err
	}
	return readStatus(node, text)
}

// readStatus reads what `weaveguard status -o json` printed.
func readStatus(node, text string) (view.Status, error) {
	var status view.Status
	if err := json.Unmarshal([]byte(text), &status); err != nil {
		return status, fmt.Errorf("read the status of %s: %w", node, err)
	}
	return status, nil
}

// log is what a node's agent has logged.
func (w *world) log(ctx context.Context, node string) (string, error) {
	pod, err := w.agentPod(ctx, node)
	if err != nil {
		return "", err
	}
	return w.Kubectl(ctx, "logs", pod.Name, "weave", "-n", system)
}

// awaitProblem waits until a node's status has a problem (or a warning) that says all of the words.
func (w *world) awaitProblem(t *testing.T, node string, words ...string) {
	t.Helper()
	w.eventually(t, node+" says "+strings.Join(words, ", "), func(ctx context.Context) error { return w.saysProblem(ctx, node, words) })
}

// saysProblem tells whether a node's status has a problem (or a warning) that says all of the words.
func (w *world) saysProblem(ctx context.Context, node string, words []string) error {
	status, err := w.status(ctx, node)
	if err != nil {
		return err
	}
	return hasProblem(status, words)
}

func hasProblem(status view.Status, words []string) error {
	for _, problem := range status.Problems {
		if saysAll(problem.String(), words) {
			return nil
		}
	}
	return fmt.Errorf("its problems are %q", status.Problems)
}

func saysAll(text string, words []string) bool {
	for _, word := range words {
		if !strings.Contains(text, word) {
			return false
		}
	}
	return true
}

// readManifest reads the file that users apply.
func readManifest(t *testing.T) string {
	t.Helper()
	data, err := os.ReadFile(root(t).Path("deploy", "weaveguard.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// imageTar is the image to test.
func imageTar(t *testing.T) string {
	t.Helper()
	if file := os.Getenv("WEAVEGUARD_IMAGE_TAR"); file != "" {
		if _, err := os.Stat(file); err != nil {
			t.Fatalf("WEAVEGUARD_IMAGE_TAR: %v: give the docker archive of an image, or leave it unset", err)
		}
		return file
	}
	file, err := builtImage()
	if err != nil {
		t.Fatal(err)
	}
	return file
}

// builtImage is what `make image` makes, once for all tests.
var builtImage = sync.OnceValues(func() (string, error) {
	tree, err := build.Find()
	if err != nil {
		return "", err
	}
	if output, err := exec.Command("make", "-C", tree.Root, "image").CombinedOutput(); err != nil {
		return "", fmt.Errorf("make image: %w\n%s", err, output)
	}
	return tree.Path("build", "weaveguard-image.tar"), nil
})

// buildProgram makes a program for hosts: they share the machine's /tmp.
func buildProgram(t *testing.T, pkg string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), filepath.Base(pkg))
	cmd := exec.CommandContext(t.Context(), "go", "build", "-o", file, pkg)
	cmd.Dir, cmd.Env = root(t).Root, append(os.Environ(), "CGO_ENABLED=0")
	if output, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v\n%s", pkg, err, output)
	}
	return file
}

func root(t *testing.T) build.Tree {
	t.Helper()
	tree, err := build.Find()
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

// nodeObject is a Node as the API server has it.
func (w *world) nodeObject(t *testing.T, name string) *corev1.Node {
	t.Helper()
	node, err := w.Client().CoreV1().Nodes().Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return node
}

// awaitUnavailable waits until a Node says that its network is unavailable, in all of the words.
func (w *world) awaitUnavailable(t *testing.T, name string, words ...string) {
	t.Helper()
	w.eventually(t, name+" says that its network is unavailable", func(ctx context.Context) error {
		node, err := w.Client().CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		condition := cluster.Condition(*node, corev1.NodeNetworkUnavailable)
		if condition.Status != corev1.ConditionTrue || !saysAll(condition.Message, words) {
			return fmt.Errorf("NetworkUnavailable is %q: %q", condition.Status, condition.Message)
		}
		return nil
	})
}
