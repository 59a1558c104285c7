// The explorer: one component, three hosts. A page of the book and the page of `wsss explore` mount it on the JSON in the
// page; a notebook mounts it as an anywidget, whose kernel reads the same values. A reader's own photograph goes through
// the network in the page (explorer_engine.js), or in a notebook through that of the kernel. A classic script, not a
// module, so that it works over file://.
(() => {
"use strict";

const IGNORE = 255;
const START = { image: 0, variant: 0, label: 0, layer: 0, view: "cam", beside: "", alike: 0, threshold: 0.5, opacity: 0.6, split: 0.5, row: -1, column: -1 };
const NUMBERS = ["image", "variant", "label", "layer", "alike", "threshold", "opacity", "split", "row", "column"];

const SHELL = `
  <div class="wx-pictures" role="group" aria-label="Photographs"></div>
  <p class="wx-engine" role="status"></p>
  <section class="wx-tour" aria-label="Guided tour" hidden>
    <p></p><div><button type="button" data-do="back">Back</button><button type="button" data-do="next">Next</button><button type="button" data-do="end">End the tour</button></div>
  </section>
  <div class="wx-body">
    <div class="wx-stage">
      <div class="wx-frame" tabindex="0" role="application">
        <canvas role="img"></canvas><span class="wx-tag"></span><span class="wx-tag wx-right"></span>
      </div>
      <label class="wx-range" data-of="split">Move the line<input data-key="split" type="range" min="0" max="1" step="0.01"></label>
      <label class="wx-range">Opacity<input data-key="opacity" type="range" min="0" max="1" step="0.05"></label>
      <p class="wx-legend"></p>
    </div>
    <div class="wx-panel">
      <fieldset data-of="label"><legend>Classes that the model names</legend><div class="wx-classes"></div></fieldset>
      <fieldset><legend>Show</legend><div class="wx-chips" data-of="view"></div></fieldset>
      <fieldset data-of="alike"><legend>Similarity by</legend><div class="wx-chips"></div><p>Point at a patch, or use the arrow keys on the picture.</p></fieldset>
      <label data-of="layer">Layer<select data-key="layer"></select></label>
      <label class="wx-range" data-of="threshold">Threshold <output></output><input data-key="threshold" type="range" min="0" max="1" step="0.01"></label>
      <label>Compare with<select data-key="beside"></select></label>
      <p class="wx-buttons" data-of="more"><button type="button" data-do="more"></button></p>
      <label data-of="variant">Model<select data-key="variant"></select></label>
      <p class="wx-buttons"><button type="button" data-do="tour">Guided tour</button><button type="button" data-do="save">Save the picture</button><button type="button" data-do="link">Link to this view</button></p>
      <p class="wx-buttons" data-of="live"><button type="button" data-ask="refine">Refine the CAM at this threshold (PAR)</button><button type="button" data-ask="crf">Dense CRF on the segmentation</button><span></span></p>
      <details><summary>Numbers and source</summary><p class="wx-about"></p><table><caption></caption><thead></thead><tbody></tbody></table></details>
    </div>
  </div>
  <p class="wx-status" role="status"></p>`;

/** Steps of the tour: the values to set, and the text to show. */
const TOUR = [
  [{ view: "photograph", beside: "" }, (x) => `1 of 5. The model was trained on photographs and the names of what they show; nobody outlined anything. For this one it names ${x.name(x.at("label"))}, with probability ${x.score.toFixed(2)}.`],
  [{ view: "cam", beside: "", layer: 0 }, (x) => `2 of 5. Which patches are evidence for ${x.name(x.at("label"))}? Its class activation map shows them bright. The map often finds a part, such as a head, and misses the rest.`],
  [{ view: "pseudo_label", beside: "" }, () => "3 of 5. Thresholds turn the map into labels of pixels, and the colours of the photograph sharpen them. Grey pixels stay undecided. The decoder learns from this pseudo label."],
  [{ view: "cam", beside: "segmentation", split: 0.5 }, () => "4 of 5. Left of the line is the map, right of it the decoder's segmentation of the photograph. Move the line."],
  [{ view: "alike", beside: "" }, () => "5 of 5. Inside the network every patch is a vector. Bright patches have vectors similar to that of the outlined patch. Point at another one, or press the arrow keys on the picture; then choose a subspace."],
];

// ---- numbers

const unzipped = (zipped) => new Response(new Blob([zipped]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));

/** The labels of a mask that is stored as runs: label, count, label, count, ... */
function unpack(runs, length) {
  const mask = new Uint8Array(length);
  for (let i = 0, at = 0; i < runs.length; i += 2) mask.fill(runs[i], at, (at += runs[i + 1]));
  return mask;
}

/** Plane number `plane` of maps (h, w), times `scale`, at (height, width): bilinear, pixel centres aligned. */
function resized(maps, plane, [h, w], [height, width], scale = 1) {
  const large = new Float32Array(height * width), start = plane * h * w;
  const places = (n, of) => Array.from({ length: of }, (_, i) => Math.min(n - 1, Math.max(0, ((i + 0.5) * n) / of - 0.5)));
  const rows = places(h, height), columns = places(w, width);
  for (let y = 0, at = 0; y < height; y++) {
    const top = Math.floor(rows[y]), down = rows[y] - top;
    const upper = start + top * w, lower = start + Math.min(h - 1, top + 1) * w;
    for (let x = 0; x < width; x++, at++) {
      const left = Math.floor(columns[x]), right = Math.min(w - 1, left + 1), across = columns[x] - left;
      const above = maps[upper + left] * (1 - across) + maps[upper + right] * across;
      const below = maps[lower + left] * (1 - across) + maps[lower + right] * across;
      large[at] = (above * (1 - down) + below * down) * scale;
    }
  }
  return large;
}

/** Cosine of row `index` of an (n, d) array with every row. */
function cosines(rows, d, index) {
  const dot = (i, j) => { let sum = 0; for (let k = 0; k < d; k++) sum += rows[i * d + k] * rows[j * d + k]; return sum; };
  const norm = Math.sqrt(dot(index, index)) || 1;
  return Float32Array.from({ length: rows.length / d }, (_, j) => dot(index, j) / (norm * (Math.sqrt(dot(j, j)) || 1)));
}

/** Percentages of one class in a label map: IoU, outside, missed, covered. All but the last are null without a truth, whose
 * ignored pixels do not count. */
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
  return [share(both, both + extra + missed), share(extra, both + extra), share(missed, both + missed), (100 * covered) / map.length];
}

// ---- elements

const make = (tag, values = {}, ...children) => { const element = Object.assign(document.createElement(tag), values); element.append(...children); return element; };
let mounted = 0;

// ---- the component

class Explorer {
  constructor(model, el) {
    this.model = model; this.el = el; this.data = model.get("payload"); this.cache = new Map(); this.answers = new Map(); this.number = mounted++;
    el.classList.add("wsss-explorer");
    el.innerHTML = SHELL;
    this.ramp = bytes(this.data.ramp);
    this.canvas = this.find("canvas"); this.frame = this.find(".wx-frame");
    this.listen();
    this.thumbnails();
    this.settle();
    for (const key of Object.keys(START)) model.on(`change:${key}`, () => { if (!this.settling) { this.settle(); this.draw(); } });
    model.on("change:answer", () => this.answered());
    model.on("change:payload", () => { this.data = model.get("payload"); this.thumbnails(); this.start(); });
    el.explorer = this;
  }

  at(key) { const value = this.model.get(key); return value === undefined || value === null ? START[key] : value; }
  put(key, value) { if (this.at(key) !== value) this.model.set(key, value); }
  find(selector) { return this.el.querySelector(selector); }
  all(selector) { return [...this.el.querySelectorAll(selector)]; }
  get scene() { return this.data.images[this.at("image")]; }
  get seen() { return this.scene.variants[this.at("variant")]; }
  get score() { return this.seen.scores[this.seen.shown.indexOf(this.at("label"))]; }
  name(label) { return label === IGNORE ? "undecided" : this.data.classes[label]; }
  kept(key, compute) { if (!this.cache.has(key)) this.cache.set(key, compute()); return this.cache.get(key); }

  // ---- what the reader does

  listen() {
    this.el.addEventListener("input", ({ target }) => {
      const { key } = target.dataset;
      if (key) this.choose({ [key]: NUMBERS.includes(key) ? Number(target.value) : target.value });
    });
    const deeds = { tour: () => this.step(0), next: () => this.step(this.tour + 1), back: () => this.step(this.tour - 1), end: () => this.step(-1), save: () => this.save(), link: () => this.link(), more: () => this.compare() };
    this.el.addEventListener("click", ({ target }) => {
      const button = target.closest("button");
      if (!button) return;
      if (button.dataset.do) deeds[button.dataset.do]();
      else if (button.dataset.ask) this.ask({ what: button.dataset.ask });
      else if (button.dataset.image) this.choose({ image: Number(button.dataset.image) });
    });
    this.frame.addEventListener("keydown", (event) => {
      const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
      if (!step) return;
      event.preventDefault();
      this.choose({ view: "alike", row: Math.max(0, this.at("row") + step[0]), column: Math.max(0, this.at("column") + step[1]) });
    });
    this.frame.addEventListener("pointermove", (event) => {
      if (this.slides) { if (event.buttons) this.choose({ split: this.place(event)[0] }); }
      else if (this.at("view") === "alike" && event.pointerType === "mouse") this.point(event);
    });
    this.frame.addEventListener("click", (event) => { if (this.slides) this.choose({ split: this.place(event)[0] }); else this.point(event); });
    const files = (list) => { const file = [...list].find(({ type }) => type.startsWith("image/")); if (file) this.take(file); return Boolean(file); };
    this.el.addEventListener("dragover", (event) => { event.preventDefault(); this.el.classList.add("wx-over"); });
    this.el.addEventListener("dragleave", () => this.el.classList.remove("wx-over"));
    this.el.addEventListener("drop", (event) => { event.preventDefault(); this.el.classList.remove("wx-over"); files(event.dataTransfer.files); });
    this.el.addEventListener("change", ({ target }) => { if (target.type === "file") { files(target.files); target.value = ""; } });
    if (this.number === 0) document.addEventListener("paste", (event) => { if (files(event.clipboardData.files)) event.preventDefault(); });
  }

  /** Whether a pointer moves the line. While it chooses patches, only the slider below the picture moves the line. */
  get slides() { return this.at("beside") && this.at("view") !== "alike"; }

  /** Place of a pointer in the picture, 0..1 across and down. */
  place(event) {
    const box = this.canvas.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height].map((x) => Math.min(1, Math.max(0, x)));
  }

  point(event) {
    const [across, down] = this.place(event), [rows, columns] = this.seen.grid;
    this.choose({ view: "alike", row: Math.floor(down * rows), column: Math.floor(across * columns) });
  }

  choose(values) {
    const image = this.at("image");
    for (const [key, value] of Object.entries(values)) this.put(key, value);
    if (this.at("image") !== image && !("label" in values)) { this.put("label", -1); this.put("row", values.row ?? -1); }
    this.settle();
    if (this.at("image") !== image) this.find("[aria-pressed=true]").scrollIntoView({ block: "nearest", inline: "nearest" });
    this.model.save_changes();
    this.draw();
  }

  /** Make the values consistent, and show them in the controls. */
  settle() {
    this.settling = true;
    const inside = (name, count) => this.put(name, Math.min(Math.max(0, this.at(name)), count - 1));
    inside("image", this.data.images.length);
    inside("variant", this.scene.variants.length);
    const { seen } = this;
    inside("layer", seen.layers.length);
    if (!seen.shown.includes(this.at("label"))) this.put("label", seen.shown[0]);
    if (this.at("row") < 0) this.peak();
    inside("row", seen.grid[0]); inside("column", seen.grid[1]); inside("alike", this.likenesses().length);
    const views = this.views();
    if (!views.some(([key]) => key === this.at("view"))) this.put("view", "cam");
    const besides = this.besides();
    if (!besides.some(([key]) => key === this.at("beside"))) this.put("beside", "");
    this.select("variant", this.scene.variants.map((variant, i) => [i, variant.name]));
    this.select("layer", seen.layers.map((layer, i) => [i, layer.name]));
    this.select("beside", besides);
    this.radios(".wx-chips[data-of=view]", "view", views);
    this.radios("[data-of=alike] .wx-chips", "alike", this.likenesses().map((name, i) => [i, name]));
    this.radios(".wx-classes", "label", seen.shown.map((label, i) => [label, this.name(label), seen.scores[i]]));
    for (const input of this.all("select[data-key], input[type=range]")) input.value = this.at(input.dataset.key);
    for (const input of this.all("input[type=radio]")) input.checked = input.value === String(this.at(input.dataset.key));
    for (const button of this.all("[data-image]")) button.setAttribute("aria-pressed", String(Number(button.dataset.image) === this.at("image")));
    const used = [this.at("view"), this.at("beside")], maps = used.some((key) => ["cam", "labels", "layer"].includes(key));
    const shown = { split: used[1] !== "", alike: used[0] === "alike", layer: maps, threshold: maps, variant: this.scene.variants.length > 1, live: this.data.live, more: this.data.more };
    for (const [key, visible] of Object.entries(shown)) for (const part of this.all(`[data-of=${key}]`)) part.hidden = !visible;
    this.find("[data-of=threshold] output").value = this.at("threshold").toFixed(2);
    this.settling = false;
  }

  select(key, options) { this.find(`select[data-key=${key}]`).replaceChildren(...options.map(([value, text]) => make("option", { value, textContent: text }))); }

  /** Make radio buttons. If the options are the same, keep the old ones: a rebuilt button loses the focus. */
  radios(selector, key, options) {
    const box = this.find(selector), mark = JSON.stringify(options);
    if (box.dataset.options === mark) return;
    box.dataset.options = mark;
    box.replaceChildren(...options.map(([value, text, score]) => {
      const input = make("input", { type: "radio", name: `wx-${this.number}-${key}`, value }), title = make("span", {}, text);
      input.dataset.key = key;
      if (score === undefined) return make("label", { className: "wx-chip" }, input, title);
      const bar = make("i"), square = make("b");
      bar.style.width = `${Math.max(1, 100 * score)}%`; square.style.background = bar.style.background = this.css(value);
      return make("label", { className: "wx-class" }, input, square, title, make("em", {}, bar), make("output", { value: score.toFixed(2) }));
    }));
  }

  /** Choose the patch where the CAM of the class is largest. */
  peak() {
    const maps = this.seen.layers[0], values = this.levels(maps, this.seen.shown.indexOf(this.at("label")), this.seen.grid), best = values.indexOf(Math.max(...values));
    this.put("row", Math.floor(best / this.seen.grid[1])); this.put("column", best % this.seen.grid[1]);
  }

  // ---- photographs

  thumbnails() {
    const buttons = this.data.images.map(({ name, picture }, i) => {
      const button = make("button", { type: "button", title: name }, make("img", { src: picture, alt: name }));
      button.dataset.image = i;
      return button;
    });
    const input = make("input", { type: "file", accept: "image/*" });
    const upload = make("label", { className: "wx-own" }, input, make("span", {}, "Your photograph", make("small", {}, "choose, drop or paste")));
    upload.hidden = !this.data.engine && !this.data.live;
    this.find(".wx-pictures").replaceChildren(upload, ...buttons);
    const size = this.data.engine ? `${(this.data.engine.bytes / 1e6).toFixed(0)} MB are loaded once, when you give one; ` : "";
    const hint = this.data.engine ? `Try a photograph of your own: ${size}it stays on your machine.` : this.data.without || "";
    this.find(".wx-engine").textContent = this.data.live ? "" : hint;
    const { more } = this.data;
    if (more) this.find("[data-do=more]").textContent = `Load ${more.names.join(" against ")} (${(more.bytes / 1e6).toFixed(1)} MB)`;
  }

  /** Run the network on a reader's own photograph: in the page, or in the kernel. */
  async take(file) {
    const name = file.name?.replace(/\.[^.]*$/, "") || "pasted", say = (text, share) => this.say(text, share);
    if (this.data.live) {
      const data = await new Promise((done) => { const reader = new FileReader(); reader.onload = () => done(reader.result.split(",")[1]); reader.readAsDataURL(file); });
      return this.ask({ what: "photograph", name, data });
    }
    if (!this.data.engine) return say(this.data.without || "This page holds no model.");
    try {
      const scene = await globalThis.WsssExplorer.look(this.data, file, name, resized, say);
      this.data.images.push(scene);
      await this.decode(scene, this.data.images.length - 1);
      this.thumbnails();
      say(`${name}: ${scene.seconds.toFixed(1)} s. It has not left your machine.`);
      this.choose({ image: this.data.images.length - 1 });
    } catch (error) {
      console.warn(error);
      say(`This photograph could not be processed: ${error.message}`);
    }
  }

  /** Show two further models on the photographs of the page. Their file is loaded only when the reader asks. */
  async compare() {
    await this.more();
    if (this.data.more) return;
    const last = this.data.images[0].variants.length - 1;
    this.choose({ image: this.scene.own ? 0 : this.at("image"), view: "segmentation", variant: last - 1, label: -1, beside: `model ${last}` });
    this.find("[data-key=beside]").focus();
  }

  async more() {
    const { more } = this.data;
    if (!more) return;
    this.say(`Loading what ${more.names.join(" and ")} see …`);
    try {
      const images = JSON.parse(await unzipped(await globalThis.WsssExplorer.load("more", more.source)));
      if (this.data.more) images.forEach((variants, i) => this.data.images[i].variants.push(...variants));
      this.data.more = null;
      this.say(`${more.names.join(" and ")}, computed beforehand, for these photographs only.`);
      this.settle();
    } catch (error) {
      this.say(`The two models could not be loaded: ${error.message}`);
    }
  }

  say(text, share) {
    const line = this.find(".wx-engine");
    line.replaceChildren(text, ...(share === undefined ? [] : [make("progress", { max: 1, value: share, ariaLabel: "Loading" })]));
  }

  async decode(scene, number) {
    const picture = new Image();
    picture.src = scene.picture;
    await picture.decode();
    const [height, width] = scene.size, canvas = make("canvas", { width, height }), context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(picture, 0, 0, width, height);
    this.cache.set(`picture ${number}`, context.getImageData(0, 0, width, height));
  }

  /** Decode all pictures, then paint. */
  async start() {
    await Promise.all(this.data.images.map((scene, i) => this.cache.has(`picture ${i}`) || this.decode(scene, i)));
    if (this.number === 0) { this.follow(); addEventListener("hashchange", () => this.follow()); }
    this.settle();
    this.paint();
  }

  // ---- maps and masks

  /** Plane `place` of a layer's maps at a size. */
  levels(maps, place, size) {
    const values = maps.values || this.kept(maps, () => bytes(maps.data));
    return resized(values, place, maps.grid, size, maps.values ? 1 : 1 / 255);
  }
  plane(variant, layer, place) { return this.kept(`${this.at("image")} ${variant} ${layer} ${place}`, () => this.levels(this.scene.variants[variant].layers[layer], place, this.scene.size)); }
  mask(kept) { return kept instanceof Uint8Array ? kept : this.kept(kept, () => unpack(kept, this.scene.size[0] * this.scene.size[1])); }

  /** Places of the classes that compete for a pixel: those in the image and the chosen one. */
  rivals(variant) {
    const { present, shown } = this.scene.variants[variant], wanted = [...(present || this.scene.present), this.at("label")];
    return shown.map((label, place) => [label, place]).filter(([label]) => wanted.includes(label));
  }

  /** The class of the largest CAM where that is above the threshold, else background. */
  labels(variant, layer) {
    const rivals = this.rivals(variant).map(([label, place]) => [label, this.plane(variant, layer, place)]), threshold = this.at("threshold");
    return Uint8Array.from({ length: this.scene.size[0] * this.scene.size[1] }, (_, i) => {
      let best = threshold, winner = 0;
      for (const [label, plane] of rivals) if (plane[i] > best) { best = plane[i]; winner = label; }
      return winner;
    });
  }

  answersHere() { return this.answers.get(`${this.at("image")} ${this.at("variant")}`) || []; }

  /** What can be drawn over the picture: [key, title]. */
  views() {
    const views = [["photograph", "Photograph"], ["cam", "CAM"], ["labels", "CAM at the threshold"]];
    if (this.seen.pseudo_label) views.push(["pseudo_label", "Pseudo label"]);
    if (this.seen.segmentation) views.push(["segmentation", "Segmentation"]);
    views.push(["alike", "Patches alike"]);
    if (this.scene.truth) views.push(["truth", "Truth"]);
    return [...views, ...this.answersHere().map(([what]) => [what, what])];
  }

  besides() {
    const others = this.views().filter(([key]) => key !== this.at("view") && key !== "alike").map(([key, title]) => [key, title.replace("CAM", "the CAM").replace(/^[PST]/, (letter) => `the ${letter.toLowerCase()}`)]);
    const layer = this.seen.layers.length > 1 && this.at("view") !== "alike" ? [["layer", "the other layer"]] : [];
    const models = this.scene.variants.map(({ name }, i) => [`model ${i}`, `model: ${name}`]).filter((_, i) => i !== this.at("variant"));
    return [["", "nothing"], ...layer, ...models, ...others];
  }

  /** The label map with this key, of a model and layer; null if the key names none. */
  labelMap(key, variant, layer) {
    const seen = this.scene.variants[variant];
    if (key === "labels") return this.labels(variant, layer);
    const kept = { pseudo_label: seen.pseudo_label, segmentation: seen.segmentation, truth: this.scene.truth }[key] || this.answersHere().find(([what]) => what === key)?.[1];
    return kept ? this.mask(kept) : null;
  }

  // ---- affinity of a patch to all others: by tokens, subspaces, and the CAM of each layer as Module B takes it

  likenesses(variant = this.at("variant")) {
    const { codes, layers } = this.scene.variants[variant];
    return [...codes.map(({ name }) => name), ...layers.map(({ name }) => `CAM, ${name}`)];
  }

  /** Affinity to the chosen patch by likeness `chosen`. A model that lacks it (a subspace) uses its tokens instead. */
  alike(chosen, variant = this.at("variant")) {
    const seen = this.scene.variants[variant], number = Math.max(0, this.likenesses(variant).indexOf(this.likenesses()[chosen]));
    const [row, column] = ["row", "column"].map((key, i) => Math.floor(((this.at(key) + 0.5) * seen.grid[i]) / this.seen.grid[i]));
    const index = row * seen.grid[1] + column, code = seen.codes[number];
    if (code) return cosines(code.values || new Int8Array(this.kept(code, () => bytes(code.data)).buffer), code.width, index);
    const layer = seen.layers[number - seen.codes.length], planes = this.rivals(variant).map(([, place]) => this.levels(layer, place, seen.grid));
    const width = planes.length + 1, rows = new Float32Array(seen.grid[0] * seen.grid[1] * width);
    for (let i = 0; i < rows.length / width; i++) {
      rows[i * width] = 1 - Math.max(...planes.map((plane) => plane[i]));
      planes.forEach((plane, k) => { rows[i * width + k + 1] = plane[i]; });
    }
    return cosines(rows, width, index);
  }

  // ---- the picture

  draw() {
    if (this.waiting) return;
    this.waiting = true;
    requestAnimationFrame(() => { this.waiting = false; this.paint(); });
  }

  /** The two sides of the line: [key, model, layer, title]. */
  sides() {
    const [view, beside, variant, layer] = ["view", "beside", "variant", "layer"].map((key) => this.at(key));
    const title = (key, model, which) => {
      const shown = key === "alike" ? this.likenesses()[this.at("alike")] : this.views().find(([other]) => other === key)[1];
      const part = ["cam", "labels"].includes(key) ? `${key === "cam" ? `${this.name(this.at("label"))}, ` : ""}${this.seen.layers[which].name}` : "";
      return `${shown}${part && `: ${part}`}${beside.startsWith("model") ? ` (${this.scene.variants[model].name})` : ""}`;
    };
    const side = (key, model, which) => [key, model, which, title(key, model, which)];
    const sides = [side(view, variant, layer)];
    if (beside === "layer") sides.push(side(["cam", "labels"].includes(view) ? view : "cam", variant, layer ? 0 : 1));
    else if (beside.startsWith("model")) sides.push(side(view, Number(beside.slice(6)), layer));
    else if (beside) sides.push(side(beside, variant, layer));
    return sides;
  }

  paint() {
    const photo = this.cache.get(`picture ${this.at("image")}`);
    if (!photo) return;
    const [height, width] = this.scene.size, context = this.canvas.getContext("2d"), sides = this.sides(), line = Math.round(this.at("split") * width);
    if (this.canvas.width !== width || this.canvas.height !== height) Object.assign(this.canvas, { width, height });
    const pixels = new ImageData(new Uint8ClampedArray(photo.data), width, height), legend = new Set(), texts = [];
    sides.forEach(([key, variant, layer, title], i) => {
      const columns = sides.length === 1 ? [0, width] : i ? [line, width] : [0, line];
      texts.push(`${title}${this.overlay(pixels, key, variant, layer, columns, legend)}`);
    });
    context.putImageData(pixels, 0, 0);
    if (this.at("view") === "alike") this.outline(context);
    if (sides.length > 1) { context.fillStyle = "#fff"; context.fillRect(line - 1, 0, 3, height); context.fillStyle = "#000"; context.fillRect(line, 0, 1, height); }
    this.tell(sides, texts, legend);
    this.el.dataset.ready = String(Number(this.el.dataset.ready || 0) + 1);
  }

  /** Blend what `key` names over columns of the pixels; returns its description, and adds to the legend. */
  overlay(pixels, key, variant, layer, [first, stop], legend) {
    const { width, height, data } = pixels, opacity = this.at("opacity");
    const blend = (i, red, green, blue, share) => { data[4 * i] += (red - data[4 * i]) * share; data[4 * i + 1] += (green - data[4 * i + 1]) * share; data[4 * i + 2] += (blue - data[4 * i + 2]) * share; };
    const heat = (i, value) => { // where values are low, the photograph shows through
      const level = Math.min(1, Math.max(0, value)), at = 3 * Math.round(255 * level);
      blend(i, this.ramp[at], this.ramp[at + 1], this.ramp[at + 2], opacity * (0.35 + 0.65 * level));
    };
    const each = (paint) => { for (let y = 0, i = 0; y < height; y++) for (let x = 0; x < width; x++, i++) if (x >= first && x < stop) paint(i, x, y); };
    const borders = (differ) => each((i, x, y) => { if ((x < width - 1 && differ(i, i + 1)) || (y < height - 1 && differ(i, i + width))) blend(i, 255, 255, 255, 1); });
    if (key === "cam") {
      const place = this.scene.variants[variant].shown.indexOf(this.at("label")), threshold = this.at("threshold");
      if (place < 0) return ": not among the most probable classes of this model, so its map is not kept";
      const plane = this.plane(variant, layer, place);
      each((i) => heat(i, plane[i]));
      borders((i, j) => plane[i] > threshold !== plane[j] > threshold);
      legend.add("ramp");
      return `, white line at ${threshold.toFixed(2)}`;
    }
    if (key === "alike") {
      const { grid } = this.scene.variants[variant], values = this.alike(this.at("alike"), variant);
      each((i, x, y) => heat(i, values[Math.floor((y * grid[0]) / height) * grid[1] + Math.floor((x * grid[1]) / width)]));
      legend.add("ramp");
      return `: mean ${(values.reduce((a, b) => a + b, 0) / values.length).toFixed(2)}`;
    }
    const labels = this.labelMap(key, variant, layer), counts = new Map();
    if (!labels) return "";
    each((i) => { if (labels[i]) blend(i, ...this.colour(labels[i]), opacity); });
    borders((i, j) => labels[i] !== labels[j]);
    for (const label of labels) counts.set(label, (counts.get(label) || 0) + 1);
    for (const label of counts.keys()) if (label) legend.add(label);
    return `: ${[...counts].map(([label, count]) => `${this.name(label)} ${((100 * count) / labels.length).toFixed(0)} %`).join(", ")}`;
  }

  colour(label) { const { palette } = this.data; return palette[label === IGNORE ? palette.length - 1 : label]; }
  css(label) { return `rgb(${this.colour(label).join(",")})`; }

  /** Outline the chosen patch, dark on light. */
  outline(context) {
    const [rows, columns] = this.seen.grid, { width, height } = this.canvas;
    const box = [(this.at("column") * width) / columns, (this.at("row") * height) / rows, width / columns, height / rows];
    for (const [line, colour] of [[4, "#fff"], [2, "#000"]]) { context.lineWidth = line; context.strokeStyle = colour; context.strokeRect(...box); }
  }

  // ---- text

  tell(sides, texts, legend) {
    const tags = this.all(".wx-tag");
    tags.forEach((tag, i) => { tag.textContent = sides[i]?.[3] || ""; tag.hidden = !sides[i] || sides[i][0] === "photograph"; });
    const alt = `${this.scene.alt}. ${texts.join("; left of the line. Right: ")}`;
    this.canvas.setAttribute("aria-label", alt);
    this.frame.setAttribute("aria-label", "The picture. Arrow keys choose a patch and show which others are like it.");
    const chips = [...legend].map((entry) => {
      const square = make("i", entry === "ramp" ? { className: "wx-ramp" } : {});
      if (entry === "ramp") square.style.background = `linear-gradient(90deg, ${[0, 64, 128, 192, 255].map((at) => `rgb(${[...this.ramp.slice(3 * at, 3 * at + 3)].join(",")})`).join(",")})`;
      else square.style.background = this.css(entry);
      return entry === "ramp" ? make("span", {}, "0", square, "1") : make("span", {}, square, this.name(entry));
    });
    this.find(".wx-legend").replaceChildren(...chips);
    const patch = this.at("view") === "alike" ? ` Patch in row ${this.at("row") + 1}, column ${this.at("column") + 1}.` : "";
    clearTimeout(this.soon);
    this.soon = setTimeout(() => { this.find(".wx-status").textContent = `${texts.join("; beside it ")}.${patch}`; }, 250);
    this.find(".wx-about").textContent = this.seen.about;
    const truth = this.scene.truth && this.mask(this.scene.truth), label = this.at("label"), variant = this.at("variant");
    const titles = truth ? ["IoU, %", "outside the object, % of the map", "missed, % of the object", "covers, % of the image"] : ["covers, % of the image"];
    const rows = this.views().map(([key, title]) => [key, title, key === "truth" ? null : this.labelMap(key, variant, this.at("layer"))]).filter(([, , map]) => map);
    this.find("caption").textContent = `Pixels labelled ${this.name(label)}${truth ? "" : "; there is no truth to compare with"}`;
    const cell = (text) => make("th", { scope: "col", textContent: text });
    this.find("thead").replaceChildren(make("tr", {}, cell("label map"), ...titles.map(cell)));
    this.find("tbody").replaceChildren(...rows.map(([, title, map]) => make("tr", {}, make("th", { scope: "row", textContent: title }), ...compare(map, truth, label).slice(truth ? 0 : 3).map((value) => make("td", { textContent: value === null ? "–" : value.toFixed(1) })))));
  }

  /** Go to a step of the tour; beyond its ends, close the tour. */
  step(number) {
    const panel = this.find(".wx-tour"), step = TOUR[number];
    panel.hidden = !step;
    this.tour = number;
    if (!step) return this.find("[data-do=tour]").focus();
    const views = this.views().map(([key]) => key), values = { ...step[0], label: this.seen.shown[0] };
    if (!views.includes(values.view)) values.view = "labels";
    if (values.view === "alike") this.put("row", -1);
    this.choose(values);
    panel.querySelector("p").textContent = step[1](this);
    panel.querySelector("[data-do=back]").disabled = number === 0;
    panel.querySelector("[data-do=next]").hidden = number === TOUR.length - 1;
    panel.querySelector(number === TOUR.length - 1 ? "[data-do=end]" : "[data-do=next]").focus();
  }

  /** Download what is shown, with a line of text below it. */
  save() {
    const { width, height } = this.canvas, copy = make("canvas", { width, height: height + 22 }), context = copy.getContext("2d");
    context.fillStyle = "#fff"; context.fillRect(0, 0, width, height + 22);
    context.drawImage(this.canvas, 0, 0);
    context.fillStyle = "#000"; context.font = "12px sans-serif";
    context.fillText(`${this.scene.name} · ${this.sides().map(([, , , title]) => title).join(" | ")}`, 4, height + 15, width - 8);
    make("a", { href: copy.toDataURL("image/png"), download: `${this.scene.name}-${this.at("view")}.png` }).click();
  }

  // ---- deep links: the values after #explorer?, the photograph by its name

  link() {
    const query = new URLSearchParams({ image: this.scene.name });
    for (const key of Object.keys(START)) if (key !== "image" && this.at(key) !== START[key]) query.set(key, typeof this.at(key) === "number" ? Number(this.at(key).toFixed(3)) : this.at(key));
    this.linked = `#explorer?${query}`;
    location.hash = this.linked;
    navigator.clipboard?.writeText(location.href).catch(() => {});
    this.say(this.scene.own ? "The address holds this view, but not your photograph, which stays with you." : "The address of the page now links to this view.");
  }

  async follow() {
    const [mark, text] = location.hash.split("?");
    if (mark !== "#explorer" || !text || location.hash === this.linked) return;
    const query = Object.fromEntries(new URLSearchParams(text)), values = {};
    for (const key of Object.keys(START)) if (key in query && key !== "image" && (!NUMBERS.includes(key) || Number.isFinite(Number(query[key])))) values[key] = NUMBERS.includes(key) ? Number(query[key]) : query[key];
    const image = this.data.images.findIndex(({ name }) => name === query.image);
    if (values.variant >= this.data.images[0].variants.length || query.beside?.startsWith("model")) await this.more();
    this.choose(image < 0 ? values : { image, ...values });
    this.el.scrollIntoView();
  }

  // ---- what only a kernel can compute

  ask(request) {
    this.find("[data-of=live] span").textContent = "computing …";
    this.model.set("request", { ...request, number: (this.model.get("request")?.number || 0) + 1 });
    this.model.save_changes();
  }

  answered() {
    const answer = this.model.get("answer"), key = `${answer.image} ${answer.variant}`;
    this.find("[data-of=live] span").textContent = answer.message || "";
    if (!answer.mask) return;
    this.answers.set(key, [...(this.answers.get(key) || []).filter(([what]) => what !== answer.name), [answer.name, answer.mask]]);
    this.choose({ view: answer.name, beside: "" });
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
    const { type, textContent } = el.querySelector("script[type^='application/']");
    const text = type.endsWith("gzip") ? unzipped(bytes(textContent)) : textContent;
    const payload = JSON.parse(await text);
    await render({ model: store({ ...START, ...payload.start, payload }), el });
  }
}

globalThis.WsssExplorer = { ...globalThis.WsssExplorer, render, hydrate };
if (typeof document !== "undefined") {
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", () => hydrate());
  else hydrate();
}
})();
