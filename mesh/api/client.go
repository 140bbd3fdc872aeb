package api

import (
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
	body, err := c.do(ctx, http.MethodGet, statusPath)
	if err != nil {
		return view.Status{}, err
	}
	var status view.Status
	if err := json.Unmarshal(body, &status); err != nil {
		return view.Status{}, &AgentError{
			Message: fmt.Sprintf("the agent's answer can't be read: %v", err),
			Remedy:  "use the weaveguard command of the same version as the agent",
			Err:     err,
		}
	}
	return status, nil
}

// Reconcile asks the agent to look at the world again soon, and doesn't wait for it. It waits 5 s at most for the
// agent's answer. What fails is an *AgentError.
func (c Client) Reconcile(ctx context.Context) error {
	_, err := c.do(ctx, http.MethodPost, reconcilePath)
	return err
}

func (c Client) do(ctx context.Context, method, path string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, method, "http://agent"+path, http.NoBody)
	if err != nil {
		return nil, fmt.Errorf("preparing a request to the agent: %w", err)
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
		return nil, refused(method+" "+path, response.Status, body)
	}
	return body, nil
}

func refused(request, status string, body []byte) error {
	err := fmt.Errorf("%s: %s", status, strings.TrimSpace(string(body)))
	return &AgentError{
		Message: fmt.Sprintf("the agent refused %s with %v", request, err),
		Remedy:  "use the weaveguard command of the same version as the agent",
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

const startRemedy = "with Kubernetes look for its pod (`kubectl -n kube-system get pods -o wide`, " +
	"DaemonSet weaveguard), without it start the service (`systemctl start weaveguard`)"
