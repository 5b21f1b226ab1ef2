//! Barriers of a block and of a warp: `bar`, `barrier`, `bar.warp.sync`.

use super::Code;
use crate::Result;
use crate::machine::registers::R;
use crate::machine::step::{Flow, Step};
use crate::machine::warp::{State, Verdict};
use crate::program::decoder::{Decoder, Pred};
use crate::ptx::ast::Type;
use crate::sanitizer::report::Kind;

pub(super) fn decode(d: &mut Decoder<'_, '_>) -> Result<Code> {
    if d.has("warp") {
        d.expect(1..=1)?;
        let members = d.src_r(d.operand(0)?)?;
        return Ok(Box::new(move |s, mask| warp_sync(s, members, mask)));
    }
    if d.has("cluster") {
        return super::cluster::barrier(d);
    }
    let Some(kind) = d.one_of(&["sync", "arrive", "red"]) else { return Err(d.unsupported()) };
    let mut at = 0;
    let mut verdict = None;
    if kind == 2 {
        let to = d.operand(0)?;
        at = 1;
        verdict = Some(match (d.ty()?, d.one_of(&["and", "or"])) {
            (Type::Pred, Some(0)) => Verdict::All(d.dst_p(to)?),
            (Type::Pred, Some(1)) => Verdict::Any(d.dst_p(to)?),
            _ if d.has("popc") => Verdict::Count(d.dst_r(to)?),
            _ => return Err(d.unsupported()),
        });
    }
    let id = d.src_r(d.operand(at)?)?;
    let last = if kind == 2 { d.count() - 1 } else { d.count() };
    let threads = if at + 1 < last { Some(d.src_r(d.operand(at + 1)?)?) } else { None };
    let vote = if kind == 2 { Some(d.src_p(d.operand(last)?)?) } else { None };
    let aligned = d.inst.name == "bar" || d.has("aligned");
    let call = Call { id, threads, waits: kind != 1, aligned, verdict, vote };
    Ok(Box::new(move |s, mask| call.arrive(s, mask)))
}

#[derive(Clone, Copy)]
struct Call {
    id: R,
    threads: Option<R>,
    waits: bool,
    /// Whether all threads of a warp have to execute it together: `bar` is short for `barrier.aligned`.
    aligned: bool,
    verdict: Option<Verdict>,
    vote: Option<Pred>,
}

impl Call {
    fn arrive(self, s: &mut Step<'_>, mask: u32) -> crate::machine::step::Execution {
        if mask != s.warp.alive {
            return Ok(Flow::Wait);
        }
        let first = mask.trailing_zeros() as usize;
        if self.aligned && mask != s.warp.born {
            let gone = s.warp.born & !mask;
            s.report(Kind::Divergent, first, || {
                format!("lanes {gone:#010x} of the warp ended before a barrier that the others execute")
            });
        }
        let registers = &s.warp.registers;
        let id = registers.r[self.id.0 as usize][first];
        let threads = self.threads.map(|r| registers.r[r.0 as usize][first]);
        if let Some(n) = threads
            && (n == 0 || !n.is_multiple_of(32))
        {
            return Err(
                s.fault(Kind::Illegal, first, || format!("a barrier for {n} threads: not a multiple of 32"))
            );
        }
        let votes = self.vote.map_or((0, 0), |p| ((s.pred(p) & mask).count_ones(), mask.count_ones()));
        let warp = s.warp.id;
        let arrived = s.block().arrive(id, warp, threads.map(|n| n / 32), self.waits, votes);
        if let Err(why) = arrived {
            return Err(s.fault(Kind::Illegal, first, || why));
        }
        if self.waits {
            s.warp.state = State::Barrier(id, self.verdict.map(|v| (v, mask)));
            Ok(Flow::Block)
        } else {
            Ok(Flow::Next)
        }
    }
}

fn warp_sync(s: &mut Step<'_>, members: R, mask: u32) -> crate::machine::step::Execution {
    let members = s.warp.registers.r[members.0 as usize];
    let ready = s.converged(&members, mask);
    if ready != 0 {
        let warp = s.warp.id as usize;
        s.block().clock.warp_barrier(warp, ready);
    }
    Ok(match ready {
        _ if ready == mask => Flow::Next,
        0 => Flow::Wait,
        _ => Flow::Partial(ready),
    })
}
