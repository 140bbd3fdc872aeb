package view

import (
	"net/netip"
	"time"
)

// Topology is all nodes with their networks and what is attached to them, as one agent knows it. Its JSON form is a contract.
type Topology struct {
	Time  time.Time      `json:"time"`
	Node  string         `json:"node"`  // whose agent says so
	Nodes []TopologyNode `json:"nodes"` // sorted by name
}

// TopologyNode is a node with its networks.
type TopologyNode struct {
	Name     string `json:"name"`
	Self     bool   `json:"self,omitempty"`     // it is the one whose agent says so
	Up       bool   `json:"up"`                 // of this node: it can carry pod traffic; of others: the link to it has a session
	Reason   string `json:"reason,omitempty"`   // why it isn't up
	Endpoint string `json:"endpoint,omitempty"` // its address and UDP port, as of PeerStatus
	// Networks are the default one, and those beside it that count, sorted by name; after them any others that something is
	// attached to.
	Networks []TopologyNetwork `json:"networks"`
	// Stale says, in words, why what is attached on it isn't known as of now; "": it is.
	Stale string `json:"stale,omitempty"`
	// Omitted is how many more attachments it has than there was room for in its document.
	Omitted int `json:"omitted,omitempty"`
}

// TopologyNetwork is a network on one node.
type TopologyNetwork struct {
	Name        string               `json:"name"`        // DefaultNetwork for the default one
	CIDRs       []netip.Prefix       `json:"cidrs"`       // the node's part of it; empty where the network doesn't count
	Attachments []TopologyAttachment `json:"attachments"` // sorted by pod and interface
}

// TopologyAttachment is one interface of one pod, or of another sandbox.
type TopologyAttachment struct {
	Namespace string       `json:"namespace,omitempty"` // of the pod; "" without Kubernetes
	Pod       string       `json:"pod"`                 // its name; where the runtime told of none, the ID of the sandbox
	Interface string       `json:"interface"`           // in the sandbox
	Addresses []netip.Addr `json:"addresses"`           // at most one of each family, IPv4 first
	// Stray: an address isn't in the node's part of the network, so nothing is sent to it there. The pod was attached before
	// the node had another part, or the node says what isn't so.
	Stray bool `json:"stray,omitempty"`
}
