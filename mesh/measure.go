package mesh

import (
	"context"
	"net/netip"
	"time"

	"github.com/weaveguard/weaveguard/mesh/contract"
	"github.com/weaveguard/weaveguard/mesh/view"
)

// Timings takes what the loop measures of itself. Its methods return at once, and are called by the loop alone.
type Timings interface {
	// Reconciled is how long a pass took.
	Reconciled(took time.Duration)
	// Converged is how long it took from when another node's record was heard first until the kernel had all that follows
	// from it.
	Converged(took time.Duration)
	// Rotated is how long a rotation of this node's key took that this process began, to the erasure of the old key.
	Rotated(took time.Duration)
}

type untimed struct{}

func (untimed) Reconciled(time.Duration) {}
func (untimed) Converged(time.Duration)  {}
func (untimed) Rotated(time.Duration)    {}

// Usage says how many addresses are taken. Safe for concurrent use.
type Usage interface {
	// InUse returns for each of the subnets how many of its addresses are taken.
	InUse(ctx context.Context, subnets []netip.Prefix) ([]int, error)
}

// Traffic says what the kernel counts at network interfaces. Safe for concurrent use.
type Traffic interface {
	// Traffic returns the counts by the names of the interfaces; of one that isn't there it has none.
	Traffic(ctx context.Context, interfaces []string) (map[string]view.LinkTraffic, error)
}

// Kinds are the words by which failures and repairs are counted, sorted: the parts of what the loop looks at and applies.
// Only those of what is applied, or kept on disk, are repaired.
func Kinds() []string {
	return []string{
		"CNI files", "bridge", "firewall", "kernel settings", "key store", "network", "networks", "old tunnels", "paths", "peers",
		"record", "routes", "tunnel addresses", "tunnels", "view cache",
	}
}

// Refusals are the words by which the loop counts records and messages that it refuses.
func Refusals() []string {
	return []string{
		ackRefused, lossRefused, rowRefused, rowRequestRefused, rowRequestLimited, documentRefused, requestRefused, requestLimited, unknownWord, disputedWord, backwardsWord,
		pinWord, cidrWord, keyWord, nameWord, oldWord, twiceWord, replayWord, forgottenWord,
		"size", "version", "malformed", "signature", "kind", "sender", "other", // as of record.Reason
	}
}

// maxUnapplied is how many changes are followed at a time: who has the gossip key can have any number of them.
const maxUnapplied = 1024

// changes are records that count, and that the kernel may not have all of yet: when they were heard first.
type changes struct {
	unapplied []time.Time
}

// heard adds records that have come to count.
func (c *changes) heard(at []time.Time) {
	c.unapplied = append(c.unapplied, at[:min(len(at), maxUnapplied-len(c.unapplied))]...)
}

// applied tells of those that the kernel has after the pass: all or none, since a part of a pass that failed may be any
// record's.
func (c *changes) applied(p *pass, timings Timings, now time.Time) {
	if !p.standing {
		return
	}
	for _, at := range c.unapplied {
		timings.Converged(max(0, now.Sub(at)))
	}
	c.unapplied = nil
}

// firstHeard is when a record was heard first, as far as known.
func firstHeard(h Heard, now time.Time) time.Time {
	if h.Since.IsZero() {
		return now
	}
	return h.Since
}

// added returns the sum of counts, in place of the first.
func added(counts, more map[string]uint64) map[string]uint64 {
	if counts == nil && len(more) > 0 {
		counts = make(map[string]uint64, len(more))
	}
	for kind, n := range more {
		counts[kind] += n
	}
	return counts
}

// addresses are those that this node gives to pods, taken and free.
func (a *Agent) addresses(ctx context.Context, self view.Self) ([]view.AddressStatus, error) {
	if a.Usage == nil {
		return nil, nil
	}
	var all []view.AddressStatus
	var subnets []netip.Prefix
	add := func(network string, cidrs []netip.Prefix) {
		for _, cidr := range cidrs {
			all, subnets = append(all, view.AddressStatus{Network: network, CIDR: cidr}), append(subnets, cidr)
		}
	}
	add(view.DefaultNetwork, self.PodCIDRs)
	for _, n := range self.Networks {
		add(n.Name, n.CIDRs)
	}
	used, err := a.Usage.InUse(ctx, subnets)
	if err != nil {
		return nil, err
	}
	for i := range all {
		all[i].Used = uint64(used[i])
		all[i].Free = contract.PodAddresses(all[i].CIDR) - min(all[i].Used, contract.PodAddresses(all[i].CIDR))
	}
	return all, nil
}

// addTraffic adds what the kernel counts at the tunnel devices, where it is known. That it isn't is no problem of the mesh's.
func (a *Agent) addTraffic(ctx context.Context, devices []view.DeviceStatus) {
	if a.Traffic == nil {
		return
	}
	var names []string
	for _, d := range devices {
		names = append(names, d.Name)
	}
	traffic, err := a.Traffic.Traffic(ctx, names)
	if err != nil {
		a.Log.Debug("the tunnel devices' packets aren't known", "error", err)
		return
	}
	for i := range devices {
		if t, known := traffic[devices[i].Name]; known {
			devices[i].Traffic = &t
		}
	}
}
