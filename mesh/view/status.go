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
	Generations    []GenerationStatus `json:"generations"`
	Devices        []DeviceStatus     `json:"devices"`
	Peers          []PeerStatus       `json:"peers"`
	Gossip         GossipStatus       `json:"gossip"`
	Attachments    int                `json:"attachments"` // interfaces of pods that are attached on this node
	Problems       []Problem          `json:"problems"`
	Counters       Counters           `json:"counters"`
}

// GenerationStatus is one of this node's WireGuard keys.
type GenerationStatus struct {
	Number    uint32         `json:"number"`
	PublicKey keys.PublicKey `json:"publicKey"`
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
	Gossip        bool    `json:"gossip"` // gossip sees it now
}

// GossipStatus is the state of the gossip.
type GossipStatus struct {
	Address string `json:"address"`
	Members int    `json:"members"` // alive, this node among them
}

// Counters grow from the agent's start.
type Counters struct {
	Reconciles      uint64            `json:"reconciles"`
	ReconcileErrors uint64            `json:"reconcileErrors"`
	KernelWrites    uint64            `json:"kernelWrites"` // changes made to links, addresses, routes, peers, rules, sysctls
	Refused         map[string]uint64 `json:"refused"`      // records and packets that were refused, by reason
}
