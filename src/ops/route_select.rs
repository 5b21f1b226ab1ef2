//! Scores and choices of one level of a router, on the CPU.

use super::routing::{RouteMode, Score};
use crate::cpu::math;

/// Added to what weights are divided by: scores that a bias makes a token choose may all be 0.
pub(super) const TINY: f32 = 1e-20;

/// Turns the logits of one level into `scores` and fills `chosen` with its best columns, best first.
///
/// Returns the log of the softmax's denominator (0 of a sigmoid); `None`, with all scores 0, if the logits give no
/// distribution. `mode` is that of the level: clusters are always chosen in one stage of softmax.
pub(super) fn choose(
    logits: &[f32],
    bias: Option<&[f32]>,
    mode: RouteMode,
    scores: &mut [f32],
    chosen: &mut [u32],
) -> Option<f32> {
    let lse = match mode.score() {
        Score::Softmax => softmax(logits, scores),
        Score::Sigmoid => sigmoid(logits, scores),
    };
    if lse.is_none() {
        scores.fill(0.0);
    }
    // Without a bias the logits decide: probabilities of different logits may round to the same.
    let by_score = lse.is_some() && (bias.is_some() || mode != RouteMode::TwoStage);
    let (values, bias) = if by_score { (&*scores, bias) } else { (logits, None) };
    let key = |i: usize| values[i] + bias.map_or(0.0, |b| b[i]);
    let (kept, size) = match mode {
        RouteMode::TwoStage => (1, logits.len()),
        RouteMode::Grouped { groups, top_groups, .. } => {
            let size = logits.len() / groups;
            (best_groups(groups, top_groups, |g| two_largest((g * size..(g + 1) * size).map(key))), size)
        }
    };
    for slot in 0..chosen.len() {
        let (before, rest) = chosen.split_at_mut(slot);
        let open = |&i: &usize| kept >> (i / size) & 1 == 1 && !before.contains(&(i as u32));
        rest[0] = best((0..logits.len()).filter(open), key) as u32;
    }
    lse
}

/// The groups with the largest scores, as bits.
fn best_groups(groups: usize, count: usize, score: impl Fn(usize) -> f32) -> u32 {
    (0..count).fold(0, |kept, _| kept | 1 << best((0..groups).filter(|g| kept >> g & 1 == 0), &score))
}

/// Sum of the two largest values, or the only one; NaN is never the largest.
fn two_largest(values: impl ExactSizeIterator<Item = f32>) -> f32 {
    let single = values.len() == 1;
    let (top, next) = values.fold((f32::NEG_INFINITY, f32::NEG_INFINITY), |(top, next), v| {
        if v > top { (v, top) } else { (top, if v > next { v } else { next }) }
    });
    if single { top } else { top + next }
}

/// The id with the largest key; NaN counts as -infinity, ties go to the lower id.
fn best(ids: impl Iterator<Item = usize>, key: impl Fn(usize) -> f32) -> usize {
    let mut best: Option<(usize, f32)> = None;
    for i in ids {
        let v = key(i);
        let v = if v.is_nan() { f32::NEG_INFINITY } else { v };
        if best.is_none_or(|(_, top)| v > top) {
            best = Some((i, v));
        }
    }
    best.map_or(0, |(i, _)| i)
}

/// The largest logit, if logits with it give a distribution: none is NaN, and it is finite.
fn top(logits: &[f32]) -> Option<f32> {
    let top = math::max(logits);
    (top.is_finite() && !logits.iter().any(|l| l.is_nan())).then_some(top)
}

fn softmax(logits: &[f32], p: &mut [f32]) -> Option<f32> {
    let top = top(logits)?;
    p.iter_mut().zip(logits).for_each(|(p, &l)| *p = math::exp(l - top));
    let sum: f32 = p.iter().sum();
    p.iter_mut().for_each(|p| *p /= sum);
    Some(top + sum.ln())
}

fn sigmoid(logits: &[f32], s: &mut [f32]) -> Option<f32> {
    top(logits)?;
    s.iter_mut().zip(logits).for_each(|(s, &l)| *s = math::sigmoid(l));
    (s.iter().sum::<f32>() > 0.0).then_some(0.0)
}
