package tunnel

import (
	"fmt"
	"math"
	"net"
	"net/netip"
	"slices"
	"time"

	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"github.com/weaveguard/weaveguard/keys"
	"github.com/weaveguard/weaveguard/mesh/view"
)

// staleAfter is the age from which a handshake says nothing of the present: WireGuard drops a session's keys then
// (Reject-After-Time in section 6.1 of its paper).
const staleAfter = 180 * time.Second

// endpointRule is what decides, beside the two endpoints, whether a live peer's endpoint is written.
type endpointRule struct {
	last       netip.AddrPort // what was last wanted,
	remembered bool           // if that is known: not in the first pass of an agent
	stale      bool           // the peer has no session that could be lost
}

// write reports whether the desired endpoint is to be written over that of a live peer. A difference alone is no
// reason: the peer may have roamed, and only packets that it signed move an endpoint.
func (r endpointRule) write(current *wgtypes.Peer, desired netip.AddrPort) bool {
	if !desired.IsValid() || endpointOf(current) == desired {
		return false
	}
	return r.stale || r.remembered && r.last != desired
}

// diffPeer returns the change that makes a peer be as desired, and whether there is any. Current is nil for a peer
// that doesn't exist; missing are the allowed IPs that it lacks.
func diffPeer(current *wgtypes.Peer, desired view.Peer, missing []netip.Prefix, rule endpointRule) (wgtypes.PeerConfig, bool) {
	config := wgtypes.PeerConfig{PublicKey: wgtypes.Key(desired.PublicKey), AllowedIPs: toIPNets(missing)}
	keepalive := wholeSeconds(desired.Keepalive)
	if current == nil {
		config.PersistentKeepaliveInterval = &keepalive
		if desired.Endpoint.IsValid() {
			config.Endpoint = net.UDPAddrFromAddrPort(desired.Endpoint)
		}
		return config, true
	}
	config.UpdateOnly = true
	differs := len(missing) > 0
	if current.PersistentKeepaliveInterval != keepalive {
		config.PersistentKeepaliveInterval = &keepalive
		differs = true
	}
	if none := (wgtypes.Key{}); current.PresharedKey != none { // ours have none: with one at this end alone the next handshake fails
		config.PresharedKey = &none
		differs = true
	}
	if rule.write(current, desired.Endpoint) {
		config.Endpoint = net.UDPAddrFromAddrPort(desired.Endpoint)
		differs = true
	}
	return config, differs
}

// check returns the peers that a device can have, and what is wrong with the others. WireGuard itself would ignore
// or mix them up in silence.
func check(desired []view.Peer, own keys.PublicKey) ([]view.Peer, []error) {
	var good []view.Peer
	var errs []error
	nodes := map[keys.PublicKey]string{own: ""}
	givenTo := map[netip.Prefix]view.Peer{}
	for _, peer := range desired {
		if err := checkPeer(peer, nodes); err != nil {
			errs = append(errs, fmt.Errorf("node %s (peer %s): %w", peer.Node, peer.PublicKey, err))
			continue
		}
		nodes[peer.PublicKey] = peer.Node
		var allowed []netip.Prefix
		for _, prefix := range peer.AllowedIPs {
			prefix = prefix.Masked()
			other, taken := givenTo[prefix]
			if taken && other.PublicKey != peer.PublicKey {
				errs = append(errs, fmt.Errorf("node %s (peer %s): the allowed IPs %s belong to node %s, which keeps them",
					peer.Node, peer.PublicKey, prefix, other.Node))
			}
			if !taken {
				givenTo[prefix] = peer
				allowed = append(allowed, prefix)
			}
		}
		peer.AllowedIPs = allowed
		peer.Endpoint = unmap(peer.Endpoint)
		good = append(good, peer)
	}
	return good, errs
}

// checkPeer checks a peer against those before it, whose nodes it gets by key; this node is "".
func checkPeer(peer view.Peer, nodes map[keys.PublicKey]string) error {
	other, taken := nodes[peer.PublicKey]
	switch {
	case peer.PublicKey.IsZero():
		return fmt.Errorf("it has no public key")
	case taken && other == "":
		return fmt.Errorf("it has the key of this node: its key store looks like a copy; give that node keys of its own")
	case taken:
		return fmt.Errorf("it has the key of node %s: one key store looks like a copy of the other; give one of them "+
			"keys of its own", other)
	case peer.Keepalive < 0 || peer.Keepalive > math.MaxUint16*time.Second:
		return fmt.Errorf("the keepalive %s isn't between 0 and %s", peer.Keepalive, math.MaxUint16*time.Second)
	case peer.Endpoint != netip.AddrPort{} && (!peer.Endpoint.IsValid() || peer.Endpoint.Port() == 0):
		return fmt.Errorf("the endpoint %s isn't an address and a port", peer.Endpoint)
	case slices.ContainsFunc(peer.AllowedIPs, func(p netip.Prefix) bool { return !p.IsValid() }):
		return fmt.Errorf("the allowed IPs %v aren't all prefixes", peer.AllowedIPs)
	}
	return nil
}

// owners says which peer has which allowed IP.
func owners(peers []wgtypes.Peer) map[netip.Prefix]keys.PublicKey {
	owners := map[netip.Prefix]keys.PublicKey{}
	for _, peer := range peers {
		for _, allowed := range peer.AllowedIPs {
			if prefix, ok := toPrefix(allowed); ok {
				owners[prefix] = keys.PublicKey(peer.PublicKey)
			}
		}
	}
	return owners
}

// endpointOf returns the endpoint of a peer; zero if it has none.
func endpointOf(peer *wgtypes.Peer) netip.AddrPort {
	if peer.Endpoint == nil {
		return netip.AddrPort{}
	}
	return unmap(peer.Endpoint.AddrPort())
}

// unmap gives IPv4 addresses as such, so that equal endpoints compare equal.
func unmap(endpoint netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(endpoint.Addr().Unmap(), endpoint.Port())
}

// wholeSeconds rounds up to what WireGuard knows: less than a second is a second, not off.
func wholeSeconds(d time.Duration) time.Duration {
	return (d + time.Second - 1).Truncate(time.Second)
}

func toIPNets(prefixes []netip.Prefix) []net.IPNet {
	var nets []net.IPNet
	for _, p := range prefixes {
		nets = append(nets, net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())})
	}
	return nets
}

func toPrefix(allowed net.IPNet) (netip.Prefix, bool) {
	address, ok := netip.AddrFromSlice(allowed.IP)
	bits, size := allowed.Mask.Size()
	if !ok || size == 0 {
		return netip.Prefix{}, false
	}
	if size == 32 {
		address = address.Unmap()
	}
	return netip.PrefixFrom(address, bits), true
}
