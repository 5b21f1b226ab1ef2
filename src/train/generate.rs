//! Text from a model, one token at a time.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

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

/// Extends `ids` by `count` tokens, calling `each` with every new one.
///
/// The model sees the last `seq` tokens. Errors if `ids` is empty, and with the model's own errors.
pub fn generate<T: Elem>(
    model: &mut Model<T>,
    ids: &mut Vec<u32>,
    count: usize,
    router_temperature: f32,
    sampling: Sampling,
    mut each: impl FnMut(u32),
) -> Result<()> {
    ensure!("generate", !ids.is_empty(), len = ids.len());
    let mut rng = ChaCha8Rng::seed_from_u64(sampling.seed);
    let seq = model.config().seq;
    for _ in 0..count {
        let context = &ids[ids.len().saturating_sub(seq)..];
        let logits = model.next_logits(context, router_temperature)?;
        let uniform = (rng.next_u64() >> 11) as f64 * (-53f64).exp2();
        let next = choose(&logits, sampling, uniform).ok_or_else(|| Error::Rule {
            op: "generate",
            rule: "logits are finite",
            values: format!("context = {} tokens", context.len()),
        })?;
        ids.push(next);
        each(next);
    }
    Ok(())
}

/// The token whose share of the distribution holds `uniform`, in 0..1; `None` without a finite logit.
fn choose(logits: &[f32], sampling: Sampling, uniform: f64) -> Option<u32> {
    let mut order: Vec<u32> = (0..logits.len() as u32).filter(|&i| logits[i as usize].is_finite()).collect();
    // Ties go to the lower id, as in the router.
    order.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]).then(a.cmp(&b)));
    let best = *order.first()?;
    if sampling.temperature <= 0.0 {
        return Some(best);
    }
    if sampling.topk > 0 {
        order.truncate(sampling.topk);
    }
    let scale = 1.0 / f64::from(sampling.temperature);
    let weight = |&i: &u32| (scale * f64::from(logits[i as usize] - logits[best as usize])).exp();
    let mut left = uniform * order.iter().map(weight).sum::<f64>();
    let chosen = order.iter().find(|i| {
        left -= weight(i);
        left < 0.0
    });
    chosen.or(order.last()).copied()
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
        assert_eq!([0.0, 0.74, 0.76, 0.999].map(|u| with(1.0, 0, u)), [2, 2, 0, 0].map(Some));
        assert_eq!(with(1.0, 1, 0.999), Some(2));
        assert_eq!(choose(&[f32::NAN], Sampling { temperature: 1.0, topk: 0, seed: 0 }, 0.5), None);
    }
}
