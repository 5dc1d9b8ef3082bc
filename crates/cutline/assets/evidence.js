// What was measured: predictions against it, and throughput with its law.
"use strict";

const bandOf = (of) => of.band_permille / 1000;

function predictionPoints() {
  const list = data.predictions;
  byId("predictions").hidden = !list.length;
  if (!list.length) {
    byId("predictions-note").textContent = "Nothing measured was given: --kernels K.json (of `cutline kernels`) shows how far predictions are off, and profiles of boards and instances show how well they were fitted.";
    return;
  }
  byId("predictions-of").replaceChildren(...list.map((of, at) => make("option", { value: String(at) }, clip(of.subject, 90))));
  const of = () => list[Number(byId("predictions-of").value)];
  const build = () => {
    const { points } = of();
    const values = points.flatMap((point) => [point.measured_ns, point.predicted_ns]).filter((value) => value > 0);
    const [unit, factor] = unitFor(values, MEASURES.latency.units);
    const ends = [Math.min(...values) / 1.2, Math.max(...values) * 1.2].map((value) => value / factor);
    const line = (label, slope, dash, fill) => ({ type: "line", label, data: ends.map((x) => ({ x, y: x * slope })), borderColor: css("soft"), borderWidth: dash.length ? 1 : 1.5, borderDash: dash, pointRadius: 0, pointHitRadius: 0, fill, backgroundColor: `${css("edge")}22`, order: 5 });
    const band = bandOf(of());
    return {
      type: "scatter",
      data: {
        datasets: [
          { label: "points", data: points.filter((point) => point.predicted_ns > 0).map((point) => ({ x: point.measured_ns / factor, y: point.predicted_ns / factor, name: point.name })), radius: 4, backgroundColor: css("edge"), borderColor: css("text"), borderWidth: 0.5, order: 1 },
          line("predicted as measured", 1, []),
          line("upper end of the band", 1 + band, [5, 4], "+1"),
          line("lower end of the band", Math.max(1 - band, 1e-3), [5, 4]),
        ],
      },
      options: base({
        interaction: { mode: "nearest", intersect: true },
        scales: { x: axis(`Measured in ${unit}`, { type: "logarithmic", min: ends[0], max: ends[1], ticks: logTicks }), y: axis(`Predicted in ${unit}`, { type: "logarithmic", ticks: logTicks }) },
        plugins: { tooltip: { filter: (item) => item.datasetIndex === 0, callbacks: { title: (items) => (items.length ? items[0].raw.name : ""), label: (item) => [`measured ${time(item.raw.x * factor)}`, `predicted ${time(item.raw.y * factor)}`, `${((item.raw.y / item.raw.x - 1) * 100).toFixed(1)} %`] } } },
      }),
    };
  };
  const words = () => {
    const { what, points, is_held_out: heldOut, median_permille: median, mean_permille: mean, band_permille: band } = of();
    byId("predictions-note").textContent = `${count(points.length, "point")}: ${what}. ${heldOut ? "None of them was in the fit that predicts it." : "They are in the fit itself: this shows how well it fits, not how well it predicts."} The median error is ${median / 10} %, the mean ${mean / 10} %; nine of ten are within ${band / 10} %.`;
  };
  plot("c-predictions", "Predicted against measured times, as points.", build, () => null, () => []);
  const entry = charts.at(-1);
  byId("predictions-of").addEventListener("change", () => { words(); redraw(entry); });
  byId("predictions-legend").replaceChildren(make("li", {}, [make("span", { class: "swatch", style: { background: "var(--edge)" } }), "a prediction"]), make("li", {}, "line: predicted as measured"), make("li", {}, "band: nine of ten errors"));
  words();
}

function scalingCurves() {
  const list = data.scaling;
  byId("scaling").hidden = !list.length;
  if (!list.length) {
    byId("scaling-note").textContent = "No measured throughput was given: --sweep SWEEP.db (of `cutline characterize`) with cells that differ in threads or in the batch alone shows how it grows.";
    return;
  }
  byId("scaling-of").replaceChildren(...list.map((of, at) => make("option", { value: String(at) }, clip(`${of.over}: ${of.subject}`, 110))));
  const of = () => list[Number(byId("scaling-of").value)];
  const law = ({ lambda, sigma, kappa }, n) => (lambda * n) / (1 + sigma * (n - 1) + kappa * n * (n - 1));
  const build = () => {
    const { points, over: what } = of();
    const most = Math.max(...points.map((point) => point.n)) * 1.5;
    const curve = Array.from({ length: 81 }, (_, at) => 1 + ((most - 1) * at) / 80).map((n) => ({ x: n, y: law(of(), n) }));
    return {
      type: "scatter",
      data: {
        datasets: [
          { label: "measured", data: points.map((point) => ({ x: point.n, y: point.frames_per_second })), radius: 5, backgroundColor: css("edge"), borderColor: css("text"), order: 1 },
          { type: "line", label: "the law", data: curve, borderColor: css("upload"), borderWidth: 2, pointRadius: 0, pointHitRadius: 0, order: 2 },
          { type: "line", label: "if it grew evenly", data: [1, most].map((n) => ({ x: n, y: of().lambda * n })), borderColor: css("soft"), borderWidth: 1, borderDash: [5, 4], pointRadius: 0, pointHitRadius: 0, order: 3 },
        ],
      },
      options: base({
        interaction: { mode: "nearest", intersect: true },
        scales: { x: axis(what === "batch" ? "Frames in a batch" : "Threads", { type: "linear", min: 0 }), y: axis("Frames per second, measured", { beginAtZero: true, suggestedMax: Math.max(...points.map((point) => point.frames_per_second)) * 1.2 }) },
        plugins: { tooltip: { filter: (item) => item.datasetIndex === 0, callbacks: { label: (item) => [`${item.raw.x}: ${short(item.raw.y)} frames/s`, `by the law ${short(law(of(), item.raw.x))}`] } } },
      }),
    };
  };
  const words = () => {
    const { lambda, sigma, kappa, peak, points, cross_validated_permille: error } = of();
    byId("scaling-note").textContent = `The Universal Scalability Law through ${count(points.length, "point")}: one does ${short(lambda)} frames/s; ${short(sigma * 100)} % is done one after the other (contention), and each pair costs ${short(kappa * 100)} % (coherency). ${peak === null ? "By the law more is always more." : `By the law ${peak} is the most that is worth it.`} ${error === null ? "Too few points to say how well it predicts." : `Each point left out is predicted with a median error of ${error / 10} %.`}`;
  };
  plot("c-scaling", "Throughput with its law.", build, () => null, () => []);
  const entry = charts.at(-1);
  byId("scaling-of").addEventListener("change", () => { words(); redraw(entry); });
  byId("scaling-legend").replaceChildren(...[["edge", "measured"], ["upload", "the law"], ["soft", "if it grew evenly"]].map(([colour, text]) => make("li", {}, [make("span", { class: "swatch", style: { background: `var(--${colour})` } }), text])));
  words();
}

Chart.defaults.font.family = getComputedStyle(document.body).fontFamily;
predictionPoints();
scalingCurves();
darkScheme.addEventListener("change", () => {
  told = null;
  restyle();
  if (plans.length) tell();
});
