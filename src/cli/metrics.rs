//! `metrics.jsonl`: one line per step, each written once.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::train::clustering::{Event, EventResult};
use crate::train::memory::Resident;
use crate::train::offload::OffloadCounts;
use crate::train::trainer::StepReport;

/// A line of the file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Line {
    /// Step, from 1.
    pub step: u64,
    /// Mean cross-entropy in nats per token.
    pub loss: f32,
    /// The router's own losses, summed over layers.
    pub balance: f32,
    /// Norm of the gradient before clipping.
    pub grad_norm: f32,
    /// Learning rate.
    pub lr: f32,
    /// Standard deviation over mean of slots per expert, averaged over layers.
    pub load_cv: f32,
    /// Slots per expert in this step by its place, `[layers][experts]`; empty when dense.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub slots: Vec<Vec<u64>>,
    /// Attempts to regroup experts after the step.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub clustering: Vec<Event>,
    /// Resident bytes after the step, pages of mapped files left out; `None` where the system does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<u64>,
    /// What moving clusters took in the step, where they are offloaded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offload: Option<OffloadCounts>,
    /// Tokens of the step.
    pub tokens: u64,
    /// Wall-clock seconds of the step.
    pub seconds: f64,
}

impl From<StepReport> for Line {
    fn from(r: StepReport) -> Self {
        Line {
            step: r.step,
            loss: r.loss,
            balance: r.balance,
            grad_norm: r.grad_norm,
            lr: r.lr,
            load_cv: r.load_cv,
            slots: r.expert_slots,
            clustering: r.clustering,
            memory: Resident::now().map(|resident| resident.own),
            offload: r.offload,
            tokens: r.tokens as u64,
            seconds: r.seconds,
        }
    }
}

/// The file, open at its end, and what it holds.
#[derive(Debug)]
pub(crate) struct Metrics {
    path: PathBuf,
    file: File,
    lines: Vec<Line>,
}

impl Metrics {
    /// Opens the file of a run that continues after `step`: later lines, which the run will write again, and
    /// a last line cut off by a crash are removed.
    pub fn open(path: &Path, step: u64) -> Result<Self> {
        let mut lines = Self::read(path)?;
        lines.retain(|line| line.step <= step);
        let temporary = path.with_extension("jsonl.tmp");
        let kept = lines.iter().map(to_json).collect::<String>();
        fs::write(&temporary, kept).map_err(Error::io("write", &temporary))?;
        fs::rename(&temporary, path).map_err(Error::io("write", path))?;
        let file = OpenOptions::new().append(true).open(path).map_err(Error::io("open", path))?;
        Ok(Metrics { path: path.to_owned(), file, lines })
    }

    /// The whole lines of a file; none if it is missing.
    pub fn read(path: &Path) -> Result<Vec<Line>> {
        let text = match fs::read(path) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(e) => return Err(Error::io("read", path)(e)),
        };
        Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
    }

    /// Adds the line of a step.
    pub fn push(&mut self, line: Line) -> Result<()> {
        self.file.write_all(to_json(&line).as_bytes()).map_err(Error::io("write", &self.path))?;
        self.lines.push(line);
        Ok(())
    }

    /// Mean loss of the last tenth of all steps.
    pub fn final_loss(&self) -> f64 {
        let tail = &self.lines[self.lines.len() - self.lines.len().div_ceil(10)..];
        tail.iter().map(|line| f64::from(line.loss)).sum::<f64>() / tail.len().max(1) as f64
    }

    /// Median over all steps of tokens per second.
    pub fn tokens_per_second(&self) -> f64 {
        let mut speeds: Vec<f64> = self.lines.iter().map(|l| l.tokens as f64 / l.seconds.max(1e-9)).collect();
        speeds.sort_by(f64::total_cmp);
        speeds.get(speeds.len() / 2).copied().unwrap_or(0.0)
    }

    /// Attempts to regroup the experts of a layer: those accepted, and all.
    pub fn regroupings(&self) -> (usize, usize) {
        let all = self.lines.iter().flat_map(|line| &line.clustering);
        let events = || all.clone().filter(|event| event.result != EventResult::Converted);
        let accepted = events().filter(|event| event.result == EventResult::Accepted).count();
        (accepted, events().count())
    }

    /// Share of the seconds of all steps that those attempts took.
    pub fn clustering_share(&self) -> f64 {
        let events = self.lines.iter().flat_map(|line| &line.clustering);
        events.map(|event| event.seconds).sum::<f64>() / self.seconds().max(1e-9)
    }

    /// What moving clusters took in all steps; `None` if they never were offloaded.
    pub fn offload(&self) -> Option<OffloadCounts> {
        self.lines.iter().filter_map(|line| line.offload).reduce(|mut sum, counts| {
            sum.add(&counts);
            sum
        })
    }

    /// Seconds of all steps together, those before a resume included.
    pub fn seconds(&self) -> f64 {
        self.lines.iter().map(|line| line.seconds).sum()
    }
}

fn to_json(line: &Line) -> String {
    // Numbers only: this cannot fail. A value that is not finite becomes `null`.
    serde_json::to_string(line).map(|json| json + "\n").unwrap_or_default()
}
