//! A study in words: two sentences, what else is worth knowing, and tables for a terminal.

use std::{io::Write, path::Path};

use cutline_core::{
    cost::Origin,
    units::{BytesPerSec, Money, Nanos},
};

use super::data::{Combination, Data, Device, Plan, Range};
use crate::{output::table, report::Headline};

/// The rate whose money is spoken of, unless a study has none as high: 10 Mbit/s.
const USUAL: BytesPerSec = BytesPerSec(1_250_000);

/// How often which kind of plan is the fastest.
#[derive(Default)]
struct Tally {
    cells: usize,
    edge: usize,
    cloud: usize,
    split: usize,
}

/// A cell in which a split is compared to the fastest plan without one.
struct Compared<'a> {
    found: &'a Combination,
    rate: usize,
    split: &'a Plan,
    plain: &'a Plan,
}

impl Compared<'_> {
    fn times(&self) -> [Nanos; 2] {
        [self.split, self.plain].map(|plan| plan.latency_ns[self.rate])
    }

    /// Time of the split in millionths of that without.
    fn ratio(&self) -> u64 {
        let [split, plain] = self.times().map(|time| u128::from(time.0));
        u64::try_from(split * 1_000_000 / plain.max(1)).unwrap_or(u64::MAX)
    }
}

/// Where it is best to cut, and how much that is worth.
pub(super) fn headline(data: &Data) -> Headline {
    let tally = tally(data);
    let share = |count: usize| percent(count as f64 / tally.cells.max(1) as f64);
    let title = data.title();
    let plain = format!(
        "all on the board is the fastest in {}, all in the cloud in {}",
        share(tally.edge),
        share(tally.cloud)
    );
    let what = match (tally.cells, tally.split) {
        (0, _) => format!("Nothing of {title} can be run on any of these boards and instances."),
        (cells, 0) => {
            format!(
                "Do not split {title}: of {cells} cells in none is a split the fastest; {plain}."
            )
        }
        (cells, split) => format!(
            "A split of {title} is the fastest in {} of {cells} cells; do not split in the others: {plain}.",
            share(split)
        ),
    };
    let nearest = compared(data).min_by_key(Compared::ratio);
    let why = match nearest {
        None => "There is no split to compare with.".to_owned(),
        Some(cell) => {
            let [split, plain] = cell.times();
            let place = place(data, cell.found);
            let rate = about(data.rates[cell.rate]);
            let change = (cell.ratio() as f64 / 1e6 - 1.0).abs();
            let (verdict, how) = match split < plain {
                true => ("gains most", format!("{} less than", percent(change))),
                false => ("comes nearest", format!("{} more than", percent(change))),
            };
            format!(
                "A split {verdict} for {place} at {rate}: {} takes {split}, {how} {}, which takes {plain}.",
                cell.split.label, cell.plain.label
            )
        }
    };
    Headline { what, why }
}

fn tally(data: &Data) -> Tally {
    let mut tally = Tally::default();
    let all = data.combinations.iter().flat_map(|found| &found.best);
    for plan in all.filter_map(|&best| data.plan(best)) {
        tally.cells += 1;
        match plan.kind {
            "edge" => tally.edge += 1,
            "cloud" => tally.cloud += 1,
            _ => tally.split += 1,
        }
    }
    tally
}

/// Every cell that has a split and something without.
fn compared(data: &Data) -> impl Iterator<Item = Compared<'_>> {
    let cells = data
        .combinations
        .iter()
        .flat_map(|found| (0..data.rates.len()).map(move |rate| (found, rate)));
    cells.filter_map(|(found, rate)| {
        let plain = [&found.edge, &found.cloud].into_iter().filter_map(|of| data.plan(of[rate]));
        let plain = plain.min_by_key(|plan| plan.latency_ns[rate])?;
        Some(Compared { found, rate, split: data.plan(found.split[rate])?, plain })
    })
}

/// What else is worth knowing: how it moves with the size, money, and where the times come from.
pub(super) fn sentences(data: &Data) -> Vec<String> {
    let mut sentences: Vec<String> = between_the_rates(data).into_iter().collect();
    sentences.extend(moves_with_size(data));
    sentences.extend(late(data));
    sentences.extend(money(data));
    sentences.extend(sources(data));
    sentences
}

/// That a split is the fastest only at bandwidths that no cell is at.
fn between_the_rates(data: &Data) -> Option<String> {
    let ranges = data.combinations.iter().flat_map(|found| &found.changes);
    let mut splits = ranges.filter(|range| data.plans[range.plan].kind == "split");
    let widest = splits.clone().max_by_key(|range| width(range))?;
    (tally(data).split == 0).then(|| {
        format!(
            "Between these bandwidths a split is the fastest in {}, at most from {} to {}.",
            counted(splits.by_ref().count(), "range"),
            about(widest.from),
            about(widest.to)
        )
    })
}

/// How many thousandths of its lower end a range's upper end is.
fn width(range: &Range) -> u128 {
    u128::from(range.to.0) * 1000 / u128::from(range.from.0.max(1))
}

/// Where even the fastest plan does not keep up with the frames.
fn late(data: &Data) -> Option<String> {
    let cells = data.combinations.iter().flat_map(|found| found.best.iter().enumerate());
    let plans = cells.filter_map(|(rate, &best)| Some((rate, data.plan(best)?)));
    let is_late = |(rate, plan): &(usize, &Plan)| !plan.keeps_up(*rate, data.frame_interval_ns);
    let late = plans.filter(is_late).count();
    (late > 0).then(|| {
        format!(
            "In {} the plan of least latency does not keep up with {} frame/s, since its board or link is busy for longer; such plans are on no front of latency against money.",
            counted(late, "cell"),
            data.frames_per_second
        )
    })
}

/// For each board, where the network leaves it at its smallest and at its largest size.
fn moves_with_size(data: &Data) -> Vec<String> {
    let mut sentences = Vec::new();
    for sizes in data.networks.chunk_by(|a, b| a.family == b.family) {
        let [small, .., large] = sizes else { continue };
        for board in 0..data.boards.len() {
            let here = |name: &str| {
                let here = data.combinations.iter().filter(move |found| found.board == board);
                let name = name.to_owned();
                here.filter(move |found| data.networks[found.network].name == name)
            };
            let left = |found: &&Combination| leaves(data, found).unwrap_or(BytesPerSec(u64::MAX));
            let Some(first) = here(&large.name).min_by_key(left) else { continue };
            let same = |found: &&Combination| found.instance == first.instance;
            let Some(other) = here(&small.name).find(same) else { continue };
            let words = |found: &Combination| match leaves(data, found) {
                None => "never".to_owned(),
                Some(rate) if rate <= data.rates[0] => "at every bandwidth".to_owned(),
                Some(rate) => format!("from {}", about(rate)),
            };
            let board = &data.boards[board].name;
            sentences.push(match leaves(data, first).or(leaves(data, other)) {
                None => format!(
                    "It never pays to leave {board}, neither for {} nor for {}, whatever the instance.",
                    small.name, large.name
                ),
                Some(_) => format!(
                    "With {}, to leave {board} pays {} for {}, and {} for {}.",
                    data.instances[first.instance].name,
                    words(first),
                    large.name,
                    words(other),
                    small.name
                ),
            });
        }
    }
    sentences
}

/// The lowest rate at which something else than the board alone is the fastest.
fn leaves(data: &Data, found: &Combination) -> Option<BytesPerSec> {
    let range = found.changes.iter().find(|range| data.plans[range.plan].kind != "edge")?;
    Some(range.from)
}

/// The two ends of each largest network's front.
fn money(data: &Data) -> Vec<String> {
    let rate = usual_rate(data);
    let fronts = data.fronts.iter().filter(|front| front.rate == rate);
    let shown = fronts.filter(|front| is_largest(data, front.network));
    let sentence = |front: &super::data::Front| {
        let [fastest, .., cheapest] = front.plans.as_slice() else { return None };
        let (fastest, cheapest) = (&data.plans[*fastest], &data.plans[*cheapest]);
        Some(format!(
            "For {} users with {} frame/s each at {}, {} is cheapest with {}: {} {} a month, {} a frame; fastest with {}: {} {} a month, {} a frame; {} plans are on the front of latency against money.",
            data.users,
            data.frames_per_second,
            about(data.rates[rate]),
            data.networks[front.network].name,
            on(data, cheapest),
            amount(cheapest.money),
            data.currency,
            cheapest.latency_ns[rate],
            on(data, fastest),
            amount(fastest.money),
            data.currency,
            fastest.latency_ns[rate],
            front.plans.len()
        ))
    };
    shown.filter_map(sentence).collect()
}

fn sources(data: &Data) -> Vec<String> {
    let devices = || data.boards.iter().chain(&data.instances);
    let names = |holds: &dyn Fn(&Device) -> bool| {
        let names = devices().filter(|device| holds(device)).map(|device| device.name.as_str());
        names.collect::<Vec<_>>().join(", ")
    };
    let modelled = names(&|device| device.origins.contains(&Origin::Preset));
    let measured = names(&|device| !device.origins.contains(&Origin::Preset));
    let mut sentences = Vec::new();
    if !modelled.is_empty() {
        sentences.push(format!(
            "Times of {modelled} are modelled from presets, not measured; energy is modelled everywhere."
        ));
    }
    if !measured.is_empty() {
        sentences.push(format!("Times of {measured} come from profiles or a table of costs."));
    }
    sentences
}

fn usual_rate(data: &Data) -> usize {
    let at = data.rates.iter().position(|&rate| rate >= USUAL);
    at.unwrap_or(data.rates.len().saturating_sub(1))
}

/// Whether no later network is another size of the same.
fn is_largest(data: &Data, at: usize) -> bool {
    let next = data.networks.get(at + 1);
    next.is_none_or(|next| next.family != data.networks[at].family)
}

fn place(data: &Data, found: &Combination) -> String {
    format!(
        "{} on {} with {}",
        data.networks[found.network].name,
        data.boards[found.board].name,
        data.instances[found.instance].name
    )
}

/// A plan with the board that it starts at, where its label does not name it.
fn on(data: &Data, plan: &Plan) -> String {
    match plan.kind {
        "cloud" => format!("{} behind {}", plan.label, data.boards[plan.board].name),
        _ => plan.label.clone(),
    }
}

fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

fn percent(share: f64) -> String {
    let percent = share * 100.0;
    match percent {
        percent if percent > 0.0 && percent < 9.95 => format!("{percent:.1} %"),
        percent => format!("{percent:.0} %"),
    }
}

/// A rate with three digits.
fn about(rate: BytesPerSec) -> String {
    let mbit = rate.0 as f64 * 8.0 / 1e6;
    let (value, unit) = match mbit {
        1000.0.. => (mbit / 1000.0, "Gbit/s"),
        1.0.. => (mbit, "Mbit/s"),
        _ => (mbit * 1000.0, "kbit/s"),
    };
    let digits = match value {
        100.0.. => 0,
        10.0.. => 1,
        _ => 2,
    };
    let text = format!("{value:.digits$}");
    let text = match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.'),
        false => &text,
    };
    format!("{text} {unit}")
}

/// An amount with two digits behind the point.
fn amount(money: Money) -> String {
    format!("{:.2}", money.0 as f64 / 1e6)
}

/// The study for a terminal.
pub(crate) fn write_text(data: &Data, folder: &Path, out: &mut dyn Write) -> std::io::Result<()> {
    writeln!(out, "{}\n{}", data.headline.what, data.headline.why)?;
    let shown = data.combinations.iter().filter(|found| is_largest(data, found.network));
    let shown: Vec<_> = shown.map(|found| (place(data, found), ranges(data, found))).collect();
    let width = shown.iter().map(|(place, _)| place.chars().count()).max().unwrap_or(0);
    writeln!(out, "\nthe fastest over the bandwidth")?;
    for (place, ranges) in &shown {
        writeln!(out, "{place:width$}  {ranges}")?;
    }
    let rate = usual_rate(data);
    for front in data.fronts.iter().filter(|front| front.rate == rate) {
        if is_largest(data, front.network) {
            let name = &data.networks[front.network].name;
            writeln!(out, "\n{name} at {}: latency against money", about(data.rates[rate]))?;
            let rows = front.plans.iter().map(|&at| money_row(data, &data.plans[at], rate));
            let month = format!("{} a month", data.currency);
            let header = ["plan", "latency", &month, "rent", "purchase", "electricity", "traffic"];
            writeln!(out, "{}", table(header, rows))?;
        }
    }
    writeln!(out)?;
    for sentence in &data.sentences {
        writeln!(out, "{sentence}")?;
    }
    for what in &data.left_out {
        writeln!(out, "left out: {what}")?;
    }
    writeln!(
        out,
        "\n{} plans of {} combinations at {} bandwidths; open {}",
        data.plans.len(),
        data.combinations.len(),
        data.rates.len(),
        folder.join("study.html").display()
    )
}

fn money_row(data: &Data, plan: &Plan, rate: usize) -> [String; 7] {
    [
        on(data, plan),
        plan.latency_ns[rate].to_string(),
        amount(plan.money),
        amount(plan.rent),
        amount(plan.purchase),
        amount(plan.electricity),
        amount(plan.traffic),
    ]
}

/// `board; cut after 12 of 66 layers from 3 Mbit/s; cloud from 9 Mbit/s`.
fn ranges(data: &Data, found: &Combination) -> String {
    let mut words: Vec<(String, BytesPerSec)> = Vec::new();
    let all = data.networks[found.network].layers;
    for range in &found.changes {
        let plan = &data.plans[range.plan];
        let word = match plan.kind {
            "edge" => "board".to_owned(),
            "cloud" => "cloud".to_owned(),
            _ => format!("cut after {} of {all} layers", plan.layers_on_board),
        };
        if words.last().is_none_or(|(last, _)| *last != word) {
            words.push((word, range.from));
        }
    }
    let text = words.iter().enumerate().map(|(at, (word, from))| match at {
        0 => word.clone(),
        _ => format!("{word} from {}", about(*from)),
    });
    match words.is_empty() {
        true => found.refused.first().cloned().unwrap_or_else(|| "nothing can be run".to_owned()),
        false => text.collect::<Vec<_>>().join("; "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_read_as_people_say_them() {
        let rates = [
            (12_500, "100 kbit/s"),
            (125_000, "1 Mbit/s"),
            (2_001_247, "16 Mbit/s"),
            (3_841_773, "30.7 Mbit/s"),
            (125_000_000, "1 Gbit/s"),
        ];
        for (bytes, text) in rates {
            assert_eq!(about(BytesPerSec(bytes)), text);
        }
        assert_eq!(amount(Money(11_159_625_926)), "11159.63");
        let shares = [(0.0, "0 %"), (0.049, "4.9 %"), (0.892, "89 %"), (1.0, "100 %")];
        for (share, text) in shares {
            assert_eq!(percent(share), text);
        }
    }
}
