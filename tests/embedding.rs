//! `Embedding` and its backward against the definition.

mod common;

use common::{
    Bound, Guarded, Rng, all_devices, assert_breaks, assert_within, devices, same_bits_on_any_threads,
};
use trimoe::ops::{Embedding, EmbeddingBackward};
use trimoe::{Elem, View, bf16, f16};

/// A power of two, so that scaled values are exact in every dtype.
const SCALE: f32 = 0.5;

fn run_case<T: Elem>(rows: usize, vocab: usize, hidden: usize, pick: impl Fn(usize, &mut Rng) -> usize) {
    let name = format!("{:?} rows {rows} vocab {vocab} hidden {hidden}", T::DTYPE);
    let mut rng = Rng::new(1);
    let ids: Vec<u32> = (0..rows).map(|p| pick(p, &mut rng) as u32).collect();
    let places = Guarded::ids(&ids);
    let at = |i: usize| ids[i / hidden] as usize * hidden + i % hidden;
    let table = Guarded::<T, 2>::normal(&mut rng, [vocab, hidden], 1.0);
    let dy = Guarded::<T, 2>::normal(&mut rng, [rows, hidden], 1.0);
    for device in all_devices() {
        let mut y = Guarded::<T, 2>::nan([rows, hidden]);
        let op = Embedding {
            ids: places.view_on(&device),
            table: table.view_on(&device),
            scale: SCALE,
            y: y.view_mut_on(&device),
        };
        device.run(op).unwrap();
        let (values, dys) = (table.values(), dy.values());
        let want: Vec<f64> = (0..rows * hidden).map(|i| f64::from(SCALE) * values[at(i)]).collect();
        assert_eq!(y.written(), want, "{name}");

        let mut dtable = Guarded::<f32, 2>::normal(&mut rng, [vocab, hidden], 1.0);
        let mut want = vec![Bound::default(); vocab * hidden];
        want.iter_mut().zip(dtable.values()).for_each(|(b, v)| b.add(v));
        (0..rows * hidden).for_each(|i| want[at(i)].add(f64::from(SCALE) * dys[i]));
        let op = EmbeddingBackward {
            ids: places.view_on(&device),
            dy: dy.view_on(&device),
            scale: SCALE,
            dtable: dtable.view_mut_on(&device),
        };
        device.run(op).unwrap();
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

/// The kernel searches 1,024 rows at a time, for 1,024 columns at a time.
#[test]
fn rows_of_an_id_are_found_wherever_they_are() {
    run_case::<f32>(1023, 1, 3, |_, _| 0);
    run_case::<f32>(1025, 2, 3, |p, _| usize::from(p % 1024 == 0));
    run_case::<f32>(2100, 700, 3, |p, _| p / 3);
    run_case::<f32>(2100, 700, 3, |p, _| p % 700);
    run_case::<bf16>(7, 3, 1025, |p, _| p % 3);
    run_case::<f32>(6, 3, 2064, |p, _| p % 3);
}

/// Where the host cannot read the ids the kernels do: a bad one is seen, and nothing outside of the table is touched.
#[test]
fn a_bad_id_on_a_device_is_seen() {
    for device in all_devices().iter().filter(|d| d.place() != trimoe::Place::Host) {
        let ids = Guarded::ids(&[1, 3, u32::MAX, 0]);
        let table = Guarded::<f32, 2>::of(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [3, 2]);
        let mut y = Guarded::<f32, 2>::of(&[0.0; 8], [4, 2]);
        let (rows, table) = (y.view_mut_on(device), table.view_on(device));
        device.run(Embedding { ids: ids.view_on(device), table, scale: SCALE, y: rows }).unwrap();
        let y = y.written();
        assert_eq!((&y[..2], &y[6..]), (&[1.5, 2.0][..], &[0.5, 1.0][..]));
        assert!(y[2..6].iter().all(|v| v.is_nan()));

        let dy = Guarded::<f32, 2>::of(&[2.0; 8], [4, 2]);
        let mut dtable = Guarded::<f32, 2>::of(&[0.0; 6], [3, 2]);
        let (dy, rows) = (dy.view_on(device), dtable.view_mut_on(device));
        device.run(EmbeddingBackward { ids: ids.view_on(device), dy, scale: SCALE, dtable: rows }).unwrap();
        assert_eq!(dtable.written(), [1.0, 1.0, 1.0, 1.0, 0.0, 0.0]);
    }
}

#[test]
fn the_same_on_any_threads() {
    let ids = Guarded::ids(&(0..900).map(|i| i * i % 13).collect::<Vec<u32>>());
    let dy = Guarded::<f32, 2>::normal(&mut Rng::new(2), [900, 150], 1.0);
    same_bits_on_any_threads(|device| {
        let mut dtable = device.zeros::<f32, 2>([13, 150]).unwrap();
        device
            .run(EmbeddingBackward {
                ids: ids.view(),
                dy: dy.view(),
                scale: SCALE,
                dtable: dtable.view_mut(),
            })
            .unwrap();
        common::guarded::bits(&dtable)
    });
}

#[test]
fn every_rule_is_checked() {
    let device = &devices()[0];
    let two = |s: [usize; 2]| Guarded::<f32, 2>::of(&vec![0.0; s[0] * s[1]], s);
    let forward = |ids: &[u32], y| {
        let ids = View::new(ids, [ids.len()]).unwrap();
        device.run(Embedding { ids, table: two([3, 2]).view(), scale: SCALE, y: two(y).view_mut() })
    };
    assert!(forward(&[0, 2], [2, 2]).is_ok());
    assert_breaks(forward(&[0, 2], [2, 3]), "y == [ids[0], table[1]]");
    assert_breaks(forward(&[0, 2], [1, 2]), "y == [ids[0], table[1]]");
    assert_breaks(forward(&[0, 3], [2, 2]), "(id as usize) < vocab");
    let backward = |ids: &[u32], dy| {
        let ids = View::new(ids, [ids.len()]).unwrap();
        device.run(EmbeddingBackward {
            ids,
            dy: two(dy).view(),
            scale: SCALE,
            dtable: two([3, 2]).view_mut(),
        })
    };
    assert!(backward(&[0, 2], [2, 2]).is_ok());
    assert_breaks(backward(&[0, 2], [2, 1]), "dy == [ids[0], dtable[1]]");
    assert_breaks(backward(&[3, 2], [2, 2]), "(id as usize) < vocab");
    let (ids, row, mut y) = (Guarded::ids(&[0]), [1.0f32], two([1, 1]));
    let table = View::strided(&row, [u32::MAX as usize + 1, 1], [0, 1]).unwrap();
    let op = Embedding { ids: ids.view(), table, scale: SCALE, y: y.view_mut() };
    assert_breaks(device.run(op), "vocab <= u32::MAX as usize");
}
