// Package monitoring reads the rules and the dashboard of deploy/monitoring, for tests of what their queries come to.
package monitoring

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weaveguard/weaveguard/test/internal/promql"
)

// Dashboard is what Grafana's model of a dashboard has of interest.
type Dashboard struct {
	Title      string
	Templating struct {
		List []struct{ Name, Definition string }
	}
	Panels []Panel
}

// Panel is one of a dashboard, or the title of a row.
type Panel struct {
	ID          int
	Type, Title string
	GridPos     struct{ H, W, X, Y int }
	Targets     []struct{ Expr, LegendFormat, RefID string }
}

// File reads a file of deploy/monitoring.
func File(t testing.TB, name string) string {
	t.Helper()
	_, here, _, _ := runtime.Caller(0)
	raw, err := os.ReadFile(filepath.Join(filepath.Dir(here), "../../../deploy/monitoring", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// ReadDashboard reads the dashboard.
func ReadDashboard(t testing.TB) Dashboard {
	t.Helper()
	var d Dashboard
	if err := json.Unmarshal([]byte(File(t, "dashboard.json")), &d); err != nil {
		t.Fatal(err)
	}
	return d
}

// Query is one of a dashboard or a rule.
type Query struct {
	From   string   // where it is, for people
	Expr   string   // with variables replaced
	Labels []string // that the results must have: a legend or an annotation names them
}

var (
	legendLabel     = regexp.MustCompile(`\{\{\s*(\w+)\s*\}\}`)
	annotationLabel = regexp.MustCompile(`\$labels\.(\w+)`)
)

// Queries returns those of the dashboard, with a rate's interval, and those of the alerts.
func Queries(t testing.TB, alerts []promql.Alert, rate time.Duration) []Query {
	t.Helper()
	var all []Query
	variables := strings.NewReplacer("$job", ".+", "$instance", ".+", "$__rate_interval", fmt.Sprintf("%ds", int(rate.Seconds())))
	for _, panel := range ReadDashboard(t).Panels {
		for _, target := range panel.Targets {
			all = append(all, Query{
				From: fmt.Sprintf("panel %q, %s", panel.Title, target.RefID), Expr: variables.Replace(target.Expr),
				Labels: named(legendLabel, target.LegendFormat),
			})
		}
	}
	for _, alert := range alerts {
		var text string
		for _, annotation := range alert.Annotations {
			text += annotation
		}
		all = append(all, Query{From: "alert " + alert.Name, Expr: alert.Expr, Labels: named(annotationLabel, text)})
	}
	return all
}

func named(pattern *regexp.Regexp, text string) []string {
	var names []string
	for _, match := range pattern.FindAllStringSubmatch(text, -1) {
		names = append(names, match[1])
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// Check reports what is wrong with the result of a query on the metrics of agents that are well: that it selects from a
// metric that there isn't or that lacks a label, that what it shows or compares is nothing or no number, or that it has no
// label that is named.
func Check(t testing.TB, q Query, r promql.Results) {
	t.Helper()
	if r.Error != "" {
		t.Errorf("%s: %s", q.From, r.Error)
		return
	}
	if len(r.Selectors) == 0 {
		t.Errorf("%s: it selects from no metric: %s", q.From, q.Expr)
	}
	for _, s := range r.Selectors {
		if s.Series == 0 {
			t.Errorf("%s: there is nothing that %s selects", q.From, s.Expr)
		}
		if len(s.Unknown) > 0 {
			t.Errorf("%s: %s has no labels %q", q.From, s.Metric, s.Unknown)
		}
	}
	has := map[string]bool{}
	for _, part := range r.Parts {
		if len(part.Values) == 0 {
			t.Errorf("%s: %s comes to nothing (%d values are no numbers)", q.From, part.Expr, part.NaN)
		}
		for _, value := range part.Values {
			for name := range value.Labels {
				has[name] = true
			}
		}
	}
	for _, name := range q.Labels {
		if !has[name] {
			t.Errorf("%s: its text names the label %s, which the result hasn't", q.From, name)
		}
	}
}
