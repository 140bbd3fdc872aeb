// Program promql answers, by Prometheus' own library, what rules and queries come to on metrics as agents export them. It
// reads one Request as JSON and prints one Answer. It is a module of its own, since that library brings more modules with it
// than the product has; package test/internal/promql runs it.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"time"
)

// Request is what is asked. Times are in milliseconds since 1970.
type Request struct {
	Rules   string   `json:"rules"` // a rule file
	Scrapes []Scrape `json:"scrapes"`
	Queries []Query  `json:"queries"`
}

// Scrape is what one target answered at one time.
type Scrape struct {
	At     int64             `json:"at"`
	Labels map[string]string `json:"labels"` // of the target: instance, job, and what else a configuration adds
	Text   string            `json:"text"`   // in Prometheus' text format
}

// Query is an expression to be evaluated at a time.
type Query struct {
	Expr string `json:"expr"`
	At   int64  `json:"at"`
}

// Answer says what came of it.
type Answer struct {
	Errors  []string  `json:"errors"` // of the rules
	Alerts  []Alert   `json:"alerts"`
	Results []Results `json:"results"` // of the queries, in their order
}

// Alert is an alert rule.
type Alert struct {
	Name        string            `json:"name"`
	Expr        string            `json:"expr"`
	For         int64             `json:"for"` // milliseconds
	Labels      map[string]string `json:"labels"`
	Annotations map[string]string `json:"annotations"`
}

// Results are those of one query.
type Results struct {
	Error string `json:"error"`
	Whole Result `json:"whole"`
	// Parts are what is compared, without the comparisons: of `a / b > 1 and c == 0` they are `a / b` and `c`.
	Parts []Result `json:"parts"`
	// Selectors are the metrics that are selected from.
	Selectors []Selector `json:"selectors"`
}

// Result is what an expression came to.
type Result struct {
	Expr   string  `json:"expr"`
	Values []Value `json:"values"` // without those that aren't a number
	NaN    int     `json:"nan"`    // how many those are
}

// Value is one element of a vector.
type Value struct {
	Labels map[string]string `json:"labels"`
	Value  float64           `json:"value"`
}

// Selector is a metric in a query.
type Selector struct {
	Expr   string `json:"expr"`
	Metric string `json:"metric"`
	Series int    `json:"series"` // that it selects
	// Unknown are labels that the query uses, and that no series of the metric has.
	Unknown []string `json:"unknown"`
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "promql:", err)
		os.Exit(1)
	}
}

func run() error {
	var request Request
	decoder := json.NewDecoder(os.Stdin)
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&request); err != nil {
		return fmt.Errorf("reading the request: %w", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var answer Answer
	answer.Alerts, answer.Errors = parseRules(request.Rules)
	db, err := open(ctx, request.Scrapes)
	if err != nil {
		return err
	}
	for _, q := range request.Queries {
		answer.Results = append(answer.Results, db.ask(ctx, q))
	}
	if err := db.close(); err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(answer)
}
