// Where things are on the map. The same mesh on the same screen always looks the same.

// place puts nodes on an oval, this one at the top and the others clockwise by name, evenly along the line, so that no link
// passes through a third node. In big meshes they stand in two or three rows. Lengths are in pixels.
export function place(names, self, width) {
  const n = names.length;
  const height = Math.round(Math.min(560, Math.max(320, width * 0.5)));
  const radius = n <= 12 ? 15 : n <= 40 ? 10 : n <= 100 ? 6 : 4.5;
  const margin = { x: Math.min(170, width * 0.2), y: 66 };
  const rings = n <= 60 ? 1 : n <= 140 ? 2 : 3;
  const middle = { x: width / 2, y: height / 2 };
  const at = new Map();
  const order = [self, ...names.filter((name) => name !== self)].filter((name) => names.includes(name));
  const angles = evenly(n, middle.x - margin.x, middle.y - margin.y);
  order.forEach((name, i) => {
    const inward = (i % rings) * radius * 3.5;
    const rx = n === 1 ? 0 : middle.x - margin.x - inward;
    const ry = n === 1 ? 0 : middle.y - margin.y - inward;
    const [cos, sin] = [Math.cos(angles[i]), Math.sin(angles[i])];
    at.set(name, { x: middle.x + rx * cos, y: middle.y + ry * sin, cos, sin });
  });
  return { at, order, width, height, radius };
}

// evenly are n angles, from the top clockwise, that are equally far from each other along an oval.
function evenly(n, rx, ry) {
  const steps = 1440;
  const lengths = [0];
  const point = (step) => {
    const angle = (step / steps) * 2 * Math.PI - Math.PI / 2;
    return [angle, rx * Math.cos(angle), ry * Math.sin(angle)];
  };
  for (let step = 1; step <= steps; step++) {
    const [, x0, y0] = point(step - 1);
    const [, x1, y1] = point(step);
    lengths.push(lengths[step - 1] + Math.hypot(x1 - x0, y1 - y0));
  }
  const angles = [];
  for (let i = 0, step = 0; i < n; i++) {
    while (lengths[step] < (lengths[steps] * i) / n) step++;
    angles.push(point(step)[0]);
  }
  return angles;
}

const character = 0.62; // width of one, of the font's size: the map's font has the same for all

// labels are where nodes' names stand, each [node, its lines, must]: outwards of the node, or where there is room beside it. Where
// there is none, there is no label, unless it must be: those come first. None overlaps one before it.
export function labels(plan, texts, size) {
  const taken = [...plan.at.values()].map((p) => box(p.x - plan.radius, p.y - plan.radius, 2 * plan.radius, 2 * plan.radius));
  const placed = new Map();
  for (const [name, lines, must] of texts) {
    const spots = beside(plan.at.get(name), plan, lines, size);
    const free = (spot) => inside(spot.box, plan) && taken.every((other) => !overlap(spot.box, other));
    const spot = spots.find(free) ?? (must ? spots.find((s) => inside(s.box, plan)) ?? spots[0] : null);
    if (!spot) continue;
    taken.push(spot.box);
    placed.set(name, spot);
  }
  return placed;
}

// beside are the places for a label: outwards, then above, below, and to both sides.
function beside(p, plan, lines, size) {
  const wide = Math.max(...lines.map((line) => line.length)) * size * character;
  const high = lines.length * size * 1.25;
  const gap = plan.radius + 14;
  const spot = (anchor, x, top) => {
    const left = { start: x, end: x - wide, middle: x - wide / 2 }[anchor];
    return { x, y: top + size, anchor, lines, size, box: box(left, top, wide, high) };
  };
  const right = spot("start", p.x + gap, p.y - high / 2);
  const left = spot("end", p.x - gap, p.y - high / 2);
  const above = spot("middle", p.x, p.y - gap - high);
  const below = spot("middle", p.x, p.y + gap);
  const outward = p.cos > 0.35 ? right : p.cos < -0.35 ? left : p.sin < 0 ? above : below;
  return [outward, above, below, right, left];
}

function inside(b, plan) {
  return b.left >= 0 && b.right <= plan.width && b.top >= 0 && b.bottom <= plan.height;
}

function box(left, top, width, height) {
  return { left, top, right: left + width, bottom: top + height };
}

function overlap(a, b) {
  return a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom;
}
