//! The tables of a report as CSV (RFC 4180): one header line, integers without units, whose columns
//! are named as in `explore.json`; empty where something is not known.

use super::data::{Data, Plan};

/// The front, by latency.
pub(super) fn front(data: &Data) -> String {
    let mut table = Table::new(&[
        "plan",
        "id",
        "label",
        "names",
        "latency_ns",
        "period_ns",
        "energy_nj",
        "memory_bytes",
        "money_millionths",
        "edge_compute_ns",
        "upload_ns",
        "cloud_compute_ns",
        "rest_ns",
        "input_encoding",
    ]);
    for &at in &data.front.plans {
        let plan = &data.plans[at];
        let mut row =
            vec![at.to_string(), plan.id.clone(), plan.label.clone(), plan.names.join(" ")];
        row.push(plan.figures.latency_ns.0.to_string());
        row.push(plan.figures.period_ns.0.to_string());
        row.push(optional(plan.energy_nj.map(|energy| energy.0)));
        row.push(plan.memory_bytes.0.to_string());
        row.push(optional(plan.money.map(|money| money.0)));
        row.extend(parts(Some(plan)));
        row.push(plan.input_encoding.clone().unwrap_or_default());
        table.row(row);
    }
    table.text
}

/// Every candidate cut, from the input to the output.
pub(super) fn cuts(data: &Data) -> String {
    let mut table = Table::new(&[
        "cut",
        "device",
        "values",
        "bytes",
        "plan",
        "latency_ns",
        "edge_compute_ns",
        "upload_ns",
        "cloud_compute_ns",
        "rest_ns",
        "input_encoding",
        "cut_encoding",
        "infeasible",
    ]);
    for cut in &data.cuts {
        let plan = cut.plan.map(|at| &data.plans[at]);
        let mut row = vec![
            cut.position.to_string(),
            data.devices[cut.to].name.clone(),
            cut.values.join(" "),
            optional(cut.bytes.map(|bytes| bytes.0)),
            optional(cut.plan),
            optional(plan.map(|plan| plan.figures.latency_ns.0)),
        ];
        row.extend(parts(plan));
        row.push(plan.and_then(|plan| plan.input_encoding.clone()).unwrap_or_default());
        let hop = plan.and_then(|plan| plan.hops.first());
        row.push(hop.map(|hop| hop.encoding.clone()).unwrap_or_default());
        row.push(cut.infeasible.clone().unwrap_or_default());
        table.row(row);
    }
    table.text
}

/// The best plan at rising rates, with the baselines beside it.
pub(super) fn bandwidth(data: &Data) -> String {
    let fixed = ["bytes_per_second", "plan", "label", "best_latency_ns"].map(str::to_owned);
    let baselines = data.baselines.iter().map(|baseline| format!("{}_latency_ns", baseline.name));
    let header: Vec<String> = fixed.into_iter().chain(baselines).collect();
    let mut table = Table::new(&header);
    for sample in data.bandwidth.iter().flat_map(|bandwidth| &bandwidth.curve) {
        let mut row = vec![
            sample.rate.0.to_string(),
            sample.plan.to_string(),
            data.plans[sample.plan].label.clone(),
            sample.latency_ns.0.to_string(),
        ];
        row.extend(sample.baselines_ns.iter().map(|time| optional(time.map(|time| time.0))));
        table.row(row);
    }
    table.text
}

/// The four parts of the latency; empty without a plan.
fn parts(plan: Option<&Plan>) -> [String; 4] {
    let Some(Plan { figures, .. }) = plan else { return [const { String::new() }; 4] };
    let times =
        [figures.edge_compute_ns, figures.upload_ns, figures.cloud_compute_ns, figures.rest_ns];
    times.map(|time| time.0.to_string())
}

fn optional(value: Option<impl ToString>) -> String {
    value.map(|value| value.to_string()).unwrap_or_default()
}

/// Lines of quoted fields.
pub(crate) struct Table {
    pub(crate) text: String,
}

impl Table {
    /// A table of nothing but its header.
    pub(crate) fn new(header: &[impl AsRef<str>]) -> Self {
        let mut table = Self { text: String::new() };
        table.row(header.iter().map(|name| name.as_ref().to_owned()));
        table
    }

    /// Adds a line.
    pub(crate) fn row(&mut self, fields: impl IntoIterator<Item = String>) {
        for (position, field) in fields.into_iter().enumerate() {
            if position > 0 {
                self.text.push(',');
            }
            self.text.push_str(&quoted(field));
        }
        self.text.push_str("\r\n");
    }
}

fn quoted(field: String) -> String {
    match field.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", field.replace('"', "\"\"")),
        false => field,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_quoted_where_they_must_be() {
        let mut table = Table::new(&["a", "b"]);
        table.row(["plain", "one, \"two\"\n"].map(str::to_owned));
        assert_eq!(table.text, "a,b\r\nplain,\"one, \"\"two\"\"\n\"\r\n");
    }
}
