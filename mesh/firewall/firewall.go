package firewall

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"github.com/weaveguard/weaveguard/mesh/contract"
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
	// StoreDir is the plugin's store, which says what is attached to the bridge; "": nothing is.
	StoreDir string
	Log      *slog.Logger
}

// Applier keeps the tables. What it needs to know it reads from the kernel and the store each time.
type Applier struct {
	store string
	log   *slog.Logger

	mu     sync.Mutex
	warned map[string]bool // what the last pass has warned of
}

// New returns an Applier for the network namespace of its callers.
func New(config Config) *Applier { return &Applier{store: config.StoreDir, log: config.Log} }

// Apply makes the tables the wanted ones, each in one transaction, and as far as it can in place. It returns how many
// it wrote. Connections keep their NAT, and counters live on. What keeps pods from sending as others comes first, and
// one table's failure doesn't keep the other from being tried.
func (a *Applier) Apply(ctx context.Context, want view.Firewall) (int, error) {
	spoofed, errSpoofed := a.applySpoofing(ctx)
	writes, err := a.applyFiltering(ctx, want)
	return spoofed + writes, errors.Join(errSpoofed, err)
}

func (a *Applier) applyFiltering(ctx context.Context, want view.Firewall) (int, error) {
	have, err := read(ctx, nftables.TableFamilyINet)
	if err != nil {
		return 0, err
	}
	return a.change(ctx, plan(want), have)
}

func (a *Applier) applySpoofing(ctx context.Context) (int, error) {
	have, err := read(ctx, nftables.TableFamilyBridge)
	if err != nil {
		return 0, err
	}
	// In this order: the plugin stores an attachment before it adds its elements.
	elements, err := a.senders(have)
	if err != nil {
		return 0, err
	}
	return a.change(ctx, planSpoofing(elements), have)
}

// change makes a table as it should be: in place, and only where that can't be done by replacing it.
func (a *Applier) change(ctx context.Context, rules ruleset, have *kernelTable) (int, error) {
	d, err := rules.difference(have)
	if err != nil || d.empty() {
		return 0, err
	}
	if !d.whole {
		if err = d.write(have.counters()); err != nil {
			err = d.writeApart(have.counters())
		}
		if err == nil {
			a.log.Debug("changed the firewall table", "family", familyName(d.family), "sets", len(d.sets), "chains", len(d.chains))
			// That the sets of senders aren't as the store is doesn't say that somebody changed them: pods come and go.
			if d.family != nftables.TableFamilyBridge || len(d.chains) > 0 {
				view.Changed(ctx, fmt.Sprintf("changing the firewall table %s: %d sets, %d chains", familyName(d.family), len(d.sets), len(d.chains)))
			}
			return 1, nil
		}
		// Something in the way that reading doesn't show.
		a.log.Debug("couldn't change the firewall table in place, replacing it", "family", familyName(d.family), "error", err)
		d = rules.all("it can't be changed in place")
	}
	if err := d.write(have.counters()); err != nil {
		return 0, err
	}
	a.log.Debug("replaced the firewall table", "family", familyName(d.family), "reason", d.reason)
	view.Changed(ctx, fmt.Sprintf("making the firewall table %s anew: %s", familyName(d.family), d.reason))
	return 1, nil
}

// Cleanup removes the tables. It returns how many there were.
func (a *Applier) Cleanup(ctx context.Context) (int, error) {
	removed := 0
	for _, family := range families() {
		have, err := read(ctx, family)
		if err != nil {
			return removed, err
		}
		if have == nil {
			continue
		}
		conn, err := connect()
		if err != nil {
			return removed, err
		}
		conn.DelTable(table(family))
		if err := conn.Flush(); err != nil {
			return removed, fmt.Errorf("removing the firewall table %s %s: %w", familyName(family), contract.FirewallTable, err)
		}
		removed++
	}
	return removed, nil
}

// Counters returns the number of packets that each dropping rule has dropped, by what it drops (ToPods, SpoofedARP, …)
// and, where there is one rule for each address family, the family: "to-pods-ipv4". It grows as long as nobody else
// removes the tables.
func (a *Applier) Counters(ctx context.Context) (map[string]uint64, error) {
	packets := make(map[string]uint64)
	for _, family := range families() {
		have, err := read(ctx, family)
		if err != nil {
			return nil, err
		}
		for name, counter := range have.counters() {
			packets[name] = counter.Packets
		}
	}
	return packets, nil
}

// families are those of our tables, all of the same name.
func families() []nftables.TableFamily {
	return []nftables.TableFamily{nftables.TableFamilyBridge, nftables.TableFamilyINet}
}

func ours(family nftables.TableFamily) bool { return slices.Contains(families(), family) }

func familyName(family nftables.TableFamily) string {
	if family == nftables.TableFamilyBridge {
		return "bridge"
	}
	return "inet"
}

func table(family nftables.TableFamily) *nftables.Table {
	return &nftables.Table{Name: contract.FirewallTable, Family: family}
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
