package mesh_test

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weaveguard/weaveguard/keys"
	"github.com/weaveguard/weaveguard/mesh"
	"github.com/weaveguard/weaveguard/mesh/contract"
	"github.com/weaveguard/weaveguard/mesh/record"
	"github.com/weaveguard/weaveguard/mesh/view"
)

// announcedGenerations are those that the node announced last.
func announcedGenerations(t *testing.T, w *world) []uint32 {
	t.Helper()
	w.air.mu.Lock()
	raw := w.air.announced[len(w.air.announced)-1]
	w.air.mu.Unlock()
	r, err := record.Open("a", raw)
	if err != nil {
		t.Fatal(err)
	}
	var numbers []uint32
	for _, g := range r.Generations {
		numbers = append(numbers, g.Number)
	}
	return numbers
}

// acks is a peer's word that its traffic takes a key of the node.
func (s *speaker) acks(t *testing.T, w *world, g record.Generation) []byte {
	t.Helper()
	sequence, err := s.store.NextSequence()
	if err != nil {
		t.Fatal(err)
	}
	raw, err := record.SignAck(record.Ack{From: s.name, Sequence: sequence, Generation: g}, "a", w.self.store.Identity().Public(), s.store.Identity())
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// newest is the newest key that the node's store holds.
func newest(w *world) record.Generation {
	gs := w.self.store.Generations()
	g := gs[len(gs)-1]
	return record.Generation{Number: g.Number, Key: g.Private.Public()}
}

// session makes all links with a node have one.
func session(w *world, s *speaker) {
	w.kernel.mu.Lock()
	defer w.kernel.mu.Unlock()
	w.kernel.sessions[s.key()] = time.Now()
}

// passes lets the loop run until it has done all that it does by itself.
func passes(a *live) view.Status {
	var s view.Status
	for range 4 {
		s = a.pass()
	}
	return s
}

// pair is an agent with a peer b that it has a session with.
func pair(t *testing.T) (*world, *speaker, *live) {
	t.Helper()
	w := newWorld(t)
	b := newSpeaker(t, 2, "b")
	w.cluster.set(w.self.node(), b.node())
	w.air.say(b.says(t, nil))
	session(w, b)
	a := w.start(t)
	a.pass()
	return w, b, a
}

func mustRotate(t *testing.T, a *live, want string) {
	t.Helper()
	answer, err := a.Rotate(false)
	if err != nil || answer.State != want {
		t.Fatalf("asked for a new key: %+v, %v; want %s", answer, err, want)
	}
}

// shownLinks are the links to b as status shows them: device, generations of both ends, and whether it has the traffic.
func shownLinks(s view.Status) string {
	var links []string
	for _, l := range peer(s, "b").Links {
		links = append(links, fmt.Sprintf("%s %d-%d %v", l.Device, l.OwnGeneration, l.Generation, l.Carries))
	}
	return strings.Join(links, ", ")
}

// A rotation from its request to its end, as the others, Kubernetes and operators see it.
func TestRotation(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w, b, a := pair(t)
		mustRotate(t, a, view.RotateStarted)
		s := passes(a)
		if s.Rotation.Phase != "switching" || !slices.Equal(announcedGenerations(t, w), []uint32{0, 1}) {
			t.Errorf("it is %+v, and %v is announced", s.Rotation, announcedGenerations(t, w))
		}
		if got, want := shownLinks(s), "weave-wg0 0-0 false, weave-wg2 1-0 true"; got != want {
			t.Errorf("the links to b are %s, want %s", got, want)
		}
		mustRotate(t, a, view.RotateQueued)
		mustRotate(t, a, view.RotateAlreadyQueued)
		w.air.tell(b.acks(t, w, newest(w)))
		if s = passes(a); s.Rotation.Phase != "draining" || len(s.Rotation.Waiting) != 0 || !s.Rotation.Queued {
			t.Errorf("after the peer's word it is %+v", s.Rotation)
		}
		time.Sleep(3 * time.Second) // of the bubble's clock
		passes(a)
		w.air.tell(b.acks(t, w, newest(w)))
		time.Sleep(3 * time.Second)
		passes(a)
		time.Sleep(3 * time.Second)
		s = passes(a)
		if s.Rotation.Phase != "idle" || s.Counters.Rotations != 2 || len(s.Generations) != 1 || s.Generations[0].Number != 2 {
			t.Errorf("at the end it is %+v, the keys are %v", s.Rotation, s.Generations)
		}
		if !slices.Equal(announcedGenerations(t, w), []uint32{2}) {
			t.Errorf("at the end %v is announced", announcedGenerations(t, w))
		}
		own := w.cluster.told()
		if own.Generation != 2 || own.PublicKey != newest(w).Key || own.Rotation != "idle" || time.Since(own.RotatedAt) > time.Minute {
			t.Errorf("Kubernetes is told %+v", own)
		}
		a.stop()
		var kinds []mesh.EventKind
		for _, e := range w.cluster.events {
			kinds = append(kinds, e.Kind)
		}
		if want := []mesh.EventKind{mesh.RotationStarted, mesh.RotationQueued, mesh.RotationFinished, mesh.RotationStarted, mesh.RotationFinished}; !slices.Equal(kinds, want) {
			t.Errorf("Events are %v, want %v: %+v", kinds, want, w.cluster.events)
		}
		for _, held := range []string{w.kernel.text("tunnels"), w.kernel.text("pruned")} {
			if strings.Contains(held, "Generation:0") || strings.Contains(held, "weave-wg2 ") {
				t.Errorf("the tunnels still have the old key: %s", held)
			}
		}
	})
}

// Nobody hears of a key before the tunnels take it.
func TestKeyIsNotAnnouncedBeforeItsTunnels(t *testing.T) {
	t.Parallel()
	for _, step := range []string{"firewall", "sysctls", "made", "devices", "tunnels", "routes"} {
		t.Run(step, func(t *testing.T) {
			t.Parallel()
			w, _, a := pair(t)
			setFault(w.kernel, step, errBroken)
			a.pass()
			mustRotate(t, a, view.RotateStarted)
			s := passes(a)
			if !slices.Equal(announcedGenerations(t, w), []uint32{0}) || s.Rotation.Phase != "preparing" {
				t.Errorf("%v is announced although %s failed; it is %+v", announcedGenerations(t, w), step, s.Rotation)
			}
			if !strings.Contains(s.Rotation.Reason, errBroken.Error()) {
				t.Errorf("the status doesn't say why: %+v", s.Rotation)
			}
			setFault(w.kernel, step, nil)
			if passes(a); !slices.Equal(announcedGenerations(t, w), []uint32{0, 1}) {
				t.Errorf("%v is announced although nothing fails any more", announcedGenerations(t, w))
			}
		})
	}
}

// What doesn't count as a peer's word: of somebody else, of another key, for another node, older than what counts.
func TestAcksThatDoNotCount(t *testing.T) {
	t.Parallel()
	cases := map[string]func(t *testing.T, w *world, b *speaker) [][]byte{
		"garbage": func(*testing.T, *world, *speaker) [][]byte { return [][]byte{nil, []byte("a"), []byte("garbage")} },
		"by another identity": func(t *testing.T, w *world, _ *speaker) [][]byte {
			return [][]byte{newSpeaker(t, 2, "b").acks(t, w, newest(w))}
		},
		"of an unknown node": func(t *testing.T, w *world, _ *speaker) [][]byte {
			return [][]byte{newSpeaker(t, 3, "c").acks(t, w, newest(w))}
		},
		"of the old key": func(t *testing.T, w *world, b *speaker) [][]byte {
			g := w.self.store.Generations()[0]
			return [][]byte{b.acks(t, w, record.Generation{Number: g.Number, Key: g.Private.Public()})}
		},
		"of another key with the number": func(t *testing.T, w *world, b *speaker) [][]byte {
			return [][]byte{b.acks(t, w, record.Generation{Number: 1, Key: b.key()})}
		},
		"for another node": func(t *testing.T, w *world, b *speaker) [][]byte {
			raw, err := record.SignAck(record.Ack{From: "b", Sequence: 1, Generation: newest(w)}, "x", w.self.store.Identity().Public(), b.store.Identity())
			if err != nil {
				t.Fatal(err)
			}
			return [][]byte{raw}
		},
		"taken back": func(t *testing.T, w *world, b *speaker) [][]byte {
			g := w.self.store.Generations()[0]
			yes := b.acks(t, w, newest(w))
			no := b.acks(t, w, record.Generation{Number: g.Number, Key: g.Private.Public()})
			return [][]byte{no, yes} // in the wrong order
		},
	}
	for name, messages := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, b, a := pair(t)
			mustRotate(t, a, view.RotateStarted)
			passes(a)
			w.air.tell(messages(t, w, b)...)
			if s := passes(a); s.Rotation.Phase != "switching" || len(s.Rotation.Waiting) != 1 {
				t.Errorf("it counted: %+v", s.Rotation)
			}
			w.air.tell(b.acks(t, w, newest(w)))
			if s := passes(a); s.Rotation.Phase != "draining" && s.Rotation.Phase != "idle" {
				t.Errorf("the peer's true word doesn't count after that: %+v", s.Rotation)
			}
		})
	}
}

// A peer that holds a rotation up is named, with the port that it should be reached at; one that falls silent doesn't
// hold it up for ever, and by force none does.
func TestRotationWaits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w, b, a := pair(t)
		mustRotate(t, a, view.RotateStarted)
		passes(a)
		w.kernel.mute(b.key(), contract.DeviceName(2)) // no session with the next key
		time.Sleep(15 * time.Second)                   // of the bubble's clock
		s := passes(a)
		if s.Rotation.Phase != "establishing" || s.Rotation.Reason != "waiting for b" {
			t.Errorf("it is %+v", s.Rotation)
		}
		if r := s.Rotation.Waiting; len(r) != 1 || r[0].Node != "b" || r[0].Port != 51821 || r[0].OwnPort != 51822 || !strings.Contains(r[0].Reason, "UDP port 51821") {
			t.Errorf("it waits for %+v", r)
		}
		if len(s.Problems) != 1 || !s.Problems[0].Warning || !strings.Contains(s.Problems[0].String(), "node b") || !strings.Contains(s.Problems[0].Remedy, "--force") {
			t.Errorf("problems are %v", s.Problems)
		}
		if told := w.cluster.told(); told.Rotation != "establishing: waiting for b" {
			t.Errorf("Kubernetes is told %q", told.Rotation)
		}
		time.Sleep(4 * time.Minute) // nothing was heard of it in that time
		for range 3 {
			time.Sleep(3 * time.Second)
			s = passes(a)
		}
		if s.Rotation.Phase != "idle" || s.Generations[0].Number != 1 {
			t.Errorf("with a peer that is silent it is %+v", s.Rotation)
		}
	})
}

// A key whose device can't be had is never announced, the status says why, and what there is goes on.
func TestRotationWithoutADevice(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w, _, a := pair(t)
		w.kernel.mu.Lock()
		w.kernel.host.Links = []contract.HostLink{{Name: "weave-wg2", Kind: "dummy"}}
		w.kernel.mu.Unlock()
		mustRotate(t, a, view.RotateStarted)
		passes(a)
		time.Sleep(15 * time.Second) // of the bubble's clock
		s := passes(a)
		if s.Rotation.Phase != "preparing" || !strings.Contains(s.Rotation.Reason, "weave-wg2") || len(announcedGenerations(t, w)) != 1 {
			t.Errorf("it is %+v, and %v is announced", s.Rotation, announcedGenerations(t, w))
		}
		if p := peer(s, "b"); p == nil || !p.Up {
			t.Errorf("the peer is %+v", p)
		}
		before := s.Counters.Reconciles
		time.Sleep(10 * time.Second)
		if n := a.Status(t.Context()).Counters.Reconciles - before; n > 15 {
			t.Errorf("the loop ran %d times in 10 s with nothing to be done", n)
		}
	})
}

// An agent that is started again in the middle knows too little at first to give a key up: after a reboot nothing was
// heard of anybody yet, and without its cache it doesn't know whom to wait for.
func TestOldKeyOutlivesRestarts(t *testing.T) {
	t.Parallel()
	for name, disaster := range map[string]func(t *testing.T, w *world){
		"nothing happens": func(*testing.T, *world) {},
		"the node reboots": func(_ *testing.T, w *world) {
			w.kernel.mu.Lock()
			defer w.kernel.mu.Unlock()
			w.kernel.devices, w.kernel.sessions = nil, map[keys.PublicKey]time.Time{}
		},
		"the cache is lost, and gossip is slow": func(t *testing.T, w *world) {
			if err := os.Remove(w.config.CachePath); err != nil {
				t.Error(err)
			}
			w.air.say()
		},
		"the clock is wrong": func(_ *testing.T, w *world) {
			w.kernel.mu.Lock()
			defer w.kernel.mu.Unlock()
			for key, at := range w.kernel.sessions {
				w.kernel.sessions[key] = at.Add(-time.Hour)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w, _, a := pair(t)
				mustRotate(t, a, view.RotateStarted)
				passes(a)
				a.stop()
				disaster(t, w)
				a = w.start(t)
				for range 4 {
					time.Sleep(2 * time.Second) // of the bubble's clock
					passes(a)
				}
				if s := passes(a); len(s.Generations) != 2 {
					t.Errorf("the old key is gone: %v, %+v", s.Generations, s.Rotation)
				}
			})
		})
	}
}

func TestRotationByForce(t *testing.T) {
	t.Parallel()
	_, _, a := pair(t)
	if answer, err := a.Rotate(true); err == nil {
		t.Errorf("there was nothing to force, and it answers %+v", answer)
	}
	mustRotate(t, a, view.RotateStarted)
	if s := passes(a); s.Rotation.Phase != "switching" {
		t.Fatalf("it is %+v", s.Rotation)
	}
	if answer, err := a.Rotate(true); err != nil || answer != (view.RotateAnswer{State: view.RotateForced, Generation: 1}) {
		t.Errorf("by force: %+v, %v", answer, err)
	}
	if s := passes(a); s.Rotation.Phase != "idle" || len(s.Generations) != 1 || s.Generations[0].Number != 1 {
		t.Errorf("by force it is %+v", s.Rotation)
	}
	mustRotate(t, a, view.RotateStarted) // force was for that one only
	if s := passes(a); s.Rotation.Phase != "switching" {
		t.Errorf("the next one is %+v", s.Rotation)
	}
}

// unwritable is a key store on a disk that is full.
type unwritable struct{ *keys.Store }

func (unwritable) RequestRotation() (bool, error) { return false, errBroken }

func TestRotationOnAFullDisk(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.cluster.set(w.self.node())
	w.config.Keys = unwritable{w.self.store}
	a := w.start(t)
	if _, err := a.Rotate(false); err == nil || !strings.Contains(err.Error(), errBroken.Error()) || !strings.Contains(err.Error(), "stays") {
		t.Errorf("asked for a new key: %v", err)
	}
	s := passes(a)
	if s.Rotation.Phase != "failed" || !strings.Contains(s.Rotation.Reason, errBroken.Error()) || len(s.Generations) != 1 || s.Generations[0].Number != 0 {
		t.Errorf("it is %+v, with the keys %v", s.Rotation, s.Generations)
	}
	if len(s.Problems) != 1 || s.Problems[0].Subject != "rotation" || s.Problems[0].Remedy == "" {
		t.Errorf("problems are %v", s.Problems)
	}
	a.stop()
	if len(w.cluster.events) != 1 || w.cluster.events[0].Kind != mesh.RotationFailed {
		t.Errorf("Events are %+v", w.cluster.events)
	}
}

// Keys are changed by schedule, and not before.
func TestRotationBySchedule(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.cluster.set(w.self.node())
		w.config.RotateEvery = 100 * time.Hour
		a := w.start(t)
		time.Sleep(89 * time.Hour)
		if s := passes(a); s.Counters.Rotations != 0 || s.Rotation.Phase != "idle" {
			t.Errorf("after 89 of 100 hours: %+v", s.Rotation)
		}
		time.Sleep(12 * time.Hour)
		if s := passes(a); s.Counters.Rotations != 1 || s.Generations[0].Number != 1 {
			t.Errorf("after 101 of 100 hours: %+v, keys %v", s.Rotation, s.Generations)
		}
	})
}

// A peer that rotates is told which of its keys is in use here, again and again until it has given up the old one.
func TestPeersAreToldOfTheirKeys(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w, b, a := pair(t)
		next := newSpeaker(t, 9, "unused").key()
		both := func(r *record.Record) { r.Generations = append(r.Generations, record.Generation{Number: 1, Key: next}) }
		w.air.say(b.says(t, both))
		passes(a)
		if told := w.air.told(t, w, b); len(told) == 0 || told[len(told)-1].Number != 0 {
			t.Errorf("b was told %v, want its old key while there is no session with the new one", told)
		}
		w.kernel.mu.Lock()
		w.kernel.sessions[next] = time.Now()
		w.kernel.mu.Unlock()
		passes(a)
		if told := w.air.told(t, w, b); len(told) == 0 || told[len(told)-1].Key != next {
			t.Errorf("b was told %v, want its new key", told)
		}
		if routes := w.kernel.text("routes"); !strings.Contains(routes, "weave-wg1") {
			t.Errorf("traffic to b goes by %s, want the link of its new key", routes)
		}
		time.Sleep(5 * time.Second)
		if told := w.air.told(t, w, b); len(told) < 3 || len(told) > 12 {
			t.Errorf("b was told %d times in 5 s, want about 5: such messages get lost", len(told))
		}
		w.air.say(b.says(t, func(r *record.Record) { r.Generations = []record.Generation{{Number: 1, Key: next}} }))
		passes(a)
		w.air.told(t, w, b)
		time.Sleep(5 * time.Second)
		if told := w.air.told(t, w, b); len(told) != 0 {
			t.Errorf("b was told %v after it gave up its old key", told)
		}
	})
}

// Of many that rotate, each is among the first that are told before long: of more from one address an agent takes none.
func TestPeersAreToldInTurn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		nodes := []mesh.ClusterNode{w.self.node()}
		var heard []mesh.Heard
		const peers, taken = 40, 16
		for i := range peers {
			s := newSpeaker(t, i+2, fmt.Sprintf("peer-%02d", i))
			nodes = append(nodes, s.node())
			next := newSpeaker(t, 100+i, "unused").key()
			heard = append(heard, s.says(t, func(r *record.Record) {
				r.Generations = append(r.Generations, record.Generation{Number: 1, Key: next})
			}))
			session(w, s)
		}
		w.cluster.set(nodes...)
		w.air.say(heard...)
		a := w.start(t)
		early := map[string]bool{}
		for range 10 {
			w.air.mu.Lock()
			w.air.sentTo = nil
			w.air.mu.Unlock()
			time.Sleep(1500 * time.Millisecond)
			passes(a)
			w.air.mu.Lock()
			for _, node := range w.air.sentTo[:min(len(w.air.sentTo), taken)] {
				early[node] = true
			}
			w.air.mu.Unlock()
		}
		if len(early) != peers {
			t.Errorf("%d of %d peers are among the first %d that are told", len(early), peers, taken)
		}
	})
}
