// What the agent's answers come to: nodes, and the links between them, with what is wrong. Nothing here touches the page.

import { age, count, percent } from "./format.js";

// words are what the states of links and nodes are called, the worst first.
export const words = { bad: "down", lossy: "losing packets", unknown: "not known", good: "up" };

// build makes the mesh of a status, and of the topology and the matrix where there are any.
export function build(status, topology, matrix) {
  const peers = new Map((status.peers ?? []).map((p) => [p.node, p]));
  const told = new Map((topology?.nodes ?? []).map((n) => [n.name, n]));
  const rows = new Map((matrix?.rows ?? []).map((r) => [r.node, r]));
  const names = [...new Set([status.node, ...peers.keys(), ...told.keys(), ...rows.keys()])].filter((n) => n).sort();
  const says = new Sayings(names, status, matrix);
  const nodes = names.map((name) => node(name, status, peers.get(name), told.get(name)));
  const links = linksOf(nodes, status.node, says);
  const at = new Map(nodes.map((n) => [n.name, n]));
  const lost = new Set(nodes.filter((n) => !n.self && isLost(n)).map((n) => n.name));
  for (const n of nodes) n.state = stateOf(n, status, lost);
  return { self: status.node, nodes, at, links, says, rows, names };
}

// node is one node, whose links are to come.
function node(name, status, peer, told) {
  const networks = told?.networks ?? [];
  const attachments = networks.flatMap((n) => (n.attachments ?? []).map((a) => ({ ...a, network: n.name })));
  return {
    name, self: name === status.node, peer, networks, attachments,
    pods: new Set(attachments.map((a) => `${a.namespace ?? ""}/${a.pod}`)).size,
    endpoint: told?.endpoint ?? peer?.endpoint ?? status.endpoints?.[0] ?? "",
    reason: peer?.reason ?? told?.reason ?? "",
    stale: told?.stale ?? "", omitted: told?.omitted ?? 0, links: [], faults: 0,
  };
}

// Sayings are what each node says of its way to each other.
class Sayings {
  #index;
  #cells; // of n times n
  #heard = new Set();

  // What the agent says itself counts before what it gathered of itself.
  constructor(names, status, matrix) {
    this.#index = new Map(names.map((name, i) => [name, i]));
    this.#cells = new Array(names.length ** 2);
    for (const row of matrix?.rows ?? []) {
      if (row.heard) this.#take(row.node, row.cells ?? []);
    }
    this.#take(status.node, (status.peers ?? []).map((p) => ({
      rttSeconds: p.rttSeconds, loss: p.loss ?? 0, probes: p.probes ?? 0, ...this.of(status.node, p.node), node: p.node, up: p.up,
    })));
  }

  #take(from, cells) {
    this.#heard.add(from);
    const at = this.#index.get(from) * this.#index.size;
    for (const cell of cells) {
      const to = this.#index.get(cell.node);
      if (to !== undefined) this.#cells[at + to] = cell;
    }
  }

  // heard reports whether a node said anything.
  heard(from) {
    return this.#heard.has(from);
  }

  // of is what a node says of its way to another, if anything.
  of(from, to) {
    return this.#cells[this.#index.get(from) * this.#index.size + this.#index.get(to)];
  }

  // between is the same by the places of the two among the names.
  between(i, j) {
    return this.#cells[i * this.#index.size + j];
  }
}

// linksOf are the links between all nodes. In a mesh of 200 these are 19,900, so they are made in few steps.
function linksOf(nodes, self, says) {
  const links = [];
  for (let i = 0; i < nodes.length; i++) {
    const a = nodes[i].name;
    for (let j = i + 1; j < nodes.length; j++) {
      const b = nodes[j].name;
      const [ab, ba] = [says.between(i, j), says.between(j, i)];
      const link = { a, b, own: a === self || b === self, state: judge(ab, ba), rtt: ab?.rttSeconds || ba?.rttSeconds || 0, ab, ba };
      links.push(link);
      nodes[i].links.push(link);
      nodes[j].links.push(link);
    }
  }
  return links;
}

// judge finds a link's state by what its ends say, if anything: it is bad if either says so.
function judge(ab, ba) {
  if (!ab && !ba) return "unknown";
  if (ab?.up === false || ba?.up === false) return "bad";
  return ab?.loss > 0 || ba?.loss > 0 ? "lossy" : "good";
}

// why says why a link isn't well: by the reason that this node gives, or by what its ends measured.
function why(link, mesh) {
  const reason = link.own && mesh.at.get(link.a === mesh.self ? link.b : link.a).peer?.reason;
  if (link.state === "bad" && reason) return reason;
  const ends = [[link.a, link.b, link.ab], [link.b, link.a, link.ba]].filter(([, , said]) => said);
  if (link.state === "bad") return ends.filter(([, , said]) => !said.up).map(([from, to]) => `${from} has no session with ${to}`).join(", ");
  return ends.filter(([, , said]) => said.loss > 0).map(([from, , said]) => `${from} lost ${percent(said.loss)} of ${count(said.probes, "probe")}`).join(", ");
}

// pair names a link, whichever way round its ends are given.
export function pair(a, b) {
  return a < b ? `${a} ${b}` : `${b} ${a}`;
}

// isLost reports whether none of a node's links that are known is up.
function isLost(n) {
  const known = n.links.filter((l) => l.state !== "unknown");
  return known.length > 0 && known.every((l) => l.state === "bad");
}

// stateOf is a node's state: bad when it is lost, or when this node can't carry traffic. That its links to those that are lost are
// down is no fault of the others'.
function stateOf(n, status, lost) {
  if (n.self ? !status.ready : lost.has(n.name)) return "bad";
  if (n.links.every((l) => l.state === "unknown")) return n.self ? "good" : "unknown";
  n.faults = n.links.filter((l) => !lost.has(l.a) && !lost.has(l.b) && l.state === "bad").length;
  return n.faults > 0 || n.links.some((l) => l.state === "lossy") ? "lossy" : "good";
}

// stateWords say a node's state.
export function stateWords(n) {
  if (n.state === "bad") return n.self ? "not ready" : words.bad;
  if (n.faults > 0) return `${count(n.faults, "link")} down`;
  return n.self && n.state === "good" ? "ready" : words[n.state];
}

// headline is what `weaveguard status` begins with.
export function headline(status) {
  const { problems } = sorted(status.problems);
  const peers = status.peers ?? [];
  const down = peers.filter((p) => !p.up);
  const are = (n) => (n === 1 ? "is" : "are");
  const first = problems[0] && `${problems[0].subject}: ${problems[0].message}`;
  if (!status.ready) {
    const why = first ? `this node can't carry pod traffic: ${first}` : "this node can't carry pod traffic yet";
    return { state: "bad", lead: "not healthy", text: why };
  }
  if (down.length > 0) {
    const text = `${down.length} of ${count(peers.length, "peer")} ${are(down.length)} down: ${down[0].node}: ${down[0].reason || "the agent gives no reason"}`;
    return { state: "bad", lead: "not healthy", text };
  }
  if (first) return { state: "lossy", lead: "healthy", text: `with ${count(problems.length, "problem")}: ${first}` };
  if (peers.length === 0) return { state: "good", lead: "healthy", text: "there is no other node yet" };
  return { state: "good", lead: "healthy", text: `${peers.length} of ${count(peers.length, "peer")} ${are(peers.length)} up` };
}

// sorted tells what is wrong from what only might become so.
export function sorted(problems) {
  const all = problems ?? [];
  return { problems: all.filter((p) => !p.warning), warnings: all.filter((p) => p.warning) };
}

// faults are the links that aren't well, in few lines: a node of whose links none is up is one of them.
export function faults(mesh) {
  const lines = [];
  const lost = new Set(mesh.nodes.filter((n) => !n.self && n.state === "bad" && n.links.filter((l) => l.state === "bad").length > 1).map((n) => n.name));
  for (const name of lost) {
    const n = mesh.at.get(name);
    lines.push({ state: "bad", nodes: [name], text: `none of its links is up, of ${n.links.filter((l) => l.state === "bad").length}${n.reason ? `: ${n.reason}` : ""}` });
  }
  for (const state of ["bad", "lossy"]) {
    for (const link of mesh.links) {
      if (link.state !== state || lost.has(link.a) || lost.has(link.b)) continue;
      lines.push({ state, nodes: [link.a, link.b], text: `${words[state]}: ${why(link, mesh)}` });
    }
  }
  return lines;
}

// matches says whether a node is what somebody looks for: by its name or address, or those of a network or a pod on it.
export function matches(n, text) {
  if (text === "") return true;
  const has = (value) => String(value ?? "").toLowerCase().includes(text);
  return has(n.name) || has(n.endpoint) || n.networks.some((net) => (net.cidrs ?? []).some(has)) || n.attachments.some((a) => attached(a, has));
}

function attached(a, has) {
  return has(podName(a)) || (a.addresses ?? []).some(has);
}

// podName is a pod as kubectl's users write it, or a sandbox of another runtime.
export function podName(a) {
  return a.namespace ? `${a.namespace}/${a.pod}` : a.pod;
}

// tally is how many links are in which state, in words.
export function tally(mesh) {
  const n = { good: 0, bad: 0, lossy: 0, unknown: 0 };
  for (const link of mesh.links) n[link.state]++;
  const parts = Object.keys(words).reverse().filter((state) => n[state] > 0).map((state) => `${n[state]} ${words[state]}`);
  return `${count(mesh.nodes.length, "node")}, ${count(mesh.links.length, "link")}${parts.length ? `: ${parts.join(", ")}` : ""}`;
}

// ago is how long before another moment one was, in words.
export function ago(then, now) {
  return age((new Date(now) - new Date(then)) / 1000);
}
