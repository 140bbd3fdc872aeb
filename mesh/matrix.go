package mesh

import (
	"context"
	"slices"
	"strings"

	"github.com/weaveguard/weaveguard/mesh/view"
)

// Matrix is how all nodes see the ways to each other, as far as this one knows. Safe to call at any time.
func (a *Agent) Matrix(ctx context.Context) view.Matrix {
	s := a.Status(ctx)
	m := view.Matrix{Time: s.Time, Node: s.Node, Rows: []view.MatrixRow{{Node: s.Node, Heard: s.Time, Cells: ownCells(s.Peers)}}}
	for _, peer := range s.Peers {
		m.Rows = append(m.Rows, view.MatrixRow{Node: peer.Node, Cells: []view.MatrixCell{}})
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
