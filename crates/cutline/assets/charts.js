// The plots of a plan's report.
"use strict";

/// Baselines that can be run, the best plan and the best split, each once; and what is shown.
function namedPlans() {
  const listed = data.baselines.filter((baseline) => baseline.plan !== null).map((baseline) => baseline.plan);
  listed.push(...[data.best, data.best_split].filter((at) => at !== null));
  return [...new Set(listed)];
}

function namesOf(at) {
  const plan = plans[at];
  const marks = data.baselines.filter((baseline) => baseline.plan === at).map((baseline) => (baseline.allowed ? "" : baseline.lossy ? " (lossy, not allowed)" : " (not allowed)"));
  if (!plan.names.length) return plan.label;
  const named = plan.names.filter((name) => name !== "best plan" && name !== "best split");
  const titles = plan.names.filter((name) => !named.includes(name));
  return [...titles, ...named.map((name, i) => `${name}${marks[i] ?? ""}`)].join(", ");
}

function baselineBars() {
  const listed = () => namedPlans();
  const build = () => {
    const bars = partBars(listed(), listed().map(namesOf), "y");
    const narrow = window.innerWidth < 520;
    const lines = (text) => (narrow ? text.split(", ") : text);
    return {
      type: "bar",
      plugins: [framed(listed)],
      data: { labels: listed().map(namesOf), datasets: bars.datasets },
      options: base({
        indexAxis: "y",
        interaction: { mode: "index", axis: "y", intersect: false },
        scales: { x: bars.quantity, y: bars.category({ ticks: { autoSkip: false, color: css("text"), callback: (_, at) => lines(namesOf(listed()[at])) } }) },
        plugins: { tooltip: bars.tooltip },
      }),
    };
  };
  byId("c-baselines").style.height = `${listed().length * 3 + 5}rem`;
  plot("c-baselines", "Latency of the plain alternatives and of the best plans, as stacked bars.", build, (hit) => listed()[hit[0].index], listed);
}

// The front.

const KINDS = [
  { title: "best plan", has: (plan) => plan.names.includes("best plan"), style: "star", radius: 9, colour: "upload" },
  { title: "best split", has: (plan) => plan.names.includes("best split"), style: "rectRot", radius: 8, colour: "cloud" },
  { title: "baseline", has: (plan) => plan.names.length > 0, style: "triangle", radius: 7, colour: "rest" },
  { title: "on the front", has: (plan) => plan.on_front, style: "circle", radius: 6, colour: "edge" },
  { title: "other plans", has: () => true, style: "circle", radius: 2.5, colour: "rest" },
];

function frontPoints() {
  const keys = data.objectives;
  for (const [id, preferred] of [["axis-x", "latency"], ["axis-y", ["energy", "money", "memory", "period"].find((key) => keys.includes(key))]]) {
    byId(id).replaceChildren(...keys.map((key) => make("option", { value: key, ...(key === preferred && { selected: "" }) }, MEASURES[key].title)));
  }
  const kindOf = (plan) => KINDS.findIndex((kind) => kind.has(plan));
  const drawn = () => KINDS.map((kind, at) => plans.map((plan, index) => [plan, index]).filter(([plan]) => kindOf(plan) === at && (at < 4 || byId("show-cuts").checked)).map(([, index]) => index));
  const staircase = (x, y) => {
    const points = data.front.plans.map((at) => ({ x: x.of(plans[at]), y: y.of(plans[at]) })).sort((a, b) => a.x - b.x || a.y - b.y);
    let lowest = Infinity;
    return points.filter((point) => point.y < lowest && ((lowest = point.y), true));
  };
  const build = () => {
    const [x, y] = ["axis-x", "axis-y"].map((id) => MEASURES[byId(id).value]);
    const sets = drawn();
    const values = (measure) => sets.flat().map((at) => measure.of(plans[at])).filter((value) => value !== null);
    const [[xUnit, xFactor], [yUnit, yFactor]] = [x, y].map((measure) => unitFor(values(measure), measure.units));
    const kindOfAxis = (measure) => {
      const all = values(measure).filter((value) => value > 0);
      return all.length && Math.max(...all) > 60 * Math.min(...all) && all.length === values(measure).length ? "logarithmic" : "linear";
    };
    const scale = (measure, unit) => axis(`${measure.title} in ${unit}, ${measure.tag}`, {
      type: kindOfAxis(measure),
      ...(kindOfAxis(measure) === "logarithmic" ? { ticks: { callback: (value) => ([1, 2, 5].includes(Number(value.toExponential()[0])) && Number.isInteger(Math.log10(value) + 9) || /^[125]e/.test(value.toExponential()) ? String(Number(value.toPrecision(3))) : "") } } : { grace: "5%" }),
    });
    const point = (at) => ({ x: x.of(plans[at]) / xFactor, y: y.of(plans[at]) / yFactor, plan: at });
    // Many points hide each other: then they are drawn smaller.
    const radius = (kind) => (kind.title === "on the front" && data.front.plans.length > 150 ? 3.5 : kind.radius);
    const scatter = KINDS.map((kind, index) => ({
      label: kind.title,
      data: sets[index].map(point),
      pointStyle: kind.style,
      radius: (context) => radius(kind) + bold(context.raw?.plan, 4, 0),
      hoverRadius: (context) => radius(kind) + bold(context.raw?.plan, 4, 1),
      hitRadius: 10,
      backgroundColor: index === 4 ? `${css("rest")}99` : css(kind.colour),
      borderColor: (context) => (context.raw?.plan === shown() || index < 4 ? css("text") : css("rest")),
      borderWidth: (context) => (kind.style === "star" ? bold(context.raw?.plan, 4, 3) : bold(context.raw?.plan, 3, index < 4 ? 1 : 0.5)),
      order: index,
    }));
    const steps = staircase(x, y).map((one) => ({ x: one.x / xFactor, y: one.y / yFactor }));
    scatter.push({ type: "line", label: "front", data: steps, stepped: "before", borderColor: css("edge"), borderWidth: 1.5, pointRadius: 0, hitRadius: 0, pointHitRadius: 0, order: 9 });
    return {
      type: "scatter",
      data: { datasets: scatter },
      options: base({
        interaction: { mode: "nearest", intersect: true },
        scales: { x: scale(x, xUnit), y: scale(y, yUnit) },
        plugins: {
          tooltip: {
            filter: (item) => item.raw.plan !== undefined,
            callbacks: {
              title: (items) => (items.length ? planTitle(plans[items[0].raw.plan]) : ""),
              label: (item) => [`${x.title} ${x.text(x.of(plans[item.raw.plan]))}`, ...(x === y ? [] : [`${y.title} ${y.text(y.of(plans[item.raw.plan]))}`])],
            },
          },
        },
      }),
    };
  };
  const planOf = (hit, chart) => {
    const first = [...hit].sort((a, b) => a.datasetIndex - b.datasetIndex).find((one) => one.datasetIndex < KINDS.length);
    return first ? chart.data.datasets[first.datasetIndex].data[first.index].plan : null;
  };
  plot("c-front", "Pareto front as points.", build, planOf, () => data.front.plans);
  const entry = charts.at(-1);
  for (const id of ["axis-x", "axis-y", "show-cuts"]) byId(id).addEventListener("change", () => redraw(entry));
  byId("front-legend").replaceChildren(...KINDS.map((kind) => make("li", {}, [marker(kind), kind.title])));
}

/// The point of a kind, drawn once more for the legend.
function marker(kind) {
  const mark = make("canvas", { width: "44", height: "44", "aria-hidden": "true", style: { width: "22px", height: "22px" } });
  const draw = () => {
    const pen = mark.getContext("2d");
    pen.clearRect(0, 0, 44, 44);
    pen.fillStyle = css(kind.colour);
    pen.strokeStyle = css("text");
    pen.lineWidth = kind.style === "star" ? 5 : 2;
    drawMark(pen, kind.style, kind.radius * 1.7);
  };
  draw();
  darkScheme.addEventListener("change", draw);
  return mark;
}

function drawMark(pen, style, radius) {
  const corners = { triangle: 3, rectRot: 4 }[style];
  pen.beginPath();
  if (style === "star") {
    for (let turn = 0; turn < 4; turn++) {
      const [dx, dy] = [Math.cos((turn * Math.PI) / 4) * radius, Math.sin((turn * Math.PI) / 4) * radius];
      pen.moveTo(22 - dx, 22 - dy);
      pen.lineTo(22 + dx, 22 + dy);
    }
    pen.stroke();
    return;
  }
  if (corners) {
    for (let corner = 0; corner < corners; corner++) {
      const angle = (2 * Math.PI * corner) / corners - Math.PI / 2;
      pen.lineTo(22 + Math.cos(angle) * radius, 22 + Math.sin(angle) * radius);
    }
    pen.closePath();
  } else {
    pen.arc(22, 22, radius, 0, 2 * Math.PI);
  }
  pen.fill();
  pen.stroke();
}

// The cuts.

function cutBars() {
  const targets = [...new Set(data.cuts.map((cut) => cut.to))];
  byId("cuts-controls").hidden = targets.length < 2;
  byId("cuts-device").replaceChildren(...targets.map((at) => make("option", { value: String(at) }, device(at))));
  const rows = () => data.cuts.filter((cut) => cut.to === Number(byId("cuts-device").value));
  const listed = () => rows().map((cut) => cut.plan);
  const title = (cut) => `cut ${cut.position + 1}: ${clip(cut.values.slice(0, 2).join(", "), 40)}${cut.values.length > 2 ? ` and ${cut.values.length - 2} more` : ""}${cut.bytes === null ? "" : `, ${size(cut.bytes)}`}`;
  const build = () => {
    const bars = partBars(listed(), rows().map(title), "x");
    return {
      type: "bar",
      plugins: [framed(listed)],
      data: { labels: rows().map((cut) => String(cut.position + 1)), datasets: bars.datasets },
      options: base({
        interaction: { mode: "index", axis: "x", intersect: false },
        scales: { y: bars.quantity, x: { ...bars.category({}), title: axis("Cut, from the input to the output").title } },
        plugins: { tooltip: bars.tooltip },
      }),
    };
  };
  if (!targets.length) {
    byId("c-cuts").hidden = true;
    byId("cuts-note").textContent = "There is no candidate cut, or no link that starts at the source.";
    return;
  }
  plot("c-cuts", "Latency of every candidate cut, as stacked bars.", build, (hit) => listed()[hit[0].index], () => listed().filter((at) => at !== null));
  const entry = charts.at(-1);
  byId("cuts-device").addEventListener("change", () => redraw(entry));
}

// The bandwidth.

const DASHES = [[2, 3], [9, 4], [9, 3, 2, 3], [1, 5]];
const TINTS = ["soft", "upload", "cloud", "text"];

/// Ranges as bands with their numbers, and the declared rate as a line.
const bands = {
  id: "bands",
  beforeDatasetsDraw(chart) {
    const { ctx: pen, chartArea: area, scales: { x } } = chart;
    pen.save();
    data.bandwidth.steps.forEach((step, at) => {
      const [left, right] = [step.from, step.to].map((value) => x.getPixelForValue((value * 8) / 1e6));
      pen.globalAlpha = step.plan === shown() ? 0.3 : at % 2 ? 0.12 : 0.04;
      pen.fillStyle = css("accent");
      pen.fillRect(left, area.top, right - left, area.bottom - area.top);
      pen.globalAlpha = 1;
      if (right - left < 12) return;
      pen.fillStyle = css("text");
      pen.font = "600 13px system-ui, sans-serif";
      pen.textAlign = "center";
      pen.fillText(String(at + 1), (left + right) / 2, area.top + 16);
    });
    const at = x.getPixelForValue((data.bandwidth.declared * 8) / 1e6);
    pen.strokeStyle = css("text");
    pen.setLineDash([5, 4]);
    pen.beginPath();
    pen.moveTo(at, area.top);
    pen.lineTo(at, area.bottom);
    pen.stroke();
    pen.restore();
  },
};

function bandwidthLines() {
  const { curve, steps } = data.bandwidth;
  const build = () => {
    const [unit, factor] = unitFor(curve.map((sample) => sample.latency_ns), MEASURES.latency.units);
    const line = (label, pick, more) => ({
      label,
      data: curve.map((sample) => ({ x: (sample.rate * 8) / 1e6, y: pick(sample) === null ? null : pick(sample) / factor, plan: sample.plan })),
      pointRadius: 0,
      borderWidth: 1.8,
      ...more,
    });
    const datasets = data.baselines.map((baseline, at) => (baseline.plan === null ? null : line(baseline.name, (sample) => sample.baselines_ns[at], { borderColor: css(TINTS[at % 4]), borderDash: DASHES[at % 4] }))).filter(Boolean);
    datasets.push(line("best plan", (sample) => sample.latency_ns, { borderColor: css("edge"), borderWidth: 4 }));
    const most = Math.max(...curve.map((sample) => sample.latency_ns)) / factor;
    const least = Math.min(...curve.map((sample) => sample.latency_ns)) / factor;
    const ones = (value) => (/^[125]e/.test(value.toExponential()) || /^[125]\.0*e/.test(value.toExponential()) ? String(Number(value.toPrecision(3))) : "");
    return {
      type: "line",
      data: { datasets },
      plugins: [bands],
      options: base({
        interaction: { mode: "nearest", axis: "x", intersect: false },
        scales: {
          x: axis("Bandwidth in Mbit/s", { type: "logarithmic", min: (steps[0].from * 8) / 1e6, max: (steps.at(-1).to * 8) / 1e6, ticks: { maxRotation: 0, callback: (value) => (/^1e/.test(value.toExponential()) ? String(Number(value.toPrecision(3))) : "") } }),
          y: axis(`Latency in ${unit}, predicted`, { type: "logarithmic", suggestedMin: least * 0.8, max: most * 4, ticks: { callback: ones } }),
        },
        plugins: {
          tooltip: {
            mode: "nearest",
            callbacks: {
              title: (items) => (items.length ? `${rate((items[0].parsed.x * 1e6) / 8)}: ${planTitle(plans[items[0].raw.plan])}` : ""),
              label: (item) => `${item.dataset.label} ${time(item.parsed.y * factor)}`,
            },
          },
        },
      }),
    };
  };
  const sample = (colour, width, dash) => svg("svg", { width: "36", height: "8", "aria-hidden": "true" }, [svg("path", { d: "M0 4H36", stroke: `var(--${colour})`, "stroke-width": width, "stroke-dasharray": dash.join(" ") })]);
  const lines = data.baselines.map((baseline, at) => (baseline.plan === null ? null : make("li", {}, [sample(TINTS[at % 4], 2, DASHES[at % 4]), baseline.name]))).filter(Boolean);
  byId("bandwidth-legend").replaceChildren(make("li", {}, [sample("edge", 4, []), "best plan"]), ...lines);
  plot("c-bandwidth", "Latency of the best plan over the bandwidth, with the baselines.", build, (hit, chart) => chart.data.datasets[hit[0].datasetIndex].data[hit[0].index].plan, () => [...new Set(steps.map((step) => step.plan))]);
}

// Memory and energy of each device.

function deviceBars(id, measure, title, pickUse) {
  const listed = () => {
    const named = namedPlans();
    return shown() === null || named.includes(shown()) ? named : [...named, shown()];
  };
  const build = () => {
    const uses = (at) => plans[at].devices;
    const values = listed().flatMap((at) => uses(at).map(pickUse)).filter((value) => value !== null);
    const [unit, factor] = unitFor(values, measure.units);
    const name = (at) => (plans[at].names.length ? namesOf(at) : `shown: ${plans[at].label}`);
    const datasets = data.devices.map((one, index) => ({
      label: one.name,
      data: listed().map((at) => {
        const used = uses(at).find((use) => use.device === index);
        const value = used ? pickUse(used) : 0;
        return value === null ? null : value / factor;
      }),
      backgroundColor: deviceColour(index),
      borderColor: css("back"),
      borderWidth: 0.5,
      borderSkipped: false,
    }));
    return {
      type: "bar",
      plugins: [framed(listed)],
      data: { labels: listed().map(name), datasets },
      options: base({
        indexAxis: "y",
        interaction: { mode: "index", axis: "y", intersect: false },
        scales: {
          x: axis(`${title} in ${unit}`, { stacked: true, beginAtZero: true, ticks: { maxRotation: 0 } }),
          y: axis("", { stacked: true, grid: { display: false }, ticks: { autoSkip: false, color: css("text"), callback: (_, at) => name(listed()[at]).split(", ").flatMap((part) => (part.length > 22 ? [part.slice(0, part.lastIndexOf(" ", 22) + 1 || 22), part.slice(part.lastIndexOf(" ", 22) + 1 || 22)] : [part])) } }),
        },
        plugins: { tooltip: { callbacks: { label: (item) => (item.raw === null ? "" : `${item.dataset.label} ${measure.text(item.raw * factor)}`) } } },
      }),
    };
  };
  plot(id, `${title} of each device, as bars.`, build, (hit) => listed()[hit[0].index], listed);
  const entry = charts.at(-1);
  byId(id).style.height = `${namedPlans().length * 3.4 + 8}rem`;
  entry.changes = true;
}

function startCharts() {
  Chart.defaults.font.family = getComputedStyle(document.body).fontFamily;
  baselineBars();
  if (data.objectives.length) frontPoints();
  cutBars();
  if (data.bandwidth && data.bandwidth.steps.length) bandwidthLines();
  deviceBars("c-memory", MEASURES.memory, "Memory", (used) => used.memory_bytes);
  if (plans.some((plan) => plan.energy_nj !== null)) deviceBars("c-energy", MEASURES.energy, "Energy", (used) => used.energy_nj);
  onShow(() => charts.forEach((entry) => (entry.changes ? redraw(entry) : entry.chart.update("none"))));
}
