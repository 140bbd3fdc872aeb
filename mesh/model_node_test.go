package mesh

import (
	"context"
	"iter"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"github.com/weaveguard/weaveguard/mesh/contract"
	wgtunnel "github.com/weaveguard/weaveguard/mesh/tunnel"
)

// modelNode is a host: its disk and kernel, which outlive its agent, and the agent.
type modelNode struct {
	w       *modelWorld
	number  int
	name    string
	cidr    netip.Prefix
	allowed net.IPNet // cidr, as WireGuard has it
	address netip.Addr

	joined     bool
	disk       *modelDisk
	devices    [contract.MaxDevices]*modelDevice
	version    int                // counts changes of devices
	looked     time.Duration      // when the agent looked at a device last
	pruned     int                // counts changes that the agent isn't told of
	routes     [maxModelNodes]int // node → device, or noModelRoute
	open       bool               // pods can be attached
	remembered Remembered         // the view cache

	agent   *Agent // nil: none runs
	life    int    // counts agents
	started time.Duration
	gossip  modelGossip
	spoken  [][]byte // all records that the node ever announced
	sent    int      // how many acknowledgements it sent
	last    *pass
	begun   time.Duration // when the pass under way began
	rested  time.Duration // until when the agent rests after its last pass
	timer   int           // counts what was waited for
	slow    float64       // how much later than it could the agent wakes up

	// The pass under way stands still between any two of its effects, and goes on by next, or ends by stop.
	next    func() (struct{}, bool)
	stop    func()
	yield   func(struct{}) bool
	crashIn int // after so many effects the agent crashes; negative: never
	faultIn int // after so many writes
	faulty  modelPart
	faults  int // so many fail
}

const noModelRoute = -1

func newModelNode(w *modelWorld, number int) *modelNode {
	n := &modelNode{
		w: w, number: number, name: string(rune('a' + number)), crashIn: -1,
		cidr:    netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 244, byte(number), 0}), 24),
		address: netip.AddrFrom4([4]byte{192, 0, 2, byte(number + 1)}),
		slow:    []float64{1, 6, 15}[w.rng.IntN(3)],
	}
	n.allowed = net.IPNet{IP: n.cidr.Addr().AsSlice(), Mask: net.CIDRMask(24, 32)}
	n.disk = newModelDisk(n)
	n.wipe()
	return n
}

// wipe is what a reboot leaves of the kernel.
func (n *modelNode) wipe() {
	for i, d := range n.devices {
		if d != nil {
			d.remove()
		}
		n.devices[i] = nil
	}
	for i := range n.routes {
		n.routes[i] = noModelRoute
	}
	n.version++
	n.w.changed = true
}

// start starts an agent, with what is on disk.
func (n *modelNode) start() {
	if n.agent != nil {
		return
	}
	n.w.note("%s: the agent starts", n.name)
	n.w.clock()
	n.joined, n.started = true, n.w.now
	n.life++
	log := slog.New(slog.DiscardHandler)
	n.agent = New(Config{
		Jitter: func(most time.Duration) time.Duration { return n.w.between(0, most-1) },
		Node:   n.name, Bridge: contract.BridgeName, BasePort: contract.BasePort, WireGuard: wgtunnel.Kernel,
		PodCIDRs: []netip.Prefix{n.cidr}, Addresses: []netip.Addr{n.address}, GossipAddress: n.address,
		PodRanges: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 244, 0, 0}), 16)}, PodRangeSource: "the model",
		CachePath:  "/dev/null/view.json", // what is remembered is taken from the agent: files are slow
		Remembered: n.remembered, Log: log, Latch: NewLatch(),
		Keys: n.disk, Gossip: n, Network: modelNetwork{n}, Firewall: modelFirewall{}, Attach: modelAttach{n},
		Tunnels: &modelTunnels{Applier: wgtunnel.New(wgtunnel.Config{
			Maker: modelMaker{n}, Private: n.disk.private, Kind: wgtunnel.Kernel, Log: log,
			Open: func() (wgtunnel.Client, error) { return n, nil },
		}), n: n},
	})
	n.gossip = modelGossip{}
	for _, other := range n.w.nodes {
		n.w.exchange(n, other)
	}
	n.w.feel()
	n.begin()
}

// crash ends the agent where it is.
func (n *modelNode) crash() {
	if n.agent == nil {
		return
	}
	n.life++
	if n.stop != nil {
		n.stop()
	}
	n.crashed()
}

func (n *modelNode) crashed() {
	n.w.note("%s: the agent crashes", n.name)
	n.w.seen.crashes++
	n.life++
	n.remembered = n.agent.remembered
	n.agent, n.next, n.stop, n.yield, n.crashIn, n.last = nil, nil, nil, nil, -1, nil
	n.disk.forget()
	n.gossip = modelGossip{}
	n.w.feel()
}

// modelCrash goes through the agent's code as a panic, up to who runs it.
type modelCrash struct{}

// point is a moment between two effects of the agent: all sorts of things may happen then.
func (n *modelNode) point(what string, args ...any) {
	w := n.w
	if w.tracing {
		w.note(n.name+": "+what, args...)
	}
	w.check()
	if n.crashIn >= 0 {
		if n.crashIn--; n.crashIn < 0 {
			panic(modelCrash{})
		}
	}
	if n.yield == nil || w.chance(0.5) {
		return
	}
	if !n.yield(struct{}{}) {
		panic(modelCrash{})
	}
}

// modelPart is what an agent writes to.
type modelPart string

const (
	modelDevices modelPart = "tunnels"
	modelRoutes  modelPart = "routes"
	modelStore   modelPart = "key store"
)

// write is the moment before a change, which may fail.
func (n *modelNode) write(part modelPart, what string, args ...any) error {
	n.point(what, args...)
	if part != n.faulty {
		return nil
	}
	if n.faultIn > 0 {
		n.faultIn--
		return nil
	}
	if n.faults == 0 {
		return nil
	}
	n.faults--
	n.w.note("%s: that fails", n.name)
	return errModel
}

// begin starts a pass of the agent.
func (n *modelNode) begin() {
	n.timer++
	n.begun = n.w.now
	n.w.seen.passes++
	var run iter.Seq[struct{}] = func(yield func(struct{}) bool) {
		defer func() {
			if r := recover(); r != nil {
				if _, crash := r.(modelCrash); !crash {
					panic(r)
				}
			}
		}()
		n.yield = yield
		n.last = nil
		n.last = n.agent.run(context.Background())
	}
	n.next, n.stop = iter.Pull(run)
	n.proceed()
}

// proceed lets the pass go on to its next pause, or its end.
func (n *modelNode) proceed() {
	n.w.clock()
	if _, more := n.next(); more {
		life := n.life
		n.w.after(n.effort(), func() {
			if n.life == life {
				n.proceed()
			}
		})
		return
	}
	n.next, n.stop, n.yield = nil, nil, nil
	if n.last == nil {
		n.crashed()
		if n.w.calm {
			n.start()
		}
		return
	}
	n.checkPlan(n.last)
	n.rest()
}

// effort is how long an effect takes: now and then the host has better things to do.
func (n *modelNode) effort() time.Duration {
	if n.w.chance(0.01) {
		return n.w.between(0, 2*time.Second)
	}
	return n.w.soon(2*time.Millisecond, 20*time.Millisecond)
}

// rest waits as Run does: for a sign, for what it sees in glances at the tunnels, or for the timer, and at least as long
// as the pass took.
func (n *modelNode) rest() {
	rest := min(n.w.now-n.begun, maxRest)
	n.rested = n.w.now + rest
	pause := n.late(n.agent.pause(n.last, time.Now()))
	if len(n.agent.Latch) > 0 {
		n.wait(rest, true)
	}
	n.wait(rest+pause, false)
	if n.agent.hurries(n.last, time.Now()) {
		n.glance(rest + n.late(glanceInterval))
	}
}

// late is a pause as a busy host makes it.
func (n *modelNode) late(pause time.Duration) time.Duration {
	return pause + min(time.Duration(n.slow*n.w.rng.Float64()*float64(pause)), 5*time.Second)
}

// wait starts the next pass after some time, unless another one was started before: if there is a sign, or always.
func (n *modelNode) wait(d time.Duration, sign bool) {
	timer, life := n.timer, n.life
	n.w.after(d, func() {
		if n.life != life || n.timer != timer || n.next != nil {
			return
		}
		select {
		case <-n.agent.Latch:
		default:
			if sign {
				return
			}
		}
		n.begin()
	})
}

// glance lets the agent look at the tunnels between passes.
func (n *modelNode) glance(d time.Duration) {
	timer, life := n.timer, n.life
	n.w.after(d, func() {
		if n.life != life || n.timer != timer {
			return
		}
		n.w.clock()
		if n.agent.stirred(context.Background()) {
			n.begin()
			return
		}
		n.glance(n.late(glanceInterval))
	})
}

// wake gives the agent a sign.
func (n *modelNode) wake() {
	if n.agent == nil {
		return
	}
	n.agent.Latch.Set()
	if n.next == nil {
		n.wait(max(0, n.rested-n.w.now), true)
	}
}

// rotate asks the agent for a new key.
func (n *modelNode) rotate(force bool) {
	if n.agent == nil || n.disk.writing {
		return
	}
	n.w.clock()
	answer, err := n.agent.Rotate(force)
	n.w.note("%s: rotate, force %t: %+v, %v", n.name, force, answer, err)
	if force && err == nil {
		n.w.excuse(n)
	}
	n.wake()
}
