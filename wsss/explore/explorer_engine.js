// The network in the reader's own browser, on one thread. ONNX Runtime Web, its wasm, the graph and the weights come as
// scripts or lie in the page, so that it works over file:// and http. Nothing is sent anywhere. A classic script.
(() => {
"use strict";

const parts = new Map();
let ready = null;

/** Keep a part: each script of parts calls this with its bytes in base64. */
const part = (name, text) => parts.set(String(name), text);

const script = (values) => new Promise((done, fail) => {
  const element = Object.assign(document.createElement("script"), values, { onload: done, onerror: () => fail(new Error("a file beside the page could not be loaded")) });
  document.head.append(element);
  if (!values.src) done();
});

/** Bytes of a part, which lies in the page or in a script beside it. */
async function load(name, address) {
  const inline = document.querySelector(`script[data-wsss-part="${name}"]`);
  if (!inline) await script({ src: address });
  const text = atob(inline ? inline.textContent : parts.get(String(name))), bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  parts.delete(String(name));
  return bytes;
}

/** Bytes of all parts of the model, one after the other; `say` is told the share that has come. */
async function collect({ parts: count, source, bytes }, say) {
  const blob = new Uint8Array(bytes);
  for (let number = 0, at = 0; number < count; number++) {
    say("Loading the model …", number / count);
    const more = await load(number, `${source}${number}.js`);
    blob.set(more, at);
    at += more.length;
    await new Promise((next) => setTimeout(next)); // lets the browser paint the bar
  }
  return blob;
}

const unzipped = async (bytes) => new Uint8Array(await new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).arrayBuffer());

/** The runtime's session; `ready` keeps it, so that a page loads it once. */
async function session(engine, say) {
  const blob = await collect(engine, say);
  say("Starting the model …", 1);
  const files = {};
  for (const [name, [start, stop]] of Object.entries(engine.files)) files[name] = await unzipped(blob.subarray(start, stop));
  await script({ textContent: new TextDecoder().decode(files.runtime) });
  const { ort } = globalThis;
  ort.env.logLevel = "error";
  Object.assign(ort.env.wasm, { numThreads: 1, wasmBinary: files.binary, wasmPaths: { mjs: URL.createObjectURL(new Blob([files.module], { type: "text/javascript" })) } });
  return ort.InferenceSession.create(files.graph, { executionProviders: ["wasm"], logSeverityLevel: 3, externalData: [{ path: engine.weights, data: files.weights }] });
}

/** For each of `to` places along a side: the first of the `from` pixels that count, and the pixels' weights in 22 bits, as
 * in Pillow's bilinear filter. */
function filter(from, to) {
  const scale = from / to, stretch = Math.max(scale, 1);
  return Array.from({ length: to }, (_, i) => {
    const centre = (i + 0.5) * scale, first = Math.max(0, Math.trunc(centre - stretch + 0.5)), stop = Math.min(from, Math.trunc(centre + stretch + 0.5));
    const weights = Array.from({ length: stop - first }, (_, x) => Math.max(0, 1 - Math.abs((x + first - centre + 0.5) * (1 / stretch))));
    const sum = weights.reduce((a, b) => a + b, 0);
    return [first, weights.map((weight) => Math.floor((weight / sum) * 2 ** 22 + 0.5))];
  });
}

/** One pass of the filter along a side: `values` (lines, from, inner) -> bytes (lines, to, inner). */
function pass(values, lines, from, to, inner) {
  const places = filter(from, to), out = new Uint8Array(lines * to * inner);
  for (let line = 0, at = 0; line < lines; line++) for (const [first, weights] of places) for (let k = 0, start = (line * from + first) * inner; k < inner; k++, at++) {
    let sum = 2 ** 21;
    for (let j = 0; j < weights.length; j++) sum += weights[j] * values[start + k + j * inner];
    out[at] = Math.min(255, Math.floor(sum / 2 ** 22));
  }
  return out;
}

/** A photograph (RGBA) squashed to a square, equal to Pillow 13 to the bit: planes of red, green, blue in 0..255. Pillow
 * rounds between its two passes. It takes the vertical pass first if the height shrinks by more than twice as much. */
function squashed({ data, width, height }, size) {
  const across = (values, rows) => pass(values, rows, width, size, 4), down = (values, columns) => pass(values, 1, height, size, columns * 4);
  const isTall = height > size && height - size > 2 * (width - size);
  const square = isTall ? across(down(data, width), size) : down(across(data, height), size);
  return Float32Array.from({ length: 3 * size * size }, (_, i) => square[4 * (i % (size * size)) + Math.floor(i / (size * size))]);
}

/** The same without a filter, as in the base (Deviations D18). */
function plainly({ data, width, height }, size, resized) {
  const planes = new Float32Array(3 * size * size);
  for (let c = 0; c < 3; c++) planes.set(resized(Float32Array.from({ length: width * height }, (_, i) => data[4 * i + c]), 0, [height, width], [size, size]), c * size * size);
  return planes;
}

/** Size at which a picture is shown, (height, width): at most `largest` on the longer side. */
const shown = ({ width, height }, largest) => [height, width].map((side) => Math.max(1, Math.floor(side * Math.min(1, largest / Math.max(width, height)) + 0.5)));

/** Pixels of a file, upright, without a change of colours by its profile. */
async function read(file) {
  const bitmap = await createImageBitmap(file, { imageOrientation: "from-image", colorSpaceConversion: "none", premultiplyAlpha: "none" });
  const canvas = Object.assign(document.createElement("canvas"), { width: bitmap.width, height: bitmap.height }), context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  return [canvas, context.getImageData(0, 0, bitmap.width, bitmap.height)];
}

/** Run the network on a file; return an image as in the explorer's payload, with maps as numbers. */
async function look({ engine, classes, model }, file, name, resized, say) {
  const [canvas, pixels] = await read(file).catch(() => { throw new Error("this browser cannot read it as a picture"); });
  ready ||= session(engine, say);
  const network = await ready.catch((error) => { ready = null; throw error; });
  say(`Looking at ${name} …`);
  await new Promise((next) => setTimeout(next, 30));
  const started = performance.now(), { ort } = globalThis, side = model.size, count = classes.length - 1;
  const image = model.plain ? plainly(pixels, side, resized) : squashed(pixels, side);
  const seen = await network.run({ pixels: new ort.Tensor("float32", image, [1, 3, side, side]), label: new ort.Tensor("float32", new Float32Array(count), [1, count]) });
  const seconds = (performance.now() - started) / 1000;
  const size = shown(pixels, model.largest), small = Object.assign(document.createElement("canvas"), { width: size[1], height: size[0] });
  Object.assign(small.getContext("2d"), { imageSmoothingQuality: "high" }).drawImage(canvas, 0, 0, size[1], size[0]);
  const probability = [...seen.probability.data], highest = Math.max(...probability), isPresent = probability.map((value) => value > 0.5 || value === highest);
  const order = probability.map((_, i) => i).sort((a, b) => probability[b] + isPresent[b] - probability[a] - isPresent[a]);
  const present = order.filter((i) => isPresent[i]), places = order.slice(0, Math.max(model.most, present.length));
  const layer = (maps, title) => ({ name: title, grid: [side, side], values: Float32Array.from(places.flatMap((i) => [...maps.data.subarray(i * side * side, (i + 1) * side * side)])) });
  const [, n, d] = seen.tokens.dims, grid = model.grid;
  const codes = [{ name: "tokens", width: d, values: seen.tokens.data }, { name: "tokens, aux layer", width: d, values: seen.aux_tokens.data }];
  if (seen.codes) {
    const [, , subspaces, width] = seen.codes.dims;
    for (let k = 0; k < subspaces; k++) codes.push({ name: `subspace ${k + 1}`, width, values: Float32Array.from({ length: n * width }, (_, i) => seen.codes.data[(Math.floor(i / width) * subspaces + k) * width + (i % width)]) });
  }
  return {
    name, seconds, size, own: true, alt: `${name}, predicted to show ${present.map((i) => classes[i + 1]).join(", ")}`, picture: small.toDataURL("image/jpeg", 0.9),
    present: present.map((i) => i + 1), known: false, truth: null,
    variants: [{
      name: model.name, about: model.about, shown: places.map((i) => i + 1), scores: places.map((i) => probability[i]), grid, codes,
      layers: [layer(seen.cam, model.layers[0]), layer(seen.aux_cam, model.layers[1])],
      segmentation: seen.segmentation ? winners(seen.segmentation, size, resized) : null,
      pseudo_label: seen.pseudo_label ? nearest(seen.pseudo_label.data, side, size) : null,
    }],
  };
}

/** The class of the largest logit at every pixel. */
function winners({ data, dims: [, classes, rows, columns] }, size, resized) {
  const labels = new Uint8Array(size[0] * size[1]), best = resized(data, 0, [rows, columns], size);
  for (let label = 1; label < classes; label++) {
    const plane = resized(data, label, [rows, columns], size);
    for (let i = 0; i < plane.length; i++) if (plane[i] > best[i]) { best[i] = plane[i]; labels[i] = label; }
  }
  return labels;
}

const nearest = (labels, side, [height, width]) => Uint8Array.from({ length: height * width }, (_, i) => labels[Math.floor(((Math.floor(i / width) + 0.5) * side) / height) * side + Math.floor((((i % width) + 0.5) * side) / width)]);

globalThis.WsssExplorer = { ...globalThis.WsssExplorer, part, load, look, squashed };
})();
