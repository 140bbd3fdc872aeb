package gossip

import (
	"errors"
	"fmt"
	"slices"

	"github.com/hashicorp/memberlist"
)

const (
	// maxMessage is the largest message in bytes. With what memberlist puts around it (30 bytes: its message type,
	// and the version, nonce and tag of the encryption) it fits into memberlist's UDPBufferSize of 1400, and into
	// one unfragmented packet on every path that IPv6 allows (1280).
	maxMessage = 1024
	// maxRecipients is to how many addresses of one node name a message goes. A restart has two; whoever has the
	// gossip key can make up any number, so where it is sought comes first.
	maxRecipients = 8
)

// ErrAbsent is what Send returns for a node that has no living member.
var ErrAbsent = errors.New("the node isn't there")

// Send sends message, of 1 to 1024 bytes, to every living member of a node's name, of which an agent that restarted may
// have two for a moment, and to where the node is sought, since whoever has the gossip key can say that it is elsewhere.
// It is one encrypted datagram to each address, and nobody says whether it came: whoever needs it to arrive sends it
// again. Nor is it sure to come to that node alone (the address may be another's by now) or to be from whom it says (any
// member can send anything), so it must say both itself, and be signed. It waits for nobody, also while Stop runs. Its errors are ErrAbsent, ErrStopped and those of the network, wrapped.
func (g *Gossip) Send(node string, message []byte) error {
	if len(message) == 0 || len(message) > maxMessage {
		return fmt.Errorf("sending a message to node %q: it has %d bytes, want 1 to %d", node, len(message), maxMessage)
	}
	err := g.send(node, message)
	if g.stopped.Load() { // perhaps since it began to send, and that is why it failed
		err = ErrStopped
	}
	if err != nil {
		return fmt.Errorf("sending a message to node %q: %w", node, err)
	}
	return nil
}

func (g *Gossip) send(node string, message []byte) error {
	members := g.book.addresses(node, maxRecipients)
	if len(members) == 0 {
		return ErrAbsent
	}
	addrs := g.seeker.addresses(node)
	for _, a := range members {
		if !slices.Contains(addrs, a) {
			addrs = append(addrs, a)
		}
	}
	addrs = addrs[:min(len(addrs), maxRecipients)]
	list := g.current.Load().list
	var errs []error
	for _, a := range addrs {
		// Not the Node that memberlist has: it writes to that while others read it.
		to := &memberlist.Node{Addr: a.Addr().AsSlice(), Port: a.Port()}
		err := list.SendBestEffort(to, message)
		if err == nil {
			g.sentMessages.Add(1)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// Messages returns what was sent and delivered to this node since the last call, unread, those that fit into a packet
// first, each kind in the order in which it came; that need not be the order in which it was sent. It belongs to the
// caller. It is bounded: of too many of a kind, the oldest are dropped and counted.
func (g *Gossip) Messages() [][]byte { return append(g.mail.take(), g.parcel.take()...) }

// NotifyMsg keeps a message from another agent, or from whoever has the gossip key.
func (d delegate) NotifyMsg(message []byte) {
	d.receivedMessages.Add(1)
	if len(message) == 0 || len(message) > maxDelivery {
		d.tally.count(reasonMessageSize)
		return
	}
	box := &d.mail
	if len(message) > maxMessage {
		box = &d.parcel
	}
	if lost := box.put(message); lost {
		d.tally.count(reasonMessageFull)
	}
	signal(d.news)
}
