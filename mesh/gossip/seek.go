package gossip

import (
	"context"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
)

// Target is where another node's gossip may be found.
type Target struct {
	Node string // "": a seed, whose node isn't known
	Addr netip.AddrPort
}

const (
	// seekInterval is the time between two attempts in a mesh of up to seekScale nodes; it grows with the mesh,
	// so that all nodes together make about as many in a big one.
	seekInterval = time.Second
	seekScale    = 32
	// lonelyInterval is the time between two attempts while no other node is alive.
	lonelyInterval = 200 * time.Millisecond
	// maxBackoff is the longest pause of one address, in intervals; lonelyBackoff, while no other node is alive.
	maxBackoff    = 8
	lonelyBackoff = 2
	// lonelyFailures is how many attempts in a row must fail before this node is reported as isolated.
	lonelyFailures = 3
)

// seeker decides which absent target is tried next, and when. It has no clock and does no I/O. Safe for
// concurrent use.
type seeker struct {
	mu       sync.Mutex
	targets  []Target
	attempts map[netip.AddrPort]attempt
}

type attempt struct {
	failures int
	due      time.Time // not to be tried before
}

// set replaces the targets, and reports whether an address is among them that wasn't before. What was tried
// of the others is kept.
func (s *seeker) set(targets []Target) (fresh bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	attempts := make(map[netip.AddrPort]attempt, len(targets))
	var valid []Target
	for _, t := range targets {
		t.Addr = netip.AddrPortFrom(t.Addr.Addr().Unmap(), t.Addr.Port())
		if !t.Addr.IsValid() || t.Addr.Port() == 0 || t.Addr.Addr().Zone() != "" || slices.Contains(valid, t) {
			continue
		}
		a, known := s.attempts[t.Addr]
		fresh = fresh || !known
		attempts[t.Addr] = a
		valid = append(valid, t)
	}
	s.targets, s.attempts = valid, attempts
	return fresh
}

// addresses are those of the targets of a node, or with no name of all.
func (s *seeker) addresses(node string) []netip.AddrPort {
	s.mu.Lock()
	defer s.mu.Unlock()
	var addrs []netip.AddrPort
	for _, t := range s.targets {
		if node == "" || t.Node == node {
			addrs = append(addrs, t.Addr)
		}
	}
	return addrs
}

// known are the addresses of the targets, and those of members.
func (s *seeker) known(members []netip.Addr) map[netip.Addr]bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	known := make(map[netip.Addr]bool, len(s.targets)+len(members))
	for _, t := range s.targets {
		known[t.Addr.Addr()] = true
	}
	for _, address := range members {
		known[address] = true
	}
	return known
}

// next returns an absent target that is due, chosen at random, or how long to wait for one. What is present
// starts afresh when it is absent again.
func (s *seeker) next(now time.Time, alive presence) (target Target, wait time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	interval := s.interval(alive)
	wait = interval
	var due []Target
	for _, t := range s.targets {
		a := s.attempts[t.Addr]
		if alive.has(t) {
			s.attempts[t.Addr] = attempt{}
			continue
		}
		if left := a.due.Sub(now); left > 0 {
			wait = min(wait, left)
			continue
		}
		due = append(due, t)
	}
	if len(due) == 0 {
		return Target{}, wait
	}
	return due[rand.IntN(len(due))], 0
}

// tried notes how an attempt ended. An address that answers and still isn't the target waits longest.
func (s *seeker) tried(target Target, err error, now time.Time, alive presence) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a, known := s.attempts[target.Addr]
	if !known {
		return
	}
	pause := s.interval(alive) * maxBackoff
	if alive.lonely() {
		pause = seekInterval * lonelyBackoff
	}
	if err != nil {
		a.failures++
		pause = min(pause, s.interval(alive)<<min(a.failures-1, 16))
	}
	a.due = now.Add(jitter(pause))
	s.attempts[target.Addr] = a
}

// interval is the time between two attempts of this node.
func (s *seeker) interval(alive presence) time.Duration {
	if alive.lonely() {
		return seekInterval
	}
	size := max(len(s.targets)+1, len(alive.nodes))
	return max(seekInterval, seekInterval*time.Duration(size)/seekScale)
}

// pace is the pause between two attempts.
func (s *seeker) pace(alive presence) time.Duration {
	if alive.lonely() {
		return jitter(lonelyInterval)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return jitter(s.interval(alive))
}

// presence is who is alive, this node among them.
type presence struct {
	nodes     map[string]bool
	addresses map[netip.Addr]bool
}

func presenceOf(members []Member) presence {
	p := presence{nodes: make(map[string]bool), addresses: make(map[netip.Addr]bool)}
	for _, m := range members {
		p.nodes[m.Node] = true
		p.addresses[m.Addr.Addr()] = true
	}
	return p
}

func (p presence) has(t Target) bool {
	if t.Node != "" {
		return p.nodes[t.Node]
	}
	return p.addresses[t.Addr.Addr()]
}

func (p presence) lonely() bool { return len(p.nodes) < 2 }

// jitter is d, a quarter more or less.
func jitter(d time.Duration) time.Duration {
	return d*3/4 + rand.N(d/2+1)
}

// seek joins absent targets, one at a time, until ctx ends.
func (g *Gossip) seek(ctx context.Context) {
	var notBefore time.Time
	failures := 0
	for ctx.Err() == nil {
		now := time.Now()
		alive := presenceOf(g.book.members())
		if !alive.lonely() {
			g.tally.withdraw(keyIsolated)
		}
		wait := notBefore.Sub(now)
		if wait <= 0 {
			var target Target
			if target, wait = g.seeker.next(now, alive); wait == 0 {
				failures = g.attempt(ctx, target, alive, failures)
				notBefore = time.Now().Add(g.seeker.pace(presenceOf(g.book.members())))
				continue
			}
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-g.sought:
		case <-ctx.Done():
		}
		timer.Stop()
	}
}

// attempt tries to join one target, and returns how many attempts in a row have failed.
func (g *Gossip) attempt(ctx context.Context, target Target, alive presence, failures int) int {
	_, err := g.current.Load().list.Join([]string{target.Addr.String()})
	if ctx.Err() != nil {
		return failures
	}
	now := time.Now()
	g.seeker.tried(target, err, now, alive)
	if err == nil {
		g.log.Debug("gossip: joined", "node", target.Node, "address", target.Addr)
		return 0
	}
	failures++
	reason := joinReason(err)
	g.log.Debug("gossip: can't join", "node", target.Node, "address", target.Addr, "error", reason)
	if strings.Contains(reason, wrongKeyText) {
		g.tally.count(reasonUndecryptable)
		g.tally.report(keyPacket+target.Addr.Addr().String(), otherKey(target.Addr.Addr()), now)
	}
	// That nobody is reached follows from another key, and is no more than that.
	if alive.lonely() && failures >= lonelyFailures && !g.tally.hasOtherKey(target.Addr.Addr(), now) {
		g.tally.report(keyIsolated, isolated(reason, g.config.Port), now)
	}
	return failures
}

// joinReason takes memberlist's list of errors, of which there is one, down to that line.
func joinReason(err error) string {
	text := strings.TrimSpace(err.Error())
	if at := strings.LastIndex(text, "\n"); at >= 0 {
		text = text[at+1:]
	}
	return strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(text), "* "))
}
