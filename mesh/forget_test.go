package mesh_test

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weaveguard/weaveguard/mesh"
	"github.com/weaveguard/weaveguard/mesh/view"
)

// plain makes a world one without Kubernetes.
func (w *world) plain() {
	w.config.Cluster, w.config.PodCIDRs, w.config.Addresses = nil, []netip.Prefix{w.self.cidr()}, []netip.Addr{w.self.address()}
}

// gone is a record as it is heard when its node's agent has ended: gossip keeps it.
func gone(h mesh.Heard) mesh.Heard {
	h.At, h.Alive = nil, false
	return h
}

// A forgotten node leaves the data plane, and what it had said stays forgotten: whoever hands it on or announces it, and
// after a restart. What it says later counts, as on first use, and so does a new identity under its name.
func TestForget(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.plain()
	b, c := newSpeaker(t, 2, "b"), newSpeaker(t, 3, "c")
	old, fromC := b.says(t, nil), c.says(t, nil)
	older := old
	old = b.says(t, nil)
	w.air.say(old, fromC)
	a := w.start(t)

	if _, err := a.Forget(t.Context(), "b", false); err == nil || !strings.Contains(err.Error(), "192.0.2.2") {
		t.Errorf("a node whose agent runs is forgotten: %v", err)
	}
	if planned(w.kernel)["b"] != b.key() {
		t.Fatal("b has left the tunnels though it wasn't forgotten")
	}

	w.air.say(gone(old), fromC)
	a.pass() // or one that began before answers
	answer, err := a.Forget(t.Context(), "b", false)
	if err != nil || answer.State != view.ForgotNode || answer.Identity != b.store.Identity().Public() || answer.PodCIDRs[0] != b.cidr() {
		t.Fatalf("forget says %+v, %v", answer, err)
	}
	// The answer comes when it is done.
	if keys := planned(w.kernel); len(keys) != 1 || keys["c"] != c.key() {
		t.Errorf("in the tunnels are %v, want c alone", keys)
	}
	if s := a.Status(t.Context()); len(s.Peers) != 1 || len(s.Problems) != 0 {
		t.Errorf("status has the peers %+v and the problems %v", s.Peers, s.Problems)
	}
	if answer, err := a.Forget(t.Context(), "b", false); err != nil || answer.State != view.ForgottenBefore {
		t.Errorf("a second time it says %+v, %v", answer, err)
	}

	stays := func(a *live, what string, heard ...mesh.Heard) {
		t.Helper()
		w.air.say(append(heard, fromC)...)
		a.pass()
		if _, back := planned(w.kernel)["b"]; back {
			t.Fatalf("b is back after %s", what)
		}
	}
	stays(a, "what it said was handed on", handed(gone(old)), handed(gone(older)))
	if s := a.pass(); len(s.Problems) != 0 || len(s.Counters.Refused) != 0 {
		t.Errorf("what others hand on is reported: %v, %v", s.Problems, s.Counters.Refused)
	}
	stays(a, "a restart elsewhere brought an old record", by(older, elsewhereAt))
	stays(a, "its agent is seen, with what it had said", old)
	problemOf(t, a, "b", "it was forgotten here, and its agent runs at 192.0.2.2", "restart it there")
	a.stop()
	a = w.start(t)
	stays(a, "a restart of this agent", old)

	// It says something new, as an agent does that starts.
	w.air.say(b.says(t, nil), fromC)
	a.pass()
	if planned(w.kernel)["b"] != b.key() || !strings.Contains(w.log.String(), "a node that was forgotten is let in again") {
		t.Error("b isn't back after it said something new, or nobody is told")
	}
	if s := a.pass(); len(s.Problems) != 0 {
		t.Errorf("there are still the problems %v", s.Problems)
	}
}

// A node whose disk was wiped is let in under its new identity by forget, and not before. What is left of the old one
// doesn't come back, also when the new one is forgotten too.
func TestForgetLetsANewIdentityIn(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.plain()
	b, wiped := newSpeaker(t, 2, "b"), newSpeaker(t, 2, "b")
	before, after := b.says(t, nil), wiped.says(t, nil)
	w.air.say(before)
	a := w.start(t)
	lingers := gone(before)
	lingers.Alive = true // under that name somebody runs
	w.air.say(lingers, after)
	if p := problemOf(t, a, "b", "another identity than before"); planned(w.kernel)["b"] != b.key() || !strings.Contains(p.Remedy, "forget b") {
		t.Fatalf("before b is forgotten its key is %v; %+v", planned(w.kernel)["b"], p)
	}
	if _, err := a.Forget(t.Context(), "b", false); err != nil {
		t.Fatal(err)
	}
	a.pass()
	if planned(w.kernel)["b"] != wiped.key() {
		t.Errorf("b's key is %v, want the new one's", planned(w.kernel)["b"])
	}
	w.air.say(lingers, gone(after))
	a.pass() // or one that began before answers
	if _, err := a.Forget(t.Context(), "b", false); err != nil {
		t.Fatal(err)
	}
	a.pass()
	if keys := planned(w.kernel); len(keys) != 0 {
		t.Errorf("both identities are forgotten, and in the tunnels are %v", keys)
	}
}

// With force a node is forgotten whose agent runs: until it says something new.
func TestForgetByForce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.plain()
	b := newSpeaker(t, 2, "b")
	old := b.says(t, nil)
	w.air.say(old)
	a := w.start(t)
	if _, err := a.Forget(t.Context(), "b", true); err != nil {
		t.Fatal(err)
	}
	a.pass()
	if keys := planned(w.kernel); len(keys) != 0 {
		t.Errorf("in the tunnels are %v", keys)
	}
	w.air.say(b.says(t, nil))
	a.pass()
	if planned(w.kernel)["b"] != b.key() {
		t.Error("b isn't back")
	}
}

// What can't be forgotten says so, and what to do; what isn't on disk is said too.
func TestForgetRefused(t *testing.T) {
	t.Parallel()
	_, a := withPeer(t)
	if _, err := a.Forget(t.Context(), "b", true); err == nil || !strings.Contains(err.Error(), "kubectl delete node b") {
		t.Errorf("with Kubernetes: %v", err)
	}
	a.stop()

	w := newWorld(t)
	w.plain()
	b := newSpeaker(t, 2, "b")
	w.air.say(gone(b.says(t, nil)))
	dir := filepath.Join(t.TempDir(), "state")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	w.config.CachePath = filepath.Join(dir, "view.json")
	a = w.start(t)
	for node, says := range map[string]string{"a": "this host itself", "bb": "known are b"} {
		if _, err := a.Forget(t.Context(), node, false); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("forgetting %s: %v, want %q", node, err, says)
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Forget(t.Context(), "b", false); err == nil || !strings.Contains(err.Error(), "only until the agent restarts") {
		t.Errorf("without a disk: %v", err)
	}
	a.stop()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := a.Forget(ctx, "b", false); err == nil {
		t.Error("an agent that has ended forgets")
	}
}
