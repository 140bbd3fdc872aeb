package gossip

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"

	"github.com/hashicorp/memberlist"

	"github.com/weaveguard/weaveguard/mesh/record"
)

const (
	// maxDelivery is the largest message in bytes that goes by a stream: a document and its kind.
	maxDelivery = record.MaxDocumentSize + 1
	// maxDeliveries is how many of them wait for their turn, and carriers how many are under way at a time: one that goes
	// to nobody takes streamTimeout.
	maxDeliveries = 64
	carriers      = 4
)

// ErrBusy is what Deliver returns while too many deliveries wait.
var ErrBusy = errors.New("too many deliveries wait")

// delivery is a message on its way.
type delivery struct {
	to      []netip.AddrPort
	message []byte
}

// Deliver sends message, of 1 to 65,537 bytes, to a node by an encrypted stream: to where the node is sought and is, or
// else to one of its living members and one of the addresses where it is sought. It goes to no more of them, since whoever
// has the gossip key can make up members; who misses it asks again. Like Send it doesn't say whether it came, to whom, and from whom; unlike Send it comes
// whole, whatever the size. It waits for nobody: what can't be delivered is dropped. The message belongs to the gossip from
// then on. Its errors are ErrAbsent, ErrBusy and ErrStopped, wrapped.
func (g *Gossip) Deliver(node string, message []byte) error {
	if len(message) == 0 || len(message) > maxDelivery {
		return fmt.Errorf("delivering to node %q: the message has %d bytes, want 1 to %d", node, len(message), maxDelivery)
	}
	err := g.deliver(node, message)
	if g.stopped.Load() {
		err = ErrStopped
	}
	if err != nil {
		return fmt.Errorf("delivering to node %q: %w", node, err)
	}
	return nil
}

func (g *Gossip) deliver(node string, message []byte) error {
	members := g.book.addresses(node, maxRecipients)
	if len(members) == 0 {
		return ErrAbsent
	}
	sought := g.seeker.addresses(node)
	var to []netip.AddrPort
	for _, a := range sought {
		if slices.Contains(members, a) { // where it should be, and is
			to = []netip.AddrPort{a}
			break
		}
	}
	if len(to) == 0 {
		rand.Shuffle(len(sought), func(i, j int) { sought[i], sought[j] = sought[j], sought[i] })
		if to = members[:1]; len(sought) > 0 {
			to = append(to, sought[0])
		}
	}
	select {
	case g.deliveries <- delivery{to: to, message: message}:
		return nil
	default:
		return ErrBusy
	}
}

// carry delivers what waits, until ctx ends.
func (g *Gossip) carry(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case d := <-g.deliveries:
			for _, a := range d.to {
				to := &memberlist.Node{Addr: a.Addr().AsSlice(), Port: a.Port()}
				err := g.current.Load().list.SendReliable(to, d.message)
				switch {
				case err == nil:
					g.sentMessages.Add(1)
				case ctx.Err() == nil:
					g.log.Debug("gossip: a document isn't delivered", "address", a, "error", err)
				}
			}
		}
	}
}
