"use strict";
// Everything on the page can be read without this script. It adds: tables that sort, figures that can be saved, and the
// timeline down to one instruction, from the packed records (sim/visual/records.py, sim/visual/pack.py).

const number = (value) => value.toLocaleString("en-US");
const element = (id) => document.getElementById(id);

// ---- tables ----

for (const head of document.querySelectorAll("table.sortable th")) {
  head.classList.add("sortable");
  head.tabIndex = 0;
  const sort = () => {
    const table = head.closest("table"), column = [...head.parentNode.children].indexOf(head);
    const up = head.getAttribute("aria-sort") === "descending";
    for (const other of head.parentNode.children) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const value = (row) => {
      const cell = row.children[column];
      return "value" in cell.dataset ? Number(cell.dataset.value) : cell.textContent;
    };
    const rows = [...table.tBodies[0].rows];
    rows.sort((a, b) => {
      const x = value(a), y = value(b);
      const order = typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y));
      return up ? order : -order;
    });
    table.tBodies[0].append(...rows);
  };
  head.addEventListener("click", sort);
  head.addEventListener("keydown", (event) => { if (event.key === "Enter") sort(); });
}

// ---- figures ----

for (const link of document.querySelectorAll("a.save")) {
  link.hidden = false;
  link.addEventListener("click", () => {
    const drawing = link.closest("section").querySelector("svg");
    link.href = URL.createObjectURL(new Blob([drawing.outerHTML], { type: "image/svg+xml" }));
  });
}

// ---- packed columns ----

function inflate(data) {
  const signs = atob(data), bytes = new Uint8Array(signs.length);
  for (let i = 0; i < signs.length; i++) bytes[i] = signs.charCodeAt(i);
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate")));
}

async function unpack(packed) {
  const raw = new Uint8Array(await inflate(packed.data).arrayBuffer());
  const rows = packed.rows, columns = {};
  let at = 0;
  for (const [name, width, differ] of packed.columns) {
    const values = width > 3 || differ ? new Float64Array(rows) : new Int32Array(rows);
    let scale = 1;
    for (let plane = 0; plane < width; plane++, at += rows, scale *= 256)
      for (let i = 0; i < rows; i++) values[i] += raw[at + i] * scale;
    for (let i = 0, last = 0; i < rows && width; i++) {
      if (values[i] >= scale / 2) values[i] -= scale;
      if (differ) last = values[i] += last;
    }
    columns[name] = values;
  }
  return columns;
}

/** The last row whose value is at most `value`, or -1; `values` ascends. */
function rowAt(values, value) {
  let low = 0, high = values.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (values[middle] <= value) low = middle + 1; else high = middle;
  }
  return low - 1;
}

/** The FP32 value of these bits, in as few digits as give it back. */
function floatText(bits) {
  const view = new DataView(new ArrayBuffer(4));
  view.setUint32(0, bits);
  const value = view.getFloat32(0);
  if (Number.isInteger(value) && Math.abs(value) < 1e16) return `${value}.0`;
  for (let digits = 1; digits < 9; digits++)
    if (Math.fround(Number(value.toPrecision(digits))) === value) return String(Number(value.toPrecision(digits)));
  return String(value);
}

// ---- timeline ----

const ROW = 46, GAP = 8, LEFT = 58, AXIS = 24;
const [OCCUPANCY, READ, RETIRE, READ_BYTES, WRITE_BYTES, MACS] = [1, 2, 3, 4, 5, 6];

class Viewer {
  constructor(root, records, colours, position) {
    Object.assign(this, { root, records, colours, position, fields: {}, selected: null, drag: null, wanted: false });
    this.canvas = root.querySelector("canvas");
    this.detail = root.querySelector(".detail");
    this.names = Object.keys(records.units).filter((unit) => unit !== "dispatch");
  }

  async load() {
    const { records } = this;
    Object.assign(records, await inflate(records.words).json());
    this.units = {};
    for (const [unit, table] of Object.entries(records.units)) this.units[unit] = await unpack(table.times);
    this.stalls = await unpack(records.stalls);
    this.low = 0;
    this.high = records.cycles;
    this.listen();
    this.root.classList.add("ready");
    this.legend();
    this.draw();
  }

  legend() {
    const phases = new Set();
    for (const unit of this.names) for (const phase of new Set(this.units[unit].phase)) phases.add(phase);
    const place = this.root.querySelector(".phases");
    for (const phase of phases) {
      const entry = document.createElement("span"), swatch = document.createElement("span");
      swatch.className = "swatch";
      swatch.style.background = this.phaseColour(phase);
      entry.className = "entry";
      entry.append(swatch, this.records.texts[phase] || "program");
      place.append(entry, " ");
    }
  }

  phaseColour(phase) {
    this.phases ??= new Map([[0, "#8b949e"]]);
    if (!this.phases.has(phase)) this.phases.set(phase, this.colours.phases[(this.phases.size - 1) % this.colours.phases.length]);
    return this.phases.get(phase);
  }

  listen() {
    const { canvas, root } = this;
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.zoom(Math.exp(event.deltaY * 0.002), this.cycleAt(event.offsetX));
    }, { passive: false });
    canvas.addEventListener("pointerdown", (event) => {
      this.drag = { x: event.offsetX, low: this.low, moved: false };
      canvas.setPointerCapture(event.pointerId);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!this.drag) return;
      const shift = event.offsetX - this.drag.x;
      this.drag.moved ||= Math.abs(shift) > 3;
      if (this.drag.moved) this.show(this.drag.low - shift / this.width() * (this.high - this.low));
    });
    canvas.addEventListener("pointerup", (event) => {
      if (this.drag && !this.drag.moved) this.pick(event.offsetX, event.offsetY);
      this.drag = null;
    });
    const act = {
      in: () => this.zoom(0.5), out: () => this.zoom(2), all: () => this.show(0, this.records.cycles),
      left: () => this.show(this.low - (this.high - this.low) / 3), right: () => this.show(this.low + (this.high - this.low) / 3),
      previous: () => this.step(-1), next: () => this.step(1),
    };
    for (const button of root.querySelectorAll("button")) button.addEventListener("click", act[button.dataset.act]);
    root.querySelector("input").addEventListener("change", (event) => this.go(Number(event.target.value)));
    const keys = { "+": act.in, "-": act.out, ArrowLeft: act.left, ArrowRight: act.right, "0": act.all };
    canvas.addEventListener("keydown", (event) => {
      if (keys[event.key]) { event.preventDefault(); keys[event.key](); }
    });
    new ResizeObserver(() => this.draw()).observe(canvas);
  }

  width() { return Math.max(this.canvas.clientWidth - LEFT, 1); }
  cycleAt(x) { return this.low + (x - LEFT) / this.width() * (this.high - this.low); }

  zoom(factor, about = (this.low + this.high) / 2) {
    const span = Math.min(Math.max((this.high - this.low) * factor, 20), this.records.cycles);
    const low = about - (about - this.low) * span / (this.high - this.low);
    this.show(low, low + span);
  }

  show(low, high = low + this.high - this.low) {
    const span = Math.min(high - low, this.records.cycles);
    this.low = Math.min(Math.max(low, 0), this.records.cycles - span);
    this.high = this.low + span;
    if (!this.wanted) requestAnimationFrame(() => { this.wanted = false; this.draw(); });
    this.wanted = true;
  }

  draw() {
    const { canvas } = this, ratio = window.devicePixelRatio || 1;
    const height = this.names.length * (ROW + GAP) + AXIS;
    canvas.style.height = `${height}px`;
    canvas.width = canvas.clientWidth * ratio;
    canvas.height = height * ratio;
    const pen = this.pen = canvas.getContext("2d");
    pen.scale(ratio, ratio);
    pen.font = "11px Helvetica, Arial, sans-serif";
    pen.textBaseline = "middle";
    this.names.forEach((unit, i) => this.drawUnit(unit, i * (ROW + GAP)));
    this.drawAxis(this.names.length * (ROW + GAP));
    this.root.querySelector(".range").textContent = `cycles ${number(Math.floor(this.low))} to ${number(Math.ceil(this.high))}`;
  }

  drawUnit(unit, top) {
    const { pen, records } = this, { issue, shape } = this.units[unit], width = this.width();
    const scale = width / (this.high - this.low);
    pen.fillStyle = "#1d2733";
    pen.fillText(unit, 4, top + ROW / 2);
    pen.fillStyle = this.colours.causes.idle;
    pen.fillRect(LEFT, top, width, ROW);
    const first = Math.max(rowAt(issue, this.low), 0), last = rowAt(issue, this.high);
    pen.save();
    pen.beginPath();
    pen.rect(LEFT, top, width, ROW);
    pen.clip();
    if (last - first > 2 * width) this.drawSums(unit, top, first, last, scale);
    else for (let i = first; i <= last; i++) {
      const x = LEFT + (issue[i] - this.low) * scale, wide = records.shapes[shape[i]][OCCUPANCY] * scale;
      this.drawStalls(unit, i, top, scale);
      this.drawOne(unit, i, top, x, wide);
    }
    pen.restore();
  }

  /** More instructions than pixels: each pixel is as dark as its share of busy cycles. */
  drawSums(unit, top, first, last, scale) {
    const { pen, records } = this, { issue, shape, phase } = this.units[unit];
    const pixels = Math.ceil(this.width()), busy = new Float32Array(pixels + 1), colour = new Int32Array(pixels + 1).fill(-1);
    for (let i = first; i <= last; i++) {
      let from = Math.max((issue[i] - this.low) * scale, 0);
      const until = Math.min((issue[i] - this.low + records.shapes[shape[i]][OCCUPANCY]) * scale, pixels);
      for (let pixel = from | 0; from < until; pixel++) {
        const end = Math.min(pixel + 1, until);
        busy[pixel] += end - from;
        colour[pixel] = phase[i];
        from = pixel + 1;
      }
    }
    for (let pixel = 0; pixel < pixels; pixel++) if (colour[pixel] >= 0) {
      pen.globalAlpha = Math.min(busy[pixel], 1);
      pen.fillStyle = this.phaseColour(colour[pixel]);
      pen.fillRect(LEFT + pixel, top, 1, ROW);
    }
    pen.globalAlpha = 1;
  }

  drawOne(unit, i, top, x, wide) {
    const { pen, records } = this, { index, shape, phase } = this.units[unit];
    pen.fillStyle = this.phaseColour(phase[i]);
    pen.fillRect(x, top, Math.max(wide - (wide > 3 ? 1 : 0), 0.5), ROW);
    if (this.selected && this.selected.unit === unit && this.selected.row === i) {
      pen.strokeStyle = "#000";
      pen.lineWidth = 3;
      pen.strokeRect(x, top + 1, Math.max(wide, 2), ROW - 2);
    }
    const left = Math.max(x, LEFT), room = Math.min(x + wide, LEFT + this.width()) - left;
    if (room < 60) return;
    pen.fillStyle = "#fff";
    const name = records.shapes[shape[i]][0].split(" ")[0];
    pen.fillText(`${name} ${index[i] < 0 ? "boot" : index[i]}`, left + 4, top + ROW / 2, room - 8);
  }

  stallsOf(index) {
    const stalls = this.stalls, found = [];
    for (let i = rowAt(stalls.index, index - 1) + 1; stalls.index[i] === index; i++)
      found.push([this.records.causes[stalls.cause[i]], stalls.cycles[i]]);
    return found;
  }

  drawStalls(unit, i, top, scale) {
    const { index, issue } = this.units[unit], { pen } = this;
    let until = issue[i];
    for (const [cause, cycles] of this.stallsOf(index[i]).reverse()) {
      if (!/^(wait_|idle|outstanding)/.test(cause)) continue;
      pen.fillStyle = this.colours.causes[cause];
      pen.fillRect(LEFT + (until - cycles - this.low) * scale, top + ROW * 0.6, cycles * scale, ROW * 0.4);
      until -= cycles;
    }
  }

  drawAxis(top) {
    const { pen } = this, span = this.high - this.low;
    const rough = span / Math.max(this.width() / 110, 1), power = 10 ** Math.floor(Math.log10(rough));
    const step = Math.max([1, 2, 5, 10].map((factor) => factor * power).find((value) => value >= rough), 1);
    pen.fillStyle = "#5a6672";
    for (let cycle = Math.ceil(this.low / step) * step; cycle <= this.high; cycle += step) {
      const x = LEFT + (cycle - this.low) / span * this.width();
      pen.fillRect(x, top, 1, 5);
      const text = number(cycle), half = pen.measureText(text).width / 2;
      pen.fillText(text, Math.min(Math.max(x - half, LEFT), LEFT + this.width() - 2 * half), top + 14);
    }
  }

  pick(x, y) {
    const unit = this.names[Math.floor(y / (ROW + GAP))];
    if (!unit || !this.units[unit].issue.length) return;
    const cycle = this.cycleAt(x), { issue, shape } = this.units[unit];
    let row = Math.max(rowAt(issue, cycle), 0);
    // A gap belongs to the instruction that is held up in it.
    if (cycle >= issue[row] + this.records.shapes[shape[row]][OCCUPANCY] && row + 1 < issue.length) row++;
    this.select(unit, row);
  }

  step(by) {
    const { unit, row } = this.selected ?? { unit: this.names[0], row: -1 };
    if (row + by >= 0 && row + by < this.units[unit].index.length) this.select(unit, row + by, true);
  }

  go(index) {
    for (const [unit, { index: rows }] of Object.entries(this.units)) {
      const row = rowAt(rows, index);
      if (row >= 0 && rows[row] === index) return this.select(unit, row, true);
    }
  }

  async select(unit, row, move = false) {
    this.selected = { unit, row };
    const times = this.units[unit], shape = this.records.shapes[times.shape[row]], issue = times.issue[row];
    if (move) {
      const span = Math.min(Math.max(shape[OCCUPANCY] * 8, 200), this.records.cycles);
      this.show(issue + shape[OCCUPANCY] / 2 - span / 2, issue + shape[OCCUPANCY] / 2 + span / 2);
    } else this.draw();
    this.fields[unit] ??= unpack(this.records.units[unit].fields);
    const fields = await this.fields[unit], index = times.index[row];
    history.replaceState(null, "", `#${this.position}/${index}`);
    const texts = this.records.texts, stalls = this.stallsOf(index);
    this.tell([
      ["instruction", index < 0 ? "boot LOAD" : `${index}`], ["unit", unit], ["phase", texts[times.phase[row]] || "program"],
      ["label", texts[fields.label[row]]], ["assembler", [shape[0], ...this.ownFields(shape[0], fields, row)].join(" ")],
      ["dispatched", number(issue + fields.dispatch[row])], ["issued", number(issue)],
      ["occupies its unit", `${number(shape[OCCUPANCY])} cycles`], ["last read (rd)", number(issue + shape[READ])],
      ["retired (wr)", number(issue + shape[RETIRE])],
      ["held up", stalls.filter(([, n]) => n).map(([cause, n]) => `${cause} ${number(n)}`).join(", ") || "not at all"],
      ["DRAM", `${number(shape[READ_BYTES])} B read, ${number(shape[WRITE_BYTES])} B written`], ["MACs", number(shape[MACS])],
    ]);
  }

  ownFields(shape, fields, row) {
    const found = [];
    for (const [name, values] of Object.entries(fields)) {
      const value = values[row];
      if (!value || name === "label" || name === "dispatch") continue;
      let shown = String(value);
      if (this.records.header.includes(name)) shown = this.records.masks.filter((_, bit) => value >> bit & 1).join(",");
      else if (/^[yzw]$/.test(name) && !shape.includes(` ${name}_kind=`)) shown = floatText(value);
      found.push(`${name}=${shown}`);
    }
    return found;
  }

  tell(lines) {
    const table = document.createElement("table");
    table.className = "plain";
    for (const [name, value] of lines) {
      const row = table.insertRow();
      row.insertCell().textContent = name;
      row.insertCell().textContent = value;
    }
    this.detail.classList.add("chosen");
    this.detail.replaceChildren(table);
  }
}

async function start() {
  const data = JSON.parse(element("records").textContent);
  const viewers = data.layers.map((records, i) => new Viewer(element(`viewer-${i}`), records, data.colours, i));
  for (const viewer of viewers) await viewer.load();
  const [, position, index] = location.hash.match(/^#(\d+)\/(-?\d+)$/) ?? [];
  if (viewers[position]) await viewers[position].go(Number(index));
  document.documentElement.dataset.ready = String(Math.round(performance.now()));
}

if (element("records")) start();
