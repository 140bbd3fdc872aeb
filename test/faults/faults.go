// Package faults keeps what tests measured of faults: what each cost, and how long recovery took. `make faults` makes the
// table in docs/reliability.md of it.
package faults

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// DirEnv names the directory that measurements are written to, a file for each; unset: they are in the tests' logs alone.
const DirEnv = "WEAVEGUARD_FAULTS"

// Wanted reports whether what is measured is to be kept, as `make faults` has it.
func Wanted() bool { return os.Getenv(DirEnv) != "" }

// Lanes that a fault was made in.
const (
	Lab     = "lab"     // hosts in network namespaces, WireGuard in userspace
	Cluster = "cluster" // a real Kubernetes
	VM      = "vm"      // Debian's kernel with WireGuard, emulated
)

// Measurement is one fault's row.
type Measurement struct {
	Order    int           `json:"order"` // of the row in its table
	Table    string        `json:"table"` // Repairs, Outages or Figures
	Fault    string        `json:"fault"`
	Lane     string        `json:"lane"`
	Allowed  string        `json:"allowed"`
	Sent     uint64        `json:"sent"` // datagrams, while it was and until all went on
	Lost     uint64        `json:"lost"`
	Recovery time.Duration `json:"recovery"` // from the fault, or from its end; 0: there was nothing to recover
	Within   time.Duration `json:"within"`   // that is allowed for the recovery; 0: nothing is said of it
	Fails    time.Duration `json:"fails"`    // a test fails when the recovery takes longer; 0: it waits as long as it waits for anything
	Note     string        `json:"note"`
}

// Over reports whether the recovery took longer than what is allowed.
func (m Measurement) Over() bool { return m.Within > 0 && m.Recovery > m.Within }

// Late reports whether the recovery took longer than at which a test fails: that is more than what is allowed, as the machines
// that tests run on are shared and slow.
func (m Measurement) Late() bool { return m.Fails > 0 && m.Recovery > m.Fails }

// Names of tables.
const (
	Repairs = "repairs"
	Outages = "outages"
	Figures = "figures" // of what isn't a fault: Note has what was measured
)

// Record keeps a measurement, and logs it. It fails the test when the recovery took longer than at which a test fails.
func Record(t testing.TB, m Measurement) {
	t.Helper()
	if m.Late() {
		t.Errorf("%s: recovered after %s, want at most %s", m.Fault, m.Recovery, m.Fails)
	}
	if m.Table == Figures {
		t.Logf("%s: %s", m.Fault, m.Note)
	} else {
		t.Logf("%s: %d of %d datagrams lost, recovered after %s %s", m.Fault, m.Lost, m.Sent, m.Recovery.Round(time.Millisecond), m.Note)
	}
	dir := os.Getenv(DirEnv)
	if dir == "" {
		return
	}
	data, err := json.MarshalIndent(m, "", "  ")
	if err == nil {
		err = os.MkdirAll(dir, 0o755)
	}
	sum := sha256.Sum256([]byte(m.Table + m.Fault + m.Lane))
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, hex.EncodeToString(sum[:8])+".json"), data, 0o644)
	}
	if err != nil {
		t.Fatalf("keeping the measurement of %q: %v", m.Fault, err)
	}
}

// Read returns what was kept in a directory.
func Read(dir string) ([]Measurement, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil {
		return nil, err
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("%s has no measurements: run the tests of faults with %s=%s", dir, DirEnv, dir)
	}
	var all []Measurement
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		var m Measurement
		if err := json.Unmarshal(data, &m); err != nil {
			return nil, fmt.Errorf("reading %s: %w", file, err)
		}
		all = append(all, m)
	}
	return all, nil
}
