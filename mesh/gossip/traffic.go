package gossip

import (
	"sync/atomic"

	"github.com/weaveguard/weaveguard/mesh/view"
)

// wire counts packets and streams. Safe for concurrent use.
type wire struct {
	receivedPackets, sentPackets   atomic.Uint64
	acceptedStreams, openedStreams atomic.Uint64
}

// Traffic returns what was sent and received since Start, probes of paths that this node sends left out.
func (g *Gossip) Traffic() view.GossipTraffic {
	w := &g.caps.wire
	return view.GossipTraffic{
		ReceivedPackets: w.receivedPackets.Load(), SentPackets: w.sentPackets.Load(),
		AcceptedStreams: w.acceptedStreams.Load(), OpenedStreams: w.openedStreams.Load(),
		ReceivedMessages: g.receivedMessages.Load(), SentMessages: g.sentMessages.Load(),
	}
}

// Reasons are the reasons that Counters may have.
func Reasons() []string {
	return []string{
		reasonUndecryptable, reasonUnencrypted, reasonMalformed, reasonOverload, reasonConflict, reasonName, reasonFull,
		reasonMetaSize, reasonProtocol, reasonState, reasonSilenced, reasonMessageSize, reasonMessageFull,
	}
}
