// The parts of the page that are words and small tables: health, rotation, refused records.

import { byId, facts, fill, h, table } from "./dom.js";
import { age, clock, count } from "./format.js";
import { faults, headline, sorted, tally, words } from "./model.js";

const maxFaults = 12; // that are listed

// health shows whether the mesh is well, and if not, what is wrong and what to do.
export function health(mesh, status) {
  const v = headline(status);
  fill(byId("headline"), h("span", { class: `state ${v.state}` }, v.lead), `: ${v.text}`);
  const { problems, warnings } = sorted(status.problems);
  const wrong = faults(mesh);
  fill(byId("problems"),
    h("p", { key: "tally" }, `${tally(mesh)}.`),
    list("problems", "bad", problems), list("warnings", "lossy", warnings),
    wrong.length > 0 && h("ul", { key: "faults", class: "faults", "aria-label": "Links that aren't well" },
      wrong.slice(0, maxFaults).map((f) => h("li", { class: f.state }, names(f.nodes), `: ${f.text}`)),
      wrong.length > maxFaults && h("li", {}, `and ${count(wrong.length - maxFaults, "more link")}`)));
}

function list(key, state, problems) {
  return problems.length > 0 && h("ul", { key, class: "faults" }, problems.map((p) => h("li", { class: state },
    h("strong", {}, state === "bad" ? "problem" : "warning"), ` ${p.subject}: ${p.message}`,
    p.remedy && h("span", { class: "remedy" }, `What to do: ${p.remedy}`))));
}

function names(nodes) {
  return nodes.map((name, i) => [i > 0 && " – ", nodeLink(name)]);
}

// nodeLink opens a node.
export function nodeLink(name) {
  return h("a", { href: `#node=${encodeURIComponent(name)}` }, name);
}

const phases = {
  idle: "no change of this node's key is under way",
  preparing: "the new key and its devices are being made",
  establishing: "the others make their ends of the new links",
  switching: "traffic moves to the new links",
  draining: "the old key goes when nobody uses it any more",
  failed: "the key isn't changed, and stays as it is",
};

// rotation shows how far the change of this node's key is, and which keys others have.
export function rotation(status) {
  const r = status.rotation ?? {};
  const peers = status.peers ?? [];
  fill(byId("rotation-body"),
    facts([
      ["phase", h("span", {}, h("strong", {}, r.phase || "idle"), `: ${r.reason || phases[r.phase] || phases.idle}`)],
      ["this node's keys", (status.generations ?? []).map((g) => g.number).join(" and ")],
      ["newest key made", r.rotatedAt ? `${clock(r.rotatedAt)}, ${age((new Date(status.time) - new Date(r.rotatedAt)) / 1000)} ago` : ""],
      ["queued", r.queued ? "another change of the key follows" : ""],
    ]),
    (r.waiting ?? []).length > 0 && h("div", { key: "waiting" }, table("Peers that still need the old key", ["peer", "why", "UDP ports"],
      r.waiting.map((w) => [nodeLink(w.node), w.reason, `${w.ownPort} here, ${w.port} there`]))),
    peers.length > 0 && h("div", { key: "peers", class: "scroll", tabindex: 0, role: "region", "aria-label": "Keys of the peers" },
      table("Keys of the peers", ["peer", "key", "links"], peers.map((p) => [nodeLink(p.node), p.generation, linksOf(p)]))));
}

// linksOf are a peer's links by the numbers of the keys at both ends.
function linksOf(p) {
  const links = (p.links ?? []).map((l) => `${l.ownGeneration} here to ${l.generation} there${l.carries ? "" : " (waits)"}`);
  return links.join(", ") || words.unknown;
}

// refused shows which records and packets were refused, and how many of them since the page was opened.
export function refused(status, before) {
  const now = Object.entries(status.counters?.refused ?? {}).filter(([, n]) => n > 0).sort(([a], [b]) => (a < b ? -1 : 1));
  const since = `the agent started (${clock(status.started)})`;
  if (now.length === 0) {
    fill(byId("refused-body"), h("p", {}, `Nothing was refused since ${since}.`));
    return;
  }
  const old = before.started === status.started ? before.counters?.refused ?? {} : {};
  fill(byId("refused-body"),
    h("p", {}, `Records and packets that this node refused since ${since}. What they say counts for nothing.`),
    table("Refused, by reason", ["reason", "in all", "since this page was opened"], now.map(([reason, n]) => [reason, n, n - (old[reason] ?? 0)])));
}
