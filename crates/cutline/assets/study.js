// A study: a map of cells, and plots of the cell that is chosen.
//
// A cell is a network, a board, an instance and a rate. `chosen` is the one that was clicked, `over`
// the one under the pointer; the panel shows either, the plots show the chosen one. Plans are chosen
// as on every page: `select` and `preview`.
"use strict";

const usual = data.rates.findIndex((bytes) => bytes >= 1.25e6);
const lastSize = data.networks.findIndex((network, at) => data.networks[at + 1]?.family !== network.family);
// At first where the fastest plan changes most often, at the largest size.
const liveliest = data.combinations.filter((found) => found.network === lastSize).reduce((most, found) => (found.changes.length > most.changes.length ? found : most), { board: 0, instance: 0, changes: [] });
const chosen = { network: lastSize, board: liveliest.board, instance: liveliest.instance, rate: usual < 0 ? data.rates.length - 1 : usual };
let over = null;

const exact = (value, text, field) => make("data", { value: String(value), ...(field && { "data-field": field }) }, text);
const row = (cells) => make("tr", {}, cells.map((cell) => make("td", {}, cell)));
const combinationOf = (cell) => data.combinations[(cell.network * data.boards.length + cell.board) * data.instances.length + cell.instance];
const planOf = (cell, of) => combinationOf(cell)[of][cell.rate];
const layersOf = (plan) => data.networks[plan.network].layers;
const kindWord = (plan) => (plan.kind === "edge" ? "board" : plan.kind === "cloud" ? "cloud" : `${plan.layers_on_board}/${layersOf(plan)}`);
const isLate = (plan, at) => plan.busiest_ns[at] > data.frame_interval_ns;
const showing = () => over ?? chosen;

// The colour of a cell goes from the board's to the cloud's with the share of layers on the board.
function tint(plan) {
  const share = plan.kind === "edge" ? 100 : plan.kind === "cloud" ? 0 : 15 + (70 * plan.layers_on_board) / layersOf(plan);
  return `color-mix(in srgb, color-mix(in srgb, var(--edge) ${share.toFixed(0)}%, var(--cloud)) 38%, var(--back))`;
}

// The map.

const ROWS = {
  board: () => data.boards.map((_, board) => ({ ...chosen, board })),
  instance: () => data.instances.map((_, instance) => ({ ...chosen, instance })),
  network: () => data.networks.map((_, network) => ({ ...chosen, network })).filter((cell) => data.networks[cell.network].family === data.networks[chosen.network].family),
};

function rowName(cell) {
  const rows = byId("rows").value;
  return rows === "board" ? data.boards[cell.board].name : rows === "instance" ? data.instances[cell.instance].name : data.networks[cell.network].name;
}

function mapCell(cell) {
  const which = byId("which").value;
  const at = planOf(cell, which);
  const places = { "data-network": cell.network, "data-board": cell.board, "data-instance": cell.instance, "data-rate": cell.rate };
  if (at === null) return make("td", { class: "cell" }, make("span", { class: "none", title: combinationOf(cell).refused.join("; ") || "nothing can be run", ...places }, "–"));
  const plan = plans[at];
  const latency = plan.latency_ns[cell.rate];
  const best = planOf(cell, "best");
  const factor = latency / plans[best].latency_ns[cell.rate];
  const button = make("button", {
    type: "button",
    class: plan.kind === "split" ? "cell split" : "cell",
    style: { background: tint(plan) },
    "data-plan": at,
    ...places,
    "aria-label": `${rowName(cell)} at ${rate(data.rates[cell.rate])}: ${plan.label}, ${time(latency)}`,
    onclick: () => choose(cell, at),
    onpointerenter: (event) => { if (event.pointerType === "mouse") look(cell, at); },
    onpointerleave: () => look(null, null),
  }, [make("strong", {}, kindWord(plan)), make("span", {}, time(latency))]);
  if (which === "split") button.append(make("span", { class: "factor" }, factor > 1.0005 ? `× ${short(factor)}` : "fastest"));
  if (isLate(plan, cell.rate)) button.append(make("span", { class: "late" }, "late"));
  return make("td", { class: "cell" }, button);
}

function fillMap() {
  const head = ["", ...data.rates.map(rate)].map((text) => make("th", { scope: "col" }, text));
  byId("map").tHead.replaceChildren(make("tr", {}, head));
  byId("map").tBodies[0].replaceChildren(...ROWS[byId("rows").value]().map((base) =>
    make("tr", {}, [make("th", { scope: "row" }, rowName(base)), ...data.rates.map((_, at) => mapCell({ ...base, rate: at }))])));
  const fixed = { board: ["network", "instance"], instance: ["network", "board"], network: ["board", "instance"] }[byId("rows").value];
  const named = { network: data.networks[chosen.network].name, board: data.boards[chosen.board].name, instance: data.instances[chosen.instance].name };
  byId("map-note").textContent = `Of ${fixed.map((key) => named[key]).join(" and ")}, over the bandwidth up. ${byId("which").value === "best" ? "Each cell shows the fastest plan, proven over the table of costs, and its latency." : "Each cell shows the fastest plan with layers on both sides, its latency, and how many times as long it takes as the fastest plan."} Board and cloud: not split. Down is ${data.link.down_permille === 1000 ? "as fast as up" : `${short(data.link.down_permille / 1000)} times as fast as up`}; one way takes ${time(data.link.delay_ns)} besides.`;
  markCell();
}

function markCell() {
  for (const button of document.querySelectorAll("#map button")) {
    const { network, board, instance, rate: at } = button.dataset;
    const is = [network, board, instance, at].map(Number).every((value, i) => value === [chosen.network, chosen.board, chosen.instance, chosen.rate][i]);
    button.classList.toggle("chosen", is);
    button.setAttribute("aria-pressed", String(is));
  }
}

function look(cell, at) {
  told = null;
  over = cell;
  shownRate = showing().rate;
  preview(at);
  tell();
}

function choose(cell, at) {
  Object.assign(chosen, { network: cell.network, board: cell.board, instance: cell.instance, rate: cell.rate });
  over = null;
  shownRate = chosen.rate;
  fillControls();
  if (at !== null && at !== undefined) select(at);
  fillAll();
}

function steps(event) {
  const way = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] }[event.key];
  const cell = event.target.closest("td");
  if (!way || !cell) return;
  event.preventDefault();
  const line = byId("map").rows[cell.parentElement.rowIndex + way[0]];
  line?.cells[cell.cellIndex + way[1]]?.querySelector("button")?.focus();
}

// Latency over the bandwidth of the chosen combination.

const LINES = [
  { of: "best", title: "the fastest", colour: "text", width: 5, dash: [] },
  { of: "edge", title: "all on the board", colour: "edge", width: 2, dash: [6, 3] },
  { of: "cloud", title: "all in the cloud", colour: "cloud", width: 2, dash: [2, 3] },
  { of: "split", title: "the best split", colour: "upload", width: 2, dash: [] },
];

const logTicks = { callback: (value) => (/^[125](\.0*)?e/.test(Number(value).toExponential()) ? String(Number(Number(value).toPrecision(3))) : "") };

function latencyLines() {
  const build = () => {
    const found = combinationOf(chosen);
    const values = LINES.flatMap((line) => found[line.of].map((at, i) => (at === null ? null : plans[at].latency_ns[i])));
    const [unit, factor] = unitFor(values, MEASURES.latency.units);
    const datasets = LINES.map((line, order) => ({
      label: line.title,
      data: found[line.of].map((at, i) => ({ x: (data.rates[i] * 8) / 1e6, y: at === null ? null : plans[at].latency_ns[i] / factor, plan: at, rate: i })),
      borderColor: line.of === "best" ? `${css("rest")}` : css(line.colour),
      borderWidth: line.width,
      borderDash: line.dash,
      pointRadius: (context) => (context.dataIndex === chosen.rate ? 6 : 3),
      pointBackgroundColor: css(line.of === "best" ? "rest" : line.colour),
      order: LINES.length - order,
    }));
    return {
      type: "line",
      data: { datasets },
      options: base({
        interaction: { mode: "index", axis: "x", intersect: false },
        scales: { x: axis("Bandwidth up in Mbit/s", { type: "logarithmic", ticks: logTicks }), y: axis(`Latency in ${unit}, predicted`, { type: "logarithmic", ticks: logTicks }) },
        plugins: { tooltip: { callbacks: { title: (items) => (items.length ? rate(data.rates[items[0].dataIndex]) : ""), label: (item) => (item.raw.plan === null ? "" : `${item.dataset.label}: ${plans[item.raw.plan].label}, ${time(item.raw.y * factor)}`) } } },
      }),
    };
  };
  plot("c-lines", "Latency over the bandwidth.", build, () => null, () => []);
  byId("lines-legend").replaceChildren(...LINES.map((line) => make("li", {}, [make("span", { class: "swatch", style: { background: line.of === "best" ? "var(--rest)" : `var(--${line.colour})` } }), line.title])));
}

function fillChanges() {
  const found = combinationOf(chosen);
  const last = found.changes.length - 1;
  byId("lines-note").textContent = `${data.networks[chosen.network].name} on ${data.boards[chosen.board].name} with ${data.instances[chosen.instance].name}. The table says exactly at which bandwidth the fastest plan changes.`;
  byId("changes").tBodies[0].replaceChildren(...found.changes.map((range, at) => row([
    last === 0 ? "every bandwidth" : at === 0 ? `below ${rate(range.to)}` : at === last ? `from ${rate(range.from)}` : `${rate(range.from)} to ${rate(range.to)}`,
    make("button", { type: "button", class: "pick", "data-plan": range.plan, onclick: () => select(range.plan) }, plans[range.plan].label),
    plans[range.plan].crosses.join(", ") || "nothing",
  ])));
  byId("refused").replaceChildren(...found.refused.map((why) => make("li", {}, `not possible: ${why}`)));
}

// Latency against money.

const frontOf = (cell) => data.fronts.find((front) => front.network === cell.network && front.rate === cell.rate)?.plans ?? [];
const moneyUnit = [[`${data.currency} a month`, 1e6], [`thousand ${data.currency} a month`, 1e9]];

const FRONT_KINDS = [
  { title: "all on the board, on the front", kind: "edge", style: "triangle", colour: "edge" },
  { title: "all in the cloud, on the front", kind: "cloud", style: "rect", colour: "cloud" },
  { title: "split, on the front", kind: "split", style: "circle", colour: "upload" },
];

function frontPlot() {
  const build = () => {
    const front = frontOf(chosen);
    const others = plans.map((plan, at) => at).filter((at) => plans[at].network === chosen.network && !front.includes(at));
    const all = [...front, ...others];
    const [xUnit, xFactor] = unitFor(all.map((at) => plans[at].latency_ns[chosen.rate]), MEASURES.latency.units);
    const [yUnit, yFactor] = unitFor(all.map((at) => plans[at].money), moneyUnit);
    const point = (at) => ({ x: plans[at].latency_ns[chosen.rate] / xFactor, y: plans[at].money / yFactor, plan: at });
    const sets = FRONT_KINDS.map((kind, order) => ({
      label: kind.title,
      data: front.filter((at) => plans[at].kind === kind.kind).map(point),
      pointStyle: kind.style,
      radius: (context) => 6 + bold(context.raw?.plan, 4, 0),
      backgroundColor: css(kind.colour),
      borderColor: css("text"),
      hitRadius: 8,
      order,
    }));
    sets.push({ label: "other plans", data: others.map(point), radius: (context) => 2.5 + bold(context.raw?.plan, 4, 0), backgroundColor: `${css("rest")}99`, borderColor: css("rest"), order: 4 });
    sets.push({ type: "line", label: "front", data: front.map(point).map(({ x, y }) => ({ x, y })), stepped: "before", borderColor: css("edge"), borderWidth: 1.5, pointRadius: 0, pointHitRadius: 0, order: 9 });
    return {
      type: "scatter",
      data: { datasets: sets },
      options: base({
        interaction: { mode: "nearest", intersect: true },
        scales: { x: axis(`Latency in ${xUnit}, predicted`, { type: "logarithmic", ticks: logTicks }), y: axis(`Money in ${yUnit}`, { type: all.every((at) => plans[at].money > 0) ? "logarithmic" : "linear", ticks: logTicks }) },
        plugins: { tooltip: { filter: (item) => item.raw.plan !== undefined, callbacks: { title: (items) => (items.length ? plans[items[0].raw.plan].label : ""), label: (item) => [time(plans[item.raw.plan].latency_ns[chosen.rate]), money(plans[item.raw.plan].money)] } } },
      }),
    };
  };
  const planAt = (hit, chart) => chart.data.datasets[hit[0].datasetIndex].data[hit[0].index].plan ?? null;
  plot("c-front", "Latency against money, as points.", build, planAt, () => frontOf(chosen));
  byId("front-legend").replaceChildren(...FRONT_KINDS.map((kind) => make("li", {}, [make("span", { class: "swatch", style: { background: `var(--${kind.colour})` } }, { triangle: "▲", rect: "■", circle: "●" }[kind.style]), kind.title])), make("li", {}, [make("span", { class: "swatch", style: { background: "var(--rest)" } }), "other plans"]));
}

const BILL = [
  { key: "rent", title: "rent", colour: "cloud" },
  { key: "purchase", title: "purchase", colour: "edge" },
  { key: "electricity", title: "electricity", colour: "upload" },
  { key: "traffic", title: "traffic", colour: "rest", stripes: true },
];

function fillFront() {
  const front = frontOf(chosen);
  byId("front-note").textContent = `${data.networks[chosen.network].name} at ${rate(data.rates[chosen.rate])}, for ${data.users} users with ${data.frames_per_second} frame/s each: over all boards and instances ${count(front.length, "plan")} that keep up with the frames and that no other such beats in both latency and money, among all candidate cuts and the fastest plans.`;
  const head = ["Plan", "Board", "Latency", "Money", ...BILL.map((part) => part.title)].map((text) => make("th", { scope: "col" }, text));
  byId("front").tHead.replaceChildren(make("tr", {}, head));
  byId("front").tBodies[0].replaceChildren(...front.map((at) => {
    const plan = plans[at];
    const line = row([
      make("button", { type: "button", class: "pick", "data-plan": at, onclick: () => select(at) }, plan.label),
      data.boards[plan.board].name,
      time(plan.latency_ns[chosen.rate]),
      amount(plan.money),
      ...BILL.map((part) => amount(plan[part.key])),
    ]);
    line.dataset.plan = at;
    return line;
  }));
}

const amount = (millionths) => (millionths / 1e6).toFixed(2);

// What a month costs.

/// Deployments of the chosen network on the chosen board: each plan once, with what it is.
function deployments() {
  const listed = [];
  const add = (at, name) => { if (at !== null && !listed.some((one) => one.at === at)) listed.push({ at, name }); };
  data.instances.forEach((instance, index) => {
    const cell = { ...chosen, instance: index };
    add(planOf(cell, "edge"), "all on the board");
    add(planOf(cell, "cloud"), `${instance.name}, all`);
    add(planOf(cell, "split"), `${instance.name}, best split`);
  });
  return listed;
}

function moneyBars() {
  const listed = () => deployments().map((one) => one.at);
  const build = () => {
    const rows = deployments();
    const [unit, factor] = unitFor(rows.map((one) => plans[one.at].money), moneyUnit);
    return {
      type: "bar",
      plugins: [framed(listed)],
      data: {
        labels: rows.map((one) => one.name),
        datasets: BILL.map((part) => ({ label: part.title, data: rows.map((one) => plans[one.at][part.key] / factor), backgroundColor: partColour(part), borderColor: css("back"), borderWidth: 0.5, borderSkipped: false })),
      },
      options: base({
        indexAxis: "y",
        interaction: { mode: "index", axis: "y", intersect: false },
        scales: { x: axis(`Money in ${unit}`, { stacked: true, beginAtZero: true }), y: axis("", { stacked: true, grid: { display: false }, ticks: { autoSkip: false, color: css("text") } }) },
        plugins: { tooltip: { callbacks: { title: (items) => (items.length ? plans[rows[items[0].dataIndex].at].label : ""), label: (item) => `${item.dataset.label} ${amount(plans[rows[item.dataIndex].at][BILL[item.datasetIndex].key])}`, footer: (items) => (items.length ? `in all ${money(plans[rows[items[0].dataIndex].at].money)}` : "") } } },
      }),
    };
  };
  byId("c-money").style.height = `${deployments().length * 2.4 + 5}rem`;
  plot("c-money", "What a month costs, as stacked bars.", build, (hit) => listed()[hit[0].index], listed);
  byId("money-legend").replaceChildren(...BILL.map((part) => make("li", {}, [make("span", { class: part.stripes ? "swatch stripes" : "swatch", style: { background: `var(--${part.colour})` } }), part.title])));
}

function fillMoney() {
  const board = data.boards[chosen.board];
  const bought = board.purchase === null ? "Its purchase is not given and counts nothing." : `It costs ${amount(board.purchase)} ${data.currency} and lasts ${board.life_months} months.`;
  byId("money-note").textContent = `${data.networks[chosen.network].name} for ${data.users} users, each with a ${board.name} of their own, at ${rate(data.rates[chosen.rate])}. ${bought} Instances are as many as their computing takes, without reserve.`;
}

// The panel.

function fillPanel(at) {
  const plan = plans[at];
  const cell = { ...showing(), network: plan.network, board: plan.board, instance: plan.instance ?? showing().instance };
  byId("plan").dataset.plan = at;
  byId("plan").dataset.rate = cell.rate;
  byId("plan-kicker").textContent = hovered === null ? "Selected cell" : "Under the pointer";
  byId("plan-title").textContent = plan.label;
  byId("plan-place").textContent = `${data.networks[cell.network].name} on ${data.boards[cell.board].name}${plan.instance === null ? "" : ` with ${data.instances[cell.instance].name}`}, ${rate(data.rates[cell.rate])}`;
  const latency = plan.latency_ns[cell.rate];
  const numbers = [["Latency", "predicted", exact(latency, time(latency), "latency")], ["Money", "computed", exact(plan.money, money(plan.money), "money")]];
  if (plan.energy_nj !== null) numbers.push(["Energy of a frame", "modelled", exact(plan.energy_nj, energy(plan.energy_nj), "energy")]);
  numbers.push(["Instances", "computed", exact(plan.instances, String(plan.instances), "instances")]);
  byId("plan-numbers").replaceChildren(...numbers.flatMap(([title, tag, value]) => [make("dt", {}, [title, " ", make("span", { class: "tag" }, tag)]), make("dd", {}, value)]));
  const parts = PARTS.map((part) => [part, Array.isArray(plan[part.key]) ? plan[part.key][cell.rate] : plan[part.key]]);
  byId("plan-strip").replaceChildren(...parts.filter(([, value]) => value > 0).map(([part, value]) =>
    make("span", { class: part.stripes ? "swatch stripes" : "", style: { flex: `${value} 0 0`, background: css(part.colour), border: "0", borderRadius: "0", width: "auto", height: "auto" } })));
  byId("plan-parts").tBodies[0].replaceChildren(...parts.map(([part, value]) => row([part.title, exact(value, time(value), part.key)])));
  const coding = [plan.input_encoding && `the input as ${plan.input_encoding}`, plan.cut_encoding && plan.cut_encoding !== "fp32" && `values as ${plan.cut_encoding}`].filter(Boolean).join(", ");
  byId("plan-crosses").textContent = plan.kind === "edge" ? "Nothing: do not split." : `${plan.crosses.slice(0, 4).join(", ")}${plan.crosses.length > 4 ? ` and ${plan.crosses.length - 4} more` : ""}${coding ? ` (${coding})` : ""}, ${size(plan.upload_bytes)}${plan.kind === "cloud" ? ": do not split." : "."}`;
  byId("plan-others").tBodies[0].replaceChildren(...LINES.map((line) => {
    const other = planOf(cell, line.of);
    return row([line.title, other === null ? "not possible" : exact(plans[other].latency_ns[cell.rate], time(plans[other].latency_ns[cell.rate]), line.of)]);
  }));
  byId("plan-keeps").textContent = `${isLate(plan, cell.rate) ? "It does not keep up: a" : "A"} frame keeps the board or the link for ${time(plan.busiest_ns[cell.rate])}, and one comes every ${time(data.frame_interval_ns)}.`;
  byId("plan-bill").tBodies[0].replaceChildren(...BILL.map((part) => row([part.title, exact(plan[part.key], amount(plan[part.key]), part.key)])));
  const origins = [plan.origins[0] && `board: ${plan.origins[0]}`, plan.origins[1] && `instance: ${plan.origins[1]}`].filter(Boolean);
  byId("plan-origin").textContent = `Times of the ${origins.join(", ")}${origins.some((text) => text.endsWith("preset")) ? " (modelled, not measured)" : ""}.`;
  byId("bar-label").textContent = plan.label;
  byId("bar-latency").textContent = time(latency);
}

/// A plan that was chosen in a plot brings its board and instance with it.
function adopt(at) {
  if (hovered !== null || over !== null) return;
  const plan = plans[at];
  const moved = plan.network !== chosen.network || plan.board !== chosen.board || (plan.instance !== null && plan.instance !== chosen.instance);
  if (moved) {
    Object.assign(chosen, { network: plan.network, board: plan.board, instance: plan.instance ?? chosen.instance });
    fillControls();
    fillAll();
  } else {
    markRows(at);
    restyle();
  }
}

function markRows(at) {
  for (const line of document.querySelectorAll("#front tbody tr")) line.classList.toggle("shown", Number(line.dataset.plan) === at);
}

// Everything.

const names = (id, list, value) => byId(id).replaceChildren(...list.map((text, at) => make("option", { value: String(at), ...(at === value && { selected: "" }) }, text)));

function fillControls() {
  names("network", data.networks.map((network) => network.name), chosen.network);
  names("board", data.boards.map((board) => board.name), chosen.board);
  names("instance", data.instances.map((instance) => instance.name), chosen.instance);
  names("rate", data.rates.map(rate), chosen.rate);
}

function fillAll() {
  fillMap();
  fillChanges();
  fillFront();
  fillMoney();
  byId("c-money").style.height = `${deployments().length * 2.4 + 5}rem`;
  restyle();
  markRows(selected);
}

function fillWords() {
  byId("subject").textContent = `· ${count(data.networks.length, "network")} and sizes, ${count(data.boards.length, "board")}, ${count(data.instances.length, "instance")}, ${count(data.rates.length, "bandwidth")}`;
  byId("sentences").replaceChildren(...[...data.sentences, ...data.left_out.map((what) => `Left out: ${what}.`)].map((text) => make("li", {}, text)));
  byId("map-legend").replaceChildren(
    make("li", {}, [make("span", { class: "swatch", style: { background: tint({ kind: "edge" }) } }), "all on the board"]),
    make("li", {}, [make("span", { class: "swatch", style: { background: tint({ kind: "cloud" }) } }), "all in the cloud"]),
    make("li", {}, [make("span", { class: "swatch dashed" }), "split: layers on the board / all layers"]),
    make("li", {}, [make("span", { class: "late" }, "late"), "does not keep up with the frames"]));
  byId("made").textContent = `Written by Cutline ${data.cutline}. The same data: study.json, best.csv, changes.csv, front.csv, deployments.csv, predictions.csv, scaling.csv.`;
}

function start() {
  Chart.defaults.font.family = getComputedStyle(document.body).fontFamily;
  shownRate = chosen.rate;
  selected = planOf(chosen, "best") ?? 0;
  fillWords();
  fillControls();
  latencyLines();
  frontPlot();
  moneyBars();
  fillAll();
  for (const id of ["network", "board", "instance", "rate"]) {
    byId(id).addEventListener("change", () => {
      const cell = { ...chosen, [id]: Number(byId(id).value) };
      choose(cell, planOf(cell, "best"));
    });
  }
  for (const id of ["rows", "which"]) byId(id).addEventListener("change", fillMap);
  byId("map").addEventListener("keydown", steps);
  onShow(fillPanel);
  onShow(adopt);
  tell();
}

if (plans.length) start();
else {
  fillWords();
  document.querySelector("main").hidden = document.querySelector("aside").hidden = byId("bar").hidden = true;
}
