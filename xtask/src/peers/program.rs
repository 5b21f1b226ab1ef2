//! The programs, and one run of one of them.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{self, Command, Output};
use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde_json::Value;

use super::report::Spread;
use super::{Variant, machine};
use crate::paths;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    Trimoe,
    Torch,
    Candle,
}

/// A program in one form and precision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Contestant {
    pub ffn: &'static str,
    pub program: Program,
    /// `--form` of torch_step.py.
    form: &'static str,
    /// What the table calls it.
    pub shown: &'static str,
    pub precision: &'static str,
}

const fn ours(ffn: &'static str, precision: &'static str) -> Contestant {
    Contestant { ffn, program: Program::Trimoe, form: "", shown: "trimoe", precision }
}

const fn torch(
    ffn: &'static str,
    form: &'static str,
    shown: &'static str,
    precision: &'static str,
) -> Contestant {
    Contestant { ffn, program: Program::Torch, form, shown, precision }
}

const fn candle(ffn: &'static str, precision: &'static str) -> Contestant {
    Contestant { ffn, program: Program::Candle, form: "", shown: "candle", precision }
}

/// All that can take part, in the order of a round.
pub const FORMS: &[Contestant] = &[
    ours("dense", "f32"),
    ours("dense", "bf16"),
    torch("dense", "eager", "PyTorch", "f32"),
    torch("dense", "eager", "PyTorch, autocast", "bf16"),
    candle("dense", "f32"),
    candle("dense", "bf16"),
    ours("flat", "f32"),
    ours("flat", "bf16"),
    torch("flat", "eager", "PyTorch", "f32"),
    torch("flat", "eager", "PyTorch, autocast", "bf16"),
    torch("flat", "grouped", "PyTorch, autocast, `_grouped_mm`", "bf16"),
    candle("flat", "f32"),
    candle("flat", "bf16"),
    ours("clustered", "f32"),
    ours("clustered", "bf16"),
    torch("clustered", "slot", "PyTorch, base once a slot", "f32"),
    torch("clustered", "once", "PyTorch, base once a token", "f32"),
    torch("clustered", "slot", "PyTorch, autocast, base once a slot", "bf16"),
    torch("clustered", "once", "PyTorch, autocast, base once a token", "bf16"),
    torch("clustered", "grouped", "PyTorch, autocast, base once a token, `_grouped_mm`", "bf16"),
    candle("clustered", "f32"),
];

/// A Python with PyTorch.
pub struct Torch {
    python: PathBuf,
    variables: Vec<(String, String)>,
    /// Its version, or why there is none.
    pub version: Result<String, String>,
}

impl Torch {
    /// Asks `python` for it; a library to `preload` goes into every program that it runs.
    pub fn find(python: &Path, mut variables: Vec<(String, String)>, preload: Option<PathBuf>) -> Self {
        if let Some(library) = preload {
            variables.push(("LD_PRELOAD".into(), library.display().to_string()));
        }
        let asked = Command::new(python).args(["-c", "import torch; print(torch.__version__)"]).output();
        let version = match asked {
            Ok(output) if output.status.success() => {
                Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
            }
            Ok(output) => Err(format!(
                "{} has no torch ({}): pip install torch numpy, or --python with one that has it",
                python.display(),
                last_line(&output.stderr)
            )),
            Err(error) => Err(format!("{} does not start ({error}): --python names one", python.display())),
        };
        if let Err(why) = &version {
            eprintln!("PyTorch is left out: {why}");
        }
        Torch { python: python.to_owned(), variables, version }
    }

    /// What differs from how PyTorch comes.
    pub fn setting(&self) -> String {
        let variables: Vec<String> =
            self.variables.iter().map(|(name, value)| format!("{name}={value}")).collect();
        if variables.is_empty() { "as installed".into() } else { variables.join(" ") }
    }
}

/// What there is to run, and how.
pub struct Programs {
    pub trimoe: PathBuf,
    /// `None` where nobody asked for it.
    pub torch: Option<Torch>,
    /// The program, or why it does not build.
    pub candle: Option<Result<PathBuf, String>>,
    /// Where our run folders go for as long as a run takes.
    pub scratch: PathBuf,
    pub steps: u32,
    pub warmup: u32,
    pub batch: u32,
    pub threads: u32,
    pub rounds: u32,
    pub optimizer: String,
}

/// One run of a program.
pub struct Run {
    /// Of each timed step.
    pub seconds: Vec<f64>,
    /// By the median step.
    pub tokens_per_s: f64,
    /// Cores that other processes kept busy meanwhile, on average.
    pub others: Option<f64>,
}

impl Programs {
    /// Runs a contestant once; an error says why it cannot run.
    pub fn measure(&self, contestant: &Contestant, variant: &Variant) -> Result<Run> {
        let out = self.scratch.join(format!("trimoe-peers-{}", process::id()));
        let mut command = self.command(contestant, variant, &out)?;
        let (before, start) = (machine::others_busy(), Instant::now());
        let output = command.output();
        let (after, wall) = (machine::others_busy(), start.elapsed().as_secs_f64());
        let seconds = output.map_err(|error| anyhow!("does not start: {error}")).and_then(|output| {
            ensure!(output.status.success(), "{}", last_line(&output.stderr));
            match contestant.program {
                Program::Trimoe => self.own_seconds(&out),
                Program::Torch | Program::Candle => printed_seconds(&output),
            }
        });
        if out.exists() {
            fs::remove_dir_all(&out).with_context(|| out.display().to_string())?;
        }
        let seconds = seconds?;
        let timed = self.steps as usize;
        ensure!(seconds.len() == timed, "reports {} timed steps of {timed}", seconds.len());
        ensure!(seconds.iter().all(|s| s.is_finite() && *s > 0.0), "reports steps of {seconds:?} seconds");
        let context = variant.model["seq"].as_u64().context("a model without seq")?;
        let tokens = f64::from(self.batch) * context as f64;
        let others = before.zip(after).map(|(before, after)| (after - before).max(0.0) / wall);
        Ok(Run { tokens_per_s: tokens / Spread::of(&seconds).median, seconds, others })
    }

    fn command(&self, contestant: &Contestant, variant: &Variant, out: &Path) -> Result<Command> {
        let model = variant.model.to_string();
        let numbers = |names: &[(&str, u32)]| -> Vec<OsString> {
            names.iter().flat_map(|(name, value)| [(*name).into(), value.to_string().into()]).collect()
        };
        let common = [("--batch", self.batch), ("--steps", self.steps), ("--warmup", self.warmup)];
        Ok(match contestant.program {
            Program::Trimoe => {
                let mut command = Command::new(&self.trimoe);
                command.args(["train", "--precision", contestant.precision, "--out"]).arg(out);
                // Its own warm-up is that of the learning rate.
                let steps = self.steps + self.warmup;
                command.args(numbers(&[
                    ("--batch", self.batch),
                    ("--steps", steps),
                    ("--threads", self.threads),
                ]));
                for (name, value) in variant.model.as_object().into_iter().flatten() {
                    let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                    command.arg(format!("--{name}")).arg(value);
                }
                command
            }
            Program::Torch => {
                let torch = self.torch.as_ref().context("nobody asked for PyTorch")?;
                if let Err(why) = &torch.version {
                    bail!("{why}");
                }
                let mut command = Command::new(&torch.python);
                command.arg(paths::root().join("benches/peers/torch_step.py")).args(["--model", &model]);
                command.args(["--precision", contestant.precision, "--form", contestant.form]);
                command.args(["--optimizer", &self.optimizer]).args(numbers(&common));
                command.args(numbers(&[("--threads", self.threads)]));
                command.envs(torch.variables.iter().map(|(name, value)| (name, value)));
                command
            }
            Program::Candle => {
                let path = match self.candle.as_ref().context("nobody asked for candle")? {
                    Ok(path) => path,
                    Err(why) => bail!("{why}"),
                };
                let mut command = Command::new(path);
                command.args(["--model", &model, "--precision", contestant.precision]).args(numbers(&common));
                command.env("RAYON_NUM_THREADS", self.threads.to_string());
                // Its errors end with a trace if they are asked to.
                command.env("RUST_BACKTRACE", "0");
                command
            }
        })
    }

    /// Of the steps after the warm-up, as trimoe keeps them in its run folder.
    fn own_seconds(&self, out: &Path) -> Result<Vec<f64>> {
        let path = out.join("metrics.jsonl");
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let seconds = |line: &str| {
            let line: Value = serde_json::from_str(line).context("a line of metrics.jsonl")?;
            line["seconds"].as_f64().context("a line of metrics.jsonl without seconds")
        };
        text.lines().skip(self.warmup as usize).map(seconds).collect()
    }
}

/// As the last line of output says.
fn printed_seconds(output: &Output) -> Result<Vec<f64>> {
    let text = last_line(&output.stdout);
    let result: Value = serde_json::from_str(&text).with_context(|| format!("prints {text:?}"))?;
    let seconds = result["seconds"].as_array().with_context(|| format!("prints no seconds: {text:?}"))?;
    seconds.iter().map(|s| s.as_f64().context("prints seconds that are no number")).collect()
}

/// What a program said last that is not empty.
pub fn last_line(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it does not say why").trim().to_owned()
}
