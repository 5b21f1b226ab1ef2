//! Parts in the memory tier or in the file tier, under a budget of bytes.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::forecast::Forecast;
use super::part::{Part, Parts};
use super::words::Words;
use super::worker::{Done, Medium, Meter, Worker};
use crate::device::Device;
use crate::error::{Error, Result};

/// What offload did in a step, or in several.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct OffloadCounts {
    /// Parts that were in memory or on their way when they were needed.
    pub hits: u64,
    /// Parts that were neither.
    pub misses: u64,
    /// Times that training waited for the file tier.
    pub stalls: u64,
    /// Seconds it waited.
    pub stall_seconds: f64,
    /// Bytes read from the file tier.
    pub bytes_read: u64,
    /// Bytes written to it.
    pub bytes_written: u64,
    /// Most bytes of parts in memory at any time, copies for a pass among them; never above the budget.
    pub peak_bytes: u64,
}

impl OffloadCounts {
    /// Takes in what came after.
    pub fn add(&mut self, other: &OffloadCounts) {
        self.hits += other.hits;
        self.misses += other.misses;
        self.stalls += other.stalls;
        self.stall_seconds += other.stall_seconds;
        self.bytes_read += other.bytes_read;
        self.bytes_written += other.bytes_written;
        self.peak_bytes = self.peak_bytes.max(other.peak_bytes);
    }
}

/// Where a part is.
#[derive(Debug)]
enum Slot {
    /// In the file alone.
    File,
    /// In memory, and in the file as well unless it is dirty.
    Memory { words: Words, dirty: bool },
    /// On its way to memory.
    Coming,
    /// In the hands of the caller.
    Out { dirty: bool },
}

/// All parts, and the thread that moves them.
///
/// Bytes in memory are resident, coming (asked for; they take memory when their turn comes) or leaving (not written yet).
/// A read is asked for when resident and coming bytes leave room for it: what is leaving is gone when its turn comes, since
/// transfers keep their order. Memory that this thread takes itself needs room beside all three.
#[derive(Debug)]
pub(super) struct Store {
    pub parts: Parts,
    pub forecast: Forecast,
    slots: Vec<Slot>,
    budget: u64,
    resident: u64,
    coming: u64,
    leaving: u64,
    /// A stretch that has come.
    stretch: Option<Words>,
    counts: OffloadCounts,
    meter: Arc<Meter>,
    worker: Worker,
    device: Device,
}

/// Tag of the read of a stretch.
const STRETCH: usize = usize::MAX;

fn bytes_of(words: usize) -> u64 {
    (words * size_of::<u32>()) as u64
}

impl Store {
    /// All parts in the file tier, as they are there. Errors about it name `path`; traces of `device` show transfers.
    pub fn new(
        parts: Parts,
        budget: u64,
        medium: impl Medium + 'static,
        path: PathBuf,
        device: &Device,
    ) -> Result<Self> {
        let meter = Arc::new(Meter::default());
        Ok(Store {
            forecast: Forecast::new(&parts),
            slots: (0..parts.count()).map(|_| Slot::File).collect(),
            parts,
            budget,
            resident: 0,
            coming: 0,
            leaving: 0,
            stretch: None,
            counts: OffloadCounts::default(),
            worker: Worker::start(medium, path, meter.clone(), device.clone())?,
            meter,
            device: device.clone(),
        })
    }

    /// The counts since the last call.
    pub fn take_counts(&mut self) -> OffloadCounts {
        let counts = OffloadCounts { peak_bytes: self.meter.take_peak(), ..self.counts };
        self.counts = OffloadCounts::default();
        counts
    }

    /// Says what the caller will take now: counts hits and misses, and asks for what there is room for.
    pub fn need(&mut self, parts: &[Part]) -> Result<()> {
        self.collect()?;
        for &part in parts {
            match self.slots[self.parts.index(part)] {
                Slot::File => self.counts.misses += 1,
                _ => self.counts.hits += 1,
            }
        }
        self.prefetch(parts)
    }

    /// Asks for parts, the first first, as long as only parts of later use have to make room.
    pub fn prefetch(&mut self, parts: &[Part]) -> Result<()> {
        self.collect()?;
        for &part in parts {
            let index = self.parts.index(part);
            if matches!(self.slots[index], Slot::File) {
                let rank = self.forecast.rank(index, part);
                if !self.make_room(self.parts.bytes(part.kind), Some(rank))? {
                    break;
                }
                self.ask(index, part)?;
            }
        }
        Ok(())
    }

    /// Hands out a part, which the caller gives back.
    pub fn take(&mut self, part: Part) -> Result<Words> {
        let index = self.parts.index(part);
        self.collect()?;
        if matches!(self.slots[index], Slot::File) {
            self.make_room(self.parts.bytes(part.kind), None)?;
            self.ask(index, part)?;
        }
        self.wait_while(|store| matches!(store.slots[index], Slot::Coming))?;
        let Slot::Memory { words, dirty } = &mut self.slots[index] else { return Err(lost(part)) };
        let (words, dirty) = (std::mem::take(words), *dirty);
        self.slots[index] = Slot::Out { dirty };
        Ok(words)
    }

    /// Takes a part back.
    pub fn give(&mut self, part: Part, words: Words, changed: bool) {
        let index = self.parts.index(part);
        let before = matches!(self.slots[index], Slot::Out { dirty: true });
        self.slots[index] = Slot::Memory { words, dirty: before || changed };
        self.forecast.used(index);
    }

    /// Drops a part that was handed out: it lives elsewhere now, until it is made anew.
    pub fn discard(&mut self, words: Words) {
        let bytes = bytes_of(words.len());
        drop(words);
        self.release(bytes);
    }

    /// Room for a part that lives elsewhere, to be filled and given.
    pub fn renew(&mut self, part: Part) -> Result<Words> {
        self.reserve(self.parts.bytes(part.kind))?;
        self.slots[self.parts.index(part)] = Slot::Out { dirty: false };
        Words::zeros(&self.device, self.parts.words(part.kind))
    }

    /// Takes back a part that the file holds as it is.
    pub fn leave_in_file(&mut self, part: Part, words: Words) {
        self.discard(words);
        self.slots[self.parts.index(part)] = Slot::File;
    }

    /// Counts memory that the caller takes for parts, when there is room for it.
    pub fn reserve(&mut self, bytes: u64) -> Result<()> {
        self.collect()?;
        self.make_room(bytes, None)?;
        self.wait_while(|s| s.leaving > 0 && s.resident + s.coming + s.leaving + bytes > s.budget)?;
        self.resident += bytes;
        self.meter.add(bytes);
        Ok(())
    }

    /// The caller gave the memory up.
    pub fn release(&mut self, bytes: u64) {
        self.resident -= bytes;
        self.meter.sub(bytes);
    }

    /// A copy of words of a part, wherever it is: for checkpoints, whose waiting is no stall of training.
    pub fn stretch(&mut self, part: Part, at: Range<usize>) -> Result<Vec<u32>> {
        let index = self.parts.index(part);
        self.collect()?;
        self.wait_while(|store| matches!(store.slots[index], Slot::Coming))?;
        match &self.slots[index] {
            Slot::Memory { words, .. } => return Ok(words[at].to_vec()),
            Slot::File => {}
            _ => return Err(lost(part)),
        }
        self.make_room(bytes_of(at.len()), None)?;
        self.coming += bytes_of(at.len());
        self.worker.read(STRETCH, self.parts.offset(part) + bytes_of(at.start), at.len())?;
        self.receive_while(|store| store.stretch.is_none())?;
        self.stretch.take().map(|words| words.to_vec()).ok_or_else(|| lost(part))
    }

    /// Asks for a part for which there is room.
    fn ask(&mut self, index: usize, part: Part) -> Result<()> {
        self.worker.read(index, self.parts.offset(part), self.parts.words(part.kind))?;
        self.coming += self.parts.bytes(part.kind);
        self.slots[index] = Slot::Coming;
        Ok(())
    }

    /// Evicts parts, the one of the farthest use first, until so many bytes more can be asked for; only those of a rank above
    /// `least`, where one is given, and then tells whether that was enough.
    fn make_room(&mut self, bytes: u64, least: Option<u64>) -> Result<bool> {
        while self.resident + self.coming + bytes > self.budget {
            let parts = &self.parts;
            let ranked = self.slots.iter().enumerate().filter_map(|(index, slot)| match slot {
                Slot::Memory { .. } => Some((self.forecast.rank(index, parts.part(index)), index)),
                _ => None,
            });
            match ranked.max().filter(|&(rank, _)| least.is_none_or(|least| rank > least)) {
                Some((_, index)) => self.evict(index)?,
                None if least.is_some() => return Ok(false),
                None if self.coming > 0 => {
                    let coming = self.coming;
                    self.wait_while(|store| store.coming == coming)?;
                }
                None => return Err(too_small(self.budget, self.resident + bytes)),
            }
        }
        Ok(true)
    }

    fn evict(&mut self, index: usize) -> Result<()> {
        let slot = std::mem::replace(&mut self.slots[index], Slot::File);
        let Slot::Memory { words, dirty } = slot else { return Err(lost(self.parts.part(index))) };
        let bytes = bytes_of(words.len());
        if dirty {
            self.resident -= bytes;
            self.leaving += bytes;
            self.counts.bytes_written += bytes;
            return self.worker.write(self.parts.offset(self.parts.part(index)), words);
        }
        self.discard(words);
        Ok(())
    }

    /// Takes in what the thread has done.
    fn collect(&mut self) -> Result<()> {
        while let Some(done) = self.worker.poll()? {
            self.take_in(done);
        }
        Ok(())
    }

    fn wait_while(&mut self, waiting: impl Fn(&Self) -> bool) -> Result<()> {
        if !waiting(self) {
            return Ok(());
        }
        let _span = self.device.span("stall");
        let start = Instant::now();
        self.receive_while(waiting)?;
        self.counts.stalls += 1;
        self.counts.stall_seconds += start.elapsed().as_secs_f64();
        Ok(())
    }

    fn receive_while(&mut self, waiting: impl Fn(&Self) -> bool) -> Result<()> {
        while waiting(self) {
            let done = self.worker.wait()?;
            self.take_in(done);
        }
        Ok(())
    }

    fn take_in(&mut self, done: Done) {
        match done {
            Done::Written(bytes) => self.leaving -= bytes,
            Done::Read(tag, words) => {
                let bytes = bytes_of(words.len());
                self.coming -= bytes;
                self.counts.bytes_read += bytes;
                if tag == STRETCH {
                    // From here on it belongs to whoever asked.
                    self.meter.sub(bytes);
                    self.stretch = Some(words);
                } else {
                    self.resident += bytes;
                    self.slots[tag] = Slot::Memory { words, dirty: false };
                }
            }
        }
    }
}

fn lost(part: Part) -> Error {
    Error::Rule { op: "Offload", rule: "a part is in one place", values: format!("{part:?}") }
}

fn too_small(budget: u64, need: u64) -> Error {
    let values = format!("budget = {budget}, in use at once = {need}");
    Error::Rule { op: "Offload", rule: "what is in use at once fits the budget", values }
}
