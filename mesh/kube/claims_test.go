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

// pass lets time go by.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func wantCIDRs(t *testing.T, ag *agent, node, want string) {
	t.Helper()
	if got := podCIDRs(ag.Snapshot(), node); got != want {
		t.Errorf("%s has %q, want %q; problems: %v", node, got, want, ag.Snapshot().Problems)
	}
}

// wantSaid wants a problem that says all of the words.
func wantSaid(t *testing.T, s kube.Snapshot, words ...string) {
	t.Helper()
	for _, p := range s.Problems {
		said := 0
		for _, word := range words {
			if strings.Contains(p.String(), word) {
				said++
			}
		}
		if said == len(words) {
			return
		}
	}
	t.Errorf("no problem says all of %q: %v", words, s.Problems)
}

// kubeadmConfig is what kubeadm says of the cluster that it made.
func kubeadmConfig(podSubnet string) *corev1.ConfigMap {
	return &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "kubeadm-config"},
		Data:       map[string]string{"ClusterConfiguration": "networking:\n  podSubnet: " + podSubnet},
	}
}

// Agents that start at once get blocks that don't overlap, and all say the same of all.
func TestTwentyAgentsClaimAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := newClaimAPI(t)
		for i := range 20 {
			api.add(t, testNode(fmt.Sprintf("n%d", i)))
		}
		// So few blocks that they all are wanted by several.
		claims := within(kube.ClaimAuto, 24, "10.32.0.0/19", "fd00:32::/48")
		var agents []*agent
		for i := range 20 {
			ag, _ := api.startClaiming(t, fmt.Sprintf("n%d", i), claims)
			agents = append(agents, ag)
		}
		pass(40 * time.Second)
		owner := map[netip.Prefix]string{}
		for _, ag := range agents {
			s := ag.Snapshot()
			if !s.Synced || len(s.Problems) > 0 || fmt.Sprint(s.PodRanges) != "[10.32.0.0/19 fd00:32::/48]" {
				t.Errorf("synced %t, problems %v, ranges %v", s.Synced, s.Problems, s.PodRanges)
			}
			for _, n := range s.Nodes {
				if len(n.PodCIDRs) != 2 || n.PodCIDRs[0].Bits() != 24 || n.PodCIDRs[1].Bits() != 64 {
					t.Fatalf("%s has %v", n.Name, n.PodCIDRs)
				}
				for _, cidr := range n.PodCIDRs {
					if other := owner[cidr]; other != "" && other != n.Name {
						t.Errorf("%s is that of %s and %s", cidr, other, n.Name)
					}
					owner[cidr] = n.Name
				}
			}
		}
		if len(owner) != 40 || len(api.leases(t)) != 41 {
			t.Errorf("%d blocks and %d Leases for 20 nodes, want 40 and 41", len(owner), len(api.leases(t)))
		}
	})
}

// Where Kubernetes gives pod CIDRs, only later, nothing is claimed.
func TestKubernetesGivesThemLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := newClaimAPI(t, testNode("n1"), testNode("n2"))
		ag, _ := api.startClaiming(t, "n1", claiming())
		pass(15 * time.Second)
		for i, name := range []string{"n1", "n2"} {
			api.changeNode(t, name, func(n *corev1.Node) { n.Spec.PodCIDRs = []string{fmt.Sprintf("10.244.%d.0/24", i)} })
		}
		api.add(t, testNode("n3"))
		pass(time.Hour)
		s := ag.Snapshot()
		if !s.Synced || api.claimWrites() > 0 || len(s.Problems) > 0 || len(s.PodRanges) > 0 {
			t.Errorf("synced %t, %d writes, problems %v, ranges %v", s.Synced, api.claimWrites(), s.Problems, s.PodRanges)
		}
		wantCIDRs(t, ag, "n1", "10.244.0.0/24")
		wantCIDRs(t, ag, "n3", "")
	})
}

// Where all Nodes have pod CIDRs, the Leases aren't even read.
func TestLeasesAreReadOnlyWhenNeeded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := newClaimAPI(t, testNode("n1", "10.244.1.0/24"))
		ag, _ := api.startClaiming(t, "n1", claiming())
		pass(time.Hour)
		api.add(t, testNode("n2"))
		pass(time.Second)
		api.changeNode(t, "n2", func(n *corev1.Node) { n.Spec.PodCIDRs = []string{"10.244.2.0/24"} })
		pass(time.Hour)
		for _, action := range api.client.Actions() {
			if action.GetResource() == leasesResource {
				t.Errorf("it asked to %s Leases", action.GetVerb())
			}
		}
		if s := ag.Snapshot(); !s.Synced || len(s.Problems) > 0 {
			t.Errorf("%+v", s)
		}
	})
}

// Why nothing is claimed is said, and nothing is written.
func TestNothingIsClaimed(t *testing.T) {
	tests := []struct {
		name    string
		prepare func(*testing.T, *api)
		claims  kube.Claims
		says    []string // none: nothing
	}{
		{name: "never", prepare: func(*testing.T, *api) {}, claims: kube.Claims{}},
		{name: "others have pod CIDRs", claims: claiming(), says: []string{"gave node n2 [10.244.2.0/24]", "--claim=always"},
			prepare: func(t *testing.T, a *api) { a.add(t, testNode("n2", "10.244.2.0/24")) }},
		{name: "kubeadm's podSubnet", claims: claiming(), says: []string{"podSubnet [10.244.0.0/16]", "--claim=always"},
			prepare: func(t *testing.T, a *api) { a.add(t, kubeadmConfig("10.244.0.0/16")) }},
		{name: "a cloud provider is at it", claims: claiming(),
			prepare: func(t *testing.T, a *api) {
				a.changeNode(t, "n1", func(n *corev1.Node) {
					n.Spec.Taints = []corev1.Taint{{Key: "node.cloudprovider.kubernetes.io/uninitialized"}}
				})
			}},
		{name: "the range holds a node", claims: within(kube.ClaimAlways, 24, "10.32.0.0/16"), says: []string{"10.32.0.0/16", "10.32.7.7",
			"n2", "--pod-range"},
			prepare: func(t *testing.T, a *api) {
				n := testNode("n2")
				n.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "10.32.7.7"}}
				a.add(t, n)
			}},
		{name: "another block size", claims: within(kube.ClaimAlways, 25, "10.32.0.0/12"), says: []string{"blocks of /25", "blocks of /24",
			"weaveguard/range", "--node-cidr-mask-size"},
			prepare: func(t *testing.T, a *api) { a.put(t, rangeLease("10.32.0.0/12", "24")) }},
		{name: "another range", claims: within(kube.ClaimAlways, 24, "10.48.0.0/12"), says: []string{"10.48.0.0/12", "10.32.0.0/12"},
			prepare: func(t *testing.T, a *api) { a.put(t, rangeLease("10.32.0.0/12", "24")) }},
		{name: "a malformed range", claims: claiming(), says: []string{"weaveguard/range", `"many"`},
			prepare: func(t *testing.T, a *api) { a.put(t, rangeLease("10.32.0.0/12", "many")) }},
		{name: "a block that doesn't fit", claims: within(kube.ClaimAlways, 11, "10.32.0.0/12"), says: []string{"doesn't fit",
			"--node-cidr-mask-size"}, prepare: func(*testing.T, *api) {}},
		{name: "a range that is used up", claims: within(kube.ClaimAlways, 24, "10.32.0.0/23"),
			says: []string{"10.32.0.0/23 is used up", "all of its 2 blocks of /24", "0 rest", "1 are held by Leases that aren't claims"},
			prepare: func(t *testing.T, a *api) {
				a.add(t, testNode("n2"))
				a.put(t, rangeLease("10.32.0.0/23", "24"))
				a.put(t, claimLease("v4-10.32.0.0-24", "n2"))
				foreign := claimLease("v4-10.32.1.0-24", "n1")
				foreign.Labels = nil
				a.put(t, foreign)
			}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				api := newClaimAPI(t, testNode("n1"))
				tt.prepare(t, api)
				ag, _ := api.startClaiming(t, "n1", tt.claims)
				pass(10 * time.Minute)
				s := ag.Snapshot()
				if n := api.claimWrites(); n > 0 || !s.Synced || podCIDRs(s, "n1") != "" {
					t.Errorf("%d writes, synced %t, n1 has %q", n, s.Synced, podCIDRs(s, "n1"))
				}
				if len(tt.says) > 0 {
					wantSaid(t, s, tt.says...)
				} else if len(s.Problems) > 0 {
					t.Errorf("problems: %v", s.Problems)
				}
			})
		})
	}
}

// An agent that starts again keeps what its node has, and says nothing of pod CIDRs before it knows the claims.
func TestARestartKeepsTheClaim(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := newClaimAPI(t, testNode("n1"), testNode("n2"))
		first, stop := api.startClaiming(t, "n1", claiming())
		api.startClaiming(t, "n2", claiming())
		pass(time.Minute)
		had, other, writes := podCIDRs(first.Snapshot(), "n1"), podCIDRs(first.Snapshot(), "n2"), api.claimWrites()
		if had == "" || other == "" {
			t.Fatalf("n1 has %q, n2 has %q", had, other)
		}
		stop()
		pass(time.Hour)

		var held atomic.Bool
		held.Store(true)
		api.client.PrependReactor("list", "leases", func(ktesting.Action) (bool, runtime.Object, error) {
			return held.Load(), nil, errors.New("no answer")
		})
		again, _ := api.startClaiming(t, "n1", claiming())
		pass(time.Minute)
		if s := again.Snapshot(); s.Synced || len(s.Nodes) != 2 {
			t.Errorf("without the claims: synced %t, %d Nodes", s.Synced, len(s.Nodes))
		}
		held.Store(false)
		pass(time.Minute)
		if s := again.Snapshot(); !s.Synced || api.claimWrites() != writes {
			t.Errorf("synced %t, %d writes more", s.Synced, api.claimWrites()-writes)
		}
		wantCIDRs(t, again, "n1", had)
		wantCIDRs(t, again, "n2", other)
	})
}

// The block of a Node that was deleted is taken until it has rested, whoever was started again meanwhile; and then it
// is given.
func TestAFreedBlockRests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := newClaimAPI(t, testNode("n1"), testNode("n2"))
		claims := within(kube.ClaimAuto, 24, "10.32.0.0/23") // two blocks
		ag1, stop1 := api.startClaiming(t, "n1", claims)
		_, stop2 := api.startClaiming(t, "n2", claims)
		pass(time.Minute)
		freed := podCIDRs(ag1.Snapshot(), "n2")
		if freed == "" {
			t.Fatal("n2 has none")
		}
		stop2()
		api.removeNode(t, "n2")
		api.add(t, testNode("n3"))
		ag3, stop3 := api.startClaiming(t, "n3", claims)
		pass(4 * time.Minute)
		wantCIDRs(t, ag3, "n3", "")
		wantSaid(t, ag3.Snapshot(), "10.32.0.0/23 is used up", "1 rest")
		// All agents start again: what they saw is lost, and the rest begins anew.
		stop1()
		stop3()
		api.startClaiming(t, "n1", claims)
		ag3, _ = api.startClaiming(t, "n3", claims)
		pass(4 * time.Minute)
		wantCIDRs(t, ag3, "n3", "")
		pass(3 * time.Minute)
		wantCIDRs(t, ag3, "n3", freed)
		if s := ag3.Snapshot(); len(s.Problems) > 0 {
			t.Errorf("problems: %v", s.Problems)
		}
	})
}

// A Node that is made again gets the block that it had, and doesn't wait: also by what its disk remembers.
func TestANodeMadeAgainTakesItsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := newClaimAPI(t, testNode("n1"), testNode("n2"))
		ag, _ := api.startClaiming(t, "n1", claiming())
		pass(time.Minute)
		had := podCIDRs(ag.Snapshot(), "n1")
		api.removeNode(t, "n1")
		pass(time.Second)
		wantCIDRs(t, ag, "n1", "no Node")
		again := testNode("n1")
		again.UID = "uid-again"
		api.add(t, again)
		pass(time.Second)
		wantCIDRs(t, ag, "n1", had)
		if n := len(api.leases(t)); n != 2 {
			t.Errorf("%d Leases", n)
		}

		remembers := claiming()
		remembers.Last = []netip.Prefix{netip.MustParsePrefix("10.33.44.0/24")}
		api.startClaiming(t, "n2", remembers)
		pass(time.Minute)
		wantCIDRs(t, ag, "n2", "10.33.44.0/24")
	})
}

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
		pass(time.Hour) // and nothing of it is taken for one to be freed
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
