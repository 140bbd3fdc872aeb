package kube

import (
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"k8s.io/client-go/tools/cache"

	"github.com/weaveguard/weaveguard/mesh/claim"
	"github.com/weaveguard/weaveguard/mesh/view"
)

const (
	// claimPatience is how long a Node is without pod CIDRs before its agent believes that Kubernetes gives none.
	claimPatience = 20 * time.Second
	// watchPatience is how long a Node that comes later is without before the Leases are watched for it.
	watchPatience = 5 * time.Second
	// claimRest is how long a block isn't given after an agent saw that its Node is gone: its pods may still run.
	claimRest = 5 * time.Minute
	// restSpread and restPerNode spread the agents' tries to free a block after that.
	restSpread  = time.Minute
	restPerNode = 20 * time.Millisecond
	// claimTold is how long what somebody else wrote may take to come by the watch before the next try.
	claimTold = 500 * time.Millisecond
	// claimSeen is how long a write may take to come back by the watch before the next one.
	claimSeen = 10 * time.Second

	// uninitializedTaint is on a Node until the cloud provider's controller has seen it.
	uninitializedTaint = "node.cloudprovider.kubernetes.io/uninitialized"
)

// claimer claims this node's pod CIDRs where Kubernetes gives none, and knows the claims of all.
type claimer struct {
	config    Claims
	node      string
	nodes     cache.SharedIndexInformer // of trimmed *corev1.Node
	leases    cache.SharedIndexInformer // of trimmed *coordinationv1.Lease; runs only once it is needed
	writer    leaseWriter
	podSubnet func(context.Context) ([]netip.Prefix, error)
	contact   *contact
	log       *slog.Logger
	changed   func()
	wake      chan struct{} // of capacity 1

	// Only run touches these.
	watching bool
	alone    time.Time            // since when the own Node has no pod CIDRs; zero: it has
	lacking  time.Time            // since when some Node has none, before the Leases are watched
	freed    map[string]time.Time // claims whose Node is gone, by UID and version → since when that is seen
	wrote    written
	failed   move // what couldn't be written last: tried again at its time, or when another is wanted

	mu     sync.Mutex
	synced bool          // all pod CIDRs were known once
	last   []claim.Range // the cluster's ranges, as they could be read last
	faults []view.Problem
	// counted are the claims that count.
	counted map[netip.Prefix]owner
}

// written is a Lease that was written and may not have come by the watch.
type written struct {
	name, version string
	at            time.Time
}

func newClaimer(config Config, nodes cache.SharedIndexInformer, c *contact, podSubnet func(context.Context) ([]netip.Prefix, error),
	changed func()) *claimer {
	return &claimer{
		config: config.Claims, node: config.Node, nodes: nodes, leases: newLeaseInformer(config.Client, c),
		writer: leaseWriter{client: config.Client, node: config.Node}, podSubnet: podSubnet,
		contact: c, log: config.Log, changed: changed, wake: make(chan struct{}, 1),
		freed: map[string]time.Time{},
	}
}

func (c *claimer) wakeUp() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// complete adds to what Kubernetes says of the Nodes what they have claimed. It returns the ranges that claims are cut
// from, if any claim counts or nothing else can, and whether the pod CIDRs of the Nodes are known: they aren't as long as
// some may have claims that weren't read.
func (c *claimer) complete(nodes []Node) (ranges []claim.Range, known bool) {
	lacking := slices.ContainsFunc(nodes, func(n Node) bool { return len(n.PodCIDRs) == 0 })
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.config.Mode == ClaimNever || !lacking {
		c.synced = true
		return nil, true
	}
	if !c.leases.HasSynced() {
		return nil, c.synced
	}
	all := readClaims(c.leases.GetStore().List())
	c.remember(all)
	if len(c.last) == 0 && len(all.leases) > 0 {
		return nil, c.synced // the claims can't be checked
	}
	c.synced = true
	gave := given(nodes)
	assign(nodes, all, c.last)
	c.counted = carry(nodes, all, c.last, gave, c.counted)
	if len(c.counted) == 0 && len(gave) > 0 {
		return nil, true
	}
	if node, _, _ := inside(nodes, c.last); node != "" {
		return nil, true // a range that nodes have addresses in isn't the pods' alone
	}
	return c.last, true
}

// remember keeps the cluster's ranges: without the Lease, or with one that can't be read, those go on to count.
func (c *claimer) remember(all claims) {
	if len(all.ranges) > 0 {
		c.last = all.ranges
	}
}

// inUse reports whether any claim counts.
func (c *claimer) inUse() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.counted) > 0
}

// problems are those of the claims.
func (c *claimer) problems() []view.Problem {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.faults)
}
