package userspace

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"
)

const (
	// callTimeout bounds one call: the daemon answers in milliseconds, or not at all.
	callTimeout = 10 * time.Second
	// maxReply is more than any reply has, in bytes.
	maxReply = 64 << 10
)

// Client asks the daemon for tunnel devices. Safe for concurrent use; it holds no connection between calls.
type Client struct {
	socket string
	http   *http.Client
}

// NewClient returns a client of the daemon at a unix socket. It doesn't connect yet.
func NewClient(socket string) *Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", socket)
	}
	return &Client{socket: socket, http: &http.Client{
		Timeout:   callTimeout,
		Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true},
	}}
}

// Make makes a tunnel device with an MTU in bytes. One that is there already is adopted as it is.
func (c *Client) Make(ctx context.Context, name string, mtu int) error {
	return c.call(ctx, http.MethodPut, "/v1/devices/"+name, makeRequest{MTU: mtu}, nil)
}

// Remove removes a tunnel device. One that isn't there is no error.
func (c *Client) Remove(ctx context.Context, name string) error {
	return c.call(ctx, http.MethodDelete, "/v1/devices/"+name, nil, nil)
}

// List returns the names of the daemon's devices, sorted.
func (c *Client) List(ctx context.Context) ([]string, error) {
	var reply devicesReply
	err := c.call(ctx, http.MethodGet, "/v1/devices", nil, &reply)
	return reply.Devices, err
}

// Version returns the version of the daemon, and so tells whether it is there.
func (c *Client) Version(ctx context.Context) (string, error) {
	var reply versionReply
	err := c.call(ctx, http.MethodGet, "/v1/version", nil, &reply)
	return reply.Version, err
}

func (c *Client) call(ctx context.Context, method, path string, request, reply any) error {
	var body bytes.Buffer
	if request != nil {
		if err := json.NewEncoder(&body).Encode(request); err != nil {
			return fmt.Errorf("asking the userspace WireGuard daemon: %w", err)
		}
	}
	// The host is no address: the connection goes to the socket.
	r, err := http.NewRequestWithContext(ctx, method, "http://userspace"+path, &body)
	if err != nil {
		return fmt.Errorf("asking the userspace WireGuard daemon: %w", err)
	}
	response, err := c.http.Do(r)
	if err != nil {
		if ctx.Err() != nil {
			return fmt.Errorf("asking the userspace WireGuard daemon: %w", ctx.Err())
		}
		return fmt.Errorf("the userspace WireGuard daemon doesn't answer at %s (%w): is the DaemonSet weaveguard-userspace, "+
			"or without Kubernetes the unit weaveguard-userspace, running on this node?", c.socket, cause(err))
	}
	defer response.Body.Close() // all of it that matters was read
	raw, err := io.ReadAll(io.LimitReader(response.Body, maxReply))
	if err != nil {
		return fmt.Errorf("reading the answer of the userspace WireGuard daemon: %w", err)
	}
	if response.StatusCode >= http.StatusBadRequest {
		var failed errorReply
		if json.Unmarshal(raw, &failed) != nil || failed.Error == "" {
			failed.Error = response.Status
		}
		return fmt.Errorf("userspace WireGuard daemon: %s", failed.Error)
	}
	if reply == nil {
		return nil
	}
	if err := json.Unmarshal(raw, reply); err != nil {
		return fmt.Errorf("the answer at %s isn't that of a userspace WireGuard daemon: %w", c.socket, err)
	}
	return nil
}

// cause strips what net and net/http wrap around a system error: it names the socket again, and a URL of no use.
func cause(err error) error {
	for {
		inner := errors.Unwrap(err)
		if inner == nil {
			return err
		}
		err = inner
	}
}
