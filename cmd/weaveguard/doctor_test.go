package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/weaveguard/weaveguard/mesh/doctor"
	"github.com/weaveguard/weaveguard/mesh/view"
)

// What doctor says is the specification of what operators see; scripts show it for what this machine has.
func TestReport(t *testing.T) {
	for want, r := range map[string]doctor.Report{
		`2 findings on worker-1, the worst first:

wrong: peer worker-2: no WireGuard packet gets through to it, so a firewall
  blocks a UDP port between 192.0.2.2:51820 and this node
  what to do: let UDP ports 51820 to 51823 through
  found by: gossip reaches its agent, and the tunnel has no handshake

warning: clock: this node's clock is 1 h behind those of 2 of 2 other nodes
  what to do: set it by NTP on this node (` + "`timedatectl set-ntp true`" + `)
  found by: the agent says so

fine:
  the kernel 6.1 has WireGuard

not seen:
  whether the node has /dev/net/tun: the agent's pod doesn't show it
`: {
			Node: "worker-1",
			Findings: []doctor.Finding{
				{Subject: "peer worker-2", Message: "no WireGuard packet gets through to it, so a firewall blocks a UDP port between 192.0.2.2:51820 and this node",
					Found: "gossip reaches its agent, and the tunnel has no handshake", Remedy: "let UDP ports 51820 to 51823 through"},
				{Subject: "clock", Message: "this node's clock is 1 h behind those of 2 of 2 other nodes", Found: "the agent says so",
					Remedy: "set it by NTP on this node (`timedatectl set-ntp true`)", Warning: true},
			},
			Fine: []string{"the kernel 6.1 has WireGuard"}, Unseen: []string{"whether the node has /dev/net/tun: the agent's pod doesn't show it"},
		},
		"nothing is wrong, as far as can be seen\n\nfine:\n  x\n": {Fine: []string{"x"}},
	} {
		var out bytes.Buffer
		p := newPage(&out)
		p.report(r)
		if err := p.printTo(&out); err != nil || out.String() != want {
			t.Errorf("it says\n%s\nwant\n%s%v", &out, want, err)
		}
	}
}

// Only a few peers are asked by ICMP, and only those of which nothing else is heard.
func TestSilentPeers(t *testing.T) {
	var peers []view.PeerStatus
	for range 3 * maxEchoes {
		peers = append(peers, view.PeerStatus{Node: strings.Repeat("n", len(peers)+1), Endpoint: "192.0.2.1:51820"})
	}
	if got := len(silent(peers)); got != maxEchoes {
		t.Errorf("%d are asked, want %d", got, maxEchoes)
	}
	peers = []view.PeerStatus{{Node: "a", Endpoint: "192.0.2.1:51820", Up: true}, {Node: "b", Endpoint: "192.0.2.1:51820", Gossip: true}, {Node: "c"}, {Node: "d", Endpoint: "x"}}
	if got := silent(peers); len(got) > 0 {
		t.Errorf("%v are asked, want none", got)
	}
}
