//! `GroupedGemmInt4Rows` and `GroupedGemmInt4Columns` against the product with the dequantised weights.

mod common;

use common::cases::routed;
use common::int4::{dequantised, formats, parts, quantise};
use common::{
    Bound, Guarded, Rng, all_devices, assert_breaks, assert_within, devices, identical, plan_on,
    same_bits_on_any_threads,
};
use trimoe::ops::{GroupedGemm, GroupedGemmInt4Columns, GroupedGemmInt4Rows};
use trimoe::{
    Device, Elem, Int4Block, Int4Format, Int4Layout, Int4Tensor, Place, Plan, Segments, View, ViewMut, bf16,
    f16,
};

const COLUMNS_32: Int4Format = Int4Format { symmetric: false, block: Int4Block::Columns32 };

/// A batch on a device: `[out, in]` of the base and `factors` packed rows or columns.
#[derive(Clone, Copy)]
struct Case<'a> {
    name: &'a str,
    segments: Segments<'a>,
    base: [usize; 2],
    factors: usize,
    format: Int4Format,
}

impl Case<'_> {
    /// The row of x of each row of the product, and its group.
    fn rows(&self) -> Vec<(usize, usize)> {
        let gathered = if let Segments::Gathered(order) = self.segments { Some(order) } else { None };
        let of_x =
            |p: usize| gathered.map_or(p, |order| order.host().unwrap().source[p] as usize / order.fan());
        let bounds = self.segments.bounds().unwrap();
        let groups = bounds.windows(2).enumerate();
        groups
            .flat_map(|(g, rows)| (rows[0]..rows[1]).map(move |p| (p, g)))
            .map(|(p, g)| (of_x(p), g))
            .collect()
    }

    fn sources(&self) -> usize {
        if let Segments::Gathered(order) = self.segments { order.tokens() } else { self.segments.rows() }
    }

    /// The product with plain weights `[groups, out, in]`: within the bounds, and on a CUDA device, if `exact`, the very
    /// bits of `GroupedGemm`.
    fn judge<T: Elem>(
        &self,
        device: &Device,
        x: &Guarded<T, 2>,
        w: &[f64],
        out: usize,
        exact: bool,
        got: &[f64],
    ) {
        if got.is_empty() {
            return;
        }
        let (groups, xv) = (self.segments.groups(), x.values());
        let input = w.len() / (groups * out).max(1);
        let mut want = vec![Bound::default(); got.len()];
        for (p, (row, g)) in self.rows().into_iter().enumerate() {
            for o in 0..out {
                let w = &w[(g * out + o) * input..][..input];
                (0..input).for_each(|i| want[p * out + o].add(xv[row * input + i] * w[i]));
            }
        }
        let name = format!("{} {:?} {} {:?}", self.name, self.base, self.factors, T::DTYPE);
        assert_within::<T>(&name, got, &want);
        if device.place() != Place::Host && exact {
            let w = Guarded::<T, 3>::of(w, [groups, out, input]);
            let mut y = Guarded::<T, 2>::nan([self.segments.rows(), out]);
            let (x, w, segments) = (x.view_on(device), w.view_on(device), self.segments);
            device.run(GroupedGemm { x, w, segments, y: y.view_mut_on(device), accumulate: false }).unwrap();
            identical(&format!("{name} of GroupedGemm"), got, &y.written());
        }
    }

    fn rows_case<T: Elem>(&self, device: &Device) {
        let (rng, groups, [out, input], factors) =
            (&mut Rng::new(5), self.segments.groups(), self.base, self.factors);
        let x = Guarded::<T, 2>::normal(rng, [self.sources(), input], 1.0);
        let w = Guarded::<T, 3>::normal(rng, [groups, out, input], 0.3);
        let layout = Int4Layout::new([groups, factors, input], self.format).unwrap();
        let packed = [(); 2]
            .map(|()| quantise(device, &Guarded::<T, 3>::normal(rng, [groups, factors, input], 0.3), layout));
        let mut y = Guarded::<T, 2>::nan([self.segments.rows(), out + 2 * factors]);
        let views = packed.each_ref().map(Int4Tensor::view);
        let op = GroupedGemmInt4Rows {
            x: x.view_on(device),
            w: w.view_on(device),
            factors: views,
            segments: self.segments,
            y: y.view_mut_on(device),
        };
        device.run(op).unwrap();
        let (wv, fv) = (w.values(), packed.each_ref().map(|f| dequantised::<T>(&layout, &parts(f))));
        let all: Vec<f64> = (0..groups)
            .flat_map(|g| {
                let base = wv[g * out * input..][..out * input].to_vec();
                let part = |f: &Vec<f64>| f[g * factors * input..][..factors * input].to_vec();
                [base, part(&fv[0]), part(&fv[1])].concat()
            })
            .collect();
        self.judge(device, &x, &all, out + 2 * factors, true, &y.written());
    }

    fn columns_case<T: Elem>(&self, device: &Device) {
        let (rng, groups, [out, input], factors) =
            (&mut Rng::new(7), self.segments.groups(), self.base, self.factors);
        let x = Guarded::<T, 2>::normal(rng, [self.sources(), input + factors], 1.0);
        let w = Guarded::<T, 3>::normal(rng, [groups, out, input], 0.3);
        let layout = Int4Layout::new([groups, factors, out], self.format).unwrap();
        let packed = quantise(device, &Guarded::<T, 3>::normal(rng, [groups, factors, out], 0.3), layout);
        let mut y = Guarded::<T, 2>::nan([self.segments.rows(), out]);
        let op = GroupedGemmInt4Columns {
            x: x.view_on(device),
            w: w.view_on(device),
            factor: packed.view(),
            segments: self.segments,
            y: y.view_mut_on(device),
        };
        device.run(op).unwrap();
        let (wv, fv) = (w.values(), dequantised::<T>(&layout, &parts(&packed)));
        let all: Vec<f64> = (0..groups * out)
            .flat_map(|row| {
                let base = wv[row * input..][..input].to_vec();
                let (g, o) = (row / out, row % out);
                let factor = (0..factors).map(|c| fv[(g * factors + c) * out + o]).collect();
                [base, factor].concat()
            })
            .collect();
        let exact = T::DTYPE == trimoe::DType::F32 || input.is_multiple_of(16);
        self.judge(device, &x, &all, out, exact, &y.written());
    }

    fn both<T: Elem>(&self, device: &Device) {
        self.rows_case::<T>(device);
        self.columns_case::<T>(device);
    }
}

#[test]
fn products_of_every_routing_case() {
    for device in all_devices() {
        for (i, case) in routed(16).iter().enumerate() {
            let mut plan = case.plan();
            plan_on(&mut plan, &device);
            let order = if i % 2 == 0 { plan.by_cluster() } else { plan.by_expert() };
            let segments = if i % 4 < 2 { order.segments() } else { order.gathered() };
            let c = Case { name: &case.name, segments, base: [48, 80], factors: 32, format: COLUMNS_32 };
            c.both::<bf16>(&device);
            let c = Case { base: [11, 17], factors: 3, ..c };
            c.both::<f32>(&device);
            c.both::<f16>(&device);
        }
    }
}

#[test]
fn every_format_and_dtype() {
    for device in all_devices() {
        let case = &routed(16)[2];
        let mut plan = case.plan();
        plan_on(&mut plan, &device);
        let segments = plan.by_cluster().segments();
        for format in formats() {
            let c = Case { name: "format", segments, base: [80, 144], factors: 48, format };
            c.both::<bf16>(&device);
            c.both::<f16>(&device);
            Case { base: [40, 80], factors: 24, ..c }.both::<f32>(&device);
        }
    }
}

#[test]
fn every_tile_and_its_edges() {
    for device in all_devices() {
        let c = Case {
            name: "rows",
            segments: Segments::Whole(0),
            base: [32, 48],
            factors: 16,
            format: COLUMNS_32,
        };
        for rows in [1, 15, 16, 17, 63, 64, 65, 130] {
            let c = Case { segments: Segments::Whole(rows), ..c };
            c.both::<bf16>(&device);
            if rows % 16 == 1 {
                c.both::<f16>(&device);
                c.both::<f32>(&device);
            }
        }
        // Bases and factors of less than a tile, of a tile, and of more; odd ones; one of them missing.
        for (base, factors) in [
            ([127, 64], 8),
            ([128, 16], 128),
            ([129, 33], 65),
            ([256, 32], 24),
            ([1, 1], 1),
            ([0, 32], 16),
            ([16, 0], 16),
            ([16, 48], 0),
            ([64, 130], 40),
        ] {
            let c = Case { name: "edges", segments: Segments::Whole(5), base, factors, ..c };
            c.both::<bf16>(&device);
            c.both::<f32>(&device);
        }
        c.both::<bf16>(&device);
    }
}

#[test]
fn large_tiles() {
    for device in all_devices() {
        // More than 64 rows, and enough columns to keep a large device busy.
        let c = Case {
            name: "large",
            segments: Segments::Whole(66),
            base: [16384, 16],
            factors: 64,
            format: COLUMNS_32,
        };
        c.both::<bf16>(&device);
    }
}

#[test]
fn the_same_on_any_threads() {
    let case = &routed(300)[11];
    let plan = case.plan();
    let rng = &mut Rng::new(2);
    let x = Guarded::<bf16, 2>::normal(rng, [case.tokens, 96], 1.0);
    let w = Guarded::<bf16, 3>::normal(rng, [2, 300, 64], 1.0);
    let factor = Guarded::<bf16, 3>::normal(rng, [2, 32, 300], 1.0);
    let segments = plan.by_cluster().segments();
    same_bits_on_any_threads(|device| {
        let factor = quantise(device, &factor, Int4Layout::new([2, 32, 300], COLUMNS_32).unwrap());
        let mut y = Guarded::<bf16, 2>::nan([case.tokens, 300]);
        let (x, w, factor) = (x.view(), w.view(), factor.view());
        device.run(GroupedGemmInt4Columns { x, w, factor, segments, y: y.view_mut() }).unwrap();
        y.written().into_iter().map(f64::to_bits).collect::<Vec<_>>()
    });
}

#[test]
fn every_rule_is_checked() {
    let device = &devices()[0];
    let plan = Plan::new(6, 1, 2, 2).unwrap();
    let segments = plan.by_cluster().segments();
    let two = |s: [usize; 2]| Guarded::<f32, 2>::of(&vec![0.0; s[0] * s[1]], s);
    let three = |s: [usize; 3]| Guarded::<f32, 3>::of(&vec![0.0; s[0] * s[1] * s[2]], s);
    let packed = |s| Int4Tensor::new(device, Int4Layout::new(s, COLUMNS_32).unwrap()).unwrap();
    let rows = |x, w, first, second, y| {
        let (x, w, first, second, mut y) = (two(x), three(w), packed(first), packed(second), two(y));
        let (x, w, factors, y) = (x.view(), w.view(), [first.view(), second.view()], y.view_mut());
        device.run(GroupedGemmInt4Rows { x, w, factors, segments, y })
    };
    let f = [2, 5, 3];
    rows([6, 3], [2, 4, 3], f, f, [6, 14]).unwrap();
    assert_breaks(rows([6, 3], [2, 4, 3], f, [2, 4, 3], [6, 14]), "first == second");
    assert_breaks(rows([6, 3], [2, 4, 3], [1, 5, 3], [1, 5, 3], [6, 14]), "[first[0], first[2]] == ");
    assert_breaks(rows([6, 3], [2, 4, 3], [2, 5, 4], [2, 5, 4], [6, 14]), "[first[0], first[2]] == ");
    assert_breaks(rows([6, 3], [1, 4, 3], [1, 5, 3], [1, 5, 3], [6, 14]), "groups == segments.groups()");
    assert_breaks(rows([5, 3], [2, 4, 3], f, f, [6, 14]), "x == [segments.sources(), inputs]");
    assert_breaks(rows([6, 4], [2, 4, 3], f, f, [6, 14]), "x == [segments.sources(), inputs]");
    assert_breaks(rows([6, 3], [2, 4, 3], f, f, [6, 13]), "y == [rows, outputs]");
    let format = Int4Format { symmetric: true, ..COLUMNS_32 };
    let other = Int4Tensor::new(device, Int4Layout::new(f, format).unwrap()).unwrap();
    let (x, w, first, mut y) = (two([6, 3]), three([2, 4, 3]), packed(f), two([6, 14]));
    let (x, w, factors, y) = (x.view(), w.view(), [first.view(), other.view()], y.view_mut());
    assert_breaks(device.run(GroupedGemmInt4Rows { x, w, factors, segments, y }), "first == second");
    let columns = |x, w, factor, y| {
        let (x, w, factor, mut y) = (two(x), three(w), packed(factor), two(y));
        let (x, w, factor, y) = (x.view(), w.view(), factor.view(), y.view_mut());
        device.run(GroupedGemmInt4Columns { x, w, factor, segments, y })
    };
    columns([6, 8], [2, 4, 3], [2, 5, 4], [6, 4]).unwrap();
    assert_breaks(columns([6, 8], [2, 4, 3], [2, 5, 3], [6, 4]), "[factor[0], factor[2]] == [groups, out]");
    assert_breaks(columns([6, 8], [1, 4, 3], [1, 5, 4], [6, 4]), "groups == segments.groups()");
    assert_breaks(columns([6, 3], [2, 4, 3], [2, 5, 4], [6, 4]), "x == [segments.sources(), inputs]");
    assert_breaks(columns([6, 8], [2, 4, 3], [2, 5, 4], [5, 4]), "y == [rows, outputs]");

    let (n, segments) = (1 << 31, Segments::Whole(1 << 31));
    let (x, y) = (View::new(&[], [n, 0]).unwrap(), ViewMut::new(&mut [], [n, 0]).unwrap());
    let (w, factor) = (View::<f32, 3>::new(&[], [1, 0, 0]).unwrap(), packed([1, 0, 0]));
    let op = GroupedGemmInt4Columns { x, w, factor: factor.view(), segments, y };
    assert_breaks(device.run(op), "most <= i32::MAX as usize");
}
