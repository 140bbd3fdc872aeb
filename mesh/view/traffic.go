package view

import (
	"math"
	"net/netip"
)

// AddressStatus is how many of the addresses that this node gives to pods are taken.
type AddressStatus struct {
	Network string       `json:"network"` // DefaultNetwork for the default one
	CIDR    netip.Prefix `json:"cidr"`    // this node's part of it
	Used    uint64       `json:"used"`
	Free    uint64       `json:"free"` // at most 2^63-1: larger is said as that
}

// PodAddresses is how many addresses of a node's subnet pods can have: not the network's own, not the gateway's, and of IPv4
// not the broadcast address. At most 2^63-1: larger is said as that.
func PodAddresses(subnet netip.Prefix) uint64 {
	bits, taken := subnet.Addr().BitLen()-subnet.Bits(), uint64(2)
	if subnet.Addr().Is4() {
		taken++
	}
	switch {
	case bits < 2: // the plugin takes none that small
		return 0
	case bits >= 63:
		return math.MaxInt64
	}
	return 1<<bits - taken
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
