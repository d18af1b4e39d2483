"use strict";
// Draws the charts of `charts.py`: each is JSON beside an empty element of class `chart`.

const NARROW = 560; // pixels of a chart below which the names of rows stand above them
const NEAR = 40; // pixels from a point within which the pointer means it
const MARKS = {
  o: "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0z", s: "M-3.6-3.6h7.2v7.2h-7.2z", "^": "M0-4.4L4.2 3.6H-4.2z",
  v: "M0 4.4L4.2-3.6H-4.2z", D: "M0-4.8L4.8 0L0 4.8L-4.8 0z",
  P: "M-1.5-4.5h3v3h3v3h-3v3h-3v-3h-3v-3h3z",
  X: "M-4-2.2L-2.2-4L0-1.8L2.2-4L4-2.2L1.8 0L4 2.2L2.2 4L0 1.8L-2.2 4L-4 2.2L-1.8 0z",
};

// Elements and numbers ---------------------------------------------------------------------------

function put(parent, name, attributes = {}, text = "") {
  const drawing = parent.namespaceURI.endsWith("svg") || name === "svg";
  const made = drawing
    ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text) made.textContent = text;
  parent.append(made);
  return made;
}

const pen = document.createElement("canvas").getContext("2d");
function lengthOf(text) {
  pen.font = `12px ${getComputedStyle(document.body).fontFamily}`;
  return pen.measureText(text).width;
}

function short(value, digits = 3) {
  if (value === null) return "∞";
  const size = Math.abs(value);
  if (value === 0) return "0";
  if (size < 1e-3 || size >= 1e15) {
    return value.toExponential(digits - 1).replace(/\.?0+e/, "e").replace("e+", "e");
  }
  const power = size < 1e4 ? 0 : Math.floor(Math.log10(size) / 3);
  return `${Number((value / 1000 ** power).toPrecision(Math.max(digits, 3)))}${["", "k", "M", "G", "T"][power]}`;
}

function worded(axis, value, digits) {
  return axis.percent ? `${Math.round(100 * value)} %` : short(value, digits);
}

function scale(axis, [low, high], [start, end]) {
  const by = axis.log ? Math.log10 : Number;
  const unit = (end - start) / (by(high) - by(low));
  const place = (value) => {
    const at = value === null ? NaN : start + (by(value) - by(low)) * unit;
    return Number.isFinite(at) ? Math.round(10 * Math.min(Math.max(at, -5000), 5000)) / 10 : NaN;
  };
  place.back = (at) => {
    const value = by(low) + (at - start) / unit;
    return axis.log ? 10 ** value : value;
  };
  return place;
}

function ticks(axis, [low, high], most) {
  if (axis.ticks) return axis.ticks;
  const steps = (first, last, step) => {
    const count = Math.floor(last / step + 1e-9) - Math.ceil(first / step - 1e-9) + 1;
    const start = Math.ceil(first / step - 1e-9);
    return [...Array(Math.max(count, 0)).keys()].map((k) => Number(((start + k) * step).toPrecision(12)));
  };
  if (axis.log) {
    const [a, b] = [Math.log10(low), Math.log10(high)];
    if (b - a >= 2) return steps(a, b, Math.max(1, Math.ceil((b - a) / most))).map((k) => 10 ** k);
    const within = steps(Math.floor(a), b, 1)
      .flatMap((k) => [1, 2, 3, 5].map((digit) => Number((digit * 10 ** k).toPrecision(12))))
      .filter((value) => value >= low && value <= high);
    if (within.length > 1 && within.length <= most + 1) return within;
    const fewer = within.filter((value) => /[15]/.test(value.toExponential()[0]));
    if (fewer.length > 1) return fewer;
  }
  const rough = (high - low) / most;
  const size = 10 ** Math.floor(Math.log10(rough));
  return steps(low, high, size * [1, 2, 5, 10].find((digit) => digit * size >= rough));
}

// One chart ----------------------------------------------------------------------------------------

class Chart {
  constructor(place, spec) {
    Object.assign(this, { spec, view: spec.first, hidden: new Set(), zoom: null, width: null });
    const switches = put(place, "div", { class: "views" });
    this.buttons = spec.views.length < 2 ? [] : spec.views.map(({ name }, i) => {
      const button = put(switches, "button", { type: "button" }, name);
      button.addEventListener("click", () => this.show(i));
      return button;
    });
    const body = put(place, "div", { class: "body" });
    this.plot = put(body, "div", { class: "plot" });
    this.svg = put(this.plot, "svg");
    this.tip = put(this.plot, "div", { class: "tip", role: "status" });
    if (!spec.y.rows) this.keys = this.legend(this.beside = put(body, "div", { class: "legend" }));
    this.listen();
    this.draw();
    new ResizeObserver(() => this.plot.clientWidth !== this.drawn && this.draw()).observe(this.plot);
  }

  show(view) {
    Object.assign(this, { view, zoom: null });
    this.draw();
  }

  series() {
    return this.spec.series.map((one) => ({ ...one, ...(one.views || [])[this.view] }));
  }

  legend(place) {
    if (this.spec.heading) put(place, "p", {}, this.spec.heading);
    return this.spec.series.map(({ name, color, dash }) => {
      const key = put(place, "button", { type: "button", "aria-pressed": "true" });
      const line = put(key, "svg", { width: 30, height: 8, "aria-hidden": "true" });
      put(line, "line", { x1: 0, x2: 30, y1: 4, y2: 4, stroke: color, "stroke-width": 2.5, "stroke-dasharray": dash });
      const words = put(key, "span");
      for (const part of name.split(/(?<=[_.])/)) words.append(part, document.createElement("wbr"));
      put(key, "b");
      key.addEventListener("click", () => {
        if (!this.hidden.delete(name)) this.hidden.add(name);
        this.draw();
      });
      key.addEventListener("dblclick", () => {
        const others = this.spec.series.map((one) => one.name).filter((other) => other !== name);
        const alone = others.every((other) => this.hidden.has(other)) && !this.hidden.has(name);
        this.hidden = new Set(alone ? [] : others);
        this.draw();
      });
      key.addEventListener("pointerenter", () => this.light(name));
      key.addEventListener("pointerleave", () => this.light(null));
      return key;
    });
  }

  light(name) {
    for (const group of this.svg.querySelectorAll("[data-name]")) {
      group.classList.toggle("faint", name !== null && !this.hidden.has(name) && group.dataset.name !== name);
    }
  }

  // The ends of both axes: those of a zoom, those that are given, or those of what is visible.
  ranges(series, narrow) {
    const { x, y } = this.spec;
    const top = y.rows && narrow ? [y.range[0], y.range[1] - 0.3] : y.range;
    if (this.zoom) return [this.zoom.x, this.zoom.y || top];
    if (x.range) return [x.range, top];
    const seen = series.flatMap((one) => [...one.x, ...(one.bar ? [one.bar.x] : [])])
      .filter((value) => value !== null && (!x.log || value > 0));
    if (!seen.length) return [[0.1, 1], top];
    const [low, high] = [seen.reduce((a, b) => Math.min(a, b)), seen.reduce((a, b) => Math.max(a, b))];
    if (!x.log) return [[low - 0.02 * (high - low), high + 0.02 * (high - low) || 1], top];
    const factor = high > low ? (high / low) ** 0.02 : 1.5;
    return [[low / factor, high * factor], top];
  }

  draw() {
    const { spec, svg } = this;
    this.drawn = this.plot.clientWidth;
    const width = this.width || this.drawn;
    if (!width) return;
    const narrow = width < NARROW;
    const visible = this.series().filter((one) => !this.hidden.has(one.name));
    const [across, up] = this.ranges(visible, narrow);
    const { rows } = spec.y;
    const legend = this.keys && this.beside.offsetLeft > this.plot.offsetLeft ? this.beside.offsetHeight - 54 : 0;
    const height = Math.round(Math.max(legend, spec.height * (rows ? (narrow ? 1.4 : 1) : narrow ? 0.8 : 1)));
    const levels = rows ? rows.map((_, i) => i) : ticks(spec.y, up, height / 55);
    const names = rows || levels.map((value) => worded(spec.y, value));
    const named = Math.max(0, ...names.map(lengthOf));
    const { beside } = spec;
    const box = {
      left: rows && narrow ? 6 : Math.ceil(named) + (rows ? 12 : 34), top: beside ? 22 : 10,
      right: width - (beside ? 14 + Math.ceil(Math.max(...[beside.heading, ...beside.texts].map(lengthOf))) : 16),
    };
    box.bottom = box.top + height;
    svg.replaceChildren();
    svg.setAttribute("viewBox", `0 0 ${width} ${box.bottom + 44}`);
    svg.setAttribute("width", width);
    svg.setAttribute("height", box.bottom + 44);
    svg.setAttribute("role", "img");
    svg.setAttribute("aria-label", `${spec.y.title ? `${spec.y.title}, ` : ""}${spec.views[this.view].title}`);
    Object.assign(this, {
      box, x: scale(spec.x, across, [box.left, box.right]), y: scale(spec.y, up, [box.bottom, box.top]),
    });
    this.axes(levels, names, ticks(spec.x, across, (box.right - box.left) / 85), narrow);
    this.lines(visible);
    this.buttons.forEach((button, i) => button.setAttribute("aria-pressed", i === this.view));
    this.series().forEach((one, i) => {
      if (!this.keys) return;
      this.keys[i].setAttribute("aria-pressed", !this.hidden.has(one.name));
      this.keys[i].querySelector("b").textContent = one.score || "";
    });
    this.tip.hidden = true;
  }

  axes(levels, names, places, narrow) {
    const { spec, svg, box, x, y } = this;
    const { rows } = spec.y;
    levels.forEach((value, i) => {
      const at = y(value);
      if (!(at >= box.top - 1 && at <= box.bottom + 1)) return;
      const above = rows && narrow;
      if (!above) put(svg, "path", { class: "grid", d: `M${box.left} ${at}H${box.right}` });
      put(svg, "text", above
        ? { class: "tick", x: box.left, y: at - 17 }
        : { class: "tick", x: box.left - 8, y: at + 4, "text-anchor": "end" }, names[i]);
      if (!spec.beside) return;
      put(svg, "text", { class: "tick", x: box.right + 8, y: at + 4 }, spec.beside.texts[i]);
    });
    if (spec.beside) put(svg, "text", { class: "tick", x: box.right + 8, y: 14 }, spec.beside.heading);
    for (const value of places) {
      const at = x(value);
      if (!(at >= box.left - 1 && at <= box.right + 1)) continue;
      put(svg, "path", { class: "grid", d: `M${at} ${box.top}V${box.bottom}` });
      const label = worded({}, value);
      const half = lengthOf(label) / 2; // the outermost numbers stay within the figure
      const middle = Math.min(Math.max(at, half + 1), (this.width || this.drawn) - half - 1);
      put(svg, "text", { class: "tick", x: middle, y: box.bottom + 18, "text-anchor": "middle" }, label);
    }
    put(svg, "path", { class: "axis", d: `M${box.left} ${box.bottom}H${box.right}` });
    const title = spec.views[this.view].title;
    const middle = { class: "title", "text-anchor": "middle" };
    put(svg, "text", { ...middle, x: (box.left + box.right) / 2, y: box.bottom + 38 }, title);
    const turned = `translate(13 ${(box.top + box.bottom) / 2}) rotate(-90)`;
    if (spec.y.title) put(svg, "text", { ...middle, transform: turned }, spec.y.title);
  }

  lines(visible) {
    const { spec, svg, box, x, y } = this;
    const id = `clip-${Chart.count = (Chart.count || 0) + 1}`;
    const clip = put(put(svg, "defs"), "clipPath", { id });
    const [width, height] = [box.right - box.left + 12, box.bottom - box.top + 12];
    put(clip, "rect", { x: box.left - 6, y: box.top - 6, width, height });
    const at = spec.level ? y(spec.level.y) : NaN;
    if (!Number.isNaN(at)) {
      put(svg, "path", { class: "level", d: `M${box.left} ${at}H${box.right}`, "clip-path": `url(#${id})` });
      put(svg, "text", { class: "tick", x: box.left + 4, y: at - 5, "clip-path": `url(#${id})` }, spec.level.text);
    }
    this.points = [];
    const inside = put(svg, "g", { "clip-path": `url(#${id})` });
    for (const one of visible.filter(({ draw }) => draw.includes("band"))) this.band(inside, one);
    for (const one of visible) {
      const color = one.color;
      const look = { stroke: color, fill: "none", "stroke-width": 2 };
      const group = put(inside, "g", { class: "series", "data-name": one.name, ...look });
      const at = one.x.map((value, i) => [x(value), y(one.y[i])]);
      for (const kind of one.draw) if (kind !== "band") this[kind](group, one, at, color);
      at.forEach(([left, top], i) => this.points.push({
        left, top, one, color,
        say: () => one.say.replace(
          /{(\w+)}/g, (_, key) => worded(key === "x" ? {} : spec.y, one[key][i], 4),
        ),
      }));
    }
    this.pointed = put(svg, "circle", { r: 5, class: "pointed", visibility: "hidden" });
    this.frame = put(svg, "rect", { class: "frame", visibility: "hidden" });
  }

  band(parent, { name, color, x, low, high }) {
    const corners = [...x.map((value, i) => [value, low[i]]), ...x.map((value, i) => [value, high[i]]).reverse()];
    const path = corners.map(([value, edge]) => [this.x(value), this.y(edge)]).filter((at) => !at.some(Number.isNaN));
    if (path.length) put(parent, "path", { class: "band", "data-name": name, fill: color, d: `M${path.join("L")}z` });
  }

  line(group, one, at) {
    let path = "", broken = true;
    for (const [left, top] of at) {
      const lost = Number.isNaN(left) || Number.isNaN(top);
      if (!lost) path += `${broken ? "M" : "L"}${left} ${top}`;
      broken = lost;
    }
    put(group, "path", { "stroke-dasharray": one.dash, d: path, "stroke-linejoin": "round" });
  }

  stairs(group, one, at) {
    const path = at.map(([left, top], i) => (i ? `H${left}V${top}` : `M${left} ${top}`)).join("");
    put(group, "path", { "stroke-dasharray": one.dash, d: path });
  }

  shapes(group, at, shape, look) {
    for (const [left, top] of at) {
      if (Number.isNaN(left) || Number.isNaN(top)) continue;
      put(group, "path", { class: "mark", transform: `translate(${left} ${top})`, d: shape, ...look });
    }
  }

  marks(group, one, at, color) {
    this.shapes(group, at, MARKS[one.marker], { fill: color, stroke: "none" });
  }

  whiskers(group, one) {
    const path = one.x.map((value, i) => [this.x(value), this.y(one.low[i]), this.y(one.high[i])])
      .filter((ends) => !ends.some(Number.isNaN)).map(([left, low, high]) => `M${left} ${low}V${high}`).join("");
    put(group, "path", { d: path, "stroke-width": 1, opacity: 0.6 });
  }

  crosses(group, one, _, color) {
    const at = one.above.map((value) => [this.x(value), this.box.top]);
    this.shapes(group, at, "M-4-4L4 4M-4 4L4-4", {});
    at.forEach(([left, top]) => this.points.push({ left, top, one, color, say: () => "off the scale" }));
  }

  bar(group, one) {
    const { x, y } = one.bar;
    if (x === null) return;
    const left = this.x(x);
    put(group, "path", { class: "median", d: `M${left} ${this.y(y[0])}V${this.y(y[1])}` });
    const say = () => `median ${short(x, 4)}`;
    this.points.push({ left, top: this.y((y[0] + y[1]) / 2), one, color: "var(--ink)", say });
  }

  // The pointer ----------------------------------------------------------------------------------

  listen() {
    const at = (event) => {
      const frame = this.svg.getBoundingClientRect();
      return [event.clientX - frame.left, event.clientY - frame.top];
    };
    this.svg.addEventListener("pointermove", (event) => (this.from ? this.drag(at(event)) : this.tell(at(event))));
    this.svg.addEventListener("pointerleave", () => this.tell(null));
    this.svg.addEventListener("pointerdown", (event) => {
      if (event.pointerType !== "mouse" || event.button) return this.tell(at(event));
      event.preventDefault();
      this.from = at(event);
      this.svg.setPointerCapture(event.pointerId);
    });
    this.svg.addEventListener("pointerup", (event) => this.from && this.enlarge(at(event)));
    this.svg.addEventListener("pointercancel", () => { this.from = null; });
    this.svg.addEventListener("dblclick", () => this.show(this.view));
  }

  tell(at) {
    let nearest = null, least = NEAR;
    for (const point of at ? this.points : []) {
      const distance = Math.hypot(point.left - at[0], point.top - at[1]);
      if (distance < least) [nearest, least] = [point, distance];
    }
    this.tip.hidden = nearest === null;
    this.pointed.setAttribute("visibility", nearest ? "visible" : "hidden");
    if (!nearest) return;
    const { left, top, one, color, say } = nearest;
    Object.entries({ cx: left, cy: top, fill: color }).forEach(([key, value]) => this.pointed.setAttribute(key, value));
    this.tip.replaceChildren();
    put(this.tip, "b", {}, one.name);
    put(this.tip, "span", {}, say());
    const room = this.plot.clientWidth - this.tip.offsetWidth - 4;
    this.tip.style.left = `${Math.max(0, Math.min(left + 12, room))}px`;
    this.tip.style.top = `${top > this.tip.offsetHeight + 16 ? top - this.tip.offsetHeight - 10 : top + 14}px`;
  }

  corners([left, top]) {
    const { box } = this;
    const inside = (value, low, high) => Math.min(Math.max(value, low), high);
    const [a, b] = [this.from[0], left].map((value) => inside(value, box.left, box.right)).sort((p, q) => p - q);
    const [c, d] = [this.from[1], top].map((value) => inside(value, box.top, box.bottom)).sort((p, q) => p - q);
    return this.spec.y.rows ? [a, b, box.top, box.bottom] : [a, b, c, d];
  }

  drag(at) {
    const [a, b, c, d] = this.corners(at);
    const shape = { x: a, y: c, width: b - a, height: d - c, visibility: "visible" };
    Object.entries(shape).forEach(([key, value]) => this.frame.setAttribute(key, value));
    this.tip.hidden = true;
  }

  enlarge(at) {
    const [a, b, c, d] = this.corners(at);
    this.from = null;
    this.frame.setAttribute("visibility", "hidden");
    if (b - a < 8 || d - c < 8) return;
    this.zoom = { x: [this.x.back(a), this.x.back(b)] };
    if (!this.spec.y.rows) this.zoom.y = [this.y.back(d), this.y.back(c)];
    this.draw();
  }
}

// The page -----------------------------------------------------------------------------------------

const charts = [...document.querySelectorAll(".chart")].map(
  (place) => new Chart(place, JSON.parse(place.nextElementSibling.textContent)),
);
document.documentElement.setAttribute("data-drawn", charts.length);

for (const input of document.querySelectorAll(".filter")) {
  const rows = [...input.nextElementSibling.querySelectorAll("tbody tr")];
  input.addEventListener("input", () => {
    const words = input.value.toLowerCase().split(/\s+/);
    for (const row of rows) row.hidden = !words.every((word) => row.textContent.toLowerCase().includes(word));
  });
}

const details = [...document.querySelectorAll("details")];
if (window.matchMedia("(max-width: 700px)").matches) details.forEach((one) => one.removeAttribute("open"));

// Paper is 680 pixels wide.
window.addEventListener("beforeprint", () => {
  details.forEach((one) => one.setAttribute("open", ""));
  charts.forEach((chart) => { chart.width = 680; chart.draw(); });
});
window.addEventListener("afterprint", () => charts.forEach((chart) => { chart.width = null; chart.draw(); }));
