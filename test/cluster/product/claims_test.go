package product_test

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"testing"

	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	typedcoordinationv1 "k8s.io/client-go/kubernetes/typed/coordination/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/weaveguard/weaveguard/mesh/claim"
	"github.com/weaveguard/weaveguard/mesh/contract"
	"github.com/weaveguard/weaveguard/mesh/kube"
	"github.com/weaveguard/weaveguard/test/cluster"
	"github.com/weaveguard/weaveguard/test/family"
)

// TestClaims applies the manifest to a cluster whose controller manager gives no podCIDRs, as kubeadm makes it without a
// pod CIDR.
func TestClaims(t *testing.T) {
	t.Parallel() // it counts no packets
	w := startWith(t, cluster.Options{Nodes: 2, NoPodCIDR: true}, readManifest(t))
	t.Run("pods talk", w.testClaimedPods)
	t.Run("an agent that starts again keeps its claim", w.testClaimKept)
	t.Run("a stolen node claims for itself alone", w.testStolenClaims)
	t.Run("a stolen node leaves nothing behind", w.testClaimsThatStay)
	t.Run("missing policies are said, and their return", w.testProtection)
	t.Run("twenty agents claim at once", w.testTwentyClaims)
	t.Run("an agent with another block size claims nothing", w.testTwoSizes)
	t.Run(noSecretSaid, w.testSecrets)
}

// TestClaimsOfBothFamilies has nodes claim pod CIDRs of IPv4 and of IPv6.
func TestClaimsOfBothFamilies(t *testing.T) {
	t.Parallel() // it counts no packets
	ranges := []netip.Prefix{netip.MustParsePrefix("10.64.0.0/12"), netip.MustParsePrefix("fd64::/48")}
	manifest := withArgument(readManifest(t), fmt.Sprintf("--pod-range=%s,%s", ranges[0], ranges[1]))
	w := startWith(t, cluster.Options{Nodes: 2, NoPodCIDR: true, Family: family.Dual}, manifest)
	w.runPods(t, map[string]string{pod1: w.nodes[0], pod2: w.nodes[1]})
	list, err := w.claims().List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, node := range w.nodes {
		status, err := w.status(t.Context(), node)
		if err != nil || len(status.Problems) > 0 || !slices.Equal(status.PodRanges, ranges) || len(status.PodCIDRs) != len(ranges) {
			t.Fatalf("%s has %v of %v, want one of each of %v; problems: %v; %v",
				node, status.PodCIDRs, status.PodRanges, ranges, status.Problems, err)
		}
		for i, bits := range []int{24, 64} {
			cidr := status.PodCIDRs[i]
			claimed := slices.ContainsFunc(list.Items, func(l coordinationv1.Lease) bool {
				block, err := claim.ParseName(l.Name)
				return err == nil && block == cidr && *l.Spec.HolderIdentity == node
			})
			if !claimed || cidr.Bits() != bits || !ranges[i].Overlaps(cidr) {
				t.Errorf("%s has %s; has it claimed that: %t", node, cidr, claimed)
			}
		}
	}
	for _, f := range family.Dual.Each() {
		w.family = f
		for _, p := range [][2]string{{pod1, pod2}, {pod2, pod1}} {
			from, to := w.podIP(t, p[0]), w.podIP(t, p[1])
			for _, err := range w.try(t.Context(), path{from: place{p[0], true}, to: to, asFrom: from, answers: p[1]}) {
				t.Errorf("%s to %s: %v", p[0], to, err)
			}
		}
	}
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
	create := func(client kubernetes.Interface, l *coordinationv1.Lease) error { return tryClaim(t, client, l) }
	update := func(client kubernetes.Interface, l *coordinationv1.Lease) error {
		_, err := client.CoordinationV1().Leases(kube.ClaimNamespace).Update(t.Context(), l, metav1.UpdateOptions{DryRun: dry})
		return err
	}
	remove := func(client kubernetes.Interface, name string) error {
		return client.CoordinationV1().Leases(kube.ClaimNamespace).Delete(t.Context(), name, metav1.DeleteOptions{DryRun: dry})
	}
	thief := w.thief(t, own)
	wantRefused(t, "a claim for another", create(thief, w.claimFor(t, free, other)), kube.LeasePolicy, own, "may not claim")
	mixed := w.claimFor(t, free, own)
	mixed.Spec.HolderIdentity = &other
	wantRefused(t, "a claim with another's name", create(thief, mixed), kube.LeasePolicy, own, "may not claim")
	mixed = w.claimFor(t, free, other)
	mixed.Spec.HolderIdentity = &own
	wantRefused(t, "a claim owned by another Node", create(thief, mixed), kube.LeasePolicy, own, "may not claim")
	theirs, mine := w.claimOf(t, other), w.claimOf(t, own)
	taken := theirs.DeepCopy()
	taken.Spec.HolderIdentity, taken.OwnerReferences = &own, mine.OwnerReferences
	wantRefused(t, "to take another's claim", update(thief, taken), kube.LeasePolicy, own, "may not change")
	given := mine.DeepCopy()
	given.OwnerReferences = theirs.OwnerReferences
	wantRefused(t, "to give its claim to another", update(thief, given), kube.LeasePolicy, own, "may not change")
	wantRefused(t, "to remove another's claim", remove(thief, theirs.Name), kube.LeasePolicy, "one whose Node is gone")
	wantRefused(t, "to remove the range", remove(thief, kube.RangeLease), kube.LeasePolicy, "claimed from")
	ranged, err := w.claims().Get(t.Context(), kube.RangeLease, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	ranged.Annotations[contract.AnnotationPodRange] = "172.31.0.0/16"
	wantRefused(t, "to change the range", update(thief, ranged), kube.LeasePolicy, "claimed from")
	wantRefused(t, "another service account", create(w.as(t, "system:serviceaccount:default:default"), w.claimFor(t, free, own)),
		kube.LeasePolicy, "only Weaveguard's agents")

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

// testClaimsThatStay tries to make what neither the garbage collector nor agents would remove once the thief's Node is gone,
// and so would keep addresses from others for good.
func (w *world) testClaimsThatStay(t *testing.T) {
	own := w.nodes[0]
	thief := w.thief(t, own)
	for what, change := range map[string]func(*coordinationv1.Lease){
		"no owner":        func(l *coordinationv1.Lease) { l.OwnerReferences = nil },
		"no Node":         func(l *coordinationv1.Lease) { l.OwnerReferences = l.OwnerReferences[1:] },
		"no range":        func(l *coordinationv1.Lease) { l.OwnerReferences = l.OwnerReferences[:1] },
		"a made-up owner": func(l *coordinationv1.Lease) { l.OwnerReferences[1].APIVersion = "evil.io/v1" },
		"another owner": func(l *coordinationv1.Lease) {
			l.OwnerReferences = append(l.OwnerReferences, metav1.OwnerReference{APIVersion: "v1", Kind: "Namespace", Name: system, UID: "x"})
		},
		"no label":         func(l *coordinationv1.Lease) { l.Labels = nil },
		"a finalizer":      func(l *coordinationv1.Lease) { l.Finalizers = []string{"evil.io/stay"} },
		"an annotation":    func(l *coordinationv1.Lease) { l.Annotations = map[string]string{"large": "x"} },
		"another name":     func(l *coordinationv1.Lease) { l.Name = "whatever" },
		"a name with 08":   func(l *coordinationv1.Lease) { l.Name = "v4-10.47.08.0-24" },
		"a name with 256":  func(l *coordinationv1.Lease) { l.Name = "v4-10.47.256.0-24" },
		"a name with /33":  func(l *coordinationv1.Lease) { l.Name = "v4-10.47.255.0-33" },
		"a short IPv6":     func(l *coordinationv1.Lease) { l.Name = "v6-fd00-0032-0000-64" },
		"an IPv6 with 129": func(l *coordinationv1.Lease) { l.Name = "v6-fd00-0032-0000-0005-0000-0000-0000-0000-129" },
	} {
		l := w.claimFor(t, free, own)
		change(l)
		wantRefused(t, what, tryClaim(t, thief, l), kube.LeasePolicy, "Weaveguard agent")
	}
	for _, name := range []string{free, "v4-10.47.5.0-30", "v6-fd00-0032-0000-0005-0000-0000-0000-0000-64"} {
		if err := tryClaim(t, thief, w.claimFor(t, name, own)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// free is the name of a claim that nobody has.
const free = "v4-10.47.255.0-24"

var dry = []string{metav1.DryRunAll}

// tryClaim makes a claim in a dry run.
func tryClaim(t *testing.T, client kubernetes.Interface, l *coordinationv1.Lease) error {
	_, err := client.CoordinationV1().Leases(kube.ClaimNamespace).Create(t.Context(), l, metav1.CreateOptions{DryRun: dry})
	return err
}

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
