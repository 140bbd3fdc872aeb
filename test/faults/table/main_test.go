package main

import (
	"strings"
	"testing"
	"time"

	"github.com/weaveguard/weaveguard/test/faults"
)

// What took longer than allowed stands out, and the page says at what a test fails.
func TestRowsMarkWhatTookTooLong(t *testing.T) {
	all := []faults.Measurement{
		{Order: 2, Table: faults.Repairs, Fault: "slow", Lane: faults.Lab, Allowed: "2 s", Lost: 1, Sent: 9, Recovery: 2300 * time.Millisecond,
			Within: 2 * time.Second, Fails: 10 * time.Second},
		{Order: 1, Table: faults.Repairs, Fault: "fast", Lane: faults.Lab, Allowed: "2 s", Recovery: time.Second, Within: 2 * time.Second,
			Fails: 10 * time.Second},
		{Order: 3, Table: faults.Repairs, Fault: "nothing", Lane: faults.VM, Allowed: "0 lost"},
		{Table: faults.Figures, Fault: "asked", Lane: faults.Cluster, Allowed: "15", Note: "1.2"},
	}
	want := []string{
		"| fast | lab | 2 s | - | 1.0 s | 10 s |",
		"| slow | lab | 2 s | 1 of 9 | **2.3 s**, more than allowed | 10 s |",
		"| nothing | vm | 0 lost | - | - | - |",
	}
	if got := rows(all, faults.Repairs); got != strings.Join(want, "\n") {
		t.Errorf("the rows are\n%s\nwant\n%s", got, strings.Join(want, "\n"))
	}
	if got, want := figures(all), "| asked | cluster | 15 | 1.2 |"; got != want {
		t.Errorf("the figures are %s, want %s", got, want)
	}
}
