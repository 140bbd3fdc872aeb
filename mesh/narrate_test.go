package mesh

import (
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"

	"github.com/weaveguard/weaveguard/keys"
	"github.com/weaveguard/weaveguard/mesh/view"
	"github.com/weaveguard/weaveguard/test/output"
)

// A thousand peers that come, go down and go cost the log a line each time, and a few peers a line each.
func TestManyPeersAreToldInBrief(t *testing.T) {
	t.Parallel()
	var log output.Buffer
	a := &Agent{Config: Config{Log: slog.New(slog.NewTextHandler(&log, nil))}, told: newTold()}
	p := &pass{desired: view.Desired{Devices: []view.Device{{Name: "weave-wg0"}}}}
	tell := func(peers int, established bool) []string {
		t.Helper()
		before := len(log.String())
		p.desired.Devices[0].Peers, a.links.states = nil, nil
		for i := range peers {
			key := keys.PublicKey{byte(i), byte(i >> 8), 1}
			p.desired.Devices[0].Peers = append(p.desired.Devices[0].Peers, view.Peer{Node: fmt.Sprintf("node-%04d", i), PublicKey: key,
				Endpoint: netip.MustParseAddrPort("192.0.2.1:51820")})
			a.links.states = append(a.links.states, view.LinkState{Device: "weave-wg0", PublicKey: key, Established: established, Met: true})
		}
		a.narratePeers(p)
		var lines []string
		for line := range strings.Lines(log.String()[before:]) {
			lines = append(lines, line)
		}
		return lines
	}
	for _, step := range []struct {
		peers int
		up    bool
		want  string
	}{{1000, true, "peers are up"}, {1000, false, "peers are down: no handshake"}, {1000, true, "peers are up"}, {3, true, "peers are gone"}} {
		lines := tell(step.peers, step.up)
		if len(lines) != 1 || !strings.Contains(lines[0], step.want) || !strings.Contains(lines[0], "more") || len(lines[0]) > 400 {
			t.Errorf("%d lines, want one about %q: %.500q", len(lines), step.want, lines)
		}
	}
	lines := tell(3, false)
	if len(lines) != 3 || !strings.Contains(lines[2], `"peer is down: no handshake`) || !strings.Contains(lines[2], "node=node-0002") {
		t.Errorf("three peers that are down are told as %q", lines)
	}
}
