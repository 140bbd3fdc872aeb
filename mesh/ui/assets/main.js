// The page: it asks the agent, and shows what that says.

import { detail } from "./detail.js";
import { byId, fill, h } from "./dom.js";
import { age, clock, count } from "./format.js";
import { legend, MeshMap } from "./map.js";
import { Matrix } from "./matrix.js";
import { build, headline, matches } from "./model.js";
import { health, refused, rotation } from "./sections.js";
import { oldAfter, Source } from "./source.js";

const source = new Source(draw);
const map = new MeshMap(byId("drawing"), open);
const matrix = new Matrix(byId("matrix-scroll"));
let mesh = null;

// selected is the node that is shown, by the address, so that the browser's Back works and it can be linked to.
function selected() {
  if (!location.hash.startsWith("#node=")) return "";
  try {
    return decodeURIComponent(location.hash.slice("#node=".length));
  } catch {
    return "";
  }
}

function filter() {
  return byId("filter").value.trim().toLowerCase();
}

function draw() {
  tick();
  if (!source.status) return;
  performance.clearMeasures("draw");
  const begin = performance.now();
  mesh = build(source.status, source.topology, source.matrix);
  const { status } = source;
  document.title = `${status.node}: ${headline(status).lead} – Weaveguard`;
  fill(byId("self"), `on ${status.node}`);
  fill(byId("version"), `weaveguard ${status.version}`);
  health(mesh, status);
  rotation(status);
  refused(status, source.first);
  drawFound();
  performance.measure("draw", { start: begin, end: performance.now() });
}

// drawFound shows what depends on what is looked for and selected, too.
function drawFound() {
  if (!mesh) return;
  const text = filter();
  const found = mesh.nodes.filter((n) => matches(n, text)).length;
  fill(byId("found"), text === "" ? "" : `${found} of ${count(mesh.nodes.length, "node")}`);
  const shown = mesh.at.get(selected());
  byId("detail").hidden = !shown;
  byId("mesh").classList.toggle("split", Boolean(shown));
  fill(byId("detail"), shown ? detail(shown, mesh, source.status) : []);
  map.draw(mesh, text, shown?.name ?? "");
  matrix.draw(mesh, source.matrix, text, source.missing);
}

// tick shows how old what is shown is, and says so aloud when it is old.
function tick() {
  const { status, error } = source;
  if (!status) {
    banner(error && `The agent doesn't answer: ${error}. ${again()}`);
    if (error) fill(byId("headline"), "Nothing is known yet");
    return;
  }
  const seconds = source.age();
  fill(byId("age"), `as of ${clock(status.time)}, ${age(seconds)} ago`);
  const old = error !== "" || seconds > oldAfter;
  document.body.classList.toggle("old", old);
  banner(old && `The agent ${error ? `doesn't answer: ${error}` : "hasn't been asked for a while"}. What is below is old: it is as of ${clock(status.time)}. ${again()}`);
}

function again() {
  return source.wait() > 0.5 ? "It is asked again soon." : "It is being asked again.";
}

function banner(text) {
  byId("banner").hidden = !text;
  fill(byId("banner"), text || "");
}

function open(name) {
  location.hash = `#node=${encodeURIComponent(name)}`;
  if (selected() === name) show();
}

// show draws the node that is selected, and gives its part the focus, for who goes by keyboard or hears the page.
function show() {
  drawFound();
  byId("detail-title")?.focus();
}

function close() {
  const name = selected();
  if (name === "") return;
  history.replaceState(null, "", location.pathname + location.search);
  drawFound();
  map.focus(name);
}

fill(byId("legend"), legend());
window.addEventListener("hashchange", () => (selected() === "" ? drawFound() : show()));
window.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !(event.target.id === "filter" && event.target.value !== "")) close();
});
byId("detail").addEventListener("click", (event) => {
  if (event.target.closest("#close")) close();
});
byId("filter").addEventListener("input", drawFound);
byId("find").addEventListener("submit", (event) => {
  event.preventDefault();
  const found = mesh?.nodes.find((n) => matches(n, filter()));
  if (found) open(found.name);
});
new ResizeObserver(() => drawFound()).observe(byId("drawing"));
setInterval(tick, 1000);
source.ask();
