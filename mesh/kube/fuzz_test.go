package kube

import (
	"slices"
	"strings"
	"testing"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/weaveguard/weaveguard/mesh/claim"
	"github.com/weaveguard/weaveguard/mesh/contract"
)

// FuzzReadNode reads Nodes with anything in the fields and annotations that matter: never a panic, and what is taken
// over is one usable prefix and address of each family at most, and of all addresses a few.
func FuzzReadNode(f *testing.F) {
	f.Add("10.32.5.0/24", "fd00:5::/64", "192.0.2.1", "2001:db8::1", "aWRlbnRpdHk=", "203.0.113.9")
	f.Add("10.32.5.9/24", "10.32.6.0/24", "127.0.0.1", "fe80::1%eth0", "", "")
	f.Add("::ffff:10.0.0.0/120", "0.0.0.0/0", "::ffff:192.0.2.1", "0.0.0.0", "\x00", "\xff")
	f.Add("", "/", "", "224.0.0.1", "=", " ")
	f.Fuzz(func(t *testing.T, cidr1, cidr2, address1, address2, identity, endpoint string) {
		object := &corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: "n", Annotations: map[string]string{
				contract.AnnotationIdentity: identity, contract.AnnotationEndpoint: endpoint, contract.AnnotationRotateKeys: identity,
				contract.AnnotationPublicKey: identity,
			}},
			Spec: corev1.NodeSpec{PodCIDR: cidr1, PodCIDRs: []string{cidr1, cidr2}},
			Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{
				{Type: corev1.NodeInternalIP, Address: address1}, {Type: corev1.NodeInternalIP, Address: address2},
				{Type: corev1.NodeExternalIP, Address: address2}, {Type: corev1.NodeExternalIP, Address: cidr1},
			}},
		}
		if other, _ := readNode(trimNode(object, false)); other.PublicKey != "" && other.PublicKey != identity || len(other.PublicKey) > 100 {
			t.Errorf("%q became the public key %q of another node", identity, other.PublicKey)
		}
		trimmed := trimNode(object, true)
		node, problems := readNode(trimmed)
		if len(node.PodCIDRs) > 2 || len(node.Addresses) > 2 || len(problems) > 4 {
			t.Fatalf("%+v, %v", node, problems)
		}
		for i, p := range node.PodCIDRs {
			if !p.IsValid() || p != p.Masked() || p.Addr().Is4In6() || i > 0 && sameFamily(p.Addr(), node.PodCIDRs[0].Addr()) {
				t.Errorf("pod CIDRs %v", node.PodCIDRs)
			}
		}
		for i, a := range node.Addresses {
			if !a.IsValid() || a.Is4In6() || a.Zone() != "" || a.IsLoopback() || i > 0 && sameFamily(a, node.Addresses[0]) {
				t.Errorf("addresses %v", node.Addresses)
			}
		}
		for i, a := range node.AllAddresses {
			if !a.IsValid() || a.Is4In6() || a.Zone() != "" || a.IsLoopback() || a.IsUnspecified() || slices.Contains(node.AllAddresses[:i], a) {
				t.Errorf("all addresses %v", node.AllAddresses)
			}
		}
		if node.Identity != identity || node.Endpoint != endpoint {
			t.Errorf("annotations %q and %q became %q and %q", identity, endpoint, node.Identity, node.Endpoint)
		}
	})
}

// FuzzPodSubnet reads any text as kubeadm's ClusterConfiguration: never a panic, and what is taken over is one masked
// range of each family at most; what isn't is an error that fits a line of the log.
func FuzzPodSubnet(f *testing.F) {
	for _, text := range []string{
		"kind: ClusterConfiguration\nnetworking:\n  dnsDomain: cluster.local\n  podSubnet: fd00::/56, 10.32.7.0/12\n",
		`{"networking":{"podSubnet":"10.32.0.0/12,"}}`, "networking: {podSubnet: 10.32.0.0/12}\nnetworking: {podSubnet: 10.64.0.0/12}",
		"networking:\n  podSubnet: 10.32.0.0/12,10.64.0.0/12", "networking: {podSubnet: '::ffff:10.0.0.0/120'}",
		"networking: {podSubnet: 0.0.0.0/0}", "networking: {podSubnet: fe80::%eth0/64}", "networking: {podSubnet: 10.32.0.0/33}",
		"networking: {podSubnet: [10.32.0.0/12]}", "networking: {podSubnet: 10}", "networking: 7", "networking: ~", "---\n---\n", "", "\t{",
		"a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b]\nnetworking: {podSubnet: *c}",
		"a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b]\n? *c\n: x",
		"networking: {podSubnet: " + strings.Repeat("x", 2000) + "}",
		"networking: &n {podSubnet: 10.32.0.0/12}\nother: {<<: *n}", "networking: {podSubnet: !!binary aGVsbG8=}", "networking: \x00\xff",
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		subnets, err := readPodSubnet(text)
		if err != nil {
			if len(subnets) > 0 || err.Error() == "" || len(err.Error()) > 1000 {
				t.Errorf("refused with %v and %d bytes: %.500s", subnets, len(err.Error()), err)
			}
			return
		}
		if len(subnets) > 2 {
			t.Errorf("subnets %v", subnets)
		}
		var again []string
		for i, s := range subnets {
			if !s.IsValid() || s != s.Masked() || s.Bits() == 0 || s.Addr().Is4In6() || i > 0 && sameFamily(s.Addr(), subnets[0].Addr()) {
				t.Errorf("subnets %v", subnets)
			}
			again = append(again, s.String())
		}
		back, err := readPodSubnet("networking:\n  podSubnet: " + strings.Join(again, ","))
		if err != nil || !slices.Equal(back, subnets) {
			t.Errorf("read again: %v, %v; want %v", back, err, subnets)
		}
	})
}

// FuzzReadClaims reads Leases with anything in what matters: never a panic, and what counts is a proper block of the range
// that no other Node has.
func FuzzReadClaims(f *testing.F) {
	f.Add("v4-10.32.5.0-24", "n1", "v1", "Node", "n1", "uid-1", "10.32.0.0/12", "24")
	f.Add("v6-fd00-0032-0000-0005-0000-0000-0000-0000-64", "n2", "v1", "Node", "n2", "uid-2", "10.32.0.0/12,fd00:32::/48", "24,64")
	f.Add("range", "", "coordination.k8s.io/v1", "Lease", "range", "", "0.0.0.0/0,,", "-1,999")
	f.Add("v4-0.0.0.0-0", "n1", "v1", "Node", "n2", "uid-1", "::/0", "128")
	f.Fuzz(func(t *testing.T, name, holder, version, kind, owner, uid, prefixes, sizes string) {
		labels := map[string]string{nameLabel: nameValue}
		objects := []any{
			&coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: RangeLease, Labels: labels, Annotations: map[string]string{
				contract.AnnotationPodRange: prefixes, contract.AnnotationMaskSize: sizes}}},
			&coordinationv1.Lease{
				ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels, OwnerReferences: []metav1.OwnerReference{
					{APIVersion: version, Kind: kind, Name: owner, UID: types.UID(uid)}}},
				Spec: coordinationv1.LeaseSpec{HolderIdentity: &holder},
			},
		}
		all := readClaims(objects)
		nodes := []Node{{Name: "n1", UID: "uid-1"}, {Name: "n2", UID: "uid-2"}}
		assign(nodes, all, all.ranges)
		if len(nodes[0].PodCIDRs)+len(nodes[1].PodCIDRs) > 1 {
			t.Errorf("one Lease gave %v and %v", nodes[0].PodCIDRs, nodes[1].PodCIDRs)
		}
		for _, n := range nodes {
			for _, cidr := range n.PodCIDRs {
				if !slices.ContainsFunc(all.ranges, func(r claim.Range) bool { return r.Has(cidr) }) || holder != n.Name || uid != n.UID {
					t.Errorf("%s got %s, of %s by %q", n.Name, cidr, uid, holder)
				}
			}
		}
	})
}
