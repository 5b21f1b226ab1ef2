//! Moves: `mov` (with packing and unpacking of vectors), `cvta`, `selp`.

use super::{Code, plain};
use crate::Result;
use crate::machine::registers::{R, Reg, lanes};
use crate::machine::step::{LOCAL_BASE, PARAM_BASE, SHARED_BASE, Step};
use crate::program::decoder::{Base, Decoder};
use crate::ptx::ast::{Operand, Space, Type};

pub(super) fn decode(d: &mut Decoder<'_, '_>) -> Result<Code> {
    match d.inst.name.as_str() {
        "mov" => mov(d),
        "cvta" => cvta(d),
        "selp" => selp(d),
        _ => plain(|_, _| ()),
    }
}

fn mov(d: &mut Decoder<'_, '_>) -> Result<Code> {
    d.expect(2..=2)?;
    d.propagate = true;
    let (to, from) = (d.operand(0)?, d.operand(1)?);
    if let Some(clock) = Clock::named(from) {
        return clock.read(d, to);
    }
    match (to, from) {
        (Operand::Vector(parts), _) => unpack(d, parts, from),
        (_, Operand::Vector(parts)) => pack(d, to, parts),
        _ if d.ty()? == Type::Pred => {
            let (x, a) = (d.dst_p(to)?, d.src_p(from)?);
            plain(move |s, m| {
                let value = s.pred(a);
                s.set_pred(x, value, m);
            })
        }
        _ if d.ty()?.bytes() == 8 => {
            let (x, a) = (d.dst_d(to)?, d.src_d(from)?);
            plain(move |s, m| s.map1(x, a, m, |a| a))
        }
        _ => {
            let (x, a) = (d.dst_r(to)?, d.src_r(from)?);
            plain(move |s, m| s.map1(x, a, m, |a| a))
        }
    }
}

/// Bits of one part when `bytes` bytes are split into `parts`.
fn part_bits(d: &Decoder<'_, '_>, bytes: usize, parts: usize) -> Result<u32> {
    match bytes * 8 / parts.max(1) {
        bits @ (8 | 16 | 32) if bits * parts == bytes * 8 => Ok(bits as u32),
        _ => Err(d.fail(format!("{bytes} bytes cannot be split into {parts} parts"))),
    }
}

fn unpack(d: &mut Decoder<'_, '_>, parts: &[Operand], from: &Operand) -> Result<Code> {
    let bytes = d.ty()?.bytes();
    let bits = part_bits(d, bytes, parts.len())?;
    let to = parts.iter().map(|p| d.dst_r(p)).collect::<Result<Vec<R>>>()?;
    let low = u32::MAX >> (32 - bits);
    if bytes == 8 {
        let a = d.src_d(from)?;
        plain(move |s, m| {
            for (i, x) in to.iter().enumerate() {
                s.map1(*x, a, m, |a| (a >> (bits * i as u32)) as u32 & low);
            }
        })
    } else {
        let a = d.src_r(from)?;
        plain(move |s, m| {
            // The source may be among the destinations.
            let whole = s.warp.registers.r[a.0 as usize];
            for (i, x) in to.iter().enumerate() {
                s.set(*x, &whole.map(|a| (a >> (bits * i as u32)) & low), m);
            }
        })
    }
}

fn pack(d: &mut Decoder<'_, '_>, to: &Operand, parts: &[Operand]) -> Result<Code> {
    let bytes = d.ty()?.bytes();
    let bits = part_bits(d, bytes, parts.len())?;
    let from = parts.iter().map(|p| d.src_r(p)).collect::<Result<Vec<R>>>()?;
    let low = u32::MAX >> (32 - bits);
    let gather = move |s: &Step<'_>| {
        let mut whole = [0u64; 32];
        for (i, a) in from.iter().enumerate() {
            for (w, a) in whole.iter_mut().zip(&s.warp.registers.r[a.0 as usize]) {
                *w |= u64::from(a & low) << (bits * i as u32);
            }
        }
        whole
    };
    if bytes == 8 {
        let x = d.dst_d(to)?;
        plain(move |s, m| {
            let whole = gather(s);
            s.set(x, &whole, m);
        })
    } else {
        let x = d.dst_r(to)?;
        plain(move |s, m| {
            let whole = gather(s).map(|w| w as u32);
            s.set(x, &whole, m);
        })
    }
}

/// Registers that change while a thread runs.
#[derive(Clone, Copy)]
enum Clock {
    /// Instructions executed on this host thread so far: grows, and says nothing about time.
    Instructions { high: bool },
    /// Nanoseconds of the host's clock.
    Nanoseconds { high: bool },
}

impl Clock {
    fn named(operand: &Operand) -> Option<Clock> {
        let Operand::Name(name) = operand else { return None };
        Some(match name.as_str() {
            "%clock" | "%clock64" => Clock::Instructions { high: false },
            "%clock_hi" => Clock::Instructions { high: true },
            "%globaltimer" | "%globaltimer_lo" => Clock::Nanoseconds { high: false },
            "%globaltimer_hi" => Clock::Nanoseconds { high: true },
            _ => return None,
        })
    }

    fn now(self, s: &Step<'_>) -> u64 {
        let (value, high) = match self {
            Clock::Instructions { high } => (s.host.executed.iter().map(|e| e.0).sum(), high),
            Clock::Nanoseconds { high } => {
                let since = std::time::UNIX_EPOCH.elapsed().unwrap_or_default();
                (since.as_nanos() as u64, high)
            }
        };
        if high { value >> 32 } else { value }
    }

    fn read(self, d: &mut Decoder<'_, '_>, to: &Operand) -> Result<Code> {
        match d.dst(to, Type::B32)? {
            Reg::R(x) => plain(move |s, m| {
                let now = self.now(s) as u32;
                s.set(x, &[now; 32], m);
            }),
            Reg::D(x) => plain(move |s, m| {
                let now = self.now(s);
                s.set(x, &[now; 32], m);
            }),
            Reg::P(_) => Err(d.unsupported()),
        }
    }
}

/// `cvta` between a space and the generic addresses: adds or subtracts the start of the space's window.
fn cvta(d: &mut Decoder<'_, '_>) -> Result<Code> {
    d.expect(2..=2)?;
    let window = match d.space() {
        Space::Shared => SHARED_BASE,
        Space::Local => LOCAL_BASE,
        Space::Param => PARAM_BASE,
        _ => 0,
    };
    let window = if d.has("to") { window.wrapping_neg() } else { window };
    let to = d.operand(0)?;
    if d.ty()?.bytes() != 8 {
        return Err(d.fail("generic addresses have 64 bits"));
    }
    let x = d.dst_d(to)?;
    // The source is a register, or a variable with an offset.
    let from = match d.operand(1)? {
        Operand::NameOffset(name, offset) => Operand::Address(Box::new(Operand::Name(name.clone())), *offset),
        other => Operand::Address(Box::new(other.clone()), 0),
    };
    let address = d.address(&from)?;
    plain(move |s, m| {
        let at = s.addresses(&address).map(|a| a.wrapping_add(window));
        s.set(x, &at, m);
    })
}

fn selp(d: &mut Decoder<'_, '_>) -> Result<Code> {
    d.expect(4..=4)?;
    let ops: [&Operand; 4] = [d.operand(0)?, d.operand(1)?, d.operand(2)?, d.operand(3)?];
    if d.ty()?.bytes() == 8 {
        let (x, a, b, p) = (d.dst_d(ops[0])?, d.src_d(ops[1])?, d.src_d(ops[2])?, d.src_p(ops[3])?);
        plain(move |s, m| {
            let chosen = s.pred(p);
            let (a, b) = (s.warp.registers.d[a.0 as usize], s.warp.registers.d[b.0 as usize]);
            let picked = std::array::from_fn(|l| if chosen >> l & 1 != 0 { a[l] } else { b[l] });
            s.set(x, &picked, m);
        })
    } else {
        let (x, a, b, p) = (d.dst_r(ops[0])?, d.src_r(ops[1])?, d.src_r(ops[2])?, d.src_p(ops[3])?);
        plain(move |s, m| {
            let chosen = s.pred(p);
            let (a, b) = (s.warp.registers.r[a.0 as usize], s.warp.registers.r[b.0 as usize]);
            let picked = std::array::from_fn(|l| if chosen >> l & 1 != 0 { a[l] } else { b[l] });
            s.set(x, &picked, m);
        })
    }
}

impl Step<'_> {
    /// The addresses of a memory operand, for all lanes.
    #[inline(always)]
    pub fn addresses(&self, address: &crate::program::decoder::Address) -> [u64; 32] {
        let offset = address.offset;
        match address.base {
            Base::None => [offset as u64; 32],
            Base::R(r) => {
                self.warp.registers.r[r.0 as usize].map(|a| u64::from(a.wrapping_add(offset as u32)))
            }
            Base::D(d) => self.warp.registers.d[d.0 as usize].map(|a| a.wrapping_add_signed(offset)),
        }
    }

    /// The lanes for which `f` of the lane holds, among those of `mask`.
    pub fn lanes_where(&self, mask: u32, f: impl Fn(usize) -> bool) -> u32 {
        lanes(mask).filter(|l| f(*l)).fold(0, |m, l| m | 1 << l)
    }
}
