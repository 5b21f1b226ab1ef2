//! Functions that the system provides to device code: `vprintf` and `__assertfail`.

use super::Code;
use crate::Result;
use crate::machine::access::Manner;
use crate::machine::registers::lanes;
use crate::machine::step::{Fault, Flow, Step};
use crate::program::decoder::Decoder;
use crate::ptx::ast::Space;
use crate::sanitizer::report::Kind;

/// The code of a call to a system function; `None` if it is not one.
pub(super) fn decode(
    d: &Decoder<'_, '_>,
    name: &str,
    arguments: &[usize],
    returns: &[usize],
) -> Result<Option<Code>> {
    let arguments = arguments.to_vec();
    let result = returns.first().copied();
    match (name, arguments.len()) {
        ("vprintf", 2) => Ok(Some(Box::new(move |s, mask| {
            for lane in lanes(mask) {
                let (format, values) = (argument(s, lane, arguments[0]), argument(s, lane, arguments[1]));
                let text = text(s, lane, format)?;
                let printed = print(s, lane, &text, values)?;
                print!("{printed}");
                if let Some(at) = result {
                    let size = s.run.launch.kernel.local_bytes;
                    let frame = &mut s.warp.local[lane * size..(lane + 1) * size];
                    // Nothing where the caller declared less than the four bytes.
                    if let Some(to) = frame.get_mut(at..at + 4) {
                        to.copy_from_slice(&(printed.len() as i32).to_le_bytes());
                    }
                }
            }
            Ok(Flow::Next)
        }))),
        ("__assertfail", 5) => Ok(Some(Box::new(move |s, mask| {
            let lane = mask.trailing_zeros() as usize;
            let message = argument(s, lane, arguments[0]);
            let file = argument(s, lane, arguments[1]);
            let line = argument(s, lane, arguments[2]) as u32;
            let function = argument(s, lane, arguments[3]);
            let (message, file, function) =
                (text(s, lane, message)?, text(s, lane, file)?, text(s, lane, function)?);
            Err(s.fault(Kind::Assert, lane, || {
                format!("{file}:{line}: {function}: assertion `{message}` failed")
            }))
        }))),
        ("vprintf" | "__assertfail", n) => Err(d.fail(format!("{name} with {n} arguments"))),
        _ => Ok(None),
    }
}

/// Eight bytes of the caller's frame (fewer where it ends).
fn argument(s: &Step<'_>, lane: usize, at: usize) -> u64 {
    let size = s.run.launch.kernel.local_bytes;
    let frame = &s.warp.local[lane * size..(lane + 1) * size];
    let mut word = [0; 8];
    let bytes = &frame[at.min(size)..(at + 8).min(size)];
    word[..bytes.len()].copy_from_slice(bytes);
    u64::from_le_bytes(word)
}

fn bytes<const N: usize>(s: &mut Step<'_>, lane: usize, address: u64) -> Result<[u8; N], Fault> {
    let manner = Manner { bytes: N, align: 1, strong: false };
    let place = s.place(Space::Generic, address, lane, manner)?;
    let mut out = [0; N];
    s.load_lane(place, lane, manner, &mut out);
    Ok(out)
}

/// A text that ends with 0, at most 4096 bytes of it.
fn text(s: &mut Step<'_>, lane: usize, address: u64) -> Result<String, Fault> {
    let mut out = Vec::new();
    while out.len() < 4096 {
        match bytes::<1>(s, lane, address.wrapping_add(out.len() as u64))? {
            [0] => break,
            [b] => out.push(b),
        }
    }
    Ok(String::from_utf8_lossy(&out).into_owned())
}

/// What `printf` prints: conversions take 4 or 8 bytes from `values`, each aligned to its size.
fn print(s: &mut Step<'_>, lane: usize, format: &str, values: u64) -> Result<String, Fault> {
    let mut out = String::new();
    let mut rest = format;
    let mut at = 0u64;
    while let Some(start) = rest.find('%') {
        out.push_str(&rest[..start]);
        rest = &rest[start + 1..];
        if let Some(after) = rest.strip_prefix('%') {
            out.push('%');
            rest = after;
            continue;
        }
        let Some(end) = rest.find(|c: char| c.is_ascii_alphabetic() && !"lhzjtL".contains(c)) else { break };
        let (flags, conversion) = (&rest[..end], rest.as_bytes()[end]);
        rest = &rest[end + 1..];
        let wide = flags.contains(['l', 'z', 'j', 't']) || b"eEfFgGaAsp".contains(&conversion);
        let value = if wide {
            at = at.next_multiple_of(8) + 8;
            u64::from_le_bytes(bytes::<8>(s, lane, values.wrapping_add(at - 8))?)
        } else {
            at = at.next_multiple_of(4) + 4;
            u64::from(u32::from_le_bytes(bytes::<4>(s, lane, values.wrapping_add(at - 4))?))
        };
        let string = if conversion == b's' { text(s, lane, value)? } else { String::new() };
        out.push_str(&convert(flags, conversion, value, wide, &string));
    }
    out.push_str(rest);
    Ok(out)
}

/// One conversion with its width, precision and the flags `-`, `0`, `+`.
fn convert(flags: &str, conversion: u8, value: u64, wide: bool, string: &str) -> String {
    let digits: String = flags.chars().filter(|c| c.is_ascii_digit() || *c == '.').collect();
    let (width, precision) = digits.split_once('.').map_or((digits.as_str(), None), |(w, p)| (w, Some(p)));
    let zero = width.starts_with('0') && !flags.contains('-');
    let width = width.parse::<usize>().unwrap_or(0).min(256);
    let precision = precision.map(|p| p.parse::<usize>().unwrap_or(0).min(64));
    let float = f64::from_bits(value);
    let signed = if wide { value as i64 } else { i64::from(value as i32) };
    let mut body = match conversion {
        b'd' | b'i' => signed.to_string(),
        b'u' => value.to_string(),
        b'x' => format!("{value:x}"),
        b'X' => format!("{value:X}"),
        b'o' => format!("{value:o}"),
        b'p' => format!("{value:#x}"),
        b'c' => char::from(value as u8).to_string(),
        b's' => string.chars().take(precision.unwrap_or(usize::MAX)).collect(),
        b'e' | b'E' => exponent(float, precision.unwrap_or(6)),
        b'g' | b'G' => format!("{float}"),
        _ => format!("{float:.*}", precision.unwrap_or(6)),
    };
    if flags.contains('+') && !body.starts_with('-') && b"difFeEgG".contains(&conversion) {
        body.insert(0, '+');
    }
    let missing = width.saturating_sub(body.chars().count());
    match () {
        _ if flags.contains('-') => body + &" ".repeat(missing),
        _ if zero => {
            let sign = body.len() - body.trim_start_matches(['-', '+']).len();
            body.insert_str(sign, &"0".repeat(missing));
            body
        }
        _ => " ".repeat(missing) + &body,
    }
}

/// `%e`: two digits of exponent at least, with its sign.
fn exponent(value: f64, precision: usize) -> String {
    let text = format!("{value:.precision$e}");
    match text.split_once('e') {
        Some((mantissa, power)) => {
            let power: i32 = power.parse().unwrap_or(0);
            format!("{mantissa}e{}{:02}", if power < 0 { '-' } else { '+' }, power.abs())
        }
        None => text,
    }
}
