//! Progress on stderr: a bar on a terminal, plain lines elsewhere.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::metrics::Line;
use super::terminal::note;

/// Time between two plain lines; the first and the last step always get one.
const QUIET: Duration = Duration::from_secs(5);

/// Where a run stands, for people to watch.
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    name: String,
    total: u64,
    first: u64,
    start: Instant,
    printed: Option<Instant>,
}

impl Progress {
    /// A run called `name` of `total` steps, `done` of which lie behind it.
    pub fn new(name: String, total: u64, done: u64) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
            let template = "{prefix} {wide_bar} {pos}/{len}  {msg}  ETA {eta}";
            bar.set_style(
                ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()),
            );
            bar.set_prefix(name.clone());
            bar.set_position(done);
            bar.reset_eta();
            bar
        });
        Progress { bar, name, total, first: done, start: Instant::now(), printed: None }
    }

    /// Shows a step.
    pub fn step(&mut self, line: &Line) {
        let speed = line.tokens as f64 / line.seconds.max(1e-9);
        let message = format!("loss {:.4}  {speed:.0} tokens/s  load CV {:.2}", line.loss, line.load_cv);
        if let Some(bar) = &self.bar {
            bar.set_position(line.step);
            bar.set_message(message);
            return;
        }
        if line.step < self.total && self.printed.is_some_and(|at| at.elapsed() < QUIET) {
            return;
        }
        self.printed = Some(Instant::now());
        let done = (line.step - self.first).max(1) as f64;
        let left = self.start.elapsed().as_secs_f64() / done * self.total.saturating_sub(line.step) as f64;
        note(format_args!("{} step {}/{}  {message}  ETA {left:.0} s", self.name, line.step, self.total));
    }

    /// Takes the bar away, leaving its last state.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.abandon();
        }
    }
}
