package gossip

import (
	"context"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/weaveguard/weaveguard/keys"
	"github.com/weaveguard/weaveguard/mesh/view"
)

const (
	// gossipInterval and gossipNodes are how often, and to how many, news is sent. With memberlist's own (200 ms,
	// 3) a change of all records at once takes twice as long to arrive.
	gossipInterval = 100 * time.Millisecond
	gossipNodes    = 4
	// retransmits, times the decimal digits of the mesh's size, is how often each member passes news on. With
	// memberlist's own 4, one of five changes of all records at once misses somebody, who then waits for the next
	// state exchange; with 6 still one of ten, in a mesh of eight nodes.
	retransmits = 8
	// exchangeInterval is the time between two state exchanges of a member with another, the net below gossip, in
	// a mesh of up to 32 nodes; memberlist stretches it by the logarithm of the size.
	exchangeInterval = 5 * time.Second
	// streamTimeout bounds connecting, and each read and write of a state exchange.
	streamTimeout = 2 * time.Second
	// leaveTimeout bounds saying goodbye.
	leaveTimeout = 2 * time.Second
	// tickInterval is how often members and held back log lines are looked at.
	tickInterval = time.Second
	// newsInterval is the least time between two calls of Changed: whoever has the gossip key can always have news.
	newsInterval = 50 * time.Millisecond
	// announceAttempts is how often a record is announced when memberlist drops it: it does so without a word
	// when it refutes a rumour about this node in the same moment.
	announceAttempts = 5
)

// ErrStopped is what methods return after Stop.
var ErrStopped = errors.New("gossip has stopped")

// Config is what Start needs. All of it but Changed must be set.
type Config struct {
	Node string // this node's name
	// Advertise is the underlay address that others are told. Gossip binds to it where the host has it, and else
	// to all addresses of its family.
	Advertise netip.Addr
	Port      uint16       // TCP and UDP
	Keyring   keys.Keyring // AES keys of 16, 24 or 32 bytes; the first one encrypts, all of them decrypt
	Log       *slog.Logger
	// Changed is called after something was heard, from a goroutine of its own and with no lock held, at most 20 times
	// a second. What is heard meanwhile is told by one more call.
	Changed func()
	// ClockOffset is how far ahead the clock is that others are told: for tests, on machines with one clock.
	ClockOffset time.Duration
}

// Gossip is this node's membership in the mesh's gossip. Safe for concurrent use.
type Gossip struct {
	config Config
	log    *slog.Logger
	book   *book
	tally  *tally
	logs   *logWriter
	own    *ownRecord
	mail   mailbox // messages that fit into a packet
	parcel mailbox // larger ones
	seeker *seeker
	caps   *caps
	keys   inspector

	transport *transport
	// Messages of this agent and others, of whatever size.
	receivedMessages, sentMessages atomic.Uint64
	current                        atomic.Pointer[membership]

	deliveries chan delivery

	newcomers newcomers
	homes     homes

	keying sync.Mutex // held by who changes the keys

	news   chan struct{} // one token: something was heard
	sought chan struct{} // one token: there is a new target

	announcing sync.Mutex  // held by who announces, by who changes the membership, and by Stop
	stopped    atomic.Bool // written under announcing; Send, which waits for nobody, reads it without

	hangUp  context.CancelFunc // ends seeking, joining again and delivering, and all streams that were dialled
	seeking sync.WaitGroup
	quiet   context.CancelFunc // ends telling of news
	telling sync.WaitGroup
}

// Start joins nobody yet, and announces no record: see Seek and Announce. The caller owns what it returns, and
// ends it with Stop.
func Start(config Config) (*Gossip, error) {
	if err := config.check(); err != nil {
		return nil, fmt.Errorf("starting gossip: %w", err)
	}
	ring, err := makeKeyring(config.Keyring)
	if err != nil {
		return nil, fmt.Errorf("starting gossip: %w", err)
	}
	config.Keyring = nil // memberlist's own has the secrets, and nothing else
	tally := newTally()
	inspector := inspector{ring: ring, worn: newWorn()}
	g := &Gossip{
		config: config,
		log:    config.Log,
		book:   newBook(""),
		tally:  tally,
		logs:   newLogWriter(config.Log, tally, config.Port),
		own:    &ownRecord{},
		seeker: &seeker{},
		caps:   newCaps(inspector),
		keys:   inspector,
		news:   make(chan struct{}, 1),
		sought: make(chan struct{}, 1),

		mail: mailbox{most: maxMail}, parcel: mailbox{most: maxParcels}, deliveries: make(chan delivery, maxDeliveries),
	}
	dialling, hangUp := context.WithCancel(context.Background())
	g.hangUp = hangUp
	g.transport, err = listen(dialling, config.Advertise, config.Port, g.caps, log.New(g.logs, "", 0))
	if err == nil {
		if err = g.enter(dialling); err != nil {
			err = errors.Join(err, g.transport.stop())
		}
	}
	if err != nil {
		hangUp()
		return nil, fmt.Errorf("starting gossip: %w", err)
	}
	telling, quiet := context.WithCancel(context.Background())
	g.quiet = quiet
	g.seeking.Go(func() { g.seek(dialling) })
	g.seeking.Go(func() { g.renew(dialling) })
	for range carriers {
		g.seeking.Go(func() { g.carry(dialling) })
	}
	g.telling.Go(func() { g.tell(telling) })
	return g, nil
}

func (c *Config) check() error {
	if err := checkNodeName(c.Node); err != nil {
		return err
	}
	c.Advertise = c.Advertise.Unmap()
	if !c.Advertise.IsValid() || c.Advertise.IsUnspecified() || c.Advertise.IsMulticast() || c.Advertise.Zone() != "" {
		return fmt.Errorf("%q can't be told to others as this node's address", c.Advertise)
	}
	if c.Port == 0 {
		return errors.New("the port is missing")
	}
	if err := checkKeyring(c.Keyring); err != nil {
		return err
	}
	if c.Log == nil {
		return errors.New("the logger is missing")
	}
	return nil
}

// Announce makes raw, the node's signed record, known to all members, now and in the future. It refuses what
// doesn't fit into a member's metadata (512 bytes). It waits for nobody: the record spreads after it returns.
func (g *Gossip) Announce(raw []byte) error {
	if len(raw) == 0 || len(raw) > memberlist.MetaMaxSize {
		return fmt.Errorf("announcing a record of %d bytes: want 1 to %d", len(raw), memberlist.MetaMaxSize)
	}
	g.announcing.Lock()
	defer g.announcing.Unlock()
	if g.stopped.Load() {
		return fmt.Errorf("announcing a record: %w", ErrStopped)
	}
	g.own.want(raw)
	for range announceAttempts {
		if g.own.announced(raw) {
			return nil
		}
		// Its only error says that the record wasn't sent often enough within that time, as was meant.
		_ = g.current.Load().list.UpdateNode(time.Nanosecond)
	}
	if !g.own.announced(raw) {
		return errors.New("announcing a record: memberlist didn't take it; try again")
	}
	return nil
}

// Heard returns all that was said about nodes, sorted by node, the latest last: what members announce, what
// former members announced, and what members hand on. This node's own announcements aren't in it; what others say
// in its name is. It is bounded: a few different records for a node, some thousand nodes.
func (g *Gossip) Heard() []Heard { return g.book.heard() }

// Share replaces the verified records, by node, that are handed to members that join or sync when the node
// itself isn't there to announce its own.
func (g *Gossip) Share(records map[string][]byte) { g.book.share(records) }

// Forget drops what was heard of a node, apart from what living members of that name announce. Other members may
// hand it on again, as long as they share it.
func (g *Gossip) Forget(node string) { g.book.forget(node) }

// Seek replaces the addresses at which absent nodes are looked for, again and again, until they are members.
func (g *Gossip) Seek(targets []Target) {
	self := g.address()
	others := slices.DeleteFunc(slices.Clone(targets), func(t Target) bool {
		return t.Node == g.config.Node || t.Addr == self
	})
	fresh := g.seeker.set(others)
	g.recognise()
	if fresh {
		signal(g.sought)
	}
}

// address is where others find this node.
func (g *Gossip) address() netip.AddrPort {
	return netip.AddrPortFrom(g.config.Advertise, g.config.Port)
}

// recognise tells whose streams and messages have room of their own: members and targets.
func (g *Gossip) recognise() {
	g.caps.know(func() map[netip.Addr]bool { return g.seeker.known(g.book.everywhere()) })
}

// Members returns the nodes whose agents are alive, this one among them, sorted by name, each once.
func (g *Gossip) Members() []Member { return g.book.members() }

// Counters returns what was refused since Start, by reason.
func (g *Gossip) Counters() map[string]uint64 { return g.tally.counts() }

// Problems returns what an operator should know about now, or was seen in the last minutes.
func (g *Gossip) Problems() []view.Problem {
	now := time.Now()
	problems := g.tally.recent(now)
	twins := g.book.twins(now)
	for _, node := range slices.Sorted(maps.Keys(twins)) {
		problems = append(problems, sameName(node, twins[node]))
	}
	return append(problems, clockProblems(g.book.clocks())...)
}

// Stop tells the others that this node leaves, for two seconds or until ctx ends at most, and ends all that Start
// began. memberlist's last connections and probes end some seconds later by their own deadlines, and do nothing. A second
// call does nothing, and doesn't wait for the first.
func (g *Gossip) Stop(ctx context.Context) error {
	g.hangUp()
	g.announcing.Lock()
	before := g.stopped.Swap(true)
	g.announcing.Unlock()
	if before {
		return nil
	}
	g.seeking.Wait()
	timeout := leaveTimeout
	if deadline, ok := ctx.Deadline(); ok {
		timeout = min(timeout, time.Until(deadline))
	}
	m := g.current.Load()
	if ctx.Err() == nil && timeout > 0 {
		if err := m.leave(timeout); err != nil {
			g.log.Debug("gossip: left without a goodbye", "error", err)
		}
	}
	err := errors.Join(m.list.Shutdown(), g.transport.stop())
	g.quiet()
	g.telling.Wait()
	if err != nil {
		return fmt.Errorf("stopping gossip: %w", err)
	}
	return nil
}

// tell calls Changed after news, and when problems come or go, and looks after the log, until ctx ends.
func (g *Gossip) tell(ctx context.Context) {
	ticker := time.NewTicker(tickInterval)
	defer ticker.Stop()
	news := g.news // nil after a call, for newsInterval
	var rested <-chan time.Time
	roll := make(rollCall)
	var problems []view.Problem
	for {
		select {
		case <-news:
			if g.config.Changed != nil {
				g.config.Changed()
			}
			news, rested = nil, time.After(newsInterval)
		case <-rested:
			news = g.news
		case now := <-ticker.C:
			g.logs.flush(now)
			roll.log(g.log, g.book.members())
			g.recognise()
			before := problems
			if problems = g.Problems(); !slices.Equal(before, problems) {
				signal(g.news)
			}
		case <-ctx.Done():
			return
		}
	}
}

// signal leaves a token, unless there is one.
func signal(latch chan<- struct{}) {
	select {
	case latch <- struct{}{}:
	default:
	}
}
