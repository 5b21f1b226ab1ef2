//! Continuing sequences a token at a time: keys and values are kept, so that a token costs a pass of its own row alone.
//!
//! Texts of different lengths lie in one [`Cache`]: [`Model::prefill`] reads one from its start, [`Model::step`] adds a token
//! to each of some of them. On the CPU both give a sequence the same bits whatever else is in the batch: prompts are read one
//! after another, as each has rows enough to fill the products, and steps take rows in groups of so few that products treat
//! each by itself.
//!
//! Rotated keys are bound to their positions, so a cache cannot drop its first tokens: a sequence that has reached the model's
//! `seq` goes on by a [`prefill`](Model::prefill) of its last tokens, see [`generate`](super::generate).

use std::ops::Range;

use super::forward::Context;
use super::layout::EMBEDDING;
use super::model::Model;
use crate::cpu::few::FEW;
use crate::elem::Elem;
use crate::error::{Result, ensure};
use crate::ops::{Copy, GroupedGemm};
use crate::plan::Segments;
use crate::tensor::Tensor;

/// Keys and values of sequences that a model continues.
#[derive(Debug)]
pub struct Cache<T> {
    /// Of each layer `[sequences, capacity, 2 hidden]`: rotated keys and values side by side, `heads * head_dim` each.
    layers: Vec<Tensor<T, 3>>,
    /// Tokens of each sequence.
    lens: Vec<usize>,
    /// Of the rows of a step, where the model computes: the sequence of each.
    sequence: Tensor<u32, 1>,
    /// Its position there.
    position: Tensor<u32, 1>,
}

impl<T: Elem> Cache<T> {
    /// Number of sequences.
    pub fn sequences(&self) -> usize {
        self.lens.len()
    }

    /// Tokens that a sequence has so far.
    pub fn tokens(&self, sequence: usize) -> usize {
        self.lens.get(sequence).copied().unwrap_or(0)
    }

    /// Tokens that a sequence has room for.
    pub fn capacity(&self) -> usize {
        self.layers.first().map_or(0, |layer| layer.shape()[1])
    }

    /// Bytes of keys and values: `2 layers sequences capacity hidden` elements.
    pub fn bytes(&self) -> u64 {
        self.layers.iter().map(Tensor::bytes).sum()
    }
}

impl<T: Elem> Model<T> {
    /// An empty cache of `sequences` sequences of up to `capacity` tokens, 1 to the model's `seq`. Errors if there is no memory
    /// for it.
    pub fn cache(&self, sequences: usize, capacity: usize) -> Result<Cache<T>> {
        let (seq, shape) = (self.config.seq, [sequences, capacity, 2 * self.config.hidden]);
        ensure!("Cache", sequences >= 1, sequences = sequences);
        ensure!("Cache", capacity >= 1 && capacity <= seq, capacity = capacity, seq = seq);
        let layers = (0..self.config.layers).map(|_| self.device.zeros(shape)).collect::<Result<_>>()?;
        let [sequence, position] = [self.device.zeros([FEW])?, self.device.zeros([FEW])?];
        Ok(Cache { layers, lens: vec![0; sequences], sequence, position })
    }

    /// Starts a sequence anew with `ids`, one or more and at most its capacity; returns the `[vocab]` logits of the id after
    /// them. Costs a forward of their rows.
    ///
    /// After an error the sequence is empty.
    pub fn prefill(
        &mut self,
        cache: &mut Cache<T>,
        sequence: usize,
        ids: &[u32],
        temperature: f32,
    ) -> Result<Vec<f32>> {
        self.check_cache(cache)?;
        let (sequences, capacity, rows) = (cache.sequences(), cache.capacity(), ids.len());
        ensure!("Cache", sequence < sequences, sequence = sequence, sequences = sequences);
        ensure!("Cache", rows >= 1 && rows <= capacity, ids = rows, capacity = capacity);
        cache.lens[sequence] = 0;
        self.embed(ids, 1)?;
        let hidden = self.config.hidden;
        for (l, kept) in cache.layers.iter_mut().enumerate() {
            self.block(l, rows, Context::Own(rows), temperature.into())?;
            // The block's buffers may be the next one's too.
            let x = self.acts.block(l).qkv.front([rows, 3 * hidden]).narrow(1, hidden..3 * hidden);
            let kept = kept.view_mut().narrow(0, sequence..sequence + 1).narrow(1, 0..rows);
            self.device.run(Copy { x, y: kept.into_matrix() })?;
        }
        self.final_norm(rows)?;
        let logits = self.logits(rows - 1..rows)?;
        cache.lens[sequence] = rows;
        Ok(logits)
    }

    /// Adds an id to each of some sequences, `(sequence, id)`, no sequence twice; returns the `[tokens, vocab]` logits of the
    /// ids after them, row-major. Costs a forward of a row each, and a pass over the sequences' keys and values.
    ///
    /// After an error no sequence is longer.
    pub fn step(
        &mut self,
        cache: &mut Cache<T>,
        tokens: &[(usize, u32)],
        temperature: f32,
    ) -> Result<Vec<f32>> {
        self.check_cache(cache)?;
        let (sequences, capacity) = (cache.sequences(), cache.capacity());
        let mut grown = cache.lens.clone();
        for &(sequence, _) in tokens {
            ensure!("Cache", sequence < sequences, sequence = sequence, sequences = sequences);
            let (len, before) = (grown[sequence], cache.lens[sequence]);
            ensure!("Cache", len == before, sequence = sequence, twice_in = tokens.len());
            ensure!("Cache", len < capacity, sequence = sequence, len = len, capacity = capacity);
            grown[sequence] += 1;
        }
        let mut logits = Vec::with_capacity(tokens.len() * self.config.vocab);
        for group in tokens.chunks(FEW.min(self.config.seq)) {
            logits.extend(self.step_few(cache, group, temperature)?);
        }
        cache.lens = grown;
        Ok(logits)
    }

    fn step_few(
        &mut self,
        cache: &mut Cache<T>,
        tokens: &[(usize, u32)],
        temperature: f32,
    ) -> Result<Vec<f32>> {
        let rows = tokens.len();
        let (sequence, ids): (Vec<u32>, Vec<u32>) = tokens.iter().map(|&(s, id)| (s as u32, id)).unzip();
        let position: Vec<u32> = tokens.iter().map(|&(s, _)| cache.lens[s] as u32).collect();
        cache.sequence.write(0, &sequence)?;
        cache.position.write(0, &position)?;
        self.embed(&ids, 1)?;
        for (l, kept) in cache.layers.iter_mut().enumerate() {
            let (sequence, position) = (cache.sequence.front([rows]), cache.position.front([rows]));
            let context = Context::Kept { kv: kept.view_mut(), sequence, position };
            self.block(l, rows, context, temperature.into())?;
        }
        self.final_norm(rows)?;
        self.logits(0..rows)
    }

    /// Logits of some rows, few, of the normed output.
    fn logits(&mut self, rows: Range<usize>) -> Result<Vec<f32>> {
        let (count, vocab) = (rows.len(), self.config.vocab);
        let lent = self.acts.ws.lend();
        let x = self.acts.normed.view().narrow(0, rows);
        let (w, segments) = (self.params[EMBEDDING].weight.view(), Segments::Whole(count));
        let y = lent.front_mut([count, vocab]);
        self.device.run(GroupedGemm { x, w, segments, y, accumulate: false })?;
        let mut logits = vec![T::zeroed(); count * vocab];
        lent.read(0, &mut logits)?;
        Ok(logits.into_iter().map(T::to_f32).collect())
    }

    fn check_cache(&self, cache: &Cache<T>) -> Result<()> {
        let (layers, hidden) = (self.config.layers, self.config.hidden);
        let kept: Vec<_> = cache.layers.iter().map(Tensor::shape).collect();
        let capacity = cache.capacity();
        let fits = kept.len() == layers && kept.iter().all(|shape| shape[2] == 2 * hidden);
        ensure!("Cache", fits && capacity <= self.config.seq, cache = kept, layers = layers, hidden = hidden);
        Ok(())
    }
}
