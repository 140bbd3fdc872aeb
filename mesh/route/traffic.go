package route

import (
	"context"
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"

	"github.com/weaveguard/weaveguard/mesh/view"
)

// Traffic returns what the kernel counts at interfaces, by their names; of one that isn't there it has none. Unlike the
// Apply methods it is safe for concurrent use.
func (*Applier) Traffic(ctx context.Context, interfaces []string) (map[string]view.LinkTraffic, error) {
	all := make(map[string]view.LinkTraffic, len(interfaces))
	for _, name := range interfaces {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		link, err := netlink.LinkByName(name)
		if errors.As(err, &netlink.LinkNotFoundError{}) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("reading the counters of %s: %w", name, err)
		}
		if s := link.Attrs().Statistics; s != nil {
			all[name] = view.LinkTraffic{
				ReceivedPackets: s.RxPackets, SentPackets: s.TxPackets, ReceiveErrors: s.RxErrors, SendErrors: s.TxErrors,
				ReceiveDrops: s.RxDropped, SendDrops: s.TxDropped,
			}
		}
	}
	return all, nil
}
