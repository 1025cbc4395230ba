"use strict";
// Whatever comes from the service or from a file's name is written as text, never as markup.

const $ = (selector, root = document) => root.querySelector(selector);
const palette = Uint8Array.from(atob(document.body.dataset.colours), (letter) => letter.charCodeAt(0)); // 256 in RGBA
const MOST = 50; // answers that are shown; older ones go
const state = { models: [], token: "" };
const listed = new Promise((resolve) => { state.listed = resolve; });
state.waiting = listed; // what is asked, one after the other; what comes before the models are known waits for them

// Colours ---------------------------------------------------------------------------------------------------------

const THEMES = ["auto", "light", "dark"];

$("#theme").addEventListener("click", ({ currentTarget: button }) => {
  const now = document.documentElement.dataset.theme ?? "auto", theme = THEMES[(THEMES.indexOf(now) + 1) % THEMES.length];
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  const shown = theme[0].toUpperCase() + theme.slice(1);
  $("span", button).textContent = shown;
  button.ariaLabel = `Colours: ${shown}`;
});

// The service -----------------------------------------------------------------------------------------------------

class Refusal extends Error {
  constructor(status, sentence) {
    super(sentence);
    this.status = status;
  }
}

async function reach(address, options = {}) {
  const headers = state.token ? { Authorization: `Bearer ${state.token}` } : {};
  try {
    return await fetch(address, { ...options, headers: { ...headers, ...options.headers } });
  } catch {
    throw new Refusal(0, "the service does not answer: look whether it runs");
  }
}

async function ask(address, options) {
  const answer = await reach(address, options);
  const said = await answer.json().catch(() => ({ error: `the service answered ${answer.status} and no JSON` }));
  if (!answer.ok || said.error) throw new Refusal(answer.status, said.error ?? `the service answered ${answer.status}`);
  return said;
}

const tell = (text) => { $("#status").textContent = text; };
const model = () => state.models[$("#model").selectedIndex];

async function begin() {
  try {
    state.models = (await ask("v1/models")).models;
  } catch (refusal) {
    askForToken(refusal);
    return;
  }
  $("#entry").hidden = true;
  $("#open").hidden = $("#card").hidden = false;
  $("#model").replaceChildren(...state.models.map(({ name }) => new Option(name)));
  $("#choice").hidden = state.models.length < 2;
  tell("");
  showModel();
  state.listed();
}

function askForToken(refusal) {
  const wanted = refusal.status === 401;
  $("#entry").hidden = !wanted;
  if (wanted) $("#open").hidden = $("#card").hidden = true;
  tell(wanted && !state.token ? "" : wanted ? "This is none of its tokens." : refusal.message);
  $('nav a[href="docs"]').parentElement.hidden ||= wanted; // a link sends no token
  if (wanted && state.token) $("#token").focus();
}

$("#entry").addEventListener("submit", (event) => {
  event.preventDefault();
  state.token = $("#token").value.trim();
  begin();
});

function showModel() {
  const { name, card } = model();
  document.title = `${name} · depthwise`;
  $("#card-title").textContent = `The model ${name}`;
  $("#card .groups").replaceChildren(...card.map(({ title, rows }) => {
    const table = document.createElement("table");
    table.createCaption().textContent = title;
    for (const [key, value] of rows) {
      const row = table.insertRow(), head = document.createElement("th");
      head.scope = "row";
      head.textContent = key;
      row.append(head);
      row.insertCell().textContent = value;
    }
    return table;
  }));
  showExamples(model());
}

async function showExamples({ name, examples }) {
  const list = $("#examples ul"), mine = [];
  list.replaceChildren();
  $("#examples").hidden = true;
  for (const [number, shown] of examples.entries()) {
    const answer = await reach(`v1/models/${encodeURIComponent(name)}/examples/${number}`).catch(() => null);
    if (model().name !== name) return;
    if (!answer?.ok) continue;
    mine.push(exampleOf(new File([await answer.blob()], shown)));
    list.replaceChildren(...mine);
    $("#examples").hidden = false;
  }
}

function exampleOf(file) {
  const item = document.createElement("li"), button = document.createElement("button"), picture = document.createElement("img");
  const address = URL.createObjectURL(file);
  picture.alt = file.name;
  picture.onload = picture.onerror = () => URL.revokeObjectURL(address);
  picture.src = address;
  button.type = "button";
  button.title = `Try ${file.name}`;
  button.append(picture);
  button.addEventListener("click", () => take([file]));
  item.append(button);
  return item;
}

$("#model").addEventListener("change", showModel);

// Pictures --------------------------------------------------------------------------------------------------------

function take(files) {
  const asked = model();
  for (const file of files) state.waiting = state.waiting.then(() => answered(file, asked ?? model()));
}

async function answered(file, { name, cam }) {
  const shown = file.name || "the picture";
  tell(`Asking ${name} about ${shown} …`);
  const begun = performance.now();
  let image, error;
  try {
    const query = cam ? "?cam=true" : "";
    const options = { method: "POST", body: file, headers: { "Content-Type": "application/octet-stream" } };
    image = (await ask(`v1/models/${encodeURIComponent(name)}/predict${query}`, options)).images[0];
  } catch (refusal) {
    error = refusal;
    if (refusal.status === 401) askForToken(refusal);
  }
  const milliseconds = performance.now() - begun;
  $("#results").prepend(answerOf(file, shown, image, error, `${name}, ${milliseconds.toFixed(0)} ms with the way there and back`));
  while ($("#results").children.length > MOST) $("#results").lastElementChild.remove();
  tell(error ? `${shown}: ${error.message}` : `${shown}: ${spoken(image.predictions)}`);
}

const percent = (probability) => `${(100 * probability).toFixed(1)}%`;
const spoken = (predictions) => predictions.map((one) => `${one.class} ${percent(one.probability)}`).join(", ") || "nothing reaches its threshold";

function answerOf(file, shown, image, error, took) {
  const card = $("#answer").content.firstElementChild.cloneNode(true);
  showPicture(card, file, shown, image?.cam);
  $("h2", card).textContent = shown;
  $(".took", card).textContent = error ? "" : took;
  if (error) {
    $(".bad", card).hidden = false;
    $(".bad", card).textContent = error.message;
    return card;
  }
  $(".none", card).hidden = image.predictions.length > 0;
  const maps = new Map((image.cam?.maps ?? []).map((map) => [map.index, map]));
  $(".said", card).append(...image.predictions.map((one) => lineOf(card, one, maps.get(one.index), image.cam)));
  const first = image.cam?.maps[0];
  if (first) showHeat(card, first, image.cam);
  return card;
}

function showPicture(card, file, shown, cam) {
  const picture = $("img", card), frame = $(".shot", card), address = URL.createObjectURL(file);
  const sized = (width, height) => {
    frame.style.setProperty("--wide", width);
    frame.style.setProperty("--tall", height);
  };
  sized(cam?.size[1] ?? 1, cam?.size[0] ?? 1);
  picture.alt = shown;
  picture.addEventListener("load", () => {
    URL.revokeObjectURL(address);
    sized(picture.naturalWidth, picture.naturalHeight);
    picture.classList.toggle("pixelated", picture.naturalWidth < 96);
  });
  picture.addEventListener("error", () => {
    URL.revokeObjectURL(address);
    picture.hidden = true;
    $(".unseen", card).hidden = false;
  });
  picture.src = address;
}

function lineOf(card, { class: name, probability }, map, cam) {
  const line = document.createElement("li"), label = document.createElement("bdi"), meter = document.createElement("span");
  label.textContent = name;
  meter.className = "meter";
  meter.style.setProperty("--ratio", probability);
  meter.textContent = percent(probability);
  const named = map ? document.createElement("button") : document.createElement("span");
  named.className = "name";
  named.append(label);
  if (map) {
    named.type = "button";
    named.title = `Show where it looked for ${name}`;
    named.dataset.index = map.index;
    named.addEventListener("click", () => showHeat(card, map, cam));
  }
  line.append(named, meter);
  return line;
}

// Where the network looked ----------------------------------------------------------------------------------------

function showHeat(card, { class: name, index, map }, { size: [height, width], box: [top, left, tall, wide] }) {
  const canvas = $("canvas", card), slider = $("input", card);
  paint(canvas, map);
  Object.assign(canvas.style, {
    top: `${100 * top / height}%`, left: `${100 * left / width}%`, width: `${100 * wide / width}%`, height: `${100 * tall / height}%`,
  });
  canvas.ariaLabel = `Where the network looked for ${name}`;
  canvas.hidden = $(".strength", card).hidden = false;
  $(".strength bdi", card).textContent = name;
  for (const button of card.querySelectorAll(".said button")) button.ariaPressed = String(button.dataset.index === String(index));
  const strengthen = () => { canvas.style.opacity = slider.value / 100; };
  slider.oninput = strengthen;
  strengthen();
}

// Bilinear between the middles of the map's places, about 64 pixels wide; the browser stretches it over the picture.
function paint(canvas, map) {
  const rows = map.length, columns = map[0].length, scale = Math.max(1, Math.round(64 / Math.max(rows, columns)));
  canvas.width = columns * scale;
  canvas.height = rows * scale;
  const context = canvas.getContext("2d"), image = context.createImageData(canvas.width, canvas.height);
  const place = (pixel, places) => {
    const at = Math.min(Math.max((pixel + 0.5) / scale - 0.5, 0), places - 1), before = Math.floor(at);
    return [before, Math.min(before + 1, places - 1), at - before];
  };
  for (let y = 0; y < canvas.height; y++) {
    const [upper, lower, down] = place(y, rows);
    for (let x = 0; x < canvas.width; x++) {
      const [before, after, right] = place(x, columns);
      const across = (row) => map[row][before] * (1 - right) + map[row][after] * right;
      const strength = Math.round(255 * (across(upper) * (1 - down) + across(lower) * down));
      image.data.set(palette.subarray(4 * strength, 4 * strength + 4), 4 * (y * canvas.width + x));
    }
  }
  context.putImageData(image, 0, 0);
}

// Where pictures come from ----------------------------------------------------------------------------------------

for (const input of [$("#file"), $("#camera")]) {
  input.addEventListener("change", () => {
    take([...input.files]);
    input.value = ""; // the same picture may be chosen again
  });
}
addEventListener("paste", (event) => {
  const files = [...event.clipboardData.files];
  if (files.length) event.preventDefault();
  take(files);
});
addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("over");
});
addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) document.body.classList.remove("over");
});
addEventListener("drop", (event) => {
  event.preventDefault(); // else the browser would leave for the picture
  document.body.classList.remove("over");
  take([...event.dataTransfer.files]);
});

begin();
