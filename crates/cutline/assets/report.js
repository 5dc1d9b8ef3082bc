// The data of a report, quantities in words, and the plan that is shown.
//
// Everything is written into the page as text. A plan is named by its position in the list of
// plans; `select` chooses one for good, `preview` while the pointer rests on it, and whoever shows
// plans is told through `onShow`.
"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const plans = data.plans;

// Position of the rate that is shown, where a figure of a plan is a list with an entry for each rate.
let shownRate = 0;
const figure = (plan, key) => (Array.isArray(plan[key]) ? plan[key][shownRate] : plan[key]);

const byId = (id) => document.getElementById(id);

function make(tag, properties = {}, children = []) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "class") element.className = value;
    else if (name === "style") Object.assign(element.style, value);
    else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value);
  }
  element.append(...[children].flat());
  return element;
}

// Quantities, with the units and the digits that the command line prints.

function scaled(value, steps) {
  const [, unit, size, digits] = steps.find(([limit]) => value < limit);
  return `${(value / size).toFixed(digits)} ${unit}`;
}

const time = (ns) => scaled(ns, [[1e3, "ns", 1, 0], [1e6, "µs", 1e3, 1], [1e10, "ms", 1e6, 2], [Infinity, "s", 1e9, 2]]);
const size = (bytes) => scaled(bytes, [[1e3, "B", 1, 0], [1e6, "kB", 1e3, 1], [1e9, "MB", 1e6, 2], [Infinity, "GB", 1e9, 2]]);
const energy = (nj) => scaled(nj, [[1e3, "nJ", 1, 0], [1e6, "µJ", 1e3, 1], [1e9, "mJ", 1e6, 2], [Infinity, "J", 1e9, 2]]);
const money = (millionths) => `${(millionths / 1e6).toFixed(2)} ${data.currency || "units"} a month`.trim();
const rate = (bytes) => {
  const mbit = (bytes * 8) / 1e6;
  return mbit >= 1000 ? `${short(mbit / 1000)} Gbit/s` : mbit >= 1 ? `${short(mbit)} Mbit/s` : `${short(mbit * 1000)} kbit/s`;
};
const short = (value) => String(Number(value.toPrecision(3)));
const count = (number, noun) => `${number} ${noun}${number === 1 ? "" : "s"}`;
const clip = (text, length) => (text.length > length ? `${text.slice(0, length - 1)}…` : text);

// Where the energy of computing comes from; a study has boards and instances in place of devices.
const DEVICES = data.devices ?? [];
const METERED = DEVICES.filter((one) => one.energy_origin === "measured").map((one) => one.name);
const ENERGY_ORIGIN = METERED.length === 0 ? "modelled" : METERED.length === DEVICES.length ? "measured" : `measured on ${METERED.join(", ")}, else modelled`;

// What plans are compared by.
const MEASURES = {
  latency: { title: "Latency", tag: "predicted", of: (plan) => figure(plan, "latency_ns"), text: time, units: [["µs", 1e3], ["ms", 1e6], ["s", 1e9]] },
  period: { title: "Period", tag: "predicted", of: (plan) => plan.period_ns, text: time, units: [["µs", 1e3], ["ms", 1e6], ["s", 1e9]] },
  energy: { title: "Energy of a frame", tag: ENERGY_ORIGIN, of: (plan) => plan.energy_nj, text: energy, units: [["µJ", 1e3], ["mJ", 1e6], ["J", 1e9]] },
  memory: { title: "Memory, fullest host", tag: "predicted", of: (plan) => plan.memory_bytes, text: size, units: [["kB", 1e3], ["MB", 1e6], ["GB", 1e9]] },
  money: { title: "Money", tag: "computed", of: (plan) => plan.money, text: money, units: [[`${data.currency || "units"} a month`, 1e6]] },
};

/// The largest unit in which the largest value is at least 1.
function unitFor(values, units) {
  const largest = Math.max(...values.filter((value) => value !== null), 0);
  return [...units].reverse().find(([, factor]) => largest >= factor) ?? units[0];
}

const PARTS = [
  { key: "edge_compute_ns", title: "edge compute", colour: "edge" },
  { key: "upload_ns", title: "upload", colour: "upload" },
  { key: "cloud_compute_ns", title: "cloud compute", colour: "cloud" },
  { key: "rest_ns", title: "rest", colour: "rest", stripes: true },
];

const device = (at) => data.devices[at].name;
const letter = (at) => String.fromCharCode(65 + (at % 26));
const planName = (plan) => plan.names[0] ?? (plan.on_front ? "on the front" : "");
const planTitle = (plan) => (plan.names?.length ? `${plan.names[0]}: ${plan.label}` : plan.label);

// Colours that stay apart for colour-blind eyes; letters say the same.
const DEVICE_COLOURS = {
  light: ["#0068ad", "#00875f", "#a83a86", "#b35900", "#5b4bb5", "#6b6b00", "#b3261e", "#47636e"],
  dark: ["#56b4e9", "#35c796", "#e38fc8", "#f2a541", "#ab9df2", "#e3dc4a", "#ff8a80", "#9fb6c0"],
};
const darkScheme = window.matchMedia("(prefers-color-scheme: dark)");
const deviceColour = (at) => {
  const colours = DEVICE_COLOURS[darkScheme.matches ? "dark" : "light"];
  return colours[at % colours.length];
};
const onDevice = () => (darkScheme.matches ? "#101418" : "#ffffff");
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

// The plan that is shown.

const listeners = [];
let selected = data.best ?? (plans.length ? 0 : null);
let hovered = null;
let told = null;
let waiting = false;

const shown = () => hovered ?? selected;
const onShow = (listener) => listeners.push(listener);

function select(at) {
  selected = at;
  hovered = null;
  tell();
  byId("announce").textContent = `Selected ${planTitle(plans[at])}, ${time(MEASURES.latency.of(plans[at]))}`;
}

function preview(at) {
  if (at === hovered) return;
  hovered = at;
  tell();
}

function tell() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => {
    waiting = false;
    const now = `${shown()} ${shownRate} ${hovered === null}`;
    if (told === now) return;
    told = now;
    listeners.forEach((listener) => listener(shown()));
  });
}
