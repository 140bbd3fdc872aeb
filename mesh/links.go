package mesh

import (
	"slices"
	"strings"
	"time"

	"github.com/weaveguard/weaveguard/keys"
	"github.com/weaveguard/weaveguard/mesh/view"
)

const (
	// confirmedFor is how old a handshake may be for traffic to move to its link: WireGuard makes a new one every
	// 120 s while packets flow, and keepalives do.
	confirmedFor = 150 * time.Second
	// establishedFor is how old a handshake may be for the link to carry traffic: WireGuard's REJECT_AFTER_TIME.
	establishedFor = 180 * time.Second
	// overdueAfter is how long a link may be without a session before both ends try to set it up.
	overdueAfter = 10 * time.Second
	// hopelessAfter is how long a link may be without a session before the loop no longer hurries for its sake.
	hopelessAfter = 2 * time.Minute
)

// linkID is one end of a link: a tunnel device of this node and the peer's key.
type linkID struct {
	device string
	key    keys.PublicKey
}

// links follows the sessions of the tunnels. The loop owns it.
type links struct {
	downSince map[linkID]time.Time
	states    []view.LinkState
}

// follow takes in what the tunnels show now.
func (l *links) follow(devices []view.DeviceState, now time.Time) {
	down := map[linkID]time.Time{}
	l.states = nil
	for _, d := range devices {
		for _, p := range d.Peers {
			age := now.Sub(p.LastHandshake)
			state := view.LinkState{
				Device: d.Name, PublicKey: p.PublicKey, Confirmed: age < confirmedFor, Established: age < establishedFor,
			}
			if !state.Established {
				id := linkID{d.Name, p.PublicKey}
				since, was := l.downSince[id]
				if !was {
					since = now
				}
				down[id] = since
				state.Overdue, state.Attempt = now.Sub(since) > overdueAfter, attempts(now.Sub(since))
			}
			l.states = append(l.states, state)
		}
	}
	l.downSince = down
	slices.SortFunc(l.states, func(a, b view.LinkState) int {
		if c := strings.Compare(a.Device, b.Device); c != 0 {
			return c
		}
		return strings.Compare(string(a.PublicKey[:]), string(b.PublicKey[:]))
	})
}

// attempts is how often the handshake should have been started afresh after so long without one: after 1 s, and
// then each time twice as long after, at most a minute.
func attempts(down time.Duration) int {
	n := 0
	for wait := time.Second; down >= wait; wait = min(2*wait, time.Minute) {
		down -= wait
		n++
	}
	return n
}

// settled reports whether every link has a session, or has been without one for so long that it will hardly get one
// in the next second.
func (l *links) settled(now time.Time) bool {
	for _, since := range l.downSince {
		if now.Sub(since) < hopelessAfter {
			return false
		}
	}
	return true
}
