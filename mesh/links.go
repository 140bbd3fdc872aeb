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
	// doubtFor is how long a session that looks too old at first sight isn't started afresh: keepalives come in that time.
	doubtFor = 30 * time.Second
	// doubtAfter is how old a session must be for the peer to be asked whether it has lost it, and how often it is asked.
	doubtAfter = time.Second
	// ripeAfter is how long this end of a link has to stand before the other end is thought to stand too: gossip is
	// faster than that.
	ripeAfter = 300 * time.Millisecond
)

// linkID is one end of a link: a tunnel device of this node with its key, and the peer's key.
type linkID struct {
	device string
	own    keys.PublicKey // the device's: with another key it is another link
	key    keys.PublicKey
}

// linkTrack is what was seen of one link so far. Its times are of this process's monotonic clock, so that a system
// clock that is set makes no link older or younger than it is.
type linkTrack struct {
	since     time.Time // when the link was seen first
	handshake time.Time // as the device gave it, by the system clock; zero: none
	shaken    time.Time // when that handshake was; zero: none
	received  int64     // bytes
	heard     time.Time // when something came from the peer last, or since when it is watched
	down      time.Time // since when there is no session; zero: there is one
	disowned  bool      // the peer has lost the session of that handshake
	asked     uint64    // the number of the question whether it has; 0: it wasn't asked since that handshake
	askedAt   time.Time // when it was asked
}

// age is how long ago the handshake was; without one it is longer than any session.
func (t linkTrack) age(now time.Time) time.Duration {
	if t.shaken.IsZero() {
		return time.Duration(1<<63 - 1)
	}
	return now.Sub(t.shaken)
}

// links follows the sessions of the tunnels. The loop owns it.
type links struct {
	silentAfter time.Duration // when a peer counts as not heard
	tracks      map[linkID]linkTrack
	states      []view.LinkState
}

// follow takes in what the tunnels show now. The wall clock is only asked about links that weren't seen before.
func (l *links) follow(devices []view.DeviceState, now, wall time.Time) {
	before := l.tracks
	l.tracks, l.states = map[linkID]linkTrack{}, nil
	for _, d := range devices {
		for _, p := range d.Peers {
			id := linkID{d.Name, d.PublicKey, p.PublicKey}
			t, known := before[id]
			if !known {
				t = firstSight(p, now, wall)
			}
			t.see(p, now)
			l.tracks[id] = t
			l.states = append(l.states, l.state(id, t, now))
		}
	}
	slices.SortFunc(l.states, func(a, b view.LinkState) int {
		if c := strings.Compare(a.Device, b.Device); c != 0 {
			return c
		}
		return strings.Compare(string(a.PublicKey[:]), string(b.PublicKey[:]))
	})
}

// firstSight is a link that wasn't seen before: it is new, or this process is. That nothing comes by it has to be seen
// first. A session that looks old may be alive, and the clock wrong: it has some time to show it.
func firstSight(p view.PeerState, now, wall time.Time) linkTrack {
	t := linkTrack{since: now, heard: now, handshake: p.LastHandshake, received: p.ReceivedBytes}
	if !p.LastHandshake.IsZero() {
		t.shaken = now.Add(-max(wall.Round(0).Sub(p.LastHandshake.Round(0)), 0))
		if t.age(now) >= establishedFor {
			t.down = now.Add(doubtFor)
		}
	}
	return t
}

// see takes in what a link shows now.
func (t *linkTrack) see(p view.PeerState, now time.Time) {
	if !p.LastHandshake.Equal(t.handshake) {
		t.handshake, t.shaken, t.disowned, t.asked = p.LastHandshake, now, false, 0
		if p.LastHandshake.IsZero() { // the peer was removed and added again
			t.shaken = time.Time{}
		}
	}
	if p.ReceivedBytes > t.received {
		t.heard = now
	}
	t.received = p.ReceivedBytes
	switch {
	case t.age(now) < establishedFor:
		t.down = time.Time{}
	case t.down.IsZero():
		t.down = now
	}
}

func (l *links) state(id linkID, t linkTrack, now time.Time) view.LinkState {
	age := t.age(now)
	s := view.LinkState{
		Device: id.device, Own: id.own, PublicKey: id.key, Confirmed: age < confirmedFor, Established: age < establishedFor,
		Met: !t.shaken.IsZero(), Silent: now.Sub(t.heard) >= l.silentAfter, Ripe: now.Sub(t.since) >= ripeAfter,
	}
	if t.disowned {
		s.Disowned = t.handshake
	}
	if !s.Established {
		s.Overdue, s.Attempt = now.Sub(t.down) > overdueAfter, t.attempt(id, now)
	}
	return s
}

// stirred reports whether a link without a session has got one since the tunnels were followed last, or has become ripe.
func (l *links) stirred(devices []view.DeviceState, now time.Time) bool {
	for _, d := range devices {
		for _, p := range d.Peers {
			t, known := l.tracks[linkID{d.Name, d.PublicKey, p.PublicKey}]
			if known && !t.down.IsZero() && !p.LastHandshake.Equal(t.handshake) {
				return true
			}
		}
	}
	return slices.ContainsFunc(l.states, func(s view.LinkState) bool {
		return !s.Established && !s.Ripe && now.Sub(l.tracks[linkID{s.Device, s.Own, s.PublicKey}].since) >= ripeAfter
	})
}

// returned starts the attempts at links without a session anew: their node has come back, and WireGuard's own next
// attempt may be seconds away.
func (l *links) returned(key keys.PublicKey, now time.Time) {
	for id, t := range l.tracks {
		if id.key == key && !t.down.IsZero() {
			t.down = now
			l.tracks[id] = t
		}
	}
}

// between finds the link between this node's key own and a peer's key.
func (l *links) between(own, key keys.PublicKey) (linkID, linkTrack, bool) {
	for id, t := range l.tracks {
		if id.own == own && id.key == key {
			return id, t, true
		}
	}
	return linkID{}, linkTrack{}, false
}

// attempt is at which attempt to get a session a link is; 0: it has one, or WireGuard's first one is under way.
func (t linkTrack) attempt(id linkID, now time.Time) int {
	if t.down.IsZero() {
		return 0
	}
	return attempts(id.stretch(now.Sub(t.down)))
}

// doubtful reports whether a peer may be asked if it has lost the session of this link: not one that it may not have seen yet,
// and not all the time.
func (t linkTrack) doubtful(now time.Time) bool {
	return !t.handshake.IsZero() && !t.disowned && t.age(now) >= doubtAfter && now.Sub(t.askedAt) >= doubtAfter
}

// disown ends the session of a link: the peer has lost it.
func (t *linkTrack) disown(now time.Time) {
	t.disowned, t.asked, t.shaken, t.down = true, 0, now.Add(-establishedFor), now
}

// unstretched is within which time the first attempts are made, 1, 3 and 7 s after the session was lost.
const unstretched = 10 * time.Second

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

// stretch makes the time since a link had its session last, beyond the first unstretched, up to a fifth shorter or longer, for each
// link and each of its ends otherwise: so of links that were lost at once those that stay so are tried at different times.
func (id linkID) stretch(down time.Duration) time.Duration {
	if down <= unstretched {
		return down
	}
	percent := 80 + (int(id.own[0])<<8|int(id.key[0]))%41
	return unstretched + (down-unstretched)*100/time.Duration(percent)
}

// settled reports whether every link has a session, or has been without one for so long that it will hardly get one
// in the next second.
func (l *links) settled(now time.Time) bool {
	for _, t := range l.tracks {
		if !t.down.IsZero() && now.Sub(t.down) < hopelessAfter {
			return false
		}
	}
	return true
}
