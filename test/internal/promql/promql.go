// Package promql asks Prometheus' own library what rules and queries come to, by the program ../../promql.
package promql

import (
	"bytes"
	"encoding/json"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
	"time"
)

// Request is what is asked.
type Request struct {
	Rules   string   `json:"rules,omitempty"` // a rule file
	Scrapes []Scrape `json:"scrapes"`
	Queries []Query  `json:"queries"`
}

// Scrape is what one target answered at one time; those of a target in the order of their times.
type Scrape struct {
	At     int64             `json:"at"` // milliseconds since 1970, see Millis
	Labels map[string]string `json:"labels"`
	Text   string            `json:"text"` // "": the target didn't answer
}

// Query is an expression to be evaluated at a time.
type Query struct {
	Expr string `json:"expr"`
	At   int64  `json:"at"`
}

// Answer says what came of it.
type Answer struct {
	Errors  []string
	Alerts  []Alert
	Results []Results // of the queries, in their order
}

// Alert is an alert rule.
type Alert struct {
	Name, Expr          string
	For                 int64 // milliseconds
	Labels, Annotations map[string]string
}

// Results are those of one query.
type Results struct {
	Error     string
	Whole     Result
	Parts     []Result // what is compared, without the comparisons
	Selectors []Selector
}

// Result is what an expression came to.
type Result struct {
	Expr   string
	Values []Value
	NaN    int // how many more there are that aren't a number
}

// Value is one element of a vector.
type Value struct {
	Labels map[string]string
	Value  float64
}

// Selector is a metric in a query.
type Selector struct {
	Expr, Metric string
	Series       int      // that it selects
	Unknown      []string // labels that the query uses, and no series of the metric has
}

// Millis is a time as requests have it.
func Millis(at time.Time) int64 { return at.UnixMilli() }

// Ask runs the program, which takes a minute or two to build when Go hasn't built it before.
func Ask(t testing.TB, request Request) Answer {
	t.Helper()
	in, err := json.Marshal(request)
	if err != nil {
		t.Fatal(err)
	}
	_, here, _, _ := runtime.Caller(0)
	cmd := exec.CommandContext(t.Context(), "go", "run", "-C", filepath.Join(filepath.Dir(here), "../../promql"), ".")
	var out, said bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(in), &out, &said
	if err := cmd.Run(); err != nil {
		t.Fatalf("test/promql: %v\n%s", err, &said)
	}
	var answer Answer
	if err := json.Unmarshal(out.Bytes(), &answer); err != nil {
		t.Fatalf("test/promql answers %s: %v", &out, err)
	}
	return answer
}
