package view

import (
	"net"
	"net/netip"
	"time"

	"github.com/weaveguard/weaveguard/keys"
	"github.com/weaveguard/weaveguard/mesh/contract"
	"github.com/weaveguard/weaveguard/mesh/record"
)

// Desired is all that this node's kernel and its announcements should hold, as one value. Slices are sorted, so
// that equal plans print alike.
type Desired struct {
	Announce record.Record // own record; its sequence number is set when it is signed
	Devices  []Device
	Bridges  []Bridge
	Routes   []Route
	Paths    []Path // what to probe; none with an override
	Sysctls  []contract.Sysctl
	Firewall Firewall
	Ready    *Ready // nil: pods can't be attached, see Problems
	Problems []Problem
	// Links are those that Devices has the peers of, and what they are for; sorted by node, oldest first.
	Links []Link
	// PeerProblems says, for a known node by name, why it has no working link by plan.
	PeerProblems map[string]string
}

// Device is a tunnel device.
type Device struct {
	Name       string
	Generation uint32 // of this node: whose private key the device has
	ListenPort uint16
	MTU        int            // bytes, of the packets inside
	Addresses  []netip.Prefix // the gateway addresses of this node's networks, as single addresses, the default's first
	Peers      []Peer
}

// Peer is one node at the far end of a tunnel device.
type Peer struct {
	Node       string
	PublicKey  keys.PublicKey
	Endpoint   netip.AddrPort
	AllowedIPs []netip.Prefix
	Keepalive  time.Duration
	// Attempt, when it grew, is to remove the peer and add it again: WireGuard itself waits 5 s between handshakes
	// that nobody answers. Only for a peer without a session.
	Attempt int
	// Disowned is the handshake whose session the peer has lost, so that it is no session; zero: none.
	Disowned time.Time
	// Established: the peer has a session, as far as the loop knows, by a clock that nobody sets.
	Established bool
}

// Link is one WireGuard session between this node and a peer, by plan.
type Link struct {
	Node       string
	Device     string
	ListenPort uint16            // of the device
	Endpoint   netip.AddrPort    // of the peer
	Own        uint32            // generation of this node
	Peer       record.Generation // of the peer
	// Confirmed: the session is recent enough to move traffic to the link; see LinkState.
	Confirmed bool
	Silent    bool // see LinkState
	// Carries: traffic to the peer takes this link.
	Carries bool
}

// Bridge is the bridge of a network.
type Bridge struct {
	Name      string
	MAC       net.HardwareAddr
	Addresses []netip.Prefix // gateway address and length of the subnet; not masked
	MTU       int            // bytes
}

// Route is a route of the main table that we own.
type Route struct {
	Destination netip.Prefix
	Device      string     // "": unreachable
	Source      netip.Addr // preferred source; zero: none
	MTU         int        // bytes; 0: the device's
	Metric      int
}

// Path is the way to a peer's endpoint that is to be probed.
type Path struct {
	Address netip.Addr
	// Limit is what the way seems to carry, in bytes with the IP header: a whole number of what tunnels tell apart.
	Limit int
	// Found is what probes found that it carries, likewise, by what is known so far; 0: nothing was found.
	Found int
}

// Firewall is what the firewall rules need to know.
type Firewall struct {
	Tunnels   []string       // all names that a tunnel device can have
	Bridges   []string       // all bridges of ours
	PodRanges []netip.Prefix // what only tunnels and bridges may carry, of all networks
	LocalPods []netip.Prefix // the CIDRs of all networks on this node
	Gateways  []netip.Addr   // at most one of each family: what foreign sources become on a tunnel
	// Networks are those that are kept apart, the default one first, the others sorted by name. With fewer than two
	// there is nothing to keep apart.
	Networks []FirewallNetwork
	Nodes    []netip.Addr // addresses of all nodes, as far as they are known, this one too
	// GuardedTCP and GuardedUDP are ports of nodes that pods mustn't reach.
	GuardedTCP, GuardedUDP []uint16
}

// FirewallNetwork is a network as the firewall sees it: from its ranges nothing gets to another's.
type FirewallNetwork struct {
	Name     string
	Ranges   []netip.Prefix // no two networks' overlap
	Gateways []netip.Addr   // what foreign sources become on a tunnel towards the network; none: as for the default one
	Reaches  []string       // names of networks that it isn't kept apart from, in either direction; sorted
}

// Ready says that pods can be attached, and how.
type Ready struct {
	Bridge   string
	Subnets  []netip.Prefix
	Gateways []netip.Addr
	MTU      int // bytes, of a pod's interface
	// Networks are those beside the default one that pods can be attached to, sorted by name.
	Networks []ReadyNetwork
}

// ReadyNetwork is a network beside the default one that pods can be attached to.
type ReadyNetwork struct {
	Name     string
	Bridge   string
	Subnets  []netip.Prefix // of this node; one of each family at most, IPv4 first
	Gateways []netip.Addr   // of Subnets, in the same order
	Ranges   []netip.Prefix // of the whole network
	Reached  []netip.Prefix // of the networks beside the default one that it isn't kept apart from, sorted
	MTU      int            // bytes, of a pod's interface
}

// Problem is something that an operator should know about: Subject names the thing, Message says what is wrong,
// Remedy what to do.
type Problem struct {
	Subject string `json:"subject"`
	Message string `json:"message"`
	Remedy  string `json:"remedy,omitempty"`
	// Warning: nothing is broken by it now.
	Warning bool `json:"warning,omitempty"`
	// Early: a healthy node may have it for a moment when it is new.
	Early bool `json:"-"`
}

// String is the problem as one line.
func (p Problem) String() string {
	if p.Remedy == "" {
		return p.Subject + ": " + p.Message
	}
	return p.Subject + ": " + p.Message + "; " + p.Remedy
}
