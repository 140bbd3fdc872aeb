// Command table writes docs/reliability.md of what tests of faults have measured, on standard output.
package main

import (
	"cmp"
	_ "embed"
	"fmt"
	"os"
	"slices"
	"strings"
	"text/template"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weaveguard/weaveguard/test/faults"
)

//go:embed reliability.md.tmpl
var page string

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "table:", err)
		os.Exit(1)
	}
}

func run() error {
	if len(os.Args) != 2 {
		return fmt.Errorf("give the directory of the measurements")
	}
	all, err := faults.Read(os.Args[1])
	if err != nil {
		return err
	}
	var system unix.Utsname
	if err := unix.Uname(&system); err != nil {
		return fmt.Errorf("asking for the kernel's version: %w", err)
	}
	t, err := template.New("page").Parse(page)
	if err != nil {
		return err
	}
	return t.Execute(os.Stdout, map[string]string{
		"Repairs": rows(all, faults.Repairs), "Outages": rows(all, faults.Outages), "Figures": figures(all),
		"Date": time.Now().Format(time.DateOnly), "Kernel": unix.ByteSliceToString(system.Release[:]),
	})
}

// of are the measurements of one table, in order.
func of(all []faults.Measurement, table string) []faults.Measurement {
	all = slices.DeleteFunc(slices.Clone(all), func(m faults.Measurement) bool { return m.Table != table })
	slices.SortFunc(all, func(a, b faults.Measurement) int {
		return cmp.Or(cmp.Compare(a.Order, b.Order), strings.Compare(a.Lane, b.Lane), strings.Compare(a.Fault, b.Fault))
	})
	return all
}

// rows are the lines of one table, in Markdown. What took longer than allowed stands out.
func rows(all []faults.Measurement, table string) string {
	var lines []string
	for _, m := range of(all, table) {
		lost, took, fails := fmt.Sprintf("%d of %d", m.Lost, m.Sent), "-", "-"
		if m.Sent == 0 {
			lost = "-"
		}
		if m.Recovery > 0 {
			took = fmt.Sprintf("%.1f s", m.Recovery.Seconds())
		}
		if m.Over() {
			took = "**" + took + "**, more than allowed"
		}
		if m.Fails > 0 {
			fails = fmt.Sprintf("%.0f s", m.Fails.Seconds())
		}
		lines = append(lines, fmt.Sprintf("| %s | %s | %s | %s | %s | %s |", strings.TrimSpace(m.Fault+" "+m.Note), m.Lane, m.Allowed, lost, took, fails))
	}
	return strings.Join(lines, "\n")
}

// figures are the lines of the table of what isn't a fault.
func figures(all []faults.Measurement) string {
	var lines []string
	for _, m := range of(all, faults.Figures) {
		lines = append(lines, fmt.Sprintf("| %s | %s | %s | %s |", m.Fault, m.Lane, m.Allowed, m.Note))
	}
	return strings.Join(lines, "\n")
}
