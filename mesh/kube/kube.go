package kube

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/tools/cache"

	"github.com/weaveguard/weaveguard/mesh/view"
)

// Config is what a Kube needs. Every field but Claims, Changed and Rotate is required.
type Config struct {
	Client kubernetes.Interface
	// Metadata watches the objects of which nothing but their metadata matters: NetworkPolicies.
	Metadata metadata.Interface
	// Node is the name of the Node object of this host.
	Node string
	// Namespace is where Weaveguard is installed, and its Secret lies.
	Namespace string
	// Claims says whether and how this node claims pod CIDRs that Kubernetes doesn't give it.
	Claims Claims
	Log    *slog.Logger
	// Changed is called when Snapshot would return something new. It must return at once, and may be called from
	// several goroutines.
	Changed func()
	// Rotate notes on disk that a rotation of this node's keys is wanted; nil: requests for one are left alone. When a
	// user asks on the own Node, a goroutine of Run that does nothing else calls it, and removes the request once it
	// has returned nil. An error means that nothing is noted: then it is called again, with back-off, and the Snapshot
	// has a problem meanwhile. It is called once for a request, however long the API server can't be told to remove
	// that; but a request that is still there when an agent starts counts, even if an agent before it noted it.
	Rotate func() error
}

// Snapshot is what the cluster looks like, as seen last. It is immutable: nobody changes one.
type Snapshot struct {
	// Synced says that Nodes is complete: a node that isn't in it doesn't exist, and has no pod CIDRs but those in it. It
	// stays true when the API server goes away; then Nodes is what was seen last.
	Synced bool
	// Reachable says that the API server answered when it was asked last, and allowed to watch Nodes.
	Reachable bool
	Nodes     []Node // sorted by name
	// PodRanges are what nodes claim their pod CIDRs from; none: Kubernetes gives those, or nobody has claimed yet.
	PodRanges []netip.Prefix
	// NetworkPolicies is how many NetworkPolicies the cluster has.
	NetworkPolicies int
	// Problems are what an operator should know about: parts of Nodes that can't be used, requests that the API server
	// doesn't answer or refuses, a rotation that is asked for and can't be noted, and that no admission policy protects
	// the Nodes or the gossip key. They keep their text while they last, and only the last is logged here.
	Problems []view.Problem
}

// Node is what one Node object says.
type Node struct {
	Name    string
	UID     string
	Created time.Time
	// PodCIDRs is spec.podCIDRs, or spec.podCIDR of old, or without these what the node has claimed: masked, at most one
	// of each family, IPv4 first.
	PodCIDRs []netip.Prefix
	// Addresses are the node's InternalIPs: at most one of each family, IPv4 first.
	Addresses []netip.Addr
	// AllAddresses are its InternalIPs and ExternalIPs, in its order: at most maxNodeAddresses.
	AllAddresses []netip.Addr
	Identity     string // annotation weaveguard.io/identity, as it is
	Endpoint     string // annotation weaveguard.io/endpoint, as it is
	PublicKey    string // annotation weaveguard.io/public-key, as it is; of other Nodes only what is as long as a key
}

// Kube is the agent's side of the Kubernetes API. Its methods are safe for concurrent use.
type Kube struct {
	config   Config
	contact  *contact
	nodes    cache.SharedIndexInformer // of *corev1.Node, trimmed
	policies cache.SharedIndexInformer // of *metav1.PartialObjectMetadata, trimmed
	own      *ownWriter
	requests *requests
	claims   *claimer
	// protections find out whether the manifest's admission policies are in force.
	protections []*protection
	events      chan event
	// accusations wait for recordAccusations.
	accusations chan accusation

	mu       sync.Mutex
	snapshot *Snapshot // nil: make it again
}

// New makes a Kube. Nothing is read or written before Run, except by Keyring, ReadKeyring and PodSubnet.
func New(config Config) *Kube {
	if config.Changed == nil {
		config.Changed = func() {}
	}
	k := &Kube{config: config, events: make(chan event, maxPendingEvents), accusations: make(chan accusation, maxAccusations)}
	k.contact = newContact(k.changed)
	k.nodes = newNodeInformer(config.Client, k.contact)
	k.policies = newPolicyInformer(config.Metadata, k.contact)
	k.own = newOwnWriter(config, k.nodes.GetStore(), k.contact)
	k.requests = newRequests(config, k.own, k.contact, k.Event, k.changed)
	k.claims = newClaimer(config, k.nodes, k.contact, k.PodSubnet, k.changed)
	k.protections = newProtections(config, func() []Node { return k.Snapshot().Nodes }, k.claims.inUse, k.Event, k.changed)
	return k
}

// Run watches and writes until ctx ends, and returns once all that it started has ended. Call it once.
func (k *Kube) Run(ctx context.Context) error {
	notices := newNotices(k.config, k.policies.GetStore(), k.contact, k.agents)
	defer notices.close()
	if err := k.listen(notices); err != nil {
		return fmt.Errorf("watching Kubernetes: %w", err)
	}
	ctx = withLogger(ctx, k.config.Log)
	var running sync.WaitGroup
	defer running.Wait()
	running.Go(func() { k.nodes.RunWithContext(ctx) })
	running.Go(func() { k.policies.RunWithContext(ctx) })
	running.Go(func() { k.recordEvents(ctx) })
	select {
	case <-ctx.Done():
		return nil
	case <-k.nodes.HasSyncedChecker().Done():
	}
	k.changed()
	k.config.Log.Info("watching Kubernetes", "count", len(k.nodes.GetStore().ListKeys()))
	running.Go(func() { k.own.run(ctx) })
	running.Go(func() { k.requests.run(ctx) })
	running.Go(func() { k.claims.run(ctx) })
	for _, p := range k.protections {
		running.Go(func() { p.run(ctx) })
	}
	running.Go(func() { k.recordAccusations(ctx) })
	running.Go(func() { notices.run(ctx) })
	<-ctx.Done()
	return nil
}

// listen sets what the informers keep, and hooks their handlers to the snapshot and the writers.
func (k *Kube) listen(notices *notices) error {
	errTrim := errors.Join(trimWith(k.nodes, nodeTrimmer(k.config.Node)), trimWith(k.policies, trimPolicy),
		trimWith(k.claims.leases, trimLease))
	_, errNodes := k.nodes.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(obj any) {
			k.nodeChanged(obj)
			k.nodeSeen(obj)
		},
		UpdateFunc: func(before, now any) {
			k.nodeSeen(now)
			if !sameNode(before.(*corev1.Node), now.(*corev1.Node)) {
				k.nodeChanged(now)
			}
		},
		DeleteFunc: func(obj any) {
			k.nodeChanged(obj)
			k.nodeSeen(obj)
		},
	})
	_, errPolicies := k.policies.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(obj any) {
			notices.add(obj)
			k.changed()
		},
		UpdateFunc: func(before, now any) { notices.update(before, now) },
		DeleteFunc: func(any) { k.changed() },
	})
	_, errLeases := k.claims.leases.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(any) { k.leaseChanged() },
		UpdateFunc: func(any, any) { k.leaseChanged() },
		DeleteFunc: func(any) { k.leaseChanged() },
	})
	return errors.Join(errTrim, errNodes, errPolicies, errLeases)
}

func (k *Kube) leaseChanged() {
	k.claims.wakeUp()
	k.changed()
}

func (k *Kube) nodeChanged(obj any) {
	k.claims.wakeUp()
	if node, ok := obj.(*corev1.Node); ok && node.Name == k.config.Node {
		k.own.wakeUp()
	}
	k.changed()
}

// nodeSeen takes a Node that may be as it was: after a time without a watch, the same request as before can be another
// one, made since the first was removed.
func (k *Kube) nodeSeen(obj any) {
	if node, ok := obj.(*corev1.Node); ok && node.Name == k.config.Node {
		k.requests.wakeUp()
	}
}

// changed drops the snapshot, and says so.
func (k *Kube) changed() {
	k.mu.Lock()
	k.snapshot = nil
	k.mu.Unlock()
	k.config.Changed()
}

// Snapshot returns what the cluster looks like now.
func (k *Kube) Snapshot() Snapshot {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.snapshot == nil {
		k.snapshot = k.takeSnapshot()
	}
	return *k.snapshot
}

func (k *Kube) takeSnapshot() *Snapshot {
	s := &Snapshot{Synced: k.nodes.HasSynced(), NetworkPolicies: len(k.policies.GetStore().ListKeys())}
	s.Reachable, s.Problems = k.contact.state()
	var problems []view.Problem
	s.Nodes, problems = readNodes(k.nodes.GetStore().List())
	if s.Synced {
		ranges, known := k.claims.complete(s.Nodes)
		for _, r := range ranges {
			s.PodRanges = append(s.PodRanges, r.Prefix)
		}
		s.Synced = known
	}
	s.Problems = append(append(s.Problems, problems...), k.requests.problems()...)
	s.Problems = append(s.Problems, k.claims.problems()...)
	for _, p := range k.protections {
		s.Problems = append(s.Problems, p.problems()...)
	}
	return s
}

// agents returns how many nodes run, or ran, an agent.
func (k *Kube) agents() int {
	n := 0
	for _, node := range k.Snapshot().Nodes {
		if node.Identity != "" {
			n++
		}
	}
	return n
}
