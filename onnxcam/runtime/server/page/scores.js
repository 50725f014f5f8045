// The likeliest classes of the last seconds: a row each, with its probability over time as small bars.

const SPAN = 30; // seconds
const STEP = 0.5; // seconds a bar
const BARS = SPAN / STEP;
const ROWS = 5;
const ORDER_EVERY = 1000; // ms: rows that change place with every frame could not be read
const MEMORY = 0.6; // of the running mean that orders the rows, per bar

export class Scores {
  constructor(list, choose) {
    this.list = list;
    this.choose = choose;
    this.classes = new Map(); // class index -> {name, title, bars, sum, count, mean, latest}
    this.rows = [];
    this.step = 0;
    this.ordered = -Infinity;
  }

  // One frame's likeliest classes; `current` is the class that is explained.
  add(top, current) {
    const now = performance.now();
    const step = Math.floor(now / 1000 / STEP);
    if (this.step === 0 || step - this.step > BARS) this.classes.clear();
    else for (; this.step < step; this.step++) this.shift();
    this.step = step;
    for (const known of this.classes.values()) known.latest = null; // below those that are told
    for (const { class_index: index, label, score } of top) {
      if (!this.classes.has(index)) this.classes.set(index, entry(index, label));
      const known = this.classes.get(index);
      known.latest = score ?? 0;
      known.sum += known.latest;
      known.count += 1;
    }
    this.current = current;
  }

  draw() {
    const now = performance.now();
    if (now - this.ordered >= ORDER_EVERY || this.rows.length < Math.min(ROWS, this.classes.size)) {
      this.ordered = now;
      this.order();
    }
    for (const row of this.rows) {
      const known = this.classes.get(row.index);
      if (!known) continue;
      const share = known.latest === null ? "–" : percent(known.latest);
      row.score.textContent = share;
      row.button.setAttribute("aria-current", row.index === this.current);
      row.button.setAttribute("aria-label", `${known.title}, ${share}: explain this class`);
      bars(row.canvas, [...known.bars.slice(1), mean(known)], row.index === this.current);
    }
  }

  shift() {
    for (const [index, known] of this.classes) {
      const height = mean(known);
      known.bars.push(height);
      known.bars.shift();
      known.mean = MEMORY * known.mean + (1 - MEMORY) * height;
      known.sum = known.count = 0;
      if (!known.latest && known.bars.every((bar) => bar === 0)) this.classes.delete(index);
    }
  }

  order() {
    const weight = ([, known]) => Math.max(known.mean, 0.3 * known.latest);
    const best = [...this.classes].sort((a, b) => weight(b) - weight(a)).slice(0, ROWS);
    while (this.rows.length < best.length) this.rows.push(this.row());
    for (const surplus of this.rows.splice(best.length)) surplus.item.remove();
    best.forEach(([index, known], i) => {
      const row = this.rows[i];
      if (row.index === index) return;
      row.index = index;
      row.name.textContent = known.name;
      row.button.title = known.title;
    });
  }

  row() {
    const item = document.createElement("li");
    const button = document.createElement("button");
    button.type = "button";
    const [name, canvas, score] = ["span", "canvas", "b"].map((kind) => document.createElement(kind));
    button.append(name, canvas, score);
    item.append(button);
    this.list.append(item);
    const row = { item, button, name, canvas, score, index: null };
    button.addEventListener("click", () => this.choose(row.index));
    return row;
  }
}

export function percent(score) {
  if (score === null || score === undefined) return "";
  return `${(100 * score).toFixed(score >= 0.0995 ? 0 : 1)} %`;
}

export function shortName(label, index) {
  return label === null ? `class ${index}` : label.split(",")[0];
}

function entry(index, label) {
  const title = label ?? `class ${index}`;
  return { name: shortName(label, index), title, bars: new Array(BARS).fill(0), sum: 0, count: 0, mean: 0, latest: 0 };
}

function mean(known) {
  return known.count ? known.sum / known.count : 0;
}

function bars(canvas, heights, strong) {
  const scale = window.devicePixelRatio || 1;
  const [width, height] = [canvas.clientWidth * scale, canvas.clientHeight * scale].map(Math.round);
  if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
  const context = canvas.getContext("2d");
  const style = getComputedStyle(canvas);
  context.clearRect(0, 0, width, height);
  context.fillStyle = style.getPropertyValue("--line");
  context.fillRect(0, height - scale, width, scale);
  context.fillStyle = style.getPropertyValue(strong ? "--accent" : "--history");
  const pitch = width / heights.length;
  heights.forEach((share, i) => {
    const tall = share * height;
    context.fillRect(i * pitch, height - tall, Math.max(pitch - 0.4 * scale, 1), tall);
  });
}
