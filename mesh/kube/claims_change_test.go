package kube_test

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	ktesting "k8s.io/client-go/testing"

	"github.com/weaveguard/weaveguard/mesh/claim"
	"github.com/weaveguard/weaveguard/mesh/kube"
)

// Only what a node may have claimed counts: the Leases of a thief don't.
func TestOnlyProperClaimsCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := newClaimAPI(t, testNode("n1"), testNode("n2"), testNode("n3", "10.32.3.0/24"))
		api.put(t, rangeLease("10.32.0.0/12", "24"))
		api.put(t, claimLease("v4-10.32.1.0-24", "n1"))
		ag, _ := api.startClaiming(t, "n1", claiming())
		pass(time.Minute)
		wantCIDRs(t, ag, "n1", "10.32.1.0/24")
		for name, change := range map[string]func(*metav1.ObjectMeta){
			"v4-10.32.0.0-16":  func(*metav1.ObjectMeta) {},                                                   // another size
			"v4-10.99.1.0-24":  func(*metav1.ObjectMeta) {},                                                   // out of the range
			"v4-10.32.3.0-24":  func(*metav1.ObjectMeta) {},                                                   // Kubernetes gave it to n3
			"v4-10.32.4.0-24":  func(m *metav1.ObjectMeta) { m.OwnerReferences[0].UID = "uid-other" },         // of another Node
			"v4-10.32.5.0-24":  func(m *metav1.ObjectMeta) { m.OwnerReferences[0].Name = "n1" },               // not the holder's
			"v4-10.32.6.0-24":  func(m *metav1.ObjectMeta) { m.OwnerReferences[0].APIVersion = "evil.io/v1" }, // no Node
			"v4-10.32.7.0-24":  func(m *metav1.ObjectMeta) { m.Labels = nil },
			"v4-10.32.08.0-24": func(*metav1.ObjectMeta) {},
			"whatever":         func(*metav1.ObjectMeta) {},
		} {
			l := claimLease(name, "n2")
			change(&l.ObjectMeta)
			api.put(t, l)
		}
		pass(time.Minute)
		wantCIDRs(t, ag, "n1", "10.32.1.0/24")
		wantCIDRs(t, ag, "n2", "")
		wantCIDRs(t, ag, "n3", "10.32.3.0/24")
		wantSaid(t, ag.Snapshot(), "the Lease weaveguard/v4-10.32.08.0-24 isn't used")

		// Of two proper ones, one counts.
		api.put(t, claimLease("v4-10.32.9.0-24", "n2"))
		api.put(t, claimLease("v4-10.32.8.0-24", "n2"))
		pass(time.Second)
		wantCIDRs(t, ag, "n2", "10.32.8.0/24")
		wantSaid(t, ag.Snapshot(), "node n2 holds 4 blocks of 10.32.0.0/12", "docs/security.md") // two of them don't count
		pass(time.Hour)                                                                          // and nothing of it is taken for one to be freed
		if api.claimWrites() > 0 {
			t.Error("it wrote Leases")
		}
	})
}

// An administrator breaks or removes the Lease of the range: what counted goes on to.
func TestTheRangeIsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := newClaimAPI(t, testNode("n1"))
		ag, _ := api.startClaiming(t, "n1", within(kube.ClaimAuto, 25, "10.40.0.0/16"))
		pass(time.Minute)
		had := podCIDRs(ag.Snapshot(), "n1")
		api.put(t, rangeLease("10.40.0.0/16", "huge"))
		pass(time.Second)
		wantCIDRs(t, ag, "n1", had)
		wantSaid(t, ag.Snapshot(), "weaveguard/range", "huge")
		api.removeLease(t, kube.RangeLease)
		api.collect(t)
		pass(10 * time.Second)
		wantCIDRs(t, ag, "n1", had)
		leases := api.leases(t)
		made := leases[kube.RangeLease]
		if made == nil || made.Annotations["weaveguard.io/pod-range"] != "10.40.0.0/16" || made.Annotations["weaveguard.io/node-cidr-mask-size"] != "25" {
			t.Fatalf("the range is %+v", made)
		}
		for name, l := range leases {
			if name != kube.RangeLease && (len(l.OwnerReferences) != 2 || l.OwnerReferences[1].UID != made.UID) {
				t.Errorf("the owners of %s are %v", name, l.OwnerReferences)
			}
		}
		if s := ag.Snapshot(); len(s.Problems) > 0 {
			t.Errorf("problems: %v", s.Problems)
		}
	})
}

// Somebody removes the claims: their nodes go on with them, also while they can't be made anew.
func TestClaimsAreRemoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := newClaimAPI(t, testNode("n1"), testNode("n2"))
		ag, _ := api.startClaiming(t, "n1", claiming())
		_, stop := api.startClaiming(t, "n2", claiming())
		pass(time.Minute)
		had, other := podCIDRs(ag.Snapshot(), "n1"), podCIDRs(ag.Snapshot(), "n2")
		var denied atomic.Bool
		denied.Store(true)
		api.client.PrependReactor("create", "leases", func(ktesting.Action) (bool, runtime.Object, error) {
			return denied.Load(), nil, apierrors.NewForbidden(leasesResource.GroupResource(), "x", errors.New("terminating"))
		})
		for name := range api.leases(t) {
			api.removeLease(t, name)
		}
		pass(time.Minute)
		stop()
		wantCIDRs(t, ag, "n1", had)
		wantCIDRs(t, ag, "n2", other)
		denied.Store(false)
		pass(3 * time.Minute)
		wantCIDRs(t, ag, "n1", had)
		if leases := api.leases(t); len(leases) != 2 || leases[claim.Name(netip.MustParsePrefix(had))] == nil {
			t.Errorf("the Leases are %v, want n1's claim of %s", leases, had)
		}

		// The block of n2, whose agent is away, goes to who claims it.
		api.add(t, testNode("n3"))
		taken := claimLease(claim.Name(netip.MustParsePrefix(other)), "n3")
		taken.OwnerReferences[1].UID = api.leases(t)[kube.RangeLease].UID
		api.put(t, taken)
		pass(time.Second)
		wantCIDRs(t, ag, "n2", "")
		wantCIDRs(t, ag, "n3", other)
	})
}

// What Kubernetes gives later comes before a claim, and the node says so.
func TestKubernetesGivesAfterAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := newClaimAPI(t, testNode("n1"))
		ag, _ := api.startClaiming(t, "n1", claiming())
		pass(time.Minute)
		api.changeNode(t, "n1", func(n *corev1.Node) { n.Spec.PodCIDRs = []string{"10.244.1.0/24"} })
		pass(time.Second)
		wantCIDRs(t, ag, "n1", "10.244.1.0/24")
		wantSaid(t, ag.Snapshot(), "doesn't count any more", "drain the node")
	})
}

// A node that joins with an address in the range: what was claimed stays, and all warn. The range isn't the pods' alone
// then, and so no longer closed to others.
func TestANodeIntoTheRange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := newClaimAPI(t, testNode("n1"))
		ag, _ := api.startClaiming(t, "n1", claiming())
		pass(time.Minute)
		had := podCIDRs(ag.Snapshot(), "n1")
		if ranges := fmt.Sprint(ag.Snapshot().PodRanges); ranges != "["+kube.DefaultRange+"]" {
			t.Errorf("the pod ranges are %s", ranges)
		}
		n := testNode("n2")
		n.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "10.32.7.7"}}
		api.add(t, n)
		pass(time.Second)
		wantCIDRs(t, ag, "n1", had)
		s := ag.Snapshot()
		wantSaid(t, s, "10.32.7.7", "n2")
		if len(s.PodRanges) > 0 || !s.Problems[0].Warning {
			t.Errorf("the pod ranges are %v, problems %+v", s.PodRanges, s.Problems)
		}
	})
}

// With --claim=always kubeadm's podSubnet is what is cut.
func TestAlwaysClaimsFromThePodSubnet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := newClaimAPI(t, testNode("n1"), testNode("n2", "10.244.0.0/24"), kubeadmConfig("10.244.0.0/23"))
		ag, _ := api.startClaiming(t, "n1", kube.Claims{Mode: kube.ClaimAlways, Bits4: 24, Bits6: 64})
		pass(5 * time.Second)
		wantCIDRs(t, ag, "n1", "10.244.1.0/24") // the one that n2 hasn't
	})
}

// Without the right to, or with the API server away, status says so, and it goes on when that is over.
func TestClaimsAreRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := newClaimAPI(t, testNode("n1"))
		ag, _ := api.startClaiming(t, "n1", claiming())
		pass(10 * time.Second)
		api.fail(apierrors.NewForbidden(leasesResource.GroupResource(), "x", errors.New("no")))
		pass(time.Minute)
		wantSaid(t, ag.Snapshot(), "it refuses claiming a pod CIDR", "apply the manifest")
		api.fail(errors.New("connection refused"))
		pass(time.Minute)
		api.fail(nil)
		pass(3 * time.Minute)
		if s := ag.Snapshot(); podCIDRs(s, "n1") == "" || len(s.Problems) > 0 {
			t.Errorf("n1 has %q, problems %v", podCIDRs(s, "n1"), s.Problems)
		}
		if log := strings.Join(ag.log.take(), "\n"); !strings.Contains(log, "claimed by a Lease") {
			t.Errorf("log: %s", log)
		}
	})
}
