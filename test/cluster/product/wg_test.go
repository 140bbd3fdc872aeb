package product_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// wgDump is what `wg show all dump` says of a node, as of wg(8).
type wgDump struct {
	publicKey, port string
	peers           map[string]wgPeer // by public key
}

type wgPeer struct {
	endpoint, allowedIPs string
	handshake            time.Time // zero: none
}

// endpoints are those of all peers, sorted.
func (d wgDump) endpoints() []string {
	var all []string
	for _, p := range d.peers {
		all = append(all, p.endpoint)
	}
	slices.Sort(all)
	return all
}

// wg looks at WireGuard on a node's host.
func (w *world) wg(ctx context.Context, node string) (wgDump, error) {
	d := wgDump{peers: map[string]wgPeer{}}
	text, err := w.OnNode(ctx, node, "wg", "show", "weave-wg0", "dump")
	if err != nil {
		return d, err
	}
	for line := range strings.Lines(text) {
		fields := strings.Split(strings.TrimSpace(line), "\t")
		switch len(fields) {
		case 4: // private key, public key, listen port, fwmark
			d.publicKey, d.port = fields[1], fields[2]
		case 8: // public key, preshared key, endpoint, allowed IPs, latest handshake, received, sent, keepalive
			p := wgPeer{endpoint: fields[2], allowedIPs: fields[3]}
			seconds, err := strconv.ParseInt(fields[4], 10, 64)
			if err != nil {
				return d, fmt.Errorf("wg on %s said %q: %w", node, line, err)
			}
			if seconds > 0 {
				p.handshake = time.Unix(seconds, 0)
			}
			d.peers[fields[0]] = p
		default:
			return d, fmt.Errorf("wg on %s said %q", node, line)
		}
	}
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

// peersOf are the endpoints that a node should have.
func (w *world) peersOf(node string, nodes []string) []string {
	var all []string
	for _, other := range nodes {
		if other != node {
			all = append(all, w.address[other].String()+":51820")
		}
	}
	slices.Sort(all)
	return all
}

// testWGShow shows that `wg show` on each node's host lists every other node with a recent handshake.
func (w *world) testWGShow(t *testing.T) {
	for _, node := range w.nodes {
		text := w.on(t, node, "wg", "show")
		if n := strings.Count(text, "latest handshake: "); n != len(w.nodes)-1 || !strings.Contains(text, "interface: weave-wg0\n") {
			t.Errorf("wg show on %s lists %d handshakes:\n%s", node, n, text)
		}
		d := w.mustWG(t, node)
		if want := w.peersOf(node, w.nodes); !slices.Equal(d.endpoints(), want) {
			t.Errorf("wg on %s lists the endpoints %v, want %v", node, d.endpoints(), want)
		}
		for key, p := range d.peers {
			const recent = 180 * time.Second // a session's end, WireGuard's REJECT_AFTER_TIME
			if age := time.Since(p.handshake); age > recent {
				t.Errorf("wg on %s lists peer %s with its last handshake %s ago", node, key, age)
			}
		}
	}
}

// keptSessions compares before with after: the same peers, and no handshake that WireGuard wouldn't have made by
// itself, which it does after 120 s (REKEY_AFTER_TIME).
func keptSessions(before, after wgDump) error {
	if before.publicKey != after.publicKey || before.port != after.port {
		return fmt.Errorf("key and port were %s, %s and are %s, %s", before.publicKey, before.port, after.publicKey, after.port)
	}
	was, is := slices.Sorted(maps.Keys(before.peers)), slices.Sorted(maps.Keys(after.peers))
	if !slices.Equal(was, is) {
		return fmt.Errorf("peers were %v and are %v", was, is)
	}
	var all []error
	for key, b := range before.peers {
		const due = 120*time.Second - time.Second // wg(8) tells whole seconds
		a := after.peers[key]
		if !a.handshake.Equal(b.handshake) && a.handshake.Sub(b.handshake) < due {
			all = append(all, fmt.Errorf("there was a new handshake with %s, %s after the one before", a.endpoint, a.handshake.Sub(b.handshake)))
		}
		if a.allowedIPs != b.allowedIPs || a.endpoint != b.endpoint {
			all = append(all, fmt.Errorf("peer %s was %+v and is %+v", key, b, a))
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
	if !slices.ContainsFunc(slices.Collect(maps.Values(d.peers)), func(p wgPeer) bool {
		return p.endpoint == w.address[other].String()+":51820" && p.allowedIPs == cidr
	}) {
		return fmt.Errorf("%s hasn't %s with %s among its peers %+v", node, other, cidr, d.peers)
	}
	routes, err := w.OnNode(ctx, node, "ip", "route", "show", cidr)
	if err != nil {
		return err
	}
	if !strings.Contains(routes, "dev weave-wg0 ") {
		return fmt.Errorf("%s has no route to %s through the tunnel: %q", node, cidr, routes)
	}
	return nil
}

// hasNothing tells whether a node has nothing left of another that had the address and pod CIDR.
func (w *world) hasNothing(ctx context.Context, node, address, cidr string) error {
	d, err := w.wg(ctx, node)
	if err != nil {
		return err
	}
	for _, p := range d.peers {
		if strings.HasPrefix(p.endpoint, address+":") || p.allowedIPs == cidr {
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
		if strings.HasPrefix(peer.Endpoint, address+":") {
			return fmt.Errorf("the status of %s still lists %+v", node, peer)
		}
	}
	return nil
}
