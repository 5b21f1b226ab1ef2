//! Memory order, and what hints at caches and schedulers: `fence`, `membar`, `nanosleep`, `prefetch`, ...

use super::{Code, plain};
use crate::Result;
use crate::machine::step::{Flow, Step};
use crate::program::decoder::Decoder;

pub(super) fn decode(d: &mut Decoder<'_, '_>) -> Result<Code> {
    match d.inst.name.as_str() {
        "fence" | "membar" => {
            let wide = wide(d);
            plain(move |s, _| publish(s, wide))
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

/// Whether the instruction has release semantics, and if so whether beyond its block.
pub(super) fn releases(d: &Decoder<'_, '_>) -> Option<bool> {
    (d.has("release") || d.has("acq_rel")).then(|| wide(d) || !d.has("cta"))
}

/// Makes everything the warp did and knows ready to be published by its next strong write: to its block, or
/// `wide`, to all.
pub(super) fn publish(s: &mut Step<'_>, wide: bool) {
    s.run.fences.store(true, std::sync::atomic::Ordering::Relaxed);
    let warp = s.warp.id as usize;
    let block = s.block();
    let linear = block.linear;
    block.clock.fence(linear, warp, wide);
}
