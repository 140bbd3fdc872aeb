package api

import (
	"cmp"
	"log/slog"
	"maps"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/weaveguard/weaveguard/keys"
	"github.com/weaveguard/weaveguard/mesh/view"
)

const metricsPrefix = "weaveguard_"

// Whoever has the gossip key can make up nodes, and each would have series of its own in every Prometheus for as long as
// that keeps data. So peers have series when there is a link to them, and no more than maxPeerSeries do, those that are up
// first. Other labels have a few values by nature, and maxSeries at most all the same.
const (
	maxPeerSeries = 1000
	maxSeries     = 100
	// maxLabel is how long a label's value gets, in bytes: longer than the name of a node can be.
	maxLabel = 253
	// otherLabel is the value of the label of what has no room for one of its own.
	otherLabel = "other"
)

// collector turns the status of the moment into metrics, when it is asked for them.
type collector struct {
	status         func() view.Status
	kinds, reasons []string // that are there from the beginning, with 0
	families
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(metrics chan<- prometheus.Metric) {
	status, out := c.status(), sink(metrics)
	out.gauge(c.buildInfo, 1, status.Version, runtime.Version())
	out.gauge(c.ready, oneIf(status.Ready))
	warnings := 0
	for _, problem := range status.Problems {
		if problem.Warning {
			warnings++
		}
	}
	out.gauge(c.problems, float64(len(status.Problems)-warnings), "error")
	out.gauge(c.problems, float64(warnings), "warning")
	if status.Kubernetes != "absent" && status.Kubernetes != "" {
		out.gauge(c.kubernetes, oneIf(status.Kubernetes == "connected"))
	}
	out.gauge(c.attachments, float64(status.Attachments))
	for _, a := range status.Addresses[:min(len(status.Addresses), maxSeries)] {
		out.gauge(c.addressesUsed, float64(a.Used), a.Network, a.CIDR.String())
		out.gauge(c.addressesFree, float64(a.Free), a.Network, a.CIDR.String())
	}
	c.gossip(status.Gossip, out)
	c.peers(status.Peers, out)
	c.devices(status.Devices, out)
	c.rotation(status, out)
	c.loop(status.Counters, out)
}

func (c *collector) gossip(status view.GossipStatus, out sink) {
	out.gauge(c.gossipMembers, float64(status.Members))
	t := status.Traffic
	out.counter(c.gossipReceivedPackets, float64(t.ReceivedPackets))
	out.counter(c.gossipSentPackets, float64(t.SentPackets))
	out.counter(c.gossipAcceptedStreams, float64(t.AcceptedStreams))
	out.counter(c.gossipOpenedStreams, float64(t.OpenedStreams))
	out.counter(c.gossipReceivedMessages, float64(t.ReceivedMessages))
	out.counter(c.gossipSentMessages, float64(t.SentMessages))
}

// peers passes on how many nodes there are, and what is known of those that there is a link to.
func (c *collector) peers(peers []view.PeerStatus, out sink) {
	linked := slices.DeleteFunc(slices.Clone(peers), func(p view.PeerStatus) bool { return p.Device == "" })
	slices.SortFunc(linked, func(a, b view.PeerStatus) int {
		return cmp.Or(cmp.Compare(oneIf(b.Up), oneIf(a.Up)), strings.Compare(a.Node, b.Node))
	})
	up := 0
	for i, peer := range linked {
		if peer.Up {
			up++
		}
		if i < maxPeerSeries {
			c.peer(peer, out)
		}
	}
	out.gauge(c.peerStates, float64(up), "up")
	out.gauge(c.peerStates, float64(len(linked)-up), "down")
	out.gauge(c.peerStates, float64(len(peers)-len(linked)), "waiting")
}

func (c *collector) peer(peer view.PeerStatus, out sink) {
	out.gauge(c.peerUp, oneIf(peer.Up), peer.Node)
	if !peer.LastHandshake.IsZero() {
		out.gauge(c.handshakeAge, peer.HandshakeAge, peer.Node)
	}
	out.counter(c.received, float64(peer.ReceivedBytes), peer.Node)
	out.counter(c.sent, float64(peer.SentBytes), peer.Node)
	out.gauge(c.mtu, float64(peer.MTU), peer.Node)
	if peer.PathMTU > 0 {
		out.gauge(c.pathMTU, float64(peer.PathMTU), peer.Node)
	}
	if peer.RTT > 0 {
		out.gauge(c.rtt, peer.RTT, peer.Node)
	}
	if peer.Probes > 0 {
		out.gauge(c.loss, peer.Loss, peer.Node)
	}
	if peer.ClockOffset != nil {
		out.gauge(c.clockOffset, *peer.ClockOffset, peer.Node)
	}
}

func (c *collector) devices(devices []view.DeviceStatus, out sink) {
	for _, d := range devices[:min(len(devices), maxSeries)] {
		if t := d.Traffic; t != nil {
			out.counter(c.receivedPackets, float64(t.ReceivedPackets), d.Name)
			out.counter(c.sentPackets, float64(t.SentPackets), d.Name)
			out.counter(c.receiveErrors, float64(t.ReceiveErrors), d.Name)
			out.counter(c.sendErrors, float64(t.SendErrors), d.Name)
			out.counter(c.receiveDrops, float64(t.ReceiveDrops), d.Name)
			out.counter(c.sendDrops, float64(t.SendDrops), d.Name)
		}
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

func (c *collector) loop(counters view.Counters, out sink) {
	out.counter(c.reconciles, float64(counters.Reconciles))
	out.counter(c.reconcileErrors, float64(counters.ReconcileErrors))
	out.counter(c.kernelWrites, float64(counters.KernelWrites))
	out.counters(c.errors, counters.ErrorsByKind, c.kinds)
	out.counters(c.repairs, counters.RepairsByKind, c.kinds)
	out.counters(c.refused, counters.Refused, c.reasons)
}

// sink takes metrics.
type sink chan<- prometheus.Metric

func (s sink) gauge(desc *prometheus.Desc, value float64, labels ...string) {
	s.send(desc, prometheus.GaugeValue, value, labels)
}

func (s sink) counter(desc *prometheus.Desc, value float64, labels ...string) {
	s.send(desc, prometheus.CounterValue, value, labels)
}

// send sends a metric, or why it can't be one: then the others are served all the same.
func (s sink) send(desc *prometheus.Desc, kind prometheus.ValueType, value float64, labels []string) {
	for i := range labels {
		labels[i] = label(labels[i])
	}
	metric, err := prometheus.NewConstMetric(desc, kind, value, labels...)
	if err != nil {
		metric = prometheus.NewInvalidMetric(desc, err)
	}
	s <- metric
}

// counters sends a counter for each of the words that are known beforehand, and as many others as there is room for.
// What has none is counted together.
func (s sink) counters(desc *prometheus.Desc, counts map[string]uint64, known []string) {
	all := make(map[string]uint64, len(known))
	for _, word := range known {
		all[word] = 0
	}
	for _, word := range slices.Sorted(maps.Keys(counts)) {
		_, listed := all[word]
		if !listed && len(all) >= maxSeries {
			all[otherLabel] += counts[word]
			continue
		}
		all[word] += counts[word]
	}
	for word, n := range all {
		s.counter(desc, float64(n), word)
	}
}

// label is a value fit for a label: valid UTF-8, and not too long.
func label(value string) string {
	value = strings.ToValidUTF8(value, "?")
	if len(value) <= maxLabel {
		return value
	}
	cut := maxLabel
	for !utf8.RuneStart(value[cut]) {
		cut--
	}
	return value[:cut]
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
		&collector{status: s.status, kinds: s.cfg.Kinds, reasons: s.cfg.Reasons, families: newFamilies()},
		s.cfg.Timings,
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{
		ErrorLog:      slog.NewLogLogger(s.cfg.Log.Handler(), slog.LevelWarn),
		ErrorHandling: promhttp.ContinueOnError, // one bad value doesn't hide the others
		// Each asks WireGuard, and whoever reaches the port can ask.
		MaxRequestsInFlight: 4,
	}))
	return mux
}
