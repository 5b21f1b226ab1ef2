//! The per-slot part of clustered experts. Wide experts are cut to a strip; the formulas for requests are those of
//! kernels/expand.h.

use trimoe::ops::{Expand, ExpandBackward};
use trimoe::{Plan, Result, Tensor, bf16};

use super::Case;
use crate::lab::{Lab, Need, Row, Sectors, words};
use crate::shapes::Shape;

pub const CASES: &[Case] = &[expand, expand_backward];

/// Most inner columns of an expert.
const STRIP: usize = 512;

/// Operands of both directions.
struct Experts {
    plan: Plan,
    bp: Tensor<bf16, 2>,
    b: Tensor<bf16, 3>,
    a2: Tensor<bf16, 3>,
    weight: Tensor<f32, 2>,
    hq: Tensor<bf16, 2>,
    inner: usize,
}

impl Experts {
    fn new(lab: &Lab, s: &Shape) -> Result<Self> {
        let (inner, factors) = (s.inner.min(STRIP), s.experts / s.clusters * s.rank);
        Ok(Experts {
            plan: lab.plan(s)?,
            bp: lab.filled([s.tokens, 2 * (inner + factors)])?,
            b: lab.filled([s.experts, 2 * inner, s.rank])?,
            a2: lab.filled([s.experts, s.rank, inner])?,
            weight: lab.filled([s.tokens, s.topk])?,
            hq: lab.filled([s.tokens, inner + factors])?,
            inner,
        })
    }

    /// Sectors of the factors.
    fn factors(&self) -> u64 {
        self.b.sectors() + self.a2.sectors()
    }

    /// Sectors of the orders that rows and slots are found by.
    fn orders(&self, s: &Shape) -> u64 {
        words(s.tokens) + words(s.tokens * s.topk) + words(s.clusters + 1) + words(s.experts + 1)
    }

    /// Sectors of [gate | up | P], or of [hbar | Q], as far as a token's own experts are concerned: `wide` matrices of
    /// inner columns and as many of each slot's ranks.
    fn own(&self, s: &Shape, wide: usize) -> u64 {
        (s.tokens * (wide * self.inner / 16 + s.topk * (wide * s.rank * 2).div_ceil(32))) as u64
    }
}

/// What the kernels over rows count with, for blocks of so many rows.
struct Tiling {
    /// Fragments of 16 rows, with those that are not full.
    fragments: u64,
    /// Experts that occur in a slot of a fragment, over all slots and fragments.
    occurrences: u64,
    strips: u64,
    chunks: u64,
    /// Ranks of a chunk, as far as they exist.
    ranks: u64,
}

impl Tiling {
    fn new(s: &Shape, inner: usize, rows_of_block: usize) -> Self {
        let (experts, mut occurrences, mut fragments) = (s.experts_of_slots(), 0, 0);
        for cluster in 0..s.clusters {
            let tokens: Vec<usize> = (cluster..s.tokens).step_by(s.clusters).collect();
            for block in tokens.chunks(rows_of_block) {
                // Slots sorted by expert, rows by the experts of their first two slots.
                let mut rows: Vec<Vec<u32>> =
                    block.iter().map(|t| experts[t * s.topk..][..s.topk].to_vec()).collect();
                rows.iter_mut().for_each(|r| r.sort_unstable());
                rows.sort_by_key(|r| (r[0], r.get(1).copied()));
                for fragment in rows.chunks(16) {
                    fragments += 1;
                    for slot in 0..s.topk {
                        let mut there: Vec<u32> = fragment.iter().map(|r| r[slot]).collect();
                        there.sort_unstable();
                        there.dedup();
                        occurrences += there.len() as u64;
                    }
                }
            }
        }
        let (strips, chunks) = (inner.div_ceil(32) as u64, s.rank.div_ceil(16) as u64);
        Tiling { fragments, occurrences, strips, chunks, ranks: s.rank.min(16) as u64 }
    }

    /// By the variant that was launched.
    fn of(s: &Shape, inner: usize, kernels: &[&str]) -> Self {
        let tall = kernels.iter().any(|k| k.contains("_tall_"));
        Self::new(s, inner, if tall { 64 } else { 16 })
    }
}

/// Sectors of zeros in place of experts that tokens did not choose, `matrices` ranks an expert.
fn zeros(s: &Shape, matrices: usize) -> u64 {
    (s.tokens * (s.experts / s.clusters - s.topk) * (matrices * s.rank * 2).div_ceil(32)) as u64
}

fn expand(lab: &Lab, s: &Shape) -> Result<Row> {
    let mut e = Experts::new(lab, s)?;
    let inner = e.inner;
    let floor = e.own(s, 2) + e.factors() + e.weight.sectors() + e.hq.sectors() + e.orders(s);
    let need = |kernels: &[&str]| {
        let t = Tiling::of(s, inner, kernels);
        let slots = (s.tokens * s.topk) as u64;
        let requested = t.fragments * t.strips * 96
            + t.fragments * s.topk as u64 * t.chunks * (32 * t.strips + 16)
            + t.occurrences * t.strips * t.chunks * (64 + 2 * t.ranks)
            + zeros(s, 1)
            + 2 * slots;
        Need { floor, again: requested.saturating_sub(floor), ..Need::default() }
    };
    let (bp, b, a2, weight) = (e.bp.view(), e.b.view(), e.a2.view(), e.weight.view());
    lab.measure_tiled(s, need, Expand { bp, b, a2, plan: &e.plan, weight, hq: e.hq.view_mut() })
}

fn expand_backward(lab: &Lab, s: &Shape) -> Result<Row> {
    let mut e = Experts::new(lab, s)?;
    let inner = e.inner;
    let mut db = lab.zeros::<f32, 3>([s.experts, 2 * inner, s.rank])?;
    let mut da2 = lab.zeros::<f32, 3>([s.experts, s.rank, inner])?;
    let mut dweight = lab.zeros::<f32, 2>([s.tokens, s.topk])?;
    let room = ExpandBackward::<bf16>::workspace_len(s.tokens, s.experts, s.clusters, inner, s.rank);
    let mut workspace = lab.zeros::<f32, 1>([room])?;
    // Two kernels read all inputs: that of the factors' gradients, and that of the rest.
    let inputs = e.own(s, 2) + e.own(s, 1) + e.factors() + e.weight.sectors() + e.orders(s);
    let floor = 2 * inputs + e.bp.sectors() + db.sectors() + da2.sectors() + dweight.sectors();
    let need = |kernels: &[&str]| {
        let t = Tiling::of(s, inner, kernels);
        let slots = (s.tokens * s.topk) as u64;
        let rows = t.fragments * t.strips * 160
            + t.fragments * s.topk as u64 * t.chunks * (48 * t.strips + 32)
            + t.occurrences * t.strips * t.chunks * (128 + 2 * t.ranks)
            + zeros(s, 2)
            + 3 * slots;
        let sixteens: u64 = s.slots_of_experts().iter().map(|n| n.div_ceil(16) as u64).sum();
        let factors = sixteens * t.strips * t.chunks * (96 + t.chunks * (112 + 2 * t.ranks) + 24)
            + s.experts as u64 * t.strips * 24 * s.rank as u64;
        let fold = (s.experts * (3 * inner * s.rank).div_ceil(256) * 8 * 2) as u64;
        Need { floor, again: (rows + factors + fold).saturating_sub(floor), ..Need::default() }
    };
    let op = ExpandBackward {
        bp: e.bp.view_mut(),
        b: e.b.view(),
        a2: e.a2.view(),
        plan: &e.plan,
        weight: e.weight.view(),
        dhq: e.hq.view(),
        db: db.view_mut(),
        da2: da2.view_mut(),
        dweight: dweight.view_mut(),
        workspace: workspace.view_mut(),
        accumulate: false,
    };
    lab.measure_tiled(s, need, op)
}
