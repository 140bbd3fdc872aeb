// Package api owns the agent's doors to the outside of the process: the status API on a unix socket with its
// client, the metrics, the probes, and the web page. It shows the status that it is given and passes on requests: to look at
// the world again, to rotate the node's key, to forget a node, and to join hosts. It never changes state itself, and no secret can
// pass it, because what it answers with, of package view, holds none.
//
// The API is HTTP with JSON bodies, on a socket that only root may open:
//
//	GET  /v1/status     200, a view.Status
//	POST /v1/reconcile  202, the agent's loop runs soon
//	POST /v1/rotate     with {"force":BOOL}: 200, a view.RotateAnswer, and the request is on disk; 409 and why
//	                    the agent refuses it; 400 and what is wrong with the body
//	POST /v1/forget     with {"node":NAME,"force":BOOL}: 200, a view.ForgetAnswer, when it is done and on disk; 409
//	                    and 400 as above
//	POST /v1/join       with {"hosts":[HOST,…]}, 1 to 64: 200, a view.JoinAnswer, and they are on disk; 409 and 400
//	                    as above
//
// On the address for probes, which is meant for loopback:
//
//	GET /healthz  200 while the agent's loop runs, else 503 and what is wrong
//	GET /readyz   200 when this node can carry pod traffic, else 503 and why it can't
//
// On the address for the web page, which is meant for loopback, what package ui serves.
//
// On the address for metrics, GET /metrics in the formats of Prometheus.
package api
