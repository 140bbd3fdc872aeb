package tunnel

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"github.com/weaveguard/weaveguard/keys"
	"github.com/weaveguard/weaveguard/mesh/view"
)

// wanted is what was last wanted of a peer.
type wanted struct {
	node     string
	endpoint netip.AddrPort
	attempt  int
}

// pass makes one device be as desired. It keeps the changes small: one write for the key, one for the port, one for
// each peer, and one to take allowed IPs away.
type pass struct {
	client  Client
	current *wgtypes.Device // as it was read
	device  string
	private keys.PrivateKey
	now     time.Time
	wanted  map[keys.PublicKey]wanted // the applier's memory of this device
	log     *slog.Logger

	writes int
	errs   []error
	byKey  map[keys.PublicKey]*wgtypes.Peer // of current
	// owners says which peer has an allowed IP, as far as the pass has come.
	owners                  map[netip.Prefix]keys.PublicKey
	added, changed, removed []string // nodes, for the log
	given                   []string // of those that changed, whom allowed IPs were given
}

// base makes the device itself be as desired, and leaves its peers.
func (p *pass) base(ctx context.Context, desired view.Device) error {
	if err := p.setKey(ctx); err != nil {
		return err // without its key the device would make sessions of another generation
	}
	p.setPort(ctx, desired.ListenPort)
	return errors.Join(p.errs...)
}

func (p *pass) run(ctx context.Context, desired view.Device) error {
	if err := p.setKey(ctx); err != nil {
		return err // as above
	}
	p.setPort(ctx, desired.ListenPort)

	p.byKey = map[keys.PublicKey]*wgtypes.Peer{}
	for i, peer := range p.current.Peers {
		p.byKey[keys.PublicKey(peer.PublicKey)] = &p.current.Peers[i]
	}
	p.owners = owners(p.current.Peers)
	peers, errs := check(desired.Peers, p.private.Public())
	p.errs = append(p.errs, errs...)
	// First all that is given, then what is taken: an allowed IP that moves to another peer is never without one.
	for _, peer := range peers {
		if ctx.Err() != nil {
			p.errs = append(p.errs, ctx.Err())
			break
		}
		p.setPeer(peer)
	}
	if ctx.Err() == nil {
		p.removeOthers(desired.Peers)
		p.takeAllowedIPs(peers)
	}
	p.report(ctx)
	return errors.Join(p.errs...)
}

// report logs which nodes' peers were touched, if any.
func (p *pass) report(ctx context.Context) {
	var touched []any
	for _, what := range []struct {
		name  string
		nodes []string
	}{{"added", p.added}, {"changed", p.changed}, {"removed", p.removed}} {
		if len(what.nodes) > 0 {
			touched = append(touched, what.name, brief(what.nodes))
		}
	}
	if len(touched) > 0 {
		p.log.Debug("peers of tunnel device set", touched...)
	}
	if len(p.added) > 0 {
		view.Made(ctx, fmt.Sprintf("adding peers to %s: %s", p.device, brief(p.added)))
	}
	if len(p.given) > 0 {
		view.Made(ctx, fmt.Sprintf("giving allowed IPs to peers of %s: %s", p.device, brief(p.given)))
	}
	if len(p.changed) > 0 {
		view.Changed(ctx, fmt.Sprintf("changing peers of %s: %s", p.device, brief(p.changed)))
	}
	if len(p.removed) > 0 {
		view.Changed(ctx, fmt.Sprintf("removing peers from %s: %s", p.device, brief(p.removed)))
	}
}

// write makes one change. Neither the error nor the log has the configuration in it: it can hold the private key.
func (p *pass) write(config wgtypes.Config) error {
	if err := p.client.ConfigureDevice(p.device, config); err != nil {
		return err
	}
	p.writes++
	return nil
}

func (p *pass) setKey(ctx context.Context) error {
	if keys.PublicKey(p.current.PublicKey) == p.private.Public() {
		return nil
	}
	// The peers' sessions end with the key that they were made with, and what is left of them would look alive.
	stale := len(p.current.Peers) > 0
	var err error
	keys.Secretly(func() {
		private := wgtypes.Key(p.private.Bytes())
		err = p.write(wgtypes.Config{PrivateKey: &private, ReplacePeers: stale})
		clear(private[:])
	})
	if err != nil {
		return fmt.Errorf("setting its private key: %w", explain(err, 0))
	}
	p.current.Peers = nil
	p.log.Debug("key of tunnel device set", "publicKey", p.private.Public())
	view.Changed(ctx, "setting the key of "+p.device)
	return nil
}

func (p *pass) setPort(ctx context.Context, desired uint16) {
	port := int(desired)
	if p.current.ListenPort == port {
		return
	}
	if err := p.write(wgtypes.Config{ListenPort: &port}); err != nil {
		if old := p.current.ListenPort; old != 0 && KindOf(p.current) == Userspace {
			// The kernel keeps the old port then; in userspace the device is left with no port, and no sessions.
			err = errors.Join(err, p.write(wgtypes.Config{ListenPort: &old}))
		}
		p.errs = append(p.errs, fmt.Errorf("setting its listen port %d: %w", desired, explain(err, desired)))
		return
	}
	p.log.Debug("port of tunnel device set", "port", desired)
	view.Changed(ctx, "setting the port of "+p.device)
}

// setPeer adds a peer, or changes what differs in it.
func (p *pass) setPeer(desired view.Peer) {
	key := desired.PublicKey
	current := p.byKey[key]
	last, remembered := p.wanted[key]
	again := current != nil && remembered && desired.Attempt > last.attempt && p.stale(current, desired)
	if again {
		if !p.dropPeer(desired) {
			return
		}
		current = nil
	}
	config, differs := diffPeer(current, desired, p.missing(desired), endpointRule{
		last: last.endpoint, remembered: remembered, stale: current != nil && p.stale(current, desired),
	})
	if differs {
		if err := p.write(wgtypes.Config{Peers: []wgtypes.PeerConfig{config}}); err != nil {
			p.errs = append(p.errs, fmt.Errorf("node %s (peer %s): %w", desired.Node, key, explain(err, 0)))
			return
		}
		for _, prefix := range desired.AllowedIPs {
			p.owners[prefix.Masked()] = key
		}
		switch {
		case again: // a peer that stays away is no news
		case current == nil:
			p.added = append(p.added, desired.Node)
		default:
			p.changed = append(p.changed, desired.Node)
			if len(config.AllowedIPs) > 0 {
				p.given = append(p.given, desired.Node)
			}
		}
		p.log.Debug("peer set", "node", desired.Node, "peer", key, "new", current == nil, "endpoint", desired.Endpoint,
			"endpointWritten", config.Endpoint != nil, "allowedIPs", desired.AllowedIPs)
	}
	p.wanted[key] = wanted{node: desired.Node, endpoint: desired.Endpoint, attempt: desired.Attempt}
}

// stale reports whether a peer has no session that could be lost: neither by what the loop knows, which the system clock
// can't fool, nor by a handshake since.
func (p *pass) stale(current *wgtypes.Peer, desired view.Peer) bool {
	disowned := !desired.Disowned.IsZero() && desired.Disowned.Equal(current.LastHandshakeTime)
	return !desired.Established && (disowned || p.now.Sub(current.LastHandshakeTime).Abs() > staleAfter)
}

// dropPeer removes a peer without a session, so that adding it starts the handshake afresh.
func (p *pass) dropPeer(desired view.Peer) bool {
	config := wgtypes.PeerConfig{PublicKey: wgtypes.Key(desired.PublicKey), Remove: true, UpdateOnly: true}
	if err := p.write(wgtypes.Config{Peers: []wgtypes.PeerConfig{config}}); err != nil {
		p.errs = append(p.errs, fmt.Errorf("node %s (peer %s): starting its handshake afresh: %w", desired.Node,
			desired.PublicKey, explain(err, 0)))
		return false
	}
	for prefix, owner := range p.owners {
		if owner == desired.PublicKey {
			delete(p.owners, prefix)
		}
	}
	return true
}

// missing returns the allowed IPs that a peer should have and doesn't.
func (p *pass) missing(desired view.Peer) []netip.Prefix {
	var missing []netip.Prefix
	for _, prefix := range desired.AllowedIPs {
		if owner, owned := p.owners[prefix.Masked()]; !owned || owner != desired.PublicKey {
			missing = append(missing, prefix.Masked())
		}
	}
	return missing
}

// removeOthers removes the peers that aren't desired. It is given all the desired ones, also those that can't be
// set: what exists of them stays.
func (p *pass) removeOthers(desired []view.Peer) {
	stays := map[keys.PublicKey]bool{}
	for _, peer := range desired {
		stays[peer.PublicKey] = true
	}
	for _, peer := range p.current.Peers {
		key := keys.PublicKey(peer.PublicKey)
		if stays[key] {
			continue
		}
		node := p.wanted[key].node
		if node == "" {
			node = "unknown node (peer " + key.String() + ")"
		}
		config := wgtypes.PeerConfig{PublicKey: peer.PublicKey, Remove: true, UpdateOnly: true}
		if err := p.write(wgtypes.Config{Peers: []wgtypes.PeerConfig{config}}); err != nil {
			p.errs = append(p.errs, fmt.Errorf("node %s (peer %s): removing it: %w", node, key, explain(err, 0)))
			continue
		}
		for prefix, owner := range p.owners {
			if owner == key {
				delete(p.owners, prefix)
			}
		}
		delete(p.wanted, key)
		p.removed = append(p.removed, node)
	}
}

// takeAllowedIPs takes from the peers what they shouldn't have: it gives that to a throwaway peer and removes the
// peer, all in one write. WireGuard has no other way that leaves the rest of a peer's allowed IPs in place throughout.
func (p *pass) takeAllowedIPs(desired []view.Peer) {
	peers := map[keys.PublicKey]view.Peer{}
	for _, peer := range desired {
		peers[peer.PublicKey] = peer
	}
	var surplus []netip.Prefix
	var nodes []string
	for prefix, owner := range p.owners {
		if peer, live := peers[owner]; live && !slices.Contains(peer.AllowedIPs, prefix) {
			surplus = append(surplus, prefix)
			nodes = append(nodes, peer.Node)
		}
	}
	if len(surplus) == 0 {
		return
	}
	slices.SortFunc(surplus, netip.Prefix.Compare)
	slices.Sort(nodes)
	nodes = slices.Compact(nodes)
	throwaway, err := wgtypes.GeneratePrivateKey()
	if err == nil {
		public := throwaway.PublicKey()
		err = p.write(wgtypes.Config{Peers: []wgtypes.PeerConfig{
			{PublicKey: public, AllowedIPs: toIPNets(surplus)},
			{PublicKey: public, Remove: true, UpdateOnly: true},
		}})
	}
	if err != nil {
		p.errs = append(p.errs, fmt.Errorf("taking the allowed IPs %v from node %s: %w", surplus,
			strings.Join(nodes, ", "), explain(err, 0)))
		return
	}
	p.log.Debug("allowed IPs taken", "nodes", nodes, "allowedIPs", surplus)
	p.changed = append(p.changed, nodes...)
}

// brief lists up to five nodes, so that a line of the log stays one.
func brief(nodes []string) string {
	const most = 5
	slices.Sort(nodes)
	nodes = slices.Compact(nodes)
	if len(nodes) > most {
		return fmt.Sprintf("%s and %d more", strings.Join(nodes[:most], " "), len(nodes)-most)
	}
	return strings.Join(nodes, " ")
}
