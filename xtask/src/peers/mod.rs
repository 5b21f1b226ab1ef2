//! `cargo xtask peers`: our training step beside that of others, in turns.

mod machine;
mod program;
mod report;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::process::Command;
use std::{env, fs};

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, ValueEnum};
use serde_json::Value;

use self::program::{Contestant, FORMS, Program, Programs, Torch};
use self::report::Report;
use crate::{cargo, paths, run};

/// Times a training step of trimoe, PyTorch and candle on the CPU, in turns, and prints a Markdown table.
///
/// Each round runs everything once; ratios are taken inside a round, since only what ran side by side can be compared. A
/// peer that cannot run has a row that says why. Needs an idle machine: the last column shows whether it was.
#[derive(Args)]
pub struct Peers {
    /// Shape of the model
    #[arg(long, default_value = "small", value_parser = ["tiny", "small"])]
    preset: String,
    /// Only these feed-forward parts
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Ffn>,
    /// Only these peers
    #[arg(long, value_enum, value_delimiter = ',', default_value = "torch,candle")]
    peers: Vec<Peer>,
    /// Rounds, each with one run of everything
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Timed steps of a run
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    steps: u32,
    /// Steps before them
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(0..=10_000))]
    warmup: u32,
    /// Sequences of a step
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=4096))]
    batch: u32,
    /// Threads of each program
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=4096))]
    threads: u32,
    /// A Python that has torch
    #[arg(long, default_value = "python3")]
    python: PathBuf,
    /// A built trimoe to measure, instead of building this one
    #[arg(long, value_name = "PROGRAM")]
    trimoe: Option<PathBuf>,
    /// PyTorch's AdamW
    #[arg(long, value_enum, default_value = "foreach")]
    optimizer: Optimizer,
    /// Let PyTorch's MKL use every instruction of a processor that is not Intel's (needs cc)
    #[arg(long)]
    mkl_any_cpu: bool,
    /// NAME=VALUE in PyTorch's environment; repeatable
    #[arg(long, value_name = "NAME=VALUE", value_parser = variable)]
    torch_env: Vec<(String, String)>,
    /// File for every run and the summary
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// File for the table, besides printing it
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Ffn {
    Dense,
    Flat,
    Clustered,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Peer {
    Torch,
    Candle,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Optimizer {
    /// A loop over tensors, PyTorch's own choice on the CPU
    Default,
    Foreach,
    Fused,
}

/// What is measured: a feed-forward part and its size.
struct Variant {
    name: String,
    ffn: &'static str,
    /// As `trimoe inspect --json` describes it: every program builds this.
    model: Value,
}

fn variable(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("wants NAME=VALUE")?;
    Ok((name.into(), value.into()))
}

impl Peers {
    /// Does it.
    pub fn run(mut self) -> Result<()> {
        let programs = self.programs()?;
        let mut report = Report::new(&programs);
        for variant in self.variants(&programs)? {
            let contestants = self.contestants(variant.ffn);
            let mut rows = report.rows(&variant, contestants);
            for round in 1..=self.rounds {
                for row in &mut rows {
                    row.run(&programs, &variant, round)?;
                }
            }
            report.add(rows);
        }
        let table = report.markdown();
        println!("{table}");
        for line in report.missing() {
            eprintln!("NOT RUN: {line}");
        }
        for (path, text) in [(&self.json, report.json()?), (&self.markdown, table)] {
            if let Some(path) = path {
                fs::write(path, text).with_context(|| format!("writing {}", path.display()))?;
            }
        }
        Ok(())
    }

    /// Builds what is built here, and finds out what there is.
    fn programs(&mut self) -> Result<Programs> {
        // Before anything is measured: a comparison that cannot be kept is an hour lost.
        for path in [&self.json, &self.markdown].into_iter().flatten() {
            fs::write(path, "").with_context(|| format!("writing {}", path.display()))?;
        }
        let trimoe = match self.trimoe.take() {
            Some(path) => path,
            None => {
                run(cargo().args(["build", "--release", "--bin", "trimoe"]))?;
                paths::target()?.join("release").join(format!("trimoe{}", env::consts::EXE_SUFFIX))
            }
        };
        let trimoe = std::path::absolute(trimoe)?;
        let torch = if self.peers.contains(&Peer::Torch) {
            let preload = self.mkl_any_cpu.then(machine::mkl_on_any_processor).transpose()?;
            Some(Torch::find(&self.python, self.torch_env.clone(), preload))
        } else {
            None
        };
        let candle = self.peers.contains(&Peer::Candle).then(build_candle);
        Ok(Programs {
            trimoe,
            torch,
            candle,
            scratch: env::temp_dir(),
            steps: self.steps,
            warmup: self.warmup,
            batch: self.batch,
            threads: self.threads,
            rounds: self.rounds,
            optimizer: self.optimizer.to_possible_value().map_or_else(String::new, |v| v.get_name().into()),
        })
    }

    /// The dense pair is of the inner size of an expert, and of all experts of a token: flat's active size.
    fn variants(&self, programs: &Programs) -> Result<Vec<Variant>> {
        let mut variants = Vec::new();
        let chosen = |ffn| self.only.is_empty() || self.only.contains(&ffn);
        let model = |ffn: &str, inner: Option<u64>| {
            let inner = inner.map(|inner| inner.to_string());
            let mut args = vec!["inspect", "--preset", &self.preset, "--ffn", ffn];
            args.extend(inner.iter().flat_map(|inner| ["--inner", inner]));
            args.extend(["--json", "-"]);
            let output = Command::new(&programs.trimoe).args(args).output();
            let output = output.with_context(|| format!("starting {}", programs.trimoe.display()))?;
            let text = String::from_utf8_lossy(&output.stdout);
            ensure!(
                output.status.success(),
                "trimoe inspect failed: {}",
                String::from_utf8_lossy(&output.stderr)
            );
            let accounts: Value = serde_json::from_str(text.lines().last().unwrap_or_default())
                .context("what trimoe inspect printed")?;
            match &accounts[0]["model"] {
                model @ Value::Object(_) => anyhow::Ok(model.clone()),
                other => bail!("trimoe inspect described a model as {other}"),
            }
        };
        if chosen(Ffn::Dense) {
            let flat = model("flat", None)?;
            let size = |name: &str| flat[name].as_u64().with_context(|| format!("a model without {name}"));
            for inner in [size("inner")?, size("topk")? * size("inner")?] {
                let model = model("dense", Some(inner))?;
                variants.push(Variant { name: format!("dense, inner {inner}"), ffn: "dense", model });
            }
        }
        for (ffn, name) in [(Ffn::Flat, "flat"), (Ffn::Clustered, "clustered")] {
            if chosen(ffn) {
                variants.push(Variant { name: name.into(), ffn: name, model: model(name, None)? });
            }
        }
        Ok(variants)
    }

    /// Who takes part, in the order of a round.
    fn contestants(&self, ffn: &str) -> Vec<Contestant> {
        let takes_part = |program| match program {
            Program::Trimoe => true,
            Program::Torch => self.peers.contains(&Peer::Torch),
            Program::Candle => self.peers.contains(&Peer::Candle),
        };
        FORMS.iter().filter(|c| takes_part(c.program) && c.ffn == ffn).copied().collect()
    }
}

/// candle has a crate of its own, with its own lock file and target folder.
fn build_candle() -> Result<PathBuf, String> {
    let build = || {
        let target = paths::target()?.join("candle");
        let manifest = paths::root().join("benches/peers/candle/Cargo.toml");
        let mut command = cargo();
        command.args(["build", "--release", "--locked", "--manifest-path"]).arg(manifest);
        run(command.arg("--target-dir").arg(&target))?;
        anyhow::Ok(target.join("release").join(format!("candle-step{}", env::consts::EXE_SUFFIX)))
    };
    build().map_err(|error| format!("does not build here: {error:#}"))
}
