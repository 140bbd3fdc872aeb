package api_test

import (
	"errors"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"github.com/weaveguard/weaveguard/mesh/api"
	"github.com/weaveguard/weaveguard/mesh/view"
	"github.com/weaveguard/weaveguard/test/output"
)

func TestProbes(t *testing.T) {
	cfg := config(t, sample())
	cfg.HealthAddr = freeAddr(t)
	start(t, cfg)
	awaitGet(t, "http://"+cfg.HealthAddr+"/healthz", http.StatusOK, "ok\n")
	awaitGet(t, "http://"+cfg.HealthAddr+"/readyz", http.StatusOK, "ok\n")
}

func TestProbesSayWhyNot(t *testing.T) {
	cfg := config(t, view.Status{Problems: []view.Problem{
		{Subject: "node node-a", Message: "it has no podCIDRs", Remedy: "give it some"},
	}})
	cfg.Alive = func() error { return errors.New("the loop hasn't run for 5m0s") }
	cfg.HealthAddr = freeAddr(t)
	start(t, cfg)
	awaitGet(t, "http://"+cfg.HealthAddr+"/healthz", http.StatusServiceUnavailable, "the loop hasn't run for 5m0s\n")
	awaitGet(t, "http://"+cfg.HealthAddr+"/readyz", http.StatusServiceUnavailable,
		"this node can't carry pod traffic yet\nnode node-a: it has no podCIDRs; give it some\n")
}

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

func TestMetrics(t *testing.T) {
	cfg := config(t, sample())
	cfg.MetricsAddr = freeAddr(t)
	start(t, cfg)
	body := metrics(t, cfg.MetricsAddr)

	problems, err := promlint.New(strings.NewReader(body)).Lint()
	if err != nil || len(problems) > 0 {
		t.Errorf("promlint: %v, %v", problems, err)
	}
	var got []string
	for line := range strings.Lines(body) {
		if strings.HasPrefix(line, "weaveguard_") && !strings.HasPrefix(line, "weaveguard_build_info") {
			got = append(got, strings.TrimSpace(line))
		}
	}
	slices.Sort(got)
	want := []string{
		`weaveguard_attachments 7`,
		`weaveguard_gossip_members 3`,
		`weaveguard_kernel_writes_total 42`,
		`weaveguard_key_generation 4`,
		`weaveguard_key_made_timestamp_seconds 1.77260076025e+09`,
		`weaveguard_peer_last_handshake_age_seconds{peer="node-b"} 12.5`,
		`weaveguard_peer_path_mtu_bytes{peer="node-b"} 1388`,
		`weaveguard_peer_received_bytes_total{peer="node-b"} 1000`,
		`weaveguard_peer_received_bytes_total{peer="node-c"} 0`,
		`weaveguard_peer_sent_bytes_total{peer="node-b"} 2000`,
		`weaveguard_peer_sent_bytes_total{peer="node-c"} 0`,
		`weaveguard_peers{state="down"} 1`,
		`weaveguard_peers{state="up"} 1`,
		`weaveguard_problems 0`,
		`weaveguard_ready 1`,
		`weaveguard_reconcile_errors_total 1`,
		`weaveguard_reconciles_total 10`,
		`weaveguard_records_refused_total{reason="signature"} 2`,
		`weaveguard_rotation_phase{phase="draining"} 0`,
		`weaveguard_rotation_phase{phase="establishing"} 0`,
		`weaveguard_rotation_phase{phase="failed"} 0`,
		`weaveguard_rotation_phase{phase="idle"} 0`,
		`weaveguard_rotation_phase{phase="preparing"} 0`,
		`weaveguard_rotation_phase{phase="switching"} 1`,
		`weaveguard_rotation_waiting_peers 1`,
		`weaveguard_rotations_total 4`,
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
	cfg := config(t, view.Status{})
	cfg.MetricsAddr = freeAddr(t)
	start(t, cfg)
	body := metrics(t, cfg.MetricsAddr)
	for _, want := range []string{`weaveguard_rotation_phase{phase="idle"} 1`, `weaveguard_rotation_phase{phase="switching"} 0`,
		"weaveguard_rotation_waiting_peers 0", "weaveguard_rotations_total 0"} {
		if !strings.Contains(body, want+"\n") {
			t.Errorf("the metrics lack %s", want)
		}
	}
	if strings.Contains(body, "weaveguard_key_") {
		t.Errorf("the metrics of an agent that has no key yet know one:\n%s", body)
	}
}

func TestTakenPortIsReportedAndRetried(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	var log output.Buffer
	cfg := config(t, sample())
	cfg.Log = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	cfg.MetricsAddr = taken.Addr().String()
	cfg.Retry = time.Millisecond
	server, stop := start(t, cfg) // the status API doesn't mind

	eventually(t, func() error {
		if strings.Count(log.String(), "level=DEBUG") < 3 {
			return errors.New("it isn't tried again")
		}
		return nil
	})
	problem := server.Problems()[0]
	if !strings.Contains(problem.Subject, cfg.MetricsAddr) || !strings.Contains(problem.Message, "metrics") ||
		!strings.Contains(problem.Remedy, "ss -ltnp") {
		t.Errorf("the problem is %v; want address, use and a remedy", problem)
	}

	if err := taken.Close(); err != nil {
		t.Fatal(err)
	}
	metrics(t, cfg.MetricsAddr)
	if got := server.Problems(); len(got) != 0 {
		t.Errorf("the metrics are served, and still there are problems: %v", got)
	}
	stop()
	if got := log.String(); strings.Count(got, "level=WARN") != 1 || strings.Count(got, "level=INFO") != 1 {
		t.Errorf("the log should warn once when it began, and say once that it ended:\n%s", got)
	}
}

func TestPortThatIsNotOurs(t *testing.T) {
	cfg := config(t, sample())
	cfg.HealthAddr = "192.0.2.1:6784" // TEST-NET-1 (RFC 5737): no node has it
	server, _ := start(t, cfg)
	eventually(t, func() error {
		for _, problem := range server.Problems() {
			if strings.Contains(problem.String(), cfg.HealthAddr) && problem.Remedy != "" {
				return nil
			}
		}
		return errors.New("no problem is reported")
	})
	if _, err := (api.Client{Socket: cfg.Socket}).Status(t.Context()); err != nil {
		t.Errorf("the status API: %v", err)
	}
}
