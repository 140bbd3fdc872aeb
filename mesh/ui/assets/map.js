// The map: nodes with their pods, and the links between them. A state is told by colour, by dashes or shape, and in words.

import { fill, h } from "./dom.js";
import { count, milliseconds, short } from "./format.js";
import { labels, place } from "./layout.js";
import { matches, pair, stateWords, tally, words } from "./model.js";

const everyLink = 40; // nodes, up to which all links are drawn, and not only this node's and those that aren't well
const maxSegments = 3000; // of links between other nodes that aren't well
const maxDots = 16; // of pods around a node

// Mesh is the map in an element. Of the nodes one is in the tab order; the arrow keys go from it to others.
export class MeshMap {
  #element;
  #open;
  #current = ""; // the node in the tab order
  #hot = ""; // the one under the pointer or with the focus
  #drawn = null; // what was drawn last

  constructor(element, open) {
    this.#element = element;
    this.#open = open;
    element.addEventListener("click", (event) => this.#openOf(event));
    element.addEventListener("keydown", (event) => this.#key(event));
    for (const type of ["focusin", "focusout", "pointerover", "pointerout"]) {
      element.addEventListener(type, (event) => this.#touch(event));
    }
  }

  // draw shows a mesh. Nodes that don't match the filter are dimmed; the selected one is marked.
  draw(mesh, filter, selected) {
    this.#drawn = { mesh, filter, selected };
    const plan = place(mesh.names, mesh.self, Math.max(280, Math.floor(this.#element.clientWidth)));
    if (!mesh.at.has(this.#current)) this.#current = mesh.self;
    const lit = new Set([selected, this.#hot].filter((name) => mesh.at.has(name)));
    fill(this.#element, h("svg", {
      viewBox: `0 0 ${plan.width} ${plan.height}`, width: plan.width, height: plan.height, role: "group",
      "aria-label": `Map of the mesh: ${tally(mesh)}`, class: mesh.nodes.length > everyLink ? "crowd" : null,
    },
    h("g", { key: "links", class: "links", "aria-hidden": "true" }, this.#links(mesh, plan, lit)),
    h("g", { key: "nodes" }, plan.order.map((name) => this.#node(mesh.at.get(name), plan, filter, selected))),
    h("g", { key: "labels", class: "labels", "aria-hidden": "true" }, this.#labels(mesh, plan, lit))));
  }

  // focus gives a node the focus.
  focus(name) {
    if (!this.#drawn?.mesh.at.has(name)) return;
    this.#current = name;
    this.#again();
    this.#elementOf(name)?.focus();
  }

  #again() {
    if (this.#drawn) this.draw(this.#drawn.mesh, this.#drawn.filter, this.#drawn.selected);
  }

  #elementOf(name) {
    return [...this.#element.querySelectorAll("[data-node]")].find((e) => e.dataset.node === name);
  }

  // links are drawn one by one where there are few; of the others those of one state are one line.
  #links(mesh, plan, lit) {
    const alone = [];
    const together = { bad: [], lossy: [] };
    const all = mesh.nodes.length <= everyLink;
    for (const link of mesh.links) {
      const [from, to] = [plan.at.get(link.a), plan.at.get(link.b)];
      if (all || link.own || lit.has(link.a) || lit.has(link.b)) alone.push(linkLine(link, from, to));
      else if (together[link.state]?.length < maxSegments) together[link.state].push(`M${at(from)}L${at(to)}`);
    }
    // Those that aren't well are above the others.
    const rank = { good: 0, unknown: 1, lossy: 2, bad: 3 };
    alone.sort((a, b) => rank[a.state] - rank[b.state]);
    return [
      Object.entries(together).map(([state, lines]) => h("path", { key: `all ${state}`, class: `link ${state}`, d: lines.join("") || null })),
      alone.map((line) => line.drawn),
    ];
  }

  #node(n, plan, filter, selected) {
    const { x, y } = plan.at.get(n.name);
    const r = plan.radius;
    const classes = ["node", n.state, n.self && "self", !matches(n, filter) && "dim", n.name === selected && "selected"];
    return h("g", {
      key: n.name, class: classes.filter(Boolean).join(" "), transform: `translate(${x.toFixed(1)} ${y.toFixed(1)})`,
      role: "button", tabindex: n.name === this.#current ? 0 : -1, "data-node": n.name,
      "aria-label": `${n.name}${n.self ? ", this node" : ""}: ${stateWords(n)}, ${count(n.pods, "pod")}`,
      "aria-pressed": n.name === selected ? "true" : "false",
    },
    h("circle", { class: "ring", r: r + (r >= 10 ? 9 : 5) }),
    n.state === "bad"
      ? h("rect", { class: "body", x: -r, y: -r, width: 2 * r, height: 2 * r, rx: 2 })
      : h("circle", { class: "body", r }),
    n.state === "bad" && h("path", { class: "cross", d: cross(r * 0.55) }),
    n.self && n.state !== "bad" && h("circle", { class: "core", r: r * 0.45 }),
    r >= 10 && dots(n.pods, r));
  }

  // The names of all nodes are there in small meshes; in big ones those of this one and of those that are down. The one with
  // the focus or under the pointer has its name in any case.
  #labels(mesh, plan, lit) {
    const few = mesh.nodes.length <= everyLink;
    const size = mesh.nodes.length <= 12 ? 14 : 12;
    const names = short(mesh.names, Math.max(8, Math.floor((Math.min(170, plan.width * 0.2) - plan.radius) / (size * 0.62))));
    const weight = (n) => (n.self ? 0 : n.state === "bad" ? 1 : 2);
    const shown = mesh.nodes.filter((n) => !lit.has(n.name) && (few || n.self || n.state === "bad")).sort((a, b) => weight(a) - weight(b));
    const said = (n) => `${stateWords(n)}, ${count(n.pods, "pod")}`;
    const texts = [
      ...[...lit].map((name) => [name, [names.get(name), said(mesh.at.get(name))], true]),
      ...shown.map((n) => [n.name, mesh.nodes.length <= 12 ? [names.get(n.name), said(n)] : [names.get(n.name)], false]),
    ];
    return [...labels(plan, texts, size)].map(([name, label]) => labelText(name, label, mesh.at.get(name)));
  }

  #openOf(event) {
    const name = event.target.closest("[data-node]")?.dataset.node;
    if (name === undefined) return;
    this.#current = name;
    this.#open(name);
  }

  #key(event) {
    const name = event.target.closest("[data-node]")?.dataset.node;
    if (name === undefined || !this.#drawn) return;
    if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      this.#open(name);
      return;
    }
    const order = [this.#drawn.mesh.self, ...this.#drawn.mesh.names.filter((other) => other !== this.#drawn.mesh.self)];
    const steps = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };
    let to = order.indexOf(name);
    if (event.key in steps) to = (to + steps[event.key] + order.length) % order.length;
    else if (event.key === "Home") to = 0;
    else if (event.key === "End") to = order.length - 1;
    else return;
    event.preventDefault();
    this.focus(order[to]);
  }

  #touch(event) {
    const over = event.type === "focusin" || event.type === "pointerover";
    const name = over ? event.target.closest("[data-node]")?.dataset.node ?? "" : "";
    if (name === this.#hot) return;
    this.#hot = name;
    if (event.type === "focusin" && name !== "") this.#current = name;
    this.#again();
  }
}

// legend says what the marks mean.
export function legend() {
  const sample = (state) => h("li", {},
    h("svg", { width: 44, height: 16, "aria-hidden": "true" },
      h("g", { class: "links" }, h("line", { class: `link own ${state}`, x1: 2, y1: 8, x2: 42, y2: 8 }),
        state === "bad" && h("path", { class: "mark", d: cross(4), transform: "translate(22 8)" }))),
    ` link ${words[state]}`);
  return h("ul", { class: "legend", "aria-label": "Marks on the map" },
    ["good", "lossy", "bad", "unknown"].map(sample),
    h("li", {}, "thicker: this node's own links"),
    h("li", {}, "small dots: pods"));
}

function linkLine(link, from, to) {
  const title = `${link.a} – ${link.b}: ${words[link.state]}${link.rtt ? `, ${milliseconds(link.rtt)} ms` : ""}`;
  const drawn = h("g", { key: `link ${pair(link.a, link.b)}`, "data-link": pair(link.a, link.b), "data-state": link.state },
    h("title", {}, title),
    h("line", { class: `link ${link.own ? "own " : ""}${link.state}`, x1: from.x.toFixed(1), y1: from.y.toFixed(1), x2: to.x.toFixed(1), y2: to.y.toFixed(1) }),
    link.state === "bad" && h("path", { class: "mark", d: cross(5), transform: `translate(${((from.x + to.x) / 2).toFixed(1)} ${((from.y + to.y) / 2).toFixed(1)})` }));
  return { state: link.state, drawn };
}

function labelText(name, label, n) {
  return h("text", { key: name, class: `label ${n.state}`, "text-anchor": label.anchor, "font-size": label.size, "data-label": name },
    label.lines.map((line, i) => h("tspan", { x: label.x.toFixed(1), y: (label.y + i * label.size * 1.25).toFixed(1), class: i === 0 ? "name" : "more" }, line)));
}

// dots are a node's pods, around it; of more than there is room for, as many as there is.
function dots(pods, r) {
  const n = Math.min(pods, maxDots);
  return [...Array(n).keys()].map((i) => {
    const angle = (i / Math.max(n, 8)) * 2 * Math.PI - Math.PI / 2;
    return h("circle", { class: "pod", cx: (Math.cos(angle) * (r + 5)).toFixed(1), cy: (Math.sin(angle) * (r + 5)).toFixed(1), r: 2.4 });
  });
}

const at = (p) => `${p.x.toFixed(1)} ${p.y.toFixed(1)}`;
const cross = (r) => `M${-r} ${-r}L${r} ${r}M${-r} ${r}L${r} ${-r}`;
