package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/weaveguard/weaveguard/mesh"
	"github.com/weaveguard/weaveguard/mesh/contract"
	"github.com/weaveguard/weaveguard/mesh/view"
)

// findSelf finds this node's underlay addresses. When the API server is away, those that it gave last will do.
func (s *starter) findSelf(ctx context.Context) error {
	if s.kube == nil {
		return s.findSelfByPeers(ctx)
	}
	if s.address.IsValid() {
		s.addresses = []netip.Addr{s.address}
		return nil
	}
	snapshot := s.kube.Snapshot()
	for _, n := range snapshot.Nodes {
		if n.Name == s.NodeName && len(n.Addresses) > 0 {
			s.addresses = n.Addresses
			return nil
		}
	}
	if snapshot.Synced {
		return fmt.Errorf("there is no Node %q with an InternalIP in Kubernetes: is --node-name right?", s.NodeName)
	}
	known := s.remembered.Self
	if time.Since(s.started) > syncPatience && known.Node == s.NodeName && len(known.Addresses) > 0 {
		s.log.Warn("the Kubernetes API doesn't answer: this node's addresses are those of the last start", "addresses", known.Addresses)
		s.addresses, s.silent = known.Addresses, true
		return nil
	}
	if len(snapshot.Problems) > 0 {
		return problemError{snapshot.Problems[0]}
	}
	return errors.New("the Kubernetes API hasn't told of the Nodes yet")
}

// lookUp asks the host's resolver.
func lookUp(ctx context.Context, name string) ([]netip.Addr, error) {
	return net.DefaultResolver.LookupNetIP(ctx, "ip", name)
}

// joining has hosts joined, where that is what makes the mesh.
func (o *options) joining(hosts *mesh.Hosts) func(context.Context, []string) (view.JoinAnswer, error) {
	if o.Kubernetes {
		return func(context.Context, []string) (view.JoinAnswer, error) {
			return view.JoinAnswer{}, errors.New("with Kubernetes the mesh are the cluster's Nodes: add the host to the cluster")
		}
	}
	return hosts.Join
}

// findSelfByPeers looks the peers up, and takes the address that packets to the first of them would have. With an address
// given it goes on also while no peer is found: their names are looked up again.
func (s *starter) findSelfByPeers(ctx context.Context) error {
	err := s.hosts.Find(ctx)
	if s.address.IsValid() {
		s.addresses = []netip.Addr{s.address}
		return nil
	}
	seeds := s.hosts.Addresses()
	if len(seeds) == 0 && err != nil {
		return fmt.Errorf("--peers: %w", err)
	}
	if len(seeds) == 0 {
		return errors.New("without --peers there is nothing to tell this host's underlay address by: give it with --address")
	}
	local, err := addressTowards(seeds[0])
	if err != nil {
		return fmt.Errorf("%w; give this host's underlay address with --address", err)
	}
	s.addresses = []netip.Addr{local}
	return nil
}

// addressTowards is the source address of what this host sends to another. Nothing is sent.
func addressTowards(host netip.Addr) (netip.Addr, error) {
	conn, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(host, contract.GossipPort)))
	if err != nil {
		return netip.Addr{}, fmt.Errorf("finding the underlay address towards %s: %w", host, err)
	}
	defer conn.Close()
	local, err := netip.ParseAddrPort(conn.LocalAddr().String())
	if err != nil {
		return netip.Addr{}, fmt.Errorf("reading the underlay address towards %s: %w", host, err)
	}
	return local.Addr().Unmap(), nil
}
