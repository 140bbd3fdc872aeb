package kube

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	typedcoordinationv1 "k8s.io/client-go/kubernetes/typed/coordination/v1"

	"github.com/weaveguard/weaveguard/mesh/claim"
	"github.com/weaveguard/weaveguard/mesh/contract"
)

// leaseWriter writes claims in the name of one node. Each method returns the resource version of what it wrote.
type leaseWriter struct {
	client kubernetes.Interface
	node   string
}

func (w leaseWriter) leases() typedcoordinationv1.LeaseInterface {
	return w.client.CoordinationV1().Leases(ClaimNamespace)
}

// makeRange fixes what the cluster's claims are cut from.
func (w leaseWriter) makeRange(ctx context.Context, ranges []claim.Range) (string, error) {
	prefixes, sizes := formatRanges(ranges)
	l := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{
		Namespace: ClaimNamespace, Name: RangeLease, Labels: map[string]string{nameLabel: nameValue},
		Annotations: map[string]string{contract.AnnotationPodRange: prefixes, contract.AnnotationMaskSize: sizes},
	}}
	return w.send(ctx, "making", l, w.make)
}

// create claims a block. The API server makes its name unique.
func (w leaseWriter) create(ctx context.Context, block netip.Prefix, node, ranged types.UID) (string, error) {
	return w.send(ctx, "making", w.claim(claim.Name(block), node, ranged), w.make)
}

// adopt makes a claim that is this node's by its name the one of its Node as that is now.
func (w leaseWriter) adopt(ctx context.Context, had lease, node, ranged types.UID) (string, error) {
	l := w.claim(claim.Name(had.cidr), node, ranged)
	l.UID, l.ResourceVersion = had.uid, had.version
	l.Spec.AcquireTime.Time = had.since
	return w.send(ctx, "taking over", l, func(ctx context.Context, l *coordinationv1.Lease) (*coordinationv1.Lease, error) {
		return w.leases().Update(ctx, l, metav1.UpdateOptions{})
	})
}

// free removes a claim, if it is as it was seen.
func (w leaseWriter) free(ctx context.Context, l lease) error {
	ctx, cancel := context.WithTimeoutCause(ctx, writeTimeout, errors.New("no answer in time"))
	defer cancel()
	name := claim.Name(l.cidr)
	err := w.leases().Delete(ctx, name, metav1.DeleteOptions{
		Preconditions: &metav1.Preconditions{UID: &l.uid, ResourceVersion: &l.version},
	})
	if err != nil {
		return fmt.Errorf("removing the Lease %s/%s: %w", ClaimNamespace, name, err)
	}
	return nil
}

// claim is a claim of this node. It has two owners: when the Node is gone, the API server's garbage collector takes that
// one out, and leaves the claim to the RangeLease. So the block stays taken until an agent frees it.
func (w leaseWriter) claim(name string, node, ranged types.UID) *coordinationv1.Lease {
	now := metav1.NowMicro()
	return &coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: ClaimNamespace, Name: name, Labels: map[string]string{nameLabel: nameValue},
			OwnerReferences: []metav1.OwnerReference{
				{APIVersion: "v1", Kind: "Node", Name: w.node, UID: node},
				{APIVersion: coordinationv1.SchemeGroupVersion.String(), Kind: "Lease", Name: RangeLease, UID: ranged},
			},
		},
		Spec: coordinationv1.LeaseSpec{HolderIdentity: &w.node, AcquireTime: &now},
	}
}

func (w leaseWriter) make(ctx context.Context, l *coordinationv1.Lease) (*coordinationv1.Lease, error) {
	return w.leases().Create(ctx, l, metav1.CreateOptions{})
}

func (w leaseWriter) send(ctx context.Context, what string, l *coordinationv1.Lease,
	by func(context.Context, *coordinationv1.Lease) (*coordinationv1.Lease, error)) (string, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, writeTimeout, errors.New("no answer in time"))
	defer cancel()
	answer, err := by(ctx, l)
	if err != nil {
		return "", fmt.Errorf("%s the Lease %s/%s: %w", what, ClaimNamespace, l.Name, err)
	}
	return answer.ResourceVersion, nil
}
