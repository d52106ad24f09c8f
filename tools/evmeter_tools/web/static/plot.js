// A line over time as SVG: no library, scales by itself.

const NS = "http://www.w3.org/2000/svg";
const HEIGHT = 220;
const LEFT = 58;
const BOTTOM = 24;
const TOP = 10;

function node(name, attributes, text) {
  const element = document.createElementNS(NS, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

/** A round step that divides `most` into about four. */
function step(most) {
  const raw = most / 4;
  const power = 10 ** Math.floor(Math.log10(raw));
  return [1, 2, 5, 10].map((each) => each * power).find((each) => each >= raw);
}

/** `points` are [Unix ms, value], oldest first; `width` is that of its place, in pixels. */
export function plot(points, unit, width) {
  const svg = node("svg", { class: "plot", viewBox: `0 0 ${width} ${HEIGHT}`, role: "img",
    "aria-label": `Power over time, newest ${points.at(-1)[1].toFixed(2)} ${unit}` });
  const from = points[0][0];
  const length = Math.max(points.at(-1)[0] - from, 1000);
  const every = step(Math.max(...points.map((each) => each[1]), 0.1) * 1.05);
  const most = every * Math.ceil(Math.max(...points.map((each) => each[1]), 0.1) * 1.05 / every);
  const x = (at) => LEFT + (at - from) / length * (width - LEFT - 8);
  const y = (value) => TOP + (1 - Math.max(value, 0) / most) * (HEIGHT - TOP - BOTTOM);
  for (let value = 0; value <= most + every / 2; value += every) {
    svg.append(node("line", { class: "axis", x1: LEFT, x2: width, y1: y(value), y2: y(value) }),
      node("text", { x: LEFT - 8, y: y(value) + 4, "text-anchor": "end" },
        `${Number(value.toFixed(2))}${value + every / 2 > most ? ` ${unit}` : ""}`));
  }
  const short = length < 600_000;
  const form = { hour: "2-digit", minute: "2-digit", ...(short && { second: "2-digit" }) };
  for (const share of [0, 0.5, 1]) {
    const at = from + share * length;
    svg.append(node("text", { x: x(at), y: HEIGHT - 6, "text-anchor": ["start", "middle", "end"][share * 2] },
      new Date(at).toLocaleTimeString(undefined, form)));
  }
  const line = points.map(([at, value]) => `${x(at).toFixed(1)},${y(value).toFixed(1)}`).join(" ");
  svg.append(node("polygon", { class: "area", points: `${x(from)},${y(0)} ${line} ${x(points.at(-1)[0])},${y(0)}` }),
    node("polyline", { class: "line", points: line }));
  return svg;
}
