package kube_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	ktesting "k8s.io/client-go/testing"

	"github.com/weaveguard/weaveguard/mesh/kube"
)

var leasesResource = coordinationv1.SchemeGroupVersion.WithResource("leases")

// newClaimAPI is newAPI with what client-go's fake leaves out of Leases: UIDs, versions, and that an update or a removal
// of what has changed is refused.
func newClaimAPI(t *testing.T, objects ...runtime.Object) *api {
	t.Helper()
	a := newAPI(t, objects...)
	a.client.PrependReactor("create", "leases", a.createLease)
	a.client.PrependReactor("update", "leases", a.updateLease)
	a.client.PrependReactor("delete", "leases", a.deleteLease)
	a.client.PrependReactor("*", "leases", func(ktesting.Action) (bool, runtime.Object, error) {
		err := a.isDown()
		return err != nil, nil, err
	})
	return a
}

func (a *api) createLease(action ktesting.Action) (bool, runtime.Object, error) {
	a.writing.Lock()
	defer a.writing.Unlock()
	l := action.(ktesting.CreateAction).GetObject().(*coordinationv1.Lease).DeepCopy()
	if impl, ok := action.(ktesting.CreateActionImpl); ok && len(impl.CreateOptions.DryRun) > 0 {
		return a.dryRunLease(l)
	}
	l.ResourceVersion = a.next()
	l.UID = types.UID("uid-" + l.ResourceVersion)
	return true, l, a.client.Tracker().Create(leasesResource, l, l.Namespace)
}

func (a *api) updateLease(action ktesting.Action) (bool, runtime.Object, error) {
	a.writing.Lock()
	defer a.writing.Unlock()
	l := action.(ktesting.UpdateAction).GetObject().(*coordinationv1.Lease).DeepCopy()
	object, err := a.client.Tracker().Get(leasesResource, l.Namespace, l.Name)
	if err != nil {
		return true, nil, err
	}
	if has := object.(*coordinationv1.Lease); has.ResourceVersion != l.ResourceVersion || has.UID != l.UID {
		return true, nil, apierrors.NewConflict(leasesResource.GroupResource(), l.Name, errors.New("changed"))
	}
	l.ResourceVersion = a.next()
	return true, l, a.client.Tracker().Update(leasesResource, l, l.Namespace)
}

func (a *api) deleteLease(action ktesting.Action) (bool, runtime.Object, error) {
	a.writing.Lock()
	defer a.writing.Unlock()
	del := action.(ktesting.DeleteActionImpl)
	object, err := a.client.Tracker().Get(leasesResource, del.Namespace, del.Name)
	if err != nil {
		return true, nil, err
	}
	has, want := object.(*coordinationv1.Lease), del.DeleteOptions.Preconditions
	if want == nil || *want.UID != has.UID || *want.ResourceVersion != has.ResourceVersion {
		return true, nil, apierrors.NewConflict(leasesResource.GroupResource(), del.Name, errors.New("changed"))
	}
	return true, nil, a.client.Tracker().Delete(leasesResource, del.Namespace, del.Name)
}

// leases are all there are, by name.
func (a *api) leases(t *testing.T) map[string]*coordinationv1.Lease {
	t.Helper()
	object, err := a.client.Tracker().List(leasesResource, coordinationv1.SchemeGroupVersion.WithKind("Lease"), kube.ClaimNamespace)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]*coordinationv1.Lease{}
	for _, l := range object.(*coordinationv1.LeaseList).Items {
		all[l.Name] = l.DeepCopy()
	}
	return all
}

// put makes a Lease what it is given as, as an administrator or a thief does.
func (a *api) put(t *testing.T, l *coordinationv1.Lease) {
	t.Helper()
	a.writing.Lock()
	defer a.writing.Unlock()
	l.Namespace, l.ResourceVersion = kube.ClaimNamespace, a.next()
	if l.UID == "" {
		l.UID = types.UID("uid-" + l.ResourceVersion)
	}
	err := a.client.Tracker().Update(leasesResource, l, l.Namespace)
	if apierrors.IsNotFound(err) {
		err = a.client.Tracker().Create(leasesResource, l, l.Namespace)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func (a *api) removeLease(t *testing.T, name string) {
	t.Helper()
	if err := a.client.Tracker().Delete(leasesResource, kube.ClaimNamespace, name); err != nil {
		t.Fatal(err)
	}
}

// removeNode deletes a Node, and does what the garbage collector does then.
func (a *api) removeNode(t *testing.T, name string) {
	t.Helper()
	if err := a.client.Tracker().Delete(nodesResource, "", name); err != nil {
		t.Fatal(err)
	}
	a.collect(t)
}

// collect takes owners that are gone out of Leases, and removes a Lease that has none left.
func (a *api) collect(t *testing.T) {
	t.Helper()
	all := a.leases(t)
	for name, l := range all {
		left := slices.DeleteFunc(slices.Clone(l.OwnerReferences), func(o metav1.OwnerReference) bool {
			if o.Kind == "Lease" {
				return all[o.Name] == nil || all[o.Name].UID != o.UID
			}
			object, err := a.client.Tracker().Get(nodesResource, "", o.Name)
			return err != nil || object.(*corev1.Node).UID != o.UID
		})
		switch {
		case len(left) == len(l.OwnerReferences):
		case len(left) == 0:
			a.removeLease(t, name)
		default:
			l.OwnerReferences = left
			a.put(t, l)
		}
	}
}

// rangeLease fixes what claims are cut from.
func rangeLease(prefixes, sizes string) *coordinationv1.Lease {
	return &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{
		Name: kube.RangeLease, UID: "uid-range", Labels: map[string]string{"app.kubernetes.io/name": "weaveguard"},
		Annotations: map[string]string{"weaveguard.io/pod-range": prefixes, "weaveguard.io/node-cidr-mask-size": sizes},
	}}
}

// claimLease is a claim as the agent of a node makes it.
func claimLease(name, node string) *coordinationv1.Lease {
	return &coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{
			Name: name, Labels: map[string]string{"app.kubernetes.io/name": "weaveguard"},
			OwnerReferences: []metav1.OwnerReference{
				{APIVersion: "v1", Kind: "Node", Name: node, UID: types.UID("uid-" + node)},
				{APIVersion: "coordination.k8s.io/v1", Kind: "Lease", Name: kube.RangeLease, UID: "uid-range"},
			},
		},
		Spec: coordinationv1.LeaseSpec{HolderIdentity: &node},
	}
}

// claiming is what an agent is started with by default.
func claiming() kube.Claims { return kube.Claims{Mode: kube.ClaimAuto, Bits4: 24, Bits6: 64} }

// within are claims from a range.
func within(mode kube.ClaimMode, bits int, ranges ...string) kube.Claims {
	c := kube.Claims{Mode: mode, Bits4: bits, Bits6: 64, Explicit: true}
	for _, r := range ranges {
		c.Ranges = append(c.Ranges, netip.MustParsePrefix(r))
	}
	return c
}

// startClaiming runs a Kube that claims. It ends when the test does, or when stop is called.
func (a *api) startClaiming(t *testing.T, node string, c kube.Claims) (ag *agent, stop func()) {
	t.Helper()
	ag = &agent{log: &logBuffer{}}
	config := a.config(node, ag.log, func() { ag.changes.Add(1) })
	config.Claims = c
	ag.Kube = kube.New(config)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	ended := false
	go func() { done <- ag.Run(ctx) }()
	stop = func() {
		if ended {
			return
		}
		ended = true
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(stop)
	return ag, stop
}

// podCIDRs are a node's in a Snapshot, as text.
func podCIDRs(s kube.Snapshot, node string) string {
	for _, n := range s.Nodes {
		if n.Name == node {
			return strings.Trim(fmt.Sprint(n.PodCIDRs), "[]")
		}
	}
	return "no Node"
}

// claimWrites counts what was asked of the API server about Leases, but for reading them and for dry runs.
func (a *api) claimWrites() int {
	n := 0
	for _, action := range a.client.Actions() {
		if create, ok := action.(ktesting.CreateActionImpl); ok && len(create.CreateOptions.DryRun) > 0 {
			continue
		}
		if action.GetResource() == leasesResource && action.GetVerb() != "list" && action.GetVerb() != "watch" {
			n++
		}
	}
	return n
}
