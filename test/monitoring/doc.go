// Package monitoring checks deploy/monitoring and docs/monitoring.md against what the agent's own server exports, by
// Prometheus' library.
package monitoring
