package main

import (
	"slices"
	"strings"
	"testing"

	"github.com/weaveguard/weaveguard/mesh/view"
)

func TestPodPorts(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		options options
		want    []view.OwnPort
		err     string
	}{
		"usual":          {options: options{MetricsAddr: ":6782", HealthAddr: "127.0.0.1:6785", UIAddr: "127.0.0.1:6786"}},
		"none":           {},
		"chosen":         {options: options{MetricsAddr: "[::]:9100", AllowPodsTo: []string{"metrics", "gossip"}}, want: []view.OwnPort{{Service: "metrics", Port: 9100}}},
		"a page for all": {options: options{UIAddr: ":8080"}, want: []view.OwnPort{{Service: "ui", Port: 8080}}},
		"kernel chooses": {options: options{HealthAddr: "127.0.0.1:0"}},
		"unknown":        {options: options{AllowPodsTo: []string{"metric"}}, err: `--allow-pods-to: "metric" isn't one of metrics, health, gossip, ui`},
		"WireGuard":      {options: options{AllowPodsTo: []string{"wireguard"}}, err: "isn't one of"},
		"no port":        {options: options{MetricsAddr: "6782"}, err: "--metrics-address"},
		"page, no port":  {options: options{UIAddr: "localhost"}, err: "--ui-address"},
		"a name":         {options: options{HealthAddr: "127.0.0.1:http"}, err: "--health-address"},
	} {
		err := c.options.checkPodPorts()
		if c.err == "" && err != nil || c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) {
			t.Errorf("%s: %v, want %q", name, err, c.err)
		}
		if c.err == "" && !slices.Equal(c.options.ownPorts, c.want) {
			t.Errorf("%s: %v, want %v", name, c.options.ownPorts, c.want)
		}
	}
}
