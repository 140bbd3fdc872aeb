package api

import "github.com/prometheus/client_golang/prometheus"

// families describe the metrics that come from the status. docs/monitoring.md lists them.
type families struct {
	buildInfo, ready, problems, kubernetes, attachments, addressesUsed, addressesFree *prometheus.Desc

	gossipMembers, gossipReceivedPackets, gossipSentPackets, gossipAcceptedStreams, gossipOpenedStreams,
	gossipReceivedMessages, gossipSentMessages *prometheus.Desc

	peerStates, peerUp, handshakeAge, received, sent, mtu, pathMTU, rtt, loss, clockOffset *prometheus.Desc

	receivedPackets, sentPackets, receiveErrors, sendErrors, receiveDrops, sendDrops *prometheus.Desc

	keyGeneration, keyMade, rotationPhase, rotationWaiting, rotations *prometheus.Desc

	reconciles, reconcileErrors, kernelWrites, errors, repairs, refused *prometheus.Desc

	all []*prometheus.Desc
}

func newFamilies() families {
	var f families
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		d := prometheus.NewDesc(metricsPrefix+name, help, labels, nil)
		f.all = append(f.all, d)
		return d
	}
	f.buildInfo = desc("build_info", "The agent's version; the value is always 1.", "version", "goversion")
	f.ready = desc("ready", "1 when this node can carry pod traffic, else 0.")
	f.problems = desc("problems", "Problems that `weaveguard status` shows now, errors and warnings.", "severity")
	f.kubernetes = desc("kubernetes_reachable", "1 when the Kubernetes API answers, else 0; absent without Kubernetes.")
	f.attachments = desc("attachments", "Interfaces of pods that are attached on this node.")
	f.addressesUsed = desc("addresses_used", "Addresses of this node's part of a network that pods have.", "network", "cidr")
	f.addressesFree = desc("addresses_free",
		"Addresses of this node's part of a network that pods can still have, up to 2^63-1.", "network", "cidr")

	f.gossipMembers = desc("gossip_members", "Nodes that gossip sees alive, this one among them.")
	f.gossipReceivedPackets = desc("gossip_received_packets_total", "UDP packets that came to the gossip port, refused ones among them.")
	f.gossipSentPackets = desc("gossip_sent_packets_total", "UDP packets of gossip that were sent.")
	f.gossipAcceptedStreams = desc("gossip_accepted_streams_total", "TCP connections that came to the gossip port, refused ones among them.")
	f.gossipOpenedStreams = desc("gossip_opened_streams_total", "TCP connections of gossip that were opened to others.")
	f.gossipReceivedMessages = desc("gossip_received_messages_total", "Messages of other agents that came by gossip.")
	f.gossipSentMessages = desc("gossip_sent_messages_total", "Messages that were sent to other agents by gossip.")

	f.peerStates = desc("peers", "Other nodes, by the link to them: up, down (no session), or waiting (no link, as no record of it counts).", "state")
	f.peerUp = desc("peer_up", "1 when the link to a peer has a session, else 0.", "peer")
	f.handshakeAge = desc("peer_last_handshake_age_seconds",
		"Time since the last WireGuard handshake with a peer; absent when there was none.", "peer")
	f.received = desc("peer_received_bytes_total", "Bytes that came from a peer through its tunnel.", "peer")
	f.sent = desc("peer_sent_bytes_total", "Bytes that went to a peer through its tunnel.", "peer")
	f.mtu = desc("peer_mtu_bytes", "The largest packet that the route to a peer's pods takes.", "peer")
	f.pathMTU = desc("peer_path_mtu_bytes",
		"What probes found that the network carries to a peer; absent when that is as much as it seems to.", "peer")

	f.rtt = desc("peer_rtt_seconds",
		"Time of the way to a peer beside the tunnel, there and back: the median of the latest probes; absent when none of them was answered.", "peer")
	f.loss = desc("peer_loss_ratio",
		"Loss on the way to a peer beside the tunnel, there and back, from 0 to 1: of the latest 20 probes; absent when none was ever answered.", "peer")
	f.clockOffset = desc("peer_clock_offset_seconds",
		"How far a peer's clock is ahead of this node's, as it says, in answer to gossip's pings; absent when it doesn't say.", "peer")

	const perDevice = " WireGuard doesn't count packets by peer."
	f.receivedPackets = desc("tunnel_received_packets_total", "Packets that came out of a tunnel device, of all its peers."+perDevice, "device")
	f.sentPackets = desc("tunnel_sent_packets_total", "Packets that went into a tunnel device, to all its peers."+perDevice, "device")
	f.receiveErrors = desc("tunnel_receive_errors_total", "Packets that a tunnel device received and couldn't take, such as forged ones.", "device")
	f.sendErrors = desc("tunnel_send_errors_total", "Packets that a tunnel device couldn't send, such as those to no peer.", "device")
	f.receiveDrops = desc("tunnel_receive_drops_total", "Packets that were dropped behind a tunnel device.", "device")
	f.sendDrops = desc("tunnel_send_drops_total", "Packets that were dropped before a tunnel device, such as while it waits for a session.", "device")

	f.keyGeneration = desc("key_generation", "Number of this node's newest WireGuard key; absent when there is none.")
	f.keyMade = desc("key_made_timestamp_seconds",
		"When this node's newest WireGuard key was made; absent when that isn't known.")
	f.rotationPhase = desc("rotation_phase",
		"How far the rotation of this node's WireGuard key is: 1 for the phase it is in, 0 for the others.", "phase")
	f.rotationWaiting = desc("rotation_waiting_peers", "Peers that still need the old WireGuard key of this node.")
	f.rotations = desc("rotations_total", "Rotations of this node's WireGuard key that ended well.")

	f.reconciles = desc("reconciles_total", "Runs of the agent's loop.")
	f.reconcileErrors = desc("reconcile_errors_total", "Runs of the agent's loop in which something failed.")
	f.kernelWrites = desc("kernel_writes_total",
		"Changes made to the kernel's links, addresses, routes, WireGuard peers, firewall rules and settings.")
	f.errors = desc("errors_total", "Failures of the agent's loop, by what it looked at or applied.", "kind")
	f.repairs = desc("repairs_total", "Changes that somebody else made to what is Weaveguard's, and that were put right, by what it was.", "kind")
	f.refused = desc("records_refused_total", "Records and packets of the gossip that were refused.", "reason")
	return f
}

// Describe implements prometheus.Collector. It doesn't ask for the status: the agent may not have one yet.
func (f *families) Describe(descs chan<- *prometheus.Desc) {
	for _, desc := range f.all {
		descs <- desc
	}
}
