package mesh_test

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weaveguard/weaveguard/keys"
	"github.com/weaveguard/weaveguard/mesh"
	"github.com/weaveguard/weaveguard/mesh/view"
)

func peer(s view.Status, node string) *view.PeerStatus {
	for i := range s.Peers {
		if s.Peers[i].Node == node {
			return &s.Peers[i]
		}
	}
	return nil
}

// planned are the keys that the tunnels were given, by node.
func planned(k *kernel) map[string]keys.PublicKey {
	k.mu.Lock()
	defer k.mu.Unlock()
	all := map[string]keys.PublicKey{}
	for _, d := range k.devices {
		for _, p := range d.Peers {
			all[p.Node] = p.PublicKey
		}
	}
	return all
}

func TestPeersFollowRecordsAndNodes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b, c := newSpeaker(t, 2, "b"), newSpeaker(t, 3, "c")
	w.cluster.set(w.self.node(), b.node())
	w.air.say(b.says(t, nil), c.says(t, nil))
	a := w.start(t)

	if got := planned(w.kernel); len(got) != 1 || got["b"] != b.key() {
		t.Errorf("peers are %v, want b alone: Kubernetes has no Node c", got)
	}
	w.cluster.set(w.self.node(), b.node(), c.node())
	a.pass()
	if got := planned(w.kernel); len(got) != 2 || got["c"] != c.key() {
		t.Errorf("peers are %v, want b and c", got)
	}
	w.air.say() // all members are gone: that is no reason to drop anybody
	a.pass()
	if got := planned(w.kernel); len(got) != 2 {
		t.Errorf("peers are %v: nodes that gossip doesn't see were dropped", got)
	}
	w.cluster.set(w.self.node(), c.node())
	s := a.pass()
	if got := planned(w.kernel); len(got) != 1 || peer(s, "b") != nil {
		t.Errorf("peers are %v, status %+v: b's Node was deleted", got, s.Peers)
	}
}

func TestSecondPassChangesNothing(t *testing.T) {
	t.Parallel()
	w, a := withPeer(t)
	before, announced := a.pass(), w.air.count()
	for range 5 {
		a.pass()
	}
	after := a.pass()
	if after.Counters.KernelWrites != before.Counters.KernelWrites || w.air.count() != announced {
		t.Errorf("%d changes and %d announcements in an unchanged world",
			after.Counters.KernelWrites-before.Counters.KernelWrites, w.air.count()-announced)
	}
	if !after.Ready || !w.cluster.told().Ready || len(after.Problems) != 0 {
		t.Errorf("want it ready and without problems: %+v", after)
	}
	if p := peer(after, "b"); p == nil || !p.Up || p.MTU != 1440 || p.Device != "weave-wg0" {
		t.Errorf("peer b is %+v", p)
	}
}

// The firewall must stand before anything that it guards, a device's addresses before its peers, routes when all that
// they lead to stands; and nothing is removed that a route may still lead to.
func TestOrderOfSteps(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.cluster.set(w.self.node())
	w.start(t).stop()
	want := []string{"firewall", "bridges", "sysctls", "made", "devices", "tunnels", "paths", "routes", "pruned", "attach"}
	if !slices.Equal(w.kernel.order, want) {
		t.Errorf("steps were %v, want %v", w.kernel.order, want)
	}
}

// No pod may be attached before everything stands; once it did, a fault doesn't close the node again.
func TestReadiness(t *testing.T) {
	t.Parallel()
	for _, step := range []string{"firewall", "bridges", "sysctls", "made", "devices", "tunnels", "paths", "routes", "pruned", "attach"} {
		t.Run(step, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.cluster.set(w.self.node())
			w.kernel.fail[step] = errBroken
			a := w.start(t)
			if s := a.pass(); s.Ready || w.kernel.open() || w.cluster.told().Ready {
				t.Errorf("ready although %s failed: %+v", step, s)
			}
			if s := a.pass(); len(s.Problems) == 0 || !strings.Contains(s.Problems[0].Message, errBroken.Error()) {
				t.Errorf("the fault isn't in the status: %+v", s.Problems)
			}
			if !strings.Contains(w.cluster.told().Reason, errBroken.Error()) {
				t.Errorf("Kubernetes is told %q", w.cluster.told().Reason)
			}
			setFault(w.kernel, step, nil)
			if s := a.pass(); !s.Ready || !w.kernel.open() {
				t.Errorf("not ready although nothing fails any more: %+v", s)
			}
			setFault(w.kernel, step, errBroken)
			if s := a.pass(); !s.Ready || !w.kernel.open() {
				t.Errorf("closed again by a fault of %s: %+v", step, s)
			}
		})
	}
}

func setFault(k *kernel, step string, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.fail[step] = err
}

// An agent that starts while the others and the API server are away must plan what it planned before.
func TestRestartGoesOnFromTheCache(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b := newSpeaker(t, 2, "b")
	w.cluster.set(w.self.node(), b.node())
	w.air.say(b.says(t, nil))
	w.start(t).stop()
	held := w.kernel.held["tunnels"]

	w.air.say()
	w.cluster.state = mesh.ClusterState{}
	writes := w.kernel.writes
	a := w.start(t)
	a.pass()
	if w.kernel.held["tunnels"] != held || w.kernel.writes != writes {
		t.Errorf("after a restart the kernel was changed %d times; peers are %v", w.kernel.writes-writes, planned(w.kernel))
	}
	if s := a.pass(); !s.Ready || s.Kubernetes != "unreachable" {
		t.Errorf("after a restart without the API server: %+v", s)
	}
}

// Pods are kept from the agents at all addresses that Kubernetes has of nodes, also of those that no record counts of,
// and while it is away. A node that is gone keeps none.
func TestFirewallHasAllAddressesOfNodes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b, c := newSpeaker(t, 2, "b"), newSpeaker(t, 3, "c")
	nodeB, nodeC := b.node(), c.node()
	nodeB.AllAddresses = []netip.Addr{b.address(), netip.MustParseAddr("203.0.113.2"), netip.MustParseAddr("198.51.100.2")}
	nodeC.Endpoint = netip.MustParseAddr("203.0.113.3")
	w.cluster.set(w.self.node(), nodeB, nodeC)
	w.air.say(b.says(t, nil))
	a := w.start(t)
	a.pass()
	want := func(when string, nodes string) {
		t.Helper()
		if rules := w.kernel.text("firewall"); !strings.Contains(rules, "Nodes:["+nodes+"]") {
			t.Errorf("%s the rules are %s, want the nodes %s", when, rules, nodes)
		}
	}
	const all = "192.0.2.1 192.0.2.2 192.0.2.3 198.51.100.2 203.0.113.2 203.0.113.3"
	want("with Kubernetes", all)
	a.stop()
	writes := w.kernel.writes
	w.cluster.state = mesh.ClusterState{}
	a = w.start(t)
	a.pass()
	want("after a restart without the API server", all)
	if w.kernel.writes != writes {
		t.Errorf("the kernel was changed %d times for nothing", w.kernel.writes-writes)
	}
	w.cluster.set(w.self.node(), nodeC)
	a.pass()
	want("after b was deleted", "192.0.2.1 192.0.2.3 203.0.113.3")
	a.stop()
	w.config.Cluster, w.config.Addresses, w.config.PodCIDRs = nil, []netip.Addr{w.self.address()}, []netip.Prefix{w.self.cidr()}
	w.start(t).pass()
	if rules := w.kernel.text("firewall"); strings.Contains(rules, "203.0.113.3") {
		t.Errorf("without Kubernetes the rules are %s", rules)
	}
}

// Without its cache an agent doesn't know yet whose the peers in its tunnels are. It leaves them alone until their
// nodes were heard of, or until nobody speaks for them any more.
func TestLostCacheCostsNoPeer(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b, c := newSpeaker(t, 2, "b"), newSpeaker(t, 3, "c")
	w.cluster.set(w.self.node(), b.node(), c.node())
	w.air.say(b.says(t, nil), c.says(t, nil))
	w.start(t).stop()
	held := w.kernel.held["tunnels"]
	if err := os.Remove(w.config.CachePath); err != nil {
		t.Fatal(err)
	}
	w.cluster.set(w.self.node(), b.node()) // c's Node went meanwhile
	w.air.say()
	w.config.Settle = 500 * time.Millisecond
	a := w.start(t)
	if got := w.kernel.text("tunnels"); got != held {
		t.Errorf("the tunnels were changed before anybody was heard of: %v", planned(w.kernel))
	}
	w.air.say(b.says(t, nil))
	deadline := time.Now().Add(20 * time.Second)
	for len(planned(w.kernel)) != 1 && time.Now().Before(deadline) {
		a.pass()
		if got := planned(w.kernel); got["b"] != b.key() {
			t.Fatalf("b was dropped: %v", got)
		}
	}
	if got := planned(w.kernel); len(got) != 1 {
		t.Errorf("peers are %v in the end, want b alone", got)
	}
}

// A node that got another address has to gossip from it.
func TestMovedNodeEndsTheLoop(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.config.GossipAddress = netip.MustParseAddr("192.0.2.77")
	w.cluster.set(w.self.node())
	err := mesh.New(w.config).Run(t.Context())
	if err == nil || !strings.Contains(err.Error(), "192.0.2.77") || !strings.Contains(err.Error(), w.self.address().String()) {
		t.Errorf("the loop ended with %v, want an error with both addresses", err)
	}
}

// A cache that can't be used, cut short or of a later version, is put aside as it is before another takes its place, and the status
// tells of it until somebody has seen to it.
func TestCorruptCacheIsPutAside(t *testing.T) {
	t.Parallel()
	for what, content := range map[string]string{"cut": `{"version":1,"nodes":`, "later": `{"version":2,"pins":{}}`} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.cluster.set(w.self.node())
			path := w.config.CachePath
			if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
			r, err := mesh.Recall(path)
			if err == nil || !strings.Contains(err.Error(), path) || len(r.Nodes) != 0 {
				t.Errorf("it gave %+v, %v", r, err)
			}
			for range 2 { // agents
				a := w.start(t)
				s := a.pass()
				a.stop()
				if raw, err := os.ReadFile(path + ".unusable"); err != nil || string(raw) != content {
					t.Errorf("aside is %q, %v", raw, err)
				}
				if !slices.ContainsFunc(s.Problems, func(p view.Problem) bool { return p.Subject == path+".unusable" && p.Remedy != "" }) {
					t.Errorf("the status has the problems %v", s.Problems)
				}
			}
			if err := os.Remove(path + ".unusable"); err != nil {
				t.Fatal(err)
			}
			if s := w.start(t).pass(); len(s.Problems) != 0 {
				t.Errorf("there are problems still: %v", s.Problems)
			}
		})
	}
}

// A problem is logged when it comes and when it goes, not with each pass.
func TestProblemsAreLoggedOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.cluster.set(w.self.node())
	w.kernel.fail["routes"] = errBroken
	a := w.start(t)
	for range 5 {
		a.pass()
	}
	setFault(w.kernel, "routes", nil)
	a.pass()
	a.stop()
	log := w.log.String()
	if n := strings.Count(log, "level=ERROR msg=\""+errBroken.Error()); n != 1 {
		t.Errorf("the fault was logged %d times:\n%s", n, log)
	}
	if n := strings.Count(log, "no longer: routes: "+errBroken.Error()); n != 1 {
		t.Errorf("its end was logged %d times:\n%s", n, log)
	}
}

// Whoever makes problems that are others in each pass doesn't fill the log, and hides nothing for good.
func TestProblemsDontFloodTheLog(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.start(t)
	const passes, each = 20, 500
	for round := range passes {
		state := mesh.ClusterState{Synced: true, Reachable: true, Nodes: []mesh.ClusterNode{w.self.node()}}
		for i := range each {
			state.Problems = append(state.Problems, view.Problem{Subject: fmt.Sprintf("node n%d-%d", round, i), Message: "made up"})
		}
		w.cluster.setState(state)
		if s := a.pass(); len(s.Problems) != each {
			t.Fatalf("the status has %d problems, want all %d", len(s.Problems), each)
		}
	}
	a.stop()
	log := w.log.String()
	// The burst, what ran in meanwhile, and as many lines of what is over.
	if lines := strings.Count(log, "made up"); lines < 200 || lines > 600 {
		t.Errorf("%d lines of %d problems, want a few hundred", lines, passes*each)
	}
	if n := strings.Count(log, "there are more problems than the log takes: see weaveguard status"); n != 1 {
		t.Errorf("it was said %d times that there are more", n)
	}
}

// One end of a new link starts the handshake; both keep it alive once it stands.
func TestKeepaliveFollowsTheSession(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b := newSpeaker(t, 2, "b")
	w.cluster.set(w.self.node(), b.node())
	w.air.say(b.says(t, nil))
	a := w.start(t)
	if got := w.kernel.keepalive(); got != time.Second {
		t.Errorf("keepalive is %s while the link is set up, want 1s", got)
	}
	w.kernel.mu.Lock()
	w.kernel.sessions[b.key()] = time.Now()
	w.kernel.mu.Unlock()
	a.pass()
	if got := w.kernel.keepalive(); got != 25*time.Second {
		t.Errorf("keepalive is %s on an established link, want 25s", got)
	}
}
