/* Whether the pictures look like those the network was trained on: of live traffic, and of the image on the page. */

import { $, ask, count, element } from "./dom.js";

const EVERY_MS = 10_000;
const STATES = {
  off: "Not watched: YOLOFOLD_DRIFT_CPU is 0.",
  calibrating: "Gathering what normal pictures look like.",
  watching: "The pictures look like those of the calibration.",
  drifting: "The pictures have drifted away from those of the calibration.",
};

/** Shows the drift of live pictures, and shows it anew for as long as somebody looks at the page. */
export async function watchDrift() {
  showDrift(await ask("/model/drift"));
  setInterval(async () => {
    // The next round asks again, and a service that is gone is told of by what the user does.
    if (document.visibilityState === "visible") await ask("/model/drift").then(showDrift, () => {});
  }, EVERY_MS);
}

function showDrift(drift) {
  const { state, baseline, onset, problems, sampled, window: size } = drift;
  $("drift-state").className = { watching: "good", drifting: "bad" }[state] ?? "";
  $("drift-state").textContent = STATES[state] + (onset ? ` Since ${moment(onset)}.` : "");
  const clean = baseline.threshold === null
    ? `Calibration: ${baseline.pictures.toLocaleString("en")} of ${count(baseline.wanted, "picture")} seen.`
    : `Calibration: ${count(baseline.pictures, "picture")}, ` +
      `${baseline.source === "file" ? "from a folder" : "the first ones served"}, ${moment(baseline.created_at)}.`;
  $("drift-note").textContent = state === "off" ? "" :
    `${count(sampled, "picture")} sampled so far, judged by windows of ${size}. ${clean}`;
  $("drift-problems").replaceChildren(...problems.map((text) => element("li", { class: "loss" }, text)));
  showWindows(drift.windows.filter((item) => item.score !== null), baseline.threshold);
}

/** One bar a window, and a line where the alarm begins. */
function showWindows(windows, threshold) {
  $("drift-windows").replaceChildren();
  if (windows.length === 0 || threshold === null) return;
  const highest = Math.max(threshold, ...windows.map((item) => item.score)) * 1.05;
  const height = (score) => (score / highest) * 60;
  const bars = windows.map(({ score, alarm, ended_at: ended }, place) =>
    element("svg:rect", { class: alarm ? "alarm" : "core", x: place * 6, y: 60 - height(score), width: 5, height: height(score) },
      element("svg:title", {}, `${moment(ended)}: ${score.toFixed(2)}`)));
  const width = windows.length * 6, line = 60 - height(threshold);
  const text = `Scores of ${count(windows.length, "window")}, the last ${windows.at(-1).score.toFixed(2)}; ` +
    `the alarm begins at ${threshold.toFixed(2)}.`;
  $("drift-windows").append(
    element("svg:svg", { viewBox: `0 0 ${width} 60`, width: Math.min(width, 1536), height: 60, role: "img", "aria-label": text },
      ...bars, element("svg:line", { class: "zero", x1: 0, x2: width, y1: line, y2: line })),
    element("figcaption", { class: "quiet" }, text));
}

/** Asks the service about one image: how far it lies from training, and what its preprocessing looks like. */
export async function holdAgainstTraining(file) {
  const options = { method: "POST", body: file, headers: { "Content-Type": "application/octet-stream", Accept: "application/json" } };
  $("hold").disabled = true;
  try {
    const drift = await ask("/model/drift/image", options);
    const lint = await ask("/model/lint", options);
    showImage(drift, lint);
  } finally {
    $("hold").disabled = false;
  }
}

function showImage({ image, score, training, layers }, lint) {
  const findings = lint.findings.map(({ title, advice, probability }) => element("li", { class: "loss" },
    element("strong", {}, title), probability === null ? ". " : ` (probability ${probability.toFixed(2)}). `, advice));
  const unjudged = lint.calibrated ? "" : " Colours, geometry and sharpness are judged once there is a calibration.";
  if (findings.length === 0) findings.push(element("li", {}, `The linter found no fault.${unjudged}`));
  const whole = score === null ? "" : ` Its distance from the calibration is ${score.toFixed(2)}; single pictures scatter more than windows.`;
  const distance = training === null ? "no BatchNorm tells what training was like"
    : `${training.symmetric_kl.toFixed(2)} nats a channel from training, over ${count(training.channels, "channel")}`;
  $("image-title").textContent = `The ${image.width} × ${image.height} image: ${distance}.${whole}`;
  $("image-findings").replaceChildren(...findings);
  const judged = layers.filter((layer) => layer.training !== null);
  const furthest = Math.max(...judged.map((layer) => layer.training.symmetric_kl));
  $("image-layers").replaceChildren(...judged.map((layer) => layerRow(layer, furthest)));
  $("image-drift").hidden = false;
}

function layerRow({ name, training, worst_channels: worst, revived }, furthest) {
  const number = (value) => element("td", { class: "number" }, value);
  return element("tr", {},
    element("th", { scope: "row" }, name), number(training.z_rms.toFixed(2)),
    number(training.log_variance_ratio.toFixed(2)), number(training.symmetric_kl.toFixed(2)),
    element("td", { class: "bar-cell" }, bar(training.symmetric_kl / furthest)),
    element("td", {}, worst.join(", ")), element("td", {}, revived.join(", ") || "–"));
}

function bar(share) {
  return element("svg:svg", { viewBox: "0 0 100 12", preserveAspectRatio: "none", width: "100%", height: 12, "aria-hidden": "true" },
    element("svg:rect", { class: "core", x: 0, y: 2, width: Math.max(0.6, 100 * share), height: 8 }));
}

const moment = (utc) => new Date(utc).toLocaleString("en", { dateStyle: "medium", timeStyle: "medium" });
