//! Operations on rows, in a plan's order too, and what an optimiser does.

use trimoe::ops::*;
use trimoe::{Device, Elem};

use crate::common::cases::routed;
use crate::common::{Guarded, plan_on};
use crate::replay::{holds, normal};

/// Operations on rows.
pub fn rows_hold<T: Elem>(d: &Device, rows: usize, hidden: usize) {
    let (seq, vocab) = (rows.max(1), 7);
    let m = |seed| normal::<T, 2>(seed, [rows, hidden]);
    let ids = || Guarded::ids(&(0..rows as u32).map(|p| p * p % vocab as u32).collect::<Vec<_>>());
    let nan = || Guarded::<T, 2>::nan([rows, hidden]);
    let column = || Guarded::<f32, 1>::nan([rows]);
    let logits = || normal::<T, 2>(1, [rows, vocab]);
    let room = || Guarded::<f32, 1>::nan([RmsNormBackward::<T>::workspace_len(rows, hidden)]);
    holds!(d; x = m(1), y = nan(); Copy { x: x.view_on(d), y: y.view_mut_on(d) });
    holds!(d; x = m(1), y = m(2); Add { x: x.view_on(d), y: y.view_mut_on(d) });
    let heads = hidden / 4;
    holds!(d; x = m(1); Rope { x: x.view_mut_on(d), heads, seq, theta: 1e4, inverse: false });
    holds!(d; x = m(1), gain = normal::<T, 1>(2, [hidden]), y = nan(), inv_rms = column();
        RmsNorm { x: x.view_on(d), gain: gain.view_on(d), eps: 1e-5, y: y.view_mut_on(d),
            inv_rms: inv_rms.view_mut_on(d) });
    holds!(d; dy = m(1), x = m(2), gain = normal::<T, 1>(3, [hidden]), inv_rms = normal::<f32, 1>(4, [rows]),
        dx = m(5), dgain = normal::<f32, 1>(6, [hidden]), workspace = room();
        RmsNormBackward { dy: dy.view_on(d), x: x.view_on(d), gain: gain.view_on(d), inv_rms: inv_rms.view_on(d),
            dx: dx.view_mut_on(d), accumulate_dx: true, dgain: dgain.view_mut_on(d), accumulate: true,
            workspace: workspace.view_mut_on(d) });
    holds!(d; ids = ids(), table = normal::<T, 2>(1, [vocab, hidden]), y = nan();
        Embedding { ids: ids.view_on(d), table: table.view_on(d), scale: 0.3, y: y.view_mut_on(d) });
    holds!(d; ids = ids(), dy = m(1), dtable = normal::<f32, 2>(2, [vocab, hidden]);
        EmbeddingBackward { ids: ids.view_on(d), dy: dy.view_on(d), scale: 0.3, dtable: dtable.view_mut_on(d) });
    holds!(d; logits = logits(), targets = ids(), loss = column();
        NegLogLikelihood { logits: logits.view_on(d), targets: targets.view_on(d), loss: loss.view_mut_on(d) });
    holds!(d; logits = logits(), targets = ids(), loss = column();
        CrossEntropy { logits: logits.view_mut_on(d), targets: targets.view_on(d), scale: 0.3,
            loss: loss.view_mut_on(d) });
}

/// Operations on rows in a plan's order.
pub fn plans_hold<T: Elem>(d: &Device, hidden: usize) {
    for case in &routed(64)[..4] {
        let mut plan = case.plan();
        plan_on(&mut plan, d);
        let order = plan.by_expert();
        let (tokens, rows, fan) = (case.tokens, order.rows(), order.fan());
        let weight = || normal::<f32, 2>(9, [tokens, fan]);
        let dweight = || Guarded::<f32, 2>::nan([tokens, fan]);
        holds!(d; x = normal::<T, 2>(1, [tokens, hidden]), y = Guarded::<T, 2>::nan([rows, hidden]);
            Permute { x: x.view_on(d), order, y: y.view_mut_on(d) });
        holds!(d; x = normal::<T, 2>(1, [rows, hidden]), weight = weight(), y = normal::<T, 2>(2, [tokens, hidden]);
            Combine { x: x.view_on(d), order, weight: Some(weight.view_on(d)), y: y.view_mut_on(d),
                accumulate: true });
        holds!(d; dy = normal::<T, 2>(1, [tokens, hidden]), x = normal::<T, 2>(2, [rows, hidden]),
            weight = weight(), dx = Guarded::<T, 2>::nan([rows, hidden]), dweight = dweight();
            CombineBackward { dy: dy.view_on(d), x: x.view_on(d), order, weight: weight.view_on(d),
                dx: dx.view_mut_on(d), dweight: dweight.view_mut_on(d) });
        holds!(d; z = normal::<T, 2>(1, [rows, 2 * hidden]), weight = weight(),
            h = Guarded::<T, 2>::nan([rows, hidden]);
            SwiGlu { z: z.view_on(d), weights: Some(SlotWeights { weight: weight.view_on(d), order }),
                h: h.view_mut_on(d) });
        holds!(d; z = normal::<T, 2>(1, [rows, 2 * hidden]), dh = normal::<T, 2>(2, [rows, hidden]),
            weight = weight(), dweight = dweight();
            SwiGluBackward { z: z.view_mut_on(d), dh: dh.view_mut_on(d),
                weights: Some(SlotWeights { weight: weight.view_on(d), order }),
                dweight: Some(dweight.view_mut_on(d)) });
    }
}

/// What an optimiser step does, on tensors without shape.
pub fn steps_hold<T: Elem>(d: &Device, len: usize) {
    let v = |seed| normal::<f32, 1>(seed, [len]);
    holds!(d; a = v(1), b = v(2), norm = Guarded::<f32, 1>::nan([1]),
        workspace = Guarded::room(GlobalNorm::workspace_len([len, len]));
        GlobalNorm { grads: vec![a.view_on(d), b.view_on(d)], norm: norm.view_mut_on(d),
            workspace: workspace.view_mut_on(d) });
    holds!(d; weight = v(1), grad = v(2), m = v(3), v = Guarded::of(&vec![0.5; len], [len]),
        stored = Guarded::<T, 1>::nan([len]), norm = Guarded::<f32, 1>::of(&[3.0], [1]),
        rates = Guarded::<f32, 1>::of(&Rates::values(0.1, 3, [0.9, 0.99]).map(f64::from), [3]);
        AdamW { weight: weight.view_mut_on(d), grad: grad.view_on(d), m: m.view_mut_on(d), v: v.view_mut_on(d),
            stored: Some(stored.view_mut_on(d)), rates: Rates::At(rates.view_on(d)), beta1: 0.9, beta2: 0.99, eps: 1e-8, weight_decay: 0.1,
            norm: norm.view_on(d), max_norm: 1.0 });
}
