// Package api owns the agent's doors to the outside of the process: the status API on a unix socket with its
// client, the metrics, and the probes. It shows the status that it is given and passes on one request, to look at
// the world again; it never changes state itself, and no secret can pass it, because view.Status holds none.
//
// The API is HTTP with JSON bodies, on a socket that only root may open:
//
//	GET  /v1/status     200, a view.Status
//	POST /v1/reconcile  202, the agent's loop runs soon
//
// On the address for probes, which is meant for loopback:
//
//	GET /healthz  200 while the agent's loop runs, else 503 and what is wrong
//	GET /readyz   200 when this node can carry pod traffic, else 503 and why it can't
//
// On the address for metrics, GET /metrics in the formats of Prometheus.
package api
