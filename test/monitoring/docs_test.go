package monitoring_test

import (
	"flag"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/weaveguard/weaveguard/mesh/view"
	"github.com/weaveguard/weaveguard/test/internal/monitoring"
	"github.com/weaveguard/weaveguard/test/internal/promql"
)

var update = flag.Bool("update", false, "write the table of metrics and the operator's manifest anew")

const (
	page       = "../../docs/monitoring.md"
	tableBegin = "| metric | type | unit | labels | meaning |\n| --- | --- | --- | --- | --- |\n"
	tableEnd   = "\n\n"
)

// exported are all families that the agent's own server exports of Weaveguard, by a status that has everything.
func exported(t *testing.T) []*dto.MetricFamily {
	t.Helper()
	target := serve(t, freeAddresses(t, 1)[0], func(step uint64) view.Status {
		s := healthy(step)
		s.Peers[0].PathMTU = 1400
		return s
	})
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(target.scrape(t, 0)))
	if err != nil {
		t.Fatal(err)
	}
	var all []*dto.MetricFamily
	for name, family := range families {
		if strings.HasPrefix(name, "weaveguard_") {
			all = append(all, family)
		}
	}
	slices.SortFunc(all, func(a, b *dto.MetricFamily) int { return strings.Compare(a.GetName(), b.GetName()) })
	return all
}

// table is what the page says of the metrics, a line for each.
func table(families []*dto.MetricFamily) string {
	var text strings.Builder
	for _, family := range families {
		unit := "number"
		for _, u := range []string{"seconds", "bytes"} {
			if regexp.MustCompile("_" + u + "(_total)?$").MatchString(family.GetName()) {
				unit = u
			}
		}
		if strings.HasSuffix(family.GetName(), "_timestamp_seconds") {
			unit = "seconds since 1970"
		}
		var labels []string
		for _, label := range family.GetMetric()[0].GetLabel() {
			labels = append(labels, "`"+label.GetName()+"`")
		}
		fmt.Fprintf(&text, "| `%s` | %s | %s | %s | %s |\n", family.GetName(), strings.ToLower(family.GetType().String()), unit,
			strings.Join(labels, ", "), family.GetHelp())
	}
	return text.String()
}

// The page has each metric, with its type, unit, labels and meaning as the agent exports them.
func TestPageListsAllMetrics(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(raw), tableBegin)
	got, after, okEnd := strings.Cut(rest, tableEnd)
	if !ok || !okEnd {
		t.Fatalf("%s has no table of metrics", page)
	}
	want := strings.TrimSuffix(table(exported(t)), "\n")
	if *update {
		if err := os.WriteFile(page, []byte(before+tableBegin+want+tableEnd+after), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if got != want {
		t.Errorf("%s says of the metrics\n%s\nand the agent exports\n%s\n(go test ./test/monitoring -update writes it)", page, got, want)
	}
}

// The page has each alert, and no other.
func TestPageListsAllAlerts(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	var got, want []string
	for _, match := range regexp.MustCompile("(?m)^\\| `(Weaveguard\\w+)` \\| (\\w+) ").FindAllStringSubmatch(string(raw), -1) {
		got = append(got, match[1]+" "+match[2])
	}
	for _, alert := range promql.Ask(t, promql.Request{Rules: monitoring.File(t, "alerts.yaml")}).Alerts {
		want = append(want, alert.Name+" "+alert.Labels["severity"])
	}
	if !slices.Equal(got, want) {
		t.Errorf("the page has the alerts %q, and there are %q", got, want)
	}
}
