package firewall

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"github.com/weaveguard/weaveguard/mesh/view"
)

const (
	// socketBuffer is the size in bytes of a socket's buffers: a transaction goes to the kernel in one piece.
	socketBuffer = 8 << 20
	// kernelPatience bounds each exchange with the kernel, which answers at once or (out of memory) not at all.
	kernelPatience = 30 * time.Second
)

// Config is what an Applier needs.
type Config struct {
	Log *slog.Logger
}

// Applier keeps the table. It has no state: what it needs to know it reads from the kernel.
type Applier struct {
	log *slog.Logger
}

// New returns an Applier for the network namespace of its callers.
func New(config Config) *Applier { return &Applier{log: config.Log} }

// Apply makes the table the wanted one, in one transaction, and as far as it can in place. It returns 1 when it
// wrote, and 0 when the table was as wanted. Connections keep their NAT, and counters live on.
func (a *Applier) Apply(ctx context.Context, want view.Firewall) (int, error) {
	rules := plan(want)
	have, err := read(ctx)
	if err != nil {
		return 0, err
	}
	d, err := rules.difference(have)
	if err != nil || d.empty() {
		return 0, err
	}
	if !d.whole {
		if err = d.write(have.counters()); err == nil {
			a.log.Debug("changed the firewall table", "sets", len(d.sets), "chains", len(d.chains))
			return 1, nil
		}
		// Something in the way that reading doesn't show.
		a.log.Debug("couldn't change the firewall table in place, replacing it", "err", err)
		d = rules.all("it can't be changed in place")
	}
	if err := d.write(have.counters()); err != nil {
		return 0, err
	}
	a.log.Debug("replaced the firewall table", "reason", d.reason)
	return 1, nil
}

// Cleanup removes the table. It returns 1 when there was one.
func (a *Applier) Cleanup(ctx context.Context) (int, error) {
	have, err := read(ctx)
	if err != nil || have == nil {
		return 0, err
	}
	conn, err := connect()
	if err != nil {
		return 0, err
	}
	conn.DelTable(table())
	if err := conn.Flush(); err != nil {
		return 0, fmt.Errorf("removing the firewall table %s: %w", view.FirewallTable, err)
	}
	return 1, nil
}

// Counters returns the number of packets that each dropping rule has dropped, by ToPods or FromPods and the
// address family: "to-pods-ipv4". It grows as long as nobody else removes the table.
func (a *Applier) Counters(ctx context.Context) (map[string]uint64, error) {
	have, err := read(ctx)
	if err != nil {
		return nil, err
	}
	packets := make(map[string]uint64)
	for name, counter := range have.counters() {
		packets[name] = counter.Packets
	}
	return packets, nil
}

func table() *nftables.Table {
	return &nftables.Table{Name: view.FirewallTable, Family: nftables.TableFamilyINet}
}

// connect returns a connection that opens a socket for each exchange.
func connect() (*nftables.Conn, error) {
	conn, err := nftables.New(nftables.WithSockOptions(func(c *netlink.Conn) error {
		return errors.Join(c.SetWriteBuffer(socketBuffer), c.SetReadBuffer(socketBuffer),
			c.SetDeadline(time.Now().Add(kernelPatience)))
	}))
	if err != nil {
		return nil, fmt.Errorf("connecting to nftables: %w", err)
	}
	return conn, nil
}
