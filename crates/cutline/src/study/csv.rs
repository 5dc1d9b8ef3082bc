//! The tables of a study as CSV (RFC 4180): columns are named as in `study.json`; empty where something
//! is not known.

use super::data::{Data, Plan};
use crate::report::CsvTable;

/// The fastest plan of every combination at every rate, with what it is compared to.
pub(super) fn best(data: &Data) -> String {
    let mut table = CsvTable::new(&[
        "network",
        "board",
        "instance",
        "bytes_per_second",
        "kind",
        "plan",
        "label",
        "layers_on_board",
        "latency_ns",
        "keeps_up",
        "edge_latency_ns",
        "cloud_latency_ns",
        "split_latency_ns",
        "split_label",
        "crosses",
    ]);
    for found in &data.combinations {
        for (rate, bytes) in data.rates.iter().enumerate() {
            let mut row = place(data, found.network, found.board, Some(found.instance));
            row.push(bytes.0.to_string());
            let plan = data.plan(found.best[rate]);
            row.push(plan.map(|plan| plan.kind).unwrap_or_default().to_owned());
            row.push(optional(found.best[rate]));
            row.push(label(plan));
            row.push(optional(plan.map(|plan| plan.layers_on_board)));
            let latency = |of: &[Option<usize>]| {
                optional(data.plan(of[rate]).map(|plan| plan.latency_ns[rate].0))
            };
            row.push(latency(&found.best));
            let keeps_up = plan.map(|plan| plan.keeps_up(rate, data.frame_interval_ns));
            row.push(optional(keeps_up.map(u8::from)));
            row.extend([&found.edge, &found.cloud, &found.split].map(|of| latency(of)));
            row.push(label(data.plan(found.split[rate])));
            row.push(plan.map(|plan| plan.crosses.join(" ")).unwrap_or_default());
            table.row(row);
        }
    }
    table.text
}

/// The ranges of bandwidth over which one plan is the fastest.
pub(super) fn changes(data: &Data) -> String {
    let mut table = CsvTable::new(&[
        "network",
        "board",
        "instance",
        "from_bytes_per_second",
        "to_bytes_per_second",
        "kind",
        "plan",
        "label",
        "layers_on_board",
    ]);
    for found in &data.combinations {
        for range in &found.changes {
            let plan = &data.plans[range.plan];
            let mut row = place(data, found.network, found.board, Some(found.instance));
            row.extend([range.from, range.to].map(|rate| rate.0.to_string()));
            row.extend([plan.kind.to_owned(), range.plan.to_string(), plan.label.clone()]);
            row.push(plan.layers_on_board.to_string());
            table.row(row);
        }
    }
    table.text
}

/// Latency against money of every network at every rate.
pub(super) fn front(data: &Data) -> String {
    let mut table = CsvTable::new(&[
        "network",
        "board",
        "instance",
        "bytes_per_second",
        "plan",
        "label",
        "latency_ns",
        "money_millionths",
    ]);
    for front in &data.fronts {
        for &at in &front.plans {
            let plan = &data.plans[at];
            let mut row = place(data, plan.network, plan.board, plan.instance);
            row.push(data.rates[front.rate].0.to_string());
            row.extend([at.to_string(), plan.label.clone()]);
            row.push(plan.latency_ns[front.rate].0.to_string());
            row.push(plan.money.0.to_string());
            table.row(row);
        }
    }
    table.text
}

/// What a month of every plan costs.
pub(super) fn deployments(data: &Data) -> String {
    let mut table = CsvTable::new(&[
        "plan",
        "network",
        "board",
        "instance",
        "kind",
        "label",
        "layers_on_board",
        "upload_bytes",
        "edge_compute_ns",
        "cloud_compute_ns",
        "energy_nj",
        "instances",
        "rent_millionths",
        "purchase_millionths",
        "electricity_millionths",
        "traffic_millionths",
        "money_millionths",
    ]);
    for (at, plan) in data.plans.iter().enumerate() {
        let mut row = vec![at.to_string()];
        row.extend(place(data, plan.network, plan.board, plan.instance));
        row.extend([plan.kind.to_owned(), plan.label.clone()]);
        row.extend([plan.layers_on_board.to_string(), plan.upload_bytes.0.to_string()]);
        row.extend([plan.edge_compute_ns, plan.cloud_compute_ns].map(|time| time.0.to_string()));
        row.push(optional(plan.energy_nj.map(|energy| energy.0)));
        row.push(plan.instances.to_string());
        let money = [plan.rent, plan.purchase, plan.electricity, plan.traffic, plan.money];
        row.extend(money.map(|money| money.0.to_string()));
        table.row(row);
    }
    table.text
}

/// Predicted against measured times.
pub(super) fn predictions(data: &Data) -> String {
    let mut table =
        CsvTable::new(&["subject", "what", "name", "measured_ns", "predicted_ns", "held_out"]);
    for of in &data.predictions {
        for point in &of.points {
            table.row([
                of.subject.clone(),
                of.what.clone(),
                point.name.clone(),
                point.measured_ns.0.to_string(),
                point.predicted_ns.0.to_string(),
                u8::from(of.is_held_out).to_string(),
            ]);
        }
    }
    table.text
}

/// Measured throughput with its law.
pub(super) fn scaling(data: &Data) -> String {
    let mut table = CsvTable::new(&[
        "subject",
        "over",
        "n",
        "frames_per_second",
        "fitted",
        "lambda",
        "sigma",
        "kappa",
    ]);
    for of in &data.scaling {
        for point in &of.points {
            table.row([
                of.subject.clone(),
                of.over.to_owned(),
                point.n.to_string(),
                point.frames_per_second.to_string(),
                point.fitted.to_string(),
                of.lambda.to_string(),
                of.sigma.to_string(),
                of.kappa.to_string(),
            ]);
        }
    }
    table.text
}

fn place(data: &Data, network: usize, board: usize, instance: Option<usize>) -> Vec<String> {
    let instance = instance.map(|at| data.instances[at].name.clone()).unwrap_or_default();
    vec![data.networks[network].name.clone(), data.boards[board].name.clone(), instance]
}

fn label(plan: Option<&Plan>) -> String {
    plan.map(|plan| plan.label.clone()).unwrap_or_default()
}

fn optional(value: Option<impl ToString>) -> String {
    value.map(|value| value.to_string()).unwrap_or_default()
}
