"use strict";
// Everything that came with the data is written as text, never as markup; Plotly, which reads tags in labels, is
// given names only through `plain`.

const $ = (selector, root = document) => root.querySelector(selector);
const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];
const charts = JSON.parse($("#charts").textContent);
const state = { axis: "step", range: "detail", scale: "linear", hidden: new Set() };

// Colours ---------------------------------------------------------------------------------------------------------

const THEMES = ["auto", "light", "dark"];
const systemIsDark = matchMedia("(prefers-color-scheme: dark)");

function setTheme(theme) {
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  const button = $("#theme");
  const shown = theme[0].toUpperCase() + theme.slice(1);
  $("span", button).textContent = shown;
  button.ariaLabel = `Colours: ${shown}`;
  draw();
}

$("#theme").addEventListener("click", () => {
  const now = document.documentElement.dataset.theme ?? "auto";
  setTheme(THEMES[(THEMES.indexOf(now) + 1) % THEMES.length]);
});
systemIsDark.addEventListener("change", draw);

function colour(name) {
  // A custom property reads back as written; only a real property is resolved to the scheme in force.
  const probe = document.body.appendChild(document.createElement("i"));
  probe.style.color = `var(--${name})`;
  const resolved = getComputedStyle(probe).color;
  probe.remove();
  return resolved;
}

// Charts ----------------------------------------------------------------------------------------------------------

const plain = (text) => String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;");
const role = (curve) => ({ train: "train", test: "tested" })[curve.kind] ?? (curve.weights === "averaged" ? "averaged" : "raw");
const timeUnit = (seconds) => (seconds < 180 ? [1, "seconds"] : seconds < 10800 ? [60, "minutes"] : [3600, "hours"]);
const has = (values) => values?.some((value) => value !== null);

function axisOf(curves) {
  const end = Math.max(0, ...curves.flatMap((curve) => curve[state.axis]));
  const [unit, title] = state.axis === "seconds" ? timeUnit(end) : [1, `${state.axis}s`];
  return { of: (curve) => curve[state.axis].map((value) => value === null ? null : value / unit), title, end: end / unit, form: { step: ",.0f", epoch: ".2f", seconds: ".1f" }[state.axis] };
}

function layout(x, y) {
  const ink = colour("muted"), grid = colour("grid"), line = colour("line");
  const axis = { color: ink, gridcolor: grid, linecolor: line, zeroline: false, separatethousands: true, exponentformat: "none", automargin: true, ticks: "", fixedrange: coarse() };
  return {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", showlegend: false, autosize: true,
    margin: { l: 48, r: 14, t: 8, b: 40 }, dragmode: coarse() ? false : "zoom", hovermode: "x unified",
    font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: ink },
    hoverlabel: { bgcolor: colour("card"), bordercolor: line, font: { color: colour("ink"), size: 12 } },
    xaxis: { ...axis, showgrid: false, showline: true, ...x, title: { text: x.title, standoff: 8, font: { size: 12 } } },
    yaxis: { ...axis, nticks: 6, ...y },
  };
}

// A finger should scroll the page, not the chart.
const coarse = () => matchMedia("(pointer: coarse)").matches;
const CONFIG = { displayModeBar: false, responsive: true, displaylogo: false };

// As many decimals as tell one tick from the next; `unit` is what the axis counts, 0.01 for percent.
function ticks(values, unit, zero) {
  const known = values.filter((value) => value !== null), low = zero ? 0 : Math.min(...known), span = Math.max(...known) - low;
  const decimals = span > 0 ? Math.min(8, Math.max(0, Math.ceil(-Math.log10(span / unit / 10)))) : 3;
  return unit === 0.01 ? `.${decimals}~%` : `,.${decimals}~f`;
}

const shownValues = (value) => charts.curves.filter((curve) => !state.hidden.has(curve.name)).flatMap((curve) => curve[value]);

function lines(value, x, form) {
  return charts.curves.flatMap((curve) => {
    if (!has(curve[value]) || state.hidden.has(curve.name)) return [];
    const tint = colour(role(curve)), mean = curve[`${value}_mean`], few = curve.step.length <= 40;
    const common = { type: "scatter", x: x.of(curve), hovertemplate: `%{y:${form}}`, meta: { curve: curve.name } };
    const alone = curve.kind === "test" || curve.step.length === 1;
    const main = {
      ...common, y: curve[value], name: plain(curve.name), opacity: mean ? 0.3 : 1,
      mode: alone ? "markers" : few && curve.kind !== "train" ? "lines+markers" : "lines",
      line: { color: tint, width: mean ? 1 : 2 },
      marker: { color: tint, size: alone ? 10 : 5, symbol: curve.kind === "test" ? "diamond" : "circle" },
    };
    return mean ? [main, { ...common, y: mean, mode: "lines", line: { color: tint, width: 2 }, hoverinfo: "skip", hovertemplate: null }] : [main];
  });
}

// Without the first quarter, whose steep change would press all that follows flat.
function closeUp(value, x) {
  if (state.range === "whole") return {};
  const shown = charts.curves.filter((curve) => !state.hidden.has(curve.name));
  const values = shown.flatMap((curve) => {
    const at = x.of(curve);
    return (curve[`${value}_mean`] ?? curve[value]).filter((y, k) => y !== null && at[k] > 0.25 * x.end);
  });
  if (values.length < 3) return {};
  const log = value === "loss" && state.scale === "log", scaled = log ? values.filter((y) => y > 0).map(Math.log10) : values;
  const low = Math.min(...scaled), high = Math.max(...scaled), pad = 0.08 * (high - low) || 0.05;
  return { range: [low - pad, high + pad] };
}

function drawLearning() {
  const x = axisOf(charts.curves);
  const across = { title: x.title, range: [0, 1.03 * x.end || 1], hoverformat: x.form, unifiedhovertitle: { text: `%{x:${x.form}} ${x.title}` } };
  const close = closeUp("loss", x), wide = state.scale === "log" && !(close.range?.[1] - close.range?.[0] < 0.7);
  const plot = (id, traces, y) => Plotly.react(id, traces, layout(across, y), CONFIG);
  const accuracy = closeUp("accuracy", x);
  plot("chart-accuracy", lines("accuracy", x, ".2%"), { tickformat: ticks(accuracy.range ?? shownValues("accuracy"), 0.01), ...accuracy });
  plot("chart-loss", lines("loss", x, ".4f"), { type: state.scale, ...(state.scale === "log" ? { tickformat: "~g" } : {}), ...close, ...(wide ? { dtick: "D2" } : {}) });
  for (const [value, form, y] of [["lr", ".3~g", { rangemode: "tozero", tickformat: "~g" }], ["rate", ",.3~r", { rangemode: "tozero", tickformat: ticks(shownValues("rate"), 1, true) }]]) {
    const traces = lines(value, x, form);
    const shown = charts.curves.some((curve) => has(curve[value]));
    $(`#chart-${value}`).closest("figure").hidden = !shown;
    if (shown) plot(`chart-${value}`, traces, y);
  }
}

function drawCertainty({ bins, coverage }) {
  const right = colour("averaged"), muted = colour("muted"), total = bins.reduce((sum, bin) => sum + bin.images, 0);
  const percent = { tickformat: ".0~%" };
  Plotly.react("chart-reliability", [
    { type: "scatter", mode: "lines", x: [0, 1], y: [0, 1], hoverinfo: "skip", line: { color: muted, width: 1, dash: "dash" } },
    {
      type: "scatter", mode: "lines+markers", x: bins.map((bin) => bin.confidence), y: bins.map((bin) => bin.accuracy),
      error_y: {
        type: "data", symmetric: false, thickness: 1, width: 0, color: right,
        array: bins.map((bin) => bin.highest - bin.accuracy), arrayminus: bins.map((bin) => bin.accuracy - bin.lowest),
      },
      customdata: bins.map((bin) => bin.images), line: { color: right, width: 2 }, marker: { color: right, opacity: 1, line: { width: 0 }, size: bins.map((bin) => 5 + 8 * Math.sqrt(bin.images / total)) },
      hovertemplate: "said %{x:.1%}, right %{y:.1%}<br>of %{customdata:,} images<extra></extra>",
    },
  ], { ...layout({ title: "how sure it said it was", range: [0, 1.02], ...percent }, { range: [0, 1.04], ...percent }), hovermode: "closest" }, CONFIG);
  Plotly.react("chart-coverage", [{
    type: "scatter", mode: "lines", x: coverage.map((p) => p.share), y: coverage.map((p) => p.accuracy), customdata: coverage.map((p) => p.threshold),
    line: { color: right, width: 2 }, hovertemplate: "answers %{x:.0%}, right %{y:.2%}<br>where surer than %{customdata:.1%}<extra></extra>",
  }], { ...layout({ title: "images answered", range: [0, 1.02], ...percent }, { tickformat: ticks(coverage.map((p) => p.accuracy), 0.01) }), hovermode: "closest" }, CONFIG);
}

// The curves of the most frequent labels, told apart by colour and, from the seventh on, by their dashes.
function drawPrecision(curves) {
  const percent = { tickformat: ".0~%" };
  const traces = curves.flatMap((curve, k) => curve.on ? [{
    type: "scatter", mode: curve.recall.length === 1 ? "markers" : "lines", x: curve.recall, y: curve.precision, name: plain(curve.name),
    line: { color: colour(lineOf(curve, k)), width: curve.together ? 3 : 1.75, dash: k > NUM_COLOURS ? "dash" : "solid" },
    hovertemplate: "recall %{x:.1%}, precision %{y:.1%}<extra>%{fullData.name}</extra>",
  }] : []);
  const across = { title: "recall", range: [0, 1.02], ...percent };
  Plotly.react("chart-precision", traces, { ...layout(across, { title: { text: "precision", standoff: 8, font: { size: 12 } }, range: [0, 1.04], ...percent }), hovermode: "closest" }, CONFIG);
}

function drawStaleness({ staleness, gradients }) {
  Plotly.react("chart-staleness", [{
    type: "bar", x: staleness, y: gradients, marker: { color: colour("averaged") }, hovertemplate: "%{y:,} gradients were %{x:,} updates old<extra></extra>",
  }], { ...layout({ title: "updates", range: [-0.5, Math.max(...staleness) + 0.5] }, { rangemode: "tozero" }), hovermode: "closest" }, CONFIG);
}

const NUM_COLOURS = 6;
const lineOf = (curve, k) => curve.together ? "ink" : `line-${(k - 1) % NUM_COLOURS}`;

function draw() {
  if (!window.Plotly) return;
  if ($("#learning")) drawLearning();
  if (charts.precision) drawPrecision(charts.precision);
  if (charts.certainty) drawCertainty(charts.certainty);
  if (charts.staleness) drawStaleness(charts.staleness);
}

async function unpackPlotly() {
  const text = $("#plotly").textContent; // browsers before 2025 decode it letter by letter, in a third of a second
  const packed = Uint8Array.fromBase64?.(text) ?? Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  const script = document.createElement("script");
  script.textContent = await new Response(stream).text();
  document.head.append(script);
}

// A button that shows and hides a curve; `toggle` is told whether it is shown now.
function legendButton(name, tint, on, toggle, mark = "") {
  const button = document.createElement("button"), swatch = document.createElement("i");
  button.type = "button";
  button.ariaPressed = String(on);
  swatch.style.setProperty("--line-colour", `var(--${tint})`);
  swatch.className = mark;
  button.append(swatch, name);
  button.addEventListener("click", () => {
    const shown = button.ariaPressed !== "true";
    button.ariaPressed = String(shown);
    toggle(shown);
    draw();
  });
  return button;
}

function makeLegend() {
  for (const curve of charts.curves) {
    const toggle = (shown) => state.hidden[shown ? "delete" : "add"](curve.name);
    $("#legend").append(legendButton(curve.name, role(curve), true, toggle, curve.kind === "test" ? "mark-only" : ""));
  }
}

charts.precision?.forEach((curve, k) => {
  const button = legendButton(`${curve.name} `, lineOf(curve, k), curve.on, (shown) => { curve.on = shown; }, k > NUM_COLOURS ? "dashed" : "");
  const ap = document.createElement("small");
  ap.textContent = `${(100 * curve.ap).toFixed(1)}%`;
  button.append(ap);
  $("#precision-legend").append(button);
});

if ($("#learning")) {
  makeLegend();
  for (const axis of ["epoch", "seconds"]) {
    // Old records may lack an axis; an empty plot would look like a broken one.
    if (!charts.curves.some((curve) => has(curve[axis]))) $(`#axis input[value="${axis}"]`).parentElement.remove();
  }
  for (const name of ["axis", "range", "scale"]) $(`#${name}`).addEventListener("change", (event) => { state[name] = event.target.value; draw(); });
}

unpackPlotly().then(draw).catch((error) => {
  console.error(error);
  for (const chart of $$(".chart")) {
    chart.classList.add("message");
    chart.textContent = "This browser cannot unpack the charts: open the page in one of 2024 or later.";
  }
});

// Confusion matrix ------------------------------------------------------------------------------------------------

// Cells at the same place in tables of the same labels.
const twinsOf = (cell) => $$(".matrix").map((matrix) => matrix.tBodies[0].rows[cell.parentElement.sectionRowIndex].cells[cell.cellIndex]);

function showTip(cell) {
  hideTip();
  const tip = $("#tip"), note = document.createElement("small");
  note.textContent = cell.dataset.note ?? `${cell.dataset.share}% of all ${$("th", cell.parentElement).textContent.trim()}`;
  tip.replaceChildren(cell.ariaLabel, note);
  tip.hidden = false;
  for (const twin of twinsOf(cell)) {
    twin.classList.toggle("twin", twin !== cell);
    for (const header of [$("th", twin.parentElement), $$("thead th", twin.closest("table"))[twin.cellIndex - 1]]) header.classList.add("lit");
  }
  placeTip(cell);
}

function placeTip(cell) {
  const tip = $("#tip"), box = cell.getBoundingClientRect(), own = tip.getBoundingClientRect();
  tip.style.left = `${Math.max(8, Math.min(box.x + box.width / 2 - own.width / 2, innerWidth - own.width - 8))}px`;
  tip.style.top = `${box.y - own.height - 8 > 0 ? box.y - own.height - 8 : box.bottom + 8}px`;
}

function hideTip() {
  $("#tip").hidden = true;
  for (const marked of $$(".matrix .lit, .matrix .twin")) marked.classList.remove("lit", "twin");
}

function makeMatrix(matrix) {
  const body = matrix.tBodies[0], cellOf = (event) => event.target.closest?.("tbody td");
  matrix.addEventListener("pointerover", (event) => (cellOf(event) ? showTip(cellOf(event)) : hideTip()));
  matrix.addEventListener("pointerleave", hideTip);
  matrix.addEventListener("focusin", (event) => showTip(event.target));
  matrix.addEventListener("focusout", hideTip);
  matrix.addEventListener("keydown", (event) => {
    const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key], from = cellOf(event);
    if (!step || !from) return;
    event.preventDefault();
    const to = body.rows[from.parentElement.sectionRowIndex + step[0]]?.cells[from.cellIndex + step[1]];
    if (to?.tagName !== "TD") return;
    from.tabIndex = -1;
    to.tabIndex = 0;
    to.focus();
  });
  $("#cells")?.addEventListener("change", (event) => {
    if (!matrix.classList.contains("numbered")) return;
    for (const cell of $$("tbody td", matrix)) {
      if (cell.dataset.count !== "0") cell.textContent = event.target.value === "share" ? cell.dataset.share : cell.dataset.count;
    }
  });
}

for (const matrix of $$(".matrix")) makeMatrix(matrix);
addEventListener("scroll", () => {
  const cell = $(".matrix td:focus") ?? $(".matrix td:hover");
  if (cell) placeTip(cell);
  else hideTip();
}, { passive: true, capture: true });

// What goes on beyond an edge -------------------------------------------------------------------------------------

function markEdges(box) {
  const rest = box.scrollWidth - box.clientWidth, left = box.scrollLeft > 1, right = box.scrollLeft < rest - 1;
  if (left || right) box.dataset.more = left && right ? "both" : left ? "left" : "right";
  else delete box.dataset.more;
  if (box.nextElementSibling?.matches(".onward")) box.nextElementSibling.hidden = rest <= 1;
}

const resized = new ResizeObserver((entries) => { for (const { target } of entries) markEdges(target.matches("nav, .scroll") ? target : target.parentElement); });
for (const box of $$("nav, .scroll")) {
  box.addEventListener("scroll", () => markEdges(box), { passive: true });
  for (const watched of [box, box.firstElementChild]) resized.observe(watched);
}

// Copying the command ---------------------------------------------------------------------------------------------

$("#copy")?.addEventListener("click", async (event) => {
  const text = $("#command").textContent;
  try {
    await navigator.clipboard.writeText(text);
    event.target.textContent = "Copied";
  } catch {
    // Without permission the next best: select it, for the reader's own copy key.
    getSelection().selectAllChildren($("#command"));
    event.target.textContent = "Selected";
  }
  setTimeout(() => { event.target.textContent = "Copy"; }, 1500);
});
