//! Text from a model, one token at a time.

use std::cmp::Ordering;
use std::time::Instant;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::cache::Cache;
use super::model::Model;
use crate::elem::Elem;
use crate::error::{Error, Result, ensure};

/// How the next token is chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// Divides the logits; 0 takes the most likely token.
    pub temperature: f32,
    /// Candidates: the most likely `topk`; 0 for all.
    pub topk: usize,
    /// Seed of the draws.
    pub seed: u64,
}

/// How far texts are continued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Length {
    /// Most tokens to add to each.
    pub tokens: usize,
    /// The token that ends a text; it is not added.
    pub end: Option<u32>,
}

/// What a continuation took.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Generated {
    /// Tokens added to all texts.
    pub tokens: usize,
    /// Tokens read before the first was added to each.
    pub prompt_tokens: usize,
    /// Seconds of reading them.
    pub prompt_seconds: f64,
    /// Tokens drawn after the first of each text.
    pub later_tokens: usize,
    /// Seconds of drawing them.
    pub later_seconds: f64,
    /// Bytes of keys and values.
    pub cache_bytes: u64,
}

impl Generated {
    /// Milliseconds for a token, reading of the prompts left out; of a batch, the time of a step over its texts. `None` if no
    /// text got a second token.
    pub fn ms_per_token(&self) -> Option<f64> {
        (self.later_tokens > 0).then(|| 1e3 * self.later_seconds / self.later_tokens as f64)
    }
}

/// A text that still grows.
struct Growing {
    /// Its number, of texts and in the cache.
    at: usize,
    rng: ChaCha8Rng,
    added: usize,
}

/// Extends each of `texts`, of any lengths, in one batch with a key/value cache; a text that has ended costs nothing more.
///
/// A text depends on its start, the seed and, if it starts as others do, its number among those: draws are its own, and on the
/// CPU logits have the same bits whatever else is in the batch.
///
/// The model sees at most its `seq` tokens of a text, the last of a longer start. When a text has filled these, it goes on from
/// its last `seq / 2` tokens, read anew: the keys kept are bound to their positions. So a token sees `seq / 2` to `seq` tokens
/// before it, and the reading costs what `seq / 2` rows cost once in as many tokens.
///
/// `router_temperature` is the router's; use that of the last training step. Errors if a text is empty, and with the model's own
/// errors; texts hold then what was added so far.
pub fn generate<T: Elem>(
    model: &mut Model<T>,
    texts: &mut [Vec<u32>],
    length: Length,
    router_temperature: f32,
    sampling: Sampling,
) -> Result<Generated> {
    let empty = texts.iter().position(Vec::is_empty);
    ensure!("generate", empty.is_none(), empty_text = empty);
    let (seq, longest) = (model.config().seq, texts.iter().map(Vec::len).max().unwrap_or(0));
    let mut done = Generated::default();
    if texts.is_empty() || length.tokens == 0 {
        return Ok(done);
    }
    let mut cache = model.cache(texts.len(), longest.saturating_add(length.tokens).min(seq))?;
    done.cache_bytes = cache.bytes();
    let mut growing: Vec<_> =
        streams(texts, sampling.seed).enumerate().map(|(at, rng)| Growing { at, rng, added: 0 }).collect();

    let start = Instant::now();
    let mut logits = Vec::new();
    for (at, text) in texts.iter().enumerate() {
        let last = &text[text.len().saturating_sub(seq)..];
        done.prompt_tokens += last.len();
        logits.extend(model.prefill(&mut cache, at, last, router_temperature)?);
    }
    done.tokens = extend(texts, &mut growing, &logits, length, sampling)?;
    done.prompt_seconds = start.elapsed().as_secs_f64();

    let start = Instant::now();
    while !growing.is_empty() {
        done.later_tokens += growing.len();
        let logits = next_logits(model, &mut cache, texts, &growing, router_temperature)?;
        done.tokens += extend(texts, &mut growing, &logits, length, sampling)?;
    }
    done.later_seconds = start.elapsed().as_secs_f64();
    Ok(done)
}

/// Generators of the draws: equal starts draw from different streams of one seed, others from the same.
fn streams(texts: &[Vec<u32>], seed: u64) -> impl Iterator<Item = ChaCha8Rng> {
    texts.iter().enumerate().map(move |(at, text)| {
        let alike = texts[..at].iter().filter(|other| *other == text).count();
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(alike as u64);
        rng
    })
}

/// Logits of the next token of each text that grows, `[growing, vocab]`: by a step of the cache, or where its room is used up
/// by a new start from the last half of it.
fn next_logits<T: Elem>(
    model: &mut Model<T>,
    cache: &mut Cache<T>,
    texts: &[Vec<u32>],
    growing: &[Growing],
    temperature: f32,
) -> Result<Vec<f32>> {
    let (seq, vocab) = (model.config().seq, model.config().vocab);
    let full: Vec<bool> = growing.iter().map(|text| cache.tokens(text.at) == seq).collect();
    let last = |text: &Growing, count: usize| &texts[text.at][texts[text.at].len() - count..];
    let with_room = growing.iter().zip(&full).filter(|(_, full)| !**full);
    let tokens: Vec<_> = with_room.map(|(text, _)| (text.at, last(text, 1)[0])).collect();
    let stepped = model.step(cache, &tokens, temperature)?;
    let mut stepped = stepped.chunks_exact(vocab);
    let mut logits = Vec::with_capacity(growing.len() * vocab);
    for (text, full) in growing.iter().zip(full) {
        if full {
            logits.extend(model.prefill(cache, text.at, last(text, (seq / 2).max(1)), temperature)?);
        } else {
            logits.extend(stepped.next().into_iter().flatten());
        }
    }
    Ok(logits)
}

/// Draws a token for each text that grows, from its row of `logits`; returns how many were added, and keeps the texts that go
/// on.
fn extend(
    texts: &mut [Vec<u32>],
    growing: &mut Vec<Growing>,
    logits: &[f32],
    length: Length,
    sampling: Sampling,
) -> Result<usize> {
    let (mut added, vocab) = (0, logits.len() / growing.len().max(1));
    let mut left = Vec::with_capacity(growing.len());
    for (mut text, logits) in growing.drain(..).zip(logits.chunks_exact(vocab.max(1))) {
        let uniform = (text.rng.next_u64() >> 11) as f64 * (-53f64).exp2();
        let next = choose(logits, sampling, uniform).ok_or_else(|| Error::Rule {
            op: "generate",
            rule: "logits are finite",
            values: format!("text = {}, tokens = {}", text.at, texts[text.at].len()),
        })?;
        if length.end == Some(next) {
            continue;
        }
        texts[text.at].push(next);
        (added, text.added) = (added + 1, text.added + 1);
        if text.added < length.tokens {
            left.push(text);
        }
    }
    *growing = left;
    Ok(added)
}

/// The token whose share of the distribution holds `uniform`, in 0..1; `None` without a finite logit.
fn choose(logits: &[f32], sampling: Sampling, uniform: f64) -> Option<u32> {
    // Ties go to the lower id, as in the router.
    let order =
        |a: &u32, b: &u32| -> Ordering { logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b)) };
    let ids = (0..logits.len() as u32).filter(|&i| logits[i as usize].is_finite());
    if sampling.temperature <= 0.0 {
        return ids.min_by(order);
    }
    let mut ids: Vec<u32> = ids.collect();
    if sampling.topk > 0 && sampling.topk < ids.len() {
        ids.select_nth_unstable_by(sampling.topk - 1, order);
        ids.truncate(sampling.topk);
    }
    ids.sort_unstable_by(order);
    let best = *ids.first()?;
    let scale = 1.0 / f64::from(sampling.temperature);
    let weight = |&i: &u32| (scale * f64::from(logits[i as usize] - logits[best as usize])).exp();
    let mut left = uniform * ids.iter().map(weight).sum::<f64>();
    let chosen = ids.iter().find(|i| {
        left -= weight(i);
        left < 0.0
    });
    chosen.or(ids.last()).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_follow_the_distribution() {
        let logits = [0.0, f32::NAN, 3f32.ln(), f32::NEG_INFINITY];
        let with = |temperature, topk, u| choose(&logits, Sampling { temperature, topk, seed: 0 }, u);
        assert_eq!(with(0.0, 0, 0.99), Some(2));
        // Three quarters of the weight lie on id 2, the rest on id 0.
        for topk in [0, 2, 9] {
            assert_eq!([0.0, 0.74, 0.76, 0.999].map(|u| with(1.0, topk, u)), [2, 2, 0, 0].map(Some));
        }
        assert_eq!(with(1.0, 1, 0.999), Some(2));
        for temperature in [0.0, 1.0] {
            assert_eq!(choose(&[f32::NAN], Sampling { temperature, topk: 0, seed: 0 }, 0.5), None);
            let first = choose(&[0.5; 9], Sampling { temperature, topk: 1, seed: 0 }, 0.9);
            assert_eq!(first, Some(0), "ties go to the lower id");
        }
    }

    #[test]
    fn equal_starts_draw_from_streams_of_their_own() {
        let texts = [vec![1, 2], vec![1], vec![1, 2], vec![1, 2]];
        let mut draws: Vec<u64> = streams(&texts, 7).map(|mut rng| rng.next_u64()).collect();
        assert_eq!(draws[0], draws[1]);
        draws.sort_unstable();
        draws.dedup();
        assert_eq!(draws.len(), 3);
        assert!(streams(&texts[1..2], 8).all(|mut rng| !draws.contains(&rng.next_u64())));
    }
}
