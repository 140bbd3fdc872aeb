// The matrix of round trips and losses: a row for each node that measures, a column for each that is measured. Only the cells
// that are in sight are in the document, and some around them: in a mesh of 200 nodes there are 40,000.

import { byId, fill, h } from "./dom.js";
import { age, count, milliseconds, percent, short } from "./format.js";
import { matches } from "./model.js";

// Lengths in pixels, as in style.css.
const cellHeight = 28;
const cellWidth = 84;
const around = 4; // rows and columns beyond those in sight
const oldAfter = 30; // seconds after which what a node said is called old

// Matrix is the table in an element that scrolls.
export class Matrix {
  #element;
  #shown = null;
  #waits = false;

  constructor(element) {
    this.#element = element;
    element.addEventListener("scroll", () => {
      if (this.#waits) return;
      this.#waits = true;
      requestAnimationFrame(() => {
        this.#waits = false;
        this.#table();
      });
    });
  }

  // draw shows a mesh; of the rows those whose nodes match the filter. missing says why other nodes' rows aren't known.
  draw(mesh, matrix, filter, missing) {
    const rows = (matrix ? mesh.names : [mesh.self]).filter((name) => mesh.at.has(name) && matches(mesh.at.get(name), filter));
    this.#shown = { mesh, matrix, rows, titles: short(mesh.names, 9) };
    fill(byId("matrix-note"), "From the node of the row to that of the column: the round trip in milliseconds, and which part of the probes was lost. ",
      "✕ no session, ? not known yet. ", missing ?? "");
    this.#table();
  }

  #table() {
    if (!this.#shown) return;
    const { mesh, matrix, rows, titles } = this.#shown;
    const e = this.#element;
    const down = sight(rows.length, cellHeight, e.scrollTop, e.clientHeight);
    const across = sight(mesh.names.length, cellWidth, e.scrollLeft, e.clientWidth);
    const columns = mesh.names.slice(across.first, across.last);
    // What isn't in sight has its room, so that the scroll bars are those of the whole.
    const blank = (n) => n > 0 && h("td", { class: "blank", "aria-hidden": "true", "--width": `${n * cellWidth}px` });
    const line = (cells) => [blank(across.first), cells, blank(mesh.names.length - across.last)];
    const gap = (n) => n > 0 && h("tr", { class: "gap", "aria-hidden": "true", "--height": `${n * cellHeight}px` }, h("td", { class: "blank" }));
    fill(e, h("table", { class: "matrix", "--all": `${mesh.names.length * cellWidth}px`, "aria-rowcount": rows.length + 1, "aria-colcount": mesh.names.length + 1 },
      h("thead", {}, h("tr", { "aria-rowindex": 1 }, h("th", { scope: "col", class: "corner" }, "from"),
        line(columns.map((name, i) => h("th", { scope: "col", title: name, "aria-colindex": across.first + i + 2, "aria-label": name }, titles.get(name)))))),
      h("tbody", {}, gap(down.first),
        rows.slice(down.first, down.last).map((name, i) => row(name, down.first + i, columns, line, mesh, matrix)), gap(rows.length - down.last))));
  }
}

// sight is which of n things of a size are in sight, and around.
function sight(n, size, scrolled, visible) {
  const first = Math.min(Math.max(0, Math.floor(scrolled / size) - around), n);
  return { first, last: Math.min(n, first + Math.ceil(visible / size) + 2 * around) };
}

function row(name, index, columns, line, mesh, matrix) {
  const said = mesh.says.heard(name);
  const heard = heardOf(mesh.rows.get(name), matrix, name === mesh.self);
  return h("tr", { key: name, "aria-rowindex": index + 2 },
    h("th", { scope: "row", title: name }, heard && h("small", {}, `${heard}: `), name),
    said ? line(columns.map((to) => (to === name ? h("td", { class: "self" }, "–") : cell(mesh.says.of(name, to), name, to))))
      : h("td", { class: "unheard", colspan: columns.length + 2 }, "wasn't heard: what it measures isn't known"));
}

// heardOf is how old a row is, where that matters.
function heardOf(said, matrix, own) {
  if (own || !said?.heard) return "";
  const seconds = (new Date(matrix.time) - new Date(said.heard)) / 1000;
  return seconds > oldAfter ? `${age(seconds)} ago` : "";
}

function cell(said, from, to) {
  if (!said) return h("td", { class: "unknown", title: `${from} says nothing of ${to}` }, "?");
  const rtt = said.rttSeconds > 0 ? milliseconds(said.rttSeconds) : "";
  const loss = said.loss > 0 ? percent(said.loss) : "";
  const title = `${from} to ${to}: ${said.up ? "session" : "no session"}` +
    `${rtt ? `, ${rtt} ms` : ""}${said.probes > 0 ? `, ${percent(said.loss)} of ${count(said.probes, "probe")} lost` : ""}`;
  const state = !said.up ? "bad" : loss ? "lossy" : rtt ? "good" : "unknown";
  return h("td", { class: state, title }, !said.up && "✕ ", rtt, loss && h("small", {}, ` −${loss}`), said.up && !rtt && !loss && "?");
}
