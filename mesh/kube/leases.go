package kube

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/weaveguard/weaveguard/mesh/claim"
	"github.com/weaveguard/weaveguard/mesh/contract"
	"github.com/weaveguard/weaveguard/mesh/view"
)

const (
	// ClaimNamespace is where the claims are: a Lease for each block of addresses that a node has, named after it.
	ClaimNamespace = "weaveguard"
	// RangeLease is the Lease there that holds what the blocks are cut from. The first agent that claims makes it.
	RangeLease = "range"

	nameLabel = "app.kubernetes.io/name"
	nameValue = "weaveguard"
	// maxForeign is how many Leases that aren't claims are named, each by a problem of its own.
	maxForeign = 3
)

// lease is what one Lease says that is called like a claim.
type lease struct {
	cidr    netip.Prefix
	uid     types.UID
	version string
	holder  string // the name of the node that has it, or had it
	// node is the Node that owns it; nil: it is gone, and the block rests.
	node    *metav1.OwnerReference
	ranged  types.UID // of the RangeLease that owns it as well; "": none
	since   time.Time // when the node took it
	foreign string    // why it is no claim of ours; "": it is one
}

// claims is what the Leases say together.
type claims struct {
	rangeUID types.UID             // of the RangeLease; "": there is none
	ranges   []claim.Range         // that it holds; none: it isn't there, or can't be used
	leases   map[string]lease      // by name; of all that are called like a claim
	blocks   map[netip.Prefix]bool // that those name
	problems []view.Problem
}

// newLeaseInformer watches the Leases of the claims.
func newLeaseInformer(client kubernetes.Interface, c *contact) cache.SharedIndexInformer {
	leases := client.CoordinationV1().Leases(ClaimNamespace)
	lw := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
			list, err := leases.List(ctx, options)
			c.watched(ctx, watchingClaims, err)
			return list, err
		},
		WatchFuncWithContext: func(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
			w, err := leases.Watch(ctx, options)
			c.watched(ctx, watchingClaims, err)
			return w, err
		},
	}
	return cache.NewSharedIndexInformer(cache.ToListWatcherWithWatchListSemantics(lw, client), &coordinationv1.Lease{}, 0, nil)
}

// trimLease keeps what readLease reads.
func trimLease(obj any) (any, error) {
	l, ok := obj.(*coordinationv1.Lease)
	if !ok {
		return obj, nil
	}
	trimmed := &coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: l.Namespace, Name: l.Name, UID: l.UID, ResourceVersion: l.ResourceVersion, OwnerReferences: l.OwnerReferences,
		},
		Spec: coordinationv1.LeaseSpec{HolderIdentity: l.Spec.HolderIdentity, AcquireTime: l.Spec.AcquireTime},
	}
	if value, ok := l.Labels[nameLabel]; ok {
		metav1.SetMetaDataLabel(&trimmed.ObjectMeta, nameLabel, value)
	}
	for _, key := range []string{contract.AnnotationPodRange, contract.AnnotationMaskSize} {
		if value, ok := l.Annotations[key]; ok {
			metav1.SetMetaDataAnnotation(&trimmed.ObjectMeta, key, value)
		}
	}
	return trimmed, nil
}

// readClaims reads trimmed Leases.
func readClaims(objects []any) claims {
	c := claims{leases: map[string]lease{}, blocks: map[netip.Prefix]bool{}}
	foreign := map[string]string{}
	for _, object := range objects {
		l := object.(*coordinationv1.Lease)
		if l.Name == RangeLease {
			c.readRange(l)
			continue
		}
		read, err := readLease(l)
		if err != nil {
			foreign[l.Name] = err.Error()
			continue
		}
		c.leases[l.Name], c.blocks[read.cidr] = read, true
		if read.foreign != "" {
			foreign[l.Name] = read.foreign
		}
	}
	for i, name := range slices.Sorted(maps.Keys(foreign)) {
		if i == maxForeign {
			c.problems = append(c.problems, claimsProblem(fmt.Sprintf("so are %d more Leases in the namespace %s", len(foreign)-i,
				ClaimNamespace), "", true))
			break
		}
		c.problems = append(c.problems, claimsProblem(fmt.Sprintf("the Lease %s/%s isn't used: %s", ClaimNamespace, name, foreign[name]),
			"remove it, if it isn't there to keep its block from being given", true))
	}
	return c
}

// readRange reads the RangeLease.
func (c *claims) readRange(l *coordinationv1.Lease) {
	c.rangeUID = l.UID
	ranges, err := parseRanges(l.Annotations[contract.AnnotationPodRange], l.Annotations[contract.AnnotationMaskSize])
	if err != nil {
		c.problems = append(c.problems, claimsProblem(fmt.Sprintf("the Lease %s/%s can't be used, so nothing is claimed: %v", ClaimNamespace,
			RangeLease, err), fmt.Sprintf("correct its annotations %s and %s; if no node has a claim yet, delete it",
			contract.AnnotationPodRange, contract.AnnotationMaskSize), false))
		return
	}
	c.ranges = ranges
}

// readLease reads a Lease that isn't the RangeLease. An error means that it isn't called like a claim.
func readLease(l *coordinationv1.Lease) (lease, error) {
	cidr, err := claim.ParseName(l.Name)
	if err != nil {
		return lease{}, err
	}
	read := lease{cidr: cidr, uid: l.UID, version: l.ResourceVersion}
	if l.Spec.HolderIdentity != nil {
		read.holder = *l.Spec.HolderIdentity
	}
	if l.Spec.AcquireTime != nil {
		read.since = l.Spec.AcquireTime.Time
	}
	for i, o := range l.OwnerReferences {
		switch {
		case o.APIVersion == "v1" && o.Kind == "Node" && read.node == nil:
			read.node = &l.OwnerReferences[i]
		case o.APIVersion == coordinationv1.SchemeGroupVersion.String() && o.Kind == "Lease" && o.Name == RangeLease:
			read.ranged = o.UID
		default:
			read.foreign = fmt.Sprintf("it is owned by the %s %s as well", o.Kind, o.Name)
		}
	}
	switch {
	case read.foreign != "":
	case l.Labels[nameLabel] != nameValue:
		read.foreign = fmt.Sprintf("it lacks the label %s=%s, so somebody else made it", nameLabel, nameValue)
	case read.holder == "":
		read.foreign = "it has no holder"
	case read.node != nil && read.node.Name != read.holder:
		read.foreign = fmt.Sprintf("its holder is %s, and its owner the Node %s", read.holder, read.node.Name)
	}
	return read, nil
}

// parseRanges reads the annotations of the RangeLease: ranges, and in the same order the lengths of their blocks.
func parseRanges(prefixes, sizes string) ([]claim.Range, error) {
	texts, lengths := strings.Split(prefixes, ","), strings.Split(sizes, ",")
	if prefixes == "" || len(texts) != len(lengths) {
		return nil, fmt.Errorf("%s is %q and %s is %q: they take one value of each for a family", contract.AnnotationPodRange, prefixes,
			contract.AnnotationMaskSize, sizes)
	}
	var ranges []claim.Range
	for i, text := range texts {
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, fmt.Errorf("%s: %q isn't a range of addresses such as 10.32.0.0/12", contract.AnnotationPodRange, text)
		}
		bits, err := strconv.Atoi(lengths[i])
		if err != nil {
			return nil, fmt.Errorf("%s: %q isn't a length such as 24", contract.AnnotationMaskSize, lengths[i])
		}
		r := claim.Range{Prefix: prefix, Bits: bits}
		if err := r.Check(); err != nil {
			return nil, err
		}
		if slices.ContainsFunc(ranges, func(o claim.Range) bool { return sameFamily(o.Prefix.Addr(), prefix.Addr()) }) {
			return nil, fmt.Errorf("%s has two ranges of a family", contract.AnnotationPodRange)
		}
		ranges = append(ranges, r)
	}
	return ranges, nil
}

// formatRanges is parseRanges' other way.
func formatRanges(ranges []claim.Range) (prefixes, sizes string) {
	var p, s []string
	for _, r := range ranges {
		p, s = append(p, r.Prefix.String()), append(s, strconv.Itoa(r.Bits))
	}
	return strings.Join(p, ","), strings.Join(s, ",")
}

func claimsProblem(message, remedy string, warning bool) view.Problem {
	return view.Problem{Subject: "pod CIDR claims", Message: message, Remedy: remedy, Warning: warning}
}

// held are the node's claims, by its name: those that it has and those that it had before its Node was made again. The
// earliest is the first.
func (c claims) held(node string) []lease {
	var held []lease
	for _, l := range c.leases {
		if l.foreign == "" && l.holder == node {
			held = append(held, l)
		}
	}
	slices.SortFunc(held, func(a, b lease) int {
		if a.before(b) {
			return -1
		}
		return 1
	})
	return held
}

// before orders the claims of a node: the one that it has had for longer counts.
func (l lease) before(other lease) bool {
	return cmp.Or(l.since.Compare(other.since), l.cidr.Addr().Compare(other.cidr.Addr()), l.cidr.Bits()-other.cidr.Bits()) < 0
}

// belongs reports whether a claim is the Node's as it is now.
func (l lease) belongs(n Node) bool {
	return l.foreign == "" && l.node != nil && l.node.Name == n.Name && string(l.node.UID) == n.UID
}
