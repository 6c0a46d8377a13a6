"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const state = { scene: data.scenes[0], quality: data.qualities[0]?.name, clock: "seconds", hidden: new Set() };
const svgNames = "http://www.w3.org/2000/svg";
const dashes = ["", "7 4", "2 3", "9 3 2 3"];

const colour = (method) => `var(--m${data.methods.indexOf(method) % 8})`;
const dash = (method) => dashes[Math.floor(data.methods.indexOf(method) / 8) % dashes.length];

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key in made && typeof value !== "string") made[key] = value; else made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

function shape(name, attributes, text) {
  const made = document.createElementNS(svgNames, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

/* ---------- choices ---------- */

function fillChoices() {
  const scenes = document.getElementById("scene-choice");
  scenes.append(...data.scenes.map((scene) => new Option(scene, scene)));
  scenes.addEventListener("change", () => { state.scene = scenes.value; update(); });
  const qualities = document.getElementById("quality-choice");
  qualities.append(...data.qualities.map((quality) => new Option(quality.title, quality.name)));
  qualities.addEventListener("change", () => { state.quality = qualities.value; update(); });
  const clocks = document.getElementById("clock-choice");
  clocks.append(...Object.entries(data.clocks).map(([axis, clock]) => new Option(`${clock} seconds`, axis)));
  clocks.addEventListener("change", () => { state.clock = clocks.value; drawCharts(); });
  for (const method of data.methods) {
    const line = shape("svg", { viewBox: "0 0 22 8", "aria-hidden": "true" });
    line.append(shape("line", { x1: 0, x2: 22, y1: 4, y2: 4, stroke: colour(method), "stroke-width": 3, "stroke-dasharray": dash(method) }));
    const chip = element("button", { type: "button", "aria-pressed": "true" }, line, method);
    chip.addEventListener("click", () => {
      state.hidden.has(method) ? state.hidden.delete(method) : state.hidden.add(method);
      chip.setAttribute("aria-pressed", String(!state.hidden.has(method)));
      drawCharts();
    });
    document.getElementById("method-chips").append(chip);
  }
  document.getElementById("copy-command").addEventListener("click", async (event) => {
    const button = event.currentTarget;
    try {
      await navigator.clipboard.writeText(document.getElementById("command").textContent);
      button.textContent = "Copied";
    } catch { // Browsers refuse the clipboard to some local files; then the text is selected instead.
      getSelection().selectAllChildren(document.getElementById("command"));
    }
  });
}

function update() {
  for (const row of document.querySelectorAll("tr[data-scene]")) {
    row.hidden = data.scenes.length > 1 && state.scene !== data.scenes[0] && row.dataset.scene !== state.scene;
  }
  for (const table of document.querySelectorAll("section[data-quality]")) table.hidden = table.dataset.quality !== state.quality;
  drawCharts();
  drawPictures();
}

/* ---------- charts ---------- */

const overTime = {
  place: (x) => Math.log10(Math.max(x, 0.01)),
  ticks: [0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 60, 120, 300, 600, 1800, 3600, 10800],
};
const scales = {
  steps: { place: (x) => Math.log10(1 + x), ticks: [0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 30000] },
  seconds: overTime,
  other_seconds: overTime,
};

function niceTicks(low, high, count) {
  const raw = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((candidate) => candidate >= raw);
  const ticks = [];
  for (let tick = Math.ceil(low / step) * step; tick <= high + 1e-9; tick += step) ticks.push(tick);
  return { ticks, digits: Math.max(0, -Math.floor(Math.log10(step) + 1e-9) + (step / power === 2.5 ? 1 : 0)) };
}

function drawCharts() {
  document.getElementById("clock-name").textContent = data.clocks[state.clock];
  for (const svg of document.querySelectorAll("svg.chart")) drawChart(svg, svg.dataset.axis === "steps" ? "steps" : state.clock);
}

function drawChart(svg, axis) {
  const width = svg.clientWidth || 560, height = svg.clientHeight || 330;
  const frame = { left: 46, right: width - 14, top: 12, bottom: height - 40 };
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.replaceChildren();
  svg.onpointermove = svg.onpointerleave = null;
  const curves = data.methods
    .filter((method) => !state.hidden.has(method))
    .map((method) => ({ method, points: data.curves[state.scene]?.[method]?.[state.quality]?.[axis] ?? [] }))
    .filter((curve) => curve.points.length);
  if (!curves.length) {
    svg.append(shape("text", { x: width / 2, y: height / 2, "text-anchor": "middle" }, "no value that every run has reached"));
    return;
  }
  const { place, ticks } = scales[axis];
  const all = curves.flatMap((curve) => curve.points);
  const xs = all.map((point) => place(point[0]));
  let [x0, x1] = [Math.min(...xs), Math.max(...xs)];
  if (x0 === x1) [x0, x1] = [x0 - 0.5, x1 + 0.5];
  let [y0, y1] = [Math.min(...all.map((point) => point[2])), Math.max(...all.map((point) => point[3]))];
  const margin = (y1 - y0 || 1) * 0.05;
  [y0, y1] = [y0 - margin, y1 + margin];
  const x = (value) => frame.left + ((place(value) - x0) / (x1 - x0)) * (frame.right - frame.left);
  const y = (value) => frame.bottom - ((value - y0) / (y1 - y0)) * (frame.bottom - frame.top);

  const levels = niceTicks(y0, y1, 6);
  for (const tick of levels.ticks) {
    svg.append(shape("line", { class: "grid", x1: frame.left, x2: frame.right, y1: y(tick), y2: y(tick) }));
    svg.append(shape("text", { x: frame.left - 8, y: y(tick) + 4, "text-anchor": "end" }, tick.toFixed(levels.digits)));
  }
  let lastLabel = -Infinity;
  for (const tick of ticks) {
    const at = x(tick);
    if (place(tick) < x0 - 1e-9 || place(tick) > x1 + 1e-9) continue;
    svg.append(shape("line", { class: "grid", x1: at, x2: at, y1: frame.top, y2: frame.bottom }));
    if (at - lastLabel < 30) continue;
    svg.append(shape("text", { x: at, y: frame.bottom + 18, "text-anchor": "middle" }, tick.toLocaleString("en")));
    lastLabel = at;
  }
  const quality = data.qualities.find((one) => one.name === state.quality);
  svg.append(shape("text", { x: (frame.left + frame.right) / 2, y: height - 5, "text-anchor": "middle" }, axis === "steps" ? "steps" : `${data.clocks[axis]} seconds`));
  svg.append(shape("text", { x: frame.left + 6, y: frame.top + 10 }, quality.unit));

  for (const { method, points } of curves) {
    const there = points.map((point) => `${x(point[0]).toFixed(1)},${y(point[3]).toFixed(1)}`);
    const back = points.map((point) => `${x(point[0]).toFixed(1)},${y(point[2]).toFixed(1)}`).reverse();
    svg.append(shape("polygon", { class: "band", points: [...there, ...back].join(" "), fill: colour(method) }));
  }
  for (const { method, points } of curves) {
    const line = points.map((point) => `${x(point[0]).toFixed(1)},${y(point[1]).toFixed(1)}`).join(" ");
    svg.append(shape("polyline", { class: "curve", points: line, stroke: colour(method), "stroke-dasharray": dash(method) }));
    for (const point of points) svg.append(shape("circle", { cx: x(point[0]), cy: y(point[1]), r: 2.4, fill: colour(method) }));
  }
  listen(svg, axis, curves, x, frame, quality);
}

function listen(svg, axis, curves, x, frame, quality) {
  const cursor = shape("line", { class: "cursor", y1: frame.top, y2: frame.bottom, visibility: "hidden" });
  svg.append(cursor);
  svg.onpointermove = (event) => {
    const box = svg.getBoundingClientRect();
    const at = ((event.clientX - box.left) * svg.viewBox.baseVal.width) / box.width;
    const places = curves.flatMap((curve) => curve.points.map((point) => point[0]));
    const nearest = places.reduce((a, b) => (Math.abs(x(b) - at) < Math.abs(x(a) - at) ? b : a));
    cursor.setAttribute("x1", x(nearest));
    cursor.setAttribute("x2", x(nearest));
    cursor.setAttribute("visibility", "visible");
    const rows = curves.map(({ method, points }) => {
      const point = points.findLast((candidate) => candidate[0] <= nearest * (1 + 1e-9));
      return { method, value: point?.[1] };
    }).filter((row) => row.value !== undefined);
    rows.sort((a, b) => (b.value - a.value) * quality.better);
    const unit = axis === "steps" ? `${nearest.toLocaleString("en")} steps` : `${nearest.toLocaleString("en", { maximumSignificantDigits: 3 })} s`;
    showTooltip(event, unit, rows.map((row) => [row.method, row.value.toFixed(quality.digits)]));
  };
  svg.onpointerleave = () => { cursor.setAttribute("visibility", "hidden"); showTooltip(null); };
}

const tooltip = element("div", { class: "tooltip", hidden: true });
document.body.append(tooltip);

function showTooltip(event, title, rows) {
  tooltip.hidden = !event;
  if (!event) return;
  const body = element("table", {}, ...rows.map(([method, value]) => {
    const dot = element("i");
    dot.style.background = colour(method);
    return element("tr", {}, element("td", {}, dot), element("td", {}, method), element("td", {}, value));
  }));
  tooltip.replaceChildren(element("strong", {}, title), body);
  const beside = event.clientX + 18 + tooltip.offsetWidth > innerWidth ? event.clientX - tooltip.offsetWidth - 18 : event.clientX + 18;
  tooltip.style.left = `${beside}px`;
  tooltip.style.top = `${Math.min(event.clientY + 12, innerHeight - tooltip.offsetHeight - 8)}px`;
}

/* ---------- tables ---------- */

function makeSortable(table) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.firstElementChild.addEventListener("click", () => {
    // Numbers show their largest first, names their first.
    const before = head.getAttribute("aria-sort");
    const direction = before ? (before === "ascending" ? "descending" : "ascending") : head.classList.contains("text") ? "ascending" : "descending";
    heads.forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", direction);
    const sign = direction === "ascending" ? 1 : -1;
    const key = (row) => row.cells[column].dataset.sort;
    const rows = [...table.tBodies[0].rows].sort((a, b) => {
      const [left, right] = [key(a), key(b)];
      if (left === undefined || right === undefined) return (left === undefined) - (right === undefined);
      const [x, y] = [Number(left), Number(right)];
      return sign * (Number.isNaN(x) || Number.isNaN(y) ? left.localeCompare(right) : x - y);
    });
    table.tBodies[0].append(...rows);
  }));
}

/* ---------- pictures ---------- */

const shown = { view: 0, left: null, right: null, errors: false };

/* What can be put on a side of the slider: [name, picture, its error map]. */
function sidesOf(view, methods) {
  const starts = [];
  for (const method of methods) {
    const picture = view.start[method];
    if (!starts.some((start) => start[1] === picture)) starts.push([`start of ${method}`, picture, picture]);
  }
  if (starts.length === 1) starts[0][0] = "start (step 0)";
  const ends = methods.map((method) => [method, view.end[method], view.error[method]]);
  return [["photograph", view.photograph, view.photograph], ...starts, ...ends];
}

function drawPictures() {
  const place = document.getElementById("picture-place");
  if (!place) return;
  const scene = data.pictures[state.scene] ? state.scene : Object.keys(data.pictures)[0];
  const views = data.pictures[scene];
  shown.view = Math.min(shown.view, views.length - 1);
  const view = views[shown.view];
  const methods = data.methods.filter((method) => view.end[method] !== undefined);
  const sides = sidesOf(view, methods);
  const find = (name, otherwise) => sides.find((side) => side[0] === name) ?? otherwise;
  const [left, right] = [find(shown.left, sides[1]), find(shown.right, sides.at(-1))];
  const source = (side) => data.blobs[side[shown.errors ? 2 : 1]];
  const choice = (name, options, value, onchange) => {
    const made = element("select", {}, ...options.map(([key, text]) => new Option(text, key, false, key === value)));
    made.addEventListener("change", () => { onchange(made.value); drawPictures(); });
    return element("label", {}, `${name} `, made);
  };
  const errors = element("input", { type: "checkbox" });
  errors.checked = shown.errors;
  errors.addEventListener("change", () => { shown.errors = errors.checked; drawPictures(); });
  const sideOptions = sides.map((side) => [side[0], side[0]]);
  const controls = element("div", { class: "picture-controls" },
    element("strong", {}, scene),
    choice("View", views.map((one, index) => [String(index), one.name]), String(shown.view), (value) => { shown.view = Number(value); }),
    choice("Left", sideOptions, left[0], (value) => { shown.left = value; }),
    choice("Right", sideOptions, right[0], (value) => { shown.right = value; }),
    element("label", {}, errors, " error maps in the slider"));

  const under = element("img", { src: source(right), alt: right[0] });
  // Portrait and landscape alike fit a screen.
  under.addEventListener("load", () => {
    const { naturalWidth: wide, naturalHeight: high } = under;
    slider.style.width = `min(100%, ${Math.round(Math.min(720, (540 * wide) / high, Math.max(320, 2.5 * wide)))}px)`;
  });
  const over = element("img", { src: source(left), alt: left[0], class: "over" });
  const handle = element("div", { class: "handle" });
  const range = element("input", { type: "range", min: "0", max: "100", step: "0.5", value: "50", "aria-label": "Where left meets right" });
  const move = () => {
    over.style.clipPath = `inset(0 ${100 - range.value}% 0 0)`;
    handle.style.left = `calc(${range.value}% - 1px)`;
  };
  range.addEventListener("input", move);
  move();
  const slider = element("div", { class: "slider" }, under, over, handle,
    element("span", { class: "tag left" }, left[0]), element("span", { class: "tag right" }, right[0]), range);

  const cards = methods.map((method) => element("figure", {},
    element("figcaption", {}, method),
    element("img", { src: data.blobs[view.end[method]], alt: `${method} at the end` }),
    element("img", { src: data.blobs[view.error[method]], alt: `error map of ${method}` })));
  const photograph = element("figure", {}, element("figcaption", {}, "photograph"), element("img", { src: data.blobs[view.photograph], alt: "photograph" }),
    element("img", { src: data.blobs[sides[1][1]], alt: sides[1][0] }));
  place.replaceChildren(controls, slider, element("div", { class: "pictures-grid" }, photograph, ...cards));
}

fillChoices();
document.querySelectorAll("table.numbers").forEach(makeSortable);
update();
new ResizeObserver(drawCharts).observe(document.getElementById("charts"));
