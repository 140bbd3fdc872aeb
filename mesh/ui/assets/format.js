// Numbers and times in words, as `weaveguard` prints them.

// age is a time span in seconds, in at most two units.
export function age(seconds) {
  const s = Math.max(0, Math.round(seconds));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
}

// size is a number of bytes, in powers of 1000.
export function size(bytes) {
  const units = ["B", "kB", "MB", "GB", "TB", "PB"];
  let value = Math.max(0, bytes ?? 0);
  let unit = 0;
  for (; value >= 1000 && unit < units.length - 1; unit++) value /= 1000;
  return `${unit === 0 || value >= 100 ? Math.round(value) : value.toFixed(1)} ${units[unit]}`;
}

// milliseconds are seconds as such, without the unit.
export function milliseconds(seconds) {
  const ms = seconds * 1000;
  if (ms >= 100) return String(Math.round(ms));
  if (ms >= 10) return ms.toFixed(1);
  return ms.toFixed(2);
}

// percent is a part from 0 to 1; a small one isn't none.
export function percent(part) {
  const value = part * 100;
  if (value > 0 && value < 1) return "<1 %";
  return `${value > 99 && value < 100 ? 99 : Math.round(value)} %`;
}

// count is a number with its noun: 1 peer, 2 peers.
export function count(n, noun) {
  return `${n} ${noun}${n === 1 ? "" : "s"}`;
}

// clock is a moment as a time of the day, here, with the date (as in ISO 8601, which Swedes write) if it isn't today's.
export function clock(text) {
  const when = new Date(text);
  if (Number.isNaN(when.getTime())) return "";
  const time = when.toLocaleTimeString([], { hour12: false });
  return when.toDateString() === new Date().toDateString() ? time : `${when.toLocaleDateString("sv")} ${time}`;
}

// short are names for where there is little room: without the domain that all have, and long ones without their middle.
export function short(names, limit) {
  const domain = (name) => (name.includes(".") ? name.slice(name.indexOf(".")) : "");
  const common = names.length > 1 ? domain(names[0]) : "";
  const shared = common !== "" && names.every((name) => domain(name) === common);
  return new Map(names.map((name) => {
    const text = shared ? name.slice(0, -common.length) : name;
    if (text.length <= limit) return [name, text];
    const end = Math.floor((limit - 1) * 0.6);
    return [name, `${text.slice(0, limit - 1 - end)}…${text.slice(-end)}`];
  }));
}
