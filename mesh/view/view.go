package view

import (
	"net/netip"
	"strconv"
	"time"

	"github.com/weaveguard/weaveguard/keys"
	"github.com/weaveguard/weaveguard/mesh/record"
)

// View is the mesh view: all that this node has verified, at one moment. It is immutable: who has one may keep
// it, and nobody changes it.
type View struct {
	Self      Self
	Peers     []Node         // every other node whose record counts, sorted by name
	Waiting   []Waiting      // nodes that are known of, but have no record that counts, sorted by name
	PodRanges []netip.Prefix // all that pods of any node have addresses from
	// PodRangeSource says where PodRanges come from, in words for operators.
	PodRangeSource string
	// PodRangesSeen: nobody configured PodRanges; they are the pod CIDRs seen so far.
	PodRangesSeen bool
	Links         []LinkState // what the tunnels showed last
	// NodeAddresses are those by which Kubernetes says that nodes may be reached, sorted: also of nodes without a record,
	// and such as no tunnel uses.
	NodeAddresses []netip.Addr
}

// Self is this node, as it knows itself.
type Self struct {
	Name        string
	Identity    keys.PublicIdentity
	Generations []record.Generation // what the key store holds, oldest first
	// Unannounced: the newer of two Generations isn't to be told to anybody yet.
	Unannounced bool
	PodCIDRs    []netip.Prefix // at most one of each family; none: not known yet
	Addresses   []netip.Addr   // underlay addresses, at most one of each family
	// Endpoint is what peers send to instead of the address of its family; zero: that one.
	Endpoint netip.Addr
	Bridge   string
	BasePort uint16
	// MTU overrides what the underlay seems to carry: the MTU inside the tunnels in bytes; 0: find out.
	MTU int
	// Age orders nodes by when they were made, for conflicts: the older one keeps what it has.
	Age int64
	// WireGuard is how tunnel devices are made: kernel or userspace.
	WireGuard string
	// AllowPodsTo names what of nodes pods may reach: GuardedServices has the names.
	AllowPodsTo []string
	// OwnPorts are this node's TCP ports of services that it serves on others than usual.
	OwnPorts []OwnPort
	// Networks are this node's beside the default one, sorted by name, MaxNetworks at most. No two of them overlap, nor
	// does one overlap the default network's pod ranges.
	Networks []Network
	// Closed is why no pod is attached yet, or any more, though there may be PodCIDRs: they are claimed; nil: pods are.
	Closed *Problem
}

// OwnPort is a TCP port of one of GuardedServices.
type OwnPort struct {
	Service string
	Port    uint16
}

// String is the port as text.
func (o OwnPort) String() string { return o.Service + ":" + strconv.Itoa(int(o.Port)) }

// Node is another node: its verified record, and what the cluster says of it.
type Node struct {
	Name        string
	Identity    keys.PublicIdentity
	Sequence    uint64
	Generations []record.Generation
	Endpoints   []netip.AddrPort // address and first WireGuard port; at most one of each family, IPv4 first
	PodCIDRs    []netip.Prefix   // at most one of each family, IPv4 first
	MTU         int              // what its underlay carries, bytes; 0: unknown
	Age         int64            // see Self.Age
	Alive       bool             // gossip sees it now; for status only
	// Networks are those beside the default one that count, sorted by name, MaxNetworks at most: what is refused of its
	// document isn't here.
	Networks []Network
}

// Waiting is a node that can't be a peer yet.
type Waiting struct {
	Name   string
	Reason string // in words for operators
	Alive  bool
}

// LinkState is one link as the tunnel device showed it.
type LinkState struct {
	Device    string
	Own       keys.PublicKey // the device's: a session of another key is none of the link's
	PublicKey keys.PublicKey // the peer's
	// Confirmed: the last handshake is recent enough to move traffic to the link.
	Confirmed bool
	// Established: the last handshake is recent enough to carry traffic.
	Established bool
	// Met: there was a handshake at some time.
	Met bool
	// Silent: nothing has come from the peer by it for long, and it was watched all that time.
	Silent bool
	// Ripe: this node's end has stood for long enough that the peer's will stand too.
	Ripe bool
	// Overdue: the link has been without a session for longer than one takes to set up.
	Overdue bool
	// Attempt grows while the link is without a session: each one is to start the handshake afresh.
	Attempt int
	// Disowned is the last handshake, as the device gave it, if the peer has lost the session that it made; else zero.
	Disowned time.Time
}
