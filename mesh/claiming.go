package mesh

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/weaveguard/weaveguard/mesh/claim"
	"github.com/weaveguard/weaveguard/mesh/view"
)

// Without Kubernetes nobody makes claims unique, so they are made by announcing them, and count once nobody contradicts.
const (
	// claimSettles is for how long a claim must stand beside what others announce before pods get addresses of it, and
	// claimSettlesMore how much longer for each node that is known: gossip takes longer to reach all of many.
	claimSettles     = 3 * time.Second
	claimSettlesMore = 50 * time.Millisecond
	// claimAlone is after how long a node claims, and attaches pods, though it has reached none of the others.
	claimAlone = 20 * time.Second
	// claimYields is for how long a node that isn't settled waits for another one, whose name comes after its own and which
	// claimed the same at the same time, to choose again. A node that doesn't has had it for long.
	claimYields = 6 * time.Second
	// claimStands is for how long a conflict of a claim that is settled lasts before it counts: whoever is new yields until
	// then. Then a node with nothing attached chooses again, after one more claimStandsMore that with the smaller name; and
	// after yet another one a node with something attached finds that the other has too.
	claimStands     = 15 * time.Second
	claimStandsMore = 10 * time.Second
	// claimCloses is for how long a node that gives up a claim attaches nothing before it does: what is under way ends.
	claimCloses = 2 * time.Second
)

// claiming is how this node claims its pod CIDRs without Kubernetes. The loop owns it.
type claiming struct {
	ranges []claim.Range  // to claim one block of each; none: this node claims nothing
	blocks []netip.Prefix // what it claims, one for each range; zero: none
	begun  bool
	// since is when the blocks were chosen, or contradicted last.
	since   time.Time
	settled []bool         // which of the blocks count: pods may have addresses of them
	last    []netip.Prefix // what this node had before this agent
	contact time.Time      // when another node was seen first; zero: none was
	rivalry time.Time      // since when others announce the same; zero: nobody does
	closing time.Time      // since when no pod can be attached, as the claim is given up; zero: it isn't, or one can
	host    *view.Host
}

// scene is what a step of claiming depends on.
type scene struct {
	now      time.Time
	started  time.Time // of this agent
	node     string
	alone    bool // there is nobody to look for
	alive    bool // others are alive
	known    int  // how many others there are
	open     bool // pods can be attached
	attached bool // something has an address of the blocks, or may have
	uses     func(netip.Prefix) bool
	// rivalsFor are the others that announce (part of) one of these blocks, sorted.
	rivalsFor func([]netip.Prefix) []string
	rivals    []string                // of the blocks that are contested
	taken     func(netip.Prefix) bool // others have, or had, (part of) a block, or this host's network stands on it
	wide      []netip.Prefix          // all blocks inside of these are taken too
}

// claims finds out which pod CIDRs this node has, where it claims them.
func (a *Agent) claims(ctx context.Context, p *pass) {
	c := &a.claiming
	if len(c.ranges) == 0 {
		return
	}
	if c.host != nil || c.whole() {
		attached, err := a.Attach.Attachments(ctx) // of an error Status tells
		before, wasSettled := slices.Clone(c.blocks), c.whole()
		s := a.scene(p, attached)
		s.attached = s.attached || err != nil // it may be
		p.closed = c.step(s)
		a.tellClaims(before, wasSettled)
	} else {
		p.closed = &view.Problem{Subject: "node " + a.Node, Message: "it is about to claim a pod CIDR", Remedy: "wait some seconds", Early: true}
	}
	p.closed = c.orWarn(p)
	a.haveClaims()
	p.problems = append(p.problems, a.misfits()...)
}

// haveClaims makes what is claimed this node's, and what is settled of that nobody else's.
func (a *Agent) haveClaims() {
	a.PodCIDRs = a.claiming.had()
	a.book.ownCIDRs, a.book.ownSince = a.claiming.only(true), time.Time{}
}

// resumeClaims goes on with what an earlier agent claimed, before anything is heard: who announces the same meanwhile isn't
// to get it.
func (a *Agent) resumeClaims(ctx context.Context) {
	c := &a.claiming
	if len(c.ranges) == 0 || c.begun {
		return
	}
	attached, err := a.Attach.Attachments(ctx)
	c.resume(a.hadBlocks(), a.Attach.Open(), func(block netip.Prefix) bool {
		return err != nil || usesAny(attached, []netip.Prefix{block}) // of an error Status tells; something may use it
	})
	a.haveClaims()
	for _, node := range a.book.dropWith(a.book.ownCIDRs) {
		a.Log.Warn("a remembered record isn't used, as it has the pod CIDR of this node", "node", node, "podCIDRs", c.had())
	}
}

// orWarn leaves it to a warning of the pass to tell of what closes nothing.
func (c *claiming) orWarn(p *pass) *view.Problem {
	if p.closed != nil && p.closed.Warning {
		p.problems = append(p.problems, *p.closed)
		return nil
	}
	return p.closed
}

// hadBlocks are the pod CIDRs that this node had before, those of what runs first.
func (a *Agent) hadBlocks() []netip.Prefix {
	var last []netip.Prefix
	if ready := a.Attach.Open(); ready != nil {
		last = slices.Clone(ready.Subnets)
	}
	if self := a.remembered.Self; self.Node == a.Node {
		last = append(last, self.PodCIDRs...)
	}
	return last
}

// resume goes on with each block of those that an earlier agent claimed, if pods can have, or have, addresses of it.
func (c *claiming) resume(last []netip.Prefix, open *view.Ready, uses func(netip.Prefix) bool) {
	c.begun, c.last = true, last
	c.blocks, c.settled = make([]netip.Prefix, len(c.ranges)), make([]bool, len(c.ranges))
	for i, r := range c.ranges {
		at := slices.IndexFunc(last, func(block netip.Prefix) bool {
			return r.Has(block) && (open != nil && slices.Contains(open.Subnets, block) || uses(block))
		})
		if at >= 0 {
			c.blocks[i], c.settled[i] = last[at], true
		}
	}
}

// whole reports whether each block is settled.
func (c *claiming) whole() bool { return c.begun && !slices.Contains(c.settled, false) }

// only are the blocks that are settled, or aren't.
func (c *claiming) only(settled bool) []netip.Prefix {
	var blocks []netip.Prefix
	for i, block := range c.blocks {
		if block.IsValid() && c.settled[i] == settled {
			blocks = append(blocks, block)
		}
	}
	return blocks
}

// contested are the blocks that may have to be given up: as long as not all are settled, those that aren't.
func (c *claiming) contested() []netip.Prefix {
	if c.whole() {
		return c.had()
	}
	return c.only(false)
}

func usesAny(attached []view.Attachment, cidrs []netip.Prefix) bool {
	return slices.ContainsFunc(attached, func(at view.Attachment) bool {
		return slices.ContainsFunc(at.Addresses, func(address netip.Addr) bool {
			return slices.ContainsFunc(cidrs, func(cidr netip.Prefix) bool { return cidr.Contains(address) })
		})
	})
}

// had are the blocks that the node has.
func (c *claiming) had() []netip.Prefix { return withoutZero(c.blocks) }

func withoutZero(prefixes []netip.Prefix) []netip.Prefix {
	return slices.DeleteFunc(slices.Clone(prefixes), func(p netip.Prefix) bool { return !p.IsValid() })
}

// scene is how things are in a pass.
func (a *Agent) scene(p *pass, attached []view.Attachment) scene {
	s := scene{
		now: p.began, started: a.started, node: a.Node, known: len(a.book.entries), attached: usesAny(attached, a.claiming.had()),
		uses: func(block netip.Prefix) bool { return usesAny(attached, []netip.Prefix{block}) },
	}
	for node, alive := range a.alive {
		s.alive = s.alive || alive && node != a.Node
	}
	s.rivalsFor = func(blocks []netip.Prefix) []string { return a.book.rivalsFor(blocks, a.claiming.fits) }
	s.open = a.Attach.Open() != nil
	s.alone = len(a.book.entries) == 0 && (a.Hosts == nil || len(a.Hosts.All()) == 0)
	s.taken, s.wide = a.takenBlocks()
	return s
}

// step goes one step on. It returns why no pod is attached, or a warning when pods are; nil: all is well.
func (c *claiming) step(s scene) *view.Problem {
	if c.contact.IsZero() && s.alive {
		c.contact = s.now
	}
	for i, block := range c.blocks { // what is in use stays, whatever it was
		c.settled[i] = c.settled[i] || block.IsValid() && s.uses(block)
	}
	s.rivals = s.rivalsFor(c.contested())
	if len(s.rivals) == 0 {
		c.rivalry, c.closing = time.Time{}, time.Time{}
	} else if c.rivalry.IsZero() {
		c.rivalry = s.now
	}
	if len(c.had()) < len(c.ranges) {
		if why := c.waits(s); why != "" {
			return s.problem("it claims a pod CIDR "+why, "wait some seconds; if it stays so, see that the agents of its --peers run", true)
		}
		c.choose(s, c.last)
	} else if problem := c.contend(s); problem != nil || c.whole() {
		return problem
	}
	if i := slices.Index(c.blocks, netip.Prefix{}); i >= 0 {
		r := c.ranges[i]
		return s.problem(fmt.Sprintf("the range %s is used up: all of its %d blocks of /%d are taken", r.Prefix, r.Count(), r.Bits),
			"`weaveguard forget` hosts that are gone for good; or give all hosts a wider --pod-range, or smaller blocks by "+
				"--node-cidr-mask-size", false)
	}
	settles := claimSettles + time.Duration(s.known)*claimSettlesMore
	if s.now.Sub(c.since) < settles {
		return s.problem(fmt.Sprintf("it claims %s, and attaches pods in some seconds, if no other node claims the same",
			view.JoinPrefixes(c.had())), "wait some seconds", true)
	}
	for i := range c.settled {
		c.settled[i] = true
	}
	return nil
}

// waits says what has to be before this node chooses, if it isn't so yet.
func (c *claiming) waits(s scene) string {
	up := s.now.Sub(s.started)
	switch {
	case !c.contact.IsZero() && s.now.Sub(c.contact) >= time.Second: // it has heard by now what they have
	case s.alone && up >= claimSettles:
	case up >= claimAlone:
	case s.alone || !c.contact.IsZero():
		return "in a moment"
	default:
		return fmt.Sprintf("once it has reached another node, or %s after its start if it hasn't", claimAlone)
	}
	return ""
}

// choose chooses blocks for ranges that the node has none of.
func (c *claiming) choose(s scene, last []netip.Prefix) {
	for i, r := range c.ranges {
		if !c.blocks[i].IsValid() {
			c.blocks[i], _ = claim.Next(r, s.node, last, s.taken, s.wide...)
			c.settled[i] = false
		}
	}
	c.since = s.now
	c.rivalry, c.closing = time.Time{}, time.Time{}
}

// again gives up what others announce too, and chooses again.
func (c *claiming) again(s scene) {
	contested := c.contested()
	for i, block := range c.blocks {
		if slices.Contains(contested, block) && (s.taken(block) || slices.ContainsFunc(s.wide, block.Overlaps)) {
			c.blocks[i] = netip.Prefix{}
		}
	}
	c.choose(s, nil)
}

// contend decides what comes of it that others announce what this node claims, if they do. While a claim isn't settled, the
// node with the smaller name waits for the other to choose again, but not for long: the other may have had it for years. A
// settled claim stands as long as it is used: of two that are, the node with the larger name attaches nothing more.
func (c *claiming) contend(s scene) *view.Problem {
	if len(s.rivals) == 0 {
		return nil
	}
	rival, lasts := s.rivals[0], s.now.Sub(c.rivalry)
	loses := rival < s.node
	what := fmt.Sprintf("node %s announces the pod CIDR %s of this node too", rival, view.JoinPrefixes(c.contested()))
	switch {
	case !c.whole() && (loses || lasts >= claimYields):
		c.again(s)
		return nil
	case !c.whole():
		c.since = s.now
		return s.problem(what+", and is to choose another one", "wait some seconds", true)
	case lasts < claimStands:
		return nil
	case s.attached && loses && lasts >= claimStands+2*claimStandsMore:
		c.closing = time.Time{}
		return s.problem(what+", as both were apart when they claimed it. Pods have addresses of it here, which stay as they are; no "+
			"more pods are attached", "end the containers on this host and `weaveguard detach` what was attached by hand, and it chooses "+
			"another pod CIDR; or do so on the other host, and `weaveguard forget` it here if it is gone for good", false)
	case s.attached || !loses && lasts < claimStands+claimStandsMore:
		c.closing = time.Time{}
		problem := s.problem(what+", as both were apart when they claimed it; one of them is to choose another", "end the containers on the "+
			"other host, and it does; if it is gone for good, `weaveguard forget` it on all hosts", false)
		problem.Warning = true
		return problem
	case s.open: // until a pass has closed it
		c.closing = time.Time{}
	case c.closing.IsZero():
		c.closing = s.now
	}
	if s.open || s.now.Sub(c.closing) < claimCloses {
		return s.problem(what+", and nothing is attached here: it chooses another one", "wait some seconds", true)
	}
	c.again(s)
	return nil
}

func (s scene) problem(message, remedy string, early bool) *view.Problem {
	return &view.Problem{Subject: "node " + s.node, Message: message, Remedy: remedy, Early: early}
}

// tellClaims logs what the claims came to, and has them remembered.
func (a *Agent) tellClaims(before []netip.Prefix, wasSettled bool) {
	c := &a.claiming
	former := slices.DeleteFunc(withoutZero(before), func(block netip.Prefix) bool { return slices.Contains(c.blocks, block) })
	switch changed := !slices.Equal(before, c.blocks); {
	case len(former) > 0:
		a.Log.Warn("another pod CIDR is claimed, as another node has the former one", "podCIDRs", c.had(), "former", former)
	case changed:
		a.Log.Info("a pod CIDR is claimed", "podCIDRs", c.had())
	}
	if !wasSettled && c.whole() {
		a.Log.Info("the claimed pod CIDR is settled", "podCIDRs", c.had())
	}
	if self := a.remembered.Self; len(c.had()) > 0 && (self.Node != a.Node || !slices.Equal(self.PodCIDRs, c.had())) {
		a.remembered.Self = RememberedSelf{Node: a.Node, PodCIDRs: c.had(), Addresses: a.Addresses}
		a.unsaved = true
	}
}

// busy reports whether only time is missing for the claim to get further.
func (c *claiming) busy() bool {
	return len(c.ranges) > 0 && (!c.whole() || !c.rivalry.IsZero())
}
