"use strict";
// The page of predict --serve: answers and the state of the source come by /events.

const SECONDS = 300, ROWS = 12, SILENCE = 4;
// Okabe and Ito's colours by class, as in annotated videos.
const COLOURS = ["#e69f00", "#56b4e9", "#009e73", "#c9b900", "#0072b2", "#d55e00", "#cc79a7", "#999999"];
const NOTHING = "nothing recognised";
const field = (id) => document.getElementById(id);
const colour = (label) => (label ? COLOURS[(label - 1) % COLOURS.length] : "#808080");
const percent = (value) => `${(100 * value).toFixed(value > 0 && value < 0.1 ? 1 : 0)} %`;

let answers = []; // {time, label, name, probability}, times by the stream
let status = null, heard = Date.now(), again = 0;

function clock(seconds) {
  const whole = Math.floor(seconds), two = (n) => String(n).padStart(2, "0");
  const hours = Math.floor(whole / 3600);
  return (hours ? `${hours}:${two(Math.floor(whole / 60) % 60)}` : Math.floor(whole / 60)) + `:${two(whole % 60)}`;
}

function answered(event) {
  const line = JSON.parse(event.data);
  const best = chosen(line);
  answers.push({ time: line.time, ...best });
  while (answers[0].time < line.time - SECONDS || answers[0].time > line.time) answers.shift();
  pending = line;
}

// What the stream's answer is: its first class, unless it says that nothing was recognised.
function chosen(line) {
  const first = line.predictions[0];
  if (!first || line.recognised === false) return { label: 0, name: NOTHING, probability: null };
  return { label: first.label, name: first.class, probability: first.probability };
}

let pending = null; // the newest answer that is not drawn yet: many at once are drawn once
function draw() {
  if (pending) {
    const best = chosen(pending);
    field("best").textContent = best.name;
    field("why").textContent = (status && status.reasons[pending.reason]) || "";
    field("bars").classList.toggle("doubtful", best.name === NOTHING); // what it would have said
    drawBars(pending.predictions);
    field("latency").textContent = `${Math.round(1000 * pending.latency)} ms`;
    pending = null;
    drawRows();
  }
}

// The children of a list, as many as are needed: those that are there stay.
function parts(list, count, make) {
  while (list.children.length > count) list.lastChild.remove();
  while (list.children.length < count) list.append(make());
  return list.children;
}

function drawBars(predictions) {
  const items = parts(field("bars"), predictions.length, newBar);
  predictions.forEach((one, index) => {
    const [name, value, bar] = items[index].children;
    name.textContent = one.class;
    value.textContent = percent(one.probability);
    bar.firstChild.style.width = `${100 * one.probability}%`;
    bar.firstChild.style.background = colour(one.label);
  });
}

function newBar() {
  const item = document.createElement("li");
  for (const name of ["name", "value", "bar"]) {
    const part = document.createElement("span");
    part.className = name;
    item.append(part);
  }
  item.lastChild.append(document.createElement("i"));
  return item;
}

// One row for each class that was an answer, those that were it most often; darker is surer.
function drawRows() {
  const counts = new Map();
  for (const one of answers) counts.set(one.name, (counts.get(one.name) || 0) + 1);
  const names = [...counts.keys()].sort((a, b) => counts.get(b) - counts.get(a)).slice(0, ROWS);
  const rows = parts(field("rows"), names.length, newRow);
  names.forEach((name, index) => {
    const [title, canvas] = rows[index].children;
    title.textContent = name;
    drawRow(canvas, name);
  });
  const others = counts.size - names.length;
  field("timeline-title").textContent =
    "The last 5 minutes" + (others > 0 ? ` (${others} more not shown)` : "");
}

function newRow() {
  const row = document.createElement("div");
  row.className = "row";
  row.append(document.createElement("span"), document.createElement("canvas"));
  return row;
}

function drawRow(canvas, name) {
  const ratio = window.devicePixelRatio || 1;
  canvas.width = canvas.clientWidth * ratio;
  canvas.height = canvas.clientHeight * ratio;
  const pen = canvas.getContext("2d"), end = now();
  const place = (time) => canvas.width * (1 - (end - time) / SECONDS);
  const gap = typical();
  answers.forEach((one, index) => {
    if (one.name !== name) return;
    const before = index ? answers[index - 1].time : one.time - gap;
    const start = Math.max(before, one.time - 2 * gap); // a longer gap was a lost source
    pen.fillStyle = colour(one.label);
    pen.globalAlpha = one.probability === null ? 0.7 : 0.25 + 0.75 * one.probability;
    const left = Math.floor(place(start));
    pen.fillRect(left, 0, Math.max(Math.ceil(place(one.time)) - left, 1), canvas.height);
  });
}

// The stream's time: answers may have stopped coming.
function now() {
  const newest = answers[answers.length - 1].time;
  if (!status || status.answered === null || status.state === "ended") return newest;
  return newest + status.answered;
}

// The usual time between two answers: the median of the newest.
function typical() {
  const steps = answers.slice(-30).map((one, i, all) => (i ? one.time - all[i - 1].time : NaN));
  const sorted = steps.filter((step) => step >= 0).sort((a, b) => a - b);
  return sorted.length ? sorted[Math.floor(sorted.length / 2)] : 1;
}

function told(event) {
  heard = Date.now();
  const before = status;
  status = JSON.parse(event.data);
  field("source").textContent = status.source;
  document.title = `${status.state}: ${status.source}`;
  show(status.state, status.text);
  field("dropped").textContent = percent(status.dropped);
  field("rate").textContent = status.rate.toFixed(1);
  field("frames").textContent = status.frames.toLocaleString("en");
  field("size").textContent = status.size ? `${status.size[0]} × ${status.size[1]}` : "–";
  field("running").textContent = clock(status.running);
  field("network").textContent = status.network;
  if (before && status.running < before.running) begin(); // another stream at the same address
  else if (status.answered > 1 && answers.length) drawRows();
}

function show(state, text) {
  const badge = field("state"), notice = field("notice");
  if (badge.textContent !== state) badge.textContent = state;
  badge.dataset.state = document.body.dataset.state = state;
  notice.dataset.state = state;
  notice.hidden = !text;
  notice.textContent = text;
}

function unreachable() {
  show("unreachable", "The stream's page does not answer; trying again.");
}

function newPicture() {
  field("picture").src = `picture?again=${++again}`;
}

function begin() {
  answers = [];
  field("best").textContent = "no answer yet";
  field("why").textContent = "";
  field("bars").replaceChildren();
  field("rows").replaceChildren();
  newPicture();
}

const events = new EventSource("events?since=0");
events.onmessage = answered;
events.addEventListener("status", told);
events.onerror = () => {
  if (!status || status.state !== "ended") unreachable();
};
events.onopen = () => {
  if (again || status) newPicture();
};
setInterval(draw, 100);
setInterval(() => {
  if (status && status.state !== "ended" && Date.now() - heard > 1000 * SILENCE) unreachable();
}, 1000);
window.addEventListener("resize", () => answers.length && drawRows());
