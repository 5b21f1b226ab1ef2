//! The three legs against flat experts, beside the ratios that the paper published.

use crate::cli::summary::{Grid, Run, Summary, median, names};
use crate::moe::FfnKind;

/// What the table says.
pub(super) const NOTE: &str = "Medians over seeds, against flat top-k experts of the same run. The paper's column is arXiv \
    2510.02345's own, of another model and machine: ratios, not values, are comparable. Between ranks bytes are counted from \
    measured choices on simulated ranks.";

/// A measure: its name, the paper's ratio, and how a variant's is told from the medians of both.
struct Leg {
    name: &'static str,
    paper: &'static str,
    of: fn(&Summary) -> Option<f64>,
    /// What of flat's it is told from, where that is another measure.
    against: Option<fn(&Summary) -> Option<f64>>,
    show: fn(f64, f64) -> String,
}

fn change(value: f64, flat: f64) -> String {
    format!("{:+.1} %", 100.0 * (value / flat - 1.0))
}

fn beside(value: f64, flat: f64) -> String {
    format!("{value:.3} ({:.2} of {flat:.3})", value / flat)
}

const LEGS: [Leg; 8] = [
    Leg {
        name: "expert parameters",
        paper: "about -80 %",
        of: |s| Some(s.params_expert as f64),
        against: None,
        show: change,
    },
    Leg {
        name: "perplexity per word",
        paper: "+9.4 % (FP16), +12 % (INT4)",
        of: |s| s.ppl_word,
        against: None,
        show: change,
    },
    Leg {
        name: "load CV",
        paper: "0.12 (0.33 of 0.36)",
        of: |s| s.load_cv.filter(|_| s.variant != FfnKind::Dense),
        against: None,
        show: beside,
    },
    Leg {
        name: "load CV, worst layer",
        paper: "-",
        of: |s| s.load_cv_worst.filter(|_| s.variant != FfnKind::Dense),
        against: None,
        show: beside,
    },
    Leg {
        name: "tokens/s",
        paper: "+14.6 % to +18 %",
        of: |s| Some(s.tokens_per_s),
        against: None,
        show: change,
    },
    Leg {
        name: "peak memory of training",
        paper: "-42 %, -50 % with offload",
        of: |s| s.peak_bytes.map(|b| b as f64),
        against: None,
        show: change,
    },
    Leg {
        name: "bytes between ranks",
        paper: "-28 % to -41 %",
        of: |s| Some(s.all_to_all_bytes_per_token),
        against: None,
        show: change,
    },
    Leg {
        name: "the same, flat sending once a rank",
        paper: "-",
        of: |s| Some(s.all_to_all_bytes_per_token),
        against: Some(|s| s.all_to_all_bytes_per_rank),
        show: change,
    },
];

/// A row for each measure, a column for each variant; without flat runs there is nothing to compare with.
pub(super) fn table<'a>(runs: &[&'a Run]) -> Grid<'a> {
    let flat: Vec<&Summary> = runs.iter().filter(|run| run.name == "flat").map(|run| &run.summary).collect();
    let mut names = names(runs);
    names.retain(|&name| name != "flat" && !flat.is_empty());
    let cell = |leg: &Leg, name: &str| {
        let ours = runs.iter().filter(|run| run.name == name).map(|run| (leg.of)(&run.summary));
        let flat = flat.iter().map(|summary| leg.against.unwrap_or(leg.of)(summary));
        match (median(ours), median(flat)) {
            (Some(ours), Some(flat)) if flat > 0.0 => (leg.show)(ours, flat),
            _ => "-".into(),
        }
    };
    let row = |leg: &Leg| {
        let told = [leg.name.to_owned(), leg.paper.to_owned()];
        told.into_iter().chain(names.iter().map(|name| cell(leg, name))).collect()
    };
    let header = ["against flat", "paper"].into_iter().chain(names.iter().copied());
    Grid { header: header.collect(), rows: LEGS.iter().map(row).collect() }
}
