//! The store under any order of use, and what happens when the file tier fails.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::Mutex;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::part::{Kind, Part, Parts};
use super::store::Store;
use super::worker::Medium;
use super::{Offload, least_budget, parts};
use crate::device::Device;
use crate::error::Result;
use crate::train::checkpoint::{DataKind, Description, Position, RunFolder};
use crate::train::config::{FfnKind, ModelConfig, TrainConfig};
use crate::train::preset::Preset;
use crate::train::trainer::Trainer;

/// A disk in memory that takes its time, and has room for so many bytes of writing.
struct Disk {
    bytes: Vec<u8>,
    room: usize,
    slow: bool,
}

impl Disk {
    fn new(parts: &Parts) -> Self {
        Disk { bytes: vec![0; parts.total_bytes() as usize], room: usize::MAX, slow: false }
    }

    fn wait(&self) {
        if self.slow {
            std::thread::sleep(std::time::Duration::from_micros(200));
        }
    }
}

impl Medium for Disk {
    fn read_at(&mut self, at: u64, to: &mut [u8]) -> io::Result<()> {
        self.wait();
        let from = self.bytes.get(at as usize..at as usize + to.len());
        to.copy_from_slice(from.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&mut self, at: u64, from: &[u8]) -> io::Result<()> {
        self.wait();
        self.room = self.room.checked_sub(from.len()).ok_or(io::ErrorKind::StorageFull)?;
        self.bytes[at as usize..at as usize + from.len()].copy_from_slice(from);
        Ok(())
    }
}

fn model() -> ModelConfig {
    let tiny = Preset::Tiny.model();
    ModelConfig { hidden: 8, inner: 6, layers: 3, heads: 1, vocab: 19, seq: 5, clusters: 4, rank: 2, ..tiny }
}

fn schedule() -> TrainConfig {
    TrainConfig { batch: 2, cluster_every: 0, ..Preset::Tiny.train() }
}

fn store(budget: u64, disk: impl FnOnce(&Parts) -> Disk) -> Store {
    let parts = parts(&model(), &schedule());
    let disk = disk(&parts);
    Store::new(parts, budget, disk, PathBuf::from("scratch/parts"), &Device::cpu()).unwrap()
}

#[test]
fn every_word_of_a_part_belongs_to_one_section() {
    for masters in [false, true] {
        let parts = Parts::new(&model(), crate::elem::DType::Bf16, masters);
        let mut end = 0;
        for index in 0..parts.count() {
            let part = parts.part(index);
            assert_eq!((parts.index(part), parts.offset(part)), (index, end));
            end += parts.bytes(part.kind);
        }
        assert_eq!(end, parts.total_bytes());
        for kind in [Kind::Weights, Kind::State] {
            let sections = (0..4).flat_map(|t| match kind {
                Kind::Weights => vec![parts.stored(t)],
                Kind::State => parts.state(t).to_vec(),
            });
            let end = sections.fold(0, |end, section| {
                assert_eq!(section.start, end);
                section.end
            });
            assert_eq!(end, parts.words(kind));
        }
    }
}

#[test]
fn parts_keep_their_words_and_the_budget_holds_in_any_order() {
    let budget = least_budget(&model(), &schedule());
    for (seed, slow) in [(1, false), (2, true)] {
        let mut store = store(budget, |parts| Disk { slow, ..Disk::new(parts) });
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut want: HashMap<usize, Vec<u32>> = HashMap::new();
        let count = store.parts.count();
        for round in 0..600 {
            let part = store.parts.part(rng.random_range(0..count));
            let index = store.parts.index(part);
            let words = store.parts.words(part.kind);
            let known = want.entry(index).or_insert_with(|| vec![0; words]).clone();
            match rng.random_range(0..6) {
                0 => {
                    let some: Vec<Part> =
                        (0..4).map(|_| store.parts.part(rng.random_range(0..count))).collect();
                    store.prefetch(&some).unwrap();
                }
                1 => assert_eq!(store.stretch(part, 3..words - 2).unwrap(), known[3..words - 2]),
                2 => {
                    // As for a pass over a layer.
                    let bytes = 4 * store.parts.bytes(Kind::Weights);
                    store.reserve(bytes).unwrap();
                    let taken = store.take(part).unwrap();
                    assert!(*taken == *known, "round {round}");
                    store.give(part, taken, false);
                    store.release(bytes);
                }
                3 => {
                    let taken = store.take(part).unwrap();
                    store.discard(taken);
                    let mut renewed = store.renew(part).unwrap();
                    renewed.fill(round);
                    store.give(part, renewed, true);
                    want.insert(index, vec![round; words]);
                }
                _ => {
                    store.need(&[part]).unwrap();
                    let mut taken = store.take(part).unwrap();
                    assert!(*taken == *known, "round {round}");
                    let changed = rng.random_bool(0.5);
                    if changed {
                        taken[5] = round;
                        want.get_mut(&index).unwrap()[5] = round;
                    }
                    store.give(part, taken, changed);
                }
            }
        }
        let counts = store.take_counts();
        assert!(counts.peak_bytes <= budget && counts.peak_bytes > budget / 2, "{counts:?}");
        assert!(counts.hits > 0 && counts.misses > 0 && counts.bytes_written > 0, "{counts:?}");
    }
}

#[test]
fn a_file_cut_short_is_an_error() {
    let mut store = store(1 << 20, |_| Disk { bytes: vec![0; 10], room: usize::MAX, slow: false });
    let error = store.take(Part { layer: 0, cluster: 0, kind: Kind::State }).unwrap_err().to_string();
    assert!(error.starts_with("cannot read scratch/parts: "), "{error}");
}

/// Moves the clusters of a trainer to a disk with room for so many bytes of writing.
fn offload(trainer: &mut Trainer<f32>, room: usize) -> Result<()> {
    let (config, train) = (model(), schedule());
    let store = store(least_budget(&config, &train), |parts| Disk { room, ..Disk::new(parts) });
    let step = trainer.step_count();
    let mut offload = Offload::with(store, None, &config, &train, &Device::cpu(), step)?;
    for layer in 0..config.layers {
        offload.take_over(layer, &mut trainer.model_mut().ffn_mut(layer)[1..])?;
    }
    trainer.model_mut().offload = Some(Mutex::new(offload));
    Ok(())
}

fn step(trainer: &mut Trainer<f32>) -> Result<f32> {
    let at = trainer.step_count() as u32;
    let fill = |_, ids: &mut [u32]| {
        ids.iter_mut().zip(at..).for_each(|(id, n)| *id = (n * n + 3 * n) % 19);
        Ok(())
    };
    trainer.step(fill).map(|report| report.loss)
}

#[test]
fn a_disk_that_fills_up_is_one_sentence_and_costs_no_checkpoint() {
    assert_eq!(model().ffn, FfnKind::Clustered);
    let (dir, train) = (tempfile::tempdir().unwrap(), schedule());
    let run = RunFolder::create(dir.path()).unwrap();
    let description = Description::new(model(), train.clone(), DataKind::Grammar { seed: 0 });
    let mut trainer = Trainer::<f32>::new(&model(), &train, &Device::cpu()).unwrap();
    offload(&mut trainer, 200_000).unwrap();
    let save = |trainer: &Trainer<f32>| {
        let step = trainer.step_count();
        run.save(trainer, &description, None, Position { step, tokens: step }, 1)
    };
    step(&mut trainer).unwrap();
    step(&mut trainer).unwrap();
    let saved = save(&trainer).unwrap();
    let (mut losses, error) = (
        Vec::new(),
        loop {
            match step(&mut trainer) {
                Ok(_) if trainer.step_count() < 200 => {}
                Ok(_) => panic!("the disk had room for everything"),
                Err(error) => break error.to_string(),
            }
        },
    );
    assert_eq!(error, "cannot write scratch/parts: no storage space");
    // What it tries next fails as well, and does not take the last checkpoint's place.
    assert!(save(&trainer).is_err() || step(&mut trainer).is_err());
    drop(trainer);
    for again in 0..2 {
        let mut resumed = Trainer::<f32>::new(&model(), &train, &Device::cpu()).unwrap();
        if again == 1 {
            offload(&mut resumed, usize::MAX).unwrap();
        }
        RunFolder::open_checkpoint(&saved).unwrap().load_trainer(&mut resumed).unwrap();
        losses.push((0..3).map(|_| step(&mut resumed).unwrap()).collect::<Vec<f32>>());
    }
    assert_eq!(losses[0], losses[1]);
}
