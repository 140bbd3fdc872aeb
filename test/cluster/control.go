package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path/filepath"
	"time"

	"github.com/weaveguard/weaveguard/test/cluster/internal/api"
)

// supervisorTimeout bounds the time in which a supervisor begins to listen.
const supervisorTimeout = 10 * time.Second

// request has the supervisor do something, reports its progress, and returns the host that it was
// about, if any.
func (c *Cluster) request(ctx context.Context, method, path string) (*api.Host, error) {
	request, err := http.NewRequestWithContext(ctx, method, "http://supervisor"+path, nil)
	if err != nil {
		return nil, fmt.Errorf("ask the supervisor: %w", err)
	}
	response, err := c.control.Do(request)
	if err != nil {
		return nil, fmt.Errorf("ask the supervisor of cluster %s: %w", c.Name(), err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("ask the supervisor of cluster %s: %s %s: %s", c.Name(), method, path, response.Status)
	}
	decoder := json.NewDecoder(response.Body)
	for {
		var event api.Event
		err := decoder.Decode(&event)
		switch {
		case err != nil:
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return nil, fmt.Errorf("hear from the supervisor of cluster %s: %w", c.Name(), err)
		case event.Error != "":
			return nil, errors.New(event.Error)
		case event.Done:
			return event.Host, nil
		default:
			c.say("%s", event.Message)
		}
	}
}

// state asks the supervisor what there is.
func (c *Cluster) state(ctx context.Context) (api.State, error) {
	var state api.State
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://supervisor/state", nil)
	if err != nil {
		return state, fmt.Errorf("ask the supervisor: %w", err)
	}
	response, err := c.control.Do(request)
	if err != nil {
		return state, fmt.Errorf("ask the supervisor of cluster %s: %w", c.Name(), err)
	}
	defer response.Body.Close()
	if err := json.NewDecoder(response.Body).Decode(&state); err != nil {
		return state, fmt.Errorf("hear from the supervisor of cluster %s: %w", c.Name(), err)
	}
	return state, nil
}

func (c *Cluster) awaitSupervisor(ctx context.Context) error {
	return Poll(ctx, supervisorTimeout, "the supervisor listens", func(ctx context.Context) error {
		select {
		case <-c.exited:
			return fatal{fmt.Errorf("the supervisor ended, see %s", filepath.Join(c.dir, api.SupervisorLog))}
		default:
		}
		_, err := c.state(ctx)
		return err
	})
}

// LoadImage imports a docker archive on every node that is up, and on those that boot or are added
// later. The file isn't needed any more after that. One of the same base name replaces it.
func (c *Cluster) LoadImage(ctx context.Context, file string) error {
	path, err := filepath.Abs(file)
	if err != nil {
		return fmt.Errorf("load image %s: %w", file, err)
	}
	if _, err := c.request(ctx, http.MethodPost, "/images?file="+url.QueryEscape(path)); err != nil {
		return fmt.Errorf("load image %s: %w", file, err)
	}
	return nil
}
