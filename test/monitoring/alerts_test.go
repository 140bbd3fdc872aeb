package monitoring_test

import (
	"fmt"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weaveguard/weaveguard/mesh/view"
	"github.com/weaveguard/weaveguard/test/internal/monitoring"
	"github.com/weaveguard/weaveguard/test/internal/promql"
)

const (
	// interval is the time between two scrapes, and span that from the first to the last: longer than any alert waits.
	interval = 4 * time.Minute
	span     = 80 * time.Minute
)

// faults are what has to make an alert fire, by its name.
var faults = map[string]fault{
	"WeaveguardAgentDown":         {silent: true},
	"WeaveguardNotReady":          {spoil: func(s *view.Status, _ uint64) { s.Ready = false }},
	"WeaveguardProblems":          {spoil: func(s *view.Status, _ uint64) { s.Problems = []view.Problem{{Subject: "x"}} }},
	"WeaveguardPeerDown":          {spoil: func(s *view.Status, _ uint64) { s.Peers[1].Up = false }},
	"WeaveguardPeerLoss":          {spoil: func(s *view.Status, _ uint64) { s.Peers[1].Loss = 0.3 }},
	"WeaveguardClockOff":          {spoil: func(s *view.Status, _ uint64) { *s.Peers[1].ClockOffset = -3600 }},
	"WeaveguardPeerWithoutRecord": {spoil: func(s *view.Status, _ uint64) { s.Peers[1].Device, s.Peers[1].Up = "", false }},
	"WeaveguardGossipIncomplete":  {spoil: func(s *view.Status, _ uint64) { s.Gossip.Members = 2 }},
	"WeaveguardReconcileErrors":   {spoil: func(s *view.Status, step uint64) { s.Counters.ErrorsByKind = map[string]uint64{"routes": step} }},
	"WeaveguardConvergenceSlow":   {slow: true},
	"WeaveguardRepairsGoOn":       {spoil: func(s *view.Status, step uint64) { s.Counters.RepairsByKind = map[string]uint64{"bridge": 10 * step} }},
	"WeaveguardRecordsForged":     {spoil: func(s *view.Status, step uint64) { s.Counters.Refused = map[string]uint64{"pin": step} }},
	"WeaveguardGossipKeyDiffers": {spoil: func(s *view.Status, step uint64) {
		s.Counters.Refused = map[string]uint64{"gossip-undecryptable": step}
	}},
	"WeaveguardRotationHeldUp":        {spoil: func(s *view.Status, _ uint64) { s.Rotation.Waiting = []view.RotationPeer{{Node: "node-c"}} }},
	"WeaveguardRotationFailed":        {spoil: func(s *view.Status, _ uint64) { s.Rotation.Phase = "failed" }},
	"WeaveguardAddressesLow":          {spoil: func(s *view.Status, _ uint64) { s.Addresses[0].Used, s.Addresses[0].Free = 243, 10 }},
	"WeaveguardAddressesExhausted":    {spoil: func(s *view.Status, _ uint64) { s.Addresses[0].Used, s.Addresses[0].Free = 253, 0 }, also: "WeaveguardAddressesLow"},
	"WeaveguardKubernetesUnreachable": {spoil: func(s *view.Status, _ uint64) { s.Kubernetes = "unreachable" }},
	"WeaveguardTunnelErrors":          {spoil: func(s *view.Status, step uint64) { s.Devices[0].Traffic.SendErrors = 1000 * step }},
	"WeaveguardVersionsDiffer":        {spoil: func(s *view.Status, _ uint64) { s.Version = "v0.2.0" }, everywhere: true},
}

// fault is what is wrong with one of two nodes.
type fault struct {
	spoil      func(s *view.Status, step uint64)
	silent     bool   // it doesn't answer
	slow       bool   // it takes long to follow
	everywhere bool   // the alert is of no node
	also       string // another alert that fires with it
}

// scrapes has the metrics of a healthy node, named "healthy", and of one with each of the faults, named as the alert.
func scrapes(t *testing.T, begin time.Time) []promql.Scrape {
	t.Helper()
	addresses := freeAddresses(t, len(faults)+1)
	targets := map[string]*target{"healthy": serve(t, addresses[0], healthy)}
	for name, f := range faults {
		targets[name] = serve(t, addresses[len(targets)], func(step uint64) view.Status {
			s := healthy(step)
			if f.spoil != nil {
				f.spoil(&s, step)
			}
			return s
		})
	}
	var all []promql.Scrape
	for step := range int(span/interval) + 1 {
		for name, target := range targets {
			took := 200 * time.Millisecond
			if faults[name].slow {
				took = 40 * time.Second
			}
			target.timings.Converged(took)
			target.timings.Reconciled(20 * time.Millisecond)
			target.timings.Rotated(3 * time.Second)
			s := promql.Scrape{At: promql.Millis(begin.Add(time.Duration(step) * interval)), Labels: map[string]string{"job": "weaveguard", "instance": name}}
			if !faults[name].silent {
				s.Text = target.scrape(t, step)
			}
			all = append(all, s)
		}
	}
	return all
}

// Every query of dashboard and alerts selects from metrics and labels that the agent's own server exports, and comes to
// something when all is well; and each alert fires for its fault, for as long as it waits, and for no other.
func TestQueriesAndAlerts(t *testing.T) {
	t.Parallel()
	rules := monitoring.File(t, "alerts.yaml")
	parsed := promql.Ask(t, promql.Request{Rules: rules})
	if len(parsed.Errors) > 0 {
		t.Fatalf("the rules can't be loaded: %s", strings.Join(parsed.Errors, "\n"))
	}
	begin := time.Date(2026, 1, 2, 3, 0, 0, 0, time.UTC)
	end := begin.Add(span)
	request := promql.Request{Scrapes: scrapes(t, begin)}
	queries := monitoring.Queries(t, parsed.Alerts, 3*interval)
	for _, q := range queries {
		request.Queries = append(request.Queries, promql.Query{Expr: q.Expr, At: promql.Millis(end)})
	}
	for _, alert := range parsed.Alerts { // since when it has to be so
		request.Queries = append(request.Queries, promql.Query{Expr: alert.Expr, At: promql.Millis(end) - alert.For})
	}
	answer := promql.Ask(t, request)
	for i, q := range queries {
		monitoring.Check(t, q, answer.Results[i])
	}
	alerts := len(parsed.Alerts)
	last, first := answer.Results[len(queries)-alerts:len(queries)], answer.Results[len(queries):]
	for i, alert := range parsed.Alerts {
		f, known := faults[alert.Name]
		if !known {
			t.Errorf("the alert %s has no fault here that makes it fire", alert.Name)
			continue
		}
		for _, at := range []promql.Result{first[i].Whole, last[i].Whole} {
			if got, want := instances(at), expected(alert.Name, f); !slices.Equal(got, want) {
				t.Errorf("%s fires for %q, want %q", alert.Name, got, want)
			}
		}
	}
	if alerts != len(faults) {
		t.Errorf("there are %d alerts, and %d faults", alerts, len(faults))
	}
}

func instances(r promql.Result) []string {
	var all []string
	for _, value := range r.Values {
		all = append(all, value.Labels["instance"])
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// expected are the nodes for which an alert has to fire.
func expected(alert string, f fault) []string {
	if f.everywhere {
		return []string{""}
	}
	all := []string{alert}
	for name, other := range faults {
		if other.also == alert {
			all = append(all, name)
		}
	}
	slices.Sort(all)
	return all
}

// Each alert says how bad it is, what it means, and which command of weaveguard tells more; there are such commands.
func TestAlertsNameRemedies(t *testing.T) {
	t.Parallel()
	help, err := exec.CommandContext(t.Context(), "go", "run", "../../cmd/weaveguard", "--help").Output()
	if err != nil {
		t.Fatal(err)
	}
	commands := regexp.MustCompile("`weaveguard ([a-z]+)")
	for _, alert := range promql.Ask(t, promql.Request{Rules: monitoring.File(t, "alerts.yaml")}).Alerts {
		if severity := alert.Labels["severity"]; !slices.Contains([]string{"critical", "warning", "info"}, severity) {
			t.Errorf("%s has the severity %q", alert.Name, severity)
		}
		text := alert.Annotations["description"]
		named := commands.FindAllStringSubmatch(text, -1)
		if alert.Annotations["summary"] == "" || len(named) == 0 {
			t.Errorf("%s doesn't say what it means, or names no command of weaveguard: %q", alert.Name, text)
		}
		for _, command := range named {
			if !regexp.MustCompile(fmt.Sprintf(`(?m)^  %s\s`, command[1])).Match(help) {
				t.Errorf("%s names `weaveguard %s`, which there isn't", alert.Name, command[1])
			}
		}
	}
}
