package kube

import (
	"context"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"

	"github.com/weaveguard/weaveguard/mesh/claim"
	"github.com/weaveguard/weaveguard/mesh/view"
)

// run claims until the context ends. The Nodes must be known.
func (c *claimer) run(ctx context.Context) {
	if c.config.Mode == ClaimNever {
		return
	}
	var running sync.WaitGroup
	defer running.Wait()
	backoff := retryBackoff()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.wake:
		case <-timer.C:
			c.failed = move{} // try again
		}
		if !c.watching && c.mustWatch() {
			c.watching = true
			running.Go(func() { c.leases.RunWithContext(ctx) })
			running.Go(func() { c.awaitSync(ctx) })
		}
		pause, err := c.pass(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			c.contact.note(writingClaims, err)
			pause = backoff.Step()
		case c.failed.kind != moveNone:
			continue // until the timer says so
		default:
			c.contact.note(writingClaims, nil)
			backoff = retryBackoff()
		}
		timer.Reset(pause)
	}
}

// awaitSync says when all Leases are known.
func (c *claimer) awaitSync(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-c.leases.HasSyncedChecker().Done():
		c.changed()
		c.wakeUp()
	}
}

// mustWatch reports whether a Node may have claims: it is without pod CIDRs. At the start that counts at once.
func (c *claimer) mustWatch() bool {
	nodes, _ := readNodes(c.nodes.GetStore().List())
	if !slices.ContainsFunc(nodes, func(n Node) bool { return len(n.PodCIDRs) == 0 }) {
		c.lacking = time.Time{}
		return false
	}
	c.mu.Lock()
	known := c.synced
	c.mu.Unlock()
	if c.lacking.IsZero() {
		c.lacking = time.Now()
	}
	return !known || time.Since(c.lacking) >= watchPatience
}

// pass does what there is to do, and returns after what time to look again without a sign.
func (c *claimer) pass(ctx context.Context) (time.Duration, error) {
	if !c.watching {
		if c.lacking.IsZero() {
			return time.Hour, nil
		}
		return watchPatience, nil
	}
	if !c.leases.HasSynced() || !c.seen() {
		return time.Second, nil
	}
	s, ok := c.look(ctx)
	if !ok {
		c.report(nil)
		return time.Hour, nil
	}
	m, problems := decide(s)
	c.report(append(slices.Clone(s.claims.problems), problems...))
	if m.kind == moveNone || m.kind == moveWait {
		c.failed = move{}
		return c.pause(m), nil
	}
	if reflect.DeepEqual(m, c.failed) {
		return 0, nil
	}
	c.failed = move{}
	took, err := c.do(ctx, s, m)
	if err != nil {
		c.failed = m
	}
	return took, err
}

// pause is how long nothing happens by itself.
func (c *claimer) pause(m move) time.Duration {
	pause := time.Hour
	if m.kind == moveWait {
		pause = time.Second
		if since := time.Since(c.alone); since > claimPatience {
			pause = 30 * time.Second
		}
	}
	if len(c.freed) > 0 {
		pause = min(pause, 10*time.Second)
	}
	return pause
}

// seen reports whether what was written last has come by the watch.
func (c *claimer) seen() bool {
	if c.wrote.name == "" || time.Since(c.wrote.at) > claimSeen {
		return true
	}
	obj, ok, err := c.leases.GetStore().GetByKey(ClaimNamespace + "/" + c.wrote.name)
	if !ok || err != nil {
		return false
	}
	order, err := resourceversion.CompareResourceVersion(obj.(*coordinationv1.Lease).ResourceVersion, c.wrote.version)
	if err != nil || order >= 0 {
		c.wrote = written{}
		return true
	}
	return false
}

// look takes the situation. It reports false when this node has no Node.
func (c *claimer) look(ctx context.Context) (situation, bool) {
	now := time.Now()
	obj, ok, err := c.nodes.GetStore().GetByKey(c.node)
	if !ok || err != nil {
		c.alone = time.Time{}
		return situation{}, false
	}
	nodes, _ := readNodes(c.nodes.GetStore().List())
	own := slices.IndexFunc(nodes, func(n Node) bool { return n.Name == c.node })
	s := situation{Claims: c.config, self: nodes[own], nodes: nodes, uninitialized: isUninitialized(obj.(*corev1.Node)),
		claims: readClaims(c.leases.GetStore().List()), reassigned: map[string][]netip.Prefix{}}
	c.mu.Lock()
	c.remember(s.claims)
	s.ranges = slices.Clone(c.last)
	for cidr, has := range c.counted {
		if has.name == c.node {
			s.Last = append([]netip.Prefix{cidr}, s.Last...)
		}
	}
	c.mu.Unlock()
	if len(s.self.PodCIDRs) > 0 || s.uninitialized {
		c.alone = time.Time{}
	} else if c.alone.IsZero() {
		c.alone = now
	}
	s.patient = !c.alone.IsZero() && now.Sub(c.alone) >= claimPatience
	if (s.patient || s.Mode == ClaimAlways) && len(s.self.PodCIDRs) == 0 && len(s.ranges) == 0 {
		if s.podSubnet, err = c.podSubnet(ctx); err != nil {
			c.log.Debug("can't tell kubeadm's pod subnet", "error", err)
			s.patient = false // and so tries again
		}
	}
	claimed := slices.Clone(nodes)
	assign(claimed, s.claims, s.ranges)
	for i, n := range claimed {
		if len(nodes[i].PodCIDRs) == 0 && len(n.PodCIDRs) > 0 {
			s.reassigned[n.Name] = n.PodCIDRs
		}
	}
	s.rested = c.followFreed(s.claims, len(nodes), now)
	return s, true
}

// followFreed keeps since when claims are seen without their Node, and returns which of them have rested.
func (c *claimer) followFreed(all claims, nodes int, now time.Time) func(lease) bool {
	current := map[string]time.Time{}
	for _, l := range all.leases {
		if l.resting() {
			current[l.seenAs()] = now
			if since, ok := c.freed[l.seenAs()]; ok {
				current[l.seenAs()] = since
			} else {
				// Each agent at its own time: one is enough.
				current[l.seenAs()] = now.Add(rand.N(min(restSpread, time.Duration(nodes)*restPerNode) + 1))
			}
		}
	}
	c.freed = current
	return func(l lease) bool {
		since, ok := current[l.seenAs()]
		return ok && now.Sub(since) >= claimRest
	}
}

// seenAs is the claim as it is now.
func (l lease) seenAs() string { return string(l.uid) + "/" + l.version }

// do makes a move, and returns how long its result may take to be seen. What somebody else was faster with is no error: it
// comes by the watch.
func (c *claimer) do(ctx context.Context, s situation, m move) (time.Duration, error) {
	var name, version string
	var err error
	uid := types.UID(s.self.UID)
	switch m.kind {
	case moveRange:
		name = RangeLease
		version, err = c.writer.makeRange(ctx, m.ranges)
	case moveCreate:
		name = claim.Name(m.block)
		version, err = c.writer.create(ctx, m.block, uid, s.claims.rangeUID)
	case moveAdopt:
		name = claim.Name(m.block)
		version, err = c.writer.adopt(ctx, m.lease, uid, s.claims.rangeUID)
	case moveFree:
		return claimTold, c.free(ctx, m.lease)
	}
	switch {
	case apierrors.IsAlreadyExists(err), m.kind == moveAdopt && (apierrors.IsConflict(err) || apierrors.IsNotFound(err)):
		return claimTold, nil
	case err != nil:
		return 0, err
	}
	c.wrote = written{name: name, version: version, at: time.Now()}
	c.log.Info("claimed by a Lease", "lease", ClaimNamespace+"/"+name, "of", list(s.fixed()))
	return claimTold, nil
}

// free removes a claim, unless somebody was faster.
func (c *claimer) free(ctx context.Context, l lease) error {
	delete(c.freed, l.seenAs())
	err := c.writer.free(ctx, l)
	switch {
	case apierrors.IsConflict(err), apierrors.IsNotFound(err):
		return nil
	case err == nil:
		c.log.Info("a pod CIDR is free again: its Node is gone, and it has rested", "podCIDR", l.cidr, "node", l.holder)
	}
	return err
}

// report keeps the problems, and says so when they are others.
func (c *claimer) report(problems []view.Problem) {
	c.mu.Lock()
	same := slices.Equal(c.faults, problems)
	c.faults = problems
	c.mu.Unlock()
	if !same {
		c.changed()
	}
}

func isUninitialized(node *corev1.Node) bool {
	return slices.ContainsFunc(node.Spec.Taints, func(t corev1.Taint) bool { return t.Key == uninitializedTaint })
}
