//! From tokens to what a model reads: training batches and evaluation windows.

use std::path::Path;

use super::grammar::{Grammar, Split};
use super::tokens::TokenFile;
use crate::error::{Error, Result, ensure};

/// Where the tokens come from.
#[derive(Clone, Debug)]
pub enum Corpus {
    /// A file of ids.
    File(TokenFile),
    /// The built-in grammar, which never ends.
    Generated(Grammar),
}

impl Corpus {
    /// Bound of the ids: each is below it.
    pub fn vocab(&self) -> usize {
        match self {
            Corpus::File(file) => file.vocab(),
            Corpus::Generated(grammar) => grammar.vocab(),
        }
    }

    /// The file of ids, if there is one.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Corpus::File(file) => Some(file.path()),
            Corpus::Generated(_) => None,
        }
    }
}

/// Size of one optimiser step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchShape {
    /// Sequences of one forward pass.
    pub batch: usize,
    /// Predicted tokens of one sequence.
    pub seq: usize,
    /// Forward passes whose gradients are added before one update.
    pub accumulate: usize,
}

/// Training batches.
///
/// A file of `n` tokens has `(n - 1) / seq` windows of `seq + 1` tokens, each starting with the last token of
/// the one before; every epoch visits all of them once, in an order of its own. The built-in grammar gives
/// every window fresh text. There is no state to save: a batch is a function of the seed and its step, so a
/// run that resumes at a step sees exactly what it would have seen.
#[derive(Clone, Debug)]
pub struct Batches {
    corpus: Corpus,
    shape: BatchShape,
    seed: u64,
}

impl Batches {
    /// Batches of `shape` from `corpus`, shuffled by `seed`.
    ///
    /// # Errors
    /// [`Error::Config`] when a size is zero, [`Error::Data`] when the corpus is shorter than one batch.
    pub fn new(corpus: Corpus, shape: BatchShape, seed: u64) -> Result<Self> {
        let BatchShape { batch, seq, accumulate } = shape;
        for (option, value) in [("--batch", batch), ("--seq", seq), ("--accumulate", accumulate)] {
            if value == 0 {
                return Err(Error::config(option, value, "must be at least 1"));
            }
        }
        if let Corpus::File(file) = &corpus {
            let (tokens, needed) = (file.len(), batch.saturating_mul(seq).saturating_add(1));
            if tokens < needed {
                let why = format!(
                    "the corpus has {tokens} tokens, fewer than the {needed} of one {batch} x {seq} batch"
                );
                return Err(Error::data(file.path(), why));
            }
        }
        Ok(Batches { corpus, shape, seed })
    }

    /// The corpus.
    pub fn corpus(&self) -> &Corpus {
        &self.corpus
    }

    /// The shape.
    pub fn shape(&self) -> BatchShape {
        self.shape
    }

    /// Predicted tokens of one step: `accumulate * batch * seq`.
    pub fn tokens_per_step(&self) -> u64 {
        let BatchShape { batch, seq, accumulate } = self.shape;
        accumulate as u64 * batch as u64 * seq as u64
    }

    /// How many times the steps before `step` have been through the corpus; 0 for the grammar, which never
    /// repeats.
    pub fn epochs(&self, step: u64) -> f64 {
        let read = step as f64 * (self.shape.accumulate * self.shape.batch) as f64;
        match &self.corpus {
            Corpus::File(file) => read / epoch_windows(file, self.shape.seq) as f64,
            Corpus::Generated(_) => 0.0,
        }
    }

    /// Writes part `micro` (below `accumulate`) of step `step` (from 0): `out` is `[batch, seq + 1]`, row by
    /// row. The inputs of a row are its first `seq` tokens, the targets its last `seq`.
    ///
    /// # Errors
    /// [`Error::Rule`] when `micro` or the length of `out` does not fit the shape.
    pub fn fill(&self, step: u64, micro: usize, out: &mut [u32]) -> Result<()> {
        let BatchShape { batch, seq, accumulate } = self.shape;
        ensure!("Batches::fill", micro < accumulate, micro = micro, accumulate = accumulate);
        let expected = batch * (seq + 1);
        ensure!("Batches::fill", out.len() == expected, len = out.len(), expected = expected);
        let first = (step * accumulate as u64 + micro as u64) * batch as u64;
        for (row, out) in out.chunks_exact_mut(seq + 1).enumerate() {
            let index = first + row as u64;
            match &self.corpus {
                Corpus::File(file) => {
                    let windows = epoch_windows(file, seq);
                    let window = shuffled(self.seed, index / windows, windows, index % windows);
                    file.copy_to(window as usize * seq, out)?;
                }
                Corpus::Generated(grammar) => grammar.fill(Split::Train, index, out),
            }
        }
        Ok(())
    }
}

/// Windows of `seq` predicted tokens in `file`, what is left over at its end left out.
fn epoch_windows(file: &TokenFile, seq: usize) -> u64 {
    ((file.len() - 1) / seq) as u64
}

/// Consecutive windows over a corpus that predict every token but the first exactly once.
///
/// Window `i` holds the tokens `i * seq ..= i * seq + seq`: it starts with the last token of the window
/// before, as context. The last one may be shorter. The total negative log-likelihood is the sum over all
/// windows.
#[derive(Clone, Debug)]
pub struct EvalWindows {
    corpus: Corpus,
    seq: usize,
    /// Predicted tokens of all windows together.
    predicted: u64,
}

impl EvalWindows {
    /// All of `file`, `seq` predicted tokens at a time.
    ///
    /// # Errors
    /// [`Error::Config`] when `seq` is zero, [`Error::Data`] when the file has no token to predict.
    pub fn of_file(file: TokenFile, seq: usize) -> Result<Self> {
        if file.len() < 2 {
            let why = format!(
                "the evaluation text has {} tokens, fewer than the 2 that a prediction takes",
                file.len()
            );
            return Err(Error::data(file.path(), why));
        }
        let predicted = file.len() as u64 - 1;
        Self::new(Corpus::File(file), seq, predicted)
    }

    /// `predicted` tokens of the grammar's evaluation text, every window a text of its own.
    ///
    /// # Errors
    /// [`Error::Config`] when `seq` is zero.
    pub fn of_grammar(grammar: Grammar, seq: usize, predicted: u64) -> Result<Self> {
        Self::new(Corpus::Generated(grammar), seq, predicted)
    }

    fn new(corpus: Corpus, seq: usize, predicted: u64) -> Result<Self> {
        if seq == 0 {
            return Err(Error::config("--seq", seq, "must be at least 1"));
        }
        Ok(EvalWindows { corpus, seq, predicted })
    }

    /// Number of windows.
    pub fn len(&self) -> u64 {
        self.predicted.div_ceil(self.seq as u64)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.predicted == 0
    }

    /// Predicted tokens of all windows together.
    pub fn predicted(&self) -> u64 {
        self.predicted
    }

    /// Words of the original text, line ends included; `None` for the grammar, which has none.
    pub fn words(&self) -> Option<u64> {
        match &self.corpus {
            Corpus::File(file) => Some(file.words()),
            Corpus::Generated(_) => None,
        }
    }

    /// Writes window `index` to `out`: its inputs and its last target, `seq + 1` tokens or, in the last
    /// window, fewer.
    ///
    /// # Errors
    /// [`Error::Rule`] when there is no such window.
    pub fn read(&self, index: u64, out: &mut Vec<u32>) -> Result<()> {
        ensure!("EvalWindows::read", index < self.len(), index = index, len = self.len());
        let start = index * self.seq as u64;
        let predicted = (self.predicted - start).min(self.seq as u64) as usize;
        out.resize(predicted + 1, 0);
        match &self.corpus {
            Corpus::File(file) => file.copy_to(start as usize, out)?,
            Corpus::Generated(grammar) => grammar.fill(Split::Eval, index, out),
        }
        Ok(())
    }
}

/// Place `index` of a permutation of `0..n` that belongs to `(seed, epoch)`, without the memory of a table.
///
/// A four-round Feistel network permutes the smallest power of four that holds `n`; what falls outside `0..n`
/// is permuted again until it falls inside (cycle walking), which keeps the map one to one. Fewer than four
/// rounds of that are expected.
fn shuffled(seed: u64, epoch: u64, n: u64, index: u64) -> u64 {
    let half_bits = (64 - (n - 1).leading_zeros()).div_ceil(2);
    let mask = (1u64 << half_bits) - 1;
    let mut x = index;
    loop {
        let (mut left, mut right) = (x >> half_bits, x & mask);
        for round in 0..4 {
            let key = mix(mix(mix(seed, epoch), round), right);
            (left, right) = (right, left ^ (key & mask));
        }
        x = left << half_bits | right;
        if x < n {
            return x;
        }
    }
}

/// The finaliser of SplitMix64 over a running hash.
fn mix(hash: u64, value: u64) -> u64 {
    let mut x = hash.rotate_left(32) ^ value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shuffling_is_a_permutation_for_every_size_and_differs_by_seed_and_epoch() {
        for n in (1..70).chain([255, 256, 257, 1000]) {
            let mut seen: Vec<u64> = (0..n).map(|i| shuffled(3, 1, n, i)).collect();
            seen.sort_unstable();
            assert!(seen.into_iter().eq(0..n), "{n} windows");
        }
        let order = |seed, epoch| (0..1000).map(|i| shuffled(seed, epoch, 1000, i)).collect::<Vec<_>>();
        let orders = [order(0, 0), order(0, 1), order(1, 0), (0..1000).collect()];
        for (i, a) in orders.iter().enumerate() {
            for b in &orders[..i] {
                let same = a.iter().zip(b).filter(|(a, b)| a == b).count();
                // Two random orders of 1,000 agree in one place on average.
                assert!(same < 10, "{same} places agree");
            }
        }
    }

    #[test]
    fn shuffling_leaves_no_trace_of_the_order() {
        // Mean distance between neighbours: a third of the range for a random order.
        let n = 10_000;
        let distances = (1..n).map(|i| shuffled(9, 4, n, i).abs_diff(shuffled(9, 4, n, i - 1)));
        let mean = distances.sum::<u64>() as f64 / (n - 1) as f64 / n as f64;
        assert!((mean - 1.0 / 3.0).abs() < 0.01, "{mean}");
    }
}
