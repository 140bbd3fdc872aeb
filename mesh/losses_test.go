package mesh_test

import (
	"testing"
	"time"

	"github.com/weaveguard/weaveguard/keys"
	"github.com/weaveguard/weaveguard/mesh/record"
	"github.com/weaveguard/weaveguard/mesh/view"
)

// loses is the word of a node that it has had no session with a key of this one for so long.
func (s *speaker) loses(t *testing.T, w *world, own keys.PublicKey, lasted time.Duration) []byte {
	t.Helper()
	sequence, err := s.store.NextSequence()
	if err != nil {
		t.Fatal(err)
	}
	l := record.Loss{From: s.name, Sequence: sequence, Own: own, Peer: w.self.key(), For: lasted}
	raw, err := record.SignLoss(l, w.self.name, w.self.store.Identity().Public(), s.store.Identity())
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// first is the first peer of the first device, as it was applied last.
func (k *kernel) first() view.Peer {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.devices[0].Peers[0]
}

// A peer that has lost its session is believed, and its link starts afresh: once, and until there is another session. Its word
// is about its own links alone, and about no later session.
func TestPeerHasLostItsSession(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b, c := newSpeaker(t, 2, "b"), newSpeaker(t, 3, "c")
	w.cluster.set(w.self.node(), b.node(), c.node())
	w.air.say(b.says(t, nil), c.says(t, nil))
	began := time.Now().Add(-30 * time.Second)
	w.kernel.sessions[b.key()], w.kernel.sessions[c.key()] = began, began
	a := w.start(t)
	good := b.loses(t, w, b.key(), 20*time.Second)
	for _, word := range []struct {
		what string
		raw  []byte
	}{
		{"about another node's key", c.loses(t, w, b.key(), 20*time.Second)},
		{"about a time before that session", b.loses(t, w, b.key(), time.Minute)},
		{"that a later one has overtaken", good},
		{"by a stranger", newSpeaker(t, 4, "b").loses(t, w, b.key(), 20*time.Second)},
		{"of nothing", []byte{record.LossKind}},
	} {
		w.air.tell(word.raw)
		if a.pass(); !w.kernel.first().Established {
			t.Fatalf("a word %s ended a session", word.what)
		}
	}
	if n := a.pass().Counters.Refused["loss"]; n != 2 {
		t.Errorf("%d words are refused and counted, want 2: the stranger's and that of nothing", n)
	}
	w.air.tell(b.loses(t, w, b.key(), 20*time.Second))
	a.pass()
	lost := w.kernel.first()
	if lost.Established || lost.Attempt == 0 || !lost.Disowned.Equal(began) || lost.Keepalive != time.Second {
		t.Errorf("after b has lost its session it is %+v, want that handshake given up and another one started", lost)
	}
	w.air.tell(b.loses(t, w, b.key(), 21*time.Second))
	a.pass()
	if again := w.kernel.first(); again.Attempt > lost.Attempt+1 { // one may be due by time
		t.Errorf("told again, attempt %d became %d", lost.Attempt, again.Attempt)
	}
	session(w, b)
	a.pass()
	if p := w.kernel.first(); !p.Established || p.Attempt != 0 || !p.Disowned.IsZero() {
		t.Errorf("with another session b is %+v", p)
	}
}

// A node without a session tells the peer, if gossip sees it: at each attempt to get one, and no more often.
func TestOwnLossIsTold(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b, c := newSpeaker(t, 2, "b"), newSpeaker(t, 3, "c")
	w.cluster.set(w.self.node(), b.node(), c.node())
	away := c.says(t, nil)
	away.Alive = false
	w.air.say(b.says(t, nil), away)
	a := w.start(t)
	var sent [][]byte
	began := time.Now()
	a.until("b is told twice", func(view.Status) bool {
		messages, to := w.air.sentOf(record.LossKind)
		for _, node := range to {
			if node != "b" {
				t.Fatalf("%s is told, which isn't there", node)
			}
		}
		sent = append(sent, messages...)
		return len(sent) >= 2
	})
	if took := time.Since(began); len(sent) != 2 || took < 2500*time.Millisecond {
		t.Errorf("told %d times within %s, want after 1 and 3 s", len(sent), took)
	}
	var last uint64
	for _, raw := range sent {
		l, err := record.OpenLoss(raw, "b", b.store.Identity().Public(), func(string) (keys.PublicIdentity, bool) {
			return w.self.store.Identity().Public(), true
		})
		if err != nil || l.From != "a" || l.Own != w.self.key() || l.Peer != b.key() || l.For < time.Second || l.Sequence <= last {
			t.Errorf("told %+v, %v", l, err)
		}
		last = l.Sequence
	}
	session(w, b)
	passes(a)
	w.air.sentOf(record.LossKind)
	passes(a)
	if more, _ := w.air.sentOf(record.LossKind); len(more) > 0 {
		t.Error("b is told with a session")
	}
}
