package mesh

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/netip"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weaveguard/weaveguard/keys"
	"github.com/weaveguard/weaveguard/mesh/backoff"
	"github.com/weaveguard/weaveguard/mesh/claim"
	"github.com/weaveguard/weaveguard/mesh/plan"
	"github.com/weaveguard/weaveguard/mesh/view"
)

const (
	// idleInterval is how often the loop runs when nothing happens, to find what changed without a sign.
	idleInterval = 30 * time.Second
	// busyInterval is how often it runs while a link waits for its session, and when something failed first; what fails on, with
	// nothing else happening, is tried again ever later, up to idleInterval.
	busyInterval = time.Second
	// heldUpInterval is how often it runs while a rotation is held up for long.
	heldUpInterval = 5 * time.Second
	// drainInterval is how often it runs while an old key drains.
	drainInterval = 250 * time.Millisecond
	// glanceInterval is how often the tunnels are looked at between passes while a rotation is about to get further.
	glanceInterval = 100 * time.Millisecond
	// maxRest is the longest pause after a pass.
	maxRest = 500 * time.Millisecond
	// forgetPasses is how many passes free memory after tunnels were removed.
	forgetPasses = 2
	// defaultSettle is longer than it takes to hear of all others by gossip.
	defaultSettle = 10 * time.Second
)

// Config is what an Agent needs. Cluster is nil without Kubernetes.
type Config struct {
	Node      string
	Bridge    string
	BasePort  uint16
	MTU       int            // inside the tunnels, bytes; 0: find out
	WireGuard string         // kernel or userspace
	PodCIDRs  []netip.Prefix // without Kubernetes
	// Claims is what to claim pod CIDRs from, without Kubernetes and PodCIDRs: one range of a family at most; none: nothing.
	Claims    []claim.Range
	Addresses []netip.Addr // underlay addresses, over what Kubernetes says; without Kubernetes, all there are
	// GossipAddress is the underlay address that gossip was started with.
	GossipAddress netip.Addr
	// Settle is for how long after the start peers that nobody speaks for yet are left alone; 0: 10 s.
	Settle time.Duration
	// Silent is for how long a peer mustn't be heard by an old key to need it no more; 0: 180 s.
	Silent time.Duration
	// RotateEvery is how old this node's key gets before it is changed; 0: any age.
	RotateEvery time.Duration
	// Hosts are where to find other nodes' gossip, beside what is known; nil: nowhere.
	Hosts     *Hosts
	PodRanges []netip.Prefix // as configured; none: what is seen
	// PodRangeSource says where PodRanges were configured, for operators.
	PodRangeSource string
	// AllowPodsTo and OwnPorts are those of view.Self.
	AllowPodsTo []string
	OwnPorts    []view.OwnPort
	CachePath   string
	Remembered  Remembered
	Version     string
	// Jitter is a time at random from 0 to under the most; nil: of math/rand.
	Jitter func(most time.Duration) time.Duration
	Log    *slog.Logger
	Latch  Latch

	Keys     Keys
	Gossip   Gossip
	Cluster  Cluster
	Network  Network
	Tunnels  Tunnels
	Firewall Firewall
	Attach   Attach
	Paths    Paths    // nil: the ways to peers aren't probed
	Meter    Meter    // nil: the ways to peers aren't measured
	Networks Networks // nil: the default one is the only one
	Timings  Timings  // nil: nobody wants to know
	Usage    Usage    // nil: it isn't known
	Traffic  Traffic  // nil: it isn't known
}

// Agent is the loop of one node's agent.
type Agent struct {
	Config
	started time.Time

	// The loop's own state.
	book       *book
	documents  documents
	answers    answers
	losses     losses
	rows       rows
	changes    changes
	document   ownDocument
	links      links
	rotation   rotation
	claiming   claiming
	alive      map[string]bool // nodes that gossip saw in the last pass
	remembered Remembered
	announced  announced
	unsaved    bool      // what is remembered isn't on disk as it is
	saveDue    time.Time // when rosters that changed are to be on disk; zero: they are
	retry      backoff.Backoff
	lostSince  time.Time // since when files of the agent are gone; zero: none are
	// foundBefore is what an earlier agent found of ways that aren't probed yet; see probed.
	foundBefore map[netip.Addr]int
	unclaimed   map[keys.PublicKey]bool // see settling
	ready       bool                    // what pods need stood once, or they were attached before this agent
	soundAt     time.Time               // when what carries their packets was as desired last; zero: not yet
	forgetting  int                     // for how many passes more memory is freed
	told        told
	// accusations are the records of others that aren't taken, and when an Event was asked for last.
	accusations map[suspect]time.Time
	open        []view.ReadyNetwork // that pods could be attached to when everything stood last
	housed      bool                // the host had the address of gossip

	mu       sync.Mutex // guards counters, forgets and repaired
	counters view.Counters
	forgets  []*forgetRequest       // asked for since the last pass
	repaired map[string]view.Repair // by what was done; see recentRepairs
	last     atomic.Pointer[pass]
	lastRun  atomic.Int64  // unix nanoseconds
	force    atomic.Uint64 // see forcing; 0: nothing is forced
	refused  atomic.Pointer[refusedRequest]
}

// New returns an agent that has taken in what is remembered. Run it once.
func New(c Config) *Agent {
	if c.Jitter == nil {
		c.Jitter = rand.N[time.Duration]
	}
	if c.Settle == 0 {
		c.Settle = defaultSettle
	}
	a := &Agent{
		Config: c, started: time.Now(), book: newBook(c.Node, c.Keys.Identity().Public()), remembered: c.Remembered,
		documents: newDocuments(), answers: newAnswers(), losses: losses{heard: lastWords{}}, rows: newRows(),
		told: newTold(), retry: backoff.Backoff{Min: busyInterval, Max: idleInterval, Random: c.Jitter}, foundBefore: maps.Clone(c.Remembered.Paths),
	}
	if ready := c.Attach.Open(); ready != nil {
		a.ready, a.open = true, ready.Networks
	}
	if c.Timings == nil {
		a.Timings = untimed{}
	}
	if c.Silent == 0 {
		a.Silent = defaultSilent
	}
	a.links.silentAfter = a.Silent
	a.claiming.ranges = c.Claims
	a.book.ownCIDRs, a.book.settle = c.PodCIDRs, a.Settle
	if !a.ready { // else pods run with them
		a.book.ownSince = a.started
	}
	if c.PodRangeSource == claimSource { // of the last start: what Kubernetes says takes their place
		a.PodRanges, a.PodRangeSource = nil, ""
	}
	if len(a.PodRanges) > 0 || c.Cluster == nil || a.remembered.PodRangeSource != claimSource {
		a.remembered.PodRanges, a.remembered.PodRangeSource = a.PodRanges, a.PodRangeSource
	}
	for _, node := range slices.Sorted(maps.Keys(c.Remembered.Nodes)) {
		r := c.Remembered.Nodes[node]
		if err := a.book.load(node, r); err != nil {
			c.Log.Warn("a remembered record isn't used", "node", node, "error", err)
			continue
		}
		if err := a.documents.load(node, r.Document, a.book.entries[node].record.Identity); err != nil {
			c.Log.Warn("a remembered document isn't used", "node", node, "error", err)
		}
	}
	for _, f := range c.Remembered.Forgotten {
		a.book.forgotten[claimant{f.Node, f.Identity}] = f
	}
	if err := a.resume(c.Remembered.Document); err != nil {
		c.Log.Warn("this node's remembered document isn't used", "error", err)
	}
	return a
}

// Run runs the loop until the context ends. It leaves the kernel as it is. It ends with an error when the node got
// another underlay address: gossip has to be started anew then.
func (a *Agent) Run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	var due time.Time // when a pass is due without a sign
	var glance time.Duration
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-a.Latch:
			a.retry.Reset() // what happened may be what was missing
		case <-timer.C:
			if time.Now().Before(due) && !a.stirred(ctx) {
				timer.Reset(min(glance, time.Until(due)))
				continue
			}
		}
		begin := time.Now()
		p := a.run(ctx)
		if err := a.moved(p); err != nil {
			return err
		}
		// As long as the pass took: what changes without end, by a routing daemon or somebody who undoes what is done
		// here, then costs half of a processor at most.
		took := time.Since(begin)
		switch {
		case p.fought:
			took = maxRest
		case p.changed == rosters && p.writes == 0:
			took = max(took, rostersRest)
		}
		if !rest(ctx, min(took, maxRest)) {
			return nil
		}
		pause := a.pause(p, time.Now())
		due = time.Now().Add(pause)
		glance = driftInterval
		if a.hurries(p, time.Now()) {
			glance = glanceInterval
		}
		timer.Reset(min(glance, pause))
	}
}

// moved reports that this node has other addresses than gossip was started with: by its Node, or without Kubernetes by the
// host itself.
func (a *Agent) moved(p *pass) error {
	if p.homeless {
		return fmt.Errorf("this host hasn't the address %s any more, which this agent started with: it has to start again", a.GossipAddress)
	}
	if len(a.Addresses) > 0 || p.cluster == nil || !p.cluster.Synced {
		return nil
	}
	n := p.cluster.node(a.Node)
	if n == nil || len(n.Addresses) == 0 || slices.Contains(n.Addresses, a.GossipAddress) {
		return nil
	}
	return fmt.Errorf("the Node %s has the addresses %v now, and this agent started with %s: it has to start again",
		a.Node, n.Addresses, a.GossipAddress)
}

// homeless reports whether, without Kubernetes, the host had the address of gossip, and has lost it.
func (a *Agent) homeless(host view.Host) bool {
	has := slices.ContainsFunc(host.Addresses, func(h view.HostAddress) bool { return h.Address.Addr() == a.GossipAddress })
	a.housed = a.housed || has
	return a.Cluster == nil && a.housed && !has
}

// run is one pass: look, plan, apply, tell.
func (a *Agent) run(ctx context.Context) *pass {
	p := &pass{began: time.Now()}
	if devices, err := a.Tunnels.Observe(ctx); err != nil {
		p.fail("tunnels", err)
		p.blind = true
	} else {
		now := time.Now()
		a.links.follow(devices, now, now)
		p.devices = devices
	}
	p.tracks = maps.Clone(a.links.tracks)
	a.look(ctx, p)
	p.settling = a.settling(time.Now())
	host, err := a.Network.Observe(ctx, endpoints(p.view))
	if err != nil {
		p.fail("network", err) // without knowing what is there, nothing is touched
		if last := a.last.Load(); last != nil {
			p.desired, p.open, p.rotation = last.desired, last.open, last.rotation // and so it is as it was
			p.problems = append(p.problems, p.desired.Problems...)
		}
		a.judgeReadiness(p, time.Now())
	} else {
		host.Probed = a.probed()
		a.claiming.host = &host
		p.homeless = a.homeless(host)
		p.desired = plan.Make(plan.Input{View: p.view, Host: host})
		a.follow(p.desired.Paths)
		a.gauge(p)
		p.problems = append(p.desired.Problems, p.problems...) // a node's own faults are the first
		a.apply(ctx, p)
		a.changes.applied(p, a.Timings, time.Now())
		if ctx.Err() == nil { // what was broken off says nothing
			// In this order: a key that the rotation drops isn't announced after that.
			if err := a.announce(p.desired.Announce); err != nil {
				p.fail("record", err)
			}
			a.rotate(p)
			a.complain(p, time.Now())
			a.judgeReadiness(p, time.Now())
			a.tell(p)
		}
	}
	if ctx.Err() == nil { // what was broken off says nothing
		a.gather(p, time.Now())
		a.publish(p)
	}
	return p
}

func (p *pass) fail(what string, err error) {
	p.failed = true
	if p.errors == nil {
		p.errors = map[string]uint64{}
	}
	p.errors[what]++
	p.problems = append(p.problems, view.Problem{Subject: what, Message: oneLine(err)})
}

// oneLine is the text of an error, or of several that were joined.
func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }

// endpoints are the addresses whose paths matter.
func endpoints(v view.View) []netip.Addr {
	var all []netip.Addr
	for _, n := range v.Peers {
		for _, e := range n.Endpoints {
			all = append(all, e.Addr())
		}
	}
	return all
}

// forget frees what isn't used any more: after a key was given up copies of it are among that, from reading the tunnels.
// It does so in a few passes, since what is pooled goes with the second collection, and somebody who asks for the status
// reads the tunnels too.
func (a *Agent) forget() {
	if a.forgetting > 0 {
		a.forgetting--
		debug.FreeOSMemory()
	}
}

// settling reports whether the tunnels still have peers that were there before this agent, and that no record spoke
// for since it started. Without what is remembered on disk, or with what an older agent remembered, the others have
// to be heard of first: taking their peers away until then would cost their traffic.
func (a *Agent) settling(now time.Time) bool {
	if a.unclaimed == nil {
		a.unclaimed = map[keys.PublicKey]bool{}
		for _, s := range a.links.states {
			a.unclaimed[s.PublicKey] = true
		}
	}
	for _, e := range a.book.entries {
		for _, g := range e.record.Generations {
			delete(a.unclaimed, g.Key)
		}
	}
	return len(a.unclaimed) > 0 && now.Sub(a.started) <= a.Settle
}

// publish logs what changed, makes the pass the one that Status shows, and counts it last: what is counted is shown.
func (a *Agent) publish(p *pass) {
	a.narrate(p)
	a.last.Store(p)
	a.mu.Lock()
	a.counters.Reconciles++
	a.counters.Refused = maps.Clone(a.book.refused)
	a.counters.KernelWrites += uint64(p.writes)
	a.counters.Repairs += uint64(len(p.repairs))
	a.counters.ErrorsByKind = added(a.counters.ErrorsByKind, p.errors)
	a.counters.RepairsByKind = added(a.counters.RepairsByKind, p.repaired)
	a.counters.Rotations = a.rotation.completed
	if p.failed {
		a.counters.ReconcileErrors++
	}
	a.mu.Unlock()
	a.forget()
	a.Timings.Reconciled(time.Since(p.began))
	a.lastRun.Store(time.Now().UnixNano())
	p.answerForgets(a.unsaved)
}

// Alive returns an error when the loop hasn't run for much longer than it should.
func (a *Agent) Alive() error {
	last := a.lastRun.Load()
	if last == 0 {
		return errors.New("the loop hasn't run yet")
	}
	if age := time.Since(time.Unix(0, last)); age > 4*idleInterval {
		return fmt.Errorf("the loop ran %s ago last", age.Round(time.Second))
	}
	return nil
}
