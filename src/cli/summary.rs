//! The result of a run, as JSON and as a table.

use std::path::Path;

use comfy_table::{CellAlignment, Table, presets};
use serde::{Deserialize, Serialize};

use super::profile::ProfileReport;
use super::terminal::say;
use crate::error::{Error, Result};
use crate::moe::FfnKind;
use crate::train::config::Mode;
use crate::train::offload::OffloadCounts;

/// What a finished run reports; `compare` prints a list of these.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Summary {
    /// The feed-forward part.
    pub variant: FfnKind,
    /// How a clustered model came to be.
    pub mode: Option<Mode>,
    /// All parameters.
    pub params_total: u64,
    /// Parameters of the feed-forward parts.
    pub params_expert: u64,
    /// Parameters one token passes through.
    pub active_params: u64,
    /// Median over steps.
    pub tokens_per_s: f64,
    /// Mean over the last tenth of the steps, in nats per token.
    pub train_loss: f64,
    /// Perplexity per word of the evaluation text (per token for the built-in language).
    pub ppl_word: Option<f64>,
    /// Perplexity per token of the evaluation text.
    pub ppl_subword: Option<f64>,
    /// Standard deviation over mean of slots per expert over the evaluation text, averaged over layers.
    pub load_cv: Option<f64>,
    /// The largest of any layer.
    pub load_cv_worst: Option<f64>,
    /// Attempts to regroup the experts of a layer that were accepted.
    pub regroupings_accepted: usize,
    /// Attempts to regroup the experts of a layer.
    pub regroupings: usize,
    /// Share of the training time that the attempts took.
    pub clustering_share: f64,
    /// Peak resident bytes, pages of mapped files left out; `None` where the system does not say.
    pub peak_bytes: Option<u64>,
    /// The same since full experts were converted, where they were.
    pub peak_bytes_after_conversion: Option<u64>,
    /// What moving clusters took, where they were offloaded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offload: Option<OffloadCounts>,
    /// Where the time of some steps went, with `--profile`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<ProfileReport>,
    /// Bytes of weights, gradients and optimiser state.
    pub state_bytes: u64,
    /// Bytes of activations kept from forward to backward.
    pub activation_bytes: u64,
    /// Bytes between ranks per token, all layers, dispatch and return; see `train::exchange`: of the evaluation text's choices,
    /// else expected under uniform routing.
    pub all_to_all_bytes_per_token: f64,
    /// The same where a token travels once to each distinct rank among its flat experts.
    pub all_to_all_bytes_per_rank: Option<f64>,
    /// Seconds of all training steps.
    pub seconds: f64,
    /// Optimiser steps.
    pub steps: u64,
}

/// Prints `value` as the last line of stdout, or writes it to a file; `-` means stdout.
pub(crate) fn write_json(target: Option<&Path>, value: &impl Serialize) -> Result<()> {
    let Some(path) = target else { return Ok(()) };
    let describe = |e: serde_json::Error| Error::io("write", path)(e.into());
    if path == Path::new("-") {
        return say(format_args!("{}", serde_json::to_string(value).map_err(describe)?));
    }
    let json = serde_json::to_string_pretty(value).map_err(describe)?;
    std::fs::write(path, json + "\n").map_err(Error::io("write", path))
}

/// A table with a header, its first column to the left and numbers to the right.
pub(crate) fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(header).add_rows(rows);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// A run of `compare`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Run {
    /// Name of the variant.
    pub name: String,
    /// Its seed.
    pub seed: u64,
    /// What it reported.
    #[serde(flatten)]
    pub summary: Summary,
}

/// A header and rows of cells; the first cell of a row names it.
pub(crate) struct Grid<'a> {
    pub header: Vec<&'a str>,
    pub rows: Vec<Vec<String>>,
}

/// The table of `compare`: a row for each name, in the order of the first runs.
pub(crate) fn compare_rows(runs: &[&Run]) -> Grid<'static> {
    let header = [
        "variant",
        "mode",
        "params",
        "expert",
        "active",
        "tokens/s",
        "loss",
        "ppl",
        "load CV",
        "worst",
        "regrouped",
        "peak",
        "a2a B/tok",
        "time",
    ];
    let names = names(runs);
    let row = |name: &str| {
        let all: Vec<&Summary> = runs.iter().filter(|run| run.name == name).map(|run| &run.summary).collect();
        let first = all[0];
        let over = |of: &dyn Fn(&Summary) -> Option<f64>, show: fn(f64) -> String| {
            spread(all.iter().map(|&s| of(s)), show)
        };
        let accepted: usize = all.iter().map(|s| s.regroupings_accepted).sum();
        let attempts: usize = all.iter().map(|s| s.regroupings).sum();
        vec![
            name.to_owned(),
            first.mode.map_or("-", Mode::name).to_owned(),
            count(first.params_total),
            count(first.params_expert),
            count(first.active_params),
            over(&|s| Some(s.tokens_per_s), |v| format!("{v:.0}")),
            over(&|s| Some(s.train_loss), |v| format!("{v:.4}")),
            over(&|s| s.ppl_word, |v| if v < 1000.0 { format!("{v:.2}") } else { format!("{v:.0}") }),
            over(&|s| s.load_cv, |v| format!("{v:.3}")),
            over(&|s| s.load_cv_worst, |v| format!("{v:.3}")),
            if attempts == 0 { "-".into() } else { format!("{accepted}/{attempts}") },
            over(&|s| s.peak_bytes.map(|b| b as f64), |v| bytes(v as u64)),
            over(&|s| Some(s.all_to_all_bytes_per_token), |v| format!("{v:.0}")),
            over(&|s| Some(s.seconds), |v| format!("{v:.1} s")),
        ]
    };
    Grid { header: header.into(), rows: names.into_iter().map(row).collect() }
}

/// The names of runs, each once.
pub(crate) fn names<'a>(runs: &[&'a Run]) -> Vec<&'a str> {
    let mut names: Vec<&str> = Vec::new();
    for run in runs {
        if !names.contains(&run.name.as_str()) {
            names.push(&run.name);
        }
    }
    names
}

/// The median; `None` if one is missing, or there is none.
pub(crate) fn median(values: impl Iterator<Item = Option<f64>>) -> Option<f64> {
    let mut values = values.collect::<Option<Vec<f64>>>()?;
    values.sort_by(f64::total_cmp);
    let half = values.len() / 2;
    match values.len() {
        0 => None,
        n if n % 2 == 1 => Some(values[half]),
        _ => Some((values[half - 1] + values[half]) / 2.0),
    }
}

/// The median, and in brackets how far values reach where they differ as shown; `-` if one is missing.
fn spread(values: impl Iterator<Item = Option<f64>> + Clone, show: fn(f64) -> String) -> String {
    let ends = |of: fn(f64, f64) -> f64| values.clone().flatten().reduce(of);
    let (Some(median), Some(least), Some(most)) = (median(values.clone()), ends(f64::min), ends(f64::max))
    else {
        return "-".into();
    };
    let [median, least, most] = [median, least, most].map(show);
    if least == most { median } else { format!("{median} ({least}..{most})") }
}

/// `1234567` as `1.23 M`.
pub(crate) fn count(n: u64) -> String {
    scaled(n as f64, 1000.0, ["", " k", " M", " G", " T"])
}

/// Bytes in powers of 1024.
pub(crate) fn bytes(n: u64) -> String {
    scaled(n as f64, 1024.0, [" B", " KiB", " MiB", " GiB", " TiB"])
}

fn scaled(mut n: f64, base: f64, units: [&str; 5]) -> String {
    let mut unit = 0;
    while n >= base && unit + 1 < units.len() {
        n /= base;
        unit += 1;
    }
    let digits = if unit == 0 { 0 } else { 2 };
    format!("{n:.digits$}{}", units[unit])
}

#[test]
fn a_spread_shows_the_median_and_both_ends() {
    let show = |values: &[f64]| spread(values.iter().map(|&v| Some(v)), |v| format!("{v:.1}"));
    assert_eq!(show(&[3.0, 1.0, 2.0]), "2.0 (1.0..3.0)");
    assert_eq!(show(&[1.0, 2.0]), "1.5 (1.0..2.0)");
    assert_eq!(show(&[1.01, 1.02]), "1.0");
    assert_eq!(spread([Some(1.0), None].into_iter(), |v| v.to_string()), "-");
}
