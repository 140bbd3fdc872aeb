package view

import "net/netip"

// AddressStatus is how many of the addresses that this node gives to pods are taken.
type AddressStatus struct {
	Network string       `json:"network"` // DefaultNetwork for the default one
	CIDR    netip.Prefix `json:"cidr"`    // this node's part of it
	Used    uint64       `json:"used"`
	Free    uint64       `json:"free"` // at most 2^63-1: larger is said as that
}

// LinkTraffic is what the kernel counts at a network interface, from its making on (IFLA_STATS64). Of a tunnel device the
// packets are those inside the tunnel: received from peers, and sent to them.
type LinkTraffic struct {
	ReceivedPackets uint64 `json:"receivedPackets"`
	SentPackets     uint64 `json:"sentPackets"`
	ReceiveErrors   uint64 `json:"receiveErrors"`
	SendErrors      uint64 `json:"sendErrors"`
	ReceiveDrops    uint64 `json:"receiveDrops"`
	SendDrops       uint64 `json:"sendDrops"`
}

// GossipTraffic is what gossip has sent and received since the agent's start.
type GossipTraffic struct {
	ReceivedPackets  uint64 `json:"receivedPackets"` // UDP, also those that were refused
	SentPackets      uint64 `json:"sentPackets"`
	AcceptedStreams  uint64 `json:"acceptedStreams"` // TCP, also those that were refused
	OpenedStreams    uint64 `json:"openedStreams"`   // those that came to stand
	ReceivedMessages uint64 `json:"receivedMessages"`
	SentMessages     uint64 `json:"sentMessages"` // of this agent to others: acknowledgements, documents, requests for them
}
