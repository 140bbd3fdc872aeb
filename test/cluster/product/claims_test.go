package product_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	typedcoordinationv1 "k8s.io/client-go/kubernetes/typed/coordination/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/weaveguard/weaveguard/mesh/claim"
	"github.com/weaveguard/weaveguard/mesh/kube"
	"github.com/weaveguard/weaveguard/mesh/view"
	"github.com/weaveguard/weaveguard/test/cluster"
)

// leasePolicy is the ValidatingAdmissionPolicy of the manifest for claims.
const leasePolicy = "weaveguard-leases"

// TestClaims applies the manifest to a cluster whose controller manager gives no podCIDRs, as kubeadm makes it without a
// pod CIDR.
func TestClaims(t *testing.T) {
	w := &world{manifest: readManifest(t), address: map[string]netip.Addr{}, pods: map[string]netip.Prefix{}}
	image := imageTar(t)
	w.Cluster = cluster.ForTest(t, cluster.Options{Nodes: 2, NoPodCIDR: true})
	w.nodes = []string{"node-1", "node-2"}
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
	t.Run("pods talk", w.testClaimedPods)
	t.Run("an agent that starts again keeps its claim", w.testClaimKept)
	t.Run("a stolen node claims for itself alone", w.testStolenClaims)
	t.Run("twenty agents claim at once", w.testTwentyClaims)
}

// claims are the Leases of claims.
func (w *world) claims() typedcoordinationv1.LeaseInterface {
	return w.Client().CoordinationV1().Leases(kube.ClaimNamespace)
}

// claimOf is a node's only claim.
func (w *world) claimOf(t *testing.T, node string) *coordinationv1.Lease {
	t.Helper()
	list, err := w.claims().List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var found []*coordinationv1.Lease
	for i, l := range list.Items {
		if l.Spec.HolderIdentity != nil && *l.Spec.HolderIdentity == node {
			found = append(found, &list.Items[i])
		}
	}
	if len(found) != 1 {
		t.Fatalf("%s has %d claims of the %d Leases", node, len(found), len(list.Items))
	}
	return found[0]
}

func (w *world) testClaimedPods(t *testing.T) {
	for _, node := range w.nodes {
		status, err := w.status(t.Context(), node)
		if err != nil {
			t.Fatal(err)
		}
		l := w.claimOf(t, node)
		block, err := claim.ParseName(l.Name)
		if err != nil || block.Bits() != 24 || !netip.MustParsePrefix(kube.DefaultRange).Overlaps(block) {
			t.Errorf("%s claimed %s: %v", node, l.Name, err)
		}
		if !slices.Equal(status.PodCIDRs, []netip.Prefix{block}) || fmt.Sprint(status.PodRanges) != "["+kube.DefaultRange+"]" {
			t.Errorf("%s claimed %s, and says that it has %v of %v", node, block, status.PodCIDRs, status.PodRanges)
		}
		if len(status.Problems) > 0 {
			t.Errorf("problems of %s: %v", node, status.Problems)
		}
	}
	w.runPods(t, map[string]string{pod1: w.nodes[0], pod2: w.nodes[1]})
	from, err := w.get(t.Context(), place{pod1, true}, w.podIP(t, pod2).String(), httpPort)
	if err != nil || from.from() != w.podIP(t, pod1).String() {
		t.Errorf("%s reached %s as %q: %v", pod1, pod2, from.from(), err)
	}
}

// testClaimKept starts an agent again, and removes all claims under the running ones.
func (w *world) testClaimKept(t *testing.T) {
	node := w.nodes[0]
	before := w.claimOf(t, node)
	pod, err := w.agentPod(t.Context(), node)
	if err != nil {
		t.Fatal(err)
	}
	w.kubectl(t, "delete", "pod", pod.Name, "-n", system)
	w.awaitMesh(t)
	if now := w.claimOf(t, node); now.UID != before.UID || now.ResourceVersion != before.ResourceVersion {
		t.Errorf("after the restart of its agent the claim of %s is\n%+v, and was\n%+v", node, now, before)
	}
	w.kubectl(t, "delete", "lease", "--all", "-n", kube.ClaimNamespace)
	w.eventually(t, "all is claimed as it was", func(ctx context.Context) error {
		l, err := w.claims().Get(ctx, before.Name, metav1.GetOptions{})
		if err == nil && (*l.Spec.HolderIdentity != node || len(l.OwnerReferences) != 2) {
			err = fmt.Errorf("it is %+v", l)
		}
		return err
	})
	if _, err := w.get(t.Context(), place{pod1, true}, w.podIP(t, pod2).String(), httpPort); err != nil {
		t.Error(err)
	}
	w.eventually(t, "both have claims", func(ctx context.Context) error {
		list, err := w.claims().List(ctx, metav1.ListOptions{})
		if err == nil && len(list.Items) != 3 {
			err = fmt.Errorf("there are %d Leases", len(list.Items))
		}
		return err
	})
}

// claimFor is a claim by which a node would have a block.
func (w *world) claimFor(t *testing.T, block, node string) *coordinationv1.Lease {
	l := w.claimOf(t, w.nodes[0]).DeepCopy()
	own := w.nodeObject(t, node)
	owners := slices.Clone(l.OwnerReferences)
	owners[0].Name, owners[0].UID = own.Name, own.UID
	return &coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{Name: block, Labels: l.Labels, OwnerReferences: owners},
		Spec:       coordinationv1.LeaseSpec{HolderIdentity: &own.Name},
	}
}

// testStolenClaims tries with a node's token, and as others, what the admission policy is there to refuse, in dry runs.
func (w *world) testStolenClaims(t *testing.T) {
	own, other := w.nodes[0], w.nodes[1]
	create := func(client kubernetes.Interface, l *coordinationv1.Lease) error {
		_, err := client.CoordinationV1().Leases(kube.ClaimNamespace).Create(t.Context(), l, metav1.CreateOptions{DryRun: dry})
		return err
	}
	update := func(client kubernetes.Interface, l *coordinationv1.Lease) error {
		_, err := client.CoordinationV1().Leases(kube.ClaimNamespace).Update(t.Context(), l, metav1.UpdateOptions{DryRun: dry})
		return err
	}
	remove := func(client kubernetes.Interface, name string) error {
		return client.CoordinationV1().Leases(kube.ClaimNamespace).Delete(t.Context(), name, metav1.DeleteOptions{DryRun: dry})
	}
	const free = "v4-10.47.255.0-24"
	thief := w.thief(t, own)
	wantRefused(t, "a claim for another", create(thief, w.claimFor(t, free, other)), leasePolicy, own, "may not claim")
	mixed := w.claimFor(t, free, own)
	mixed.Spec.HolderIdentity = &other
	wantRefused(t, "a claim with another's name", create(thief, mixed), leasePolicy, own, "may not claim")
	mixed = w.claimFor(t, free, other)
	mixed.Spec.HolderIdentity = &own
	wantRefused(t, "a claim owned by another Node", create(thief, mixed), leasePolicy, own, "may not claim")
	orphan := w.claimFor(t, free, own)
	orphan.OwnerReferences = nil
	wantRefused(t, "a claim that nobody collects", create(thief, orphan), leasePolicy, own, "may not claim")

	theirs, mine := w.claimOf(t, other), w.claimOf(t, own)
	taken := theirs.DeepCopy()
	taken.Spec.HolderIdentity, taken.OwnerReferences = &own, mine.OwnerReferences
	wantRefused(t, "to take another's claim", update(thief, taken), leasePolicy, own, "may not change")
	given := mine.DeepCopy()
	given.OwnerReferences = theirs.OwnerReferences
	wantRefused(t, "to give its claim to another", update(thief, given), leasePolicy, own, "may not change")
	wantRefused(t, "to remove another's claim", remove(thief, theirs.Name), leasePolicy, "one whose Node is gone")
	wantRefused(t, "to remove the range", remove(thief, kube.RangeLease), leasePolicy, "claimed from")
	ranged, err := w.claims().Get(t.Context(), kube.RangeLease, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	ranged.Annotations[view.AnnotationPodRange] = "172.31.0.0/16"
	wantRefused(t, "to change the range", update(thief, ranged), leasePolicy, "claimed from")
	wantRefused(t, "another service account", create(w.as(t, "system:serviceaccount:default:default"), w.claimFor(t, free, own)),
		leasePolicy, "only Weaveguard's agents")

	for what, err := range map[string]error{
		"its own claim":           create(thief, w.claimFor(t, free, own)),
		"its own claim, changed":  update(thief, mine),
		"an administrator claims": create(w.Client(), w.claimFor(t, free, own)),
		"an administrator frees":  remove(w.Client(), theirs.Name),
		"the collector":           remove(w.as(t, "system:serviceaccount:kube-system:generic-garbage-collector"), theirs.Name),
	} {
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
}

var dry = []string{metav1.DryRunAll}

// as is a client of an administrator who acts as somebody else, with all rights that roles can give.
func (w *world) as(t *testing.T, user string) kubernetes.Interface {
	t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", w.Kubeconfig())
	if err != nil {
		t.Fatal(err)
	}
	config.Impersonate = rest.ImpersonationConfig{UserName: user, Groups: []string{"system:masters"}}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// testTwentyClaims makes twenty Nodes and runs what agents claim with for all of them at once, against the real API; then
// it deletes one.
func (w *world) testTwentyClaims(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	defer running.Wait()
	defer stop()
	var agents []*kube.Kube
	for i := range 20 {
		name := fmt.Sprintf("extra-%d", i)
		_, err := w.Client().CoreV1().Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		client, metadata, err := kube.Clients(w.Kubeconfig(), "test")
		if err != nil {
			t.Fatal(err)
		}
		agents = append(agents, kube.New(kube.Config{Client: client, Metadata: metadata, Node: name, Namespace: system,
			Claims: kube.Claims{Mode: kube.ClaimAuto, Bits4: 24, Bits6: 64}, Log: slog.New(slog.DiscardHandler)}))
	}
	began := time.Now()
	for _, agent := range agents {
		running.Go(func() {
			if err := agent.Run(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	for _, agent := range agents {
		w.eventually(t, "all have their own", func(context.Context) error { return allClaimed(agent.Snapshot()) })
	}
	t.Logf("20 nodes had claimed after %.1f s", time.Since(began).Seconds())
	w.testFreed(t, "extra-7")
}

// allClaimed wants each of 22 nodes to have a pod CIDR that no other one has.
func allClaimed(s kube.Snapshot) error {
	var all []netip.Prefix
	var errs []error
	for _, n := range s.Nodes {
		if len(n.PodCIDRs) != 1 {
			errs = append(errs, fmt.Errorf("%s has %v", n.Name, n.PodCIDRs))
		}
		for _, cidr := range n.PodCIDRs {
			if slices.ContainsFunc(all, cidr.Overlaps) {
				errs = append(errs, fmt.Errorf("%s of %s is another's as well", cidr, n.Name))
			}
			all = append(all, cidr)
		}
	}
	if len(all) != 22 {
		errs = append(errs, fmt.Errorf("%d pod CIDRs are claimed, want 22", len(all)))
	}
	return errors.Join(errs...)
}

// testFreed deletes a Node: the garbage collector leaves its claim without it, so that the block rests, and then an agent
// may remove it.
func (w *world) testFreed(t *testing.T, node string) {
	name, thief := w.claimOf(t, node).Name, w.thief(t, w.nodes[0])
	remove := func() error {
		return thief.CoordinationV1().Leases(kube.ClaimNamespace).Delete(t.Context(), name, metav1.DeleteOptions{DryRun: dry})
	}
	wantRefused(t, "to remove a claim in use", remove(), leasePolicy, "one whose Node is gone")
	if err := w.Client().CoreV1().Nodes().Delete(t.Context(), node, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	w.eventually(t, "the claim rests", func(ctx context.Context) error {
		l, err := w.claims().Get(ctx, name, metav1.GetOptions{})
		if err == nil && (len(l.OwnerReferences) != 1 || l.OwnerReferences[0].Name != kube.RangeLease) {
			err = fmt.Errorf("it is owned by %v", l.OwnerReferences)
		}
		return err
	})
	if err := remove(); err != nil {
		t.Errorf("to remove a claim that has rested: %v", err)
	}
	status, err := w.status(t.Context(), w.nodes[0])
	if err != nil || slices.ContainsFunc(status.Problems, func(p view.Problem) bool { return strings.Contains(p.String(), "claim") }) {
		t.Errorf("the status says %v, %v", status.Problems, err)
	}
}
