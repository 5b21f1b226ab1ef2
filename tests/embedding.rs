//! `Embedding` and its backward against the definition.

mod common;

use common::{Bound, Guarded, Rng, assert_breaks, assert_within, devices, same_bits_on_any_threads};
use trimoe::ops::{Embedding, EmbeddingBackward};
use trimoe::{Elem, bf16, f16};

/// A power of two, so that scaled values are exact in every dtype.
const SCALE: f32 = 0.5;

fn run_case<T: Elem>(rows: usize, vocab: usize, hidden: usize, pick: impl Fn(usize, &mut Rng) -> usize) {
    let name = format!("{:?} rows {rows} vocab {vocab} hidden {hidden}", T::DTYPE);
    let mut rng = Rng::new(1);
    let ids: Vec<u32> = (0..rows).map(|p| pick(p, &mut rng) as u32).collect();
    let at = |i: usize| ids[i / hidden] as usize * hidden + i % hidden;
    let table = Guarded::<T, 2>::normal(&mut rng, [vocab, hidden], 1.0);
    let dy = Guarded::<T, 2>::normal(&mut rng, [rows, hidden], 1.0);
    for device in devices() {
        let mut y = Guarded::<T, 2>::nan([rows, hidden]);
        device.run(Embedding { ids: &ids, table: table.view(), scale: SCALE, y: y.view_mut() }).unwrap();
        let (values, dys) = (table.values(), dy.values());
        let want: Vec<f64> = (0..rows * hidden).map(|i| f64::from(SCALE) * values[at(i)]).collect();
        assert_eq!(y.written(), want, "{name}");

        let mut dtable = Guarded::<f32, 2>::normal(&mut rng, [vocab, hidden], 1.0);
        let mut want = vec![Bound::default(); vocab * hidden];
        want.iter_mut().zip(dtable.values()).for_each(|(b, v)| b.add(v));
        (0..rows * hidden).for_each(|i| want[at(i)].add(f64::from(SCALE) * dys[i]));
        device
            .run(EmbeddingBackward { ids: &ids, dy: dy.view(), scale: SCALE, dtable: dtable.view_mut() })
            .unwrap();
        assert_within::<f32>(&name, &dtable.written(), &want);
    }
}

#[test]
fn rows_are_looked_up_and_their_gradients_added() {
    for (rows, vocab, hidden) in
        [(0, 3, 4), (1, 1, 1), (5, 9, 63), (127, 11, 64), (128, 5, 65), (129, 300, 130)]
    {
        run_case::<f32>(rows, vocab, hidden, |_, rng| rng.below(vocab));
        run_case::<bf16>(rows, vocab, hidden, |_, _| vocab - 1);
        run_case::<f16>(rows, vocab, hidden, |p, _| p % vocab);
    }
}

#[test]
fn the_same_on_any_threads() {
    let ids: Vec<u32> = (0..900).map(|i| i * i % 13).collect();
    let dy = Guarded::<f32, 2>::normal(&mut Rng::new(2), [900, 150], 1.0);
    same_bits_on_any_threads(|device| {
        let mut dtable = device.zeros::<f32, 2>([13, 150]).unwrap();
        device
            .run(EmbeddingBackward { ids: &ids, dy: dy.view(), scale: SCALE, dtable: dtable.view_mut() })
            .unwrap();
        common::guarded::bits(&dtable)
    });
}

#[test]
fn every_rule_is_checked() {
    let device = &devices()[0];
    let two = |s: [usize; 2]| Guarded::<f32, 2>::of(&vec![0.0; s[0] * s[1]], s);
    let forward = |ids: &[u32], y| {
        device.run(Embedding { ids, table: two([3, 2]).view(), scale: SCALE, y: two(y).view_mut() })
    };
    assert!(forward(&[0, 2], [2, 2]).is_ok());
    assert_breaks(forward(&[0, 2], [2, 3]), "y == [ids.len(), table[1]]");
    assert_breaks(forward(&[0, 2], [1, 2]), "y == [ids.len(), table[1]]");
    assert_breaks(forward(&[0, 3], [2, 2]), "(id as usize) < table[0]");
    let backward = |ids: &[u32], dy| {
        device.run(EmbeddingBackward {
            ids,
            dy: two(dy).view(),
            scale: SCALE,
            dtable: two([3, 2]).view_mut(),
        })
    };
    assert!(backward(&[0, 2], [2, 2]).is_ok());
    assert_breaks(backward(&[0, 2], [2, 1]), "dy == [ids.len(), dtable[1]]");
    assert_breaks(backward(&[3, 2], [2, 2]), "(id as usize) < dtable[0]");
}
