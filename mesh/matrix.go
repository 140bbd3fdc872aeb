package mesh

import (
	"context"
	"slices"
	"strings"

	"github.com/weaveguard/weaveguard/mesh/record"
	"github.com/weaveguard/weaveguard/mesh/view"
)

// Matrix is how all nodes see the ways to each other, as far as this one has heard it. It returns at once, and has the loop ask
// the others anew, unless it did so just before: so whoever looks again some time later sees what they said. Safe to call at any
// time.
func (a *Agent) Matrix(ctx context.Context) view.Matrix {
	s := a.Status(ctx)
	if a.last.Load() == nil { // it is starting
		return view.Matrix{Time: s.Time, Node: s.Node, Rows: []view.MatrixRow{}}
	}
	heard, due := a.rows.look(s.Time, len(s.Peers))
	if due {
		a.Latch.Set()
	}
	nodes := map[record.NodeTag]string{record.TagOf(s.Node): s.Node}
	for _, peer := range s.Peers {
		nodes[record.TagOf(peer.Node)] = peer.Node
	}
	m := view.Matrix{Time: s.Time, Node: s.Node, Rows: []view.MatrixRow{{Node: s.Node, Heard: s.Time, Cells: ownCells(s.Peers)}}}
	for _, peer := range s.Peers {
		h := heard[peer.Node]
		m.Rows = append(m.Rows, view.MatrixRow{Node: peer.Node, Heard: h.at, Cells: heardCells(peer.Node, h.cells, nodes)})
	}
	slices.SortFunc(m.Rows, func(a, b view.MatrixRow) int { return strings.Compare(a.Node, b.Node) })
	return m
}

// ownCells are this node's row.
func ownCells(peers []view.PeerStatus) []view.MatrixCell {
	cells := make([]view.MatrixCell, len(peers))
	for i, p := range peers {
		cells[i] = view.MatrixCell{Node: p.Node, Up: p.Up, RTT: p.RTT, Loss: p.Loss, Probes: p.Probes}
	}
	return cells
}

// heardCells are another node's row, as far as it is about nodes that are known here.
func heardCells(from string, said []record.RowCell, nodes map[record.NodeTag]string) []view.MatrixCell {
	cells := make([]view.MatrixCell, 0, len(said))
	for _, c := range said {
		node, known := nodes[c.Node]
		if !known || node == from {
			continue
		}
		m := view.Measured{RTT: c.RTT, Lost: int(c.Lost), Probes: int(c.Probes)}
		cells = append(cells, view.MatrixCell{Node: node, Up: c.Up, RTT: m.RTT.Seconds(), Loss: m.Loss(), Probes: m.Probes})
	}
	slices.SortFunc(cells, func(a, b view.MatrixCell) int { return strings.Compare(a.Node, b.Node) })
	return cells
}
