package mesh_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weaveguard/weaveguard/keys"
	"github.com/weaveguard/weaveguard/mesh"
	"github.com/weaveguard/weaveguard/mesh/record"
	"github.com/weaveguard/weaveguard/mesh/view"
)

// configuration is a fake of what is configured on a node.
type configuration struct {
	mu       sync.Mutex
	networks []view.Network
	problems []view.Problem
}

func (c *configuration) Configured() ([]view.Network, []view.Problem) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.networks), slices.Clone(c.problems)
}

func (c *configuration) set(networks ...view.Network) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.networks = networks
}

// subnet is the part of a network NAME in 10.RANGE.0.0/16 that a node of this number has.
func subnet(name string, number, node int) view.Network {
	return view.Network{
		Name: name, Bridge: "weave-" + name,
		Ranges: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(number), 0, 0}), 16)},
		CIDRs:  []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(number), byte(node), 0}), 24)},
	}
}

// writes is a new document of the node, and a record that says so.
func (s *speaker) writes(t *testing.T, networks ...view.Network) (document []byte, said mesh.Heard) {
	t.Helper()
	var d record.Document
	for _, n := range networks {
		d.Networks = append(d.Networks, record.Network{Name: n.Name, Ranges: n.Ranges, CIDRs: n.CIDRs})
	}
	return s.signs(t, d)
}

// signs is that document with a new version, and a record that says so.
func (s *speaker) signs(t *testing.T, d record.Document) (document []byte, said mesh.Heard) {
	t.Helper()
	var err error
	if d.Version, err = s.store.NextSequence(); err != nil {
		t.Fatal(err)
	}
	raw, err := record.SignDocument(s.name, d, s.store.Identity())
	if err != nil {
		t.Fatal(err)
	}
	return raw, s.says(t, refersTo(d.Version, raw))
}

func refersTo(version uint64, document []byte) func(*record.Record) {
	return func(r *record.Record) { r.DocumentVersion, r.DocumentHash = version, record.HashDocument(document) }
}

// asks is a request of the node to the agent.
func (s *speaker) asks(t *testing.T, w *world, node string, document []byte) []byte {
	t.Helper()
	sequence, err := s.store.NextSequence()
	if err != nil {
		t.Fatal(err)
	}
	r := record.Request{From: s.name, Sequence: sequence, Node: node, Hash: record.HashDocument(document)}
	raw, err := record.SignRequest(r, w.self.name, w.self.store.Identity().Public(), s.store.Identity())
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// sentOf takes what the agent has sent of a kind since it was asked last, and to whom.
func (a *air) sentOf(kind byte) (messages [][]byte, to []string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	sent, sentTo := a.sent, a.sentTo
	a.sent, a.sentTo = nil, nil
	for i, raw := range sent {
		if raw[0] == kind {
			messages, to = append(messages, raw), append(to, sentTo[i])
		}
	}
	return messages, to
}

func parcel(document []byte) []byte { return slices.Concat([]byte{record.DocumentKind}, document) }

// networksOf names a peer's networks in the status.
func networksOf(s view.Status, node string) string {
	p := peer(s, node)
	if p == nil {
		return "no peer"
	}
	var names []string
	for _, n := range p.Networks {
		names = append(names, fmt.Sprintf("%s=%s", n.Name, n.CIDRs[0]))
	}
	return strings.Join(names, " ")
}

// until lets the loop run until a condition holds.
func (l *live) until(what string, condition func(view.Status) bool) view.Status {
	l.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; {
		s := l.pass()
		if condition(s) {
			return s
		}
		if time.Now().After(deadline) {
			l.t.Fatalf("not within 20 s: %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// A document is asked for, taken when it comes, and stays in force until its successor is there, also over a restart.
func TestDocumentComesIntoForce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b := newSpeaker(t, 2, "b")
	w.cluster.set(w.self.node(), b.node())
	first, said := b.writes(t, subnet("blue", 50, 2))
	w.air.say(said)
	a := w.start(t)
	var asked [][]byte
	a.until("b is asked", func(view.Status) bool {
		more, to := w.air.sentOf(record.RequestKind)
		asked = append(asked, more...)
		return len(to) > 0 && to[0] == "b"
	})
	r, err := record.OpenRequest(asked[0], "b", b.store.Identity().Public(), func(string) (keys.PublicIdentity, bool) {
		return w.self.store.Identity().Public(), true
	})
	if err != nil || r.From != "a" || r.Node != "b" || r.Hash != record.HashDocument(first) {
		t.Fatalf("the request is %+v, %v", r, err)
	}
	if p := peer(a.pass(), "b"); !strings.Contains(p.Document, "isn't here yet") || len(p.Networks) > 0 {
		t.Errorf("b is %+v, want it to wait for its document", p)
	}
	w.air.tell(parcel(first), parcel(first)) // as two may have answered
	if s := a.pass(); networksOf(s, "b") != "blue=10.50.2.0/24" || peer(s, "b").Document != "" || len(s.Counters.Refused) > 0 {
		t.Errorf("b is %+v, refused %v", peer(s, "b"), s.Counters.Refused)
	}

	second, said := b.writes(t, subnet("blue", 50, 2), subnet("red", 60, 2))
	w.air.say(said)
	if s := a.pass(); networksOf(s, "b") != "blue=10.50.2.0/24" || !strings.Contains(peer(s, "b").Document, "stays in force") {
		t.Errorf("b is %+v, want its former document in force", peer(s, "b"))
	}
	a.stop()
	a = w.start(t)
	if s := a.pass(); networksOf(s, "b") != "blue=10.50.2.0/24" {
		t.Errorf("after a restart b is %+v, want its former document in force", peer(s, "b"))
	}
	w.air.tell(parcel(second))
	if s := a.pass(); networksOf(s, "b") != "blue=10.50.2.0/24 red=10.60.2.0/24" {
		t.Errorf("b is %+v", peer(s, "b"))
	}

	a.stop()
	w.air.say(b.says(t, nil)) // it has no document any more
	a = w.start(t)
	if s := a.pass(); networksOf(s, "b") != "" || peer(s, "b").Document != "" {
		t.Errorf("b is %+v, want no network", peer(s, "b"))
	}
	if s := a.Status(t.Context()); len(s.Counters.Refused) > 0 {
		t.Errorf("refused %v", s.Counters.Refused)
	}
}

func TestDocumentsThatAreNotTaken(t *testing.T) {
	t.Parallel()
	b, c := newSpeaker(t, 2, "b"), newSpeaker(t, 3, "c")
	good, said := b.writes(t, subnet("blue", 50, 2))
	flipped := slices.Clone(good)
	flipped[len(flipped)-1] ^= 1
	older, _ := b.writes(t, subnet("red", 60, 2))
	for name, tc := range map[string]struct {
		heard  mesh.Heard
		came   []byte
		reason string // in the status
	}{
		"nobody has said so":       {said, older, "isn't here yet"},
		"a bit is flipped":         {said, flipped, "isn't here yet"},
		"nothing":                  {said, nil, "isn't here yet"},
		"another version":          {b.says(t, refersTo(1, good)), good, "has the version"},
		"of another node":          {c.says(t, refersTo(1, good)), good, "wrong signature"},
		"no document":              {b.says(t, refersTo(1, []byte("x"))), []byte("x"), "wrong size"},
		"much":                     {b.says(t, refersTo(1, make([]byte, 1<<16+1))), make([]byte, 1<<16+1), "wrong size"},
		"a record for a document":  {b.says(t, refersTo(1, said.Raw)), said.Raw, "wrong signature"},
		"the kind twice":           {said, parcel(good), "isn't here yet"},
		"what another node's says": {b.says(t, func(r *record.Record) { r.DocumentVersion, r.DocumentHash = 9, record.HashDocument(older) }), good, "isn't here yet"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.cluster.set(w.self.node(), b.node(), c.node())
			w.air.say(tc.heard)
			a := w.start(t)
			w.air.tell(parcel(tc.came))
			s := a.pass()
			if networksOf(s, tc.heard.Node) != "" || s.Counters.Refused["document"] != 1 {
				t.Errorf("networks are %q, refused %v", networksOf(s, tc.heard.Node), s.Counters.Refused)
			}
			if p := peer(s, tc.heard.Node); !strings.Contains(p.Document, tc.reason) {
				t.Errorf("the status says %q, want %q", p.Document, tc.reason)
			}
			told := slices.ContainsFunc(s.Problems, func(p view.Problem) bool { return strings.Contains(p.Message, "its document") && p.Warning })
			if told == strings.Contains(tc.reason, "yet") {
				t.Errorf("the problems are %v", s.Problems)
			}
		})
	}
}

// A node that says that another one's document is its own takes nothing from that one.
func TestCopiedDocumentHash(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b := newSpeaker(t, 2, "b")
	document, said := b.writes(t, subnet("blue", 50, 2))
	nodes, heard := []mesh.ClusterNode{w.self.node(), b.node()}, []mesh.Heard{said}
	for i := range 6 {
		c := newSpeaker(t, 3+i, fmt.Sprintf("c%d", i))
		nodes, heard = append(nodes, c.node()), append(heard, c.says(t, refersTo(7, document)))
	}
	w.cluster.set(nodes...)
	w.air.say(heard...)
	a := w.start(t)
	w.air.tell(parcel(document))
	if s := a.pass(); networksOf(s, "b") != "blue=10.50.2.0/24" || networksOf(s, "c0") != "" {
		t.Errorf("b is %+v, c0 is %+v", peer(s, "b"), peer(s, "c0"))
	}
}

// A document goes with its node, and with its identity.
func TestDocumentGoesWithItsNode(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b, again := newSpeaker(t, 2, "b"), newSpeaker(t, 2, "b")
	document, said := b.writes(t, subnet("blue", 50, 2))
	w.cluster.set(w.self.node(), b.node())
	w.air.say(said)
	a := w.start(t)
	w.air.tell(parcel(document))
	if s := a.pass(); networksOf(s, "b") != "blue=10.50.2.0/24" {
		t.Fatalf("b is %+v", peer(s, "b"))
	}
	// The wiped node says that it has the document of its former identity, which it can't have signed.
	w.air.say(again.says(t, refersTo(1, document)))
	w.cluster.set(w.self.node(), again.node())
	if s := a.pass(); networksOf(s, "b") != "" {
		t.Errorf("b is %+v, want nothing of its former identity", peer(s, "b"))
	}
	w.cluster.set(w.self.node())
	w.air.say()
	if s := a.pass(); peer(s, "b") != nil {
		t.Errorf("b is %+v, want it gone", peer(s, "b"))
	}
	if r, err := mesh.Recall(w.config.CachePath); err != nil || len(r.Nodes) > 0 {
		t.Errorf("%v is remembered, %v", r.Nodes, err)
	}
}

// When its node doesn't answer, or isn't there, others are asked, ever less often.
func TestOthersAreAskedForADocument(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b, c := newSpeaker(t, 2, "b"), newSpeaker(t, 3, "c")
	_, said := b.writes(t, subnet("blue", 50, 2))
	said.Alive, said.At = false, nil
	w.cluster.set(w.self.node(), b.node(), c.node())
	w.air.say(said, c.says(t, nil))
	a := w.start(t)
	var asked []string
	begin := time.Now()
	a.until("c is asked twice", func(view.Status) bool {
		_, to := w.air.sentOf(record.RequestKind)
		asked = append(asked, to...)
		return len(asked) >= 2
	})
	if slices.Contains(asked, "b") || len(asked) != 2 || time.Since(begin) < 700*time.Millisecond {
		t.Errorf("%v are asked within %s", asked, time.Since(begin))
	}
}

// Where nobody is there to ask, nothing is asked, until somebody is.
func TestNobodyToAskForADocument(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b, c := newSpeaker(t, 2, "b"), newSpeaker(t, 3, "c")
	_, said := b.writes(t, subnet("blue", 50, 2))
	said.Alive, said.At = false, nil
	absent := c.says(t, nil)
	absent.Alive, absent.At = false, nil
	w.cluster.set(w.self.node(), b.node(), c.node())
	w.air.say(said, absent)
	a := w.start(t)
	for end := time.Now().Add(300 * time.Millisecond); time.Now().Before(end); {
		a.pass()
	}
	if _, to := w.air.sentOf(record.RequestKind); len(to) > 0 {
		t.Errorf("%v are asked, who aren't there", to)
	}
	absent.Alive = true
	w.air.say(said, absent)
	begin := time.Now()
	a.until("c is asked", func(view.Status) bool {
		_, to := w.air.sentOf(record.RequestKind)
		return slices.Equal(to, []string{"c"})
	})
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("c is asked after %s, want at once", took)
	}
}

// What is here is given to whom it is for, once for each request; and what nobody may ask isn't answered.
func TestRequestsAreAnswered(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b, c, stranger := newSpeaker(t, 2, "b"), newSpeaker(t, 3, "c"), newSpeaker(t, 4, "b")
	config := &configuration{}
	config.set(subnet("blue", 50, 1))
	w.config.Networks = config
	document, said := b.writes(t, subnet("blue", 50, 2))
	w.cluster.set(w.self.node(), b.node(), c.node())
	w.air.say(said, c.says(t, nil))
	a := w.start(t)
	w.air.tell(parcel(document))
	a.pass()
	answers := func(requests ...[]byte) (string, view.Status) {
		w.air.sentOf(record.DocumentKind)
		w.air.tell(requests...)
		s := a.pass()
		raw, to := w.air.sentOf(record.DocumentKind)
		for _, r := range raw {
			if !slices.Equal(r, raw[0]) {
				t.Errorf("different answers")
			}
		}
		if len(raw) > 0 && !slices.Equal(raw[0], parcel(document)) {
			own := w.air.lastRecord(t, w.self)
			if record.HashDocument(raw[0][1:]) != own.DocumentHash {
				t.Errorf("the answer is neither b's document nor this node's")
			}
		}
		return strings.Join(to, " "), s
	}
	request := c.asks(t, w, "b", document)
	if to, _ := answers(request); to != "c" {
		t.Errorf("%q are answered, want c", to)
	}
	if to, s := answers(request, request); to != "" || len(s.Counters.Refused) > 0 {
		t.Errorf("a replay is answered to %q, refused %v", to, s.Counters.Refused)
	}
	own := w.air.lastRecord(t, w.self)
	sequence, _ := c.store.NextSequence()
	raw, err := record.SignRequest(record.Request{From: "c", Sequence: sequence, Node: "a", Hash: own.DocumentHash}, "a",
		w.self.store.Identity().Public(), c.store.Identity())
	if err != nil {
		t.Fatal(err)
	}
	if to, _ := answers(raw); to != "c" {
		t.Errorf("%q are answered, want c with this node's own document", to)
	}
	if to, _ := answers(c.asks(t, w, "b", []byte("another"))); to != "" {
		t.Errorf("what isn't here is answered to %q", to)
	}
	if to, s := answers(stranger.asks(t, w, "b", document), []byte{record.RequestKind}, []byte{record.RequestKind, 1}); to != "" ||
		s.Counters.Refused["document-request"] != 3 {
		t.Errorf("strangers are answered: %q, refused %v", to, s.Counters.Refused)
	}
	var many [][]byte
	for range 200 {
		many = append(many, c.asks(t, w, "b", document))
	}
	to, s := answers(many...)
	if n := len(strings.Fields(to)); n == 0 || n > 40 || s.Counters.Refused["document-request-rate"] < 150 {
		t.Errorf("of 200 requests at once %d are answered, refused %v", n, s.Counters.Refused)
	}
}
