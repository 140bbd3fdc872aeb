package agents_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/weaveguard/weaveguard/mesh/view"
	"github.com/weaveguard/weaveguard/test/lab"
	"github.com/weaveguard/weaveguard/test/lab/agents"
)

// cliRoutes compares which way `weaveguard routes` says that packets go with what becomes of them: whether they are answered, and,
// for those that stay in the mesh, by which device the kernel sends them. What comes by the underlay in the clear is counted by
// the tests of the firewall.
func cliRoutes(t *testing.T, m *agents.Mesh) {
	a, b, c := m.Nodes[0], m.Nodes[1], m.Nodes[2]
	blue.write(t, a, 1)
	blue.write(t, b, 2)
	here, near := a.AddPod(t, "here"), a.AddPod(t, "near")
	both := join(t, b, "both", view.DefaultNetwork, blue.name)
	// An address out of the cluster, behind the third host.
	out := netip.MustParseAddr("198.51.100.9")
	c.MustRun(t, "ip", "address", "add", out.String()+"/32", "dev", "lo")
	a.MustRun(t, "ip", "route", "add", out.String(), "via", c.Addr.String())
	// A route of somebody's, for an address of pods.
	c.MustRun(t, "ip", "address", "add", "10.32.99.9/32", "dev", "lo")
	a.MustRun(t, "ip", "route", "add", "10.32.99.9", "via", c.Addr.String())
	for _, tt := range []struct {
		what, to string
		device   string // the last; "": none is said
		answers  bool
		says     string
	}{
		{"a pod of this node", near.Addr.String(), "weave", true, "to the pods of this node"},
		{"a pod of this node by IPv6", near.Addrs[1].String(), "weave", true, "to the pods of this node"},
		{"a pod of another node", both.addresses[view.DefaultNetwork][0].String(), "weave-wg0", true, "tunnel to " + b.Name},
		{"a pod of another node by IPv6", both.addresses[view.DefaultNetwork][1].String(), "weave-wg0", true, "tunnel to " + b.Name},
		{"another node's gateway", gateway(b).String(), "weave-wg0", true, "is the gateway"},
		{"an address of this node that no pod has", near.Addr.Next().Next().Next().String(), "weave", false, "no pod on"},
		{"this node", a.Addr.String(), "lo", true, "this node itself"},
		{"another node", b.Addr.String(), "", true, "isn't encrypted"},
		{"out of the cluster", out.String(), "", true, "masquerade"},
		{"another network", both.addresses[blue.name][0].String(), "", false, "keeps the networks default and blue apart"},
		{"a pod's address that no node has", "10.32.77.7", "", false, "fails closed"},
		{"a pod's address that somebody has a route for", "10.32.99.9", "", false, "in the clear"},
		{"nowhere", "203.0.113.9", "", false, "no route"},
	} {
		t.Run(tt.what, func(t *testing.T) {
			source := here.Addr
			if strings.Contains(tt.to, ":") {
				source = here.Addrs[1]
			}
			_, err := here.Run(t.Context(), "ping", "-c", "2", "-i", "0.2", "-W", "1", tt.to)
			if answered := err == nil; answered != tt.answers {
				t.Errorf("answered: %t, want %t: %v", answered, tt.answers, err)
			}
			var text string
			lab.Eventually(t, 10*time.Second, "the agent knows the pods", func() error {
				var err error
				text, err = a.Run(t.Context(), lab.Build(t, "./cmd/weaveguard"), "routes", source.String(), tt.to, "-o", "json")
				if delivered := err == nil; delivered != tt.answers || !strings.Contains(text, tt.says) {
					return fmt.Errorf("it says that the packet is delivered: %t, and\n%s\n%w", delivered, text, err)
				}
				return nil
			})
			if tt.device != "" && !strings.Contains(text, fmt.Sprintf(`"device": %q`, tt.device)) {
				t.Errorf("the way doesn't lead by %s:\n%s", tt.device, text)
			}
			if tt.device != "" && tt.device != "lo" {
				if kernel := a.MustRun(t, "ip", "route", "get", tt.to, "from", source.String(), "iif", "weave"); !strings.Contains(kernel, " dev "+tt.device+" ") {
					t.Errorf("the kernel sends it another way: %s", kernel)
				}
			}
		})
	}
}
