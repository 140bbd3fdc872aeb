package way

import (
	"net/netip"
	"slices"

	"github.com/weaveguard/weaveguard/mesh/contract"
	"github.com/weaveguard/weaveguard/mesh/view"
)

// Kind is what a place is.
type Kind string

// Pod is an interface of a pod, or of another sandbox; Node a node itself; Elsewhere any other address.
const (
	Pod       Kind = "pod"
	Node      Kind = "node"
	Elsewhere Kind = "elsewhere"
)

// Place is where a packet comes from or goes to.
type Place struct {
	Kind    Kind       `json:"kind"`
	Name    string     `json:"name,omitempty"`    // of the pod (namespace/name), or of the node
	Node    string     `json:"node,omitempty"`    // that a pod is on
	Network string     `json:"network,omitempty"` // that a pod's interface is on
	Address netip.Addr `json:"address"`
}

// String is the place in words.
func (p Place) String() string {
	switch p.Kind {
	case Pod:
		return p.Name + " (" + p.Address.String() + ")"
	case Node:
		return "node " + p.Name + " (" + p.Address.String() + ")"
	}
	return p.Address.String()
}

// Find finds the places of a name: a pod's, with or without its namespace, a node's, or an address. There may be several: of
// interfaces, and of families, IPv4 first for each, and of several pods that have the name. A node's are the address that its peers
// send to, for this node all such, and last its gateways.
func Find(s view.Status, t view.Topology, name string) []Place {
	address, err := netip.ParseAddr(name)
	isAddress := err == nil && address.Zone() == ""
	address = address.Unmap()
	var found []Place
	for _, n := range t.Nodes {
		found = append(found, podsOf(n, name, address)...)
	}
	for _, n := range t.Nodes {
		for _, own := range addressesOf(s, n) {
			if n.Name == name || own == address {
				found = append(found, Place{Kind: Node, Name: n.Name, Node: n.Name, Address: own})
			}
		}
	}
	if len(found) == 0 && isAddress {
		found = append(found, Place{Kind: Elsewhere, Address: address})
	}
	return found
}

// addressesOf are those of a node itself that are known.
func addressesOf(s view.Status, n view.TopologyNode) []netip.Addr {
	var all []netip.Addr
	add := func(a netip.Addr) {
		if !slices.Contains(all, a) {
			all = append(all, a)
		}
	}
	if endpoint, err := netip.ParseAddrPort(n.Endpoint); err == nil {
		add(endpoint.Addr())
	}
	if n.Self {
		for _, endpoint := range s.Endpoints {
			add(endpoint.Addr())
		}
	}
	for _, network := range n.Networks {
		for _, cidr := range network.CIDRs {
			add(contract.Gateway(cidr))
		}
	}
	return all
}

// AtHome is the place, or this node where the kernel says that an address which nobody tells of is this node's.
func AtHome(k Kernel, t view.Topology, p Place) (Place, error) {
	if p.Kind != Elsewhere {
		return p, nil
	}
	r, err := k.Route(netip.Addr{}, p.Address, "")
	if err == nil && r.Local {
		p.Kind, p.Name, p.Node = Node, t.Node, t.Node
	}
	return p, err
}

func podsOf(n view.TopologyNode, name string, address netip.Addr) []Place {
	var found []Place
	for _, network := range n.Networks {
		for _, at := range network.Attachments {
			full := at.Pod
			if at.Namespace != "" {
				full = at.Namespace + "/" + at.Pod
			}
			for _, a := range at.Addresses {
				if name == at.Pod || name == full || a == address {
					found = append(found, Place{Kind: Pod, Name: full, Node: n.Name, Network: network.Name, Address: a})
				}
			}
		}
	}
	return found
}

// Pair picks a place of each that a packet can go between: of one family, and if it can be on one network.
func Pair(from, to []Place) (Place, Place, bool) {
	for _, fits := range []func(a, b Place) bool{
		func(a, b Place) bool { return a.Network == b.Network },
		func(Place, Place) bool { return true },
	} {
		for _, a := range from {
			i := slices.IndexFunc(to, func(b Place) bool { return a.Address.Is4() == b.Address.Is4() && fits(a, b) })
			if i >= 0 {
				return a, to[i], true
			}
		}
	}
	return Place{}, Place{}, false
}
