package contract

import "testing"

func TestWeaveNet(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		link               HostLink
		bridge, other, pod bool
	}{
		{HostLink{Name: "weave", Kind: "bridge"}, true, false, false},
		{HostLink{Name: "weave", Kind: "openvswitch"}, true, false, false},
		{HostLink{Name: "weave", Kind: "bridge", Alias: BridgeAlias}, false, false, false},
		{HostLink{Name: "weave", Kind: "bridge", Alias: "somebody's"}, false, false, false},
		{HostLink{Name: "weave", Kind: "bridge", MAC: []byte{0x0a, 0x57, 10, 32, 1, 1}}, false, false, false}, // ours as it is made
		{HostLink{Name: "weave", Kind: "dummy"}, false, false, false},
		{HostLink{Name: "weave2", Kind: "bridge"}, false, false, false},
		{HostLink{Name: "vethwe-bridge", Kind: "veth"}, false, true, false},
		{HostLink{Name: "vethwe-bridge", Kind: "dummy"}, false, false, false},
		{HostLink{Name: "vethwepl1a2b3c4", Kind: "veth"}, false, true, true},
		{HostLink{Name: "veth1a2b3c4", Kind: "veth"}, false, false, false},
		{HostLink{Name: "datapath", Kind: "openvswitch"}, false, true, false},
		{HostLink{Name: "datapath", Kind: "bridge"}, false, false, false},
		{HostLink{Name: "vxlan-6784", Kind: "vxlan"}, false, true, false},
	} {
		if got := [3]bool{IsWeaveNetBridge(c.link), IsWeaveNetLink(c.link), IsWeaveNetPod(c.link)}; got != [3]bool{c.bridge, c.other, c.pod} {
			t.Errorf("%+v is bridge, link, pod: %v", c.link, got)
		}
	}
	for name, want := range map[string]bool{"WEAVE": true, "WEAVE-NPC-EGRESS": true, "MYWEAVE": false, "WEAVER": false, "weave": false} {
		if IsWeaveNetChain(name) != want {
			t.Errorf("the chain %s is Weave Net's: %v", name, !want)
		}
	}
	for name, want := range map[string]bool{"weave-net": true, "weave-ipam": true, "weave-plugin-2.8.1": true, "weaveguard": false, "weave": false, "weave-mine": false} {
		if IsWeaveNetPlugin(name) != want {
			t.Errorf("the plugin %s is Weave Net's: %v", name, !want)
		}
	}
}
