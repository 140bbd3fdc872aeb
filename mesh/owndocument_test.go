package mesh_test

import (
	"strings"
	"testing"
	"time"

	"github.com/weaveguard/weaveguard/mesh/record"
	"github.com/weaveguard/weaveguard/mesh/view"
)

// lastRecord is what the node announced last.
func (a *air) lastRecord(t *testing.T, of *speaker) record.Record {
	t.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	r, err := record.Open(of.name, a.announced[len(a.announced)-1])
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// This node's networks make its document, which its record refers to; it changes every two seconds at most, and is the same
// after a restart.
func TestOwnDocument(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	config := &configuration{}
	w.config.Networks = config
	w.cluster.set(w.self.node())
	a := w.start(t)
	if r := w.air.lastRecord(t, w.self); r.DocumentVersion != 0 {
		t.Errorf("without a network, the record is %+v", r)
	}
	config.set(subnet("blue", 50, 1))
	begin := time.Now()
	s := a.pass()
	first := w.air.lastRecord(t, w.self)
	if first.DocumentVersion == 0 || len(s.Networks) != 1 || s.Networks[0].Bridge != "weave-blue" {
		t.Fatalf("the record is %+v, networks %+v", first, s.Networks)
	}
	for i := range 5 { // it changes quickly
		config.set(subnet("blue", 50, 1), subnet("red", 60+i, 1))
		s = a.pass()
	}
	if len(s.Networks) != 2 {
		t.Errorf("networks are %+v: on the node itself they count at once", s.Networks)
	}
	if r := w.air.lastRecord(t, w.self); r.DocumentHash != first.DocumentHash && time.Since(begin) < 2*time.Second {
		t.Errorf("the document changed again after %s", time.Since(begin))
	}
	var second record.Record
	for deadline := begin.Add(20 * time.Second); second.DocumentHash == first.DocumentHash || second.DocumentVersion == 0; time.Sleep(5 * time.Millisecond) {
		if second = w.air.lastRecord(t, w.self); time.Now().After(deadline) { // without a sign: the loop knows when it is time
			t.Fatal("the last change isn't announced within 20 s")
		}
	}
	if took := time.Since(begin); took < 1900*time.Millisecond || second.DocumentVersion <= first.DocumentVersion {
		t.Errorf("after %s the version is %d, before it was %d", took, second.DocumentVersion, first.DocumentVersion)
	}
	a.stop()
	a = w.start(t)
	a.pass()
	if r := w.air.lastRecord(t, w.self); r.DocumentHash != second.DocumentHash || r.DocumentVersion != second.DocumentVersion {
		t.Errorf("after a restart the record is %+v, want the document as before", r)
	}
	a.stop()
	config.set()
	a = w.start(t)
	a.pass()
	if r := w.air.lastRecord(t, w.self); r.DocumentVersion != 0 {
		t.Errorf("without a network, the record is %+v", r)
	}
}

// What doesn't fit to other nodes' networks is said on both, and is refused alike.
func TestNetworksThatClash(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		own, theirs view.Network
		mine        bool // this node is the older
		problem     string
	}{
		"another range, and it is older": {subnet("blue", 50, 1), subnet("blue", 51, 2), false, "its ranges are 10.50.0.0/16, and node b"},
		"another range, this is older":   {subnet("blue", 50, 1), subnet("blue", 51, 2), true, "its ranges are 10.51.0.0/16, and node a"},
		"another name, and it is older":  {subnet("blue", 50, 1), subnet("red", 50, 2), false, "overlaps 10.50.0.0/16 of network red on node b"},
		"another name, this is older":    {subnet("blue", 50, 1), subnet("red", 50, 2), true, "overlaps 10.50.0.0/16 of network blue on node a"},
		"a subnet, and it is older":      {subnet("blue", 50, 2), subnet("blue", 50, 2), false, "its subnet 10.50.2.0/24 overlaps 10.50.2.0/24 of node b"},
		"a subnet, this is older":        {subnet("blue", 50, 1), subnet("blue", 50, 1), true, "its subnet 10.50.1.0/24 overlaps 10.50.1.0/24 of node a"},
		"pods' range, of its own":        {subnet("blue", 244, 1), subnet("red", 50, 2), false, "overlaps the default network's pod range"},
		"pods' range, of the other":      {subnet("blue", 50, 1), subnet("red", 244, 2), true, "overlaps the default network's pod range"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			b := newSpeaker(t, 2, "b")
			config := &configuration{}
			config.set(tc.own)
			w.config.Networks = config
			self, other := w.self.node(), b.node()
			if !tc.mine {
				self.Created = time.Unix(99, 0)
			}
			w.cluster.set(self, other)
			document, said := b.writes(t, tc.theirs)
			w.air.say(said)
			a := w.start(t)
			w.air.tell(parcel(document))
			s := a.pass()
			if used := len(s.Networks) == 1; used != tc.mine || (networksOf(s, "b") != "") == tc.mine {
				t.Errorf("own are %+v, b's %q", s.Networks, networksOf(s, "b"))
			}
			if r := w.air.lastRecord(t, w.self); r.DocumentVersion == 0 {
				t.Error("this node doesn't say that it has the network, so the others can't tell of it")
			}
			if len(s.Problems) != 1 || !strings.Contains(s.Problems[0].Message, tc.problem) || s.Problems[0].Warning != tc.mine {
				t.Errorf("problems are %+v, want %q", s.Problems, tc.problem)
			}
		})
	}
}
