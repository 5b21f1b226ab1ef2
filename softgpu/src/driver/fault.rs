//! Faults on demand: `SOFTGPU_FAULT`, so that a program's handling of errors can be tested.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use crate::{Code, Error, Result};

/// Which call is to fail, counted from 1 over the process; 0: none.
#[derive(Default)]
pub(super) struct Faults {
    allocation: Countdown,
    launch: Countdown,
    lost: Countdown,
    gone: AtomicBool,
}

#[derive(Default)]
struct Countdown {
    at: u64,
    seen: AtomicU64,
}

impl Countdown {
    fn hit(&self) -> bool {
        self.at != 0 && self.seen.fetch_add(1, Relaxed) + 1 == self.at
    }
}

impl Faults {
    /// `SOFTGPU_FAULT=alloc:3,launch:1,lost:2`.
    pub fn from_env() -> Result<Self> {
        Self::parse(&std::env::var("SOFTGPU_FAULT").unwrap_or_default())
    }

    fn parse(text: &str) -> Result<Self> {
        let mut faults = Self::default();
        for part in text.split(',').filter(|p| !p.is_empty()) {
            let (kind, number) = part.split_once(':').unwrap_or((part, ""));
            let target = match kind {
                "alloc" => Some(&mut faults.allocation),
                "launch" => Some(&mut faults.launch),
                "lost" => Some(&mut faults.lost),
                _ => None,
            };
            match (target, number.parse::<u64>()) {
                (Some(target), Ok(n)) if n > 0 => target.at = n,
                _ => {
                    let text =
                        format!("SOFTGPU_FAULT={text}: expected alloc:N, launch:N or lost:N, not {part}");
                    return Err(Error::new(Code::InvalidValue, text));
                }
            }
        }
        Ok(faults)
    }

    /// Counts an allocation and fails if it is the one.
    pub fn allocation(&self) -> Result<()> {
        match self.allocation.hit() {
            true => Err(injected(Code::OutOfMemory, "alloc", self.allocation.at)),
            false => Ok(()),
        }
    }

    /// Counts a launch: `Err` if the device is lost at it, `Some` if the kernel is to fail.
    pub fn launch(&self) -> Result<Option<Error>> {
        if self.lost.hit() {
            self.gone.store(true, Relaxed);
        }
        self.alive()?;
        Ok(self.launch.hit().then(|| injected(Code::LaunchFailed, "launch", self.launch.at)))
    }

    /// Fails once the device is lost.
    pub fn alive(&self) -> Result<()> {
        match self.gone.load(Relaxed) {
            true => Err(injected(Code::Unknown, "lost", self.lost.at)),
            false => Ok(()),
        }
    }
}

fn injected(code: Code, kind: &str, n: u64) -> Error {
    Error::new(code, format!("a fault asked for by SOFTGPU_FAULT={kind}:{n}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nth_call_fails_and_no_other() {
        let faults = Faults::parse("alloc:2,launch:1").unwrap();
        assert!(faults.allocation().is_ok());
        assert_eq!(faults.allocation().unwrap_err().code, Code::OutOfMemory);
        assert!(faults.allocation().is_ok());
        assert_eq!(faults.launch().unwrap().unwrap().code, Code::LaunchFailed);
        assert!(faults.launch().unwrap().is_none());
    }

    #[test]
    fn a_lost_device_stays_lost() {
        let faults = Faults::parse("lost:2").unwrap();
        assert!(faults.launch().unwrap().is_none() && faults.alive().is_ok());
        assert_eq!(faults.launch().unwrap_err().code, Code::Unknown);
        assert!(faults.launch().is_err() && faults.alive().is_err());
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        for text in ["alloc", "alloc:0", "alloc:x", "oom:1", "launch:-1"] {
            let error = Faults::parse(text).err().expect(text);
            assert!(error.code == Code::InvalidValue && error.text.contains(text), "{error}");
        }
    }
}
