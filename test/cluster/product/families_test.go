package product_test

import (
	"maps"
	"strings"
	"testing"

	"github.com/weaveguard/weaveguard/test/cluster"
	"github.com/weaveguard/weaveguard/test/family"
)

// TestFamilies applies the manifest to clusters whose nodes, pods and Services have IPv6 addresses, alone or beside those of
// IPv4, and shows that all kinds of traffic pass in each family.
func TestFamilies(t *testing.T) {
	image := imageTar(t)
	for _, cell := range []family.Family{family.IPv6, family.Dual} {
		t.Run(cell.String(), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.family = cell.Each()[0]
			w.Cluster = cluster.ForTest(t, cluster.Options{Nodes: 3, Family: cell})
			w.learn(t)
			w.install(t, image)
			w.learnSecrets(t, w.nodes)
			w.runPods(t, map[string]string{pod1: w.nodes[0], neighbour: w.nodes[0], pod2: w.nodes[1], pod3: w.nodes[2]})
			t.Run("wg show lists every other node", w.testWGShow)
			for _, f := range cell.Each() {
				t.Run("pods talk, and the underlay shows nothing of it, "+f.String(), w.in(t, f).testTraffic)
			}
			t.Run("answers that are too large for pods don't disturb the tunnels", w.in(t, family.IPv6).testTooLarge)
			t.Run("weaveguard status says that all is well", w.testStatus)
			t.Run(noSecretSaid, w.testSecrets)
		})
	}
}

// testTooLarge has a host send a pod more than the pod's MTU, again and again. The pod's node says so by ICMPv6, since
// nobody on the way fragments with IPv6 (RFC 8200, section 5), and the host's kernel takes that for the path to the node: also
// for its tunnel, which goes to the same address.
func (w *world) testTooLarge(t *testing.T) {
	f := w.startTraffic(t, pod1, pod2)
	f.send(t, w, load{
		name: pod1 + " and " + pod2, from: w.netnsOf(t, place{pod1, true}), to: w.netnsOf(t, place{pod2, true}),
		address: w.podIP(t, pod2), rate: 500, size: 1350,
	})
	for range 3 {
		// The first is lost: its answer tells the host of the path.
		text, err := w.run(t.Context(), place{pod2, true}, "ping", "-q", "-c", "3", "-A", "-W", "5", "-s", "1400", w.address[w.nodes[0]].String())
		if err != nil || strings.Contains(text, "100% packet loss") {
			t.Errorf("no answer of 1400 bytes comes to a pod: %s: %v", text, err)
		}
		f.goOn(t, w, 2)
	}
	f.stop(t)
	// A host under test has learnt it, or this shows nothing.
	learnt := w.on(t, w.nodes[0], "ip", "-6", "route", "get", w.address[w.nodes[1]].String())
	if w.address[w.nodes[0]].Is6() && !strings.Contains(learnt, "mtu") {
		t.Errorf("%s has learnt nothing of the path to %s: %s", w.nodes[0], w.nodes[1], learnt)
	}
}

// in is the same cluster with the addresses of a family.
func (w *world) in(t *testing.T, f family.Family) *world {
	t.Helper()
	other := *w
	other.family, other.address, other.pods = f, maps.Clone(w.address), maps.Clone(w.pods)
	other.learn(t)
	return &other
}
