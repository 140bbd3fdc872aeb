package mesh_test

import (
	"slices"
	"testing"
	"time"

	"github.com/weaveguard/weaveguard/keys"
	"github.com/weaveguard/weaveguard/mesh/record"
	"github.com/weaveguard/weaveguard/mesh/view"
)

// loses is a word of a node about the link between this key and the agent's.
func (s *speaker) loses(t *testing.T, w *world, own keys.PublicKey, asks bool, answers uint64) []byte {
	t.Helper()
	sequence, err := s.store.NextSequence()
	if err != nil {
		t.Fatal(err)
	}
	l := record.Loss{From: s.name, Sequence: sequence, Own: own, Peer: w.self.key(), Asks: asks, Answers: answers}
	raw, err := record.SignLoss(l, w.self.name, w.self.store.Identity().Public(), s.store.Identity())
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// losses takes what the agent said to a node about sessions since it was asked last; to nobody else it may have said anything.
func (w *world) losses(t *testing.T, to *speaker) []record.Loss {
	t.Helper()
	messages, nodes := w.air.sentOf(record.LossKind)
	var all []record.Loss
	for i, raw := range messages {
		l, err := record.OpenLoss(raw, to.name, to.store.Identity().Public(), func(string) (keys.PublicIdentity, bool) {
			return w.self.store.Identity().Public(), true
		})
		if err != nil || nodes[i] != to.name || l.From != "a" || l.Own != w.self.key() || l.Peer != to.key() {
			t.Fatalf("%s is told %+v, %v", nodes[i], l, err)
		}
		all = append(all, l)
	}
	return all
}

// first is the first peer of the first device, as it was applied last.
func (k *kernel) first() view.Peer {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.devices[0].Peers[0]
}

// A peer that has lost its session is asked whether it still is so, and if it answers that, the link starts afresh: once, and
// until there is another session. Its word is about its own links alone, and about no later session.
func TestPeerHasLostItsSession(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b, c := newSpeaker(t, 2, "b"), newSpeaker(t, 3, "c")
	w.cluster.set(w.self.node(), b.node(), c.node())
	w.air.say(b.says(t, nil), c.says(t, nil))
	began := time.Now().Add(-30 * time.Second)
	w.kernel.sessions[b.key()], w.kernel.sessions[c.key()] = began, began
	a := w.start(t)
	w.losses(t, b)
	good := b.loses(t, w, b.key(), false, 0)
	for _, word := range []struct {
		what string
		raw  []byte
	}{
		{"about another node's key", c.loses(t, w, b.key(), false, 0)},
		{"that answers no question", b.loses(t, w, c.key(), false, 1)},
		{"by a stranger", newSpeaker(t, 4, "b").loses(t, w, b.key(), false, 0)},
		{"of nothing", []byte{record.LossKind}},
	} {
		w.air.tell(word.raw)
		if a.pass(); !w.kernel.first().Established || len(w.losses(t, b)) > 0 {
			t.Fatalf("a word %s ended a session, or was answered", word.what)
		}
	}
	if n := a.pass().Counters.Refused["loss"]; n != 2 {
		t.Errorf("%d words are refused and counted, want 2: the stranger's and that of nothing", n)
	}
	w.air.tell(b.loses(t, w, b.key(), false, 0), good) // the latter was overtaken
	a.pass()
	asked := w.losses(t, b)
	if len(asked) != 1 || !asked[0].Asks || !w.kernel.first().Established {
		t.Fatalf("b's word came to %+v, want one question and the session left", asked)
	}
	session(w, b) // another one, after the question
	a.pass()
	w.air.tell(b.loses(t, w, b.key(), false, asked[0].Sequence))
	if a.pass(); !w.kernel.first().Established {
		t.Fatal("an answer about an earlier session ended a later one")
	}
	a.until("b is asked anew, of a session that is old enough", func(view.Status) bool {
		w.air.tell(b.loses(t, w, b.key(), false, 0))
		more := w.losses(t, b)
		asked = slices.Concat(asked, more)
		return len(more) > 0
	})
	w.air.tell(b.loses(t, w, b.key(), false, asked[len(asked)-1].Sequence))
	a.pass()
	lost := w.kernel.first()
	if lost.Established || lost.Attempt == 0 || lost.Disowned.IsZero() || lost.Keepalive != time.Second {
		t.Errorf("after b has lost its session it is %+v, want that handshake given up and another one started", lost)
	}
	w.air.tell(b.loses(t, w, b.key(), false, asked[len(asked)-1].Sequence), b.loses(t, w, b.key(), false, 0))
	a.pass()
	if again := w.kernel.first(); again.Attempt > lost.Attempt+1 { // one may be due by time
		t.Errorf("told again, attempt %d became %d", lost.Attempt, again.Attempt)
	}
	for _, l := range w.losses(t, b) {
		if l.Asks {
			t.Error("b is asked about a session that is given up")
		}
	}
	session(w, b)
	a.pass()
	if p := w.kernel.first(); !p.Established || p.Attempt != 0 || !p.Disowned.IsZero() {
		t.Errorf("with another session b is %+v", p)
	}
}

// A node without a session tells the peer, if gossip sees it: at each attempt to get one, and no more often; and it answers when
// it is asked whether it is still so.
func TestOwnLossIsTold(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b, c := newSpeaker(t, 2, "b"), newSpeaker(t, 3, "c")
	w.cluster.set(w.self.node(), b.node(), c.node())
	away := c.says(t, nil)
	away.Alive = false
	w.air.say(b.says(t, nil), away)
	a := w.start(t)
	var told []record.Loss
	began := time.Now()
	a.until("b is told twice", func(view.Status) bool {
		told = append(told, w.losses(t, b)...)
		return len(told) >= 2
	})
	if took := time.Since(began); took < 2500*time.Millisecond || told[0].Asks || told[0].Answers != 0 || told[0].Sequence >= told[1].Sequence {
		t.Errorf("told %+v within %s, want after 1 and 3 s that there is no session", told, took)
	}
	question := b.loses(t, w, b.key(), true, 0)
	w.air.tell(question, question)
	a.pass()
	answers := w.losses(t, b)
	opened, err := record.OpenLoss(question, "a", w.self.store.Identity().Public(), func(string) (keys.PublicIdentity, bool) {
		return b.store.Identity().Public(), true
	})
	if err != nil || len(answers) != 1 || answers[0].Answers != opened.Sequence || answers[0].Asks {
		t.Errorf("the question is answered with %+v, %v", answers, err)
	}
	session(w, b)
	passes(a)
	w.air.sentOf(record.LossKind)
	w.air.tell(b.loses(t, w, b.key(), true, 0))
	if passes(a); len(w.losses(t, b)) > 0 {
		t.Error("b is told that there is no session with it, and there is one")
	}
}
