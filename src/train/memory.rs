//! Peak memory of this process, pages backed by files apart.
//!
//! Mapped token files and checkpoints make a process look as large as its data, although the system may drop
//! those pages at any time. So the peak that counts is the one of anonymous (and shared) memory. Linux keeps
//! a high-water mark only for the sum, hence a thread that samples `/proc/self/status`; a spike shorter than
//! its period can be missed, and callers add a sample where they know memory to be full. Other systems
//! report nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use serde::Serialize;

/// Time between two samples.
const PERIOD: Duration = Duration::from_millis(10);

/// Resident memory of this process, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Resident {
    /// Pages of its own: heap, stacks, shared memory.
    pub own: u64,
    /// Pages of mapped files, the program itself among them.
    pub file: u64,
    /// Highest sum of both so far, kept by the system.
    pub high_water: u64,
}

impl Resident {
    /// As of now; `None` where the system does not say.
    pub fn now() -> Option<Self> {
        parse(&std::fs::read_to_string("/proc/self/status").ok()?)
    }
}

fn parse(status: &str) -> Option<Resident> {
    let bytes = |field: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
    };
    let own = bytes("RssAnon")? + bytes("RssShmem")?;
    Some(Resident { own, file: bytes("RssFile")?, high_water: bytes("VmHWM")? })
}

/// Samples [`Resident::own`] from its start until it is dropped.
#[derive(Debug)]
pub struct PeakMemory {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    peak: AtomicU64,
    stop: AtomicBool,
}

impl Shared {
    fn sample(&self) {
        if let Some(now) = Resident::now() {
            self.peak.fetch_max(now.own, Ordering::Relaxed);
        }
    }
}

impl PeakMemory {
    /// Starts sampling; without a thread where the system does not say or gives none.
    pub fn start() -> Self {
        let shared = Arc::new(Shared::default());
        let theirs = shared.clone();
        let work = move || {
            while !theirs.stop.load(Ordering::Relaxed) {
                theirs.sample();
                std::thread::park_timeout(PERIOD);
            }
        };
        let named = || std::thread::Builder::new().name("memory".into());
        let thread = Resident::now().and_then(|_| named().spawn(work).ok());
        PeakMemory { shared, thread }
    }

    /// Forgets what was seen so far; returns the highest [`Resident::own`] of it.
    pub fn restart(&self) -> Option<u64> {
        let peak = self.peak();
        self.shared.peak.store(0, Ordering::Relaxed);
        peak
    }

    /// Highest [`Resident::own`] since the start or restart, this moment included.
    pub fn peak(&self) -> Option<u64> {
        self.shared.sample();
        match self.shared.peak.load(Ordering::Relaxed) {
            0 => None,
            peak => Some(peak),
        }
    }
}

impl Drop for PeakMemory {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // It only reads a file: a panic there has nothing to tell the caller.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_is_read_by_field() {
        let status = "Name:\tVmHWM\nVmHWM:\t   20 kB\nRssAnon:\t 8 kB\nRssFile:\t 5 kB\nRssShmem:\t1 kB\n";
        assert_eq!(parse(status), Some(Resident { own: 9 << 10, file: 5 << 10, high_water: 20 << 10 }));
        assert_eq!(parse("VmHWM: 1 kB"), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn peak_sees_a_large_allocation_after_it_is_gone() {
        const BYTES: u64 = 64 << 20;
        let memory = PeakMemory::start();
        let before = memory.peak().unwrap();
        let block = vec![1u8; BYTES as usize];
        let during = memory.peak().unwrap();
        drop(std::hint::black_box(block));
        assert!(during >= before + BYTES * 9 / 10, "{before} {during}");
        assert!(memory.peak().unwrap() >= during);
    }
}
