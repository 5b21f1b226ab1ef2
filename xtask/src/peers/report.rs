//! What was measured: rows, a table in Markdown, and JSON.

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::program::{Contestant, Program, Programs, Run};
use super::{Variant, machine};

/// A contestant on a variant, and its runs so far.
pub struct Row {
    variant: String,
    contestant: Contestant,
    /// Why it could not run, once it could not.
    runs: Result<Vec<Run>, String>,
}

/// The middle and the ends of a few numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    pub median: f64,
    least: f64,
    most: f64,
}

impl Spread {
    /// Of at least one number.
    pub fn of(values: &[f64]) -> Self {
        let mut values = values.to_vec();
        values.sort_by(f64::total_cmp);
        let [below, above] = [(values.len() - 1) / 2, values.len() / 2];
        let median = (values[below] + values[above]) / 2.0;
        Spread { median, least: values[0], most: values[values.len() - 1] }
    }

    fn json(self) -> Value {
        json!({ "median": self.median, "min": self.least, "max": self.most })
    }
}

impl Row {
    /// Takes its turn in a round. Ours must run; what a peer cannot is kept.
    pub fn run(&mut self, programs: &Programs, variant: &Variant, round: u32) -> Result<()> {
        let Ok(runs) = &mut self.runs else { return Ok(()) };
        let name = format!("{}, {}, {}", self.variant, self.contestant.shown, self.contestant.precision);
        match programs.measure(&self.contestant, variant) {
            Ok(run) => {
                let others =
                    run.others.map_or_else(String::new, |cores| format!(", others {cores:.2} cores"));
                eprintln!("round {round}: {name}: {:.0} tokens/s{others}", run.tokens_per_s);
                runs.push(run);
            }
            Err(error) if self.contestant.program == Program::Trimoe => return Err(error.context(name)),
            Err(error) => {
                eprintln!("round {round}: {name}: DOES NOT RUN: {error:#}");
                self.runs = Err(format!("{error:#}"));
            }
        }
        Ok(())
    }

    fn speed(&self) -> Option<Spread> {
        let runs = self.runs.as_ref().ok().filter(|runs| !runs.is_empty())?;
        Some(Spread::of(&runs.iter().map(|run| run.tokens_per_s).collect::<Vec<_>>()))
    }

    /// How many times as fast `ours` is, by rounds.
    fn ratio(&self, ours: &Row) -> Option<Spread> {
        let (Ok(own), Ok(ours)) = (&self.runs, &ours.runs) else { return None };
        let ratios: Vec<f64> =
            ours.iter().zip(own).map(|(ours, own)| ours.tokens_per_s / own.tokens_per_s).collect();
        (!ratios.is_empty()).then(|| Spread::of(&ratios))
    }

    /// Most cores that others kept busy during one of its runs.
    fn others(&self) -> Option<f64> {
        self.runs.as_ref().ok()?.iter().filter_map(|run| run.others).reduce(f64::max)
    }
}

/// Everything that was measured.
pub struct Report {
    rows: Vec<Row>,
    conditions: String,
    options: Value,
}

impl Report {
    pub fn new(programs: &Programs) -> Self {
        let Programs { steps, warmup, batch, threads, rounds, optimizer, .. } = programs;
        let torch = programs.torch.as_ref().map(|torch| match &torch.version {
            Ok(version) => format!("PyTorch {version} ({}), AdamW {optimizer}", torch.setting()),
            Err(_) => "no PyTorch".into(),
        });
        let candle = programs.candle.as_ref().map(|_| format!("candle {}", candle_version()));
        let peers: Vec<String> = [torch, candle].into_iter().flatten().collect();
        let peers = peers.join("; ");
        let processor = machine::processor();
        let conditions = format!(
            "{processor}, {threads} threads, {batch} sequences a step; {peers}. {rounds} rounds of {steps} steps after \
             {warmup}: median (least to most) over rounds."
        );
        let options = json!({
            "processor": processor, "threads": threads, "batch": batch, "rounds": rounds, "steps": steps,
            "warmup": warmup, "peers": peers,
        });
        Report { rows: Vec::new(), conditions, options }
    }

    /// Rows of a variant, without a run.
    pub fn rows(&self, variant: &Variant, contestants: Vec<Contestant>) -> Vec<Row> {
        let row = |contestant| Row { variant: variant.name.clone(), contestant, runs: Ok(Vec::new()) };
        contestants.into_iter().map(row).collect()
    }

    pub fn add(&mut self, rows: Vec<Row>) {
        self.rows.extend(rows);
    }

    /// Our own run of the row's variant in a precision.
    fn ours(&self, row: &Row, precision: &str) -> Option<&Row> {
        let is_ours = |c: &Contestant| c.program == Program::Trimoe && c.precision == precision;
        self.rows.iter().find(|r| r.variant == row.variant && is_ours(&r.contestant))
    }

    fn ratio(&self, row: &Row, precision: &str) -> Option<Spread> {
        row.ratio(self.ours(row, precision)?)
    }

    /// What could not run, and why.
    pub fn missing(&self) -> Vec<String> {
        let why = |row: &Row| {
            let Contestant { shown, precision, .. } = row.contestant;
            let why = row.runs.as_ref().err()?;
            Some(format!("{}, {shown}, {precision}: {why}", row.variant))
        };
        self.rows.iter().filter_map(why).collect()
    }

    pub fn markdown(&self) -> String {
        let mut text = format!(
            "{}\n\n\
             | variant | program | precision | tokens/s | trimoe f32 over it | trimoe bf16 over it | others, cores |\n\
             | --- | --- | --- | --- | --- | --- | --- |\n",
            self.conditions
        );
        for row in &self.rows {
            let Contestant { shown, precision, .. } = row.contestant;
            let cell = |spread: Option<Spread>, digits: usize| match spread {
                Some(Spread { median, least, most }) => {
                    format!("{median:.digits$} ({least:.digits$} to {most:.digits$})")
                }
                None => "-".into(),
            };
            let speed = match &row.runs {
                Err(why) => format!("DOES NOT RUN: {}", why.replace('|', "\\|").replace('\n', " ")),
                Ok(_) => cell(row.speed(), 0),
            };
            let ratios = ["f32", "bf16"].map(|ours| cell(self.ratio(row, ours), 2));
            let others = row.others().map_or_else(|| "-".into(), |cores| format!("{cores:.2}"));
            let [over_f32, over_bf16] = ratios;
            text += &format!(
                "| {} | {shown} | {precision} | {speed} | {over_f32} | {over_bf16} | {others} |\n",
                row.variant
            );
        }
        text
    }

    pub fn json(&self) -> Result<String> {
        let row = |row: &Row| {
            let Contestant { shown, precision, .. } = row.contestant;
            let spread = |spread: Option<Spread>| spread.map(Spread::json);
            let run = |run: &Run| json!({ "tokens_per_s": run.tokens_per_s, "seconds": run.seconds, "others": run.others });
            json!({
                "variant": row.variant,
                "program": shown,
                "precision": precision,
                "does_not_run": row.runs.as_ref().err(),
                "tokens_per_s": spread(row.speed()),
                "trimoe_f32_over_it": spread(self.ratio(row, "f32")),
                "trimoe_bf16_over_it": spread(self.ratio(row, "bf16")),
                "others": row.others(),
                "runs": row.runs.iter().flatten().map(run).collect::<Vec<_>>(),
            })
        };
        let rows: Vec<Value> = self.rows.iter().map(row).collect();
        let document = json!({ "options": self.options, "rows": rows });
        Ok(serde_json::to_string_pretty(&document).context("writing JSON")? + "\n")
    }
}

/// As the lock file of its crate says.
fn candle_version() -> &'static str {
    let lock = include_str!("../../../benches/peers/candle/Cargo.lock");
    let entry = lock.split("[[package]]").find(|entry| entry.contains("name = \"candle-core\""));
    let version = entry.and_then(|entry| entry.lines().find_map(|line| line.strip_prefix("version = ")));
    version.map_or("of an unknown version", |version| version.trim_matches('"'))
}
