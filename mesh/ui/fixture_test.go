package ui_test

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"time"

	"github.com/weaveguard/weaveguard/mesh/ui"
	"github.com/weaveguard/weaveguard/mesh/view"
)

// fixture is a mesh as its first node's agent sees it.
type fixture struct {
	status   view.Status
	topology view.Topology
	matrix   view.Matrix
}

// name is the name of a node, by its number from 1.
func name(node int) string { return fmt.Sprintf("worker-%03d", node) }

// makeMesh makes a healthy mesh of some nodes, with some pods on each.
func makeMesh(nodes, pods int) *fixture {
	now := time.Date(2026, 3, 4, 8, 20, 7, 0, time.UTC)
	f := &fixture{
		status: view.Status{
			Time: now, Started: now.Add(-3 * time.Hour), Version: "v0.1.0", Node: name(1), Ready: true, WireGuard: "kernel", Kubernetes: "connected",
			Generations: []view.GenerationStatus{{Number: 0}}, Rotation: view.RotationStatus{Phase: "idle", Waiting: []view.RotationPeer{}},
			Gossip: view.GossipStatus{Members: nodes}, Problems: []view.Problem{}, Counters: view.Counters{Refused: map[string]uint64{}},
		},
		topology: view.Topology{Time: now, Node: name(1)},
		matrix:   view.Matrix{Time: now, Node: name(1)},
	}
	for i := 1; i <= nodes; i++ {
		cidr := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 32, byte(i), 0}), 24)
		endpoint := fmt.Sprintf("192.0.2.%d:51820", i)
		node := view.TopologyNode{Name: name(i), Self: i == 1, Up: true, Endpoint: endpoint,
			Networks: []view.TopologyNetwork{{Name: view.DefaultNetwork, CIDRs: []netip.Prefix{cidr}, Attachments: []view.TopologyAttachment{}}}}
		for p := range pods {
			node.Networks[0].Attachments = append(node.Networks[0].Attachments, view.TopologyAttachment{
				Namespace: "shop", Pod: fmt.Sprintf("web-%d-%d", i, p), Interface: "eth0", Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, 32, byte(i), byte(2 + p)})},
			})
		}
		f.topology.Nodes = append(f.topology.Nodes, node)
		row := view.MatrixRow{Node: name(i), Heard: now, Cells: []view.MatrixCell{}}
		for j := 1; j <= nodes; j++ {
			if j != i {
				row.Cells = append(row.Cells, view.MatrixCell{Node: name(j), Up: true, RTT: float64(10+(i*7+j*13)%40) / 1e5, Probes: 20})
			}
		}
		f.matrix.Rows = append(f.matrix.Rows, row)
		if i > 1 {
			f.status.Peers = append(f.status.Peers, view.PeerStatus{
				Node: name(i), Up: true, Endpoint: endpoint, Device: "weave-wg0", PodCIDRs: []netip.Prefix{cidr}, HandshakeAge: float64(i % 120), LastHandshake: now,
				ReceivedBytes: int64(i) * 1234567, SentBytes: int64(i) * 45678, MTU: 1420, Gossip: true, RTT: float64(10+(7+i*13)%40) / 1e5,
				Links: []view.LinkStatus{{Device: "weave-wg0", Endpoint: endpoint, Carries: true, HandshakeAge: float64(i % 120)}},
			})
		}
	}
	return f
}

// down makes the link between two nodes one without a session, as both see it.
func (f *fixture) down(a, b int, reason string) {
	for _, link := range [][2]int{{a, b}, {b, a}} {
		cell := f.cell(link[0], link[1])
		cell.Up, cell.RTT = false, 0
		if link[0] == 1 {
			i := slices.IndexFunc(f.status.Peers, func(p view.PeerStatus) bool { return p.Node == name(link[1]) })
			f.status.Peers[i].Up, f.status.Peers[i].Reason, f.status.Peers[i].RTT = false, reason, 0
			f.topology.Nodes[link[1]-1].Up, f.topology.Nodes[link[1]-1].Reason = false, reason
		}
	}
}

// unheard makes a node one of which nothing was heard.
func (f *fixture) unheard(node int) {
	f.matrix.Rows[node-1].Heard, f.matrix.Rows[node-1].Cells = time.Time{}, []view.MatrixCell{}
}

func (f *fixture) cell(from, to int) *view.MatrixCell {
	cells := f.matrix.Rows[from-1].Cells
	return &cells[slices.IndexFunc(cells, func(c view.MatrixCell) bool { return c.Node == name(to) })]
}

// sources are the fixture as the page asks for it.
func (f *fixture) sources() ui.Sources {
	return ui.Sources{
		Status:   func(context.Context) (view.Status, error) { return f.status, nil },
		Topology: func(context.Context) (view.Topology, error) { return f.topology, nil },
		Matrix:   func(context.Context) (view.Matrix, error) { return f.matrix, nil },
	}
}

func (f *fixture) handler() http.Handler { return ui.New(f.sources(), "127.0.0.1:0") }
