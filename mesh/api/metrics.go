package api

import (
	"log/slog"
	"net/http"
	"runtime"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/weaveguard/weaveguard/mesh/view"
)

const metricsPrefix = "weaveguard_"

// collector turns the status of the moment into metrics, when it is asked for them.
type collector struct {
	status func() view.Status

	buildInfo, ready, problems, peers, gossipMembers, attachments *prometheus.Desc
	handshakeAge, received, sent                                  *prometheus.Desc
	reconciles, reconcileErrors, kernelWrites, refused            *prometheus.Desc
}

func newCollector(status func() view.Status) *collector {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc(metricsPrefix+name, help, labels, nil)
	}
	return &collector{
		status:        status,
		buildInfo:     desc("build_info", "The agent's version; the value is always 1.", "version", "goversion"),
		ready:         desc("ready", "1 when this node can carry pod traffic, else 0."),
		problems:      desc("problems", "Problems that `weaveguard status` shows now."),
		peers:         desc("peers", "Other nodes, by whether the link to them is up or down.", "state"),
		gossipMembers: desc("gossip_members", "Nodes that gossip sees alive, this one among them."),
		attachments:   desc("attachments", "Interfaces of pods that are attached on this node."),
		handshakeAge: desc("peer_last_handshake_age_seconds",
			"Time since the last WireGuard handshake with a peer; absent when there was none.", "peer"),
		received:        desc("peer_received_bytes_total", "Bytes that came from a peer through its tunnel.", "peer"),
		sent:            desc("peer_sent_bytes_total", "Bytes that went to a peer through its tunnel.", "peer"),
		reconciles:      desc("reconciles_total", "Runs of the agent's loop."),
		reconcileErrors: desc("reconcile_errors_total", "Runs of the agent's loop in which something failed."),
		kernelWrites: desc("kernel_writes_total",
			"Changes made to the kernel's links, addresses, routes, WireGuard peers, firewall rules and settings."),
		refused: desc("records_refused_total", "Records and packets of the gossip that were refused.", "reason"),
	}
}

// Describe implements prometheus.Collector. It doesn't ask for the status: the agent may not have one yet.
func (c *collector) Describe(descs chan<- *prometheus.Desc) {
	for _, desc := range []*prometheus.Desc{
		c.buildInfo, c.ready, c.problems, c.peers, c.gossipMembers, c.attachments,
		c.handshakeAge, c.received, c.sent,
		c.reconciles, c.reconcileErrors, c.kernelWrites, c.refused,
	} {
		descs <- desc
	}
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(metrics chan<- prometheus.Metric) {
	status := c.status()
	gauge := func(desc *prometheus.Desc, value float64, labels ...string) {
		metrics <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, value, labels...)
	}
	counter := func(desc *prometheus.Desc, value float64, labels ...string) {
		metrics <- prometheus.MustNewConstMetric(desc, prometheus.CounterValue, value, labels...)
	}
	gauge(c.buildInfo, 1, status.Version, runtime.Version())
	gauge(c.ready, oneIf(status.Ready))
	gauge(c.problems, float64(len(status.Problems)))
	gauge(c.gossipMembers, float64(status.Gossip.Members))
	gauge(c.attachments, float64(status.Attachments))
	up := 0
	for _, peer := range status.Peers {
		if peer.Up {
			up++
		}
		if !peer.LastHandshake.IsZero() {
			gauge(c.handshakeAge, peer.HandshakeAge, peer.Node)
		}
		counter(c.received, float64(peer.ReceivedBytes), peer.Node)
		counter(c.sent, float64(peer.SentBytes), peer.Node)
	}
	gauge(c.peers, float64(up), "up")
	gauge(c.peers, float64(len(status.Peers)-up), "down")
	counter(c.reconciles, float64(status.Counters.Reconciles))
	counter(c.reconcileErrors, float64(status.Counters.ReconcileErrors))
	counter(c.kernelWrites, float64(status.Counters.KernelWrites))
	for reason, n := range status.Counters.Refused {
		counter(c.refused, float64(n), reason)
	}
}

func oneIf(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}

func (s *Server) metricsRoutes() http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(
		newCollector(s.cfg.Status),
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{
		ErrorLog:      slog.NewLogLogger(s.cfg.Log.Handler(), slog.LevelWarn),
		ErrorHandling: promhttp.ContinueOnError, // one bad value doesn't hide the others
	}))
	return mux
}
