// The live picture by WebSocket, and the settings by POST. The server's state is the truth: several pages agree.

import { Scores, percent, shortName } from "./scores.js";

const $ = (id) => document.getElementById(id);
const LAYOUTS = { overlay: "Overlay", "side-by-side": "Side by side", heatmap: "Heat map" };
const PAUSES = [500, 1000, 2000, 4000]; // ms between two attempts to connect
const SETTLE = 80; // ms between two POSTs while a slider moves
const TEXT_EVERY = 250; // ms

let socket = null;
let attempts = 0;
let retry = 0;
let state = null;
let choices = null;
let byName = new Map(); // what may be searched for -> class index
let trouble = null; // why there is no connection
let written = -Infinity;
let shownSettings = "";
let wanted = {};
let posting = false;

const scores = new Scores($("scores"), (index) => set({ class_choice: index }));

// --- connection ---

function connect() {
  clearTimeout(retry);
  if (document.hidden || socket) return;
  const address = new URL("live", location.href);
  address.protocol = address.protocol.replace("http", "ws");
  const own = (socket = new WebSocket(address));
  own.binaryType = "arraybuffer";
  own.onmessage = ({ data }) => (typeof data === "string" ? told(JSON.parse(data)) : show(own, data));
  own.onclose = () => {
    if (socket === own) socket = null;
    if (!document.hidden) again();
  };
}

async function again() {
  trouble = await reason();
  announce();
  if (!document.hidden) retry = setTimeout(connect, PAUSES[Math.min(attempts++, PAUSES.length - 1)]);
}

// Browsers do not tell a page why a WebSocket was refused; an ordinary request does.
async function reason() {
  try {
    const answer = await fetch("state");
    if (answer.ok) return attempts ? "The connection was closed: trying again" : null;
    if (answer.status === 401) return "This page needs its token again: open the link that onnxcam printed";
    return (await answer.json()).error;
  } catch {
    return "The connection to onnxcam is lost: trying again";
  }
}

document.addEventListener("visibilitychange", () => {
  if (!document.hidden) connect();
  else if (socket) {
    socket.close();
    socket = null;
  }
});

// --- what the server says ---

function told(message) {
  attempts = 0;
  trouble = null;
  state = message;
  if (!posting) showSettings(state.settings);
  if (message.picture && message.top.length) scores.add(message.top, message.class_index);
  announce();
}

async function show(own, jpeg) {
  const canvas = $("picture");
  try {
    const bitmap = await createImageBitmap(new Blob([jpeg], { type: "image/jpeg" }));
    if (canvas.width !== bitmap.width || canvas.height !== bitmap.height) {
      [canvas.width, canvas.height] = [bitmap.width, bitmap.height];
      canvas.style.setProperty("--ratio", bitmap.width / bitmap.height);
    }
    canvas.getContext("2d", { alpha: false }).drawImage(bitmap, 0, 0);
    bitmap.close();
    $("placeholder").hidden = true;
  } finally {
    if (own.readyState === WebSocket.OPEN) own.send("shown");
  }
}

function announce() {
  const problem = trouble ?? (state?.problem ? sentence(state.problem) : null);
  const banner = $("banner");
  if (banner.textContent !== (problem ?? "")) banner.textContent = problem ?? "";
  banner.hidden = !problem;
  document.body.classList.toggle("lost", Boolean(problem));
  const kind = trouble ? "lost" : !state ? "waiting" : state.problem ? "lost" : state.settings.paused ? "paused" : "live";
  const words = { lost: trouble ? "no connection" : "source lost", waiting: "connecting", paused: "paused", live: "live" };
  if ($("pulse").dataset.kind !== kind || $("condition").textContent !== words[kind]) {
    $("pulse").dataset.kind = kind;
    $("condition").textContent = words[kind];
  }
  const now = performance.now();
  if (now - written < TEXT_EVERY || !state) return;
  written = now;
  scores.draw();
  $("rate").textContent = trouble || state.rate === null ? "–" : state.rate.toFixed(1);
  $("age").textContent = trouble || state.age_ms === null ? "–" : duration(state.age_ms);
  $("viewers").textContent = state.viewers === 1 ? "1 viewer" : `${state.viewers} viewers`;
  $("name").textContent = state.name ?? "–";
  $("name").title = state.label ?? "";
  $("score").textContent = state.top.length ? percent(state.score) : (state.score?.toPrecision(4) ?? "");
  $("picture").setAttribute("aria-label", state.name ? `Live picture: ${state.name}, ${percent(state.score)}` : "No picture yet");
}

function duration(ms) {
  return ms < 1000 ? `${ms} ms` : ms < 60000 ? `${(ms / 1000).toFixed(1)} s` : `${Math.floor(ms / 60000)} min`;
}

function sentence(text) {
  return text.charAt(0).toUpperCase() + text.slice(1);
}

// --- settings ---

function showSettings(settings) {
  const text = JSON.stringify(settings);
  if (text === shownSettings || !choices) return;
  shownSettings = text;
  $("alpha").value = settings.alpha;
  $("alpha-value").textContent = `${Math.round(100 * settings.alpha)} %`;
  $("method").value = settings.method;
  $("colormap").value = settings.colormap;
  $("ramp").style.background = `linear-gradient(90deg, ${choices.colormaps[settings.colormap].join(", ")})`;
  $("caption").checked = settings.caption;
  $("figures").checked = settings.figures;
  for (const radio of $("layouts").querySelectorAll("input")) radio.checked = radio.value === settings.layout;
  const choice = settings.class_choice;
  const rank = typeof choice === "number" && choice < 0 ? String(choice) : "lock";
  for (const radio of $("ranks").querySelectorAll("input")) radio.checked = radio.value === rank;
  $("what").textContent = rank === "lock" ? "Explained class, locked" : rank === "-1" ? "Explained class" : `Explained class, rank ${-choice}`;
  if (document.activeElement !== $("search")) $("search").value = rank === "lock" ? nameOf(choice) : "";
  $("pause").setAttribute("aria-pressed", settings.paused);
  $("pause").querySelector("span").textContent = settings.paused ? "Resume" : "Pause";
}

function nameOf(choice) {
  const label = typeof choice === "number" ? (choices.labels?.[choice] ?? null) : choice;
  return shortName(label, choice);
}

async function set(changes) {
  wanted = { ...wanted, ...changes };
  if (state) {
    state.settings = { ...state.settings, ...changes };
    showSettings(state.settings);
  }
  if (posting) return;
  posting = true;
  try {
    while (Object.keys(wanted).length) {
      const body = wanted;
      wanted = {};
      await post(body);
      await new Promise((done) => setTimeout(done, SETTLE));
    }
  } finally {
    posting = false;
  }
}

async function post(body) {
  try {
    const headers = { "Content-Type": "application/json" };
    const answer = await fetch("settings", { method: "POST", headers, body: JSON.stringify(body) });
    $("refusal").textContent = answer.ok ? "" : sentence((await answer.json()).error);
  } catch {
    $("refusal").textContent = "The setting did not arrive: there is no connection";
  }
  shownSettings = ""; // what the server says next is shown, whatever became of it
}

function chosen(text) {
  const name = text.trim();
  if (!name) return -1;
  const known = byName.get(name.toLowerCase());
  if (known !== undefined) return known;
  return /^-?\d+$/.test(name) ? Number(name) : name;
}

function option(value, text = value) {
  const element = document.createElement("option");
  element.value = value;
  element.textContent = text;
  return element;
}

function offer() {
  $("method").append(...choices.methods.map((name) => option(name)));
  $("colormap").append(...Object.keys(choices.colormaps).map((name) => option(name)));
  for (const name of choices.layouts) {
    const label = document.createElement("label");
    const radio = document.createElement("input");
    const span = document.createElement("span");
    [radio.type, radio.name, radio.value] = ["radio", "layout", name];
    span.textContent = LAYOUTS[name] ?? name;
    label.append(radio, span);
    $("layouts").append(label);
  }
  const labels = choices.labels ?? [];
  const counts = new Map();
  for (const label of labels) counts.set(label, (counts.get(label) ?? 0) + 1);
  labels.forEach((label, i) => {
    const name = counts.get(label) > 1 ? `${label} (${i})` : label;
    byName.set(name.toLowerCase(), i);
    $("labels").append(option(name));
  });
  $("search").placeholder = choices.classes ? `Search ${choices.classes} classes` : "Search for a class";
  $("class-field").hidden = choices.classes === null;
  $("scores-title").parentElement.hidden = choices.classes === null;
}

$("alpha").addEventListener("input", ({ target }) => set({ alpha: Number(target.value) }));
for (const name of ["method", "colormap"]) $(name).addEventListener("change", ({ target }) => set({ [name]: target.value }));
$("caption").addEventListener("change", ({ target }) => set({ caption: target.checked }));
$("figures").addEventListener("change", ({ target }) => set({ figures: target.checked }));
$("layouts").addEventListener("change", ({ target }) => set({ layout: target.value }));
$("ranks").addEventListener("change", ({ target }) => {
  const now = state?.class_index ?? 0;
  set({ class_choice: target.value === "lock" ? now : Number(target.value) });
});
$("search").addEventListener("focus", ({ target }) => target.select());
$("search").addEventListener("change", ({ target }) => set({ class_choice: chosen(target.value) }));
$("search").addEventListener("blur", () => (shownSettings = ""));
$("settings").addEventListener("submit", (event) => event.preventDefault());
$("pause").addEventListener("click", () => set({ paused: !state?.settings.paused }));
if (document.fullscreenEnabled) {
  $("fullscreen").hidden = false;
  $("fullscreen").addEventListener("click", () =>
    document.fullscreenElement ? document.exitFullscreen() : $("frame").requestFullscreen(),
  );
}

async function begin() {
  try {
    const answer = await fetch("choices");
    if (!answer.ok) throw new Error((await answer.json()).error);
    choices = await answer.json();
  } catch (error) {
    trouble = error instanceof TypeError ? "The connection to onnxcam is lost: trying again" : sentence(error.message);
    announce();
    setTimeout(begin, 2000);
    return;
  }
  offer();
  connect();
}

begin();
