package api

import (
	"log/slog"
	"net/http"
	"runtime"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/weaveguard/weaveguard/keys"
	"github.com/weaveguard/weaveguard/mesh/view"
)

const metricsPrefix = "weaveguard_"

// collector turns the status of the moment into metrics, when it is asked for them.
type collector struct {
	status func() view.Status

	buildInfo, ready, problems, peers, gossipMembers, attachments *prometheus.Desc
	handshakeAge, received, sent, pathMTU                         *prometheus.Desc
	keyGeneration, keyMade, rotationPhase, rotationWaiting        *prometheus.Desc
	reconciles, reconcileErrors, kernelWrites, rotations, refused *prometheus.Desc
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
		received: desc("peer_received_bytes_total", "Bytes that came from a peer through its tunnel.", "peer"),
		sent:     desc("peer_sent_bytes_total", "Bytes that went to a peer through its tunnel.", "peer"),
		pathMTU: desc("peer_path_mtu_bytes",
			"What probes found that the network carries to a peer; absent when that is as much as it seems to.", "peer"),
		keyGeneration: desc("key_generation", "Number of this node's newest WireGuard key; absent when there is none."),
		keyMade: desc("key_made_timestamp_seconds",
			"When this node's newest WireGuard key was made; absent when that isn't known."),
		rotationPhase: desc("rotation_phase",
			"How far the rotation of this node's WireGuard key is: 1 for the phase it is in, 0 for the others.", "phase"),
		rotationWaiting: desc("rotation_waiting_peers", "Peers that still need the old WireGuard key of this node."),
		reconciles:      desc("reconciles_total", "Runs of the agent's loop."),
		reconcileErrors: desc("reconcile_errors_total", "Runs of the agent's loop in which something failed."),
		kernelWrites: desc("kernel_writes_total",
			"Changes made to the kernel's links, addresses, routes, WireGuard peers, firewall rules and settings."),
		rotations: desc("rotations_total", "Rotations of this node's WireGuard key that ended well."),
		refused:   desc("records_refused_total", "Records and packets of the gossip that were refused.", "reason"),
	}
}

// Describe implements prometheus.Collector. It doesn't ask for the status: the agent may not have one yet.
func (c *collector) Describe(descs chan<- *prometheus.Desc) {
	for _, desc := range []*prometheus.Desc{
		c.buildInfo, c.ready, c.problems, c.peers, c.gossipMembers, c.attachments,
		c.handshakeAge, c.received, c.sent, c.pathMTU,
		c.keyGeneration, c.keyMade, c.rotationPhase, c.rotationWaiting,
		c.reconciles, c.reconcileErrors, c.kernelWrites, c.rotations, c.refused,
	} {
		descs <- desc
	}
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(metrics chan<- prometheus.Metric) {
	status := c.status()
	gauge, counter := sink(metrics).gauge, sink(metrics).counter
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
		if peer.PathMTU > 0 {
			gauge(c.pathMTU, float64(peer.PathMTU), peer.Node)
		}
	}
	gauge(c.peers, float64(up), "up")
	gauge(c.peers, float64(len(status.Peers)-up), "down")
	c.rotation(status, metrics)
	counter(c.reconciles, float64(status.Counters.Reconciles))
	counter(c.reconcileErrors, float64(status.Counters.ReconcileErrors))
	counter(c.kernelWrites, float64(status.Counters.KernelWrites))
	for reason, n := range status.Counters.Refused {
		counter(c.refused, float64(n), reason)
	}
}

// rotation passes on what is known of this node's keys and their rotation.
func (c *collector) rotation(status view.Status, out sink) {
	if len(status.Generations) > 0 {
		var newest uint32
		for _, generation := range status.Generations {
			newest = max(newest, generation.Number)
		}
		out.gauge(c.keyGeneration, float64(newest))
	}
	if made := status.Rotation.RotatedAt; !made.IsZero() {
		out.gauge(c.keyMade, float64(made.UnixMilli())/1000)
	}
	for _, phase := range keys.Phases() {
		out.gauge(c.rotationPhase, oneIf(status.Rotation.Phase == string(phase)), string(phase))
	}
	out.gauge(c.rotationWaiting, float64(len(status.Rotation.Waiting)))
	out.counter(c.rotations, float64(status.Counters.Rotations))
}

// sink takes metrics.
type sink chan<- prometheus.Metric

func (s sink) gauge(desc *prometheus.Desc, value float64, labels ...string) {
	s <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, value, labels...)
}

func (s sink) counter(desc *prometheus.Desc, value float64, labels ...string) {
	s <- prometheus.MustNewConstMetric(desc, prometheus.CounterValue, value, labels...)
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
		newCollector(s.status),
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
