package api

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Timings are the histograms of what the agent's loop measures of itself. Safe for concurrent use.
type Timings struct {
	reconcile, convergence, rotation prometheus.Histogram
}

// NewTimings returns histograms with nothing in them, to be given to a Server.
func NewTimings() *Timings {
	histogram := func(name, help string, buckets ...float64) prometheus.Histogram {
		return prometheus.NewHistogram(prometheus.HistogramOpts{Name: metricsPrefix + name, Help: help, Buckets: buckets})
	}
	return &Timings{
		reconcile: histogram("reconcile_duration_seconds",
			"How long the runs of the agent's loop took: to look, to plan, and to change the kernel.",
			.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10),
		convergence: histogram("convergence_seconds",
			"Time from when another node's new record was heard by gossip until the kernel had all that follows from it.",
			.01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300),
		rotation: histogram("rotation_duration_seconds",
			"How long rotations of this node's WireGuard key took, from the new key's making to the old one's erasure.",
			1, 2.5, 5, 10, 30, 60, 180, 600, 1800, 3600, 21600),
	}
}

// Reconciled notes how long a run of the loop took.
func (t *Timings) Reconciled(took time.Duration) { t.reconcile.Observe(took.Seconds()) }

// Converged notes how long it took from a record's arrival to the kernel.
func (t *Timings) Converged(took time.Duration) { t.convergence.Observe(took.Seconds()) }

// Rotated notes how long a rotation took.
func (t *Timings) Rotated(took time.Duration) { t.rotation.Observe(took.Seconds()) }

// Describe implements prometheus.Collector.
func (t *Timings) Describe(descs chan<- *prometheus.Desc) {
	for _, h := range t.all() {
		h.Describe(descs)
	}
}

// Collect implements prometheus.Collector.
func (t *Timings) Collect(metrics chan<- prometheus.Metric) {
	for _, h := range t.all() {
		h.Collect(metrics)
	}
}

func (t *Timings) all() []prometheus.Histogram {
	return []prometheus.Histogram{t.reconcile, t.convergence, t.rotation}
}
