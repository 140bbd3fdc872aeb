package keys

import (
	"fmt"
	"math"
	"slices"
	"time"
)

// Phase says in one word how far a rotation is.
type Phase string

// The phases of a rotation, in their order; Failed can come at any time, and lasts until what failed works again.
const (
	Idle         Phase = "idle"         // there is one key
	Preparing    Phase = "preparing"    // there is a next key, and nobody else knows of it
	Establishing Phase = "establishing" // the others know of it; some have no session with it yet
	Switching    Phase = "switching"    // all have a session with it; some still send by the old one
	Draining     Phase = "draining"     // nobody needs the old key; what is under way may still arrive
	Failed       Phase = "failed"       // the key store can't be written: the keys are as they were
)

// Phases are all of them.
func Phases() []Phase {
	return []Phase{Idle, Preparing, Establishing, Switching, Draining, Failed}
}

// drainFor is how long the old key stays after nobody needs it any more: longer than a packet is under way.
const drainFor = 2 * time.Second

// Rotation is where the rotation of a node's WireGuard keys stands, without the keys. All but QuietSince is on disk.
type Rotation struct {
	// Generations are those that the store holds, oldest first: one, or two while it rotates.
	Generations []uint32
	// Announced: others may know of the newer of two.
	Announced bool
	// Requested: a rotation is wanted, after the one that is under way if there is one.
	Requested bool
	// MadeAt is when the newest key was made.
	MadeAt time.Time
	// QuietSince is since when nobody has needed the older of two; zero: somebody does, or it isn't known.
	QuietSince time.Time
}

// Report is what is known of one peer.
type Report struct {
	Node string
	// Linked: a link of the newest generation has a session, and this node's traffic to the peer takes one.
	Linked bool
	// Up: a link of the newest generation has a session.
	Up bool
	// Followed: the peer has said that its traffic to this node takes the newest generation.
	Followed bool
	// Heard: something came from the peer by a link of the older generation not long ago, or may have come.
	Heard bool
}

// needsOld reports whether packets of or to the peer could be lost without the older key. A peer that isn't heard has
// no session with it; it finds the newest one in the node's record when it comes back.
func (r Report) needsOld() bool { return r.Heard && !(r.Linked && r.Followed) }

// Observation is what a step depends on beside the store.
type Observation struct {
	Now time.Time
	// Prepared: the tunnels stand for all generations, with all peers in them.
	Prepared bool
	Peers    []Report
	// Force: the older key goes at once, whoever needs it.
	Force bool
	// Due: it is time for the next key, by a schedule.
	Due bool
	// Pruned: the tunnels have no keys but those that the store holds.
	Pruned bool
}

// Progress is what a step says of itself.
type Progress struct {
	Phase   Phase
	Waiting []string // the peers that still need the older key, in the order of the reports
}

// Step decides what comes next, one change at a time: the result is to be made durable, and seen to, before the next
// step. It is a pure function, and level triggered: after a crash at any point it goes on from what is on disk and
// what is observed then. The order of changes:
//
//  1. A next generation joins the only one, when one was requested and nothing is left of the one before. The tunnels
//     get its devices and peers.
//  2. It is Announced, once those stand.
//  3. When no peer needs the older generation any more, and some time has passed, that is dropped.
func Step(r Rotation, o Observation) (Rotation, Progress) {
	next := r.clone()
	if len(r.Generations) < maxGenerations {
		switch {
		case !r.Requested && !o.Due:
			return next, Progress{Phase: Idle}
		case !o.Pruned:
			return next, Progress{Phase: Preparing}
		}
		next.Generations = append(next.Generations, r.newest()+1)
		next.Announced, next.Requested, next.MadeAt, next.QuietSince = false, false, o.Now, time.Time{}
		return next, Progress{Phase: Preparing}
	}
	if !r.Announced {
		next.Announced = o.Prepared
		return next, Progress{Phase: Preparing}
	}
	p := Progress{Phase: Draining}
	for _, peer := range o.Peers {
		if !peer.needsOld() {
			continue
		}
		p.Waiting = append(p.Waiting, peer.Node)
		switch {
		case !peer.Up:
			p.Phase = Establishing
		case p.Phase == Draining:
			p.Phase = Switching
		}
	}
	switch {
	case o.Force:
	case len(p.Waiting) > 0:
		next.QuietSince = time.Time{}
		return next, p
	case r.QuietSince.IsZero():
		next.QuietSince = o.Now
		return next, p
	case o.Now.Sub(r.QuietSince) < drainFor:
		return next, p
	}
	next.Generations = next.Generations[1:]
	next.QuietSince = time.Time{}
	return next, Progress{Phase: Idle}
}

func (r Rotation) clone() Rotation {
	r.Generations = slices.Clone(r.Generations)
	return r
}

func (r Rotation) newest() uint32 { return r.Generations[len(r.Generations)-1] }

// validate returns an error when next can't follow r in one change.
func (r Rotation) validate(next Rotation) error {
	switch {
	case slices.Equal(next.Generations, r.Generations):
		return nil
	case r.newest() == math.MaxUint32 && len(next.Generations) > len(r.Generations):
		return fmt.Errorf("generation %d is the last one: give the node a new identity", r.newest())
	case len(r.Generations) < maxGenerations && slices.Equal(next.Generations, append(slices.Clone(r.Generations), r.newest()+1)):
		return nil
	case len(r.Generations) > 1 && slices.Equal(next.Generations, r.Generations[1:]):
		return nil
	}
	return fmt.Errorf("the key store can't go from generations %v to %v", r.Generations, next.Generations)
}

// sameOnDisk reports whether the two are the same but for what isn't kept.
func (r Rotation) sameOnDisk(other Rotation) bool {
	return slices.Equal(r.Generations, other.Generations) && r.Announced == other.Announced &&
		r.Requested == other.Requested && r.MadeAt.Equal(other.MadeAt)
}

// Jitter of a schedule: each period is up to a tenth shorter than configured, so that nodes that were installed
// together don't rotate together.
const jitterDivisor = 10

// Due reports whether it is time for the next key, by a schedule of one key each period (0: none). Fraction, of 0 to
// 1, is this node's own share of the jitter. A key that was made in the future, by a clock that was wrong then or is
// wrong now, is due: else it might stay for ever.
func (r Rotation) Due(now time.Time, period time.Duration, fraction float64) bool {
	if period <= 0 || r.MadeAt.IsZero() || len(r.Generations) != 1 {
		return false
	}
	age := now.Round(0).Sub(r.MadeAt.Round(0)) // by the wall clock, as what is on disk
	return age < -time.Hour || age >= period-time.Duration(fraction*float64(period/jitterDivisor))
}
