//! `train --profile`: a trace of some steps, and a table of where their time went.

use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::summary::table;
use super::terminal::{note, say};
use crate::device::Device;
use crate::elem::Elem;
use crate::error::{Error, Result};
use crate::profile::{Ceilings, OpCost, add_to};
use crate::train::data::{check_writable, write_atomically};

/// Steps before those that are profiled, and how many are, unless told otherwise: memory is fresh in the first ones, and a
/// trace of many is large.
const BEFORE: u64 = 3;
const STEPS: u64 = 10;

/// What to profile. Not part of a run's configuration: a run with it is the same to the bit, and goes on without it.
#[derive(Clone, Debug, Default, clap::Args)]
pub(super) struct ProfileOptions {
    /// Print where the time of some steps goes, and write a trace of them to FILE, for ui.perfetto.dev or chrome://tracing.
    #[arg(long, value_name = "FILE", help_heading = "Profile")]
    profile: Option<PathBuf>,
    /// The first and the last step to profile; with a run's last step, the trace goes on to the end of its evaluation
    /// [default: ten after the first three of this run].
    #[arg(long, value_name = "FIRST-LAST", help_heading = "Profile")]
    profile_steps: Option<Steps>,
}

/// The first and the last of some steps, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Steps {
    first: u64,
    last: u64,
}

impl FromStr for Steps {
    type Err = &'static str;

    fn from_str(text: &str) -> std::result::Result<Self, Self::Err> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        match (first.parse(), last.parse()) {
            (Ok(first), Ok(last)) if 1 <= first && first <= last => Ok(Steps { first, last }),
            _ => Err("is no range of steps such as 4-13"),
        }
    }
}

impl std::fmt::Display for Steps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

impl ProfileOptions {
    /// What a run that has done `done` steps and ends with step `last` is to profile.
    pub fn wanted(&self, done: u64, last: u64) -> Result<Option<Wanted>> {
        let Some(path) = &self.profile else {
            return match self.profile_steps {
                Some(steps) => Err(Error::config(
                    "--profile-steps",
                    steps,
                    "needs --profile to say where the trace goes",
                )),
                None => Ok(None),
            };
        };
        if path.file_name().is_none() {
            return Err(Error::config("--profile", path.display(), "names no file"));
        }
        let to_do = last.saturating_sub(done);
        if to_do == 0 {
            return Err(Error::config("--profile", path.display(), "there is no step left to profile"));
        }
        let usual = || {
            let first = done + 1 + BEFORE.min(to_do - 1);
            Steps { first, last: last.min(first + STEPS - 1) }
        };
        let steps = self.profile_steps.unwrap_or_else(usual);
        if steps.first <= done || steps.last > last {
            let why = format!("this run goes from step {} to step {last}", done + 1);
            return Err(Error::config("--profile-steps", steps, why));
        }
        Ok(Some(Wanted { path: path.clone(), steps, to_end: steps.last == last }))
    }
}

/// A profile that is to be made.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    path: PathBuf,
    steps: Steps,
    /// Whether the trace goes on until the run is over.
    to_end: bool,
}

impl Wanted {
    /// Makes sure that the trace can be written, and measures what `device` can do with elements of type `T`.
    pub fn start<T: Elem>(self, device: &Device) -> Result<Profiler> {
        check_writable(&self.path)?;
        let ceilings = Ceilings::measure::<T>(device)?;
        let device = device.clone().profiled();
        Ok(Profiler { wanted: self, device, ceilings, costs: Vec::new(), seconds: 0.0, done: 0, ended: None })
    }
}

/// A profile in the making.
#[derive(Debug)]
pub(super) struct Profiler {
    wanted: Wanted,
    device: Device,
    ceilings: Ceilings,
    costs: Vec<OpCost>,
    /// Of the profiled steps so far.
    seconds: f64,
    done: u64,
    /// Events that were written, once they are.
    ended: Option<usize>,
}

impl Profiler {
    /// The device that is profiled.
    pub fn device(&self) -> &Device {
        &self.device
    }

    pub fn before_step(&mut self, step: u64) {
        if step == self.wanted.steps.first {
            self.device.start_trace();
        }
        // What ran between the steps is in the trace, not in the sums.
        self.device.take_profile();
    }

    /// `seconds` are those of the step.
    pub fn after_step(&mut self, step: u64, seconds: f64) -> Result<()> {
        let costs = self.device.take_profile();
        let Steps { first, last } = self.wanted.steps;
        if !(first..=last).contains(&step) {
            return Ok(());
        }
        costs.iter().for_each(|cost| add_to(&mut self.costs, cost));
        self.seconds += seconds;
        self.done += 1;
        if step == last && !self.wanted.to_end { self.write() } else { Ok(()) }
    }

    fn write(&mut self) -> Result<()> {
        let (trace, path) = (self.device.take_trace(), &self.wanted.path);
        write_atomically(path, |file| {
            let mut out = BufWriter::new(file);
            trace.write(&mut out).and_then(|()| out.flush()).map_err(Error::io("write", path))
        })?;
        if trace.dropped() > 0 {
            note(format_args!("the trace is full: its last {} events were left out", trace.dropped()));
        }
        self.ended = Some(trace.events());
        Ok(())
    }

    /// Writes the trace unless it is written, and prints the table; `None` if the run ended before its first step.
    pub fn finish(mut self) -> Result<Option<ProfileReport>> {
        if self.done == 0 {
            note(format_args!("--profile: the run ended before step {}", self.wanted.steps.first));
            return Ok(None);
        }
        if self.ended.is_none() {
            self.write()?;
        }
        let report = self.report();
        report.print()?;
        let (path, events) = (self.wanted.path.display(), self.ended.unwrap_or(0));
        say(format_args!("trace: {path} ({events} events), for ui.perfetto.dev or chrome://tracing"))?;
        Ok(Some(report))
    }

    fn report(&self) -> ProfileReport {
        let mut costs = self.costs.clone();
        costs.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
        let mut all = OpCost { name: "all", ..OpCost::default() };
        costs.iter().for_each(|cost| all.add(cost));
        let first = self.wanted.steps.first;
        let line = |cost: &OpCost, seconds: f64| OpLine::new(cost, seconds, self.seconds, &self.ceilings);
        ProfileReport {
            trace: self.wanted.path.display().to_string(),
            first_step: first,
            last_step: first + self.done - 1,
            seconds: self.seconds,
            ops: costs.iter().map(|cost| line(cost, cost.seconds)).collect(),
            outside_seconds: (self.seconds - all.seconds).max(0.0),
            handing_over_seconds: (all.seconds - all.inside).max(0.0),
            steps: line(&all, self.seconds),
            ceilings: self.ceilings,
        }
    }
}

/// Where the time of some steps went.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ProfileReport {
    /// The file of the trace.
    pub trace: String,
    /// The first of the steps.
    pub first_step: u64,
    /// The last of them.
    pub last_step: u64,
    /// Seconds of all of them.
    pub seconds: f64,
    /// Each operation, the most expensive first.
    pub ops: Vec<OpLine>,
    /// Seconds that no operation covers.
    pub outside_seconds: f64,
    /// Seconds of the operations that went into handing them to the device's threads and coming back.
    pub handing_over_seconds: f64,
    /// All operations together over the seconds of the steps.
    pub steps: OpLine,
    /// What the machine can do.
    pub ceilings: Ceilings,
}

/// What an operation cost.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct OpLine {
    /// [`Op::NAME`](crate::Op::NAME).
    pub op: String,
    /// Calls.
    pub calls: u64,
    /// Seconds of all calls.
    pub seconds: f64,
    /// Share of the steps.
    pub share: f64,
    /// Threads at work in its parallel parts, averaged over its time; `None` if it has none.
    pub threads: Option<f64>,
    /// Floating-point operations a second; `None` if they count as none.
    pub flops_per_s: Option<f64>,
    /// Of the best product.
    pub of_product: Option<f64>,
    /// Bytes a second that had to be read and written.
    pub bytes_per_s: f64,
    /// Of what memory gives.
    pub of_memory: f64,
}

impl OpLine {
    fn new(cost: &OpCost, seconds: f64, all: f64, ceilings: &Ceilings) -> Self {
        let rate = |n: f64| n / seconds.max(1e-12);
        let flops_per_s = (cost.flops > 0).then(|| rate(cost.flops as f64));
        let bytes_per_s = rate(cost.bytes as f64);
        OpLine {
            op: cost.name.to_owned(),
            calls: cost.calls,
            seconds,
            share: seconds / all.max(1e-12),
            threads: (cost.busy > 0.0).then(|| rate(cost.busy)),
            flops_per_s,
            of_product: flops_per_s.map(|rate| rate / ceilings.flops()),
            bytes_per_s,
            of_memory: bytes_per_s / ceilings.memory,
        }
    }

    fn row(&self, name: &str) -> Vec<String> {
        let shown = |value: Option<f64>, show: &dyn Fn(f64) -> String| value.map_or_else(|| "-".into(), show);
        vec![
            name.to_owned(),
            self.calls.to_string(),
            format!("{:.3}", self.seconds),
            percent(self.share),
            shown(self.threads, &|t| format!("{t:.2}")),
            shown(self.flops_per_s, &|rate| format!("{:.1}", rate / 1e9)),
            shown(self.of_product, &percent),
            format!("{:.1}", self.bytes_per_s / 1e9),
            percent(self.of_memory),
        ]
    }
}

fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

impl ProfileReport {
    fn print(&self) -> Result<()> {
        let header = [
            "operation",
            "calls",
            "seconds",
            "of the steps",
            "threads",
            "GFLOP/s",
            "of ceiling",
            "GB/s",
            "of ceiling",
        ];
        let outside = |name: &str, seconds: f64| {
            let mut row = vec![name.to_owned(), String::new(), format!("{seconds:.3}")];
            row.push(percent(seconds / self.seconds.max(1e-12)));
            row.resize(header.len(), String::new());
            row
        };
        let steps = format!("steps {} to {}", self.first_step, self.last_step);
        let rows = self.ops.iter().map(|line| line.row(&line.op));
        let rows = rows.chain([outside("outside ops", self.outside_seconds), self.steps.row(&steps)]);
        say(format_args!("{}", table(&header, rows)))?;
        say(format_args!(
            "ceilings: {:.1} GFLOP/s in f32 products, {:.1} in those of the run, {:.1} GB/s of memory; {} of the steps is \
             operations on their way to the threads and back",
            self.ceilings.f32_product / 1e9,
            self.ceilings.product / 1e9,
            self.ceilings.memory / 1e9,
            percent(self.handing_over_seconds / self.seconds.max(1e-12))
        ))
    }
}
