//! Memory order, and what hints at caches and schedulers: `fence`, `membar`, `nanosleep`, `prefetch`, ...

use super::{Code, plain};
use crate::Result;
use crate::machine::step::{Flow, Step};
use crate::program::decoder::Decoder;

pub(super) fn decode(d: &mut Decoder<'_, '_>) -> Result<Code> {
    match d.inst.name.as_str() {
        "fence" | "membar" => {
            if wide(d) {
                plain(|s, _| publish(s))
            } else {
                // Inside a block, barriers order; a fence alone does not.
                plain(|_, _| ())
            }
        }
        "nanosleep" => {
            d.src_r(d.operand(0)?)?;
            Ok(Box::new(|_, _| Ok(Flow::Yield)))
        }
        "createpolicy" => {
            let x = d.dst_d(d.operand(0)?)?;
            plain(move |s, m| s.set(x, &[0; 32], m))
        }
        // Hints without effect on results.
        "prefetch" | "prefetchu" | "discard" | "applypriority" | "griddepcontrol" | "setmaxnreg"
        | "pmevent" => plain(|_, _| ()),
        _ => Err(d.unsupported()),
    }
}

/// Whether the scope reaches beyond the block.
fn wide(d: &Decoder<'_, '_>) -> bool {
    ["gpu", "gl", "sys", "cluster"].iter().any(|m| d.has(m))
}

/// Whether the instruction has release semantics beyond its block.
pub(super) fn releases(d: &Decoder<'_, '_>) -> bool {
    (d.has("release") || d.has("acq_rel")) && (wide(d) || !d.has("cta"))
}

/// Makes everything the block did so far ready to be published by its next strong access.
pub(super) fn publish(s: &mut Step<'_>) {
    s.run.fences.store(true, std::sync::atomic::Ordering::Relaxed);
    let block = s.block();
    let linear = block.linear;
    block.clock.fence(linear);
}
