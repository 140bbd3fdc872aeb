package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/weaveguard/weaveguard/test/cluster"
)

// pings is how many echo requests go from a pod to another.
const pings = 3

// pod is a pod that answers pings and HTTP.
type pod struct {
	name, node string
	address    netip.Addr
}

func (d *demo) startPods(ctx context.Context) (string, error) {
	for i, node := range d.nodes {
		p := pod{name: fmt.Sprintf("pod-%d", i+1), node: node}
		if err := d.cluster.RunPod(ctx, cluster.Pod{Name: p.name, Node: node}); err != nil {
			return "", err
		}
		d.pods = append(d.pods, p)
	}
	for i := range d.pods {
		p := &d.pods[i]
		if err := d.cluster.WaitPodReady(ctx, p.name); err != nil {
			return "", err
		}
		var err error
		if p.address, err = d.cluster.PodIP(ctx, p.name); err != nil {
			return "", err
		}
		d.row("%-8s on %-8s has %s", p.name, p.node, p.address)
	}
	return fmt.Sprintf("%d pods run", len(d.pods)), nil
}

// exchange lets each pod reach each other one, while the underlay is recorded.
func (d *demo) exchange(ctx context.Context) (string, error) {
	file := filepath.Join(filepath.Dir(d.cluster.Kubeconfig()), "underlay.pcap")
	capture, err := d.cluster.Capture(ctx, file, "")
	if err != nil {
		return "", err
	}
	d.capture = capture
	failed := d.exchangeAll(ctx)
	if err := errors.Join(failed, d.sendControls(ctx), capture.Stop(ctx)); err != nil {
		return "", err
	}
	n := len(d.pods)
	return fmt.Sprintf("%d pairs, both ways: no ping lost, every page arrived, every pod saw the other's own address",
		n*(n-1)/2), nil
}

// exchangeAll goes on after a pair that fails, so that all that fail are told.
func (d *demo) exchangeAll(ctx context.Context) error {
	var errs []error
	d.row("%-8s %-8s %-28s %s", "from", "to", fmt.Sprintf("%d pings", pings), "HTTP, client as seen")
	for _, from := range d.pods {
		for _, to := range d.pods {
			if from == to {
				continue
			}
			if ctx.Err() != nil {
				return ctx.Err()
			}
			ping, errPing := d.ping(ctx, from, to)
			page, errPage := d.fetch(ctx, from, to)
			d.row("%-8s %-8s %-28s %s", from.name, to.name, ping, page)
			for _, err := range []error{errPing, errPage} {
				if err != nil {
					errs = append(errs, fmt.Errorf("from %s on %s to %s on %s: %w", from.name, from.node, to.name, to.node, err))
				}
			}
		}
	}
	return errors.Join(errs...)
}

var (
	received  = regexp.MustCompile(`(\d+) packets received`)
	roundTrip = regexp.MustCompile(`= [\d.]+/([\d.]+)/`)
)

// ping returns what came of it in a few words; an error unless every echo came back.
func (d *demo) ping(ctx context.Context, from, to pod) (string, error) {
	out, err := d.cluster.Exec(ctx, from.name, "ping", "-c", strconv.Itoa(pings), "-i", "0.2", "-W", "2", to.address.String())
	got := 0
	if m := received.FindStringSubmatch(out); m != nil {
		got, _ = strconv.Atoi(m[1]) // digits by the expression
	}
	if got != pings {
		return fmt.Sprintf("%d of %d LOST", pings-got, pings), errors.Join(fmt.Errorf("%d of %d pings are lost", pings-got, pings), err)
	}
	words := "all answered"
	if m := roundTrip.FindStringSubmatch(out); m != nil {
		words += ", " + m[1] + " ms"
	}
	return words, err
}

// fetch returns what came of it in a few words; an error unless the right pod answered, and saw the right address.
func (d *demo) fetch(ctx context.Context, from, to pod) (string, error) {
	out, err := d.cluster.Exec(ctx, from.name, "probe", "get", fmt.Sprintf("http://%s:8080/", to.address))
	if err != nil {
		return "FAILED", err
	}
	var page struct {
		Status                   int
		Hostname, Remote, Marker string
		Millis                   int64
	}
	if err := json.Unmarshal([]byte(out), &page); err != nil {
		return "FAILED", fmt.Errorf("read the probe's answer %q: %w", strings.TrimSpace(out), err)
	}
	client, err := netip.ParseAddrPort(page.Remote)
	switch {
	case err != nil || client.Addr() != from.address:
		return "WRONG ADDRESS", fmt.Errorf("the server saw the client as %s, want %s", page.Remote, from.address)
	case page.Hostname != to.name:
		return "WRONG POD", fmt.Errorf("%s answered, want %s", page.Hostname, to.name)
	case page.Marker != marker:
		return "WRONG PAGE", fmt.Errorf("the page has the marker %q, want %q", page.Marker, marker)
	}
	return fmt.Sprintf("%d, %d ms, %s", page.Status, page.Millis, client.Addr()), nil
}
