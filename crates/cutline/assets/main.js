// Words, tables and the panel of the plan that is shown; starts everything.
"use strict";

/// A number that keeps its exact value beside what people read.
const exact = (value, text, field) => make("data", { value: String(value), ...(field && { "data-field": field }) }, text);

function row(cells) {
  return make("tr", {}, cells.map((cell) => make("td", {}, cell)));
}

function fillPlan(at) {
  const plan = plans[at];
  byId("plan-kicker").textContent = hovered === null ? "Selected plan" : "Under the pointer";
  byId("plan").dataset.plan = at;
  byId("plan-title").textContent = plan.label;
  const badges = [...plan.names, ...(plan.on_front ? ["on the front"] : [])];
  byId("plan-names").replaceChildren(...badges.map((name) => make("span", { class: "badge" }, name)));
  const numbers = [];
  for (const key of Object.keys(MEASURES)) {
    const measure = MEASURES[key];
    const value = measure.of(plan);
    if (value === null || value === undefined) continue;
    const extra = key === "period" && value > 0 ? `${short(1e9 / value)} frames/s` : "";
    numbers.push(make("dt", {}, [measure.title, " ", make("span", { class: "tag" }, measure.tag)]));
    numbers.push(make("dd", {}, exact(value, measure.text(value), key)));
    if (extra) numbers.push(make("dt", {}, "Highest throughput"), make("dd", {}, extra));
  }
  byId("plan-numbers").replaceChildren(...numbers);
  byId("plan-strip").replaceChildren(...PARTS.filter((part) => plan[part.key] > 0).map((part) =>
    make("span", { class: part.stripes ? "swatch stripes" : "", style: { flex: `${plan[part.key]} 0 0`, background: css(part.colour), border: "0", borderRadius: "0", width: "auto", height: "auto" } })));
  byId("plan-parts").tBodies[0].replaceChildren(...plan.parts.map((part) => row([
    part.kind,
    part.to === null ? device(part.device) : `${device(part.device)} → ${device(part.to)}`,
    part.to === null ? "" : size(part.bytes),
    exact(part.time_ns, time(part.time_ns)),
  ])));
  byId("plan-stages").tBodies[0].replaceChildren(...plan.stages.map((stage) => row([
    [swatch(stage.device), " ", device(stage.device), stage.joined_by === undefined ? "" : `, at the same time for ${device(stage.joined_by)}`],
    exact(stage.layers, String(stage.layers), "layers"),
    stage.engine ? `${stage.engine}${stage.threads ? `, ${count(stage.threads, "thread")}` : ""}` : "not named",
    stage.origin,
  ])));
  byId("plan-hops").replaceChildren(...hopItems(plan));
  byId("plan-devices").tBodies[0].replaceChildren(...plan.devices.map((used) => {
    const limit = data.devices[used.device].memory_limit;
    const share = limit ? ` (${Math.round((100 * used.memory_bytes) / limit)} % of ${size(limit)})` : "";
    const idle = used.idle_nj === undefined ? "" : ` (${energy(used.idle_nj)} of it idle)`;
    return row([
      [swatch(used.device), " ", device(used.device)],
      [exact(used.memory_bytes, size(used.memory_bytes), "device-memory"), share],
      used.energy_nj === null ? "not known" : [exact(used.energy_nj, energy(used.energy_nj), "device-energy"), idle],
    ]);
  }));
  byId("plan-proof").textContent = `${plan.proof_text.charAt(0).toUpperCase()}${plan.proof_text.slice(1)}.`;
  byId("bar-label").textContent = planTitle(plan);
  byId("bar-latency").textContent = time(plan.latency_ns);
}

function hopItems(plan) {
  if (!plan.hops.length) return [make("li", {}, "nothing")];
  return plan.hops.map((hop) => {
    const named = (at) => data.flows[at];
    const inputs = hop.values.filter((at) => named(at).from === null);
    const values = hop.values.filter((at) => named(at).from !== null);
    const words = inputs.map((at) => `the input ${named(at).name} as ${plan.input_encoding}`);
    const some = values.slice(0, 4).map((at) => `${named(at).name}${named(at).bytes === null ? "" : ` (${size(named(at).bytes)})`}`);
    if (values.length > 4) some.push(`${values.length - 4} more`);
    if (some.length) words.push(`${some.join(", ")} as ${hop.encoding === "fp32" ? "declared" : hop.encoding}`);
    return make("li", {}, `${device(hop.from)} → ${device(hop.to)}: ${words.join("; ") || "a call without data"}; ${size(hop.bytes)} in all`);
  });
}

const swatch = (at) => make("span", { class: "swatch", style: { background: deviceColour(at), color: onDevice() }, "aria-hidden": "true" }, letter(at));

function fillLegends() {
  for (const list of document.querySelectorAll("[data-legend=parts]")) {
    list.replaceChildren(...PARTS.map((part) => make("li", {}, [
      make("span", { class: part.stripes ? "swatch stripes" : "swatch", style: { background: css(part.colour) } }), part.title])));
  }
  for (const list of document.querySelectorAll("[data-legend=devices]")) {
    list.replaceChildren(...data.devices.map((one, at) => make("li", {}, [swatch(at), one.name])));
  }
}

function pick(at, text) {
  return make("button", { type: "button", class: "pick", "data-plan": String(at), onclick: () => select(at) }, text);
}

const TABLE_LIMIT = 1000;

function fillTable() {
  const measures = data.objectives.map((key) => MEASURES[key]);
  const head = ["Plan", ...measures.map((measure) => measure.title), "Input"].map((text) => make("th", { scope: "col" }, text));
  byId("table").tHead.replaceChildren(make("tr", {}, head));
  const all = byId("table-all").checked;
  const listed = plans.map((plan, at) => [plan, at]).filter(([plan]) => all || plan.on_front || plan.names.length);
  listed.sort(([a], [b]) => a.latency_ns - b.latency_ns);
  byId("table").tBodies[0].replaceChildren(...listed.slice(0, TABLE_LIMIT).map(([plan, at]) => {
    const line = row([
      [pick(at, plan.label), ...(planName(plan) ? [" ", make("span", { class: "tag" }, plan.names.join(", ") || "on the front")] : [])],
      ...measures.map((measure) => (measure.of(plan) === null ? "" : measure.text(measure.of(plan)))),
      plan.input_encoding ?? "stays",
    ]);
    line.dataset.plan = at;
    return line;
  }));
  byId("table-note").textContent = listed.length > TABLE_LIMIT ? `The fastest ${TABLE_LIMIT} of ${listed.length}; explore.json has all.` : "";
  markRows(shown());
}

function markRows(at) {
  for (const line of document.querySelectorAll("#table tbody tr, #steps tbody tr")) {
    line.classList.toggle("shown", Number(line.dataset.plan) === at);
  }
}

function fillSteps() {
  const bandwidth = data.bandwidth;
  if (!bandwidth || !bandwidth.steps.length) {
    byId("bandwidth").hidden = true;
    return;
  }
  const [a, b] = data.links[bandwidth.link].between;
  byId("bandwidth-note").textContent = `Rate from ${device(a)} to ${device(b)}; the way back keeps its ratio. The dashed line is the rate that all other figures hold for, ${rate(bandwidth.declared)}. ${bandwidth.left_out}`;
  const last = bandwidth.steps.length - 1;
  byId("steps").tBodies[0].replaceChildren(...bandwidth.steps.map((step, at) => {
    const range = last === 0 ? "every rate" : at === 0 ? `below ${rate(step.to)}` : at === last ? `from ${rate(step.from)}` : `${rate(step.from)} to ${rate(step.to)}`;
    const line = row([String(at + 1), range, pick(step.plan, planTitle(plans[step.plan]))]);
    line.dataset.plan = step.plan;
    return line;
  }));
}

function fillWords() {
  const links = data.links.map((link) => `${device(link.between[0])} – ${device(link.between[1])} ${rate(link.up)} up, ${rate(link.down)} down, ${time(link.delay_ns)} delay (${link.origin})`);
  byId("subject").textContent = `· ${count(data.groups.length, "group")} on ${data.devices.map((one) => one.name).join(", ")}`;
  byId("origin").textContent = `All figures are predicted, none was measured as a whole. Times of layers: ${data.origins.join(", ")}. Links: ${links.join("; ") || "none"}. Energy, where shown, is ${ENERGY_ORIGIN}${data.frame_interval_ns === undefined ? "" : `; idle power is part of it, with a frame every ${time(data.frame_interval_ns)}`}.`;
  byId("energy-origin").textContent = METERED.length === 0 ? "modelled, not measured" : ENERGY_ORIGIN;
  byId("front-note").textContent = `${count(data.front.plans.length, "plan")} that no other beats in all of ${data.objectives.join(", ")}; ${data.front.proof_text}.`;
  const refused = data.baselines.filter((baseline) => baseline.plan === null);
  byId("refused").replaceChildren(...refused.map((baseline) => make("li", {}, `${baseline.name} is not possible: ${baseline.infeasible}`)));
  const tried = data.cuts.filter((cut) => cut.plan === null).length;
  byId("cuts-note").textContent = `Predicted latency when everything in front of the cut runs on ${device(0)}, everything behind it elsewhere, from the input to the output.${tried ? ` ${count(tried, "cut")} cannot be run and leave a gap.` : ""}`;
  const limits = data.devices.filter((one) => one.memory_limit !== null).map((one) => `${one.name} ${size(one.memory_limit)}`);
  const known = plans.some((plan) => plan.energy_nj !== null);
  byId("devices-note").textContent = `${limits.length ? `Memory limits: ${limits.join(", ")}.` : "No device has a memory limit."}${known ? "" : " Energy is not known: the platform gives no power for some device."}`;
  byId("energy").hidden = !known;
  byId("reason").textContent = `${data.reason}.`;
  byId("made").textContent = `Written by Cutline ${data.cutline}. The same data: explore.json, front.csv, cuts.csv, bandwidth.csv.`;
}

fillWords();
fillLegends();
fillSteps();
fillTable();
byId("table-all").addEventListener("change", fillTable);
if (plans.length) {
  startCharts();
  startNetwork();
  onShow(fillPlan);
  onShow(markRows);
  tell();
} else {
  document.querySelector("aside").hidden = true;
  byId("bar").hidden = true;
}
darkScheme.addEventListener("change", () => {
  fillLegends();
  told = null;
  if (plans.length) { restyle(); tell(); }
});
