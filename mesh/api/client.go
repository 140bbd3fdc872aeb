package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/weaveguard/weaveguard/mesh/contract"
	"github.com/weaveguard/weaveguard/mesh/view"
)

const (
	requestTimeout = 5 * time.Second
	// maxAnswer is far above the status of the biggest mesh: a peer needs some 500 bytes.
	maxAnswer = 64 << 20
)

// Client talks to the agent of this node. It keeps no connection open.
type Client struct {
	Socket string // path of the agent's unix socket
}

// AgentError says why the agent couldn't be asked, and what to do about it.
type AgentError struct {
	Message string
	Remedy  string
	Err     error
}

func (e *AgentError) Error() string {
	if e.Remedy == "" {
		return e.Message
	}
	return e.Message + "; " + e.Remedy
}

func (e *AgentError) Unwrap() error { return e.Err }

// Status asks what the agent sees now. It waits 5 s at most. What fails is an *AgentError.
func (c Client) Status(ctx context.Context) (view.Status, error) {
	return get[view.Status](ctx, c, statusPath)
}

// Topology asks which nodes, networks and pods the agent knows. It waits 5 s at most. What fails is an *AgentError.
func (c Client) Topology(ctx context.Context) (view.Topology, error) {
	return get[view.Topology](ctx, c, topologyPath)
}

// Matrix asks what the agent has gathered of how all nodes see the ways to each other, and makes it gather anew, which it does
// every 2 s at most, in big meshes more seldom: so ask again until the rows are new enough. It waits 5 s at most. What fails is
// an *AgentError.
func (c Client) Matrix(ctx context.Context) (view.Matrix, error) {
	return get[view.Matrix](ctx, c, matrixPath)
}

func get[T any](ctx context.Context, c Client, path string) (T, error) {
	body, err := c.do(ctx, http.MethodGet, path, nil)
	if err != nil {
		var none T
		return none, err
	}
	return decode[T](body)
}

// Reconcile asks the agent to look at the world again soon, and doesn't wait for it. It waits 5 s at most for the
// agent's answer. What fails is an *AgentError.
func (c Client) Reconcile(ctx context.Context) error {
	_, err := c.do(ctx, http.MethodPost, reconcilePath, nil)
	return err
}

// Rotate asks the agent to change this node's WireGuard key; with force, to end the rotation under way without waiting
// for its peers. The request is on the agent's disk when this returns, and what comes of it is in the status. It waits
// 5 s at most: an agent that answers later has taken the request all the same. What fails is an *AgentError; where the
// agent refuses, its Message is the agent's own.
func (c Client) Rotate(ctx context.Context, force bool) (view.RotateAnswer, error) {
	return ask[view.RotateAnswer](ctx, c, rotatePath, rotateRequest{Force: force})
}

func (c Client) do(ctx context.Context, method, path string, content []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, method, "http://agent"+path, bytes.NewReader(content))
	if err != nil {
		return nil, fmt.Errorf("preparing a request to the agent: %w", err)
	}
	if len(content) > 0 {
		request.Header.Set("Content-Type", "application/json")
	}
	transport := &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var dialer net.Dialer
			return dialer.DialContext(ctx, "unix", c.Socket)
		},
	}
	response, err := transport.RoundTrip(request)
	if err != nil {
		return nil, c.explain(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	if err != nil {
		return nil, c.explain(err)
	}
	if response.StatusCode >= http.StatusMultipleChoices {
		return nil, refused(method+" "+path, response, body)
	}
	return body, nil
}

func decode[T any](body []byte) (T, error) {
	var value T
	if err := json.Unmarshal(body, &value); err != nil {
		var none T
		return none, &AgentError{
			Message: fmt.Sprintf("the agent's answer can't be read: %v", err),
			Remedy:  versionRemedy,
			Err:     err,
		}
	}
	return value, nil
}

// refused tells an agent that understood the request and won't do it, which says why in words for the operator, from
// one that doesn't understand it.
func refused(request string, response *http.Response, body []byte) error {
	text := strings.TrimSpace(string(body))
	err := fmt.Errorf("%s: %s", response.Status, text)
	if response.StatusCode == http.StatusConflict && text != "" {
		return &AgentError{Message: text, Err: err}
	}
	return &AgentError{
		Message: fmt.Sprintf("the agent refused %s with %v", request, err),
		Remedy:  versionRemedy,
		Err:     err,
	}
}

// explain says what an error of the connection means for who runs a command on a node.
func (c Client) explain(err error) error {
	e := &AgentError{Err: err}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		e.Message = fmt.Sprintf("no agent runs on this node: there is no socket %s", c.Socket)
		e.Remedy = startRemedy
	case errors.Is(err, syscall.ECONNREFUSED) && !isSocket(c.Socket):
		e.Message = fmt.Sprintf("%s isn't a socket", c.Socket)
		e.Remedy = "name the agent's socket, by default " + contract.AgentSocket
	case errors.Is(err, syscall.ECONNREFUSED):
		e.Message = fmt.Sprintf("no agent answers on this node: nothing listens on %s any more", c.Socket)
		e.Remedy = startRemedy
	case errors.Is(err, fs.ErrPermission):
		e.Message = fmt.Sprintf("only root may ask the agent (%s)", c.Socket)
		e.Remedy = "run it as root, for instance with sudo"
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		e.Message = fmt.Sprintf("the agent didn't answer on %s within %v", c.Socket, requestTimeout)
		e.Remedy = "see its log: `kubectl -n kube-system logs POD weave`, or without Kubernetes " +
			"`journalctl -u weaveguard`"
	default:
		e.Message = fmt.Sprintf("asking the agent on %s: %v", c.Socket, err)
	}
	return e
}

func isSocket(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().Type() == fs.ModeSocket
}

const versionRemedy = "use the weaveguard command of the same version as the agent"

const startRemedy = "with Kubernetes look for its pod (`kubectl -n kube-system get pods -o wide`, " +
	"DaemonSet weaveguard), without it start the service (`systemctl start weaveguard`)"
