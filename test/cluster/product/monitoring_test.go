package product_test

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"github.com/weaveguard/weaveguard/mesh/contract"
	"github.com/weaveguard/weaveguard/test/internal/monitoring"
	"github.com/weaveguard/weaveguard/test/internal/promql"
	"github.com/weaveguard/weaveguard/test/internal/scrape"
)

// testMonitoring scrapes all agents before and after one of them has changed its key, as Prometheus would, and asks what
// dashboard and alerts ask: each query comes to something, and no critical alert is raised.
func (w *world) testMonitoring(t *testing.T) {
	var request promql.Request
	scrapeAll := func() map[string]string {
		texts := map[string]string{}
		for _, node := range w.nodes {
			texts[node] = w.metricsOf(t, node)
			request.Scrapes = append(request.Scrapes, promql.Scrape{
				At: promql.Millis(time.Now()), Labels: map[string]string{"job": "kube-system/weaveguard", "instance": node}, Text: texts[node],
			})
		}
		return texts
	}
	scrapeAll()
	if _, err := w.cli(t.Context(), w.nodes[0], "rotate", "--wait"); err != nil {
		t.Fatal(err)
	}
	for _, pair := range [][2]string{{pod1, pod2}, {pod1, pod3}, {pod2, pod3}} { // by the new tunnels, and by one that stays
		if err := w.ping(t.Context(), place{pair[0], true}, w.podIP(t, pair[1]).String(), 56); err != nil {
			t.Fatal(err)
		}
	}
	w.eventually(t, "metrics say what is so", func(context.Context) error {
		return w.checkMetrics(t)
	})
	for node, text := range scrapeAll() {
		if problems, err := promlint.New(strings.NewReader(text)).Lint(); err != nil || len(problems) > 0 {
			t.Errorf("%s: promlint: %v, %v", node, problems, err)
		}
	}
	rules := promql.Ask(t, promql.Request{Rules: monitoring.File(t, "alerts.yaml")})
	if len(rules.Errors) > 0 {
		t.Fatal(rules.Errors)
	}
	queries := monitoring.Queries(t, rules.Alerts, 5*time.Minute)
	for _, q := range queries {
		request.Queries = append(request.Queries, promql.Query{Expr: q.Expr, At: promql.Millis(time.Now())})
	}
	answer := promql.Ask(t, request)
	for i, q := range queries {
		monitoring.Check(t, q, answer.Results[i])
	}
	for i, alert := range rules.Alerts {
		raised := answer.Results[len(queries)-len(rules.Alerts)+i].Whole.Values
		if alert.Labels["severity"] == "critical" && len(raised) > 0 {
			t.Errorf("all is well, and %s is raised: %v", alert.Name, raised)
		}
	}
	t.Logf("%d queries and alerts on %d scrapes", len(queries), len(request.Scrapes))
}

// metricsOf are the metrics of a node's agent.
func (w *world) metricsOf(t *testing.T, node string) string {
	t.Helper()
	answer := w.on(t, node, scrape.Command(scrape.Local(contract.MetricsPort), "/metrics")...)
	_, text, ok := strings.Cut(answer, "\r\n\r\n")
	if !ok {
		t.Fatalf("%s answers %q to a scrape", node, answer)
	}
	return text
}

// checkMetrics compares some of the metrics with what is known otherwise.
func (w *world) checkMetrics(t *testing.T) error {
	for _, node := range w.nodes {
		lines := strings.Split(w.metricsOf(t, node), "\n")
		// sum is that of all series of a metric that have a text in their labels.
		sum := func(name, label string) (n float64) {
			for _, line := range lines {
				metric, value, _ := strings.Cut(line, " ")
				if family, labels, _ := strings.Cut(metric, "{"); family == name && strings.Contains(labels, label) {
					v, err := strconv.ParseFloat(value, 64)
					if err != nil {
						t.Fatalf("%s: %q: %v", node, line, err)
					}
					n += v
				}
			}
			return n
		}
		others := float64(len(w.nodes) - 1)
		for what, ok := range map[string]bool{
			"peers":       sum("weaveguard_peers", `state="up"`) == others && sum("weaveguard_peer_up", "") == others,
			"gossip":      sum("weaveguard_gossip_members", "") == others+1 && sum("weaveguard_gossip_received_packets_total", "") > 0,
			"addresses":   sum("weaveguard_addresses_used", "") == sum("weaveguard_attachments", "") && sum("weaveguard_addresses_used", "") > 0,
			"packets":     sum("weaveguard_tunnel_received_packets_total", "") > 0 && sum("weaveguard_tunnel_sent_packets_total", "") > 0,
			"convergence": sum("weaveguard_convergence_seconds_count", "") > 0,
			"passes":      sum("weaveguard_reconcile_duration_seconds_count", "") == sum("weaveguard_reconciles_total", ""),
			"Kubernetes":  sum("weaveguard_kubernetes_reachable", "") == 1,
			"rotations":   sum("weaveguard_rotations_total", "") > 0 || node != w.nodes[0],
		} {
			if !ok {
				return fmt.Errorf("the metrics of %s about its %s are wrong:\n%s", node, what, strings.Join(slices.DeleteFunc(lines,
					func(line string) bool { return !strings.HasPrefix(line, "weaveguard_") }), "\n"))
			}
		}
	}
	return nil
}
