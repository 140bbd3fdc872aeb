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

// rivals are names of nodes that all want the same block of a range first.
func rivals(r claim.Range, count int) (names []string) {
	free := func(netip.Prefix) bool { return false }
	for i := 0; len(names) < count; i++ {
		name := fmt.Sprintf("n%d", i)
		if block, _ := claim.Next(r, name, nil, free); block == r.Block(0) {
			names = append(names, name)
		}
	}
	return names
}

// Agents that start at once, and all want the same block, get blocks that don't overlap, and all say the same of all.
func TestTwentyAgentsClaimAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := newClaimAPI(t)
		range4 := claim.Range{Prefix: netip.MustParsePrefix("10.32.0.0/19"), Bits: 24}
		names := rivals(range4, 20)
		for _, name := range names {
			api.add(t, testNode(name))
		}
		claims := within(kube.ClaimAuto, range4.Bits, range4.Prefix.String(), "fd00:32::/48")
		var agents []*agent
		for _, name := range names {
			ag, _ := api.startClaiming(t, name, claims)
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
