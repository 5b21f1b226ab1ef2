//! `isspacep`: whether a generic address is in the window of a space.

use super::{Code, plain};
use crate::Result;
use crate::machine::step::{CODE_BASE, LOCAL_BASE, PARAM_BASE, SHARED_BASE, Step};
use crate::program::assembler::Symbol;
use crate::program::decoder::Decoder;
use crate::ptx::ast::Space;

pub(super) fn decode(d: &mut Decoder<'_, '_>) -> Result<Code> {
    d.expect(2..=2)?;
    let x = d.dst_p(d.operand(0)?)?;
    let a = d.src_d(d.operand(1)?)?;
    let space = d.space();
    let cluster = d.has("shared::cluster");
    let constants = constants(d);
    if space == Space::Generic {
        return Err(d.fail("it names no space"));
    }
    plain(move |s, m| {
        let at = s.warp.registers.d[a.0 as usize];
        let inside = s.lanes_where(m, |lane| {
            let address = at[lane];
            match space {
                Space::Shared => s.in_shared(address, cluster),
                Space::Local => (LOCAL_BASE..PARAM_BASE).contains(&address),
                Space::Param => (PARAM_BASE..CODE_BASE).contains(&address),
                Space::Const => s.in_allocation(&constants, address),
                // The window of the parameters of a kernel is inside the global one.
                _ => !(SHARED_BASE..PARAM_BASE).contains(&address) && !s.in_allocation(&constants, address),
            }
        });
        s.set_pred(x, inside, m);
    })
}

/// Where the constants of the module are: their space is a part of global memory here.
fn constants(d: &Decoder<'_, '_>) -> Vec<u64> {
    let addresses = d.asm.globals.values().filter_map(|symbol| match symbol {
        Symbol::Memory(Space::Const, at) => Some(*at),
        _ => None,
    });
    addresses.collect()
}

impl Step<'_> {
    /// Whether a generic address is in the shared memory of the own block, or of any of the cluster.
    fn in_shared(&self, address: u64, cluster: bool) -> bool {
        // The bits above an offset are 0 for the own block, else the rank of the block plus one.
        match (SHARED_BASE..LOCAL_BASE).contains(&address).then(|| (address - SHARED_BASE) >> 24) {
            None => false,
            Some(0) => true,
            Some(rank) if cluster => rank <= self.blocks.len() as u64,
            Some(rank) => rank == self.me as u64 + 1,
        }
    }

    /// Whether an address is in one of the allocations that start at `bases`.
    fn in_allocation(&self, bases: &[u64], address: u64) -> bool {
        let memory = self.run.memory;
        let after = memory.partition_point(|a| a.base <= address);
        match after.checked_sub(1).and_then(|i| memory.get(i)) {
            Some(a) => bases.contains(&a.base) && a.contains(address, 1),
            None => false,
        }
    }
}
