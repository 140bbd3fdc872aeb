package mesh

import (
	"context"
	"net/netip"
	"time"

	"github.com/weaveguard/weaveguard/keys"
	"github.com/weaveguard/weaveguard/mesh/contract"
	"github.com/weaveguard/weaveguard/mesh/view"
)

// Keys is the node's key store.
type Keys interface {
	Identity() keys.Identity
	Generations() []keys.Generation
	NextSequence() (uint64, error)
	RaiseSequence(seen uint64) error
	// Lost and Restore are those of keys.Store.
	Lost() []string
	Restore() ([]string, error)
	// Rotation, RequestRotation and Advance are those of keys.Store.
	Rotation() keys.Rotation
	RequestRotation() (already bool, err error)
	Advance(step func(keys.Rotation) keys.Rotation) (keys.Rotation, error)
}

// Heard is a record that gossip, or the cache, gave for a node. Nothing of it is verified.
type Heard struct {
	Node  string
	Raw   []byte
	From  netip.Addr // who said it, as far as known
	Alive bool       // the node is a live member now
	// At are the addresses of the live members that announce it now, in this node's name of others alone.
	At []netip.Addr
	// Since is when it was heard first; zero: not known.
	Since time.Time
}

// Seed is an address where gossip may find a node; Node is "" when it isn't known which.
type Seed struct {
	Node    string
	Address netip.Addr
}

// Gossip exchanges records with the other nodes.
type Gossip interface {
	Announce(raw []byte) error
	Heard() []Heard
	Share(records map[string][]byte)
	Seek(seeds []Seed)
	Status() view.GossipStatus
	Refused() map[string]uint64
	Problems() []view.Problem
	// Pulses is what the last ping of each node told, by node.
	Pulses() map[string]view.Pulse
	// Send sends a message to the agent of a node. It may get lost.
	Send(node string, message []byte) error
	// Deliver sends a message of up to 64 KiB and one byte to the agent of a node. It may get lost too. The message isn't
	// the caller's any more.
	Deliver(node string, message []byte) error
	// Messages are those that came since the last call, in either way. Nothing of them is verified.
	Messages() [][]byte
}

// ClusterNode is a Node object.
type ClusterNode struct {
	Name      string
	Created   time.Time
	PodCIDRs  []netip.Prefix
	Addresses []netip.Addr // InternalIPs, at most one of each family
	// AllAddresses are all by which it may be reached, as Kubernetes has them.
	AllAddresses []netip.Addr
	Identity     keys.PublicIdentity
	// Unreadable: there is something in Identity's place that isn't one.
	Unreadable bool
	// Endpoint overrides the address that peers send to; zero: none.
	Endpoint netip.Addr
	// PublicKey is the newest of its WireGuard keys that its agent wrote down; zero: none that can be read.
	PublicKey keys.PublicKey
}

// ClusterState is what Kubernetes says, at one moment.
type ClusterState struct {
	Synced    bool // Nodes is complete
	Reachable bool
	Nodes     []ClusterNode
	// PodRanges are what nodes claim their pod CIDRs from; none: Kubernetes gives those.
	PodRanges []netip.Prefix
	Problems  []view.Problem
}

// Own is what this node's agent says of itself in Kubernetes.
type Own struct {
	Identity   keys.PublicIdentity
	PublicKey  keys.PublicKey // the newest that others may know of
	Generation uint32         // of that
	RotatedAt  time.Time      // when the newest key was made
	Rotation   string         // as of view.RotationStatus.String
	Ready      bool
	Reason     string // why it isn't ready
}

// Cluster is Kubernetes.
type Cluster interface {
	State() ClusterState
	Report(own Own)
	// Event tells people what happened to a node.
	Event(e Event)
}

// Event is what people should know of, and can do without.
type Event struct {
	Kind    EventKind
	Message string
	// Node is whose it is, and Topic the word for what it is about: of each a Node gets one in ten minutes, whichever
	// agents ask for it. "": this node's, and told each time.
	Node, Topic string
}

// EventKind says what an Event is about.
type EventKind int

// The kinds of Events.
const (
	RotationStarted EventKind = iota
	RotationQueued
	RotationFinished
	RotationWaiting
	RotationFailed
	RecordRefused // somebody says what only Node may say, or what it can't have said
)

// Network makes the kernel's links, addresses, routes and settings as desired. Counts are of changes made.
type Network interface {
	Observe(ctx context.Context, endpoints []netip.Addr) (view.Host, error)
	ApplySysctls(ctx context.Context, sysctls []contract.Sysctl) (int, error)
	// Astray reports whether one of the settings has another value than it should have, or a bridge is to be applied again.
	Astray(sysctls []contract.Sysctl) bool
	ApplyBridges(ctx context.Context, bridges []view.Bridge) (int, error)
	ApplyDevices(ctx context.Context, devices []view.Device) (int, error)
	ApplyRoutes(ctx context.Context, routes []view.Route) (int, error)
	// ApplyPaths makes the kernel forget what it has learnt of ways that carry more.
	ApplyPaths(ctx context.Context, paths []view.Path) (int, error)
}

// Networks are those beside the default one that are configured on this node.
type Networks interface {
	// Configured returns them sorted by name, each valid by itself, no two of them overlapping, and what is wrong with the
	// configuration of others. The latch is set when that changes.
	Configured() ([]view.Network, []view.Problem)
}

// Paths finds out by probes what the ways to peers carry.
type Paths interface {
	// Follow replaces the ways that are probed. What is known of one stays known.
	Follow(paths []view.Path)
	// MTUs is what was found, as of view.Host.Probed. The latch is set when a way gets narrower, or wider again.
	MTUs() map[netip.Addr]int
}

// Meter measures by probes what the ways to peers take and lose.
type Meter interface {
	// Follow replaces the ways that are measured, one a node. What was measured of one stays known.
	Follow(ways []view.Way)
	// Measured is what was measured, by node. Safe for concurrent use.
	Measured() map[string]view.Measured
}

// Tunnels makes the tunnel devices and their peers as desired: first the devices, then their peers, and when no route
// needs them any more it removes those that aren't desired.
type Tunnels interface {
	Make(ctx context.Context, devices []view.Device) (int, error)
	Apply(ctx context.Context, devices []view.Device) (int, error)
	Prune(ctx context.Context, devices []view.Device) (int, error)
	Observe(ctx context.Context) ([]view.DeviceState, error)
}

// Firewall makes the rules as desired.
type Firewall interface {
	Apply(ctx context.Context, f view.Firewall) (int, error)
}

// Attach tells the container runtime and the CNI plugin whether and how pods are attached; nil: not now.
type Attach interface {
	Apply(ctx context.Context, ready *view.Ready) (int, error)
	Problems() []view.Problem
	// Open returns what pods can be attached to; nil: to nothing.
	Open() *view.Ready
	// Attachments are the interfaces of pods that are attached on this node, in any order. Both results may be non-nil: what
	// can't be read doesn't hide the rest.
	Attachments(ctx context.Context) ([]view.Attachment, error)
}
