package view

import (
	"net/netip"
	"time"

	"github.com/weaveguard/weaveguard/keys"
)

// DeviceState is what a tunnel device of the kernel, or of the userspace daemon, holds.
type DeviceState struct {
	Name       string
	Kind       string // kernel or userspace
	PublicKey  keys.PublicKey
	ListenPort uint16
	Peers      []PeerState
}

// PeerState is one peer of a tunnel device.
type PeerState struct {
	PublicKey     keys.PublicKey
	Endpoint      netip.AddrPort
	LastHandshake time.Time // zero: none yet
	ReceivedBytes int64
	SentBytes     int64
	AllowedIPs    int // how many it has
}

// Status is what `weaveguard status` shows. Its JSON form is a contract.
type Status struct {
	Time      time.Time           `json:"time"`
	Version   string              `json:"version"`
	Started   time.Time           `json:"started"`
	Node      string              `json:"node"`
	Ready     bool                `json:"ready"` // this node can carry pod traffic
	Identity  keys.PublicIdentity `json:"identity"`
	WireGuard string              `json:"wireguard"` // kernel or userspace
	// Kubernetes is one of: absent, connected, unreachable.
	Kubernetes     string             `json:"kubernetes"`
	Endpoints      []netip.AddrPort   `json:"endpoints"`
	PodCIDRs       []netip.Prefix     `json:"podCIDRs"`
	PodRanges      []netip.Prefix     `json:"podRanges"`
	PodRangeSource string             `json:"podRangeSource"`
	Networks       []Network          `json:"networks,omitempty"` // this node's beside the default one that count, sorted by name
	Generations    []GenerationStatus `json:"generations"`
	Rotation       RotationStatus     `json:"rotation"`
	Devices        []DeviceStatus     `json:"devices"`
	Peers          []PeerStatus       `json:"peers"`
	Gossip         GossipStatus       `json:"gossip"`
	Attachments    int                `json:"attachments"` // interfaces of pods that are attached on this node
	// Addresses are those that this node gives to pods, sorted by network, the default one first.
	Addresses []AddressStatus `json:"addresses,omitempty"`
	Problems  []Problem       `json:"problems"`
	Counters  Counters        `json:"counters"`
	// Repairs are what somebody else changed of late, and was put right, the latest first.
	Repairs []Repair `json:"repairs,omitempty"`
}

// Repair is something that somebody else changed, and that was put right.
type Repair struct {
	What  string    `json:"what"`  // was done, such as "setting net/ipv4/ip_forward to 1"
	Times uint64    `json:"times"` // since First
	First time.Time `json:"first"`
	Last  time.Time `json:"last"`
}

// GenerationStatus is one of this node's WireGuard keys.
type GenerationStatus struct {
	Number    uint32         `json:"number"`
	PublicKey keys.PublicKey `json:"publicKey"`
}

// RotationStatus is how far the change of this node's WireGuard key is.
type RotationStatus struct {
	// Phase is one word of: idle, preparing, establishing, switching, draining, failed.
	Phase  string `json:"phase"`
	Reason string `json:"reason,omitempty"` // why it isn't further, in few words
	// Queued: another rotation is asked for, and follows the one under way if there is one.
	Queued bool `json:"queued"`
	// RotatedAt is when the newest key was made.
	RotatedAt time.Time `json:"rotatedAt,omitzero"`
	// Waiting are the peers that still need the old key, sorted by node.
	Waiting []RotationPeer `json:"waiting"`
}

// RotationPeer is a peer that still needs the old key of this node.
type RotationPeer struct {
	Node    string `json:"node"`
	Port    uint16 `json:"port"`    // UDP, of the peer: the far end of the link that it should use
	OwnPort uint16 `json:"ownPort"` // UDP, of this node: the near end of that link
	Reason  string `json:"reason"`
}

// String is the rotation as the annotation AnnotationRotation has it.
func (r RotationStatus) String() string {
	if r.Reason == "" {
		return r.Phase
	}
	return r.Phase + ": " + r.Reason
}

// RotateAnswer is what became of a request to rotate.
type RotateAnswer struct {
	// State is one of: started, queued (another rotation is under way), already queued, forced (the one under way ends
	// without waiting for its peers).
	State string `json:"state"`
	// Generation is the number of the key that the request leads to.
	Generation uint32 `json:"generation"`
}

// The states of a RotateAnswer.
const (
	RotateStarted       = "started"
	RotateQueued        = "queued"
	RotateAlreadyQueued = "already queued"
	RotateForced        = "forced"
)

// ForgetAnswer is what became of a request to forget a node.
type ForgetAnswer struct {
	State    string              `json:"state"` // forgotten, or already forgotten
	Node     string              `json:"node"`
	Identity keys.PublicIdentity `json:"identity"` // the last one that was forgotten
	// PodCIDRs are those that it had; none: it was forgotten before.
	PodCIDRs []netip.Prefix `json:"podCIDRs,omitempty"`
}

// The states of a ForgetAnswer.
const (
	ForgotNode      = "forgotten"
	ForgottenBefore = "already forgotten"
)

// JoinAnswer is what became of a request to join hosts.
type JoinAnswer struct {
	Added []string `json:"added"` // those that weren't joined before
	Hosts []string `json:"hosts"` // all that were joined since the agent's state directory was made, sorted
}

// DeviceStatus is a tunnel device.
type DeviceStatus struct {
	Name       string         `json:"name"`
	Kind       string         `json:"kind"` // kernel or userspace
	PublicKey  keys.PublicKey `json:"publicKey"`
	Generation uint32         `json:"generation"`
	ListenPort uint16         `json:"listenPort"`
	MTU        int            `json:"mtu"`
	Peers      int            `json:"peers"`
	Traffic    *LinkTraffic   `json:"traffic,omitempty"` // nil: not known
}

// PeerStatus is another node, as seen from this one.
type PeerStatus struct {
	Node          string         `json:"node"`
	Up            bool           `json:"up"`
	Reason        string         `json:"reason,omitempty"` // why it isn't up
	Endpoint      string         `json:"endpoint,omitempty"`
	Device        string         `json:"device,omitempty"` // of the link that traffic takes
	PublicKey     keys.PublicKey `json:"publicKey"`
	Generation    uint32         `json:"generation"`
	PodCIDRs      []netip.Prefix `json:"podCIDRs"`
	LastHandshake time.Time      `json:"lastHandshake,omitzero"`
	// HandshakeAge is in seconds; negative when there was none.
	HandshakeAge  float64 `json:"handshakeAgeSeconds"`
	ReceivedBytes int64   `json:"receivedBytes"`
	SentBytes     int64   `json:"sentBytes"`
	MTU           int     `json:"mtu"`
	// PathMTU is what probes found that the underlay carries to it, in bytes; 0: as much as it seems to.
	PathMTU int  `json:"pathMTU,omitempty"`
	Gossip  bool `json:"gossip"` // gossip sees it now
	// RTT, Loss and Probes are what the latest probes told of the way to it beside the tunnel. RTT is the median of those that
	// were answered, there and back, in seconds; 0: none was. Loss is which part of them was lost, from 0 to 1, and Probes how
	// many that is about; 0: there was none yet.
	RTT    float64 `json:"rttSeconds,omitempty"`
	Loss   float64 `json:"loss"`
	Probes int     `json:"probes"`
	// ClockOffset is how far its clock is ahead of this node's, in seconds, as it says; nil: it doesn't say.
	ClockOffset *float64 `json:"clockOffsetSeconds,omitempty"`
	// Networks are those beside the default one of its document in force that count, sorted by name.
	Networks []Network `json:"networks,omitempty"`
	// Links are all links to it, also those that traffic doesn't take, sorted by device: there are several while this node
	// or that one changes its key.
	Links []LinkStatus `json:"links,omitempty"`
	// Document says, in words, why its latest document isn't in force; "": it is, or there is none.
	Document string `json:"document,omitempty"`
}

// LinkStatus is one link to another node.
type LinkStatus struct {
	Device        string         `json:"device"`
	OwnGeneration uint32         `json:"ownGeneration"` // of this node's key
	PublicKey     keys.PublicKey `json:"publicKey"`     // of the other node
	Generation    uint32         `json:"generation"`    // of that key
	Endpoint      string         `json:"endpoint"`
	Carries       bool           `json:"carries"` // traffic takes this link
	LastHandshake time.Time      `json:"lastHandshake,omitzero"`
	// HandshakeAge is in seconds; negative when there was none.
	HandshakeAge  float64 `json:"handshakeAgeSeconds"`
	ReceivedBytes int64   `json:"receivedBytes"`
	SentBytes     int64   `json:"sentBytes"`
}

// Pulse is what gossip's last ping of another node's agent told.
type Pulse struct {
	RTT time.Duration // half of it is how old the clock's word is, if the two directions take as long
	// ClockOffset is how far the node's clock is ahead of this one's, as it says, if ClockKnown.
	ClockOffset time.Duration
	ClockKnown  bool
}

// GossipStatus is the state of the gossip.
type GossipStatus struct {
	Address string `json:"address"`
	Members int    `json:"members"` // alive, this node among them
	// Keys are the fingerprints of the gossip keys that this node has, as of keys.Fingerprint; the first encrypts.
	Keys    []string      `json:"keys,omitempty"`
	Traffic GossipTraffic `json:"traffic,omitzero"`
}

// Counters grow from the agent's start.
type Counters struct {
	Reconciles      uint64            `json:"reconciles"`
	ReconcileErrors uint64            `json:"reconcileErrors"`
	KernelWrites    uint64            `json:"kernelWrites"` // changes made to links, addresses, routes, peers, rules, sysctls
	Repairs         uint64            `json:"repairs"`      // of those, what somebody else had changed
	Rotations       uint64            `json:"rotations"`    // of this node's keys that ended well
	Refused         map[string]uint64 `json:"refused"`      // records and packets that were refused, by reason
	// ErrorsByKind are the failures that ReconcileErrors counts the runs of, and RepairsByKind are Repairs, by the part of
	// what is applied; both as of mesh.Kinds.
	ErrorsByKind  map[string]uint64 `json:"errorsByKind,omitempty"`
	RepairsByKind map[string]uint64 `json:"repairsByKind,omitempty"`
}
