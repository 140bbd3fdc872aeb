package api_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"github.com/weaveguard/weaveguard/mesh/api"
	"github.com/weaveguard/weaveguard/mesh/view"
)

func metrics(t *testing.T, addr string) string {
	t.Helper()
	var body string
	eventually(t, func() error {
		code, got, err := get(t, "http://"+addr+"/metrics")
		if err == nil && code != http.StatusOK {
			t.Fatalf("the metrics answer with %d: %s", code, got)
		}
		body = got
		return err
	})
	return body
}

// metricsOf are those of a server with a status, whatever else its configuration says.
func metricsOf(t *testing.T, status view.Status, change func(*api.Config)) string {
	t.Helper()
	cfg := config(t, status)
	cfg.MetricsAddr = freeAddr(t)
	if change != nil {
		change(&cfg)
	}
	start(t, cfg)
	return metrics(t, cfg.MetricsAddr)
}

// series are the sorted lines of Weaveguard's own metrics.
func series(body string) []string {
	var all []string
	for line := range strings.Lines(body) {
		if strings.HasPrefix(line, "weaveguard_") {
			all = append(all, strings.TrimSpace(line))
		}
	}
	slices.Sort(all)
	return all
}

func lint(t *testing.T, body string) {
	t.Helper()
	if problems, err := promlint.New(strings.NewReader(body)).Lint(); err != nil || len(problems) > 0 {
		t.Errorf("promlint: %v, %v", problems, err)
	}
}

func TestMetrics(t *testing.T) {
	body := metricsOf(t, sample(), func(cfg *api.Config) {
		cfg.Kinds, cfg.Reasons = []string{"routes", "bridge"}, []string{"signature", "pin"}
	})
	lint(t, body)
	got := slices.DeleteFunc(series(body), func(line string) bool {
		return strings.HasPrefix(line, "weaveguard_build_info") || strings.Contains(line, "_bucket{") ||
			strings.Contains(line, "_sum ") || strings.Contains(line, "_count ") // see TestTimings
	})
	want := []string{
		`weaveguard_addresses_free{cidr="10.32.1.0/24",network="default"} 247`,
		`weaveguard_addresses_free{cidr="10.50.1.0/24",network="blue"} 252`,
		`weaveguard_addresses_used{cidr="10.32.1.0/24",network="default"} 6`,
		`weaveguard_addresses_used{cidr="10.50.1.0/24",network="blue"} 1`,
		`weaveguard_attachments 7`,
		`weaveguard_errors_total{kind="bridge"} 0`,
		`weaveguard_errors_total{kind="routes"} 3`,
		`weaveguard_gossip_accepted_streams_total 13`,
		`weaveguard_gossip_members 3`,
		`weaveguard_gossip_opened_streams_total 14`,
		`weaveguard_gossip_received_messages_total 15`,
		`weaveguard_gossip_received_packets_total 11`,
		`weaveguard_gossip_sent_messages_total 16`,
		`weaveguard_gossip_sent_packets_total 12`,
		`weaveguard_kernel_writes_total 42`,
		`weaveguard_key_generation 4`,
		`weaveguard_key_made_timestamp_seconds 1.77260076025e+09`,
		`weaveguard_kubernetes_reachable 1`,
		`weaveguard_peer_clock_offset_seconds{peer="node-b"} -0.25`,
		`weaveguard_peer_last_handshake_age_seconds{peer="node-b"} 12.5`,
		`weaveguard_peer_loss_ratio{peer="node-b"} 0.05`,
		`weaveguard_peer_mtu_bytes{peer="node-b"} 1328`,
		`weaveguard_peer_mtu_bytes{peer="node-c"} 1420`,
		`weaveguard_peer_path_mtu_bytes{peer="node-b"} 1388`,
		`weaveguard_peer_received_bytes_total{peer="node-b"} 1000`,
		`weaveguard_peer_received_bytes_total{peer="node-c"} 0`,
		`weaveguard_peer_rtt_seconds{peer="node-b"} 0.0012`,
		`weaveguard_peer_sent_bytes_total{peer="node-b"} 2000`,
		`weaveguard_peer_sent_bytes_total{peer="node-c"} 0`,
		`weaveguard_peer_up{peer="node-b"} 1`,
		`weaveguard_peer_up{peer="node-c"} 0`,
		`weaveguard_peers{state="down"} 1`,
		`weaveguard_peers{state="up"} 1`,
		`weaveguard_peers{state="waiting"} 1`,
		`weaveguard_problems{severity="error"} 1`,
		`weaveguard_problems{severity="warning"} 1`,
		`weaveguard_ready 1`,
		`weaveguard_reconcile_errors_total 1`,
		`weaveguard_reconciles_total 10`,
		`weaveguard_records_refused_total{reason="pin"} 0`,
		`weaveguard_records_refused_total{reason="signature"} 2`,
		`weaveguard_repairs_total{kind="bridge"} 0`,
		`weaveguard_repairs_total{kind="firewall"} 5`,
		`weaveguard_repairs_total{kind="routes"} 0`,
		`weaveguard_rotation_phase{phase="draining"} 0`,
		`weaveguard_rotation_phase{phase="establishing"} 0`,
		`weaveguard_rotation_phase{phase="failed"} 0`,
		`weaveguard_rotation_phase{phase="idle"} 0`,
		`weaveguard_rotation_phase{phase="preparing"} 0`,
		`weaveguard_rotation_phase{phase="switching"} 1`,
		`weaveguard_rotation_waiting_peers 1`,
		`weaveguard_rotations_total 4`,
		`weaveguard_tunnel_receive_drops_total{device="weave-wg0"} 25`,
		`weaveguard_tunnel_receive_errors_total{device="weave-wg0"} 23`,
		`weaveguard_tunnel_received_packets_total{device="weave-wg0"} 21`,
		`weaveguard_tunnel_send_drops_total{device="weave-wg0"} 26`,
		`weaveguard_tunnel_send_errors_total{device="weave-wg0"} 24`,
		`weaveguard_tunnel_sent_packets_total{device="weave-wg0"} 22`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("metrics (-want +got):\n%s", diff)
	}
	if !strings.Contains(body, `weaveguard_build_info{goversion="go1`) || !strings.Contains(body, `version="v0.1.0"} 1`) {
		t.Errorf("no build_info with both versions in:\n%s", body)
	}
}

// What isn't known is absent, where 0 would be a key's number or a moment.
func TestMetricsOfStartingAgent(t *testing.T) {
	body := metricsOf(t, view.Status{}, nil)
	lint(t, body)
	for _, want := range []string{`weaveguard_rotation_phase{phase="idle"} 1`, `weaveguard_rotation_phase{phase="switching"} 0`,
		"weaveguard_rotation_waiting_peers 0", "weaveguard_rotations_total 0"} {
		if !strings.Contains(body, want+"\n") {
			t.Errorf("the metrics lack %s", want)
		}
	}
	for _, unknown := range []string{"weaveguard_key_", "weaveguard_kubernetes_", "weaveguard_addresses_", "weaveguard_tunnel_"} {
		if strings.Contains(body, unknown) {
			t.Errorf("an agent that knows nothing yet has %s… among its metrics:\n%s", unknown, body)
		}
	}
}

func TestTimings(t *testing.T) {
	timings := api.NewTimings()
	timings.Reconciled(20 * time.Millisecond)
	timings.Reconciled(20 * time.Second)
	timings.Converged(300 * time.Millisecond)
	timings.Rotated(4 * time.Minute)
	got := series(metricsOf(t, sample(), func(cfg *api.Config) { cfg.Timings = timings }))
	for _, want := range []string{
		`weaveguard_reconcile_duration_seconds_bucket{le="0.01"} 0`,
		`weaveguard_reconcile_duration_seconds_bucket{le="0.025"} 1`,
		`weaveguard_reconcile_duration_seconds_bucket{le="10"} 1`,
		`weaveguard_reconcile_duration_seconds_bucket{le="+Inf"} 2`,
		`weaveguard_reconcile_duration_seconds_sum 20.02`,
		`weaveguard_convergence_seconds_bucket{le="0.25"} 0`,
		`weaveguard_convergence_seconds_bucket{le="0.5"} 1`,
		`weaveguard_convergence_seconds_count 1`,
		`weaveguard_rotation_duration_seconds_bucket{le="180"} 0`,
		`weaveguard_rotation_duration_seconds_bucket{le="600"} 1`,
		`weaveguard_rotation_duration_seconds_sum 240`,
	} {
		if !slices.Contains(got, want) {
			t.Errorf("the metrics lack %s:\n%s", want, strings.Join(got, "\n"))
		}
	}
}

// Whoever has the gossip key can make up nodes with any name, and refusals without end: metrics stay few, whole, and
// those of the nodes that are up come first.
func TestHostileNamesAreBounded(t *testing.T) {
	status := view.Status{Kubernetes: "absent", Counters: view.Counters{Refused: map[string]uint64{}}}
	for i := range 3000 {
		status.Peers = append(status.Peers,
			view.PeerStatus{Node: fmt.Sprintf("aaa-%d", i), Device: "weave-wg0"},
			view.PeerStatus{Node: fmt.Sprintf("made-up-%d", i), Reason: "its record isn't taken"})
		status.Counters.Refused[fmt.Sprintf("reason-%d", i)] = 1
	}
	status.Peers = append(status.Peers,
		view.PeerStatus{Node: "zzz", Up: true, Device: "weave-wg0"},
		view.PeerStatus{Node: "bad \xff\"\n{}", Up: true, Device: "weave-wg0"},
		view.PeerStatus{Node: strings.Repeat("é", 5000), Up: true, Device: "weave-wg0"})
	body := metricsOf(t, status, func(cfg *api.Config) { cfg.Reasons = []string{"signature"} })
	lint(t, body)
	got := series(body)
	if len(got) > 5000 || len(body) > 1<<20 {
		t.Errorf("%d series in %d bytes", len(got), len(body))
	}
	count := func(prefix string) (n int) {
		for _, line := range got {
			if strings.HasPrefix(line, prefix) {
				n++
			}
		}
		return n
	}
	if n := count("weaveguard_peer_up{"); n != 1000 {
		t.Errorf("%d peers have series, want 1000", n)
	}
	if n := count("weaveguard_records_refused_total{"); n > 101 {
		t.Errorf("there are %d reasons of refusals, want at most 101", n)
	}
	for _, want := range []string{
		`weaveguard_peer_up{peer="zzz"} 1`, `weaveguard_peer_up{peer="bad ?\"\n{}"} 1`,
		`weaveguard_peer_up{peer="` + strings.Repeat("é", 126) + `"} 1`,
		`weaveguard_peers{state="up"} 3`, `weaveguard_peers{state="down"} 3000`, `weaveguard_peers{state="waiting"} 3000`,
		`weaveguard_records_refused_total{reason="signature"} 0`, `weaveguard_records_refused_total{reason="other"} 2901`,
	} {
		if !slices.Contains(got, want) {
			t.Errorf("the metrics lack %s", want)
		}
	}
	if strings.Contains(body, "made-up") {
		t.Error("a node without a link has series of its own")
	}
}
