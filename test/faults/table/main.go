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
		"Repairs": rows(all, faults.Repairs), "Outages": rows(all, faults.Outages),
		"Date": time.Now().Format(time.DateOnly), "Kernel": unix.ByteSliceToString(system.Release[:]),
	})
}

// rows are the lines of one table, in Markdown.
func rows(all []faults.Measurement, table string) string {
	slices.SortFunc(all, func(a, b faults.Measurement) int {
		return cmp.Or(cmp.Compare(a.Order, b.Order), strings.Compare(a.Lane, b.Lane))
	})
	var b strings.Builder
	for _, m := range all {
		if m.Table != table {
			continue
		}
		lost, took := fmt.Sprintf("%d of %d", m.Lost, m.Sent), "-"
		if m.Sent == 0 {
			lost = "-"
		}
		if m.Recovery > 0 {
			took = fmt.Sprintf("%.1f s", m.Recovery.Seconds())
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s |\n", strings.TrimSpace(m.Fault+" "+m.Note), m.Lane, m.Allowed, lost, took)
	}
	return strings.TrimSuffix(b.String(), "\n")
}
