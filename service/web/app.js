/* The page speaks to the service over HTTP only. */

import { $, ask, count, element, scientific } from "./dom.js";
import { holdAgainstTraining, watchDrift } from "./drift.js";

const LOWEST_CONFIDENCE = 0.05; // what the slider can reach without asking again

function showProblem(error) {
  $("problem").textContent = error.message;
  $("problem").hidden = false;
}

/* --- model ------------------------------------------------------------------------------------------------ */

const SOURCES = { official: "official weights", local: "local weights", embedded: "embedded weights" };

function showModel(answer) {
  const { model, engine, engine_warning: warning, source, note } = answer;
  const underLoad = engine.threads_under_load === engine.threads ? "" : `, ${engine.threads_under_load} under load`;
  const batches = engine.max_batch_size === 1 ? "" : `, batches of up to ${engine.max_batch_size}`;
  $("model-line").replaceChildren(
    element("strong", {}, model.name), " ", element("span", { class: "badge" }, SOURCES[source] ?? source),
    ` ${count(model.classes.length, "class", "classes")}, `
      + `${model.input.rect ? "up to " : ""}${model.input.width} × ${model.input.height} px, `,
    `${model.head.kind} head, ${engine.runtime} (${engine.provider.replace("ExecutionProvider", "")}, ${engine.precision}) `
      + `with ${count(engine.threads, "thread")}${underLoad}${batches}, `,
    `version ${model.version}`,
  );
  if (warning) {
    $("engine-warning").textContent = `Warning: ${warning}`;
    $("engine-warning").hidden = false;
  }
  if (note) {
    const classes = model.classes.slice(0, 12).join(", ") + (model.classes.length > 12 ? ", …" : "");
    $("model-note").textContent = `${note} This model knows: ${classes}.`;
    $("model-note").hidden = false;
  }
  $("confidence").value = Math.max(model.default_confidence, LOWEST_CONFIDENCE);
}

/* --- detection -------------------------------------------------------------------------------------------- */

let shown = null; // { file, picture, answer } of the image on the canvas
let newest = 0;

async function detect(file) {
  const turn = ++newest;
  $("problem").hidden = true;
  $("drop").classList.add("busy");
  try {
    const [answer, picture] = await Promise.all([
      ask(`/detect?conf=${LOWEST_CONFIDENCE}`, {
        method: "POST", body: file, headers: { "Content-Type": "application/octet-stream", Accept: "application/json" },
      }),
      createImageBitmap(file).catch(() => null),
    ]);
    if (turn !== newest) return; // a later image was chosen meanwhile
    shown = { file, answer, picture };
    $("result").hidden = false;
    $("hold").disabled = false;
    $("image-drift").hidden = true; // it told of the image before
    showTiming(answer.timing_ms);
    showDetections();
  } catch (error) {
    if (turn === newest) showProblem(error);
  } finally {
    if (turn === newest) $("drop").classList.remove("busy");
  }
}

const hue = (classId) => (classId * 222.49) % 360;

function showDetections() {
  const threshold = Number($("confidence").value);
  $("confidence-value").textContent = String(Number(threshold.toFixed(3)));
  if (!shown) return;
  const found = shown.answer.detections.filter((d) => d.confidence > threshold);
  draw(shown.picture, shown.answer.image, found);
  const perClass = new Map();
  for (const d of found) perClass.set(d.name, (perClass.get(d.name) ?? 0) + 1);
  const summary = [...perClass].map(([name, n]) => `${n} × ${name}`).join(", ") || "Nothing found at this confidence";
  $("summary").textContent = `${summary}.`;
  $("canvas").setAttribute("aria-label", `The image with ${count(found.length, "box", "boxes")} drawn`);
  $("detections").replaceChildren(...found.map(detectionRow));
}

function detectionRow({ name, class: classId, confidence, box }) {
  const swatch = element("svg:svg", { class: "swatch", width: 12, height: 12, "aria-hidden": "true" },
    element("svg:rect", { width: 12, height: 12, rx: 3, fill: `hsl(${hue(classId)} 75% 50%)` }));
  const px = (v) => Math.round(v);
  return element("tr", {},
    element("td", {}, swatch, name),
    element("td", { class: "number" }, confidence.toFixed(3)),
    element("td", { class: "number" }, `${px(box.x1)}, ${px(box.y1)}`),
    element("td", { class: "number" }, `${px(box.x2 - box.x1)} × ${px(box.y2 - box.y1)}`));
}

function draw(picture, { width, height }, found) {
  const canvas = $("canvas");
  const scale = Math.min(1, 1600 / Math.max(width, height));
  canvas.width = Math.max(1, Math.round(width * scale));
  canvas.height = Math.max(1, Math.round(height * scale));
  const pen = canvas.getContext("2d");
  if (picture) pen.drawImage(picture, 0, 0, canvas.width, canvas.height);
  const unit = Math.max(canvas.width, canvas.height) / 640;
  pen.lineWidth = Math.max(1.5, 2 * unit);
  pen.font = `600 ${Math.max(11, 13 * unit)}px system-ui, sans-serif`;
  pen.textBaseline = "top";
  for (const { name, class: classId, confidence, box } of [...found].reverse()) {
    const [x, y, x2, y2] = [box.x1, box.y1, box.x2, box.y2].map((v) => v * scale);
    pen.strokeStyle = `hsl(${hue(classId)} 85% 50%)`;
    pen.strokeRect(x, y, x2 - x, y2 - y);
    const text = `${name} ${confidence.toFixed(2)}`;
    const lineHeight = Math.max(14, 17 * unit);
    const left = Math.max(0, Math.min(x, canvas.width - pen.measureText(text).width - 6));
    const top = y >= lineHeight ? y - lineHeight : y;
    pen.fillStyle = `hsl(${hue(classId)} 85% 25%)`;
    pen.fillRect(left, top, pen.measureText(text).width + 6, lineHeight);
    pen.fillStyle = "#fff";
    pen.fillText(text, left + 3, top + 2);
  }
}

function showTiming(ms) {
  const steps = ["queue", "decode", "inference", "postprocess"].map((step) => `${step} ${ms[step].toFixed(1)}`);
  $("timing").textContent = `${ms.total.toFixed(1)} ms in the service: ${steps.join(", ")}.`;
}

/* --- gain ------------------------------------------------------------------------------------------------- */

function verdictSentence({ verdict, speedup, ci95_low: low, ci95_high: high }) {
  const interval = `95 % interval ${low.toFixed(2)} to ${high.toFixed(2)}`;
  if (verdict === "gain") return `A gain: ${speedup.toFixed(2)} times as fast (${interval}).`;
  if (verdict === "loss") return `A loss: ${speedup.toFixed(2)} times as fast (${interval}).`;
  return `Nothing that this measurement can tell from noise: ${speedup.toFixed(2)} times as fast (${interval}).`;
}

function showLatency(latency) {
  const [first, ...others] = latency.series;
  $("verdicts").replaceChildren(...verdictItems(first, ""));
  $("more-verdicts").replaceChildren(...others.flatMap((series) => verdictItems(series, `${seriesTitle(series)}. `)));
  $("more-gain").hidden = others.length === 0;
  for (const body of $("arms").querySelectorAll("tbody")) body.remove();
  $("arms").append(...latency.series.map((series) => seriesRows(series, latency.memory)));
  const { machine } = latency;
  $("machine").textContent = `Measured ${latency.measured_at} on ${machine.cpu}, ${count(machine.cores, "core")}, ` +
    `${count(latency.threads, "thread")}, ${latency.imgsz} px.`;
  $("not-measured").replaceChildren(...latency.not_measured.map(({ question, reason }) =>
    element("li", {}, element("strong", {}, question), ` ${reason}`)));
  $("left-open").hidden = latency.not_measured.length === 0;
}

function verdictItems(series, prefix) {
  return series.comparisons.map((comparison) => element("li", { class: comparison.verdict },
    prefix, element("strong", {}, comparison.question), " ", verdictSentence(comparison)));
}

function seriesTitle({ kind, device, batch, callers }) {
  return `${kind === "latency" ? "Latency" : "Throughput"} on ${device}, batch ${batch}, ${count(callers, "caller")}`;
}

/** A body of the table: how the series was taken, then its arms. */
function seriesRows(series, memory) {
  const { arms, null_control: control, rounds, dropped_rounds: dropped, other_cores: others } = series;
  const how = `${seriesTitle(series)}: ${count(rounds, "round")} (${dropped} more dropped), the same graph against itself ` +
    `${control.ci95_low.toFixed(2)} to ${control.ci95_high.toFixed(2)}` +
    (others === null ? "." : `, ${others.toFixed(1)} cores busy with other work.`);
  const longest = Math.max(...arms.map((arm) => arm.p95_ms));
  const peaks = new Map(series.kind === "latency" && series.device === "cpu"
    ? memory.filter((item) => item.batch === series.batch).map((item) => [item.arm, item]) : []);
  return element("tbody", {},
    element("tr", {}, element("th", { scope: "rowgroup", colspan: 10 }, how)),
    ...arms.map((arm) => armRow(arm, longest, peaks.get(arm.name))));
}

function armRow(arm, longest, peak) {
  const number = (text) => element("td", { class: "number" }, text);
  const above = peak && `${megabytes(peak.peak_bytes - peak.baseline_bytes)} above ${megabytes(peak.baseline_bytes)}`;
  return element("tr", { class: "arm" },
    element("td", {}, arm.title), number(arm.median_ms.toFixed(2)),
    number(`${arm.p05_ms.toFixed(2)} – ${arm.p95_ms.toFixed(2)}`),
    element("td", { class: "bar-cell" }, rangeBar(0, longest, arm.p05_ms, arm.p95_ms, arm.median_ms)),
    number(arm.images_per_second.toFixed(1)), number(arm.nodes ?? "–"), number(arm.batch_normalizations),
    number(megabytes(arm.bytes)), number(arm.load_ms.toFixed(0)), number(above ?? "–"));
}

const megabytes = (bytes) => (bytes / 1e6).toFixed(1);

/** A bar of [low, high] on the axis [from, to], with the median marked. */
function rangeBar(from, to, low, high, median) {
  const at = (value) => (to > from ? ((value - from) / (to - from)) * 100 : 50);
  const rect = (kind, a, b, y, height) =>
    element("svg:rect", { class: kind, x: at(a), y, width: Math.max(0.6, at(b) - at(a)), height });
  return element("svg:svg", { viewBox: "0 0 100 12", preserveAspectRatio: "none", width: "100%", height: 12, "aria-hidden": "true" },
    rect("range", from, median, 3, 6), rect("core", low, high, 3, 6),
    element("svg:rect", { class: "median", x: at(median) - 0.4, y: 0, width: 0.8, height: 12 }));
}

/* --- proof ------------------------------------------------------------------------------------------------ */

function startupWords(start) {
  const time = `in ${start.duration_ms.toFixed(0)} ms`;
  if (start.boxes) {
    return `${start.runtime} repeated ${start.matched} of ${count(start.boxes, "stored box", "stored boxes")} ${time}, ` +
      `${scientific(start.max_box_difference_px)} px off at most (allowed: ${scientific(start.box_tolerance_px)} px).`;
  }
  return start.highest_confidence
    ? `${start.runtime} repeated the highest confidence to ${scientific(start.max_confidence_difference)} ${time}. ` +
      "Rounding decides which boxes this network answers, so none is compared."
    : `${start.runtime} answered no box ${time}, and that is all this check sees: the network answers none to any of ` +
      "the pictures it was proved on.";
}

function showProof({ layers, worst_layer: name, end_to_end: whole, startup_check: start, not_folded: left }) {
  const worst = layers.find((layer) => layer.name === name);
  const proofs = {
    "Layer by layer": worst ? `each of ${count(layers.length, "folded layer")} is within the bound of float32 arithmetic. ` +
      `Nearest to it comes ${worst.name}: ${scientific(worst.relative_error)} of ${scientific(worst.tolerance)}.`
      : "there was nothing to fold.",
    "End to end": `on ${count(whole.inputs.length, "picture")} the folded network differs by ` +
      `${scientific(whole.max_relative_difference)} at most (allowed: ${scientific(whole.tolerance)}); ` +
      `${whole.matched} of ${count(whole.detections, "box", "boxes")} repeated, ${whole.extra} added.`,
    "When this process started": startupWords(start),
  };
  // What failed would not be served, so there is no page on which these could be anything but passed.
  $("proofs").replaceChildren(...Object.entries(proofs).map(([title, text]) =>
    element("li", { class: "gain" }, element("strong", {}, `${title}:`), " ", text)));
  const kept = left.filter((layer) => layer.status === "unfoldable");
  $("not-folded").textContent = kept.length
    ? `Kept in the deployed graph: ${kept.map((layer) => `${layer.name} (${layer.reason})`).join("; ")}.`
    : "No BatchNorm is left in the deployed graph.";
}

/* --- BatchNorm layers ------------------------------------------------------------------------------------- */

let layers = [];
let gammaAxis = [0, 1];

function showBatchNorm(answer) {
  layers = answer.layers;
  gammaAxis = [Math.min(0, ...layers.map((l) => l.gamma.min)), Math.max(0, ...layers.map((l) => l.gamma.max))];
  const { totals } = answer;
  const figures = { Layers: totals.layers, Channels: totals.channels, Folded: totals.folded, Dropped: totals.dropped,
    "Cannot be folded": totals.unfoldable, "Dead channels": totals.dead_channels,
    "eps-dominated channels": totals.eps_dominated_channels };
  $("totals").replaceChildren(...Object.entries(figures).map(([name, value]) =>
    element("div", {}, element("dt", {}, name), element("dd", {}, value.toLocaleString("en")))));
  $("thresholds").replaceChildren(...Object.entries(answer.thresholds).flatMap(([name, { value, meaning }]) => [
    element("dt", {}, name.replaceAll("_", " ") + (value === null ? "" : `: ${value}`)), element("dd", {}, meaning)]));
  showWarnings(answer.warnings);
  showLatency(answer.latency);
  showLayers();
}

function showWarnings(warnings) {
  const perSeverity = new Map();
  for (const { severity } of warnings) perSeverity.set(severity, (perSeverity.get(severity) ?? 0) + 1);
  $("warnings-title").textContent = `Worth knowing: ${[...perSeverity].map(([name, n]) => `${n} ${name}`).join(", ")}`;
  $("warning-list").replaceChildren(...warnings.map(({ code, severity, layer, message, action }) =>
    element("li", { class: severity === "critical" ? "loss" : "" },
      element("strong", {}, `${severity}, ${code}`), ` ${layer ?? "whole network"}: ${message} ${action}`)));
  $("warnings").hidden = warnings.length === 0;
  $("warnings").open = perSeverity.has("critical");
}

function showLayers() {
  const status = $("status").value;
  const words = $("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  const matches = layers.filter((layer) => {
    const noteworthy = layer.dead_channels.length + layer.eps_dominated_channels.length > 0;
    if (status === "noteworthy" ? !noteworthy : status && layer.status !== status) return false;
    const text = [layer.name, layer.conv, layer.kind, layer.block, layer.stage, layer.activation].join(" ").toLowerCase();
    return words.every((word) => text.includes(word));
  });
  $("shown").textContent = `${matches.length} of ${count(layers.length, "layer")}`;
  $("layers").replaceChildren(...matches.map(layerRow));
}

function layerRow(layer) {
  const status = element("td", { title: layer.reason ?? "" }, layer.status);
  const fold = element("td", { class: "number" }, "–");
  if (layer.fold) {
    fold.textContent = scientific(layer.fold.relative_error);
    fold.classList.add(layer.fold.passed ? "good" : "bad");
    fold.title = `tolerance ${scientific(layer.fold.tolerance)}`;
  }
  const number = (value) => element("td", { class: "number" }, value);
  return element("tr", {},
    element("th", { scope: "row" }, layer.name), element("td", {}, `${layer.block}, ${layer.stage}`),
    element("td", {}, layer.kind ?? "–"), number(layer.channels), element("td", {}, layer.activation ?? "–"),
    element("td", {}, gammaBox(layer.gamma)), number(layer.dead_channels.length),
    number(layer.eps_dominated_channels.length), status, fold);
}

/** Percentiles of gamma on an axis that all layers share. */
function gammaBox(gamma) {
  const [from, to] = gammaAxis;
  const at = (value) => (to > from ? ((value - from) / (to - from)) * 160 : 80);
  const text = `gamma ${gamma.min.toFixed(3)} to ${gamma.max.toFixed(3)}, 5 % ${gamma.p05.toFixed(3)}, ` +
    `median ${gamma.p50.toFixed(3)}, 95 % ${gamma.p95.toFixed(3)}`;
  const bar = (kind, a, b, y, height) =>
    element("svg:rect", { class: kind, x: at(a), y, width: Math.max(1, at(b) - at(a)), height });
  return element("svg:svg", { width: 160, height: 14, role: "img", "aria-label": text }, element("svg:title", {}, text),
    bar("range", gamma.min, gamma.max, 6, 2), bar("core", gamma.p05, gamma.p95, 3, 8),
    element("svg:line", { class: "zero", x1: at(0), x2: at(0), y1: 0, y2: 14 }),
    element("svg:rect", { class: "median", x: at(gamma.p50) - 1, y: 1, width: 2, height: 12 }));
}

/* --- wiring ----------------------------------------------------------------------------------------------- */

const firstImage = (transfer) => [...(transfer?.files ?? [])][0];

$("file").addEventListener("change", ({ target }) => {
  if (target.files[0]) detect(target.files[0]);
  target.value = ""; // so that the same file can be chosen again
});
for (const kind of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    $("drop").classList.toggle("over", kind === "dragover");
    const file = kind === "drop" && firstImage(event.dataTransfer);
    if (file) detect(file);
  });
}
document.addEventListener("paste", (event) => {
  const file = firstImage(event.clipboardData);
  if (file) detect(file);
});
$("confidence").addEventListener("input", showDetections);
$("hold").addEventListener("click", () => holdAgainstTraining(shown.file).catch(showProblem));
$("status").addEventListener("change", showLayers);
$("search").addEventListener("input", showLayers);

ask("/model").then((answer) => {
  showModel(answer);
  showDetections();
}).catch(showProblem);
ask("/model/fold").then(showProof).catch(showProblem);
ask("/model/bn-stats").then(showBatchNorm).catch(showProblem);
watchDrift().catch(showProblem);
