package mesh_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/weaveguard/weaveguard/keys"
	"github.com/weaveguard/weaveguard/mesh"
	"github.com/weaveguard/weaveguard/mesh/record"
)

func TestRecordsThatDoNotCount(t *testing.T) {
	t.Parallel()
	b, c := newSpeaker(t, 2, "b"), newSpeaker(t, 3, "c")
	stranger := newSpeaker(t, 4, "b")
	unpinned := b.node()
	unpinned.Identity = keys.PublicIdentity{}
	good := b.says(t, nil)
	flipped := mesh.Heard{Node: "b", Raw: slices.Clone(good.Raw), Alive: true}
	flipped.Raw[len(flipped.Raw)-1] ^= 1
	cases := map[string]struct {
		nodes  []mesh.ClusterNode
		heard  []mesh.Heard
		word   string
		reason string
	}{
		"no pin yet":       {[]mesh.ClusterNode{unpinned}, []mesh.Heard{good}, "", "annotation"},
		"not its pin":      {[]mesh.ClusterNode{b.node()}, []mesh.Heard{stranger.says(t, nil)}, "pin", "another identity"},
		"another's name":   {[]mesh.ClusterNode{b.node()}, []mesh.Heard{{Node: "b", Raw: c.says(t, nil).Raw}}, "signature", "signature"},
		"a flipped bit":    {[]mesh.ClusterNode{b.node()}, []mesh.Heard{flipped}, "", ""},
		"garbage":          {[]mesh.ClusterNode{b.node()}, []mesh.Heard{{Node: "b", Raw: []byte("garbage")}}, "size", "size"},
		"another's CIDR":   {[]mesh.ClusterNode{b.node()}, []mesh.Heard{b.says(t, func(r *record.Record) { r.PodCIDR4 = c.cidr() })}, "cidr", "pod CIDRs"},
		"another's key":    {[]mesh.ClusterNode{b.node(), c.node()}, []mesh.Heard{c.says(t, nil), b.says(t, useKey(c))}, "key", "WireGuard key of node c"},
		"nothing was said": {[]mesh.ClusterNode{b.node()}, nil, "", "nothing was heard"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.cluster.set(append(tc.nodes, w.self.node())...)
			w.air.say(tc.heard...)
			a := w.start(t)
			s := a.pass()
			if _, counts := planned(w.kernel)["b"]; counts {
				t.Errorf("b became a peer")
			}
			if tc.word != "" && s.Counters.Refused[tc.word] != 1 {
				t.Errorf("refused %v, want 1 for %q, counted once however often it's looked at", s.Counters.Refused, tc.word)
			}
			if p := peer(s, "b"); p == nil || p.Up || !strings.Contains(p.Reason, tc.reason) {
				t.Errorf("b in the status is %+v, want a reason with %q", p, tc.reason)
			}
		})
	}
}

// Who speaks without having a Node is told of, and is no peer that one waits for.
func TestUnknownSpeakers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.cluster.set(w.self.node())
	w.air.say(newSpeaker(t, 2, "b").says(t, nil))
	a := w.start(t)
	s := a.pass()
	if len(planned(w.kernel)) != 0 || len(s.Peers) != 0 || s.Counters.Refused["unknown"] != 1 {
		t.Errorf("peers are %+v, refused %v", s.Peers, s.Counters.Refused)
	}
	if len(s.Problems) != 1 || !s.Problems[0].Warning || !strings.Contains(s.Problems[0].Message, `192.0.2.2 speaks as node "b"`) {
		t.Errorf("problems are %+v", s.Problems)
	}
	w.air.say(mesh.Heard{Node: "x", Raw: []byte("garbage"), From: elsewhereAt, At: []netip.Addr{elsewhereAt}, Alive: true},
		mesh.Heard{Node: "y", Raw: []byte("garbage")}) // which was handed on
	s = a.pass()
	if len(s.Problems) != 1 || !strings.Contains(s.Problems[0].Message, `192.0.2.99 speaks as node "x"`) || len(s.Peers) != 0 {
		t.Errorf("problems are %+v, peers %+v", s.Problems, s.Peers)
	}
	many := make([]mesh.Heard, 50)
	for i := range many {
		many[i] = newSpeaker(t, 2, fmt.Sprintf("x%d", i)).says(t, nil)
	}
	w.air.say(many...)
	if s := a.pass(); len(s.Problems) != 1 {
		t.Errorf("%d problems for 50 unknown speakers, want 1", len(s.Problems))
	}
}

// Gossip remembers the record of a Node that was deleted, and of its agent that ended: that is no news.
func TestDeletedNodeLeavesNoProblem(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b := newSpeaker(t, 2, "b")
	said := b.says(t, nil)
	w.cluster.set(w.self.node(), b.node())
	w.air.say(said)
	a := w.start(t)
	said.Alive = false
	w.air.say(said)
	w.cluster.set(w.self.node())
	if s := a.pass(); len(s.Problems) != 0 || len(s.Peers) != 0 {
		t.Errorf("problems are %+v, peers %+v: want nothing of b left", s.Problems, s.Peers)
	}
}

func useKey(other *speaker) func(*record.Record) {
	return func(r *record.Record) { r.Generations = []record.Generation{{Number: 0, Key: other.key()}} }
}

// A record that is older than what counts changes nothing, in whatever order the two come.
func TestOldRecordsChangeNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b := newSpeaker(t, 2, "b")
	elsewhere := netip.MustParseAddrPort("192.0.2.99:51820")
	before := b.says(t, nil)
	now := b.says(t, func(r *record.Record) { r.Endpoint4 = elsewhere })
	w.cluster.set(w.self.node(), b.node())
	w.air.say(now, before)
	a := w.start(t)
	a.pass()
	w.air.say(before)
	s := a.pass()
	if p := peer(s, "b"); p == nil || p.Endpoint != elsewhere.String() {
		t.Errorf("b is %+v, want the endpoint of its newest record", p)
	}
}

// A node never goes back to a key that it gave up, and has one key for each number; what others missed is no fault.
func TestKeysThatGoBack(t *testing.T) {
	t.Parallel()
	key := map[string]keys.PublicKey{}
	for _, name := range []string{"3", "4", "5", "9", "other 4", "other 5"} {
		key[name] = newSpeaker(t, 9, "unused").key()
	}
	gs := func(first uint32, names ...string) func(*record.Record) {
		return func(r *record.Record) {
			r.Generations = nil
			for i, name := range names {
				r.Generations = append(r.Generations, record.Generation{Number: first + uint32(i), Key: key[name]})
			}
		}
	}
	for name, tc := range map[string]struct {
		before, after func(*record.Record)
		refused       string // a part of what is said; none: it counts
	}{
		"the next key":           {gs(4, "4"), gs(4, "4", "5"), ""},
		"the old one goes":       {gs(4, "4", "5"), gs(5, "5"), ""},
		"both missed":            {gs(4, "4"), gs(5, "5"), ""},
		"many missed":            {gs(4, "4"), gs(9, "9"), ""},
		"given up before":        {gs(5, "5"), gs(4, "4", "5"), "given up all below 5"},
		"an older one alone":     {gs(5, "5"), gs(4, "4"), "given up all below 5"},
		"the next one withdrawn": {gs(4, "4", "5"), gs(4, "4"), "had announced 5 before"},
		"another key":            {gs(4, "4"), gs(4, "other 4"), "two different keys for generation 4"},
		"another next key":       {gs(4, "4", "5"), gs(4, "4", "other 5"), "two different keys for generation 5"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			b := newSpeaker(t, 2, "b")
			w.cluster.set(w.self.node(), b.node())
			w.air.say(b.says(t, tc.before))
			a := w.start(t)
			before := w.kernel.text("tunnels")
			w.air.say(b.says(t, tc.after))
			a.pass()
			s := a.pass()
			changed := w.kernel.text("tunnels") != before
			if tc.refused == "" {
				if !changed || len(s.Problems) != 0 {
					t.Errorf("it doesn't count: %v", s.Problems)
				}
				return
			}
			if changed || s.Counters.Refused["generation"] != 1 {
				t.Errorf("it counts; refused are %v", s.Counters.Refused)
			}
			if len(s.Problems) != 1 || s.Problems[0].Subject != "node b" || !strings.Contains(s.Problems[0].Message, tc.refused) ||
				!strings.Contains(s.Problems[0].Remedy, "keys.json") {
				t.Errorf("problems are %v, want one with %q", s.Problems, tc.refused)
			}
			a.stop()
			if log := w.log.String(); strings.Count(log, tc.refused) != 1 {
				t.Errorf("it isn't in the log once:\n%s", log)
			}
		})
	}
}

// A key store that was restored from a backup is behind what the others have seen: the node says so.
func TestKeyStoreFromABackup(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.cluster.set(w.self.node())
	w.air.say(w.self.says(t, func(r *record.Record) {
		r.Generations[0] = record.Generation{Number: 3, Key: newSpeaker(t, 9, "unused").key()}
	}))
	s := w.start(t).pass()
	if len(s.Problems) != 1 || s.Problems[0].Subject != "key store" || !strings.Contains(s.Problems[0].Message, "3 already") ||
		!strings.Contains(s.Problems[0].Remedy, "keys.json") {
		t.Errorf("problems are %v", s.Problems)
	}
}

// Without Kubernetes the first identity of a name counts, and another one doesn't until it is forgotten.
func TestTrustOnFirstUse(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.config.Cluster, w.config.PodCIDRs, w.config.Addresses = nil, []netip.Prefix{w.self.cidr()}, []netip.Addr{w.self.address()}
	b, other := newSpeaker(t, 2, "b"), newSpeaker(t, 3, "b")
	w.air.say(b.says(t, nil))
	w.start(t).stop()
	w.air.say(other.says(t, nil))
	a := w.start(t)
	s := a.pass()
	if got := planned(w.kernel)["b"]; got != b.key() {
		t.Errorf("b's key is %v, want the one that was seen first, %v", got, b.key())
	}
	if s.Counters.Refused["identity"] != 1 {
		t.Errorf("refused %v, want 1 for the identity", s.Counters.Refused)
	}
	if len(s.Problems) != 1 || s.Problems[0].Subject != "node b" || !strings.Contains(s.Problems[0].Message, "192.0.2.3") {
		t.Errorf("problems are %v, want one that says who speaks for b", s.Problems)
	}
}

// What others remember of this node's earlier life must not outlive what it says now.
func TestOwnSequenceGoesAboveWhatOthersKnow(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.cluster.set(w.self.node())
	const far = 1 << 40
	w.air.say(w.self.says(t, func(r *record.Record) { r.Sequence = far }))
	a := w.start(t)
	a.pass()
	r, err := record.Open("a", w.air.announced[len(w.air.announced)-1])
	if err != nil || r.Sequence <= far {
		t.Errorf("announced sequence %d, %v; want it above %d", r.Sequence, err, far)
	}
}

func TestTwoNodesOfOneName(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.cluster.set(w.self.node())
	w.air.say(newSpeaker(t, 9, "a").says(t, nil))
	s := w.start(t).pass()
	if len(s.Problems) != 1 || !strings.Contains(s.Problems[0].Message, "192.0.2.9") || s.Problems[0].Remedy == "" {
		t.Errorf("problems are %+v, want one that names the other node's address", s.Problems)
	}
}
