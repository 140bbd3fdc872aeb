package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"os"
	"slices"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/textparse"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/tsdb"
)

// database is a Prometheus that has scraped, and can be asked.
type database struct {
	dir    string
	db     *tsdb.DB
	engine *promql.Engine
	parser parser.Parser
}

// open makes a database in a directory of its own, with the samples of the scrapes in it. The scrapes of a target must come
// in the order of their times.
func open(ctx context.Context, scrapes []Scrape) (*database, error) {
	dir, err := os.MkdirTemp("", "promql-")
	if err != nil {
		return nil, err
	}
	d := &database{dir: dir, parser: parser.NewParser(parser.Options{})}
	if d.db, err = tsdb.Open(dir, slog.New(slog.DiscardHandler), nil, tsdb.DefaultOptions(), nil); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	d.engine = promql.NewEngine(promql.EngineOpts{
		MaxSamples: 1e6, Timeout: time.Minute, LookbackDelta: 5 * time.Minute, EnableAtModifier: true, Parser: d.parser,
	})
	for _, scrape := range scrapes {
		if err := d.add(ctx, scrape); err != nil {
			return nil, errors.Join(fmt.Errorf("the metrics of %v: %w", scrape.Labels, err), d.close())
		}
	}
	return d, nil
}

func (d *database) close() error {
	return errors.Join(d.engine.Close(), d.db.Close(), os.RemoveAll(d.dir))
}

// add takes in what a target answered, and that it did, as Prometheus does.
func (d *database) add(ctx context.Context, scrape Scrape) error {
	appender := d.db.Appender(ctx)
	put := func(series labels.Labels, value float64) error {
		b := labels.NewBuilder(series)
		for name, value := range scrape.Labels {
			b.Set(name, value)
		}
		_, err := appender.Append(0, b.Labels(), scrape.At, value)
		return err
	}
	p := textparse.NewPromParser([]byte(scrape.Text), labels.NewSymbolTable(), false)
	for {
		entry, err := p.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return errors.Join(err, appender.Rollback())
		}
		if entry != textparse.EntrySeries {
			continue
		}
		var series labels.Labels
		p.Labels(&series)
		_, _, value := p.Series()
		if err := put(series, value); err != nil {
			return errors.Join(err, appender.Rollback())
		}
	}
	up := 1.0
	if scrape.Text == "" {
		up = 0
	}
	if err := put(labels.FromStrings(labels.MetricName, "up"), up); err != nil {
		return errors.Join(err, appender.Rollback())
	}
	return appender.Commit()
}

// ask evaluates a query, whole and in parts.
func (d *database) ask(ctx context.Context, q Query) (r Results) {
	expr, err := d.parser.ParseExpr(q.Expr)
	if err != nil {
		r.Error = err.Error()
		return r
	}
	at := time.UnixMilli(q.At)
	if r.Whole, err = d.evaluate(ctx, q.Expr, at); err != nil {
		r.Error = err.Error()
		return r
	}
	for _, part := range parts(expr) {
		result, err := d.evaluate(ctx, part.String(), at)
		if err != nil {
			r.Error = err.Error()
			return r
		}
		r.Parts = append(r.Parts, result)
	}
	if r.Selectors, err = d.selectors(ctx, expr, at); err != nil {
		r.Error = err.Error()
	}
	return r
}

func (d *database) evaluate(ctx context.Context, expr string, at time.Time) (Result, error) {
	r := Result{Expr: expr}
	query, err := d.engine.NewInstantQuery(ctx, d.db, nil, expr, at)
	if err != nil {
		return r, fmt.Errorf("%s: %w", expr, err)
	}
	defer query.Close()
	result := query.Exec(ctx)
	if result.Err != nil {
		return r, fmt.Errorf("%s: %w", expr, result.Err)
	}
	switch v := result.Value.(type) {
	case promql.Vector:
		for _, sample := range v {
			r.add(sample.Metric.Map(), sample.F)
		}
	case promql.Scalar:
		r.add(nil, v.V)
	default:
		return r, fmt.Errorf("%s is a %s, want a vector or scalar", expr, v.Type())
	}
	return r, nil
}

func (r *Result) add(series map[string]string, value float64) {
	if math.IsNaN(value) || math.IsInf(value, 0) {
		r.NaN++
		return
	}
	r.Values = append(r.Values, Value{Labels: series, Value: value})
}

// parts are what an expression compares: whatever it says of that, they have values when all is well too.
func parts(expr parser.Expr) []parser.Expr {
	switch e := expr.(type) {
	case *parser.ParenExpr:
		return parts(e.Expr)
	case *parser.NumberLiteral:
		return nil
	case *parser.BinaryExpr:
		if e.Op.IsComparisonOperator() || e.Op.IsSetOperator() {
			return append(parts(e.LHS), parts(e.RHS)...)
		}
	}
	return []parser.Expr{expr}
}

// selectors looks at each metric that an expression selects from, and whether it has the labels that the expression uses:
// those of its matchers, and those that aggregations and joins around it name.
func (d *database) selectors(ctx context.Context, expr parser.Expr, at time.Time) ([]Selector, error) {
	var all []Selector
	var errs []error
	parser.Inspect(expr, func(node parser.Node, path []parser.Node) error {
		v, ok := node.(*parser.VectorSelector)
		if !ok {
			return nil
		}
		selected, err := d.evaluate(ctx, v.String(), at)
		errs = append(errs, err)
		every, err := d.evaluate(ctx, v.Name, at)
		errs = append(errs, err)
		s := Selector{Expr: v.String(), Metric: v.Name, Series: len(selected.Values) + selected.NaN}
		for _, name := range used(v, path) {
			if !slices.ContainsFunc(every.Values, func(v Value) bool { _, has := v.Labels[name]; return has }) {
				s.Unknown = append(s.Unknown, name)
			}
		}
		all = append(all, s)
		return nil
	})
	return all, errors.Join(errs...)
}

// used are the labels that a selector matches by, and those by which what is around it aggregates and joins.
func used(v *parser.VectorSelector, path []parser.Node) []string {
	var names []string
	for _, m := range v.LabelMatchers {
		if m.Name != labels.MetricName {
			names = append(names, m.Name)
		}
	}
	for _, node := range path {
		switch e := node.(type) {
		case *parser.AggregateExpr:
			names = append(names, e.Grouping...)
		case *parser.BinaryExpr:
			if m := e.VectorMatching; m != nil {
				names = append(names, m.MatchingLabels...)
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}
