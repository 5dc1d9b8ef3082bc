//! `cutline presets`: the boards, cloud instances and links that platform files may name.

use std::{fmt, process::ExitCode};

use anyhow::bail;
use cutline_core::preset::{DevicePreset, Figure, LinkPreset, Presets, Source};
use serde::Serialize;

use crate::output::{Output, table};

/// List the built-in boards, cloud instances and links, each figure with how it is known and by whom.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  cutline presets           # names\n  cutline presets rpi4      # its figures and their sources\n\nLetters: M measured, S specified, C computed, R recalled, est estimated."
)]
pub(crate) struct Args {
    /// Show this one with every figure.
    #[arg(value_name = "NAME")]
    name: Option<String>,
}

#[derive(Serialize)]
struct Document {
    date: String,
    currency: String,
    presets: Vec<Preset>,
}

#[derive(Serialize)]
struct Preset {
    name: String,
    kind: &'static str,
    title: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    basis: Option<String>,
    figures: Vec<Row>,
}

/// One figure.
#[derive(Serialize)]
struct Row {
    figure: String,
    value: String,
    letter: String,
    source: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    date: Option<String>,
}

pub(crate) fn run(args: Args, output: &Output) -> anyhow::Result<ExitCode> {
    let presets = Presets::builtin();
    let rows = Rows(&presets);
    let devices = presets.devices.iter().map(|device| rows.device(device));
    let mut listed: Vec<Preset> =
        devices.chain(presets.links.iter().map(|link| rows.link(link))).collect();
    if let Some(name) = &args.name {
        let names: Vec<String> = listed.iter().map(|preset| preset.name.clone()).collect();
        listed.retain(|preset| preset.name == *name);
        if listed.is_empty() {
            bail!("there is no preset `{name}`; there are {}", names.join(", "));
        }
    }
    let (date, currency) = (presets.date.clone(), presets.currency.clone());
    let document = Document { date, currency, presets: listed };
    output.print(&document, |out| match document.presets.as_slice() {
        [preset] => write_one(preset, &document, out),
        presets => write_all(presets, &document, out),
    })?;
    Ok(ExitCode::SUCCESS)
}

fn write_all(
    presets: &[Preset],
    document: &Document,
    out: &mut dyn std::io::Write,
) -> std::io::Result<()> {
    let first = |preset: &Preset, names: [&str; 4]| {
        names.map(|name| {
            let row = preset.figures.iter().find(|row| row.figure == name);
            row.map(|row| format!("{} {}", row.value, row.letter)).unwrap_or_default()
        })
    };
    for (kind, header) in [
        ("device", ["memory", "power", "rent a month", "conv"]),
        ("link", ["up", "down", "delay", "energy"]),
    ] {
        let rows = presets.iter().filter(|preset| preset.kind == kind).map(|preset| {
            let [a, b, c, d] = first(preset, header);
            [preset.name.clone(), a, b, c, d]
        });
        let [a, b, c, d] = header;
        writeln!(out, "{}\n", table([kind, a, b, c, d], rows))?;
    }
    writeln!(
        out,
        "newest figure of {}; M measured, S specified, C computed, R recalled, est estimated; rents in {}; `cutline presets NAME` shows every figure with its source",
        document.date, document.currency
    )
}

fn write_one(
    preset: &Preset,
    document: &Document,
    out: &mut dyn std::io::Write,
) -> std::io::Result<()> {
    writeln!(out, "{}: {}", preset.name, preset.title)?;
    if let Some(basis) = &preset.basis {
        writeln!(out, "speeds scaled from {basis}")?;
    }
    for row in &preset.figures {
        let date = row.date.as_ref().map(|date| format!(" ({date})")).unwrap_or_default();
        writeln!(
            out,
            "  {:28} {:>16}  {:3}  {}{date}",
            row.figure, row.value, row.letter, row.source
        )?;
    }
    writeln!(
        out,
        "M measured, S specified, C computed, R recalled, est estimated; money in {}",
        document.currency
    )
}

/// Makes rows of figures.
struct Rows<'a>(&'a Presets);

impl Rows<'_> {
    fn device(&self, device: &DevicePreset) -> Preset {
        let mut figures = vec![self.row("memory", &device.memory)];
        figures.extend(device.power.as_ref().map(|power| self.row("power", power)));
        figures.extend(device.idle_power.as_ref().map(|power| self.row("idle power", power)));
        figures.extend(device.rent.as_ref().map(|rent| self.row("rent a month", rent)));
        for (index, speed) in device.speeds.iter().enumerate() {
            let name = |what: &str| match index {
                0 => what.to_owned(),
                _ if speed.threads == 1 => format!("{what}, 1 thread"),
                _ => format!("{what}, {} threads", speed.threads),
            };
            figures.push(self.row(name("conv"), &speed.conv));
            figures.push(self.row(name("pointwise"), &speed.pointwise));
            figures.push(self.row(name("depthwise"), &speed.depthwise));
            figures.push(self.row(name("bytes"), &speed.bytes));
            figures.push(self.row(name("dispatch"), &speed.dispatch));
        }
        Preset {
            name: device.name.clone(),
            kind: "device",
            title: device.title.clone(),
            basis: device.basis.clone(),
            figures,
        }
    }

    fn link(&self, link: &LinkPreset) -> Preset {
        let mut figures = vec![self.row("up", &link.up)];
        figures.extend(link.down.as_ref().map(|down| self.row("down", down)));
        figures.extend(link.delay.as_ref().map(|delay| self.row("delay", delay)));
        figures.extend(link.energy.as_ref().map(|energy| self.row("energy", energy)));
        Preset {
            name: link.name.clone(),
            kind: "link",
            title: link.title.clone(),
            basis: None,
            figures,
        }
    }

    fn row<T>(&self, figure: impl fmt::Display, value: &Figure<T>) -> Row {
        let source: Option<&Source> = self.0.sources.get(&value.source);
        Row {
            figure: figure.to_string(),
            value: value.text.clone(),
            letter: value.letter.to_string(),
            source: source.map_or_else(|| value.source.clone(), |source| source.what.clone()),
            date: source.and_then(|source| source.date.clone()),
        }
    }
}
