//! Continuing texts with a key/value cache, against computing each token from its whole context.

mod common;

use common::{Rng, all_devices, assert_breaks, norm_wise, same_bits_on_any_threads};

use trimoe::moe::packed::Packed;
use trimoe::train::config::{FfnKind, ModelConfig};
use trimoe::train::generate::{Length, Sampling, generate};
use trimoe::train::model::Model;
use trimoe::train::preset::Preset;
use trimoe::{DType, Device, Elem, Int4Block, Int4Format, bf16};

const VOCAB: usize = 37;
const SEQ: usize = 12;
const TEMPERATURE: f32 = 0.9;
const GREEDY: Sampling = Sampling { temperature: 0.0, topk: 0, seed: 1 };
const DRAWN: Sampling = Sampling { temperature: 1.0, topk: 9, seed: 1 };

/// Ragged in every size.
fn config(ffn: FfnKind) -> ModelConfig {
    ModelConfig {
        ffn,
        vocab: VOCAB,
        hidden: 20,
        inner: 22,
        layers: 2,
        heads: 2,
        seq: SEQ,
        experts: 6,
        clusters: if ffn == FfnKind::Flat { 1 } else { 2 },
        topk: 2,
        rank: 3,
        ..Preset::Tiny.model()
    }
}

/// A model away from its special start (B = 0, gains 1, equal bases), for batches of one sequence.
fn model<T: Elem>(device: &Device, ffn: FfnKind) -> Model<T> {
    let mut model = Model::<T>::new(&config(ffn), device, 1, 5, false).unwrap();
    let mut rng = Rng::new(8);
    for param in model.params_mut() {
        let moved = |v: f32| v + (0.3 * rng.normal()) as f32;
        let values: Vec<f32> = param.values().unwrap().into_iter().map(moved).collect();
        param.set_values(&values).unwrap();
    }
    model
}

/// The clustered model with residuals in INT4.
fn packed<T: Elem>(device: &Device, block: Int4Block) -> Model<T> {
    let (plain, config) = (model::<T>(device, FfnKind::Clustered), config(FfnKind::Clustered));
    let format = Int4Format { symmetric: false, block };
    let mut model = Model::<T>::packed(&config, device, 1, format).unwrap();
    for l in 0..config.layers {
        let mut layer = Packed::<T>::new(device, &config.layer(), format).unwrap();
        let weights: Vec<_> = plain.ffn(l).iter().map(|p| p.weight.view()).collect();
        layer.quantise(device, &weights).unwrap();
        model.residuals_mut()[l] = layer.residuals;
    }
    for param in model.params_mut() {
        for piece in 0..param.pieces.len() {
            let name = &param.pieces[piece].name;
            let at =
                |p: &trimoe::train::param::Param<T>| p.pieces.iter().position(|other| other.name == *name);
            let from = plain.params().iter().find_map(|p| at(p).map(|i| p.get(i).unwrap())).unwrap();
            param.set(piece, &from).unwrap();
        }
    }
    model
}

/// Every kind of model, by name.
fn each<T: Elem>(device: &Device, mut work: impl FnMut(&str, Model<T>)) {
    for ffn in FfnKind::ALL {
        work(&format!("{ffn} {:?}", T::DTYPE), model(device, ffn));
    }
    for block in [Int4Block::Columns32, Int4Block::Matrix] {
        work(&format!("packed {block:?} {:?}", T::DTYPE), packed(device, block));
    }
}

fn text(seed: u64, len: usize) -> Vec<u32> {
    let mut rng = Rng::new(seed);
    (0..len).map(|_| rng.below(VOCAB) as u32).collect()
}

/// Logits after `context`, computed from all of it.
fn uncached<T: Elem>(model: &mut Model<T>, context: &[u32]) -> Vec<f32> {
    let mut cache = model.cache(1, context.len()).unwrap();
    model.prefill(&mut cache, 0, context, TEMPERATURE).unwrap()
}

fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&v| f64::from(v)).collect()
}

fn steps_agree<T: Elem>(device: &Device) {
    let limit = if T::DTYPE == DType::F32 { 2e-6 } else { 4e-2 };
    each::<T>(device, |name, mut model| {
        // The third sequence starts late, in the place of another.
        let texts = [text(1, SEQ), text(2, SEQ), text(3, SEQ)];
        let mut lens = [1, 5, 3];
        let mut cache = model.cache(3, SEQ).unwrap();
        model.prefill(&mut cache, 2, &texts[1][..4], TEMPERATURE).unwrap();
        for (s, &len) in lens.iter().enumerate() {
            let logits = model.prefill(&mut cache, s, &texts[s][..len], TEMPERATURE).unwrap();
            assert_eq!(
                logits,
                uncached(&mut model, &texts[s][..len]),
                "{name}: the same rows, the same bits"
            );
        }
        for round in 0..SEQ {
            // Not always all, and in turned order.
            let growing = (0..3).rev().filter(|&s| lens[s] < SEQ && (round % 3 != 1 || s != 1));
            let tokens: Vec<(usize, u32)> = growing.map(|s| (s, texts[s][lens[s]])).collect();
            let logits = model.step(&mut cache, &tokens, TEMPERATURE).unwrap();
            assert_eq!(logits.len(), tokens.len() * VOCAB);
            for (&(s, _), got) in tokens.iter().zip(logits.chunks_exact(VOCAB)) {
                lens[s] += 1;
                assert_eq!(cache.tokens(s), lens[s]);
                let want = uncached(&mut model, &texts[s][..lens[s]]);
                norm_wise(&format!("{name} {s} after {}", lens[s]), &wide(got), &wide(&want), limit);
            }
        }
        assert_eq!(lens, [SEQ; 3]);
    });
}

#[test]
fn steps_give_the_logits_of_the_whole_context() {
    all_devices().iter().for_each(steps_agree::<f32>);
    steps_agree::<bf16>(&Device::cpu());
}

/// The most likely token after the context of a text, computed from all of it: from its start until `seq` tokens are full, then
/// from the last half of them.
fn greedy<T: Elem>(model: &mut Model<T>, text: &mut Vec<u32>, tokens: usize) {
    let mut start = text.len().saturating_sub(SEQ);
    for _ in 0..tokens {
        if text.len() - start > SEQ {
            start = text.len() - SEQ / 2;
        }
        let logits = uncached(model, &text[start..]);
        let best = (0..VOCAB).fold(0, |best, i| if logits[i] > logits[best] { i } else { best });
        text.push(best as u32);
    }
}

fn texts() -> Vec<Vec<u32>> {
    // More than a step takes at once; as long as the context, and longer.
    [1, 3, 7, SEQ, SEQ + 9, 2, 5, 11, 4, 6].iter().zip(10..).map(|(&len, seed)| text(seed, len)).collect()
}

fn tokens_agree<T: Elem>() {
    each::<T>(&Device::cpu(), |name, mut model| {
        let mut got = texts();
        let length = Length { tokens: 17, end: None };
        let done = generate(&mut model, &mut got, length, TEMPERATURE, GREEDY).unwrap();
        let mut want = texts();
        want.iter_mut().for_each(|text| greedy(&mut model, text, length.tokens));
        assert_eq!(got, want, "{name}");
        assert_eq!((done.tokens, done.later_tokens), (17 * want.len(), 16 * want.len()));
        assert_eq!(done.prompt_tokens, texts().iter().map(|t| t.len().min(SEQ)).sum::<usize>());
        assert_eq!(done.cache_bytes, (want.len() * SEQ * 2 * 2 * 20 * T::DTYPE.size()) as u64);
    });
}

#[test]
fn the_most_likely_tokens_are_those_of_the_whole_context() {
    tokens_agree::<f32>();
    tokens_agree::<bf16>();
}

fn batches_change_nothing<T: Elem>() {
    each::<T>(&Device::cpu(), |name, mut model| {
        let length = Length { tokens: 15, end: Some(3) };
        for sampling in [GREEDY, DRAWN] {
            let mut together = texts();
            generate(&mut model, &mut together, length, TEMPERATURE, sampling).unwrap();
            for (mut alone, together) in texts().into_iter().zip(together) {
                generate(&mut model, std::slice::from_mut(&mut alone), length, TEMPERATURE, sampling)
                    .unwrap();
                assert_eq!(alone, together, "{name}");
            }
        }
    });
}

#[test]
fn a_text_is_the_same_alone_and_in_a_batch() {
    batches_change_nothing::<f32>();
    batches_change_nothing::<bf16>();
}

#[test]
fn logits_have_the_same_bits_alone_and_in_a_batch_on_any_threads() {
    same_bits_on_any_threads(|device| {
        let mut all = Vec::new();
        each::<f32>(device, |name, mut model| {
            let mut cache = model.cache(20, 4).unwrap();
            let starts: Vec<_> = (0..20).map(|s| text(s, 1 + s as usize % 3)).collect();
            for (s, start) in starts.iter().enumerate() {
                model.prefill(&mut cache, s, start, TEMPERATURE).unwrap();
            }
            let tokens: Vec<_> = (0..20).map(|s| (s, s as u32)).collect();
            let together = model.step(&mut cache, &tokens, TEMPERATURE).unwrap();
            for (&(s, id), together) in tokens.iter().zip(together.chunks_exact(VOCAB)) {
                let mut own = model.cache(1, 4).unwrap();
                model.prefill(&mut own, 0, &starts[s], TEMPERATURE).unwrap();
                assert_eq!(model.step(&mut own, &[(0, id)], TEMPERATURE).unwrap(), together, "{name}");
            }
            all.extend(together.into_iter().map(f32::to_bits));
        });
        all
    });
}

#[test]
fn equal_starts_go_different_ways_and_the_end_is_not_added() {
    let mut model = model::<f32>(&Device::cpu(), FfnKind::Clustered);
    let mut run = |texts: &mut [Vec<u32>], end| {
        generate(&mut model, texts, Length { tokens: 8, end }, TEMPERATURE, DRAWN).unwrap()
    };
    let mut alike = vec![text(1, 4); 3];
    run(&mut alike, None);
    assert!(alike[0] != alike[1] && alike[1] != alike[2] && alike[0] != alike[2]);
    let mut again = [text(1, 4)];
    run(&mut again, None);
    assert_eq!(again[0], alike[0]);
    // Ended by the third token that it drew, or by the first of these if that came before.
    let end = alike[0][6];
    let first = alike[0][4..].iter().position(|&id| id == end).unwrap();
    let mut ended = [text(1, 4), text(9, 2)];
    let done = run(&mut ended, Some(end));
    assert_eq!(ended[0], alike[0][..4 + first]);
    assert_eq!(done.tokens, ended[0].len() + ended[1].len() - 6);
    // Nothing to do.
    let mut none = [text(1, 4)];
    let length = Length { tokens: 0, end: None };
    assert_eq!(generate(&mut model, &mut none, length, 1.0, DRAWN).unwrap(), Default::default());
    assert_eq!(none, [text(1, 4)]);
    assert_eq!(generate(&mut model, &mut [], Length { tokens: 3, end: None }, 1.0, DRAWN).unwrap().tokens, 0);
}

#[test]
fn the_shortest_contexts_start_anew_for_each_token() {
    for seq in [1, 2, 3] {
        let config = ModelConfig { seq, ..config(FfnKind::Flat) };
        let mut model = Model::<f32>::new(&config, &Device::cpu(), 1, 5, false).unwrap();
        let mut texts = [vec![1], vec![2, 3, 4, 5]];
        let length = Length { tokens: 7, end: None };
        assert_eq!(generate(&mut model, &mut texts, length, 1.0, GREEDY).unwrap().tokens, 14);
    }
}

#[test]
fn every_rule_is_checked_and_an_error_adds_nothing() {
    let mut model = model::<f32>(&Device::cpu(), FfnKind::Clustered);
    let breaks = |result: trimoe::Result<Vec<f32>>, rule| assert_breaks(result.map(|_| ()), rule);
    assert_breaks(model.cache(0, 4).map(|_| ()), "sequences >= 1");
    assert_breaks(model.cache(1, 0).map(|_| ()), "capacity >= 1");
    assert_breaks(model.cache(1, SEQ + 1).map(|_| ()), "capacity <= seq");
    let mut cache = model.cache(2, 4).unwrap();
    assert_eq!((cache.sequences(), cache.capacity(), cache.bytes()), (2, 4, 2 * 2 * 4 * 40 * 4));
    breaks(model.prefill(&mut cache, 2, &[1], 1.0), "sequence < sequences");
    breaks(model.prefill(&mut cache, 0, &[], 1.0), "rows >= 1");
    breaks(model.prefill(&mut cache, 0, &[1; 5], 1.0), "rows <= capacity");
    breaks(model.prefill(&mut cache, 0, &[1, 99], 1.0), "vocab");
    assert_eq!(cache.tokens(0), 0);
    model.prefill(&mut cache, 0, &[1, 2, 3], 1.0).unwrap();
    breaks(model.step(&mut cache, &[(2, 1)], 1.0), "sequence < sequences");
    breaks(model.step(&mut cache, &[(0, 1), (1, 1), (0, 1)], 1.0), "len == before");
    breaks(model.step(&mut cache, &[(1, 1), (0, 99)], 1.0), "vocab");
    assert_eq!([cache.tokens(0), cache.tokens(1)], [3, 0]);
    assert!(model.step(&mut cache, &[], 1.0).unwrap().is_empty());
    // A sequence may start with a step too.
    model.step(&mut cache, &[(1, 1), (0, 1)], 1.0).unwrap();
    breaks(model.step(&mut cache, &[(0, 1)], 1.0), "len < capacity");
    assert_eq!([cache.tokens(0), cache.tokens(1), cache.tokens(7)], [4, 1, 0]);

    let other = ModelConfig { layers: 1, ..config(FfnKind::Dense) };
    let mut other = Model::<f32>::new(&other, &Device::cpu(), 1, 5, false).unwrap();
    breaks(other.step(&mut cache, &[(1, 1)], 1.0), "fits");
    breaks(other.prefill(&mut cache, 1, &[1], 1.0), "fits");
    let mut texts = [vec![1], vec![]];
    let result = generate(&mut model, &mut texts, Length { tokens: 3, end: None }, 1.0, GREEDY);
    assert_breaks(result.map(|_| ()), "empty.is_none()");
    for param in model.params_mut() {
        param.weight.host_mut().unwrap().fill(f32::NAN);
    }
    let result = generate(&mut model, &mut texts[..1], Length { tokens: 3, end: None }, 1.0, GREEDY);
    assert_breaks(result.map(|_| ()), "logits are finite");
}
