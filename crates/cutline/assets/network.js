// The drawing of the network: groups from the input to the output, each in the colour and with the
// letter of its device, and what crosses between devices drawn heavier, with its size.
//
// A large network is drawn around its cuts: what is far from every cut, and runs on one device, is
// one box. Runs of the topological order are convex, so the boxes form a network without a cycle.
"use strict";

const SVG = "http://www.w3.org/2000/svg";
const LARGE = 60;
const AROUND = 4;
const COLUMN = 46;
const LANE = 38;

const svg = (tag, properties = {}, children = []) => {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(properties)) element.setAttribute(name, value);
  element.append(...children);
  return element;
};

let zoom = 1;
let drawing = null;

/// Device of each group under a plan.
function devicesOf(plan) {
  const of = new Array(data.groups.length).fill(0);
  for (const stage of plan.stages) {
    for (const [first, last] of stage.groups) of.fill(stage.device, first, last + 1);
  }
  return of;
}

/// Boxes of the drawing: single groups, and runs of groups that no cut is near to.
function boxes(of, everything) {
  const count = of.length;
  const near = new Array(count).fill(everything || count <= LARGE);
  const mark = (group) => near.fill(true, Math.max(group - AROUND, 0), Math.min(group + AROUND + 1, count));
  for (const flow of data.flows) {
    const ends = [...flow.to, ...(flow.from === null ? [] : [flow.from])];
    const home = flow.from === null ? 0 : of[flow.from];
    if (flow.to.some((group) => of[group] !== home)) ends.forEach(mark);
  }
  if (count) { near[0] = true; near[count - 1] = true; }
  const list = [];
  for (let group = 0; group < count; group++) {
    const last = list.at(-1);
    if (!near[group] && last && !last.single && last.device === of[group]) last.last = group;
    else list.push({ first: group, last: group, single: near[group], device: of[group] });
  }
  return list;
}

/// Columns by the longest way from the input, lanes in the order of what they read.
function layout(list) {
  const boxOf = new Array(data.groups.length);
  list.forEach((box, at) => { for (let group = box.first; group <= box.last; group++) boxOf[group] = at; });
  const wires = new Map();
  data.flows.forEach((flow, index) => {
    const from = flow.from === null ? -1 : boxOf[flow.from];
    for (const group of flow.to) {
      const to = boxOf[group];
      if (from === to) continue;
      const key = `${from} ${to}`;
      if (!wires.has(key)) wires.set(key, { from, to, flows: new Set() });
      wires.get(key).flows.add(index);
    }
  });
  list.forEach((box) => { box.column = 1; box.reads = []; });
  // Boxes are in topological order, so one pass finds the longest ways.
  const sorted = [...wires.values()].sort((a, b) => a.to - b.to);
  for (const wire of sorted) {
    const start = wire.from < 0 ? 0 : list[wire.from].column;
    list[wire.to].column = Math.max(list[wire.to].column, start + 1);
    if (wire.from >= 0) list[wire.to].reads.push(wire.from);
  }
  const columns = [];
  list.forEach((box, at) => (columns[box.column] ??= []).push(at));
  for (const column of columns) {
    if (!column) continue;
    const wish = (at) => list[at].reads.reduce((sum, from) => sum + (list[from].lane ?? 0), 0) / (list[at].reads.length || 1);
    column.sort((a, b) => wish(a) - wish(b) || a - b);
    column.forEach((at, place) => { list[at].lane = place - (column.length - 1) / 2; });
  }
  return { wires: sorted, boxOf, columns: columns.length };
}

function draw(at) {
  const plan = plans[at];
  const of = devicesOf(plan);
  const everything = byId("show-all").checked;
  const list = boxes(of, everything);
  const { wires, boxOf, columns } = layout(list);
  const lanes = list.map((box) => box.lane);
  const [top, bottom] = [Math.min(0, ...lanes), Math.max(0, ...lanes)];
  const reach = Math.max(0, ...wires.map((wire) => span(list, wire))) > 1 ? 26 : 8;
  const height = (bottom - top + 1) * LANE + 2 * reach + 44;
  const width = (columns + 1) * COLUMN + 70;
  const x = (column) => 50 + column * COLUMN;
  const y = (lane) => 36 + reach + (lane - top + 0.5) * LANE;
  const content = svg("g");
  const labels = svg("g");
  const cutAt = [];
  const middles = new Map();
  for (const wire of wires) {
    const home = wire.from < 0 ? 0 : list[wire.from].device;
    const to = list[wire.to];
    const crosses = home !== to.device;
    const start = wire.from < 0 ? { column: 0.2, lane: 0 } : list[wire.from];
    const [x1, y1, x2, y2] = [x(start.column) + 14, y(start.lane), x(to.column) - 14, y(to.lane)];
    // A long way over other boxes of its lane goes around them.
    const bow = span(list, wire) > 1 && Math.abs(y1 - y2) < LANE / 2 ? -Math.min(16 + 3 * span(list, wire), 40) : 0;
    const middle = (x1 + x2) / 2;
    const path = bow ? `M${x1} ${y1} C${x1 + 16} ${y1 + bow * 1.2} ${x2 - 16} ${y2 + bow * 1.2} ${x2} ${y2}` : `M${x1} ${y1} C${middle} ${y1} ${middle} ${y2} ${x2} ${y2}`;
    content.append(svg("path", { class: crosses ? "wire crosses" : "wire", d: path }));
    if (crosses) {
      cutAt.push(middle);
      const key = plan.hops.findIndex((hop) => hop.from === home && [...wire.flows].some((flow) => hop.values.includes(flow)));
      if (!middles.has(key)) middles.set(key, []);
      middles.get(key).push(middle);
    }
  }
  for (const [at, places] of middles) {
    const hop = plan.hops[at];
    if (!hop) continue;
    const [first, ...more] = hop.values.map((flow) => data.flows[flow]);
    const how = first.from === null ? plan.input_encoding : hop.encoding;
    const words = `${clip(first.name, 28)}${more.length ? ` and ${more.length} more` : ""}: ${size(hop.bytes)}${how === "fp32" ? "" : ` as ${how}`}`;
    const place = Math.max(Math.min(...places), 4 * words.length);
    labels.append(svg("text", { class: "crossing", x: place, y: 16 + 16 * (at % 2) }, [words]));
  }
  list.forEach((box, index) => content.append(node(box, index, x(box.column), y(box.lane))));
  content.append(svg("text", { class: "end", x: 24, y: y(0) }, ["frame"]));
  const answers = data.flows.filter((flow) => flow.is_output && flow.from !== null).map((flow) => list[boxOf[flow.from]]);
  for (const box of new Set(answers)) {
    content.append(svg("path", { class: "wire", d: `M${x(box.column) + 14} ${y(box.lane)} h18` }));
    content.append(svg("text", { class: "end", x: x(box.column) + 60, y: y(box.lane) }, ["answer"]));
  }
  drawing = { width: width + 40, height, cut: cutAt.length ? cutAt.reduce((a, b) => a + b, 0) / cutAt.length : null };
  const root = svg("svg", { viewBox: `0 0 ${drawing.width} ${height}`, role: "img", "aria-label": `The network under the plan ${planTitle(plan)}` }, [content, labels]);
  byId("network").replaceChildren(root);
  resize();
  const hidden = list.filter((box) => !box.single).length;
  byId("network-note").textContent = `Each box is a group, its letter the device that runs it; dashed lines cross a link.${hidden ? " Groups far from every cut are drawn as one box." : ""}`;
}

const span = (list, wire) => list[wire.to].column - (wire.from < 0 ? 0 : list[wire.from].column);

function node(box, index, x, y) {
  const count = box.last - box.first + 1;
  const wide = count > 1 ? 40 : 26;
  const group = data.groups[box.first];
  const words = count > 1
    ? `${count} groups on ${device(box.device)}: ${group.name} … ${data.groups[box.last].name}`
    : `${group.name} on ${device(box.device)}: ${group.layers} layer${group.layers === 1 ? "" : "s"}, weights ${size(group.parameter_bytes)}${group.macs ? `, ${short(group.macs / 1e6)} million multiply-accumulates` : ""}`;
  const shape = svg("g", { class: "node" }, [
    svg("title", {}, [words]),
    svg("rect", { x: x - wide / 2, y: y - 12, width: wide, height: 24, rx: 5, fill: deviceColour(box.device) }),
    svg("text", { x, y, fill: onDevice() }, [count > 1 ? `${letter(box.device)}·${count}` : letter(box.device)]),
  ]);
  const tell = () => { byId("group-note").textContent = words; };
  shape.addEventListener("pointerenter", tell);
  shape.addEventListener("click", tell);
  return shape;
}

function resize() {
  const root = byId("network").firstElementChild;
  if (!root) return;
  root.setAttribute("width", String(Math.round(drawing.width * zoom)));
  root.setAttribute("height", String(Math.round(drawing.height * zoom)));
}

function toCut() {
  const box = byId("network");
  if (drawing.cut !== null) box.scrollLeft = drawing.cut * zoom - box.clientWidth / 2;
}

function startNetwork() {
  const again = (factor) => () => {
    zoom = Math.min(Math.max(zoom * factor, 0.1), 4);
    resize();
    toCut();
  };
  byId("zoom-in").addEventListener("click", again(1.4));
  byId("zoom-out").addEventListener("click", again(1 / 1.4));
  byId("zoom-fit").addEventListener("click", () => {
    zoom = Math.min(1.5, (byId("network").clientWidth - 2) / drawing.width);
    resize();
  });
  byId("to-cut").addEventListener("click", () => { zoom = Math.max(zoom, 1); resize(); toCut(); });
  byId("show-all").addEventListener("change", () => { draw(shown()); toCut(); });
  byId("show-all").closest("label").hidden = data.groups.length <= LARGE;
  onShow((at) => { draw(at); toCut(); });
}
