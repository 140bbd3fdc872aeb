package main

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/weaveguard/weaveguard/mesh/kube"
)

// An endpoint that no record may have must not get as far as the record: the node would announce none at all.
func TestEndpointAnnotation(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"192.0.2.1":        "192.0.2.1",
		"10.1.2.3":         "10.1.2.3",
		"::ffff:192.0.2.1": "192.0.2.1",
		"2001:db8::1":      "2001:db8::1",
		"127.0.0.1":        "",
		"0.0.0.0":          "",
		"224.0.0.1":        "",
		"255.255.255.255":  "",
		"fe80::1":          "",
		"2001:db8::1%eth0": "",
		"192.0.2.1:51820":  "",
	} {
		node, problems := clusterNode(kube.Node{Name: "a", Endpoint: text})
		switch {
		case want == "" && (node.Endpoint.IsValid() || len(problems) != 1):
			t.Errorf("%q gave %v and problems %v, want no endpoint and one problem", text, node.Endpoint, problems)
		case want != "" && (node.Endpoint.String() != want || len(problems) != 0):
			t.Errorf("%q gave %v and problems %v, want %s", text, node.Endpoint, problems, want)
		}
	}
}

// The firewall needs more addresses of a node than the tunnels do.
func TestAddressesOfNodes(t *testing.T) {
	t.Parallel()
	one, more := []netip.Addr{netip.MustParseAddr("192.0.2.1")}, []netip.Addr{netip.MustParseAddr("203.0.113.1"), netip.MustParseAddr("192.0.2.1")}
	if n, _ := clusterNode(kube.Node{Name: "a", Addresses: one, AllAddresses: more}); !slices.Equal(n.Addresses, one) || !slices.Equal(n.AllAddresses, more) {
		t.Errorf("it has %v, and of all %v", n.Addresses, n.AllAddresses)
	}
}
