package view

import "time"

// Matrix is how all nodes see the ways to each other, as one agent gathered it. Its JSON form is a contract.
type Matrix struct {
	Time time.Time   `json:"time"`
	Node string      `json:"node"` // whose agent gathered it
	Rows []MatrixRow `json:"rows"` // sorted by node; one for each known node
}

// MatrixRow is what one node measured, as it says.
type MatrixRow struct {
	Node string `json:"node"`
	// Heard is when its agent said so, by the clock of the one that gathered it; zero: it didn't.
	Heard time.Time    `json:"heard,omitzero"`
	Cells []MatrixCell `json:"cells"` // sorted by node; empty when it wasn't heard
}

// MatrixCell is the way from the row's node to another, beside the tunnels.
type MatrixCell struct {
	Node string `json:"node"`
	Up   bool   `json:"up"` // the link's session stands, as PeerStatus.Up
	// RTT is the median of the latest probes, there and back, in seconds; 0: none was answered.
	RTT    float64 `json:"rttSeconds,omitempty"`
	Loss   float64 `json:"loss"`   // of the latest probes, from 0 to 1
	Probes int     `json:"probes"` // how many Loss is about; 0: none yet
}
