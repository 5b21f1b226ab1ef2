//! Atomics of every type, on global and on shared memory, against plain definitions.

mod common;

use common::Random;
use common::lab::{Arg, Lab, module};
use half::{bf16, f16};
use softgpu::program::Program;

/// An operation: its suffix, the size of its type, and what it stores for (old, b, c).
type Case = (&'static str, usize, fn(u64, u64, u64) -> u64);

fn float(a: u64, b: u64) -> u64 {
    u64::from((f32::from_bits(a as u32) + f32::from_bits(b as u32)).to_bits())
}

fn half2(a: u64, b: u64, add: fn(u16, u16) -> u16) -> u64 {
    u64::from(add(a as u16, b as u16)) | u64::from(add((a >> 16) as u16, (b >> 16) as u16)) << 16
}

fn add_f16(a: u16, b: u16) -> u16 {
    f16::from_f64(f16::from_bits(a).to_f64() + f16::from_bits(b).to_f64()).to_bits()
}

fn add_bf16(a: u16, b: u16) -> u16 {
    bf16::from_f64(bf16::from_bits(a).to_f64() + bf16::from_bits(b).to_f64()).to_bits()
}

const CASES: [Case; 33] = [
    ("add.u32", 4, |a, b, _| a.wrapping_add(b)),
    ("add.s32", 4, |a, b, _| a.wrapping_add(b)),
    ("add.u64", 8, |a, b, _| a.wrapping_add(b)),
    ("add.f32", 4, |a, b, _| float(a, b)),
    ("add.f64", 8, |a, b, _| (f64::from_bits(a) + f64::from_bits(b)).to_bits()),
    ("add.noftz.f16", 2, |a, b, _| add_f16(a as u16, b as u16).into()),
    ("add.noftz.bf16", 2, |a, b, _| add_bf16(a as u16, b as u16).into()),
    ("add.noftz.f16x2", 4, |a, b, _| half2(a, b, add_f16)),
    ("add.noftz.bf16x2", 4, |a, b, _| half2(a, b, add_bf16)),
    ("exch.b32", 4, |_, b, _| b),
    ("exch.b64", 8, |_, b, _| b),
    ("cas.b16", 2, |a, b, c| if a == b { c } else { a }),
    ("cas.b32", 4, |a, b, c| if a == b { c } else { a }),
    ("cas.b64", 8, |a, b, c| if a == b { c } else { a }),
    ("min.u32", 4, |a, b, _| a.min(b)),
    ("min.s32", 4, |a, b, _| (a as i32).min(b as i32) as u32 as u64),
    ("min.u64", 8, |a, b, _| a.min(b)),
    ("min.s64", 8, |a, b, _| (a as i64).min(b as i64) as u64),
    ("max.u32", 4, |a, b, _| a.max(b)),
    ("max.s32", 4, |a, b, _| (a as i32).max(b as i32) as u32 as u64),
    ("max.u64", 8, |a, b, _| a.max(b)),
    ("max.s64", 8, |a, b, _| (a as i64).max(b as i64) as u64),
    ("and.b32", 4, |a, b, _| a & b),
    ("or.b32", 4, |a, b, _| a | b),
    ("xor.b32", 4, |a, b, _| a ^ b),
    ("and.b64", 8, |a, b, _| a & b),
    ("or.b64", 8, |a, b, _| a | b),
    ("xor.b64", 8, |a, b, _| a ^ b),
    ("inc.u32", 4, |a, b, _| if a >= b { 0 } else { a + 1 }),
    ("dec.u32", 4, |a, b, _| if a == 0 || a > b { b } else { a - 1 }),
    ("relaxed.gpu.add.u32", 4, |a, b, _| a.wrapping_add(b)),
    ("acq_rel.gpu.exch.b32", 4, |_, b, _| b),
    ("release.cta.max.u32", 4, |a, b, _| a.max(b)),
];

/// Old values, operands b and c of 64 threads; small ones, so that comparisons go both ways.
fn operands(op: &str, size: usize) -> Vec<[u64; 3]> {
    let mut random = Random::new(size as u64);
    let whole = |v: u64| match op {
        _ if op.ends_with("f32") => u64::from((v as f32 / 4.0 - 3.0).to_bits()),
        _ if op.ends_with("f64") => (v as f64 / 4.0 - 3.0).to_bits(),
        _ if op.ends_with("bf16") => bf16::from_f32(v as f32 / 4.0 - 3.0).to_bits().into(),
        _ if op.ends_with("f16") => f16::from_f32(v as f32 / 4.0 - 3.0).to_bits().into(),
        _ if op.ends_with("bf16x2") => u64::from(bf16::from_f32(v as f32 / 8.0).to_bits()) * 0x1_0001,
        _ if op.ends_with("f16x2") => u64::from(f16::from_f32(v as f32 / 8.0).to_bits()) * 0x1_0001,
        // Above and below zero, wherever the sign is.
        _ => v.wrapping_sub(12) & (u64::MAX >> (64 - 8 * size)),
    };
    (0..64).map(|_| std::array::from_fn(|_| whole(random.next() % 25))).collect()
}

fn low(bytes: &[u8], size: usize, at: usize) -> u64 {
    let mut word = [0; 8];
    word[..size].copy_from_slice(&bytes[at * size..(at + 1) * size]);
    u64::from_le_bytes(word)
}

#[test]
fn every_operation_gives_the_old_value_and_stores_the_new_one() {
    for (op, size, f) in CASES {
        let values = operands(op, size);
        let (r, ty) = match size {
            2 => ("h", "b16"),
            4 => ("r", "b32"),
            _ => ("rd", "b64"),
        };
        let (order, kind) = match op.rsplit_once('.').map(|(head, _)| head.rsplit_once('.')) {
            Some(Some((order, _))) if order.ends_with("gpu") || order.ends_with("cta") => {
                (format!("{order}."), &op[order.len() + 1..])
            }
            _ => (String::new(), op),
        };
        let third = if op.contains("cas") { format!(", %{r}32") } else { String::new() };
        for space in ["global", "shared", "generic"] {
            let (name, base) = if space == "shared" { ("shared.", "%r10") } else { ("global.", "%rd12") };
            let name = if space == "generic" { "" } else { name };
            let atom = format!("atom.{order}{name}{kind} %{r}33, [{base}], %{r}31{third};");
            let ptx = module(
                3,
                &format!(
                    ".shared .align 8 .b8 s[512]; mul.wide.u32 %rd10, %r3, {size}; cvt.u32.u64 %r11, %rd10;
                     mov.u32 %r12, s; add.u32 %r10, %r12, %r11; mul.wide.u32 %rd13, %r3, 16;
                     add.u64 %rd12, %rd0, %rd10; add.u64 %rd14, %rd1, %rd13; add.u64 %rd15, %rd2, %rd10;
                     ld.global.{ty} %{r}30, [%rd12]; ld.global.{ty} %{r}31, [%rd14]; ld.global.{ty} %{r}32, [%rd14+8];
                     st.shared.{ty} [%r10], %{r}30;
                     {atom}
                     st.global.{ty} [%rd15], %{r}33; ld.shared.{ty} %{r}34, [%r10]; ld.global.{ty} %{r}35, [%rd12];
                     st.global.{ty} [%rd15+1024], %{r}{};",
                    if space == "shared" { 34 } else { 35 }
                ),
            );
            let lab = Lab::default();
            let old: Vec<u8> = values.iter().flat_map(|v| v[0].to_le_bytes()[..size].to_vec()).collect();
            let rest: Vec<[u64; 2]> = values.iter().map(|v| [v[1], v[2]]).collect();
            let (memory, out) = (lab.put(&old), lab.blank(2048));
            let args = [Arg::Ptr(memory), Arg::Ptr(lab.put(&rest)), Arg::Ptr(out)];
            let outcome = lab.run(&ptx, "k", [1, 1, 1], [64, 1, 1], &args);
            assert_eq!(outcome.reports, [], "{atom}");
            let (given, stored) = (lab.get::<u8>(out, size * 64), lab.get::<u8>(out + 1024, size * 64));
            for (i, [a, b, c]) in values.iter().enumerate() {
                assert_eq!(low(&given, size, i), *a, "{atom} of {a:#x}, {b:#x}, {c:#x}: old value");
                let new = f(*a, *b, *c) & (u64::MAX >> (64 - 8 * size));
                assert_eq!(low(&stored, size, i), new, "{atom} of {a:#x}, {b:#x}, {c:#x}");
            }
        }
    }
}

#[test]
fn threads_that_meet_at_one_place_all_count() {
    // 4 blocks of 96 threads, with and without a result; the old values are all different.
    let ptx = module(
        2,
        "red.global.add.u32 [%rd0], 3; mul.wide.u32 %rd10, %r0, 4; add.u64 %rd11, %rd1, %rd10;
         atom.global.add.u32 %r10, [%rd0+4], 1; st.global.u32 [%rd11], %r10;
         .shared .b32 s[1]; setp.eq.u32 %p10, %r3, 0; @%p10 st.shared.u32 [s], 0; bar.sync 0;
         red.shared.max.u32 [s], %r0; bar.sync 0; @%p10 ld.shared.u32 %r11, [s];
         @%p10 red.global.add.u64 [%rd0+8], 1; @%p10 red.global.max.u32 [%rd0+16], %r11;",
    );
    let lab = Lab::default();
    let (sums, olds) = (lab.put(&[0u32; 5]), lab.blank(384 * 4));
    let outcome = lab.run(&ptx, "k", [4, 1, 1], [96, 1, 1], &[Arg::Ptr(sums), Arg::Ptr(olds)]);
    assert_eq!(outcome.reports, []);
    assert_eq!(lab.get::<u32>(sums, 5), [3 * 384, 384, 4, 0, 383]);
    let mut olds: Vec<u32> = lab.get(olds, 384);
    olds.sort();
    assert_eq!(olds, (0..384).collect::<Vec<_>>());
    // Two shared atomics and four global ones a thread or a block.
    assert_eq!(outcome.counters.atomics, 384 * 3 + 4 * 2);
}

#[test]
fn vectors_of_floats_are_added_element_by_element() {
    let one = |ty: &str| match ty {
        "f32" => "0x3F800000",
        "f16" => "0x3C00",
        "f16x2" => "0x3C003C00",
        "bf16" => "0x3F80",
        _ => "0x3F803F80",
    };
    for (ty, size, widths) in [
        ("f32", 4, &[2, 4][..]),
        ("f16", 2, &[2, 4, 8]),
        ("bf16", 2, &[2, 4, 8]),
        ("f16x2", 4, &[2, 4]),
        ("bf16x2", 4, &[2, 4]),
    ] {
        for &width in widths {
            let (r, wide) = if size == 2 { ("h", "b16") } else { ("r", "b32") };
            let noftz = if ty == "f32" { "" } else { ".noftz" };
            let list = |first: usize| {
                let names: Vec<_> = (first..first + width).map(|i| format!("%{r}{i}")).collect();
                format!("{{{}}}", names.join(", "))
            };
            let fill: String =
                (20..20 + width).map(|i| format!("mov.{wide} %{r}{i}, {};\n", one(ty))).collect();
            let stores: String = (0..width)
                .map(|i| format!("st.global.{wide} [%rd1+{}], %{r}{};\n", i * size, 10 + i))
                .collect();
            let body = format!(
                "{fill} red.global.add{noftz}.v{width}.{ty} [%rd0], {};
                 bar.warp.sync -1; setp.ne.u32 %p10, %r0, 0; @%p10 bra end;
                 atom.relaxed.gpu.global.add{noftz}.v{width}.{ty} {}, [%rd0], {};
                 {stores} end:",
                list(20),
                list(10),
                list(20)
            );
            let lab = Lab::default();
            let (sums, olds) = (lab.put(&[0u64; 2]), lab.put(&[0u64; 2]));
            let outcome =
                lab.run(&module(2, &body), "k", [1, 1, 1], [32, 1, 1], &[Arg::Ptr(sums), Arg::Ptr(olds)]);
            assert_eq!(outcome.reports, [], "{ty} v{width}");
            let numbers = |at: u64| -> Vec<f32> {
                let bytes = &lab.get::<u8>(at, 16)[..width * size];
                let halves = bytes.chunks(2).map(|b| u16::from_le_bytes([b[0], b[1]]));
                match ty {
                    "f32" => bytes.chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect(),
                    "f16" | "f16x2" => halves.map(|h| f16::from_bits(h).to_f32()).collect(),
                    _ => halves.map(|h| bf16::from_bits(h).to_f32()).collect(),
                }
            };
            let count = width * size / if ty == "f32" { 4 } else { 2 };
            assert_eq!(numbers(olds), vec![32.0; count], "{ty} v{width}: old values");
            assert_eq!(numbers(sums), vec![33.0; count], "{ty} v{width}");
        }
    }
}

#[test]
fn forms_that_do_not_exist_are_refused_with_a_reason() {
    for (text, why) in [
        ("atom.global.cas.b128 %rd10, [%rd0], %rd11, %rd12;", "128 bits"),
        ("atom.global.exch.b128 %rd10, [%rd0], %rd11;", "128 bits"),
        ("red.global.add.v8.f32 [%rd0], {%f1, %f2, %f3, %f4, %f5, %f6, %f7, %f8};", "up to 16 bytes"),
        ("red.global.add.v2.f32 [%rd0], {%f1, %f2, %f3};", "3 elements, not 2"),
        ("red.global.min.v2.f16 [%rd0], {%h1, %h2};", "not supported"),
        ("red.shared.add.v2.f32 [%r10], {%f1, %f2};", "in global memory"),
    ] {
        let lab = Lab::default();
        let error = Program::load(&module(1, text), &lab.memory, &lab.options).map(|_| ()).unwrap_err();
        assert!(error.text.contains(why), "{text}: {error}");
    }
}

/// Addresses of registered memory are those of the host: any alignment, and the end may be anywhere.
#[test]
fn atomics_on_memory_of_the_host() {
    let mut words = [0u32; 4];
    // SAFETY: bytes of the array, aligned to 2 and not to 4.
    let host = unsafe { words.as_mut_ptr().cast::<u8>().add(2) };
    let lab = Lab::default();
    // SAFETY: the array outlives the lab's use of it, and 6 of its bytes follow.
    unsafe { lab.memory.register(host, 6) };
    let body = "mov.b16 %h10, 0x3C00; red.global.add.noftz.f16 [%rd0], %h10; red.global.add.u32 [%rd0+2], 5;";
    let outcome = lab.run(&module(1, body), "k", [1, 1, 1], [1, 1, 1], &[Arg::Ptr(host as u64)]);
    assert_eq!(outcome.reports, []);
    assert_eq!((lab.get::<u16>(host as u64, 1), lab.get::<u32>(host as u64 + 2, 1)), (vec![0x3C00], vec![5]));
}
