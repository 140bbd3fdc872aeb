package api_test

import (
	"errors"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

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
