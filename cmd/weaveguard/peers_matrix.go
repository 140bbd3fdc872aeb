package main

import (
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/weaveguard/weaveguard/mesh/view"
)

const (
	// matrixPatience is how long the other nodes' rows are waited for: an agent asks all of a mesh of 200 within 2 s.
	matrixPatience = 5 * time.Second
	matrixPause    = 200 * time.Millisecond
	// freshRow is how old a row may be to be as good as new: big meshes are asked every 10 s.
	freshRow = 15 * time.Second
)

// peersMatrix shows what all nodes have measured of the ways to each other.
func (o *options) peersMatrix(cmd *cobra.Command, output format) error {
	m, err := o.gatherMatrix(cmd)
	if err != nil {
		return err
	}
	return answer(cmd, output, m, func(p *page) { p.measured(m) })
}

// gatherMatrix asks the agent until it has heard all nodes that gossip sees, or for as long as that may take.
func (o *options) gatherMatrix(cmd *cobra.Command) (view.Matrix, error) {
	status, err := o.client().Status(cmd.Context())
	if err != nil {
		return view.Matrix{}, err
	}
	var others []string
	for _, peer := range status.Peers {
		if peer.Gossip {
			others = append(others, peer.Node)
		}
	}
	for deadline := time.Now().Add(matrixPatience); ; {
		m, err := o.client().Matrix(cmd.Context())
		if err != nil {
			return view.Matrix{}, err
		}
		missing := slices.ContainsFunc(m.Rows, func(r view.MatrixRow) bool {
			return slices.Contains(others, r.Node) && m.Time.Sub(r.Heard) > freshRow
		})
		if !missing || time.Now().After(deadline) {
			return m, nil
		}
		select {
		case <-cmd.Context().Done():
			return m, nil
		case <-time.After(matrixPause):
		}
	}
}

// measured shows the times from the nodes in the rows to those in the columns, and what was lost.
func (p *page) measured(m view.Matrix) {
	switch len(m.Rows) {
	case 0:
		p.text("", "the agent of "+m.Node+" is starting, and knows nothing yet: see `weaveguard status`")
		return
	case 1:
		p.text("", m.Node+" is the only node of this mesh: there is nobody to measure the way to")
		return
	}
	var nodes []string
	for _, row := range m.Rows {
		nodes = append(nodes, row.Node)
	}
	p.square(nodes, func(from int, to string) string { return measuredCell(m.Rows[from], to) })
	spaced := false
	for _, row := range m.Rows {
		var says string
		switch old := m.Time.Sub(row.Heard); {
		case row.Heard.IsZero():
			says = row.Node + " hasn't told what it measured: `weaveguard peers " + row.Node + "` says whether gossip sees it; an agent of an older version doesn't tell"
		case old > freshRow:
			says = "what " + row.Node + " measured is from " + age(old) + " ago: it tells nothing since"
		default:
			continue
		}
		if !spaced {
			p.space()
			spaced = true
		}
		p.text("", says)
	}
}

// measuredCell is the way from a row's node to another.
func measuredCell(row view.MatrixRow, to string) string {
	i := slices.IndexFunc(row.Cells, func(c view.MatrixCell) bool { return c.Node == to })
	switch {
	case row.Node == to:
		return "-"
	case i < 0:
		return "?"
	}
	c, way := row.Cells[i], ""
	switch {
	case c.Probes > 0 && c.Loss >= 1:
		way = "lost"
	case c.Probes > 0 && c.Loss > 0:
		way = fmt.Sprintf("%s (%s lost)", milliseconds(c.RTT), percent(c.Loss))
	case c.Probes > 0:
		way = milliseconds(c.RTT)
	}
	switch {
	case c.Up && way == "":
		return "up"
	case c.Up:
		return way
	case way == "":
		return "down"
	}
	return "down: " + way
}
