package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"

	"github.com/weaveguard/weaveguard/mesh/contract"
	"github.com/weaveguard/weaveguard/test/cluster"
)

const (
	// marker is in every page that a probe serves.
	marker = "WEAVEGUARD-TEST-PLAINTEXT"
	// controlPort is where control datagrams go; nobody listens there.
	controlPort = 40000
)

// controlText is what the control datagram from a node to another says: the marker, in the clear.
func controlText(control, from, to string) string {
	return fmt.Sprintf("%s%s from %s to %s.", marker, control, from, to)
}

// sendControls sends the marker in the clear between all nodes, beside the tunnels: a capture that doesn't hold these
// datagrams would not have held a pod's either.
func (d *demo) sendControls(ctx context.Context) error {
	d.control = " control " + rand.Text()
	for _, from := range d.nodes {
		for _, to := range d.nodes {
			if from == to {
				continue
			}
			address, err := d.cluster.Address(ctx, to)
			if err != nil {
				return err
			}
			const send = `printf %s "$1" >"/dev/udp/$2/$3"`
			_, err = d.cluster.OnNode(ctx, from, "bash", "-c", send, "bash", controlText(d.control, from, to),
				address.String(), fmt.Sprint(controlPort))
			if err != nil {
				return fmt.Errorf("send the marker in the clear: %w", err)
			}
		}
	}
	return nil
}

// inspect reads the capture.
func (d *demo) inspect(ctx context.Context) (string, error) {
	kinds := []struct{ name, filter string }{
		{"WireGuard", fmt.Sprintf("udp port %d", contract.BasePort)},
		{"gossip, encrypted", fmt.Sprintf("port %d", contract.GossipPort)},
		{"Kubernetes and ARP", fmt.Sprintf("not port %d and not port %d and not port %d and not icmp", contract.BasePort, contract.GossipPort, controlPort)},
		{"all, with what was sent in the clear on purpose", ""},
	}
	for _, kind := range kinds {
		packets, err := d.capture.Read(ctx, kind.filter)
		if err != nil {
			return "", err
		}
		d.row("%5d packets: %s", len(packets), kind.name)
	}
	errTunnels := d.tunnelsSeen(ctx)
	seen, errClear := d.nothingClear(ctx)
	if err := errors.Join(errTunnels, errClear); err != nil {
		return "", err
	}
	return "nothing of the pods' traffic is in the clear, and the recording would have held it: " + seen, nil
}

// tunnelsSeen shows that the pods' packets were there, encrypted. The pings from one pod to another and back are so many
// packets each way.
func (d *demo) tunnelsSeen(ctx context.Context) error {
	var errs []error
	first := ""
	fmt.Fprintln(d.out)
	d.row("%-8s %-8s %s", "from", "to", "WireGuard packets")
	for _, from := range d.nodes {
		for _, to := range d.nodes {
			if from == to {
				continue
			}
			filter, err := d.between(ctx, from, to)
			if err != nil {
				return err
			}
			packets, err := d.capture.Read(ctx, filter+fmt.Sprintf(" and udp dst port %d", contract.BasePort))
			if err != nil {
				return err
			}
			d.row("%-8s %-8s %d", from, to, len(packets))
			if len(packets) > 0 && first == "" {
				first = packets[0]
			}
			if want := 2 * pings; len(packets) < want {
				errs = append(errs, fmt.Errorf("from %s to %s there are %d WireGuard packets, and the pings alone are %d", from, to,
					len(packets), want))
			}
		}
	}
	_, packet, _ := strings.Cut(first, " IP ") // without the time
	d.row("such as   %s", packet)
	return errors.Join(errs...)
}

func (d *demo) between(ctx context.Context, from, to string) (string, error) {
	source, err := d.cluster.Address(ctx, from)
	if err != nil {
		return "", err
	}
	destination, err := d.cluster.Address(ctx, to)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("src host %s and dst host %s", source, destination), nil
}

// nothingClear checks that no packet had a pod's address, that the marker is nowhere but in the control datagrams, and
// that those are all there. It says in words what it found.
func (d *demo) nothingClear(ctx context.Context) (string, error) {
	var errs []error
	pods, err := d.capture.Read(ctx, "net "+netip.MustParsePrefix(cluster.DefaultPodCIDR).String())
	if err != nil {
		return "", err
	}
	if len(pods) > 0 {
		errs = append(errs, fmt.Errorf("%d packets on the underlay have a pod's address, the first: %s", len(pods), pods[0]))
	}
	data, err := os.ReadFile(d.capture.File)
	if err != nil {
		return "", fmt.Errorf("read the capture: %w", err)
	}
	clear, controls, missing := findMarkers(data, d.control, d.nodes)
	if clear > 0 {
		errs = append(errs, fmt.Errorf("the pods' marker %s is %d times in the clear", marker, clear))
	}
	if len(missing) > 0 {
		errs = append(errs, fmt.Errorf("the recording isn't to be trusted: it lacks what was sent in the clear on purpose, %s",
			strings.Join(missing, "; ")))
	}
	fmt.Fprintln(d.out)
	d.row("%5d packets with an address of a pod", len(pods))
	d.row("%5d times %s, which is in every page", clear, marker)
	d.row("%5d times the same, sent in the clear from node to node on purpose", controls)
	return fmt.Sprintf("it has what was sent in the clear, all %d of it", controls), errors.Join(errs...)
}

// findMarkers counts in a recording the markers that weren't sent as a control, and the controls that are there, of
// each pair of nodes once, and names the controls that aren't.
func findMarkers(data []byte, control string, nodes []string) (clear, controls int, missing []string) {
	clear = bytes.Count(data, []byte(marker)) - bytes.Count(data, []byte(marker+control))
	for _, from := range nodes {
		for _, to := range nodes {
			switch text := controlText(control, from, to); {
			case from == to:
			case bytes.Contains(data, []byte(text)):
				controls++
			default:
				missing = append(missing, fmt.Sprintf("from %s to %s", from, to))
			}
		}
	}
	return clear, controls, missing
}
