package api_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/weaveguard/weaveguard/mesh/api"
	"github.com/weaveguard/weaveguard/mesh/view"
)

func TestMatrix(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	want := view.Matrix{Time: at, Node: "node-a", Rows: []view.MatrixRow{
		{Node: "node-a", Heard: at, Cells: []view.MatrixCell{{Node: "node-b", Up: true, RTT: 0.0012, Loss: 0.05, Probes: 20}}},
		{Node: "node-b", Cells: []view.MatrixCell{}},
	}}
	cfg := config(t, view.Status{})
	cfg.Matrix = func() view.Matrix { return want }
	start(t, cfg)
	got, err := api.Client{Socket: cfg.Socket}.Matrix(t.Context())
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("the matrix comes back otherwise: %v\n%s", err, diff)
	}
}
