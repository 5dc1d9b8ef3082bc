// What plots are made of, on every page: each shows plans, marks the one that is shown, and selects the
// one that is clicked.
//
// A plot with the focus steps through its plans with the arrow keys.
"use strict";

const charts = [];
const canvas = (id) => byId(id).querySelector("canvas");
const bold = (plan, thick, thin = 1) => (plan === shown() ? thick : thin);

/// Grey stripes: told from the solid parts without any colour.
function stripes() {
  const tile = document.createElement("canvas");
  tile.width = tile.height = 8;
  const pen = tile.getContext("2d");
  pen.fillStyle = css("back");
  pen.fillRect(0, 0, 8, 8);
  pen.strokeStyle = css("rest");
  pen.lineWidth = 3;
  for (const shift of [-8, 0, 8]) {
    pen.beginPath();
    pen.moveTo(shift - 1, 9);
    pen.lineTo(shift + 9, -1);
    pen.stroke();
  }
  return pen.createPattern(tile, "repeat");
}

const partColour = (part) => (part.stripes ? stripes() : css(part.colour));

function axis(title, more = {}) {
  const { ticks, ...rest } = more;
  return {
    title: { display: Boolean(title), text: title, color: css("text"), font: { size: 13 } },
    ticks: { color: css("soft"), font: { size: 12 }, ...ticks },
    grid: { color: css("line"), lineWidth: 0.6 },
    ...rest,
  };
}

/// Makes a plot. `planOf(element)` is the plan of a drawn element, `order()` the plans that the
/// arrow keys step through, `build()` its datasets and options.
function plot(id, label, build, planOf, order) {
  const target = canvas(id);
  target.tabIndex = 0;
  target.setAttribute("role", "img");
  target.setAttribute("aria-label", `${label} Arrow keys step through the plans; the tables hold the same numbers.`);
  const chart = new Chart(target, { ...build(), plugins: build().plugins ?? [] });
  const found = (event) => {
    const { mode, intersect, axis } = chart.options.interaction;
    const hit = chart.getElementsAtEventForMode(event, mode, { intersect, axis }, false);
    return hit.length ? planOf(hit, chart) : null;
  };
  target.addEventListener("click", (event) => {
    const plan = found(event);
    if (plan !== null && plan !== undefined) select(plan);
  });
  target.addEventListener("pointermove", (event) => {
    if (event.pointerType === "mouse") preview(found(event) ?? null);
  });
  target.addEventListener("pointerleave", () => preview(null));
  target.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    const listed = order();
    if (!step || !listed.length) return;
    event.preventDefault();
    const at = listed.indexOf(selected);
    select(listed[at < 0 ? 0 : Math.min(Math.max(at + step, 0), listed.length - 1)]);
  });
  charts.push({ chart, build });
  return chart;
}

/// Draws a plot anew: other plans, other axes, other colours.
function redraw(entry) {
  const { data: content, options } = entry.build();
  entry.chart.data = content;
  entry.chart.options = options;
  entry.chart.update("none");
}

const restyle = () => charts.forEach(redraw);

function base(more) {
  return {
    responsive: true,
    maintainAspectRatio: false,
    animation: false,
    color: css("text"),
    ...more,
    plugins: { legend: { display: false }, tooltip: { boxPadding: 4, titleFont: { size: 13 }, bodyFont: { size: 13 } }, ...more.plugins },
  };
}

/// A frame around the whole stack of the plan that is shown: its thinnest part stays visible.
const framed = (listed) => ({
  id: "framed",
  afterDatasetsDraw(chart) {
    const { ctx: pen } = chart;
    const across = chart.options.indexAxis === "y";
    listed().forEach((at, index) => {
      if (at !== shown()) return;
      const bars = chart.data.datasets.map((_, set) => chart.getDatasetMeta(set).data[index]?.getProps(["x", "y", "base", "width", "height"], true)).filter((bar) => bar && Number.isFinite(bar.base));
      if (!bars.length) return;
      const ends = bars.flatMap((bar) => [across ? bar.x : bar.y, bar.base]);
      const [low, high] = [Math.min(...ends), Math.max(...ends)];
      const { x, y, width, height } = bars[0];
      pen.save();
      pen.strokeStyle = css("text");
      pen.lineWidth = 2.5;
      if (across) pen.strokeRect(low, y - height / 2 - 2, high - low + 2, height + 4);
      else pen.strokeRect(x - width / 2 - 1, low - 2, width + 2, high - low + 2);
      pen.restore();
    });
  },
});

/// Stacked bars of the four parts, one bar for each of some plans.
function partBars(listed, labels, direction) {
  const values = listed.filter((at) => at !== null).map((at) => figure(plans[at], "latency_ns"));
  const [unit, factor] = unitFor(values, MEASURES.latency.units);
  const across = direction === "y";
  const datasets = PARTS.map((part) => ({
    label: part.title,
    data: listed.map((at) => (at === null ? null : figure(plans[at], part.key) / factor)),
    backgroundColor: partColour(part),
    borderColor: css("back"),
    borderWidth: listed.length > 80 ? 0 : 0.5,
    borderSkipped: false,
    barPercentage: listed.length > 80 ? 1 : 0.92,
    categoryPercentage: listed.length > 80 ? 1 : 0.9,
    minBarLength: 0,
  }));
  const quantity = axis(`Latency in ${unit}, predicted`, { stacked: true, beginAtZero: true });
  const category = (more) => axis("", { stacked: true, grid: { display: false }, ...more });
  return {
    unit, factor, datasets, quantity, category, across,
    tooltip: {
      callbacks: {
        label: (item) => {
          const at = listed[item.dataIndex];
          const part = PARTS[item.datasetIndex];
          return at === null ? "" : `${part.title} ${time(figure(plans[at], part.key))}`;
        },
        footer: (items) => (items.length && listed[items[0].dataIndex] !== null ? `in all ${time(figure(plans[listed[items[0].dataIndex]], "latency_ns"))}` : ""),
        title: (items) => (items.length ? labels[items[0].dataIndex] : ""),
      },
    },
  };
}
