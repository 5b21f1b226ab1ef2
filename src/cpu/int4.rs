//! Codes of INT4 weights: ranges, scales, packing and unpacking; see [`crate::int4`] for the rules.

use std::ops::Range as Span;

use half::bf16;

use crate::elem::Elem;
use crate::int4::{Int4View, PANEL, PANEL_WORDS};
use crate::view::View;

/// Least and greatest value of a block, 0 included; `high` is infinite if any is not finite.
#[derive(Clone, Copy, Default)]
pub(crate) struct Range {
    low: f32,
    high: f32,
}

impl Range {
    #[inline(always)]
    pub(crate) fn add<T: Elem>(&mut self, values: &[T]) {
        for value in values {
            let v = value.to_f32();
            let finite = v.abs() <= f32::MAX;
            self.low = if finite && v < self.low { v } else { self.low };
            self.high = if !finite {
                f32::INFINITY
            } else if v > self.high {
                v
            } else {
                self.high
            };
        }
    }

    pub(crate) fn merge(self, other: Range) -> Range {
        Range { low: self.low.min(other.low), high: self.high.max(other.high) }
    }
}

/// Scale and zero-point of a block.
#[derive(Clone, Copy)]
pub(crate) struct Code {
    /// A bf16.
    scale: f32,
    inverse: f32,
    zero: i32,
}

impl Code {
    pub(crate) fn new(Range { low, high }: Range, symmetric: bool) -> Self {
        let exact =
            if symmetric { high.max(-low) * (1.0 / 7.0) } else { high * (1.0 / 15.0) - low * (1.0 / 15.0) };
        // Up to the next bf16, so that the range stays inside the codes; not below where it has an inverse.
        let up = f32::from_bits((exact.max(f32::MIN_POSITIVE).to_bits() + 0xffff) & 0xffff_0000);
        let finite = high < f32::INFINITY;
        let scale = if !finite {
            f32::NAN
        } else if exact > 0.0 {
            up
        } else {
            0.0
        };
        let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
        let zero = if symmetric {
            8
        } else if finite {
            (-low * inverse).round_ties_even() as i32
        } else {
            0
        };
        Code { scale, inverse, zero }
    }

    /// The code of a value, from 0 to 15.
    #[inline(always)]
    pub(crate) fn of(&self, v: f32) -> i32 {
        let steps = if self.inverse > 0.0 { v * self.inverse } else { 0.0 };
        (steps.round_ties_even() as i32 + self.zero).clamp(0, 15)
    }

    pub(crate) fn scale(&self) -> bf16 {
        bf16::from_f32(self.scale)
    }

    pub(crate) fn zero(&self) -> u8 {
        self.zero as u8
    }
}

/// What the 16 codes stand for in a product of `T`.
fn values<T: Elem>(scale: f32, zero: i32) -> [f32; 16] {
    let scale = T::from_f32(scale).to_f32();
    std::array::from_fn(|q| T::from_f32(scale * (q as i32 - zero) as f32).to_f32())
}

/// The codes of the blocks of `columns` columns of each of at most 32 rows: `[blocks, 32]`. Rows that are not there have
/// the code of zeros.
pub(crate) fn codes<T: Elem>(rows: View<'_, T, 2>, columns: usize, symmetric: bool) -> Vec<Code> {
    let mut codes = Vec::new();
    for begin in (0..rows.dim(1)).step_by(columns) {
        let span = begin..rows.dim(1).min(begin.saturating_add(columns));
        codes.extend((0..PANEL).map(|row| {
            let mut range = Range::default();
            if row < rows.dim(0) {
                range.add(&rows.row(row)[span.clone()]);
            }
            Code::new(range, symmetric)
        }));
    }
    codes
}

/// Packs at most 32 rows into the panels of a strip, `[steps, PANEL_WORDS]`; `code(step, row)` says how.
pub(crate) fn pack<T: Elem>(rows: View<'_, T, 2>, code: impl Fn(usize, usize) -> Code, words: &mut [u32]) {
    for (step, panel) in words.chunks_exact_mut(PANEL_WORDS).enumerate() {
        for row in 0..PANEL {
            let code = code(step, row);
            let mut padded = [0f32; PANEL];
            if row < rows.dim(0) {
                let values = &rows.row(row)[step * PANEL..rows.dim(1).min((step + 1) * PANEL)];
                padded.iter_mut().zip(values).for_each(|(p, v)| *p = v.to_f32());
            }
            let mut codes = [0u32; PANEL];
            codes.iter_mut().zip(&padded).for_each(|(c, v)| *c = code.of(*v) as u32);
            for pair in 0..4 {
                let bits = |chunk: usize| {
                    let [low, high] = [codes[8 * chunk + 2 * pair], codes[8 * chunk + 2 * pair + 1]];
                    (low | high << 16) << (4 * chunk)
                };
                panel[word_of(row, pair)] = bits(0) | bits(1) | bits(2) | bits(3);
            }
        }
    }
}

/// The word of a panel that has column pair `pair` of all four chunks of row `row`.
fn word_of(row: usize, pair: usize) -> usize {
    (row / 4 * 4 + pair) * 4 + row % 4
}

/// Writes rows `rows` and the columns of steps `steps` of group `group`, as they count in a product of `T`, to `to`, whose
/// rows have `stride` elements. `rows` starts at a multiple of 32.
pub(crate) fn unpack<T: Elem, O: Elem>(
    w: &Int4View<'_>,
    group: usize,
    rows: Span<usize>,
    steps: Span<usize>,
    to: &mut [O],
    stride: usize,
) {
    let layout = w.layout();
    let [_, out, input] = layout.shape();
    let (words, scales, zeros) = (w.words().as_slice(), w.scales().as_slice(), w.zeros().as_slice());
    let base = steps.start * PANEL;
    for (row, to) in rows.zip(to.chunks_mut(stride.max(1))) {
        debug_assert!(row < out);
        let mut known = None;
        for step in steps.clone() {
            let scale = layout.scale([group, row, step * PANEL]);
            let table = match known {
                Some((at, table)) if at == scale => table,
                _ => {
                    let zero = if zeros.is_empty() { 8 } else { i32::from(zeros[scale]) };
                    values::<T>(scales[scale].to_f32(), zero)
                }
            };
            known = Some((scale, table));
            let panel = &words[layout.panel(group, row / PANEL, step)..][..PANEL_WORDS];
            let mut columns = [0f32; PANEL];
            for pair in 0..4 {
                let word = panel[word_of(row % PANEL, pair)];
                for chunk in 0..4 {
                    columns[8 * chunk + 2 * pair] = table[(word >> (4 * chunk) & 15) as usize];
                    columns[8 * chunk + 2 * pair + 1] = table[(word >> (4 * chunk + 16) & 15) as usize];
                }
            }
            let width = PANEL.min(input - step * PANEL);
            let to = &mut to[step * PANEL - base..][..width];
            to.iter_mut().zip(&columns).for_each(|(t, &c)| *t = O::from_f32(c));
        }
    }
}

/// Replaces a row by what its codes stand for in `T`; block `i` of `columns` columns has code `code(i)`.
pub(crate) fn fake<T: Elem>(row: &[T], columns: usize, code: impl Fn(usize) -> Code, to: &mut [T]) {
    for (block, (from, to)) in row.chunks(columns).zip(to.chunks_mut(columns)).enumerate() {
        let code = code(block);
        let values = values::<T>(code.scale, code.zero);
        from.iter().zip(to).for_each(|(f, t)| *t = T::from_f32(values[code.of(f.to_f32()) as usize]));
    }
}
