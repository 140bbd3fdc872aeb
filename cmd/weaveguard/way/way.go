// Package way says which way a packet of this node goes, and where it would be dropped: by what the agent knows, by its rules,
// and by what the kernel answers. It sends nothing.
package way

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/weaveguard/weaveguard/mesh/contract"
	"github.com/weaveguard/weaveguard/mesh/view"
)

// Kernel is that of this node.
type Kernel interface {
	// Route is where a packet goes that came in by a device; "": that this node sends by itself.
	Route(from, to netip.Addr, in string) (Route, error)
	// Holder is the device that has an address; "": none has.
	Holder(address netip.Addr) (string, error)
}

// Route is an answer of the kernel.
type Route struct {
	Device  string
	Gateway netip.Addr // zero: none
	Source  netip.Addr // what this node sends from; zero: it doesn't say
	MTU     int        // bytes, of the route or else of the device
	Local   bool       // to this node itself
	Refused string     // why there is none, in words; "": there is one
}

// Step is a part of the way.
type Step struct {
	Text     string `json:"text"`
	Device   string `json:"device,omitempty"`
	Peer     string `json:"peer,omitempty"` // the node that a tunnel leads to
	Endpoint string `json:"endpoint,omitempty"`
	MTU      int    `json:"mtu,omitempty"` // bytes
}

// Way is which way a packet goes.
type Way struct {
	From  Place  `json:"from"`
	To    Place  `json:"to"`
	Steps []Step `json:"steps"`
	// Dropped says where and why the packet isn't delivered; "": it is, or it leaves what Weaveguard knows.
	Dropped string `json:"dropped,omitempty"`
	Remedy  string `json:"remedy,omitempty"`
}

// tracer follows one packet.
type tracer struct {
	status   view.Status
	topology view.Topology
	kernel   Kernel
	way      Way
}

// Trace follows a packet between two places of one family. The first is a pod of this node, or this node itself.
func Trace(s view.Status, t view.Topology, k Kernel, from, to Place) (Way, error) {
	tr := &tracer{status: s, topology: t, kernel: k, way: Way{From: from, To: to, Steps: []Step{}}}
	in, source := "", netip.Addr{}
	if from.Kind == Pod {
		var err error
		if in, err = tr.leavePod(); err != nil || tr.way.Dropped != "" {
			return tr.way, err
		}
		source = from.Address
	}
	route, err := k.Route(source, to.Address, in)
	if err == nil {
		err = tr.follow(route)
	}
	return tr.way, err
}

func (t *tracer) step(s Step) { t.way.Steps = append(t.way.Steps, s) }

func (t *tracer) drop(remedy, format string, args ...any) {
	t.way.Dropped, t.way.Remedy = fmt.Sprintf(format, args...), remedy
}

// leavePod is the way to the bridge of the pod's network, which it returns.
func (t *tracer) leavePod() (string, error) {
	from := t.way.From
	cidrs := t.cidrs(from.Network)
	i := slices.IndexFunc(cidrs, func(p netip.Prefix) bool { return p.Contains(from.Address) })
	if i < 0 {
		t.drop("have the pod made again", "%s isn't in this node's part of the network %s, so nothing comes back to it: it is a stray", from.Address, from.Network)
		return "", nil
	}
	gateway := contract.Gateway(cidrs[i])
	bridge, err := t.kernel.Holder(gateway)
	switch {
	case err != nil:
		return "", err
	case bridge == "":
		t.drop("see `weaveguard status`", "no device of this node has the pod's gateway %s: the bridge is missing, or has lost its address", gateway)
		return "", nil
	}
	t.step(Step{Text: fmt.Sprintf("from %s to its gateway %s, the bridge of network %s", from, gateway, from.Network), Device: bridge})
	if why := t.apart(); why != "" {
		t.drop("have one of the networks reach the other, if that is wanted: `reaches` in its configuration", "%s", why)
	}
	return bridge, nil
}

// cidrs are this node's part of a network.
func (t *tracer) cidrs(network string) []netip.Prefix {
	if network == view.DefaultNetwork {
		return t.status.PodCIDRs
	}
	if n := t.network(network); n != nil {
		return n.CIDRs
	}
	return nil
}

// network is one of this node's beside the default one.
func (t *tracer) network(name string) *view.Network {
	i := slices.IndexFunc(t.status.Networks, func(n view.Network) bool { return n.Name == name })
	if i < 0 {
		return nil
	}
	return &t.status.Networks[i]
}

// networkOf is the network whose ranges an address is in; "": none that this node has.
func (t *tracer) networkOf(address netip.Addr) string {
	for _, n := range t.status.Networks {
		if contains(n.Ranges, address) {
			return n.Name
		}
	}
	if contains(t.status.PodRanges, address) || contains(t.status.PodCIDRs, address) {
		return view.DefaultNetwork
	}
	return ""
}

// apart says why the pod's network doesn't reach that of where the packet goes; "": it does, or there is none.
func (t *tracer) apart() string {
	from, to := t.way.From.Network, t.networkOf(t.way.To.Address)
	if to == "" || from == to || t.reaches(from, to) || t.reaches(to, from) {
		return ""
	}
	return fmt.Sprintf("the firewall of this node keeps the networks %s and %s apart", from, to)
}

// reaches reports whether a network of this node is configured to reach another one.
func (t *tracer) reaches(from, to string) bool {
	n := t.network(from)
	return n != nil && slices.Contains(n.Reaches, to)
}

// follow takes the route that the kernel has.
func (t *tracer) follow(r Route) error {
	to := t.way.To.Address
	switch peer := t.behind(r.Device); {
	case r.Refused != "" && t.networkOf(to) != "":
		t.step(Step{Text: "the kernel has no route: " + r.Refused})
		t.drop("see `weaveguard topology` for who has which addresses", "%s is a pod's address, and no node that is known here has it: it fails closed, and doesn't leave in the clear", to)
	case r.Refused != "":
		t.drop("see `ip route get` on this node", "the kernel has no route: %s", r.Refused)
	case r.Local:
		text := fmt.Sprintf("%s is an address of this node itself", to)
		if t.way.From.Kind == Pod {
			text += "; its ports of gossip, metrics, health and WireGuard aren't for pods"
		}
		t.step(Step{Text: text, Device: r.Device})
	case t.ours(r.Device):
		t.step(Step{Text: "to the pods of this node, by the bridge", Device: r.Device, MTU: r.MTU})
		t.arrive(t.topology.Node)
	case peer != nil:
		t.tunnel(*peer, r)
	default:
		t.leave(r)
	}
	return nil
}

// ours reports whether a device is the bridge of one of this node's networks.
func (t *tracer) ours(device string) bool {
	cidrs := slices.Clone(t.status.PodCIDRs)
	for _, n := range t.status.Networks {
		cidrs = append(cidrs, n.CIDRs...)
	}
	return slices.ContainsFunc(cidrs, func(p netip.Prefix) bool {
		holder, err := t.kernel.Holder(contract.Gateway(p))
		return err == nil && holder == device && !strings.HasPrefix(device, contract.DevicePrefix)
	})
}

// behind is the peer that a tunnel device leads the packet to; nil: the device is no tunnel, or has no peer for it.
func (t *tracer) behind(device string) *view.PeerStatus {
	if !strings.HasPrefix(device, contract.DevicePrefix) {
		return nil
	}
	i := slices.IndexFunc(t.status.Peers, func(p view.PeerStatus) bool {
		return contains(p.PodCIDRs, t.way.To.Address) || slices.ContainsFunc(p.Networks, func(n view.Network) bool {
			return contains(n.CIDRs, t.way.To.Address)
		})
	})
	if i < 0 {
		return nil
	}
	return &t.status.Peers[i]
}

// tunnel is the way to another node.
func (t *tracer) tunnel(peer view.PeerStatus, r Route) {
	t.step(Step{
		Text:   fmt.Sprintf("by the tunnel to %s, encrypted, at %s", peer.Node, peer.Endpoint),
		Device: r.Device, Peer: peer.Node, Endpoint: peer.Endpoint, MTU: r.MTU,
	})
	if !peer.Up {
		t.drop("`weaveguard peers "+peer.Node+"` has more", "the link to %s has no session: %s", peer.Node, peer.Reason)
		return
	}
	t.arrive(peer.Node)
}

// arrive is the end of the way, on the node that has the address.
func (t *tracer) arrive(node string) {
	to := t.way.To
	for _, n := range t.topology.Nodes {
		if n.Name != node {
			continue
		}
		for _, network := range n.Networks {
			if slices.ContainsFunc(network.CIDRs, func(p netip.Prefix) bool { return contract.Gateway(p) == to.Address }) {
				t.step(Step{Text: fmt.Sprintf("%s is the gateway of network %s on %s, and answers itself", to.Address, network.Name, node)})
				return
			}
			for _, at := range network.Attachments {
				if slices.Contains(at.Addresses, to.Address) {
					t.step(Step{Text: fmt.Sprintf("to %s, interface %s, on %s", to, at.Interface, node)})
					return
				}
			}
		}
		if n.Stale != "" || n.Omitted > 0 {
			t.step(Step{Text: fmt.Sprintf("%s has the address, if a pod has it: not all of its pods are known here", node)})
			return
		}
	}
	t.drop("see `weaveguard pods`", "no pod on %s has the address %s: it answers that the host is unreachable", node, to.Address)
}

// leave is the way out of the cluster.
func (t *tracer) leave(r Route) {
	to := t.way.To.Address
	text := "out by " + r.Device
	if r.Gateway.IsValid() {
		text += ", to the router " + r.Gateway.String()
	}
	switch {
	case t.networkOf(to) != "":
		t.step(Step{Text: text, Device: r.Device, MTU: r.MTU})
		t.drop("remove the route: `ip route get "+to.String()+"` shows it", "%s is a pod's address, and the firewall lets nothing to pods leave by %s: it would be in the clear", to, r.Device)
		return
	case t.way.From.Kind == Pod && r.Source.IsValid():
		text += ", from this node's address " + r.Source.String() + " instead of the pod's (masquerade)"
	case t.way.From.Kind == Pod:
		text += ", from this node's address instead of the pod's (masquerade)"
	}
	if t.way.To.Kind == Node {
		text += "; nodes' own addresses aren't reached through tunnels, so it isn't encrypted"
	}
	t.step(Step{Text: text, Device: r.Device, MTU: r.MTU})
}

func contains(prefixes []netip.Prefix, address netip.Addr) bool {
	return slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Contains(address) })
}
