package product_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// wgDump is what `wg show all dump` says of a node, as of wg(8).
type wgDump struct {
	devices map[string]wgDevice // by name
	peers   []wgPeer            // sorted by device and key
}

type wgDevice struct{ publicKey, port string }

type wgPeer struct {
	device, publicKey    string
	endpoint, allowedIPs string
	handshake            time.Time // zero: none
}

// isOf tells whether the peer is the node at an address: at whichever tunnel port, as that depends on how often both
// nodes have changed their keys.
func (p wgPeer) isOf(address netip.Addr) bool {
	at, err := netip.ParseAddrPort(p.endpoint)
	return err == nil && at.Addr() == address && isTunnel(at)
}

// hosts are the addresses of all peers, sorted, each as often as it is there.
func (d wgDump) hosts() []netip.Addr {
	var all []netip.Addr
	for _, p := range d.peers {
		at, _ := netip.ParseAddrPort(p.endpoint) // wg says "(none)" of a peer without one
		all = append(all, at.Addr())
	}
	slices.SortFunc(all, netip.Addr.Compare)
	return all
}

// publicKeys are those of the node's own tunnel devices, sorted, each once.
func (d wgDump) publicKeys() []string {
	var all []string
	for _, device := range d.devices {
		all = append(all, device.publicKey)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// peerKeys are the public keys of all peers, sorted, each as often as it is there.
func (d wgDump) peerKeys() []string {
	var all []string
	for _, p := range d.peers {
		all = append(all, p.publicKey)
	}
	slices.Sort(all)
	return all
}

// wg looks at WireGuard on a node's host.
func (w *world) wg(ctx context.Context, node string) (wgDump, error) {
	d := wgDump{devices: map[string]wgDevice{}}
	text, err := w.OnNode(ctx, node, "wg", "show", "all", "dump")
	if err != nil {
		return d, err
	}
	for line := range strings.Lines(text) {
		fields := strings.Split(strings.TrimSpace(line), "\t")
		switch len(fields) {
		case 5: // device, private key, public key, listen port, fwmark
			d.devices[fields[0]] = wgDevice{publicKey: fields[2], port: fields[3]}
		case 9: // device, public key, preshared key, endpoint, allowed IPs, latest handshake, received, sent, keepalive
			p := wgPeer{device: fields[0], publicKey: fields[1], endpoint: fields[3], allowedIPs: fields[4]}
			seconds, err := strconv.ParseInt(fields[5], 10, 64)
			if err != nil {
				return d, fmt.Errorf("wg on %s said %q: %w", node, line, err)
			}
			if seconds > 0 {
				p.handshake = time.Unix(seconds, 0)
			}
			d.peers = append(d.peers, p)
		default:
			return d, fmt.Errorf("wg on %s said %q", node, line)
		}
	}
	slices.SortFunc(d.peers, func(a, b wgPeer) int {
		return cmp.Or(cmp.Compare(a.device, b.device), cmp.Compare(a.publicKey, b.publicKey))
	})
	return d, nil
}

func (w *world) mustWG(t *testing.T, node string) wgDump {
	t.Helper()
	d, err := w.wg(t.Context(), node)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// peersOf are the addresses that a node should have as peers, sorted.
func (w *world) peersOf(node string) []netip.Addr {
	var all []netip.Addr
	for _, other := range w.nodes {
		if other != node {
			all = append(all, w.address[other])
		}
	}
	slices.SortFunc(all, netip.Addr.Compare)
	return all
}

// testWGShow shows that `wg show` on each node's host lists every other node with a recent handshake.
func (w *world) testWGShow(t *testing.T) {
	for _, node := range w.nodes {
		text := w.on(t, node, "wg", "show")
		if n := strings.Count(text, "latest handshake: "); n != len(w.nodes)-1 || !strings.Contains(text, "interface: weave-wg") {
			t.Errorf("wg show on %s lists %d handshakes:\n%s", node, n, text)
		}
		d := w.mustWG(t, node)
		if want := w.peersOf(node); !slices.Equal(d.hosts(), want) {
			t.Errorf("wg on %s lists peers at %v, want %v", node, d.hosts(), want)
		}
		for _, p := range d.peers {
			const recent = 180 * time.Second // a session's end, WireGuard's REJECT_AFTER_TIME
			if age := time.Since(p.handshake); age > recent {
				t.Errorf("wg on %s lists peer %s with its last handshake %s ago", node, p.publicKey, age)
			}
		}
	}
}

// keptSessions compares before with after: the same devices and peers, and no handshake that WireGuard wouldn't have
// made by itself, which it does after 120 s (REKEY_AFTER_TIME).
func keptSessions(before, after wgDump) error {
	if !maps.Equal(before.devices, after.devices) {
		return fmt.Errorf("devices were %v and are %v", before.devices, after.devices)
	}
	if !slices.Equal(before.peerKeys(), after.peerKeys()) {
		return fmt.Errorf("peers were %v and are %v", before.peerKeys(), after.peerKeys())
	}
	var all []error
	for i, b := range before.peers {
		const due = 120*time.Second - time.Second // wg(8) tells whole seconds
		a := after.peers[i]
		if !a.handshake.Equal(b.handshake) && a.handshake.Sub(b.handshake) < due {
			all = append(all, fmt.Errorf("there was a new handshake with %s, %s after the one before", a.endpoint, a.handshake.Sub(b.handshake)))
		}
		a.handshake = b.handshake
		if a != b {
			all = append(all, fmt.Errorf("a peer was %+v and is %+v", b, a))
		}
	}
	return errors.Join(all...)
}

// hasPlace tells whether a node has another as its peer, and the routes to its pods.
func (w *world) hasPlace(ctx context.Context, node, other string) error {
	d, err := w.wg(ctx, node)
	if err != nil {
		return err
	}
	cidr := w.pods[other].String()
	if !slices.ContainsFunc(d.peers, func(p wgPeer) bool { return p.isOf(w.address[other]) && p.allowedIPs == cidr }) {
		return fmt.Errorf("%s hasn't %s with %s among its peers %+v", node, other, cidr, d.peers)
	}
	routes, err := w.OnNode(ctx, node, "ip", "route", "show", cidr)
	if err != nil {
		return err
	}
	if !strings.Contains(routes, "dev weave-wg") {
		return fmt.Errorf("%s has no route to %s through the tunnel: %q", node, cidr, routes)
	}
	return nil
}

// hasNothing tells whether a node has nothing left of another that had the address and pod CIDR.
func (w *world) hasNothing(ctx context.Context, node string, address netip.Addr, cidr string) error {
	d, err := w.wg(ctx, node)
	if err != nil {
		return err
	}
	for _, p := range d.peers {
		if strings.HasPrefix(p.endpoint, address.String()+":") || p.allowedIPs == cidr {
			return fmt.Errorf("%s still has the peer %+v", node, p)
		}
	}
	state, err := w.OnNode(ctx, node, "sh", "-c", "ip route show table all; ip address; ip neighbour")
	if err != nil {
		return err
	}
	for line := range strings.Lines(state) {
		if strings.Contains(line, cidr) && !strings.HasPrefix(line, "unreachable ") {
			return fmt.Errorf("%s still has %q", node, line)
		}
	}
	status, err := w.status(ctx, node)
	if err != nil {
		return err
	}
	for _, peer := range status.Peers {
		if strings.HasPrefix(peer.Endpoint, address.String()+":") {
			return fmt.Errorf("the status of %s still lists %+v", node, peer)
		}
	}
	return nil
}
