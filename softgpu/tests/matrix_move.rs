//! `ldmatrix`, `stmatrix` and `movmatrix` against the manual: lane `l` holds elements `2 (l % 4)` and the next of
//! row `l / 4` of every 8 x 8 matrix, lane `8 q + i` names row `i` of matrix `q`.

mod common;

use common::lab::{Arg, Lab, module};

/// Element of a tile of 32 rows of 8.
fn element(row: usize, column: usize) -> u32 {
    (100 * row + column) as u32
}

/// What a lane holds of matrix `q`.
fn held(lane: usize, q: usize, transposed: bool) -> u32 {
    let (row, column) = (lane / 4, 2 * (lane % 4));
    let at = |i: usize| {
        if transposed { element(8 * q + column + i, row) } else { element(8 * q + row, column + i) }
    };
    at(0) | at(1) << 16
}

fn list(first: usize, count: usize) -> String {
    (first..first + count).map(|i| format!("%r{i}")).collect::<Vec<_>>().join(", ")
}

/// Runs one warp on a tile of 32 rows, 32 bytes apart, at `tile`; row `lane` is at `%r10`.
fn run(body: &str, words: usize, rows: &[u32]) -> Vec<u32> {
    let body = format!(
        ".shared .align 16 .b8 tile[1024];
         mov.u32 %r10, tile; shl.b32 %r11, %r3, 5; add.u32 %r10, %r10, %r11; mul.wide.u32 %rd10, %r3, 16;
         add.s64 %rd10, %rd0, %rd10; ld.global.v4.b32 {{%r12, %r13, %r14, %r15}}, [%rd10];
         st.shared.v4.b32 [%r10], {{%r12, %r13, %r14, %r15}}; bar.sync 0;
         mul.wide.u32 %rd11, %r3, {}; add.s64 %rd11, %rd1, %rd11;
         {body}",
        4 * words
    );
    let lab = Lab::default();
    let out = lab.blank(128 * words);
    let args = [Arg::Ptr(lab.put(rows)), Arg::Ptr(out)];
    let outcome = lab.run(&module(2, &body), "k", [1, 1, 1], [32, 1, 1], &args);
    assert_eq!(outcome.reports, [], "{body}");
    lab.get(out, 32 * words)
}

fn rows() -> Vec<u32> {
    let pairs = (0..32).flat_map(|r| (0..4).map(move |c| (r, 2 * c)));
    pairs.map(|(r, c)| element(r, c) | element(r, c + 1) << 16).collect()
}

#[test]
fn loads_of_one_two_and_four_matrices() {
    for count in [1, 2, 4] {
        for (suffix, transposed) in [("", false), (".trans", true)] {
            let stores: String =
                (0..count).map(|q| format!("st.global.b32 [%rd11+{}], %r{};", 4 * q, 20 + q)).collect();
            let body = format!(
                "ldmatrix.sync.aligned.m8n8.x{count}{suffix}.shared.b16 {{{}}}, [%r10]; {stores}",
                list(20, count)
            );
            let expected: Vec<u32> =
                (0..32).flat_map(|lane| (0..count).map(move |q| held(lane, q, transposed))).collect();
            assert_eq!(run(&body, count, &rows()), expected, "x{count}{suffix}");
        }
    }
}

#[test]
fn stores_are_the_inverse_of_loads() {
    for count in [1, 2, 4] {
        for suffix in ["", ".trans"] {
            // Behind the rows lie 16 bytes for what comes back.
            let body = format!(
                "ldmatrix.sync.aligned.m8n8.x{count}{suffix}.shared.b16 {{{0}}}, [%r10];
                 add.u32 %r16, %r10, 16;
                 stmatrix.sync.aligned.m8n8.x{count}{suffix}.shared.b16 [%r16], {{{0}}}; bar.warp.sync -1;
                 mov.u32 %r24, 0; mov.u32 %r25, 0; mov.u32 %r26, 0; mov.u32 %r27, 0;
                 setp.ge.u32 %p10, %r3, {1}; @%p10 bra OUT;
                 ld.shared.v4.b32 {{%r24, %r25, %r26, %r27}}, [%r16];
                 OUT: st.global.v4.b32 [%rd11], {{%r24, %r25, %r26, %r27}};",
                list(20, count),
                8 * count
            );
            let mut expected = rows();
            expected[32 * count..].fill(0);
            assert_eq!(run(&body, 4, &rows()), expected, "x{count}{suffix}");
        }
    }
}

#[test]
fn a_matrix_in_registers_is_transposed() {
    let body = "ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r20}, [%r10];
         movmatrix.sync.aligned.m8n8.trans.b16 %r21, %r20; st.global.b32 [%rd11], %r21;";
    let expected: Vec<u32> = (0..32).map(|lane| held(lane, 0, true)).collect();
    assert_eq!(run(body, 1, &rows()), expected);
}
