// What there is to know of one node.

import { facts, h, table } from "./dom.js";
import { age, clock, count, milliseconds, percent, size } from "./format.js";
import { podName, stateWords, words } from "./model.js";

const none = "none";

// detail is a node's part of the page.
export function detail(n, mesh, status) {
  return [
    h("h2", { id: "detail-title", tabindex: -1 }, n.name, n.self && " (this node)"),
    h("button", { type: "button", id: "close" }, "Close"),
    h("p", { class: `state ${n.state}` }, stateWords(n), n.reason && `: ${n.reason}`),
    n.stale && h("p", { class: "notice" }, `What is attached may be older; its document: ${n.stale}`),
    n.self ? ownFacts(status) : peerFacts(n.peer),
    h("h3", {}, "Links"),
    n.links.length === 0 ? h("p", {}, none) : linkTable(n, mesh, status),
    h("h3", {}, "Networks"),
    n.networks.length === 0 ? h("p", {}, none) : table("Networks and their CIDRs on this node", ["network", "CIDRs", "attached"],
      n.networks.map((net) => [net.name, (net.cidrs ?? []).join(" ") || "no part that counts", (net.attachments ?? []).length])),
    h("h3", {}, `Pods`),
    n.omitted > 0 && h("p", { class: "notice" }, `${count(n.omitted, "more interface")} of pods: its own agent knows them`),
    n.attachments.length === 0 ? h("p", {}, none) : h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Pods" },
      table("What is attached", ["pod", "network", "interface", "addresses"],
        n.attachments.map((a) => [podName(a), a.network, a.interface, `${(a.addresses ?? []).join(" ")}${a.stray ? " (stray)" : ""}`]))),
  ];
}

function ownFacts(s) {
  return facts([
    ["ready", s.ready ? "yes, it can carry pod traffic" : "no"],
    ["identity", s.identity],
    ["keys", (s.generations ?? []).map((g) => `${g.number}: ${g.publicKey}`).join(", ")],
    ["endpoints", (s.endpoints ?? []).join(", ")],
    ["pod CIDRs", (s.podCIDRs ?? []).join(", ")],
    ["pod ranges", (s.podRanges ?? []).length ? `${s.podRanges.join(", ")} (${s.podRangeSource})` : ""],
    ["WireGuard", s.wireguard],
    ["devices", (s.devices ?? []).map((d) => `${d.name} (UDP ${d.listenPort}, key ${d.generation}, MTU ${d.mtu})`).join(", ")],
    ["gossip", `${count(s.gossip?.members ?? 0, "node")} alive${s.gossip?.address ? `, this one at ${s.gossip.address}` : ""}`],
    ["Kubernetes", s.kubernetes],
    ["started", `${clock(s.started)}, ${s.version}`],
  ]);
}

function peerFacts(p) {
  if (!p) return h("p", {}, "This node has no link to it.");
  const seen = p.handshakeAgeSeconds >= 0 ? `${age(p.handshakeAgeSeconds)} ago` : "none yet";
  return facts([
    ["endpoint", p.endpoint],
    ["handshake", seen],
    ["round trip", p.rttSeconds > 0 ? `${milliseconds(p.rttSeconds)} ms` : "not known"],
    ["loss", p.probes > 0 ? `${percent(p.loss ?? 0)} of ${count(p.probes, "probe")}` : ""],
    ["MTU", p.mtu ? `${p.mtu}${p.pathMTU ? `, as the path carries ${p.pathMTU}` : ""}` : ""],
    ["received", size(p.receivedBytes)],
    ["sent", size(p.sentBytes)],
    ["pod CIDRs", (p.podCIDRs ?? []).join(", ")],
    ["key", `${p.generation}: ${p.publicKey}`],
    ["gossip", p.gossip ? "sees it" : "doesn't see it"],
    ["clock", p.clockOffsetSeconds === undefined ? "" : `${Math.abs(p.clockOffsetSeconds).toFixed(3)} s ${p.clockOffsetSeconds < 0 ? "behind" : "ahead of"} this node's`],
    ["document", p.document],
  ]);
}

// linkTable is a line for each tunnel of this node's with the one that is shown, or for each of its links to others.
function linkTable(n, mesh, status) {
  if (!n.self && n.peer?.links?.length) {
    return [
      table("Tunnels between this node and it", ["device", "endpoint", "keys", "handshake", "received", "sent"], n.peer.links.map((l) => [
        l.device + (l.carries ? "" : " (waits)"), l.endpoint, `${l.ownGeneration} to ${l.generation}`,
        l.handshakeAgeSeconds >= 0 ? `${age(l.handshakeAgeSeconds)} ago` : "none yet", size(l.receivedBytes), size(l.sentBytes)])),
      h("h3", {}, "Links to others"), others(n, mesh, status),
    ];
  }
  return others(n, mesh, status);
}

function others(n, mesh, status) {
  const links = n.links.filter((l) => n.self || !l.own).map((l) => ({ ...l, to: l.a === n.name ? l.b : l.a }));
  if (links.length === 0) return h("p", {}, none);
  const peers = new Map((status.peers ?? []).map((p) => [p.node, p]));
  const handshake = (to) => (peers.get(to)?.handshakeAgeSeconds >= 0 ? `${age(peers.get(to).handshakeAgeSeconds)} ago` : "none yet");
  return h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Links" },
    table("Its links to other nodes", ["node", "link", "round trip", n.self ? "handshake" : null].filter(Boolean), links.map((l) => [
      l.to, h("span", { class: `state ${l.state}` }, words[l.state]), l.rtt ? `${milliseconds(l.rtt)} ms` : "", n.self ? handshake(l.to) : null].filter((c) => c !== null))));
}
