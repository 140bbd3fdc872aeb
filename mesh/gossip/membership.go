package gossip

import (
	"context"
	"fmt"
	"log"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
)

const (
	// renewInterval is the least time between two names of this node's member that somebody else made it give up.
	renewInterval = 10 * time.Second
	// renewPause is the time between attempts to join again.
	renewPause = time.Second
	// renewNeighbours is how many others are joined then at once. The seeker does the rest.
	renewNeighbours = 3
)

// membership is this node's time in the gossip under one member name.
type membership struct {
	name   string
	list   *memberlist.Memberlist
	hangUp context.CancelFunc // ends all streams that were dialled

	mu   sync.RWMutex // held, for reading, while memberlist tells of members
	over bool
}

// counts reports whether what memberlist tells of members still counts: it goes on for a while after its end. Then
// counted must be called.
func (m *membership) counts() bool {
	m.mu.RLock()
	if m.over {
		m.mu.RUnlock()
		return false
	}
	return true
}

func (m *membership) counted() { m.mu.RUnlock() }

// end is an end without a goodbye.
func (m *membership) end() error {
	m.mu.Lock()
	m.over = true
	m.mu.Unlock()
	m.hangUp()
	return m.list.Shutdown()
}

// leave says goodbye, unless the membership has ended.
func (m *membership) leave(timeout time.Duration) error {
	if !m.counts() {
		return nil
	}
	m.counted() // leaving is told of too
	return m.list.Leave(timeout)
}

// enter begins a membership, the first one or another in place of one that has ended: a new name, the record that this
// node announces, and nobody else.
func (g *Gossip) enter(ctx context.Context) error {
	dialling, hangUp := context.WithCancel(ctx)
	m := &membership{name: memberName(g.config.Node), hangUp: hangUp}
	g.book.restart(m.name)
	g.own.restart(m.name)
	g.newcomers.restart()
	g.keys.worn.watch(m.name, g.address())
	c := g.settings(m.name)
	c.Transport = &lease{g.transport, dialling}
	c.Delegate = delegate{g}
	c.Events = events{g, m}
	c.Alive = events{g, m}
	c.Ping = pings{g, m}
	var err error
	if m.list, err = memberlist.Create(c); err != nil {
		hangUp()
		return fmt.Errorf("joining as %s: %w", m.name, err)
	}
	g.current.Store(m)
	g.log.Info("gossip: listening", "address", g.address(), "member", m.name)
	return nil
}

// settings are those of this node's memberlist. What isn't here is as it is for local networks.
func (g *Gossip) settings(name string) *memberlist.Config {
	c := memberlist.DefaultLANConfig()
	c.Name = name
	c.BindPort = int(g.config.Port) // of members that name none
	c.AdvertiseAddr = g.config.Advertise.String()
	c.AdvertisePort = int(g.config.Port)
	c.Keyring = g.keys.ring
	c.GossipVerifyIncoming = true
	c.GossipVerifyOutgoing = true
	c.EnableCompression = false // keys and signatures don't compress
	c.GossipInterval = gossipInterval
	c.GossipNodes = gossipNodes
	c.RetransmitMult = retransmits
	c.PushPullInterval = exchangeInterval
	c.TCPTimeout = streamTimeout
	// A member name belongs to one start of one node, so nobody takes over a dead one's.
	c.DeadNodeReclaimTime = 0
	c.Logger = log.New(g.logs, "", 0)
	return c
}

// renew gives this node's member another name whenever its own is worn out, until ctx ends.
func (g *Gossip) renew(ctx context.Context) {
	for {
		select {
		case name := <-g.keys.worn.out:
			if name != g.current.Load().name {
				continue
			}
		case <-ctx.Done():
			return
		}
		began := time.Now()
		worn := g.current.Load().name
		g.log.Warn("gossip: somebody with the gossip key tries to silence this node; it takes another name", "member", worn)
		g.tally.count(reasonSilenced)
		g.tally.report(keyWorn, wornOut(worn), began)
		near := g.neighbours()
		for !g.reenter(ctx) {
			if !pause(ctx, renewPause+rand.N(renewPause/2)) {
				return
			}
		}
		g.greet(ctx, near)
		if !pause(ctx, renewInterval-time.Since(began)) {
			return
		}
	}
}

// reenter ends the membership and begins another, and reports whether that is done.
func (g *Gossip) reenter(ctx context.Context) bool {
	g.announcing.Lock()
	defer g.announcing.Unlock()
	if ctx.Err() != nil {
		return false
	}
	if err := g.current.Load().end(); err != nil {
		g.log.Debug("gossip: ending a membership", "error", err)
	}
	if err := g.enter(ctx); err != nil {
		g.log.Warn("gossip: this node can't join under another name; it tries again", "error", err)
		g.tally.report(keyRenewal, notRenewed(err), time.Now())
		return false
	}
	g.tally.withdraw(keyRenewal)
	return true
}

// neighbours are some addresses at which others were, each once: first those that were sought, which whoever has the gossip
// key can't add to.
func (g *Gossip) neighbours() []netip.AddrPort {
	var near []netip.AddrPort
	add := func(addrs []netip.AddrPort) {
		rand.Shuffle(len(addrs), func(i, j int) { addrs[i], addrs[j] = addrs[j], addrs[i] })
		for _, a := range addrs {
			if len(near) < renewNeighbours && a.Addr() != g.config.Advertise && !slices.Contains(near, a) {
				near = append(near, a)
			}
		}
	}
	add(g.seeker.addresses(""))
	var alive []netip.AddrPort
	for _, m := range g.book.members() {
		alive = append(alive, m.Addr)
	}
	add(alive)
	return near
}

// greet joins others, so that nobody waits for the seeker.
func (g *Gossip) greet(ctx context.Context, near []netip.AddrPort) {
	for _, addr := range near {
		if ctx.Err() != nil {
			return
		}
		if _, err := g.current.Load().list.Join([]string{addr.String()}); err != nil {
			g.log.Debug("gossip: can't join", "address", addr, "error", joinReason(err))
		}
	}
}

// pause waits, and reports whether ctx goes on.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
