package doctor

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weaveguard/weaveguard/mesh/contract"
	"github.com/weaveguard/weaveguard/mesh/view"
)

var now = time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)

// healthy are the facts of a node with nothing wrong.
func healthy() Facts {
	return Facts{
		Agent: &view.Status{
			Time: now, Version: "v1", Node: "a", Ready: true, WireGuard: "kernel",
			PodCIDRs: []netip.Prefix{netip.MustParsePrefix("10.32.1.0/24")}, PodRanges: []netip.Prefix{netip.MustParsePrefix("10.32.0.0/12")},
			Devices: []view.DeviceStatus{{Name: "weave-wg0", ListenPort: 51820}},
			Peers:   []view.PeerStatus{{Node: "b", Up: true, Gossip: true, Endpoint: "192.0.2.2:51820", Device: "weave-wg0"}},
			Gossip:  view.GossipStatus{Address: "192.0.2.1:6783"},
		},
		Host: Host{
			Kernel: "6.1.0-1-amd64", WireGuard: Yes, TUN: Yes, Rules: Yes, BridgeRules: Yes, ConfDir: "/etc/cni/net.d",
			Configs: []string{"05-weaveguard.conflist"}, Chains: []Chain{},
			Settings:  map[string]string{"net/ipv4/ip_forward": "1", "net/ipv4/conf/all/rp_filter": "1", "net/ipv4/conf/weave-wg0/rp_filter": "2"},
			Links:     []contract.HostLink{{Name: "eth0"}, {Name: "weave", Kind: "bridge", Alias: contract.BridgeAlias}, {Name: "weave-wg0", Kind: "wireguard"}},
			Addresses: []view.HostAddress{{Device: "eth0", Address: netip.MustParsePrefix("192.0.2.1/24")}, {Device: "weave", Address: netip.MustParsePrefix("10.32.1.1/24")}},
			Routes:    []view.HostRoute{{Destination: netip.MustParsePrefix("0.0.0.0/0"), Device: "eth0"}, {Destination: netip.MustParsePrefix("10.32.1.0/24"), Device: "weave"}},
			Sockets:   []Socket{{Protocol: "udp", Port: 51820, Own: true}, {Protocol: "udp", Port: 6783}},
		},
	}
}

// without an agent, which is told first.
func silent(f *Facts) {
	f.Host.Sockets = nil
	f.Agent, f.NoAgent = nil, Silence{Message: "no agent runs on this node", Remedy: "start it"}
}

func TestHealthy(t *testing.T) {
	t.Parallel()
	r := Examine(healthy())
	if len(r.Findings) > 0 || len(r.Fine) < 10 || r.Node != "a" {
		t.Errorf("it finds %+v, and fine %q", r.Findings, r.Fine)
	}
}

// Each fault is the first finding of an otherwise healthy node, with how it was found and what to do.
func TestFindings(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(f *Facts)
		want   string // the beginning of subject and message
		remedy string // a part of it
		more   int    // findings beside it
	}{
		"no agent":     {silent, "agent: no agent runs on this node", "start it", 0},
		"what it says": {func(f *Facts) { f.Agent.Problems = []view.Problem{{Subject: "x", Message: "m", Remedy: "r"}} }, "x: m", "r", 0},
		"worst first": {func(f *Facts) {
			f.Agent.Problems = []view.Problem{{Subject: "w", Message: "m", Warning: true}, {Subject: "x", Message: "m"}}
			f.Agent.Peers[0].Up = false
		}, "x: m", "its log", 2},
		"not ready": {func(f *Facts) { f.Agent.Ready = false }, "node a: it can't carry pod traffic yet", "log", 0},
		"no WireGuard, no TUN": {func(f *Facts) {
			f.Host.WireGuard, f.Host.TUN, f.Agent.Devices = No, No, nil
		}, "WireGuard: the kernel 6.1.0-1-amd64 has no WireGuard, and there is no /dev/net/tun", "`modprobe wireguard`, or", 0},
		"old kernel": {func(f *Facts) {
			silent(f)
			f.Host.WireGuard, f.Host.TUN, f.Host.Kernel = No, No, "5.4.0-generic"
		}, "agent:", "start it", 1},
		"no nftables":       {func(f *Facts) { f.Host.Rules = No }, "nftables: the kernel 6.1.0-1-amd64 has no nf_tables, so", "modprobe", 0},
		"none for bridges":  {func(f *Facts) { f.Host.BridgeRules = No }, "nftables: the kernel 6.1.0-1-amd64 has no nf_tables for bridges", "modprobe", 0},
		"port of a tunnel":  {func(f *Facts) { f.Host.Sockets[0] = Socket{Protocol: "udp", Port: 51820, Program: "nc", PID: 7} }, "UDP port 51820: the program nc (process 7) holds it, and a tunnel needs it", "stop it", 0},
		"port of gossip":    {func(f *Facts) { f.Host.Sockets[0] = Socket{Protocol: "tcp", Port: 6783, Program: "weaver", PID: 7} }, "TCP port 6783: the program weaver (process 7) holds it, and gossip", "stop it", 1},
		"another WireGuard": {func(f *Facts) { f.Host.Sockets[0] = Socket{Protocol: "udp", Port: 51821, Device: "wg0"} }, "UDP port 51821: the WireGuard device wg0", "wg set wg0 listen-port", 0},
		"an unseen program": {func(f *Facts) { f.Host.Sockets[0] = Socket{Protocol: "udp", Port: 51822} }, "UDP port 51822: another program", "ss -anp", 0},
		"no forwarding":     {func(f *Facts) { f.Host.Settings["net/ipv4/ip_forward"] = "0" }, "kernel setting net/ipv4/ip_forward: it is 0", "find what changes it", 0},
		"no forwarding of 6": {func(f *Facts) {
			f.Host.Settings["net/ipv6/conf/all/forwarding"] = "0"
			f.Agent.PodCIDRs[0] = netip.MustParsePrefix("fd00::/64")
		}, "kernel setting net/ipv6/conf/all/forwarding", "", 0},
		"strict filter":        {func(f *Facts) { f.Host.Settings["net/ipv4/conf/weave-wg0/rp_filter"] = "1" }, "kernel setting net/ipv4/conf/weave-wg0/rp_filter: it is 1", "rp_filter", 0},
		"strict filter of all": {func(f *Facts) { f.Host.Settings["net/ipv4/conf/weave-wg0/rp_filter"] = "0" }, "kernel setting net/ipv4/conf/weave-wg0/rp_filter: it is 0: net/ipv4/conf/all/rp_filter is 1, of which the kernel takes the larger", "rp_filter", 0},
		"bridged frames":       {func(f *Facts) { f.Host.Settings["net/bridge/bridge-nf-call-iptables"] = "1" }, "kernel setting net/bridge/bridge-nf-call-iptables", "sysctl", 0},
		"a fight": {func(f *Facts) {
			f.Agent.Repairs = []view.Repair{{What: "setting net/ipv4/ip_forward to 1", Times: 9, First: now.Add(-time.Minute), Last: now.Add(-2 * time.Second)}}
		}, "kernel setting net/ipv4/ip_forward: some other program keeps changing it: the agent has put it right 9 times in 58s", "grep -rs ip_forward", 0},
		"a fight over peers": {func(f *Facts) {
			f.Agent.Repairs = []view.Repair{{What: "adding the peer b to weave-wg0", Times: 3, First: now.Add(-time.Minute), Last: now}}
			f.Agent.Peers[0].Up, f.Agent.Peers[0].Reason = false, "weave-wg0 doesn't have it as a peer yet"
		}, "what the agent made (adding the peer b to weave-wg0): some other program", "wg-quick", 1},
		"an old fight": {func(f *Facts) {
			f.Agent.Repairs = []view.Repair{{What: "x", Times: 9, Last: now.Add(-2 * time.Minute)}, {What: "y", Times: 2, Last: now}}
		}, "", "", 0},
		"blocked UDP": {func(f *Facts) { f.Agent.Peers[0].Up = false }, "peer b: no WireGuard packet gets through to it: a firewall blocks a UDP port between 192.0.2.2:51820", "51820 to 51823", 0},
		"blocked towards it": {func(f *Facts) {
			f.Agent.Peers[0] = view.PeerStatus{Node: "b", Gossip: true, Endpoint: "192.0.2.2:51820", Device: "weave-wg0", HandshakeAge: -1, ReceivedBytes: 148}
		}, "peer b: packets of its WireGuard arrive here, and no answer gets back", "51820 to 51823", 0},
		"too early": {func(f *Facts) {
			f.Agent.Started = now.Add(-settling + 1)
			f.Agent.Peers[0] = view.PeerStatus{Node: "b", Gossip: true, Endpoint: "192.0.2.2:51820", Device: "weave-wg0", HandshakeAge: -1}
		}, "peer b: its tunnel has no handshake yet", "again", 0},
		"not too early": {func(f *Facts) {
			f.Agent.Started = now.Add(-settling)
			f.Agent.Peers[0] = view.PeerStatus{Node: "b", Gossip: true, Endpoint: "192.0.2.2:51820", Device: "weave-wg0", HandshakeAge: -1}
		}, "peer b: no WireGuard packet gets through", "51820 to 51823", 0},
		"plain peer down": {func(f *Facts) {
			f.Agent.Kubernetes = view.KubernetesAbsent
			f.Agent.Peers[0] = view.PeerStatus{Node: "b", Reason: "nothing was heard of it yet"}
		}, "peer b: nothing was heard of it yet", "`weaveguard forget b`", 0},
		"blocked gossip": {func(f *Facts) {
			f.Agent.Peers[0].Up, f.Agent.Peers[0].Gossip = false, false
			f.Echoes = map[string]Answer{"b": Yes}
		}, "peer b: nothing is heard of its agent, though its host answers", "6783", 0},
		"host down": {func(f *Facts) {
			f.Agent.Peers[0].Up, f.Agent.Peers[0].Gossip = false, false
			f.Echoes = map[string]Answer{"b": No}
		}, "peer b: neither its agent nor its host answers", "is up", 0},
		"peer down": {func(f *Facts) { f.Agent.Peers[0] = view.PeerStatus{Node: "b", Reason: "nothing was heard of it yet"} }, "peer b: nothing was heard of it yet", "delete its Node", 0},
		"told before": {func(f *Facts) {
			f.Agent.Peers[0] = view.PeerStatus{Node: "b", Reason: "pod CIDR X overlaps Y", Gossip: true}
			f.Agent.Problems = []view.Problem{{Subject: "node b", Message: "pod CIDR X overlaps Y", Remedy: "change it"}}
		}, "node b: pod CIDR X overlaps Y", "change it", 0},
		"narrow path":     {func(f *Facts) { f.Agent.Peers[0].PathMTU = 1388 }, "MTU: the network between nodes carries smaller packets than this host's interfaces say: 1388 bytes to b", "to 1388", 0},
		"address of pods": {func(f *Facts) { f.Host.Addresses[0].Address = netip.MustParsePrefix("10.40.0.1/24") }, "address 10.40.0.1: this address on eth0", "another range", 0},
		"told address": {func(f *Facts) {
			f.Host.Addresses[0].Address = netip.MustParsePrefix("10.40.0.1/24")
			f.Agent.Problems = []view.Problem{{Subject: "pod range", Message: "it contains 10.40.0.1"}}
		}, "pod range: it contains 10.40.0.1", "", 0},
		"route to pods": {func(f *Facts) { f.Host.Routes[1].Device = "eth0" }, "route 10.32.1.0/24: where this route (by eth0) leads", "", 0},
		"dropped":       {func(f *Facts) { f.Host.Chains = []Chain{{"ip", "filter", "FORWARD", true, true}} }, "firewall: the chain FORWARD of the nftables table ip filter drops", "iptables -I FORWARD -i weave -j ACCEPT", 0},
		"rival":         {func(f *Facts) { f.Host.Configs = append(f.Host.Configs, "00-other.conf") }, "/etc/cni/net.d/00-other.conf: the container runtime uses this", "mv /etc/cni/net.d/00-other.conf", 0},
		"Flannel": {func(f *Facts) {
			f.Host.Links = append(f.Host.Links, contract.HostLink{Name: "flannel.1", Kind: "vxlan"})
		}, "Flannel: it runs on this host, or has left there: the interface flannel.1", "DaemonSet", 0},
		"Calico's file": {func(f *Facts) { f.Host.Files = []string{"/etc/cni/net.d/10-calico.conflist"} }, "Calico: it runs on this host, or has left there: /etc/cni/net.d/10-calico.conflist", "DaemonSet", 0},
		"Weave Net": {func(f *Facts) {
			f.Host.Chains = []Chain{{Family: "ip", Table: "nat", Name: "WEAVE"}, {Family: "ip", Table: "filter", Name: "WEAVE-NPC"}}
			f.Host.Files = []string{"/var/lib/weave", "/opt/cni/bin/weave-net"}
		}, "Weave Net: it has left on this host: the chains WEAVE, WEAVE-NPC, /var/lib/weave, /opt/cni/bin/weave-net", "cleanup --weave-net", 0},
		"its files": {func(f *Facts) { f.Host.Files = []string{"/opt/cni/bin/weave-net"} }, "Weave Net: it has left on this host: /opt/cni/bin/weave-net", "cleanup --weave-net", 0},
		"its chains beside our bridge are worse than a warning": {func(f *Facts) {
			f.Host.Chains = []Chain{{Family: "ip", Table: "filter", Name: "WEAVE-NPC"}}
			f.Agent.Problems = []view.Problem{{Subject: "w", Message: "m", Remedy: "r", Warning: true}}
		}, "Weave Net: it has left on this host: the chains WEAVE-NPC; rules that come with such chains drop", "cleanup --weave-net", 1},
		"it runs": {func(f *Facts) {
			f.Host.Sockets = append(f.Host.Sockets, Socket{Protocol: "tcp", Port: 6784, Program: "weaver", Own: true})
		}, "Weave Net: it runs on this host beside Weaveguard", "`kubectl label node a weave-net-`", 0},
		"it runs on a plain host": {func(f *Facts) {
			f.Agent.Kubernetes = view.KubernetesAbsent
			f.Host.Sockets = append(f.Host.Sockets, Socket{Protocol: "tcp", Port: 6784, Program: "weaver", Own: true})
		}, "Weave Net: it runs on this host beside Weaveguard", "`weave stop`", 0},
		"its bridge": {func(f *Facts) {
			f.Host.Links[1] = contract.HostLink{Name: "weave", Kind: "bridge", Ports: []string{"vethwe-bridge"}}
		}, "Weave Net: it has left on this host: its bridge weave", "cleanup --weave-net", 0},
		"another bridge": {func(f *Facts) {
			silent(f)
			f.Host.Links[1] = contract.HostLink{Name: "weave", Kind: "bridge", Alias: "mine"}
		}, "agent:", "", 1},
	} {
		f := healthy()
		c.change(&f)
		r := Examine(f)
		if c.want == "" {
			if len(r.Findings) > 0 {
				t.Errorf("%s: it finds %+v, want nothing", name, r.Findings)
			}
			continue
		}
		if len(r.Findings) != c.more+1 {
			t.Errorf("%s: it finds %+v, want %d", name, r.Findings, c.more+1)
			continue
		}
		first := r.Findings[0]
		if got := first.Subject + ": " + first.Message; !strings.HasPrefix(got, c.want) || !strings.Contains(first.Remedy, c.remedy) {
			t.Errorf("%s: first it finds %q (%s), want %q (%s)", name, got, first.Remedy, c.want, c.remedy)
		}
		for _, finding := range r.Findings {
			if finding.Found == "" || finding.Remedy == "" {
				t.Errorf("%s: %+v lacks how it was found, or its remedy", name, finding)
			}
		}
	}
}

func TestOldKernel(t *testing.T) {
	t.Parallel()
	for release, want := range map[string]bool{"5.4.0-generic": true, "5.6.0": false, "6.1": false, "4.19": true, "": false, "odd": false} {
		if got := older(release) != ""; got != want {
			t.Errorf("%q counts as older: %v, want %v", release, got, want)
		}
	}
}

// However large a mesh is, and whatever others write, a report stays of a size to be read.
func TestManyPeersDown(t *testing.T) {
	t.Parallel()
	f := healthy()
	f.Agent.Peers = nil
	for i := range 200 {
		f.Agent.Peers = append(f.Agent.Peers, view.PeerStatus{Node: fmt.Sprint("n", i), Reason: "nothing is heard of n" + fmt.Sprint(i), PathMTU: 1300})
	}
	r := Examine(f)
	if len(r.Findings) != 12 || !slices.ContainsFunc(r.Findings, func(f Finding) bool { return f.Message == "190 more are down" }) {
		t.Errorf("%d findings, want ten peers, one that there are more, and the paths", len(r.Findings))
	}
	if text := r.Findings[len(r.Findings)-1].Message; len(text) > 400 {
		t.Errorf("the paths take %d bytes", len(text))
	}
}

// Warnings alone are nothing that is broken, and what couldn't be asked is told.
func TestWarningsAlone(t *testing.T) {
	t.Parallel()
	f := healthy()
	f.Agent.Problems = []view.Problem{{Subject: "pod ranges", Message: "not configured", Remedy: "r", Warning: true}}
	if r := Examine(f); len(r.Findings) != 1 || r.Wrong() || len(r.Unseen) > 0 {
		t.Errorf("a warning alone: %+v", r)
	}
	f.Agent.Peers[0].Up = false
	f.Echoes = map[string]Answer{"b": Unknown}
	if r := Examine(f); !r.Wrong() || len(r.Unseen) != 1 || !strings.Contains(r.Unseen[0], "CAP_NET_RAW") {
		t.Errorf("a peer that is down, and can't be asked: %+v", r)
	}
}
