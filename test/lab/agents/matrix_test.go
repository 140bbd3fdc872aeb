package agents_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weaveguard/weaveguard/mesh/view"
	"github.com/weaveguard/weaveguard/test/lab"
	"github.com/weaveguard/weaveguard/test/lab/agents"
)

// TestMatrix asks every agent how all nodes see the ways to each other: with good lines, with a node whose line loses packets, and
// with one that is cut off for a while.
func TestMatrix(t *testing.T) {
	t.Parallel()
	m := agents.Up(t, 4)
	fine := func(row view.MatrixRow, c view.MatrixCell) error {
		if !c.Up || c.Probes < 3 || c.RTT <= 0 || c.RTT > 0.5 || c.Loss > 0.1 {
			return fmt.Errorf("from %s: %+v", row.Node, c)
		}
		return nil
	}
	took := lab.Eventually(t, 30*time.Second, "all agents know all rows", func() error { return inMatrices(t, m, fine) })
	t.Logf("all agents had all rows after %.1f s", took.Seconds())

	lossy := m.Nodes[2].Name
	heal, err := m.Nodes[2].Impair(lab.Impairment{Loss: 0.3})
	if err != nil {
		t.Fatal(err)
	}
	took = lab.Eventually(t, 2*time.Minute, "all agents see who loses packets", func() error {
		return inMatrices(t, m, func(row view.MatrixRow, c view.MatrixCell) error {
			if row.Node != lossy && c.Node != lossy {
				return fine(row, c)
			}
			if c.Loss < 0.15 || c.Probes < 3 {
				return fmt.Errorf("from %s: %+v", row.Node, c)
			}
			return nil
		})
	})
	t.Logf("all agents saw the loss after %.1f s", took.Seconds())
	if out := m.Nodes[0].CLI(t, "peers", "--matrix"); !strings.Contains(out, "lost)") && !strings.Contains(out, "lost\n") {
		t.Errorf("the CLI shows no loss:\n%s", out)
	}
	if err := heal(); err != nil {
		t.Fatal(err)
	}

	cut := m.Nodes[3]
	if err := cut.Cut(); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	const old = 7 * time.Second
	lab.Eventually(t, 30*time.Second, "the row of the node that is cut off grows old, and its own others'", func() error {
		return apart(t, m, func(row view.MatrixRow, age time.Duration, same bool) bool {
			return same && age < old || !same && age > old && len(row.Cells) > 0 && row.Heard.Before(began.Add(time.Second))
		})
	})
	if err := cut.Heal(); err != nil {
		t.Fatal(err)
	}
	took = lab.Eventually(t, time.Minute, "its row is new again", func() error {
		return apart(t, m, func(_ view.MatrixRow, age time.Duration, _ bool) bool { return age < old })
	})
	t.Logf("all rows were new again after %.1f s", took.Seconds())
}

// inMatrices is what is wrong with a cell, by any of the agents, if not that one isn't there.
func inMatrices(t *testing.T, m *agents.Mesh, wrong func(view.MatrixRow, view.MatrixCell) error) error {
	for _, n := range m.Nodes {
		matrix, err := n.Matrix(t.Context())
		if err != nil {
			return err
		}
		if len(matrix.Rows) != len(m.Nodes) {
			return fmt.Errorf("%s has %d rows: %+v", n.Name, len(matrix.Rows), matrix)
		}
		for _, row := range matrix.Rows {
			if len(row.Cells) != len(m.Nodes)-1 || row.Heard.IsZero() {
				return fmt.Errorf("%s has of %s %d cells, heard %s", n.Name, row.Node, len(row.Cells), row.Heard)
			}
			for _, c := range row.Cells {
				if err := wrong(row, c); err != nil {
					return fmt.Errorf("by %s: %w", n.Name, err)
				}
			}
		}
	}
	return nil
}

// apart is which agent has a row that isn't right; same: it is of a node on the agent's side, where the last node is cut off.
func apart(t *testing.T, m *agents.Mesh, right func(row view.MatrixRow, age time.Duration, same bool) bool) error {
	last := m.Nodes[len(m.Nodes)-1].Name
	for _, n := range m.Nodes {
		matrix, err := n.Matrix(t.Context())
		if err != nil {
			return err
		}
		i := slices.IndexFunc(matrix.Rows, func(r view.MatrixRow) bool {
			return !right(r, matrix.Time.Sub(r.Heard), (r.Node == last) == (n.Name == last))
		})
		if i >= 0 {
			return fmt.Errorf("%s heard %s of %d cells %s ago", n.Name, matrix.Rows[i].Node, len(matrix.Rows[i].Cells), matrix.Time.Sub(matrix.Rows[i].Heard))
		}
	}
	return nil
}
