package product_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weaveguard/weaveguard/mesh/claim"
	"github.com/weaveguard/weaveguard/mesh/kube"
	"github.com/weaveguard/weaveguard/mesh/view"
	"github.com/weaveguard/weaveguard/test/cluster"
	"github.com/weaveguard/weaveguard/test/full"
)

// testTwentyClaims makes twenty Nodes that all want the same block first, and runs what agents claim with for all of them at
// once, against the real API; then it deletes one.
func (w *world) testTwentyClaims(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	defer running.Wait()
	defer stop()
	var agents []*kube.Kube
	names := rivals(20)
	for _, name := range names {
		agents = append(agents, w.claimant(t, name, kube.Claims{Mode: kube.ClaimAuto, Bits4: 24, Bits6: 64}))
	}
	began := time.Now()
	for _, agent := range agents {
		running.Go(func() {
			if err := agent.Run(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	for _, agent := range agents {
		w.eventually(t, "all have their own", func(context.Context) error { return allClaimed(agent.Snapshot()) })
	}
	t.Logf("20 nodes had claimed after %.1f s", time.Since(began).Seconds())
	w.testFreed(t, names[7])
}

// rivals are names of nodes that all want the same block first.
func rivals(count int) (names []string) {
	r := claim.Range{Prefix: netip.MustParsePrefix(kube.DefaultRange), Bits: 24}
	free := func(netip.Prefix) bool { return false }
	for i := 0; len(names) < count; i++ {
		name := fmt.Sprintf("extra-%d", i)
		if block, _ := claim.Next(r, name, nil, free); block == r.Block(1) {
			names = append(names, name)
		}
	}
	return names
}

// claimant makes a Node, and what its agent would claim with.
func (w *world) claimant(t *testing.T, node string, claims kube.Claims) *kube.Kube {
	t.Helper()
	_, err := w.Client().CoreV1().Nodes().Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: node}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	client, metadata, err := kube.Clients(w.Kubeconfig(), "test")
	if err != nil {
		t.Fatal(err)
	}
	return kube.New(kube.Config{Client: client, Metadata: metadata, Node: node, Namespace: system, Claims: claims,
		Log: slog.New(slog.DiscardHandler)})
}

// testTwoSizes runs an agent that is to claim blocks of another size than the cluster's.
func (w *world) testTwoSizes(t *testing.T) {
	const node = "other-size"
	agent := w.claimant(t, node, kube.Claims{Mode: kube.ClaimAuto, Bits4: 25, Bits6: 64, Explicit: true})
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- agent.Run(ctx) }()
	w.eventually(t, "it refuses", func(context.Context) error {
		problems := agent.Snapshot().Problems
		if text := fmt.Sprint(problems); !saysAll(text, []string{"blocks of /25", "blocks of /24", "weaveguard/range", "--node-cidr-mask-size"}) {
			return fmt.Errorf("it says %v", problems)
		}
		return nil
	})
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
	list, err := w.claims().List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range list.Items {
		if l.Spec.HolderIdentity != nil && *l.Spec.HolderIdentity == node || strings.HasSuffix(l.Name, "-25") {
			t.Errorf("it claimed %s", l.Name)
		}
	}
}

// allClaimed wants each of 22 nodes to have a pod CIDR that no other one has.
func allClaimed(s kube.Snapshot) error {
	var all []netip.Prefix
	var errs []error
	for _, n := range s.Nodes {
		if len(n.PodCIDRs) != 1 {
			errs = append(errs, fmt.Errorf("%s has %v", n.Name, n.PodCIDRs))
		}
		for _, cidr := range n.PodCIDRs {
			if slices.ContainsFunc(all, cidr.Overlaps) {
				errs = append(errs, fmt.Errorf("%s of %s is another's as well", cidr, n.Name))
			}
			all = append(all, cidr)
		}
	}
	if len(all) != 22 {
		errs = append(errs, fmt.Errorf("%d pod CIDRs are claimed, want 22", len(all)))
	}
	return errors.Join(errs...)
}

// testFreed deletes a Node: the garbage collector leaves its claim without it, so that the block rests, and then an agent
// may remove it. With full counts it waits until one does.
func (w *world) testFreed(t *testing.T, node string) {
	name, thief := w.claimOf(t, node).Name, w.thief(t, w.nodes[0])
	remove := func() error {
		return thief.CoordinationV1().Leases(kube.ClaimNamespace).Delete(t.Context(), name, metav1.DeleteOptions{DryRun: dry})
	}
	wantRefused(t, "to remove a claim in use", remove(), kube.LeasePolicy, "one whose Node is gone")
	if err := w.Client().CoreV1().Nodes().Delete(t.Context(), node, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	w.eventually(t, "the claim rests", func(ctx context.Context) error {
		l, err := w.claims().Get(ctx, name, metav1.GetOptions{})
		if err == nil && (len(l.OwnerReferences) != 1 || l.OwnerReferences[0].Name != kube.RangeLease) {
			err = fmt.Errorf("it is owned by %v", l.OwnerReferences)
		}
		return err
	})
	if err := remove(); err != nil {
		t.Errorf("to remove a claim that has rested: %v", err)
	}
	status, err := w.status(t.Context(), w.nodes[0])
	if err != nil || slices.ContainsFunc(status.Problems, func(p view.Problem) bool { return strings.Contains(p.String(), "claim") }) {
		t.Errorf("the status says %v, %v", status.Problems, err)
	}
	if !full.Wanted() {
		return
	}
	began := time.Now()
	free := func(ctx context.Context) error {
		_, err := w.claims().Get(ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return cmp.Or(err, errors.New("it still rests"))
	}
	if err := cluster.Poll(t.Context(), 8*time.Minute, "the block is free again", free); err != nil {
		t.Fatal(err)
	}
	if rested := time.Since(began); rested < 4*time.Minute+50*time.Second {
		t.Errorf("it rested for %s only", rested)
	}
}
