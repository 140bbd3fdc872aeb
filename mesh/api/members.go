package api

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/weaveguard/weaveguard/mesh/view"
)

// MaxHosts is how many hosts one request to join may name, and maxJoinRequest far above the longest such body.
const (
	MaxHosts       = 64
	maxJoinRequest = 64 << 10
)

// forgetRequest is the body of a request to forget a node.
type forgetRequest struct {
	Node  string `json:"node"`
	Force bool   `json:"force"`
}

// joinRequest is the body of a request to join hosts.
type joinRequest struct {
	Hosts []string `json:"hosts"`
}

func (s *Server) forget(w http.ResponseWriter, r *http.Request) {
	request, err := readRequest[forgetRequest](http.MaxBytesReader(w, r.Body, maxRequest))
	if err == nil && request.Node == "" {
		err = fmt.Errorf("it names no node")
	}
	if err != nil {
		http.Error(w, `the body isn't a request to forget a node, such as {"node":"NAME","force":false}: `+err.Error(), http.StatusBadRequest)
		return
	}
	answer, err := s.cfg.Forget(r.Context(), request.Node, request.Force)
	if err != nil {
		http.Error(w, err.Error(), http.StatusConflict)
		return
	}
	writeJSON(w, answer)
}

func (s *Server) join(w http.ResponseWriter, r *http.Request) {
	request, err := readRequest[joinRequest](http.MaxBytesReader(w, r.Body, maxJoinRequest))
	if n := len(request.Hosts); err == nil && (n == 0 || n > MaxHosts) {
		err = fmt.Errorf("it names %d hosts, and takes 1 to %d", n, MaxHosts)
	}
	if err != nil {
		http.Error(w, `the body isn't a request to join hosts, such as {"hosts":["192.0.2.1"]}: `+err.Error(), http.StatusBadRequest)
		return
	}
	answer, err := s.cfg.Join(r.Context(), request.Hosts)
	if err != nil {
		http.Error(w, err.Error(), http.StatusConflict)
		return
	}
	writeJSON(w, answer)
}

// Forget asks the agent to take a node out of the data plane and to forget which identity it had; with force also while the
// node's agent runs. It is done, and on the agent's disk, when this returns. It waits 5 s at most: an agent that answers
// later has done it all the same. What fails is an *AgentError; where the agent refuses, its Message is the agent's own.
func (c Client) Forget(ctx context.Context, node string, force bool) (view.ForgetAnswer, error) {
	return ask[view.ForgetAnswer](ctx, c, forgetPath, forgetRequest{Node: node, Force: force})
}

// Join asks the agent to look for the mesh at further hosts too, names or addresses, 64 at most. They are on the agent's disk
// when this returns; whether anybody is there is in the status later. What fails is an *AgentError, as of Forget.
func (c Client) Join(ctx context.Context, hosts []string) (view.JoinAnswer, error) {
	return ask[view.JoinAnswer](ctx, c, joinPath, joinRequest{Hosts: hosts})
}

// ask posts a request to the agent.
func ask[A any](ctx context.Context, c Client, path string, request any) (A, error) {
	var none A
	content, err := json.Marshal(request)
	if err != nil {
		return none, fmt.Errorf("preparing a request to the agent: %w", err)
	}
	body, err := c.do(ctx, http.MethodPost, path, content)
	if err != nil {
		return none, err
	}
	return decode[A](body)
}
