package gossip

import (
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/weaveguard/weaveguard/mesh/view"
)

const (
	// clockFormat begins what a member answers pings with: then come the nanoseconds since 1970 of its clock, in eight
	// bytes, the highest first. Of anything else nothing is taken.
	clockFormat = 1
	clockSize   = 1 + 8
	// maxClockOffset is how much two clocks may differ before that is a problem.
	maxClockOffset = time.Minute
	// clockStep is by how much a difference has to change to be told anew: it is measured again with each ping.
	clockStep = 45 * time.Second
)

const byNTP = " (`timedatectl set-ntp true`, or chrony): where it is wrong certificates and tokens don't count, and after it is " +
	"set back peers may refuse handshakes until it is past where it was"

// pings tells of the pings that memberlist sends to one member after the other, and answers those of others.
type pings struct {
	*Gossip
	of *membership
}

var _ memberlist.PingDelegate = pings{}

// AckPayload is what this node's clock says.
func (p pings) AckPayload() []byte {
	return binary.BigEndian.AppendUint64([]byte{clockFormat}, uint64(p.config.now().UnixNano()))
}

// NotifyPingComplete notes how long an answer took, and how far the other's clock is from this node's: it was read half way.
func (p pings) NotifyPingComplete(other *memberlist.Node, rtt time.Duration, payload []byte) {
	node, ok := nodeOf(other.Name)
	if !ok || rtt < 0 || !p.of.counts() {
		return
	}
	defer p.of.counted()
	pulse := view.Pulse{RTT: rtt}
	if len(payload) == clockSize && payload[0] == clockFormat {
		read := time.Unix(0, int64(binary.BigEndian.Uint64(payload[1:])))
		pulse.ClockOffset, pulse.ClockKnown = read.Add(rtt/2).Sub(p.config.now().Round(0)), true
	}
	p.book.pulse(other.Name, node, pulse)
}

// now is the system clock, which may be set, and is by no means that of others.
func (c *Config) now() time.Time {
	return time.Now().Add(c.ClockOffset)
}

// Pulses returns what the last ping of each node told, by node. One that wasn't pinged yet isn't in it, and neither is this
// node. What they say of their clocks is theirs to choose.
func (g *Gossip) Pulses() map[string]view.Pulse { return g.book.pulses() }

// pulse notes what a ping of a living member told.
func (b *book) pulse(name, node string, pulse view.Pulse) {
	b.mu.Lock()
	defer b.mu.Unlock()
	e, known := b.nodes[node]
	if !known {
		return
	}
	m, alive := e.members[name]
	if !alive {
		return
	}
	if moved := pulse.ClockOffset - m.toldOffset; moved.Abs() >= clockStep || pulse.ClockOffset.Abs() <= maxClockOffset {
		m.toldOffset = pulse.ClockOffset
	}
	m.pulse, m.pinged = pulse, true
	e.members[name] = m
}

// pulses returns those of the members that members returns.
func (b *book) pulses() map[string]view.Pulse {
	b.mu.Lock()
	defer b.mu.Unlock()
	all := make(map[string]view.Pulse)
	for node, e := range b.nodes {
		if m, self := e.latest(b.self); !self && m.pinged {
			all[node] = m.pulse
		}
	}
	return all
}

// clocks returns how far the clocks of nodes are ahead of this node's, as far as they say, in steps that are worth telling.
func (b *book) clocks() map[string]time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	all := make(map[string]time.Duration)
	for node, e := range b.nodes {
		if m, self := e.latest(b.self); !self && m.pulse.ClockKnown {
			all[node] = m.toldOffset
		}
	}
	return all
}

// latest is the member that stands for a node: this node's own, and else the one that joined last.
func (e *entry) latest(own string) (best member, self bool) {
	for name, m := range e.members {
		if name == own || !self && m.turn >= best.turn {
			best, self = m, name == own
		}
	}
	return best, self
}

// clockProblems says whose clock is wrong. One node can't tell which of two it is; where most of several others agree, and
// this one doesn't, it is this one.
func clockProblems(offsets map[string]time.Duration) []view.Problem {
	var off []string
	for _, node := range slices.Sorted(maps.Keys(offsets)) {
		if offsets[node].Abs() > maxClockOffset {
			off = append(off, node)
		}
	}
	if len(off) == 0 {
		return nil
	}
	if agree := agreeing(off, offsets); agree > 1 && 2*agree > len(offsets) {
		return []view.Problem{{
			Subject: "clock", Warning: true,
			Message: fmt.Sprintf("this node's clock is %s those of %d of %d other nodes", beside(-offsets[off[0]]), agree, len(offsets)),
			Remedy:  "set it by NTP on this node" + byNTP,
		}}
	}
	var problems []view.Problem
	for _, node := range off[:min(len(off), maxSubjects)] {
		problems = append(problems, view.Problem{
			Subject: "node " + node, Warning: true,
			Message: fmt.Sprintf("its clock is %s this node's", beside(offsets[node])),
			Remedy:  "set the clock that is wrong, there or here, by NTP" + byNTP,
		})
	}
	if more := len(off) - maxSubjects; more > 0 {
		problems = append(problems, view.Problem{
			Subject: "more nodes", Warning: true, Message: fmt.Sprintf("the clocks of %d more nodes differ from this node's", more),
			Remedy: "set the clocks that are wrong by NTP",
		})
	}
	return problems
}

// agreeing is how many of the nodes have clocks like the first one's.
func agreeing(nodes []string, offsets map[string]time.Duration) int {
	number := 0
	for _, node := range nodes {
		if (offsets[node] - offsets[nodes[0]]).Abs() <= maxClockOffset {
			number++
		}
	}
	return number
}

// beside says how far a clock is ahead, or behind, in whole minutes.
func beside(offset time.Duration) string {
	word := "ahead of"
	if offset < 0 {
		word = "behind"
	}
	const longest = 10000 * 24 * time.Hour
	if offset.Abs() > longest {
		return "decades " + word
	}
	return fmt.Sprintf("%s %s", minutes(offset.Abs()), word)
}

func minutes(d time.Duration) string {
	d = d.Round(time.Minute)
	switch hours, rest := int(d/time.Hour), int(d%time.Hour/time.Minute); {
	case hours == 0:
		return fmt.Sprintf("%d min", rest)
	case rest == 0:
		return fmt.Sprintf("%d h", hours)
	default:
		return fmt.Sprintf("%d h %d min", hours, rest)
	}
}
