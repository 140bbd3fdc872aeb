package tunneltest_test

import (
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"github.com/weaveguard/weaveguard/mesh/tunnel/tunneltest"
)

// What the fake refuses of a device that has a key, a port, and a live peer that roamed.
func TestFakeRefuses(t *testing.T) {
	own, live, other := key(t), key(t), key(t)
	public := live.PublicKey()
	port, keepalive, mark := 51820, 25*time.Second, 1
	endpoint := &net.UDPAddr{IP: net.IPv4(192, 0, 2, 2), Port: 51820}
	_, allowed, _ := net.ParseCIDR("10.32.2.0/24")
	_, more, _ := net.ParseCIDR("10.32.3.0/24")
	peers := func(peers ...wgtypes.PeerConfig) wgtypes.Config { return wgtypes.Config{Peers: peers} }
	tests := []struct {
		name   string
		config wgtypes.Config
		want   string // "": not refused
	}{
		{"replacing all peers", wgtypes.Config{ReplacePeers: true}, "all peers"},
		{"the same key", wgtypes.Config{PrivateKey: &own}, "written again"},
		{"the same port", wgtypes.Config{ListenPort: &port}, "written again"},
		{"a mark", wgtypes.Config{FirewallMark: &mark}, "firewall mark"},
		{"nothing", wgtypes.Config{}, "empty"},
		{"nothing of a peer", peers(wgtypes.PeerConfig{PublicKey: public, UpdateOnly: true}), "empty"},
		{"replacing allowed IPs", peers(wgtypes.PeerConfig{PublicKey: public, UpdateOnly: true, ReplaceAllowedIPs: true,
			AllowedIPs: []net.IPNet{*more}}), "allowed IPs of a live peer"},
		{"a peer that may be gone", peers(wgtypes.PeerConfig{PublicKey: public, AllowedIPs: []net.IPNet{*more}}), "UpdateOnly"},
		{"a peer that is gone", peers(wgtypes.PeerConfig{PublicKey: other.PublicKey(), UpdateOnly: true}), "ignores"},
		{"its own key", peers(wgtypes.PeerConfig{PublicKey: own.PublicKey()}), "own key"},
		{"the endpoint of before", peers(wgtypes.PeerConfig{PublicKey: public, UpdateOnly: true, Endpoint: endpoint}), "roamed"},
		{"the same allowed IPs", peers(wgtypes.PeerConfig{PublicKey: public, UpdateOnly: true,
			AllowedIPs: []net.IPNet{*allowed}}), "written again"},
		{"the same keepalive", peers(wgtypes.PeerConfig{PublicKey: public, UpdateOnly: true,
			PersistentKeepaliveInterval: &keepalive}), "written again"},
		{"two peers", peers(wgtypes.PeerConfig{PublicKey: other.PublicKey()},
			wgtypes.PeerConfig{PublicKey: public, Remove: true, UpdateOnly: true}), "more than one peer"},
		{"removing and adding", peers(wgtypes.PeerConfig{PublicKey: public, Remove: true, UpdateOnly: true},
			wgtypes.PeerConfig{PublicKey: public, UpdateOnly: true, AllowedIPs: []net.IPNet{*allowed}}), "twice"},
		{"a throwaway peer", peers(wgtypes.PeerConfig{PublicKey: other.PublicKey(), AllowedIPs: []net.IPNet{*allowed}},
			wgtypes.PeerConfig{PublicKey: other.PublicKey(), Remove: true, UpdateOnly: true}), ""},
		{"more allowed IPs", peers(wgtypes.PeerConfig{PublicKey: public, UpdateOnly: true,
			AllowedIPs: []net.IPNet{*more}}), ""},
		{"one peer goes", peers(wgtypes.PeerConfig{PublicKey: public, UpdateOnly: true, Remove: true}), ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := tunneltest.NewFake(wgtypes.LinuxKernel)
			if err := f.Make(t.Context(), "wg", 1420); err != nil {
				t.Fatal(err)
			}
			before := wgtypes.Config{PrivateKey: &own, ListenPort: &port, Peers: []wgtypes.PeerConfig{{
				PublicKey: public, Endpoint: endpoint, PersistentKeepaliveInterval: &keepalive,
				AllowedIPs: []net.IPNet{*allowed},
			}}}
			if err := f.Put("wg", before); err != nil {
				t.Fatal(err)
			}
			if err := f.Handshake("wg", public, time.Now(), netip.MustParseAddrPort("198.51.100.1:9")); err != nil {
				t.Fatal(err)
			}
			err := f.ConfigureDevice("wg", tt.config)
			if tt.want == "" {
				if err != nil || f.Refused() != nil || f.Writes() != 2 {
					t.Errorf("error %v, refused %v, %d writes", err, f.Refused(), f.Writes())
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) || f.Refused() == nil || f.Writes() != 1 {
				t.Errorf("error %v, refused %v, %d writes; want that it is refused for %q", err, f.Refused(), f.Writes(), tt.want)
			}
		})
	}
}

func key(t *testing.T) wgtypes.Key {
	t.Helper()
	k, err := wgtypes.GeneratePrivateKey()
	if err != nil {
		t.Fatal(err)
	}
	return k
}
