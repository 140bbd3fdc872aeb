package kube_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	ktesting "k8s.io/client-go/testing"

	"github.com/weaveguard/weaveguard/mesh/kube"
)

func TestSnapshotReadsNodes(t *testing.T) {
	internal := func(address string) corev1.NodeAddress {
		return corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: address}
	}
	external := func(address string) corev1.NodeAddress {
		return corev1.NodeAddress{Type: corev1.NodeExternalIP, Address: address}
	}
	created := time.Date(2026, 2, 3, 4, 5, 6, 0, time.UTC)
	tests := []struct {
		name     string
		node     func(*corev1.Node)
		cidrs    []string
		address  []string
		all      []string // addresses, the further ones too
		problems []string // what each of them says, in order
	}{
		{
			name: "IPv4",
			node: func(n *corev1.Node) {
				n.Spec.PodCIDRs = []string{"10.32.5.0/24"}
				n.Status.Addresses = []corev1.NodeAddress{
					{Type: corev1.NodeHostName, Address: "n1"},
					{Type: corev1.NodeExternalIP, Address: "203.0.113.1"},
					internal("192.0.2.1"),
				}
			},
			cidrs:   []string{"10.32.5.0/24"},
			address: []string{"192.0.2.1"},
			all:     []string{"203.0.113.1", "192.0.2.1"},
		},
		{
			name: "dual stack, IPv6 first",
			node: func(n *corev1.Node) {
				n.Spec.PodCIDRs = []string{"fd00:5::/64", "10.32.5.0/24"}
				n.Status.Addresses = []corev1.NodeAddress{internal("2001:db8::1"), internal("192.0.2.1")}
			},
			cidrs:   []string{"10.32.5.0/24", "fd00:5::/64"},
			address: []string{"192.0.2.1", "2001:db8::1"},
			all:     []string{"2001:db8::1", "192.0.2.1"},
		},
		{
			name: "several addresses of a family",
			node: func(n *corev1.Node) {
				n.Status.Addresses = []corev1.NodeAddress{internal("192.0.2.7"), internal("192.0.2.1")}
			},
			address: []string{"192.0.2.7"},
			all:     []string{"192.0.2.7", "192.0.2.1"},
		},
		{
			name: "addresses that can't be used",
			node: func(n *corev1.Node) {
				n.Status.Addresses = []corev1.NodeAddress{
					external("127.0.0.1"), external("0.0.0.0"), external("224.0.0.1"), external("fe80::1%eth0"), external("n2.example"), external(""),
					{Type: corev1.NodeExternalDNS, Address: "203.0.113.9"}, external("::ffff:203.0.113.1"), external("203.0.113.1"),
				}
			},
			all: []string{"203.0.113.1"},
		},
		{
			name:  "an old podCIDR",
			node:  func(n *corev1.Node) { n.Spec.PodCIDR = "10.32.5.0/24" },
			cidrs: []string{"10.32.5.0/24"},
		},
		{
			name:  "host bits",
			node:  func(n *corev1.Node) { n.Spec.PodCIDRs = []string{"10.32.5.9/24"} },
			cidrs: []string{"10.32.5.0/24"},
		},
		{name: "nothing", node: func(*corev1.Node) {}},
		{
			name:     "a loopback address",
			node:     func(n *corev1.Node) { n.Status.Addresses = []corev1.NodeAddress{internal("127.0.0.1")} },
			problems: []string{`InternalIP "127.0.0.1" isn't used: other nodes can't reach it`},
		},
		{
			name:     "an address in a zone",
			node:     func(n *corev1.Node) { n.Status.Addresses = []corev1.NodeAddress{internal("fe80::1%eth0")} },
			problems: []string{`InternalIP "fe80::1%eth0" isn't used: other nodes can't reach it`},
		},
		{
			name: "more than anybody reads",
			node: func(n *corev1.Node) {
				for i := range 10_000 {
					n.Status.Addresses = append(n.Status.Addresses, internal(fmt.Sprint(i, strings.Repeat("é", 10_000))))
				}
			},
			problems: []string{`InternalIP "0` + strings.Repeat("é", 22) + `…" isn't used: it isn't an IP address (nor are 63 more)`},
		},
		{
			name: "bad ones",
			node: func(n *corev1.Node) {
				n.Spec.PodCIDRs = []string{"10.32.5.0", "::ffff:10.0.0.0/120", "10.32.5.0/24", "10.32.6.0/24"}
				n.Status.Addresses = []corev1.NodeAddress{internal("n1.example"), internal("127.0.0.1"), internal("fe80::1%eth0")}
			},
			cidrs: []string{"10.32.5.0/24"},
			problems: []string{
				`InternalIP "n1.example" isn't used: it isn't an IP address (nor are 2 more)`,
				`pod CIDR "10.32.5.0" isn't used: it must be an address and a length`,
				`pod CIDR "10.32.6.0/24" isn't used: it is the second`,
				`pod CIDR "::ffff:10.0.0.0/120" isn't used`,
			},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				node := testNode("n2")
				node.CreationTimestamp = metav1.NewTime(created)
				node.Annotations = map[string]string{
					"weaveguard.io/identity": "whoever", "weaveguard.io/endpoint": "198.51.100.1", "other": "x",
				}
				tt.node(node)
				got := newAPI(t, node).start(t, agentNode).Snapshot()
				want := []kube.Node{{
					Name: "n2", UID: "uid-n2", Created: created, Identity: "whoever", Endpoint: "198.51.100.1",
				}}
				for _, cidr := range tt.cidrs {
					want[0].PodCIDRs = append(want[0].PodCIDRs, netip.MustParsePrefix(cidr))
				}
				for _, address := range tt.address {
					want[0].Addresses = append(want[0].Addresses, netip.MustParseAddr(address))
				}
				for _, address := range tt.all {
					want[0].AllAddresses = append(want[0].AllAddresses, netip.MustParseAddr(address))
				}
				comparer := cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })
				addresses := cmp.Comparer(func(a, b netip.Addr) bool { return a == b })
				if diff := cmp.Diff(want, got.Nodes, comparer, addresses); diff != "" {
					t.Errorf("nodes (-want +got):\n%s", diff)
				}
				if len(got.Problems) != len(tt.problems) {
					t.Fatalf("problems: %v, want %v", got.Problems, tt.problems)
				}
				for i, want := range tt.problems {
					if p := got.Problems[i]; p.Subject != "node n2" || !strings.Contains(p.Message, want) {
						t.Errorf("problem %q lacks %q", p, want)
					}
				}
			})
		})
	}
}

// Of another Node what its agent says of its key is kept, if it can be one; what its kubelet says of it has an end.
func TestSnapshotOfOtherNodesIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const key = "AgAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
		good, long, many := testNode("n2"), testNode("n3"), testNode("n4")
		good.Annotations = map[string]string{"weaveguard.io/public-key": key}
		long.Annotations = map[string]string{"weaveguard.io/public-key": strings.Repeat("A", 1<<17)}
		many.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "2001:db8::1"}}
		for i := range 1000 {
			kind := []corev1.NodeAddressType{corev1.NodeInternalIP, corev1.NodeExternalIP}[i%2]
			many.Status.Addresses = append(many.Status.Addresses,
				corev1.NodeAddress{Type: kind, Address: netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)}).String()})
		}
		api := newAPI(t, testNode("n1"), good, long, many)
		agent := api.start(t, agentNode)
		nodes := agent.Snapshot().Nodes
		if nodes[1].PublicKey != key || nodes[2].PublicKey != "" {
			t.Errorf("public keys are %q and %.60q", nodes[1].PublicKey, nodes[2].PublicKey)
		}
		if got := nodes[3]; len(got.AllAddresses) != 16 || len(got.Addresses) != 2 {
			t.Errorf("of 1001 addresses %v and %v are taken, want 16 of all, and one of each family", got.AllAddresses, got.Addresses)
		}
		wantChange(t, agent, "the start")
		api.changeNode(t, "n2", func(n *corev1.Node) { n.Annotations["weaveguard.io/public-key"] = "B" + key[1:] })
		wantChange(t, agent, "another key")
		api.changeNode(t, "n2", func(n *corev1.Node) {
			n.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeExternalIP, Address: "203.0.113.7"}}
		})
		wantChange(t, agent, "another ExternalIP")
	})
}

func TestSnapshotFollowsNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := newAPI(t, testNode("n3"), testNode("n1", "10.32.1.0/24"))
		agent := api.start(t, agentNode)
		before := agent.Snapshot()
		wantNodes(t, before, "n1", "n3")
		if !before.Synced || !before.Reachable {
			t.Errorf("synced %t, reachable %t, want both", before.Synced, before.Reachable)
		}

		api.add(t, testNode("n2", "10.32.2.0/24"))
		wantChange(t, agent, "a Node was added")
		wantNodes(t, agent.Snapshot(), "n1", "n2", "n3")

		api.changeNode(t, "n3", func(n *corev1.Node) { n.Spec.PodCIDRs = []string{"10.32.3.0/24"} })
		wantChange(t, agent, "a Node got a pod CIDR")
		if got := agent.Snapshot().Nodes[2].PodCIDRs; len(got) != 1 || got[0].String() != "10.32.3.0/24" {
			t.Errorf("n3 has %v", got)
		}

		if err := api.client.Tracker().Delete(nodesResource, "", "n2"); err != nil {
			t.Fatal(err)
		}
		wantChange(t, agent, "a Node was deleted")
		wantNodes(t, agent.Snapshot(), "n1", "n3")
		wantNodes(t, before, "n1", "n3") // a snapshot never changes
	})
}

func TestHeartbeatsAreNoChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := newAPI(t, testNode("n1"), testNode("n2"))
		agent := api.start(t, agentNode)
		before := agent.changes.Load()
		for _, name := range []string{"n1", "n2"} {
			api.changeNode(t, name, func(n *corev1.Node) {
				n.Status.Conditions[0].LastHeartbeatTime = metav1.Now()
				n.Status.Images = []corev1.ContainerImage{{Names: []string{"an image"}}}
				n.Labels = map[string]string{"some": "label"}
			})
		}
		settle()
		if after := agent.changes.Load(); after != before {
			t.Errorf("%d changes for nothing", after-before)
		}
	})
}

// A Node that was deleted while the API server was away is gone with the next list.
func TestDeletedWhileAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := newAPI(t, testNode("n1"), testNode("n2"))
		watches := make(chan *watch.FakeWatcher, 10)
		api.client.PrependWatchReactor("nodes", func(ktesting.Action) (bool, watch.Interface, error) {
			w := watch.NewFake()
			watches <- w
			return true, w, nil
		})
		agent := api.start(t, agentNode)
		wantNodes(t, agent.Snapshot(), "n1", "n2")

		if err := api.client.Tracker().Delete(nodesResource, "", "n2"); err != nil {
			t.Fatal(err)
		}
		settle()
		wantNodes(t, agent.Snapshot(), "n1", "n2") // nobody told it
		(<-watches).Error(&metav1.Status{Status: metav1.StatusFailure, Reason: metav1.StatusReasonExpired, Code: 410})
		wantChange(t, agent, "a list without n2")
		wantNodes(t, agent.Snapshot(), "n1")
		if s := agent.Snapshot(); !s.Synced || !s.Reachable || len(s.Problems) != 0 {
			t.Errorf("after an expired watch: %+v", s)
		}
	})
}

func wantNodes(t *testing.T, s kube.Snapshot, want ...string) {
	t.Helper()
	var got []string
	for _, node := range s.Nodes {
		got = append(got, node.Name)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("nodes (-want +got):\n%s", diff)
	}
}

// wantChange waits until all has settled, and wants that Changed was called in that time.
func wantChange(t *testing.T, agent *agent, what string) {
	t.Helper()
	before := agent.changes.Swap(0)
	settle()
	if before+agent.changes.Load() == 0 {
		t.Errorf("Changed wasn't called: %s", what)
	}
	agent.changes.Store(0)
}
