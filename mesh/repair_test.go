package mesh_test

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/weaveguard/weaveguard/mesh"
	"github.com/weaveguard/weaveguard/mesh/record"
	"github.com/weaveguard/weaveguard/mesh/view"
)

// What somebody changed is put right, said once and counted; what the agent changes because more is wanted isn't.
func TestRepairsAreTold(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b := newSpeaker(t, 2, "b")
	w.cluster.set(w.self.node(), b.node())
	w.kernel.sessions[b.key()] = time.Now()
	a := w.start(t)
	w.air.say(b.says(t, nil)) // so there is a peer to add, and a route
	a.pass()
	if s := a.pass(); s.Counters.Repairs != 0 || strings.Contains(w.log.String(), "repaired") {
		t.Errorf("repairs before anything was broken: %d\n%s", s.Counters.Repairs, w.log)
	}
	w.kernel.forget("routes", "firewall")
	a.pass()
	s := a.pass()
	if lines := strings.Count(w.log.String(), `msg="repaired: somebody changed what Weaveguard made" by="making firewall; making routes"`); lines != 1 ||
		s.Counters.Repairs != 2 {
		t.Errorf("the log tells %d times of it, %d repairs are counted:\n%s", lines, s.Counters.Repairs, w.log)
	}
	if len(s.Repairs) != 2 || s.Repairs[0].What != "making firewall" || s.Repairs[0].Times != 1 || s.Repairs[0].Last.IsZero() {
		t.Errorf("the status tells of %+v, want of both", s.Repairs)
	}
	w.kernel.forget("routes")
	a.pass()
	if s = a.pass(); len(s.Repairs) != 2 || s.Repairs[0].What != "making routes" || s.Repairs[0].Times != 2 || !s.Repairs[0].First.Before(s.Repairs[0].Last) {
		t.Errorf("the status tells of %+v, want of the routes twice", s.Repairs)
	}
}

// What is wrong with one part keeps no repair of another from being told.
func TestRepairsAreToldWhileSomethingFails(t *testing.T) {
	t.Parallel()
	w, a := withPeer(t)
	a.pass()
	setFault(w.kernel, "routes", errBroken)
	a.pass()
	w.kernel.forget("firewall")
	if s := a.pass(); !strings.Contains(w.log.String(), `by="making firewall"`) || s.Counters.Repairs != 1 {
		t.Errorf("%d repairs are counted:\n%s", s.Counters.Repairs, w.log)
	}
	w.kernel.mu.Lock()
	delete(w.kernel.fail, "routes")
	delete(w.kernel.held, "routes")
	w.kernel.mu.Unlock()
	if s := a.pass(); s.Counters.Repairs != 1 { // it was wanting since it failed
		t.Errorf("%d repairs are counted:\n%s", s.Counters.Repairs, w.log)
	}
}

// A peer that somebody took from a tunnel is missed without a sign.
func TestMissingPeerIsNoticed(t *testing.T) {
	t.Parallel()
	w, a := withPeer(t)
	a.pass()
	for range 3 { // a pass may be under way from before
		w.kernel.forget("tunnels")
		for deadline := time.Now().Add(10 * time.Second); w.kernel.text("tunnels") == ""; time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) { // much less than until the next pass without need
				t.Fatal("nobody missed it within 10 s")
			}
		}
	}
}

// Nor does a sign tell that somebody gave a tunnel another key.
func TestForeignKeyIsNoticed(t *testing.T) {
	t.Parallel()
	w, a := withPeer(t)
	a.pass()
	for range 3 { // a pass may be under way from before
		w.kernel.forget("made")
		for deadline := time.Now().Add(10 * time.Second); w.kernel.text("made") == ""; time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal("nobody noticed within 10 s")
			}
		}
	}
}

// Some other program that undoes what is done here, and at once, costs neither the log nor the processor much.
func TestFightIsBounded(t *testing.T) {
	t.Parallel()
	const burst = 100
	w, a := withPeer(t)
	a.pass()
	start := time.Now()
	w.kernel.mu.Lock()
	w.kernel.undone = "routes"
	w.kernel.mu.Unlock()
	until := func(repairs uint64) {
		for deadline := time.Now().Add(time.Minute); a.pass().Counters.Repairs < repairs; {
			if time.Now().After(deadline) {
				t.Fatalf("not %d repairs within a minute", repairs)
			}
		}
	}
	until(burst)
	begin := time.Now()
	until(burst + 6)
	if took := time.Since(begin); took < 2*time.Second { // half a second each, and a few may have been done before
		t.Errorf("6 more repairs take %s", took)
	}
	lines := strings.Count(w.log.String(), "repaired")
	if most := burst + 2 + int(time.Since(start)/(10*time.Second)); lines < burst || lines > most {
		t.Errorf("the log tells %d times of it, want %d to %d", lines, burst, most)
	}
}

// A host without Kubernetes that loses the address of gossip can't go on as it is.
func TestLostAddressEndsTheAgent(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.config.Cluster, w.config.PodCIDRs, w.config.Addresses = nil, w.self.node().PodCIDRs, []netip.Addr{w.self.address()}
	w.kernel.host.Addresses = []view.HostAddress{{Device: "eth0", Address: netip.PrefixFrom(w.self.address(), 24)}}
	agent, ended := mesh.New(w.config), make(chan error, 1)
	go func() { ended <- agent.Run(t.Context()) }()
	a := &live{Agent: agent, t: t, latch: w.config.Latch}
	a.pass()
	w.kernel.mu.Lock()
	w.kernel.host.Addresses = nil
	w.kernel.mu.Unlock()
	w.config.Latch.Set()
	select {
	case err := <-ended:
		if err == nil || !strings.Contains(err.Error(), w.self.address().String()) {
			t.Errorf("it ended with %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Error("it goes on")
	}
}

// What is changed because it is wanted is told in a line, and not at all again and again.
func TestWhatIsMadeIsTold(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b := newSpeaker(t, 2, "b")
	w.cluster.set(w.self.node(), b.node())
	a := w.start(t)
	if log := w.log.String(); strings.Count(log, `msg="changed as planned"`) != 1 || !strings.Contains(log, "making firewall; ") || !strings.Contains(log, " more") {
		t.Errorf("the start is told as\n%s", log)
	}
	for i := range 300 {
		w.air.say(b.says(t, func(r *record.Record) { r.Endpoint4 = netip.AddrPortFrom(b.address(), uint16(2000+i)) }))
		a.pass()
	}
	if n := strings.Count(w.log.String(), `msg="changed as planned"`); n < 50 || n > 130 {
		t.Errorf("300 changes are told in %d lines, want about 100", n)
	}
}
