package mesh

import (
	"net/netip"
	"time"

	"github.com/weaveguard/weaveguard/keys"
	"github.com/weaveguard/weaveguard/mesh/contract"
)

// WireGuard's own numbers (sections 6.1 to 6.5 of its paper).
const (
	modelRejectAfter  = 180 * time.Second
	modelRekeyAfter   = 120 * time.Second
	modelLastRekey    = 165 * time.Second // by who received the handshake's answer, and receives packets only
	modelRekeyTimeout = 5 * time.Second
	modelRekeyJitter  = 333 * time.Millisecond
	modelTries        = 18
	modelUnanswered   = 15 * time.Second // packets are sent, and none comes back
	modelFlight       = 20 * time.Millisecond
)

// modelPeer is a peer of a tunnel device, as WireGuard keeps it.
type modelPeer struct {
	device    *modelDevice
	key       keys.PublicKey
	endpoint  netip.AddrPort
	keepalive time.Duration
	handshake time.Time
	received  int64
	gone      bool
	carried   time.Duration // when the far end's traffic moved away from it last

	// current is what is sent with. Following isn't used yet: only what comes by it shows that the far end has it too.
	current, previous, following *modelSession
	pending                      uint64        // the handshake that this end began and waits for; 0: none
	initiated                    time.Duration // when it began one last; negative: never
	done                         time.Duration // when one was completed last
	heard                        time.Duration // when anything came last
	tries                        int
	ticks                        int // counts timers of keepalives
}

// modelSession is what a handshake gives.
type modelSession struct {
	at        time.Duration
	initiator *modelPeer
	responder *modelPeer
}

func newModelPeer(d *modelDevice, key keys.PublicKey) *modelPeer {
	return &modelPeer{device: d, key: key, initiated: -time.Hour, done: -time.Hour, carried: -time.Hour, heard: d.n.w.now}
}

func (p *modelPeer) world() *modelWorld { return p.device.n.w }

func (s *modelSession) live(now time.Duration) bool { return s != nil && now-s.at < modelRejectAfter }

func (s *modelSession) other(p *modelPeer) *modelPeer {
	if s.initiator == p {
		return s.responder
	}
	return s.initiator
}

// holds reports whether what comes by a session is taken.
func (p *modelPeer) holds(s *modelSession, now time.Duration) bool {
	return !p.gone && s.live(now) && (p.current == s || p.previous == s || p.following == s)
}

// reachable reports whether packets get from one end to another one, and back.
func (p *modelPeer) reachable(q *modelPeer) bool {
	return p.world().open(p.device.n, p.device.port, q.device.n, q.device.port)
}

// counterpart is the peer at whose device the packets of this one arrive, if it has the keys for them.
func (p *modelPeer) counterpart() *modelPeer {
	owner, known := p.world().owners[p.key]
	number := int(p.endpoint.Port()) - contract.BasePort
	if !known || number < 0 || number >= contract.MaxDevices || owner.node.address != p.endpoint.Addr() {
		return nil
	}
	d := owner.node.devices[number]
	if d == nil || d.port != int(p.endpoint.Port()) || d.public != p.key {
		return nil
	}
	q := d.peer(p.device.public)
	if q == nil || !p.reachable(q) {
		return nil
	}
	return q
}

// initiate begins a handshake, at most one in 5 s.
func (p *modelPeer) initiate() {
	w := p.world()
	if p.gone || w.now-p.initiated < modelRekeyTimeout || !p.endpoint.IsValid() {
		return
	}
	w.order++
	id := w.order
	p.initiated, p.pending = w.now, id
	w.after(w.between(time.Millisecond, modelFlight), func() { p.arrive(id) })
	w.after(modelRekeyTimeout+w.between(0, modelRekeyJitter), func() {
		switch {
		case p.gone || p.done >= p.initiated || w.now-p.initiated < modelRekeyTimeout:
		case p.tries >= modelTries:
			p.tries = 0
		default:
			p.tries++
			p.initiate()
		}
	})
}

// arrive is the far end's part of a handshake. An own one that it waits for comes to nothing by it.
func (p *modelPeer) arrive(id uint64) {
	w := p.world()
	if p.gone {
		return
	}
	q := p.counterpart()
	if q == nil {
		return
	}
	q.pending = 0
	q.receive(148)
	s := &modelSession{at: w.now, initiator: p, responder: q}
	q.following = s
	w.after(w.between(time.Millisecond, modelFlight), func() { p.complete(id, s) })
}

// complete is the end of a handshake, where it began.
func (p *modelPeer) complete(id uint64, s *modelSession) {
	if p.gone || s.responder.gone || p.pending != id || !p.reachable(s.responder) {
		return
	}
	w := p.world()
	p.pending = 0
	p.previous, p.current, p.following = p.current, s, nil
	p.receive(92)
	p.established()
	w.after(modelRejectAfter, func() { w.changed = true })
	p.send(32) // the far end sends by the session only when it knows that it stands here too
}

// established is the completion of a handshake at one end.
func (p *modelPeer) established() {
	w := p.world()
	p.handshake, p.done, p.tries, w.changed = w.time(w.now), w.now, 0, true
	if w.tracing {
		w.note("%s: %s: handshake with %s", p.device.n.name, contract.DeviceName(p.device.number), w.keyName(p.key))
	}
}

// send sends a packet to the peer: without a session it begins one.
func (p *modelPeer) send(bytes int64) {
	w := p.world()
	s := p.current
	if !s.live(w.now) {
		p.initiate()
		return
	}
	if s.initiator == p && w.now-s.at >= modelRekeyAfter {
		p.initiate()
	}
	if q := s.other(p); q.holds(s, w.now) && p.reachable(q) {
		q.take(s, bytes)
	}
}

// take is the arrival of a packet of a session.
func (p *modelPeer) take(s *modelSession, bytes int64) {
	if p.following == s {
		p.previous, p.current, p.following = p.current, s, nil
		p.established()
	}
	p.receive(bytes)
	if now := p.world().now; s.initiator == p && now-s.at >= modelLastRekey {
		p.initiate()
	}
}

func (p *modelPeer) receive(bytes int64) {
	p.received += bytes
	p.heard = p.world().now
}

// carry sends what pods send all the time. When nothing has come back for long the session may be one-sided.
func (p *modelPeer) carry() {
	p.send(1000)
	if p.world().now-max(p.heard, p.done) >= modelUnanswered {
		p.initiate()
	}
}

// setKeepalive sets the interval of keepalives. Where there was none one is sent at once.
func (p *modelPeer) setKeepalive(interval time.Duration) {
	before := p.keepalive
	p.keepalive = interval
	p.ticks++
	if before == 0 && interval > 0 {
		p.tries = 0
		p.send(32)
	}
	p.tick(p.ticks)
}

func (p *modelPeer) tick(count int) {
	if p.keepalive <= 0 {
		return
	}
	p.world().after(p.keepalive, func() {
		if p.gone || p.ticks != count {
			return
		}
		p.tries = 0
		p.send(32)
		p.tick(count)
	})
}
