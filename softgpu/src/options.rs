//! How launches are run: from the environment, or set by a test.

use crate::chip::{CHIPS, Chip};
use crate::{Code, Error, Result};

/// In which order the warps of a block, and the blocks of a grid, are run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Schedule {
    /// First to last.
    Forward,
    /// Last to first.
    Reverse,
}

/// When asynchronous copies move their data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Copies {
    /// When they are issued.
    Eager,
    /// When they are waited for; until then the destination holds poison.
    Late,
}

/// How launches are run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Chip model, `SOFTGPU_ARCH`: `sm_75`, `sm_80`, `sm_86` (default), `sm_89`, `sm_90`.
    pub chip: &'static Chip,
    /// CUDA version of the driver, `SOFTGPU_DRIVER=12040`: 1000 times major, 10 times minor. Later PTX is refused.
    pub driver: i32,
    /// The sanitizer, `SOFTGPU_CHECK=0` turns it off. Bounds and alignment are always checked.
    pub check: bool,
    /// `SOFTGPU_SCHEDULE=forward|reverse`.
    pub schedule: Schedule,
    /// `SOFTGPU_COPIES=late|eager`.
    pub copies: Copies,
    /// Host threads that run blocks, `SOFTGPU_THREADS`; default: all.
    pub threads: usize,
    /// Warp instructions after which a launch counts as endless, `SOFTGPU_MAX_INSTR`.
    pub max_instructions: u64,
    /// Whether distinct sectors are counted, which costs time; `SOFTGPU_STATS` turns it on.
    pub footprint: bool,
    /// Reports kept for one launch.
    pub max_reports: usize,
}

/// CUDA 13.0.
pub(crate) const DRIVER: i32 = 13_000;

impl Default for Options {
    fn default() -> Self {
        Self {
            chip: &CHIPS[2],
            driver: DRIVER,
            check: true,
            schedule: Schedule::Forward,
            copies: Copies::Late,
            threads: std::thread::available_parallelism().map_or(1, |n| n.get()),
            max_instructions: 4_000_000_000,
            footprint: false,
            max_reports: 16,
        }
    }
}

impl Options {
    /// What the environment asks for; a variable that cannot be understood is an error that names it.
    pub fn from_env() -> Result<Self> {
        let mut options = Self::default();
        if let Some(name) = variable("SOFTGPU_ARCH") {
            let known = CHIPS.iter().map(|c| c.arch).collect::<Vec<_>>().join(", ");
            options.chip = Chip::named(&name).ok_or_else(|| bad("SOFTGPU_ARCH", &name, &known))?;
        }
        if let Some(version) = number("SOFTGPU_DRIVER")? {
            let known = (11_000..=DRIVER as u64).contains(&version);
            let oldest = || bad("SOFTGPU_DRIVER", &version.to_string(), &format!("11000 to {DRIVER}"));
            options.driver = known.then_some(version as i32).ok_or_else(oldest)?;
        }
        options.check = choice("SOFTGPU_CHECK", &[("1", true), ("0", false)])?.unwrap_or(options.check);
        let schedules = [("forward", Schedule::Forward), ("reverse", Schedule::Reverse)];
        options.schedule = choice("SOFTGPU_SCHEDULE", &schedules)?.unwrap_or(options.schedule);
        let copies = [("late", Copies::Late), ("eager", Copies::Eager)];
        options.copies = choice("SOFTGPU_COPIES", &copies)?.unwrap_or(options.copies);
        if let Some(n) = number("SOFTGPU_THREADS")? {
            options.threads = n.clamp(1, 1024) as usize;
        }
        if let Some(n) = number("SOFTGPU_MAX_INSTR")? {
            options.max_instructions = n.max(1);
        }
        options.footprint = variable("SOFTGPU_STATS").is_some();
        Ok(options)
    }
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|v| !v.is_empty())
}

fn bad(name: &str, value: &str, known: &str) -> Error {
    Error::new(Code::InvalidValue, format!("{name}={value}: expected {known}"))
}

fn choice<T: Copy>(name: &str, known: &[(&str, T)]) -> Result<Option<T>> {
    let Some(value) = variable(name) else { return Ok(None) };
    let found = known.iter().find(|(n, _)| *n == value);
    let names = || known.iter().map(|(n, _)| *n).collect::<Vec<_>>().join(" or ");
    found.map(|(_, t)| Some(*t)).ok_or_else(|| bad(name, &value, &names()))
}

fn number(name: &str) -> Result<Option<u64>> {
    let Some(value) = variable(name) else { return Ok(None) };
    value.parse().map(Some).map_err(|_| bad(name, &value, "a whole number"))
}
