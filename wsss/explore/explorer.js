// The CAM explorer: one component, two hosts. A page without a kernel mounts it on the JSON that lies in it; a notebook
// mounts it as an anywidget, whose Python side reads the same values. A classic script, so that it works over file://.
(() => {
"use strict";

const SCALE = 8; // pixels of an affinity picture per token
const IGNORE = 255;
const START = { image: 0, variant: 0, label: 0, layer: 0, scales: "multi", threshold: 0.5, opacity: 0.6, colours: "cividis", row: -1, column: -1 };

const SHELL = `
  <div class="wx-controls">
    <label>Image <select data-key="image"></select></label>
    <label>Model <select data-key="variant"></select></label>
    <label>Class <select data-key="label"></select></label>
    <label>Layer <select data-key="layer"></select></label>
    <label>Scales <select data-key="scales"><option value="multi">several, with mirror images</option><option value="single">one</option></select></label>
    <label>Colours <select data-key="colours"></select></label>
    <label>Threshold <output data-of="threshold"></output><input data-key="threshold" type="range" min="0" max="1" step="0.01"></label>
    <label>Opacity <output data-of="opacity"></output><input data-key="opacity" type="range" min="0" max="1" step="0.05"></label>
  </div>
  <div class="wx-panels"></div>
  <p class="wx-legend"></p>
  <p class="wx-about"></p>
  <div class="wx-live" hidden>
    <button type="button" data-ask="refine">Refine the CAM at this threshold (PAR)</button>
    <button type="button" data-ask="crf">Dense CRF on the segmentation</button>
    <span data-key="waiting"></span>
  </div>
  <table class="wx-numbers"><caption></caption><thead><tr><th scope="col">label map</th><th scope="col">IoU, %</th>
    <th scope="col">outside the object, % of the map</th><th scope="col">missed, % of the object</th><th scope="col">covers, % of the image</th></tr></thead><tbody></tbody></table>
  <p class="wx-status" role="status"></p>
  <div class="wx-controls">
    <label>Patch, row <output data-of="row"></output><input data-key="row" type="range" min="0" step="1"></label>
    <label>Patch, column <output data-of="column"></output><input data-key="column" type="range" min="0" step="1"></label>
  </div>
  <div class="wx-affinities"></div>`;

// ---- numbers

const bytes = (text) => Uint8Array.from(atob(text), (one) => one.charCodeAt(0));

/** The labels of a mask that is kept as runs: label, count, label, count, ... */
function unpack(runs, length) {
  const mask = new Uint8Array(length);
  for (let i = 0, at = 0; i < runs.length; i += 2) mask.fill(runs[i], at, (at += runs[i + 1]));
  return mask;
}

/** Plane number `plane` of 8-bit maps (h, w) as values 0..1 at (height, width): bilinear, pixel centres aligned. */
function resized(maps, plane, [h, w], [height, width]) {
  const found = new Float32Array(height * width), start = plane * h * w;
  const places = (n, of) => Array.from({ length: of }, (_, i) => Math.min(n - 1, Math.max(0, ((i + 0.5) * n) / of - 0.5)));
  const rows = places(h, height), columns = places(w, width);
  for (let y = 0, at = 0; y < height; y++) {
    const top = Math.floor(rows[y]), down = rows[y] - top;
    const upper = start + top * w, lower = start + Math.min(h - 1, top + 1) * w;
    for (let x = 0; x < width; x++, at++) {
      const left = Math.floor(columns[x]), right = Math.min(w - 1, left + 1), across = columns[x] - left;
      const above = maps[upper + left] * (1 - across) + maps[upper + right] * across;
      const below = maps[lower + left] * (1 - across) + maps[lower + right] * across;
      found[at] = (above * (1 - down) + below * down) / 255;
    }
  }
  return found;
}

/** Cosine of row `index` of an (n, d) array with every row. */
function cosines(rows, d, index) {
  const n = rows.length / d, dot = (i, j) => { let sum = 0; for (let k = 0; k < d; k++) sum += rows[i * d + k] * rows[j * d + k]; return sum; };
  const own = Math.sqrt(dot(index, index)) || 1;
  return Float32Array.from({ length: n }, (_, j) => dot(index, j) / (own * (Math.sqrt(dot(j, j)) || 1)));
}

/** Counts of one class in a label map; against the truth where it is known, its ignored pixels left out. */
function compare(map, truth, label) {
  let both = 0, extra = 0, missed = 0, covered = 0;
  for (let i = 0; i < map.length; i++) {
    const here = map[i] === label;
    covered += here;
    if (!truth || truth[i] === IGNORE) continue;
    const there = truth[i] === label;
    both += here && there; extra += here && !there; missed += !here && there;
  }
  const share = (part, whole) => (truth && whole ? (100 * part) / whole : null);
  return { iou: share(both, both + extra + missed), over: share(extra, both + extra), under: share(missed, both + missed), covers: (100 * covered) / map.length };
}

const shown = (value) => (value === null ? "–" : value.toFixed(1));

// ---- the component

class Explorer {
  constructor(model, el) {
    this.model = model; this.el = el; this.data = model.get("payload"); this.cache = new Map(); this.answers = new Map();
    el.classList.add("wsss-explorer");
    el.setAttribute("role", "group");
    el.setAttribute("aria-label", "Explorer of class activation maps");
    el.innerHTML = SHELL;
    this.ramps = Object.fromEntries(Object.entries(this.data.ramps).map(([name, text]) => [name, bytes(text)]));
    this.fill("image", this.data.images.map((one, i) => [i, one.name]));
    this.fill("colours", Object.keys(this.ramps).map((name) => [name, name]));
    this.settle();
    for (const one of el.querySelectorAll("[data-key]")) {
      if (one.matches("select, input")) one.addEventListener("input", () => this.choose(one.dataset.key, one.type === "range" || one.dataset.key.match(/image|variant|label|layer/) ? Number(one.value) : one.value));
    }
    for (const button of el.querySelectorAll("[data-ask]")) button.addEventListener("click", () => this.ask(button.dataset.ask));
    el.querySelector(".wx-live").hidden = !this.data.live;
    for (const key of Object.keys(START)) model.on(`change:${key}`, () => { if (!this.settling) { this.settle(); this.draw(); } });
    model.on("change:answer", () => this.answered());
  }

  at(key) { const value = this.model.get(key); return value === undefined || value === null ? START[key] : value; }
  put(key, value) { if (this.at(key) !== value) this.model.set(key, value); }
  find(selector) { return this.el.querySelector(selector); }
  get scene() { return this.data.images[this.at("image")]; }
  get view() { return this.scene.variants[this.at("variant")]; }
  get layer() { return this.view.layers[this.at("layer")]; }
  get maps() { return this.layer[this.at("scales")]; }
  name(label) { return this.data.classes[label]; }

  fill(key, options) {
    const select = this.find(`select[data-key=${key}]`);
    select.replaceChildren(...options.map(([value, text]) => Object.assign(document.createElement("option"), { value, textContent: text })));
  }

  choose(key, value) { this.put(key, value); this.settle(key); this.model.save_changes(); this.draw(); }

  /** Make the values fit one another after `key` has changed, and show them in the controls. */
  settle(key = "") {
    this.settling = true;
    const inside = (name, count) => this.put(name, Math.min(Math.max(0, this.at(name)), count - 1));
    inside("image", this.data.images.length);
    inside("variant", this.scene.variants.length);
    inside("layer", this.view.layers.length);
    if (!this.view.shown.includes(this.at("label"))) this.put("label", this.view.shown[0]);
    const [rows, columns] = this.view.grid;
    if (this.at("row") < 0 || this.at("column") < 0 || key === "image") this.peak();
    inside("row", rows); inside("column", columns);
    this.fill("variant", this.scene.variants.map((one, i) => [i, one.name]));
    this.fill("label", this.view.shown.map((label, i) => [label, `${this.name(label)} (${this.view.scores[i].toFixed(2)}${this.scene.present.includes(label) ? this.scene.known ? ", in the image" : ", predicted" : ""})`]));
    this.fill("layer", this.view.layers.map((one, i) => [i, one.name]));
    this.find("input[data-key=row]").max = rows - 1;
    this.find("input[data-key=column]").max = columns - 1;
    for (const one of this.el.querySelectorAll("select[data-key], input[data-key]")) one.value = this.at(one.dataset.key);
    for (const one of this.el.querySelectorAll("output[data-of]")) one.value = one.dataset.of.match(/row|column/) ? this.at(one.dataset.of) + 1 : this.at(one.dataset.of).toFixed(2);
    this.settling = false;
  }

  /** Choose the patch where the CAM of the class is largest. */
  peak() {
    const values = this.tokens(this.view.shown.indexOf(this.at("label")), this.layer), best = values.indexOf(Math.max(...values));
    this.put("row", Math.floor(best / this.view.grid[1])); this.put("column", best % this.view.grid[1]);
  }

  kept(key, make) { if (!this.cache.has(key)) this.cache.set(key, make()); return this.cache.get(key); }
  stack(maps) { return this.kept(maps, () => bytes(maps.data)); }
  /** The CAM of a class at image size; `place` is its place in `shown`. */
  plane(place) { const maps = this.maps; return this.kept(`${this.key()} ${this.at("layer")} ${this.at("scales")} ${place}`, () => resized(this.stack(maps), place, maps.grid, this.scene.size)); }
  /** The same on the token grid, of any layer. */
  tokens(place, layer) { const maps = layer[this.at("scales")]; return resized(this.stack(maps), place, maps.grid, this.view.grid); }
  key() { return `${this.at("image")} ${this.at("variant")}`; }
  mask(runs) { return this.kept(runs, () => unpack(runs, this.scene.size[0] * this.scene.size[1])); }

  /** Places of the classes that compete for a pixel: those in the image and the chosen one. */
  rivals() {
    const wanted = [...this.scene.present, this.at("label")];
    return this.view.shown.map((label, place) => ({ label, place })).filter(({ label }) => wanted.includes(label));
  }

  /** The largest CAM's class where it is above the threshold, else background. */
  labels() {
    const rivals = this.rivals().map(({ label, place }) => [label, this.plane(place)]), threshold = this.at("threshold");
    return Uint8Array.from({ length: this.scene.size[0] * this.scene.size[1] }, (_, i) => {
      let best = threshold, found = 0;
      for (const [label, plane] of rivals) if (plane[i] > best) { best = plane[i]; found = label; }
      return found;
    });
  }

  draw() {
    if (this.waiting) return;
    this.waiting = true;
    requestAnimationFrame(() => { this.waiting = false; this.paint(); });
  }

  paint() {
    const { scene, view } = this, label = this.at("label"), truth = scene.truth && this.mask(scene.truth), cam = this.labels();
    const maps = [["CAM at the threshold", cam], ["pseudo label, refined", view.pseudo_label && this.mask(view.pseudo_label)], ["segmentation", view.segmentation && this.mask(view.segmentation)]];
    for (const [what, runs] of this.answers.get(this.key()) || []) maps.push([what, this.mask(runs)]);
    const panels = [this.panel("image", (canvas) => this.plain(canvas)), this.panel("CAM over the image", (canvas) => this.heat(canvas)), ...maps.filter(([, mask]) => mask).map(([what, mask]) => this.panel(what, (canvas) => this.areas(canvas, mask)))];
    if (truth) panels.push(this.panel("truth", (canvas) => this.areas(canvas, truth)));
    this.find(".wx-panels").replaceChildren(...panels.map(({ figure }) => figure));
    const there = [...new Set(maps.flatMap(([, mask]) => (mask ? [...new Set(mask)] : [])).concat(truth ? [...new Set(truth)] : []))].sort((a, b) => a - b);
    this.legend(there);
    this.find(".wx-about").textContent = view.about;
    const rows = maps.filter(([, mask]) => mask).map(([what, mask]) => [what, compare(mask, truth, label)]);
    this.find(".wx-numbers caption").textContent = `${this.name(label)}, by class number pixel by pixel${truth ? "" : "; the truth is not known, so nothing is compared"}`;
    this.find(".wx-numbers tbody").innerHTML = rows.map(([what, x]) => `<tr><th scope="row">${what}</th><td>${shown(x.iou)}</td><td>${shown(x.over)}</td><td>${shown(x.under)}</td><td>${shown(x.covers)}</td></tr>`).join("");
    const [, own] = rows[0], alike = this.affinities();
    const words = [`${this.name(label)}, ${this.layer.name}: the CAM covers ${own.covers.toFixed(1)} % of the image above ${this.at("threshold").toFixed(2)}`];
    if (own.iou !== null) words.push(`IoU ${own.iou.toFixed(1)} %`);
    this.find(".wx-status").textContent = `${words.join(", ")}. Patch in row ${this.at("row") + 1}, column ${this.at("column") + 1}: ${alike.join("; ")}.`;
    this.el.dataset.ready = String(Number(this.el.dataset.ready || 0) + 1);
  }

  // ---- pictures

  panel(what, paint) {
    const figure = document.createElement("figure"), canvas = document.createElement("canvas"), caption = document.createElement("figcaption");
    [canvas.height, canvas.width] = this.scene.size;
    canvas.setAttribute("role", "img");
    caption.textContent = what;
    figure.append(canvas, caption);
    canvas.setAttribute("aria-label", `${what}: ${paint(canvas)}`);
    this.mark(canvas, this.scene.size);
    canvas.addEventListener("click", (event) => this.pick(event, canvas));
    return { figure };
  }

  pick(event, canvas) {
    const box = canvas.getBoundingClientRect(), [rows, columns] = this.view.grid;
    const place = (at, length, count) => Math.min(count - 1, Math.max(0, Math.floor((at / length) * count)));
    this.put("row", place(event.clientY - box.top, box.height, rows));
    this.choose("column", place(event.clientX - box.left, box.width, columns));
  }

  /** Outline the chosen patch, dark on light. */
  mark(canvas, [height, width]) {
    const [rows, columns] = this.view.grid, context = canvas.getContext("2d"), line = Math.max(1, Math.round(width / 160));
    const box = [(this.at("column") * width) / columns, (this.at("row") * height) / rows, width / columns, height / rows];
    context.lineWidth = 2 * line; context.strokeStyle = "#fff"; context.strokeRect(...box);
    context.lineWidth = line; context.strokeStyle = "#000"; context.strokeRect(...box);
  }

  plain(canvas) {
    canvas.getContext("2d").drawImage(this.picture(), 0, 0, canvas.width, canvas.height);
    return this.scene.alt;
  }

  /** The CAM of the class over the photograph, with a line where it crosses the threshold. */
  heat(canvas) {
    const [height, width] = this.scene.size, context = canvas.getContext("2d"), threshold = this.at("threshold"), opacity = this.at("opacity");
    context.drawImage(this.picture(), 0, 0, width, height);
    const pixels = context.getImageData(0, 0, width, height), plane = this.plane(this.view.shown.indexOf(this.at("label"))), ramp = this.ramps[this.at("colours")];
    let largest = 0;
    for (let i = 0; i < plane.length; i++) {
      const value = plane[i], colour = 3 * Math.round(255 * Math.min(1, value)), above = value > threshold;
      const edge = (i % width < width - 1 && plane[i + 1] > threshold !== above) || (i + width < plane.length && plane[i + width] > threshold !== above);
      for (let k = 0; k < 3; k++) pixels.data[4 * i + k] = edge ? 255 : pixels.data[4 * i + k] * (1 - opacity) + ramp[colour + k] * opacity;
      largest = Math.max(largest, value);
    }
    context.putImageData(pixels, 0, 0);
    return `${this.name(this.at("label"))} over ${this.scene.alt}, largest value ${largest.toFixed(2)}, a white line at ${threshold.toFixed(2)}`;
  }

  areas(canvas, mask) {
    const context = canvas.getContext("2d"), pixels = context.createImageData(canvas.width, canvas.height), counts = new Map();
    mask.forEach((label, i) => {
      pixels.data.set(this.colour(label), 4 * i);
      pixels.data[4 * i + 3] = 255;
      counts.set(label, (counts.get(label) || 0) + 1);
    });
    context.putImageData(pixels, 0, 0);
    canvas.classList.add("wx-flat");
    return [...counts].map(([label, count]) => `${this.title(label)} ${((100 * count) / mask.length).toFixed(0)} %`).join(", ");
  }

  colour(label) { const { palette } = this.scene; return palette[label === IGNORE ? palette.length - 1 : label]; }
  title(label) { return label === IGNORE ? "ignored" : this.name(label); }

  legend(labels) {
    const chip = (label) => {
      const span = document.createElement("span"), square = document.createElement("i");
      square.style.background = `rgb(${this.colour(label).join(",")})`;
      span.append(square, this.title(label));
      return span;
    };
    this.find(".wx-legend").replaceChildren(...labels.map(chip));
  }

  picture() { return this.kept(`picture ${this.at("image")}`, () => { throw new Error("the picture is not decoded yet"); }); }

  /** Decode all pictures; resolves when the first one can be drawn. */
  async start() {
    await Promise.all(this.data.images.map(async (one, i) => {
      const picture = new Image();
      picture.src = one.picture;
      await picture.decode();
      this.cache.set(`picture ${i}`, picture);
    }));
    this.paint();
  }

  // ---- affinity of a patch to all others

  affinities() {
    const index = this.at("row") * this.view.grid[1] + this.at("column"), said = [], figures = [];
    for (const one of this.alike(index)) {
      const figure = document.createElement("figure"), canvas = document.createElement("canvas"), caption = document.createElement("figcaption");
      [canvas.height, canvas.width] = this.view.grid.map((side) => SCALE * side);
      canvas.setAttribute("role", "img");
      const mean = one.values.reduce((a, b) => a + b, 0) / one.values.length;
      canvas.setAttribute("aria-label", `Likeness of the chosen patch to all others, ${one.name}: mean ${mean.toFixed(2)}, dark 0 or less, bright 1`);
      caption.textContent = `${one.name}: mean ${mean.toFixed(2)}`;
      this.grid(canvas, one.values);
      this.mark(canvas, [canvas.height, canvas.width]);
      canvas.addEventListener("click", (event) => this.pick(event, canvas));
      figure.append(canvas, caption);
      figures.push(figure);
      said.push(`${one.name} ${mean.toFixed(2)}`);
    }
    this.find(".wx-affinities").replaceChildren(...figures);
    return [`mean likeness to all patches by ${said.join(", ")}`];
  }

  /** By tokens, by each subspace, by the CAM of each layer (its affinity in Module B). */
  alike(index) {
    const codes = this.view.codes.map((one) => ({ name: one.name, values: cosines(new Int8Array(this.kept(one, () => bytes(one.data)).buffer), one.width, index) }));
    const rivals = this.rivals(), count = this.view.grid[0] * this.view.grid[1];
    const cams = this.view.layers.map((layer) => {
      const planes = rivals.map(({ place }) => this.tokens(place, layer)), width = planes.length + 1, rows = new Float32Array(count * width);
      for (let i = 0; i < count; i++) {
        rows[i * width] = 1 - Math.max(...planes.map((plane) => plane[i]));
        planes.forEach((plane, k) => { rows[i * width + k + 1] = plane[i]; });
      }
      return { name: `CAM, ${layer.name}`, values: cosines(rows, width, index) };
    });
    return [...codes, ...cams];
  }

  grid(canvas, values) {
    const context = canvas.getContext("2d"), ramp = this.ramps[this.at("colours")], columns = this.view.grid[1];
    values.forEach((value, i) => {
      const at = 3 * Math.round(255 * Math.min(1, Math.max(0, value)));
      context.fillStyle = `rgb(${ramp[at]},${ramp[at + 1]},${ramp[at + 2]})`;
      context.fillRect(SCALE * (i % columns), SCALE * Math.floor(i / columns), SCALE, SCALE);
    });
    canvas.classList.add("wx-flat");
  }

  // ---- what only a kernel can compute

  ask(what) {
    this.find("[data-key=waiting]").textContent = "computing …";
    this.model.set("request", { what, number: (this.model.get("request") || { number: 0 }).number + 1 });
    this.model.save_changes();
  }

  answered() {
    const found = this.model.get("answer"), key = `${found.image} ${found.variant}`;
    this.find("[data-key=waiting]").textContent = found.words || "";
    if (found.mask) this.answers.set(key, [...(this.answers.get(key) || []).filter(([what]) => what !== found.name), [found.name, found.mask]]);
    this.draw();
  }
}

// ---- the hosts

/** anywidget's entry point. */
async function render({ model, el }) {
  const explorer = new Explorer(model, el);
  await explorer.start();
  return explorer;
}

/** A Map that poses as anywidget's model. */
function store(values) {
  const map = new Map(Object.entries(values)), listeners = {};
  return {
    get: (key) => map.get(key),
    set: (key, value) => { map.set(key, value); (listeners[`change:${key}`] || []).forEach((tell) => tell()); },
    on: (event, tell) => { (listeners[event] = listeners[event] || []).push(tell); },
    save_changes() {},
  };
}

/** Mount on every element of the page that holds a payload. */
async function hydrate(root = document) {
  for (const el of root.querySelectorAll("[data-wsss-explorer]:not([data-mounted])")) {
    el.dataset.mounted = "1";
    const payload = JSON.parse(el.querySelector("script[type='application/json']").textContent);
    await render({ model: store({ ...START, ...payload.start, payload }), el });
  }
}

globalThis.WsssExplorer = { render, hydrate };
if (typeof document !== "undefined") {
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", () => hydrate());
  else hydrate();
}
})();
