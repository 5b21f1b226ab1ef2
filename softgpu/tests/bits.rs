//! Logic, shifts and fields of bits against plain definitions.

mod common;

use common::check::{check, check_body, check_pair};
use common::lab::{Arg, Lab, module};

#[test]
fn logic() {
    for (ty, reg) in [("pred", "p"), ("b16", "h"), ("b32", "r"), ("b64", "d")] {
        check(&format!("and.{ty} {reg}, {reg}, {reg}"), |[a, b, ..]| a & b);
        check(&format!("or.{ty} {reg}, {reg}, {reg}"), |[a, b, ..]| a | b);
        check(&format!("xor.{ty} {reg}, {reg}, {reg}"), |[a, b, ..]| a ^ b);
        check(&format!("not.{ty} {reg}, {reg}"), |[a, ..]| !a);
        if reg != "p" {
            check(&format!("cnot.{ty} {reg}, {reg}"), |[a, ..]| u64::from(a == 0));
        }
    }
    check("and.b32 r, r, -16", |[a, ..]| a & !15);
    check("or.b16 h, h, -256", |[a, ..]| a | 0xFF00);
    check("xor.b64 d, d, -1", |[a, ..]| !a);
    check("or.pred p, p, !p", |[a, b, ..]| a | !b);
}

#[test]
fn every_table_of_three_bits() {
    let bit = |lut: u64, [a, b, c, _]: [u64; 4], i: usize| {
        lut >> ((a >> i & 1) << 2 | (b >> i & 1) << 1 | c >> i & 1) & 1
    };
    let word = move |lut: u64, inputs| (0..32).map(|i| bit(lut, inputs, i) << i).sum::<u64>();
    // Sixteen tables in a kernel.
    for first in (0..256).step_by(16) {
        let one =
            |lut| format!("lop3.b32 %r13, %r10, %r11, %r12, {lut:#x}; mad.lo.s32 %r20, %r20, 31, %r13; ");
        let body: String = (first..first + 16).map(one).collect();
        check_body("rrr", "r", &format!("mov.u32 %r20, 0; {body}"), |inputs| {
            [(first..first + 16)
                .fold(0, |sum: u64, lut| sum.wrapping_mul(31).wrapping_add(word(lut, inputs)))]
        });
    }
    check("lop3.b32 r, r, r, r, 0x6a", |inputs| word(0x6A, inputs));
    for lut in [0x96, 0xC0] {
        // The fourth input is the predicate.
        check_pair(&format!("lop3.or.b32 r|p, r, r, r, {lut}, p"), |inputs| {
            let value = word(lut, inputs);
            [value, u64::from(value != 0) | inputs[3]]
        });
        check_pair(&format!("lop3.and.b32 r|p, r, r, r, {lut}, !p"), |inputs| {
            let value = word(lut, inputs);
            [value, u64::from(value != 0) & (1 - inputs[3])]
        });
    }
}

#[test]
fn shifts() {
    for (reg, bits) in [("h", 16u32), ("r", 32), ("d", 64)] {
        let out = move |n: u64| n >= u64::from(bits);
        check(&format!("shl.b{bits} {reg}, {reg}, r"), |[a, n, ..]| if out(n) { 0 } else { a << n });
        for ty in ["u", "b"] {
            check(&format!("shr.{ty}{bits} {reg}, {reg}, r"), |[a, n, ..]| if out(n) { 0 } else { a >> n });
        }
        check(&format!("shr.s{bits} {reg}, {reg}, r"), |[a, n, ..]| {
            let unused = 64 - bits;
            (((a << unused) as i64 >> unused) >> n.min(63)) as u64
        });
    }
    check("shl.b32 r, r, -1", |_| 0);
}

#[test]
fn funnel_shifts() {
    for (mode, amount) in [("wrap", (|n| n & 31) as fn(u64) -> u64), ("clamp", |n| n.min(32))] {
        check(&format!("shf.l.{mode}.b32 r, r, r, r"), |[a, b, n, _]| {
            let joined = u128::from(b) << 32 | u128::from(a);
            (joined << amount(n) >> 32) as u64
        });
        check(&format!("shf.r.{mode}.b32 r, r, r, r"), |[a, b, n, _]| (b << 32 | a) >> amount(n));
    }
}

#[test]
fn counting_and_finding() {
    for (bits, reg) in [(32u32, "r"), (64, "d")] {
        let set = move |a: u64| (0..bits).filter(move |i| a >> i & 1 != 0);
        let signed = move |a: u64| if a >> (bits - 1) != 0 { !a } else { a };
        let found = move |a: u64, shift: bool| match set(a).next_back() {
            None => u64::MAX,
            Some(i) => u64::from(if shift { bits - 1 - i } else { i }),
        };
        check(&format!("popc.b{bits} r, {reg}"), |[a, ..]| set(a).count() as u64);
        check(&format!("clz.b{bits} r, {reg}"), |[a, ..]| {
            set(a).next_back().map_or(bits, |i| bits - 1 - i).into()
        });
        check(&format!("brev.b{bits} {reg}, {reg}"), |[a, ..]| set(a).map(|i| 1 << (bits - 1 - i)).sum());
        check(&format!("bfind.u{bits} r, {reg}"), |[a, ..]| found(a, false));
        check(&format!("bfind.s{bits} r, {reg}"), |[a, ..]| found(signed(a), false));
        check(&format!("bfind.shiftamt.u{bits} r, {reg}"), |[a, ..]| found(a, true));
        check(&format!("bfind.shiftamt.s{bits} r, {reg}"), |[a, ..]| found(signed(a), true));
    }
}

/// The loop of the manual.
fn find_nth_set(mask: u64, base: u64, offset: i32) -> u64 {
    let set = |i: i64| (0..32).contains(&i) && mask >> i & 1 != 0;
    let mut position = base as i64;
    if offset == 0 {
        return if set(position) { base } else { u64::MAX };
    }
    let mut count = i64::from(offset.unsigned_abs()) - 1;
    while (0..32).contains(&position) {
        if set(position) {
            if count == 0 {
                return position as u64;
            }
            count -= 1;
        }
        position += i64::from(offset.signum());
    }
    u64::MAX
}

#[test]
fn nth_set_bit() {
    check("fns.b32 r, r, r, r", |[mask, base, n, _]| find_nth_set(mask, base, n as i32));
    let body = "and.b32 %r11, %r11, 31; and.b32 %r12, %r12, 7; sub.s32 %r13, 0, %r12;
        fns.b32 %r20, %r10, %r11, %r12; fns.b32 %r21, %r10, %r11, %r13;";
    check_body("rrr", "rr", body, |[mask, base, n, _]| {
        let (base, n) = (base & 31, (n & 7) as i32);
        [find_nth_set(mask, base, n), find_nth_set(mask, base, -n)]
    });
}

#[test]
fn fields() {
    for (bits, reg) in [(32u64, "r"), (64, "d")] {
        let extracted = move |a: u64, at: u64, length: u64, signed: bool| {
            let (at, length) = (at & 0xFF, length & 0xFF);
            let bit = |i: u64| a >> i & 1;
            let sign = if signed && length > 0 { bit((at + length - 1).min(bits - 1)) } else { 0 };
            let one = |i: u64| if i < length && at + i < bits { bit(at + i) } else { sign };
            (0..bits).map(|i| one(i) << i).sum::<u64>()
        };
        check(&format!("bfe.u{bits} {reg}, {reg}, r, r"), |[a, at, n, _]| extracted(a, at, n, false));
        check(&format!("bfe.s{bits} {reg}, {reg}, r, r"), |[a, at, n, _]| extracted(a, at, n, true));
        check(&format!("bfi.b{bits} {reg}, {reg}, {reg}, r, r"), |[a, b, at, length]| {
            let (at, length) = (at & 0xFF, length & 0xFF);
            let inside = |i: u64| i >= at && i < at + length;
            (0..bits).map(|i| (if inside(i) { a >> (i - at) } else { b >> i } & 1) << i).sum::<u64>()
        });
    }
}

#[test]
fn masks_and_extensions() {
    let mask = |at: u64, length: u64| (0..32).filter(|i| *i >= at && *i < at + length).map(|i| 1 << i).sum();
    check("bmsk.clamp.b32 r, r, r", |[at, length, ..]| mask(at, length));
    check("bmsk.wrap.b32 r, r, r", |[at, length, ..]| mask(at & 31, length & 31));
    let extended = |a: u64, n: u64, signed: bool| match n {
        0 => 0,
        32.. => a,
        _ if signed && a >> (n - 1) & 1 != 0 => a | u64::MAX << n,
        _ => a & !(u64::MAX << n),
    };
    check("szext.clamp.u32 r, r, r", |[a, n, ..]| extended(a, n, false));
    check("szext.clamp.s32 r, r, r", |[a, n, ..]| extended(a, n, true));
    check("szext.wrap.u32 r, r, r", |[a, n, ..]| extended(a, n & 31, false));
    check("szext.wrap.s32 r, r, r", |[a, n, ..]| extended(a, n & 31, true));
}

#[test]
fn permuted_bytes() {
    let bytes = |a: u64, b: u64| (b << 32 | a).to_le_bytes();
    let word = |bytes: [u8; 4]| u64::from(u32::from_le_bytes(bytes));
    let general = move |a: u64, b: u64, c: u64| {
        word(std::array::from_fn(|i| {
            let pick = (c >> (4 * i)) as usize & 15;
            let byte = bytes(a, b)[pick & 7];
            if pick < 8 {
                byte
            } else if byte >> 7 != 0 {
                0xFF
            } else {
                0
            }
        }))
    };
    check("prmt.b32 r, r, r, r", |[a, b, c, _]| general(a, b, c));
    check("prmt.b32 r, r, r, 0x5410", |[a, b, ..]| general(a, b, 0x5410));
    check("prmt.b32 r, r, 0, 0x8b3f", |[a, ..]| general(a, 0, 0x8B3F));
    let mode = |name: &str, pick: fn(usize, usize) -> usize| {
        check(&format!("prmt.b32.{name} r, r, r, r"), |[a, b, c, _]| {
            word(std::array::from_fn(|i| bytes(a, b)[pick(c as usize & 3, i)]))
        });
    };
    mode("f4e", |c, i| c + i);
    mode("b4e", |c, i| (8 + c - i) % 8);
    mode("rc8", |c, _| c);
    mode("ecl", |c, i| i.max(c));
    mode("ecr", |c, i| i.min(c));
    mode("rc16", |c, i| 2 * (c & 1) + i % 2);
}

#[test]
fn spaces_of_addresses() {
    let one = |bit: usize, space: &str, register: &str| {
        format!(
            "isspacep.{space} %p10, {register}; selp.b32 %r11, {}, 0, %p10; or.b32 %r10, %r10, %r11;\n",
            1 << bit
        )
    };
    let spaces = ["global", "shared", "local", "const", "shared::cta", "shared::cluster", "param"];
    let mut body = String::from(
        ".shared .align 4 .b8 mine[64]; .local .align 4 .b8 own[64];
         mov.u64 %rd10, mine; cvta.shared.u64 %rd10, %rd10; mov.u64 %rd11, own; cvta.local.u64 %rd11, %rd11;
         mov.u64 %rd12, fixed; cvta.const.u64 %rd12, %rd12; mov.u64 %rd13, %rd0; mov.u64 %rd14, p0;
         cvta.param.u64 %rd14, %rd14;\n",
    );
    for (k, register) in ["%rd10", "%rd11", "%rd12", "%rd13", "%rd14"].iter().enumerate() {
        body += "mov.u32 %r10, 0;\n";
        body.extend(spaces.iter().enumerate().map(|(bit, space)| one(bit, space, register)));
        body += &format!("st.global.u32 [%rd0+{}], %r10;\n", 4 * k);
    }
    let ptx = module(1, &body).replace(".visible", ".const .align 4 .b8 fixed[64];\n.visible");
    let lab = Lab::default();
    let out = lab.blank(20);
    assert_eq!(lab.run(&ptx, "k", [1; 3], [1; 3], &[Arg::Ptr(out)]).reports, []);
    let names =
        |bits: u32| spaces.iter().enumerate().filter(|(i, _)| bits >> i & 1 != 0).map(|(_, s)| *s).collect();
    let found: Vec<Vec<&str>> = lab.get::<u32>(out, 5).into_iter().map(names).collect();
    let shared = vec!["shared", "shared::cta", "shared::cluster"];
    assert_eq!(found, [shared, vec!["local"], vec!["const"], vec!["global"], vec!["global", "param"]]);
}
