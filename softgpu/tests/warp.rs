//! Exchange between lanes and barriers that vote, against plain definitions.

mod common;

use common::Random;
use common::lab::{Arg, Lab, module};

/// Runs `body` for one warp: `%r10`, `%r11`, `%r12` hold `inputs` of the lane, and `%r20`, `%r21` are stored.
fn warp(body: &str, inputs: &[[u32; 3]; 32]) -> [[u32; 2]; 32] {
    let ptx = module(
        2,
        &format!(
            "mul.wide.u32 %rd10, %r3, 12; add.u64 %rd11, %rd0, %rd10; ld.global.u32 %r10, [%rd11];
             ld.global.u32 %r11, [%rd11+4]; ld.global.u32 %r12, [%rd11+8]; mov.u32 %r20, 0; mov.u32 %r21, 0;
             {body}
             mul.wide.u32 %rd12, %r3, 8; add.u64 %rd13, %rd1, %rd12; st.global.v2.u32 [%rd13], {{%r20, %r21}};"
        ),
    );
    let lab = Lab::default();
    let (from, to) = (lab.put(inputs), lab.blank(256));
    let outcome = lab.run(&ptx, "k", [1, 1, 1], [32, 1, 1], &[Arg::Ptr(from), Arg::Ptr(to)]);
    assert_eq!(outcome.reports, [], "{body}");
    lab.get(to, 32).try_into().unwrap()
}

fn inputs(seed: u64, f: impl Fn(u32, &mut Random) -> [u32; 3]) -> [[u32; 3]; 32] {
    let mut random = Random::new(seed);
    std::array::from_fn(|lane| f(lane as u32, &mut random))
}

/// As the PTX manual defines `shfl`: where lane `lane` reads, and whether it is in range.
fn source(mode: &str, lane: u32, b: u32, c: u32) -> (u32, bool) {
    let (b, clamp, mask) = (i64::from(b & 31), c & 31, c >> 8 & 31);
    let min = i64::from(lane & mask);
    let max = i64::from((lane & mask) | (clamp & !mask));
    let own = i64::from(lane);
    let (j, inside) = match mode {
        "up" => (own - b, own - b >= max),
        "down" => (own + b, own + b <= max),
        "bfly" => (own ^ b, (own ^ b) <= max),
        _ => {
            let j = min | (b & i64::from(!mask & 31));
            (j, j <= max)
        }
    };
    if inside { (j as u32, true) } else { (lane, false) }
}

#[test]
fn shuffles_read_the_lane_that_the_manual_says() {
    // The control word for the width 1 << w, as CUDA's intrinsics make it.
    for mode in ["up", "down", "bfly", "idx"] {
        for width in [1u32, 2, 8, 16, 32] {
            let control = (32 - width) << 8 | if mode == "up" { 0 } else { 31 };
            let values = inputs(u64::from(width), |_, random| {
                [random.next() as u32, (random.next() % 33) as u32, control]
            });
            let body = format!(
                "shfl.sync.{mode}.b32 %r20|%p10, %r10, %r11, %r12, 0xFFFFFFFF; selp.u32 %r21, 1, 0, %p10;"
            );
            let expected: [[u32; 2]; 32] = std::array::from_fn(|lane| {
                let [_, b, c] = values[lane];
                let (from, inside) = source(mode, lane as u32, b, c);
                [values[from as usize][0], u32::from(inside)]
            });
            assert_eq!(warp(&body, &values), expected, "{mode} width {width}");
        }
    }
}

#[test]
fn votes_count_their_members_only() {
    for (seed, members) in [(1, u32::MAX), (2, 0x0000_FF0F), (3, 0x8000_0001)] {
        // One of four lanes says no, then all say yes, then none.
        for bias in [4, 1, 0] {
            let values = inputs(seed, |lane, random| {
                let yes =
                    if bias == 0 { 0 } else { u32::from(!random.next().is_multiple_of(bias) || bias == 1) };
                [yes, members, members >> lane & 1]
            });
            let body = "setp.ne.u32 %p10, %r10, 0; setp.ne.u32 %p11, %r12, 0; @!%p11 bra OUT;
                vote.sync.ballot.b32 %r20, %p10, %r11; vote.sync.all.pred %p12, %p10, %r11;
                vote.sync.any.pred %p13, %p10, %r11; vote.sync.uni.pred %p14, %p10, %r11;
                vote.sync.all.pred %p15, !%p10, %r11;
                selp.u32 %r13, 1, 0, %p12; selp.u32 %r14, 2, 0, %p13; selp.u32 %r15, 4, 0, %p14;
                selp.u32 %r16, 8, 0, %p15; add.u32 %r21, %r13, %r14; add.u32 %r21, %r21, %r15;
                add.u32 %r21, %r21, %r16; OUT:";
            let yes = (0..32).filter(|l| values[*l][0] != 0).fold(0u32, |m, l| m | 1 << l) & members;
            let flags = u32::from(yes == members)
                + 2 * u32::from(yes != 0)
                + 4 * u32::from(yes == 0 || yes == members)
                + 8 * u32::from(yes == 0);
            let expected: [[u32; 2]; 32] =
                std::array::from_fn(|l| if members >> l & 1 != 0 { [yes, flags] } else { [0, 0] });
            assert_eq!(warp(body, &values), expected, "{members:#x}");
        }
    }
}

#[test]
fn matches_find_equal_values() {
    for distinct in [1, 2, 5] {
        let values = inputs(distinct, |_, random| [(random.next() % distinct) as u32, 0, 0]);
        let same = |l: usize| (0..32).filter(|m| values[*m][0] == values[l][0]).fold(0u32, |a, m| a | 1 << m);
        let any = warp("match.any.sync.b32 %r20, %r10, 0xFFFFFFFF;", &values);
        assert_eq!(any, std::array::from_fn(|l| [same(l), 0]));
        let all = warp(
            "cvt.u64.u32 %rd14, %r10; match.all.sync.b64 %r20|%p10, %rd14, 0xFFFFFFFF; selp.u32 %r21, 1, 0, %p10;",
            &values,
        );
        let expected = if distinct == 1 { [u32::MAX, 1] } else { [0, 0] };
        assert_eq!(all, [expected; 32]);
    }
}

#[test]
fn reductions_fold_every_member() {
    let values = inputs(9, |_, random| [random.next() as u32, 0, 0]);
    let words = || values.iter().map(|v| v[0]);
    let cases = [
        ("add.u32", words().fold(0, u32::wrapping_add)),
        ("add.s32", words().fold(0, u32::wrapping_add)),
        ("min.u32", words().min().unwrap()),
        ("max.u32", words().max().unwrap()),
        ("min.s32", words().map(|v| v as i32).min().unwrap() as u32),
        ("max.s32", words().map(|v| v as i32).max().unwrap() as u32),
        ("and.b32", words().fold(u32::MAX, |a, b| a & b)),
        ("or.b32", words().fold(0, |a, b| a | b)),
        ("xor.b32", words().fold(0, |a, b| a ^ b)),
    ];
    for (op, expected) in cases {
        assert_eq!(
            warp(&format!("redux.sync.{op} %r20, %r10, 0xFFFFFFFF;"), &values),
            [[expected, 0]; 32],
            "{op}"
        );
    }
}

#[test]
fn lanes_with_different_masks_are_groups_of_their_own() {
    let values =
        inputs(10, |lane, random| [random.next() as u32 >> 8, if lane < 12 { 0xFFF } else { !0xFFF }, 0]);
    let sum = |range: std::ops::Range<usize>| range.map(|l| values[l][0]).sum::<u32>();
    let got = warp("redux.sync.add.u32 %r20, %r10, %r11; activemask.b32 %r21;", &values);
    assert_eq!(got, std::array::from_fn(|l| [if l < 12 { sum(0..12) } else { sum(12..32) }, u32::MAX]));
}

#[test]
fn barriers_count_and_vote() {
    // 96 threads; the predicate holds for those with tid % 7 < limit.
    for limit in [0u32, 3, 7] {
        let ptx = module(
            1,
            &format!(
                "rem.u32 %r10, %r3, 7; setp.lt.u32 %p10, %r10, {limit};
                 bar.red.popc.u32 %r20, 0, %p10; bar.red.and.pred %p11, 0, %p10; bar.red.or.pred %p12, 0, !%p10;
                 barrier.sync 3, 96; selp.u32 %r21, 1, 0, %p11; selp.u32 %r22, 2, 0, %p12; add.u32 %r21, %r21, %r22;
                 mul.wide.u32 %rd10, %r3, 8; add.u64 %rd11, %rd0, %rd10; st.global.v2.u32 [%rd11], {{%r20, %r21}};"
            ),
        );
        let lab = Lab::default();
        let to = lab.blank(96 * 8);
        let outcome = lab.run(&ptx, "k", [1, 1, 1], [96, 1, 1], &[Arg::Ptr(to)]);
        assert_eq!(outcome.reports, []);
        let yes = (0..96).filter(|t| t % 7 < limit).count() as u32;
        let flags = u32::from(yes == 96) + 2 * u32::from(yes < 96);
        assert_eq!(lab.get::<[u32; 2]>(to, 96), [[yes, flags]; 96]);
    }
}
