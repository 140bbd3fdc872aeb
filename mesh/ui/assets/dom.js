// What is on the page, as values, and the document made to match them. Names come from the network and may be hostile, so
// they get into the document as text and as values of attributes alone, never as markup.

const svgSpace = "http://www.w3.org/2000/svg";
const keys = new WeakMap(); // element: its key

// h is an element: its tag, its attributes, and its children, of which null and false aren't there. The attribute "key" tells
// it from its siblings when they come and go; those that begin with "--" are properties of its style.
export function h(tag, attributes, ...children) {
  const { key = null, ...rest } = attributes ?? {};
  return { tag, key, attributes: rest, children: children.flat(Infinity).filter((c) => c !== null && c !== undefined && c !== false) };
}

// fill makes the children of an element those that are wanted. What stays the same isn't touched, so focus, scroll position
// and selection stay.
export function fill(parent, ...wanted) {
  sync(parent, wanted.flat(Infinity).filter((c) => c !== null && c !== undefined && c !== false));
}

function sync(parent, wanted) {
  const stay = new Set();
  for (const w of wanted) {
    if (w.key !== null && w.key !== undefined) stay.add(w.key);
  }
  const had = new Map();
  for (const child of [...parent.childNodes]) {
    const key = keys.get(child);
    if (key === undefined) continue;
    // One that goes makes way first: moving one that stays would take the focus from it.
    if (stay.has(key)) had.set(key, child);
    else child.remove();
  }
  wanted.forEach((w, i) => place(parent, i, w, had));
  while (parent.childNodes.length > wanted.length) parent.lastChild.remove();
}

function place(parent, i, wanted, had) {
  const at = parent.childNodes[i] ?? null;
  if (typeof wanted !== "object") {
    const text = String(wanted);
    if (at?.nodeType !== Node.TEXT_NODE) parent.insertBefore(document.createTextNode(text), at);
    else if (at.data !== text) at.data = text;
    return;
  }
  let element = wanted.key !== null ? had.get(wanted.key) : at;
  if (!fits(element, wanted)) element = make(parent, wanted);
  if (element !== at) parent.insertBefore(element, at);
  dress(element, wanted.attributes);
  sync(element, wanted.children);
}

function fits(element, wanted) {
  return element?.nodeType === Node.ELEMENT_NODE && element.localName === wanted.tag && (keys.get(element) ?? null) === wanted.key;
}

function make(parent, wanted) {
  const drawn = wanted.tag === "svg" || parent.namespaceURI === svgSpace;
  const element = drawn ? document.createElementNS(svgSpace, wanted.tag) : document.createElement(wanted.tag);
  if (wanted.key !== null) keys.set(element, wanted.key);
  return element;
}

function dress(element, wanted) {
  for (const { name } of [...element.attributes]) {
    if (name !== "style" && (wanted[name] ?? false) === false) element.removeAttribute(name);
  }
  for (const [name, value] of Object.entries(wanted)) {
    if (value === null || value === undefined || value === false) continue;
    const text = value === true ? "" : String(value);
    if (name.startsWith("--")) {
      if (element.style.getPropertyValue(name) !== text) element.style.setProperty(name, text);
    } else if (element.getAttribute(name) !== text) element.setAttribute(name, text);
  }
}

// byId is an element that the page has.
export function byId(id) {
  return document.getElementById(id);
}

// table is a table with a header, whose rows are lists of cells; the first cell of each is its header. One that is too wide is
// scrolled by itself.
export function table(caption, header, rows) {
  return h("div", { class: "wide" }, h("table", {}, h("caption", {}, caption),
    h("thead", {}, h("tr", {}, header.map((title) => h("th", { scope: "col" }, title)))),
    h("tbody", {}, rows.map((row) => h("tr", {}, row.map((cell, i) => (i === 0 ? h("th", { scope: "row" }, cell) : h("td", {}, cell))))))));
}

// facts are names with what there is to say of each. What is null is left out.
export function facts(pairs) {
  return h("dl", {}, pairs.filter(([, value]) => value !== null && value !== undefined && value !== "")
    .map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));
}
