package contract_test

import (
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/weaveguard/weaveguard/mesh/contract"
)

// A bridge that is made again must have the MAC that running pods know.
func TestBridgeMACNeverChanges(t *testing.T) {
	for gateway, want := range map[string]string{
		"10.32.5.1":        "0a:57:0a:20:05:01",
		"::ffff:10.32.5.1": "0a:57:0a:20:05:01",
		"fd00:5::1":        "0a:57:00:00:00:01",
	} {
		if got := contract.BridgeMAC(netip.MustParseAddr(gateway)).String(); got != want {
			t.Errorf("BridgeMAC(%s) = %s, want %s", gateway, got, want)
		}
	}
}

func TestBridgeMACIsOfTheIPv4Gateway(t *testing.T) {
	v4, v6 := netip.MustParseAddr("10.32.5.1"), netip.MustParseAddr("fd00:5::1")
	if a, b := contract.BridgeMAC(v4, v6).String(), contract.BridgeMAC(v6, v4).String(); a != b || a != "0a:57:0a:20:05:01" {
		t.Errorf("by order of the gateways: %s and %s", a, b)
	}
}

func TestForeignBridge(t *testing.T) {
	mac := contract.BridgeMAC(netip.MustParseAddr("10.32.5.1"))
	other := net.HardwareAddr{2, 0, 0, 0, 0, 1}
	address := []netip.Prefix{netip.MustParsePrefix("10.40.0.0/12")}
	tests := []struct {
		name      string
		link      contract.HostLink
		addresses []netip.Prefix
		want      []string // nil: ours
	}{
		{name: "ours", link: contract.HostLink{Kind: "bridge", Alias: "weaveguard", MAC: mac}},
		{name: "ours, from another subnet", link: contract.HostLink{Kind: "bridge", Alias: "weaveguard", MAC: other}},
		{name: "ours, being made", link: contract.HostLink{Kind: "bridge", MAC: mac}},
		{name: "Weave Net's bridge", link: contract.HostLink{Kind: "bridge", MAC: other, Ports: []string{"vethwe-bridge"}},
			addresses: address, want: []string{"Weave Net", "vethwe-bridge", "kubectl label node NODE weave-net-", "cleanup --weave-net"}},
		{name: "Weave Net's bridge without ports", link: contract.HostLink{Kind: "bridge", MAC: other},
			addresses: address, want: []string{"Weave Net", "10.40.0.0/12"}},
		{name: "Weave Net's datapath", link: contract.HostLink{Kind: "openvswitch", MAC: other},
			want: []string{"Weave Net", "Open vSwitch"}},
		{name: "somebody's bridge", link: contract.HostLink{Kind: "bridge", Alias: "lxd", MAC: mac},
			want: []string{`named "lxd"`, "another bridge name"}},
		{name: "not a bridge", link: contract.HostLink{Kind: "dummy", MAC: mac, Alias: "weaveguard"},
			want: []string{"a dummy interface"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.link.Name = "weave"
			err := contract.ForeignBridge(tt.link, tt.addresses, mac)
			if err == nil {
				if tt.want != nil {
					t.Fatal("taken as ours")
				}
				return
			}
			if tt.want == nil {
				t.Fatalf("not taken as ours: %v", err)
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q lacks %q", err, want)
				}
			}
		})
	}
}
