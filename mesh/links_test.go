package mesh

import (
	"testing"
	"time"

	"github.com/weaveguard/weaveguard/keys"
	"github.com/weaveguard/weaveguard/mesh/view"
)

// tunnel is what one device shows of its one peer.
func tunnel(handshake time.Time, received int64) []view.DeviceState {
	return []view.DeviceState{{Name: "weave-wg0", Peers: []view.PeerState{
		{PublicKey: keys.PublicKey{1}, LastHandshake: handshake, ReceivedBytes: received},
	}}}
}

// Links are as old as they are, whatever somebody does to the system clock.
func TestLinksAndTheSystemClock(t *testing.T) {
	t.Parallel()
	start := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for name, jump := range map[string]time.Duration{"as it is": 0, "an hour on": time.Hour, "an hour back": -time.Hour} {
		l := links{silentAfter: defaultSilent}
		at := func(after time.Duration) (now, wall time.Time) { return start.Add(after), start.Add(after + jump) }
		before := start.Add(-10 * time.Second)
		l.follow(tunnel(before, 100), start, start)
		now, wall := at(60 * time.Second)
		l.follow(tunnel(before, 100), now, wall)
		if s := l.states[0]; !s.Confirmed || !s.Established || s.Silent || s.Attempt != 0 {
			t.Errorf("%s: after a minute it is %+v", name, s)
		}
		now, wall = at(100 * time.Second)
		l.follow(tunnel(wall, 200), now, wall) // a new handshake, by the system's clock of then
		now, wall = at(270 * time.Second)
		l.follow(tunnel(wall.Add(-170*time.Second), 200), now, wall)
		if s := l.states[0]; s.Confirmed || !s.Established || s.Silent {
			t.Errorf("%s: 170 s after a handshake it is %+v", name, s)
		}
		now, wall = at(290 * time.Second)
		l.follow(tunnel(wall.Add(-190*time.Second), 200), now, wall)
		if s := l.states[0]; s.Established || !s.Silent {
			t.Errorf("%s: 190 s after a handshake it is %+v", name, s)
		}
	}
}

// A process that has just started knows the age of links by the system clock alone. One in the future is no older
// than now.
func TestLinksAtTheStart(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for name, tc := range map[string]struct {
		handshake time.Time
		want      view.LinkState
	}{
		"none":          {time.Time{}, view.LinkState{}},
		"young":         {now.Add(-time.Minute), view.LinkState{Met: true, Confirmed: true, Established: true}},
		"aged":          {now.Add(-170 * time.Second), view.LinkState{Met: true, Established: true}},
		"old":           {now.Add(-time.Hour), view.LinkState{Met: true}},
		"in the future": {now.Add(time.Hour), view.LinkState{Met: true, Confirmed: true, Established: true}},
	} {
		l := links{silentAfter: defaultSilent}
		l.follow(tunnel(tc.handshake, 5000), now, now)
		got := l.states[0]
		tc.want.Device, tc.want.PublicKey = got.Device, got.PublicKey
		if got != tc.want {
			t.Errorf("%s: %+v, want %+v", name, got, tc.want)
		}
	}
}

// That nothing comes from a peer has to be seen for long, before it counts as silent.
func TestLinksFallSilent(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	l := links{silentAfter: defaultSilent}
	handshake := now.Add(-time.Hour)
	l.follow(tunnel(handshake, 10), now, now)
	l.follow(tunnel(handshake, 10), now.Add(179*time.Second), now)
	if l.states[0].Silent {
		t.Error("it is silent, and was watched for 179 s only")
	}
	l.follow(tunnel(handshake, 42), now.Add(180*time.Second), now)
	if l.states[0].Silent {
		t.Error("it is silent, and 32 bytes came")
	}
	l.follow(tunnel(handshake, 42), now.Add(361*time.Second), now)
	if !l.states[0].Silent {
		t.Error("it isn't silent, and nothing came for 181 s")
	}
	l.follow(tunnel(handshake, 7), now.Add(362*time.Second), now) // another device of that name
	if !l.states[0].Silent {
		t.Error("it isn't silent, and the count began anew")
	}
	l.follow(nil, now.Add(363*time.Second), now)
	l.follow(tunnel(handshake, 7), now.Add(364*time.Second), now)
	if l.states[0].Silent {
		t.Error("it is silent, and its device was away")
	}
}

// A node that comes back has its handshake started afresh soon, however long it was away.
func TestLinksOfANodeThatReturns(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	l := links{silentAfter: defaultSilent}
	l.follow(tunnel(time.Time{}, 0), now, now)
	now = now.Add(90 * time.Minute)
	l.follow(tunnel(time.Time{}, 0), now, now)
	if !l.settled(now) {
		t.Error("a link that is down for long makes the loop hurry")
	}
	l.returned(keys.PublicKey{1}, now)
	if l.settled(now) {
		t.Error("the loop doesn't hurry for a node that has returned")
	}
	l.follow(tunnel(time.Time{}, 0), now, now)
	before := l.states[0].Attempt
	now = now.Add(1100 * time.Millisecond)
	l.follow(tunnel(time.Time{}, 0), now, now)
	if after := l.states[0].Attempt; before != 0 || after != 1 {
		t.Errorf("attempt %d became %d a second after the return, want 0 and 1", before, after)
	}
}

// A glance tells a link that has got its session, or become ripe, from those with nothing new.
func TestLinksStir(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	l := links{silentAfter: defaultSilent}
	l.follow(tunnel(time.Time{}, 0), now, now)
	if l.stirred(tunnel(time.Time{}, 148), now.Add(100*time.Millisecond)) {
		t.Error("bytes without a handshake are news")
	}
	if !l.stirred(tunnel(time.Time{}, 0), now.Add(300*time.Millisecond)) {
		t.Error("a link that became ripe is no news")
	}
	if !l.stirred(tunnel(now, 148), now.Add(100*time.Millisecond)) {
		t.Error("a handshake is no news")
	}
	l.follow(tunnel(now, 148), now.Add(time.Second), now)
	if l.stirred(tunnel(now.Add(2*time.Second), 500), now.Add(2*time.Second)) {
		t.Error("a new handshake of a link that has a session is news")
	}
}

// The first attempts are at their times, and later ones up to a fifth sooner or later, at the two ends of a link otherwise.
func TestAttemptsAreSpread(t *testing.T) {
	t.Parallel()
	different := map[int]bool{}
	for i := range byte(40) {
		id := linkID{own: keys.PublicKey{i, 1}, key: keys.PublicKey{2 * i, 7}}
		if got := id.stretch(8 * time.Second); got != 8*time.Second {
			t.Errorf("8 s count as %s", got)
		}
		const down = 100 * time.Minute
		got := id.stretch(down)
		if got < down*4/5 || got > down*5/4 {
			t.Errorf("%s count as %s", down, got)
		}
		different[attempts(got)] = true
	}
	if len(different) < 10 {
		t.Errorf("40 links have made %d different numbers of attempts", len(different))
	}
}
