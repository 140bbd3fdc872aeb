package kube

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/weaveguard/weaveguard/keys"
	"github.com/weaveguard/weaveguard/mesh/contract"
	"github.com/weaveguard/weaveguard/mesh/view"
)

const (
	// maxNodeAddresses is how many of a Node's addresses are taken: its kubelet can write any number.
	maxNodeAddresses = 16
	// maxInternalIPs is how many InternalIPs are looked at for the first of each family. Clouds list dozens.
	maxInternalIPs = 64
	// maxAddressText is longer than any IP address without a zone.
	maxAddressText = 45
	// publicKeyText is the length of a WireGuard public key as text: padded base64 (RFC 4648, section 4).
	publicKeyText = (len(keys.PublicKey{}) + 2) / 3 * 4
)

// newNodeInformer watches all Nodes.
func newNodeInformer(client kubernetes.Interface, c *contact) cache.SharedIndexInformer {
	nodes := client.CoreV1().Nodes()
	lw := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
			list, err := nodes.List(ctx, options)
			c.watched(ctx, watchingNodes, err)
			return list, err
		},
		WatchFuncWithContext: func(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
			w, err := nodes.Watch(ctx, options)
			c.watched(ctx, watchingNodes, err)
			return w, err
		},
	}
	return cache.NewSharedIndexInformer(cache.ToListWatcherWithWatchListSemantics(lw, client), &corev1.Node{}, 0, nil)
}

// trimWith sets what an informer keeps of an object.
func trimWith(informer cache.SharedIndexInformer, trim cache.TransformFunc) error {
	// The functions that list and watch report their errors themselves, more completely: reflectors retry refused
	// connections without calling their error handler. So this only keeps the default one from logging each.
	quiet := func(context.Context, *cache.Reflector, error) {}
	return errors.Join(informer.SetTransform(trim), informer.SetWatchErrorHandlerWithContext(quiet))
}

func nodeTrimmer(own string) cache.TransformFunc {
	return func(obj any) (any, error) {
		if node, ok := obj.(*corev1.Node); ok {
			return trimNode(node, node.Name == own), nil
		}
		return obj, nil
	}
}

// trimNode returns a copy that holds only what readNode reads, and of the own Node what the agent writes and what users
// ask of it: a Node is some 15 KB, mostly images and managed fields, and every agent holds all of them.
func trimNode(node *corev1.Node, own bool) *corev1.Node {
	trimmed := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{
			Name:              node.Name,
			UID:               node.UID,
			ResourceVersion:   node.ResourceVersion,
			CreationTimestamp: node.CreationTimestamp,
		},
		Spec: corev1.NodeSpec{PodCIDR: node.Spec.PodCIDR, PodCIDRs: node.Spec.PodCIDRs},
	}
	used := []string{contract.AnnotationIdentity, contract.AnnotationEndpoint}
	if own {
		used = append(used, contract.AnnotationPublicKey, contract.AnnotationKeyGeneration, contract.AnnotationKeyRotatedAt,
			contract.AnnotationRotation, contract.AnnotationRotateKeys)
	}
	for _, key := range used {
		if value, ok := node.Annotations[key]; ok {
			metav1.SetMetaDataAnnotation(&trimmed.ObjectMeta, key, value)
		}
	}
	if value := node.Annotations[contract.AnnotationPublicKey]; !own && len(value) == publicKeyText {
		metav1.SetMetaDataAnnotation(&trimmed.ObjectMeta, contract.AnnotationPublicKey, value)
	}
	for _, taint := range node.Spec.Taints {
		if own && taint.Key == uninitializedTaint {
			trimmed.Spec.Taints = append(trimmed.Spec.Taints, taint)
		}
	}
	internal, external := 0, 0
	for _, address := range node.Status.Addresses {
		switch {
		case address.Type == corev1.NodeInternalIP && internal < maxInternalIPs:
			if len(address.Address) > maxAddressText {
				address.Address = strings.ToValidUTF8(address.Address[:maxAddressText], "") + "…"
			}
			trimmed.Status.Addresses = append(trimmed.Status.Addresses, address)
			internal++
		case address.Type == corev1.NodeExternalIP && external < maxNodeAddresses && len(address.Address) <= maxAddressText:
			trimmed.Status.Addresses = append(trimmed.Status.Addresses, address)
			external++
		}
	}
	for _, condition := range node.Status.Conditions {
		if own && condition.Type == corev1.NodeNetworkUnavailable {
			trimmed.Status.Conditions = append(trimmed.Status.Conditions, condition)
		}
	}
	return trimmed
}

// sameNode reports whether two trimmed Nodes say the same. The kubelet's heartbeats change nothing else.
func sameNode(a, b *corev1.Node) bool {
	return a.UID == b.UID &&
		maps.Equal(a.Annotations, b.Annotations) &&
		a.Spec.PodCIDR == b.Spec.PodCIDR && slices.Equal(a.Spec.PodCIDRs, b.Spec.PodCIDRs) &&
		isUninitialized(a) == isUninitialized(b) && slices.Equal(a.Status.Addresses, b.Status.Addresses) &&
		slices.EqualFunc(a.Status.Conditions, b.Status.Conditions, sameCondition)
}

// readNodes reads trimmed Nodes, and sorts them by name.
func readNodes(objects []any) ([]Node, []view.Problem) {
	nodes := make([]Node, 0, len(objects))
	var problems []view.Problem
	for _, object := range objects {
		node, found := readNode(object.(*corev1.Node))
		nodes, problems = append(nodes, node), append(problems, found...)
	}
	slices.SortFunc(nodes, func(a, b Node) int { return cmp.Compare(a.Name, b.Name) })
	slices.SortFunc(problems, func(a, b view.Problem) int { return cmp.Compare(a.String(), b.String()) })
	return nodes, problems
}

func readNode(object *corev1.Node) (Node, []view.Problem) {
	node := Node{
		Name:      object.Name,
		UID:       string(object.UID),
		Created:   object.CreationTimestamp.Time,
		Identity:  object.Annotations[contract.AnnotationIdentity],
		Endpoint:  object.Annotations[contract.AnnotationEndpoint],
		PublicKey: object.Annotations[contract.AnnotationPublicKey],
	}
	var problems []view.Problem
	unusable := func(value, why string) {
		problems = append(problems, view.Problem{
			Subject: "node " + object.Name,
			Warning: true,
			Message: fmt.Sprintf("its pod CIDR %q isn't used: %s", value, why),
			Remedy:  "see what gave it to the Node: kube-controller-manager, or whoever made the Node",
		})
	}
	cidrs := object.Spec.PodCIDRs
	if len(cidrs) == 0 && object.Spec.PodCIDR != "" {
		cidrs = []string{object.Spec.PodCIDR}
	}
	for _, text := range cidrs {
		cidr, err := netip.ParsePrefix(text)
		switch {
		case err != nil:
			unusable(text, "it must be an address and a length, as in 10.32.5.0/24")
		case cidr.Addr().Is4In6():
			unusable(text, "write it as IPv4")
		case slices.ContainsFunc(node.PodCIDRs, func(o netip.Prefix) bool { return sameFamily(o.Addr(), cidr.Addr()) }):
			unusable(text, "it is the second of its family, and a node has one of each")
		default:
			node.PodCIDRs = append(node.PodCIDRs, cidr.Masked())
		}
	}
	node.sortPodCIDRs()
	if p := node.readAddresses(object.Status.Addresses); p != nil {
		problems = append(problems, *p)
	}
	return node, problems
}

// readAddresses returns the problem of the InternalIPs that can't be used, which may be many.
func (n *Node) readAddresses(addresses []corev1.NodeAddress) *view.Problem {
	var unusable []string
	for _, address := range addresses {
		internal := address.Type == corev1.NodeInternalIP
		ip, err := netip.ParseAddr(address.Address)
		ip = ip.Unmap()
		switch {
		case !internal && (address.Type != corev1.NodeExternalIP || err != nil || !reachable(ip)):
			continue // no tunnel needs it
		case err != nil:
			unusable = append(unusable, fmt.Sprintf("%q isn't used: it isn't an IP address", address.Address))
			continue
		case !reachable(ip):
			unusable = append(unusable, fmt.Sprintf("%q isn't used: other nodes can't reach it", address.Address))
			continue
		}
		// Nodes with several InternalIPs are usual. The first of a family is the one that the kubelet prefers.
		if internal && !slices.ContainsFunc(n.Addresses, func(o netip.Addr) bool { return sameFamily(o, ip) }) {
			n.Addresses = append(n.Addresses, ip)
		}
		if len(n.AllAddresses) < maxNodeAddresses && !slices.Contains(n.AllAddresses, ip) {
			n.AllAddresses = append(n.AllAddresses, ip)
		}
	}
	slices.SortStableFunc(n.Addresses, familyOrder)
	if len(unusable) == 0 {
		return nil
	}
	p := &view.Problem{
		Subject: "node " + n.Name,
		Message: "its InternalIP " + unusable[0],
		Remedy:  "see what its kubelet is told to report, as with --node-ip",
		Warning: true,
	}
	if more := len(unusable) - 1; more > 0 {
		p.Message += fmt.Sprintf(" (nor are %d more)", more)
	}
	return p
}

// sortPodCIDRs brings IPv4 first. There is at most one of each family.
func (n *Node) sortPodCIDRs() {
	slices.SortFunc(n.PodCIDRs, func(a, b netip.Prefix) int { return familyOrder(a.Addr(), b.Addr()) })
}

// reachable reports whether other hosts can have a way to an address.
func reachable(ip netip.Addr) bool {
	return !ip.IsLoopback() && !ip.IsUnspecified() && !ip.IsMulticast() && ip.Zone() == ""
}

func sameFamily(a, b netip.Addr) bool { return a.Is4() == b.Is4() }

// familyOrder puts IPv4 before IPv6.
func familyOrder(a, b netip.Addr) int { return cmp.Compare(a.BitLen(), b.BitLen()) }
