package view

import (
	"net/netip"
	"time"
)

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

// Way is where another node is reached beside the tunnels.
type Way struct {
	Node    string
	Address netip.Addr // that this node sends to
	Alive   bool       // gossip sees it now
}

// Measured is what probes of a way to another node told.
type Measured struct {
	RTT    time.Duration // the median of those that were answered, there and back; 0: none was
	Lost   int           // of Probes
	Probes int           // how many it is about, the latest ones; 0: none yet
}

// Loss is which part of the probes was lost, from 0 to 1; 0: of none.
func (m Measured) Loss() float64 {
	if m.Probes == 0 {
		return 0
	}
	return float64(m.Lost) / float64(m.Probes)
}
