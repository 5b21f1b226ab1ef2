//! Variables of a module: memory, initial values, addresses of each other.

use std::collections::HashMap;
use std::sync::atomic::Ordering::Relaxed;

use super::Program;
use super::assembler::Symbol;
use crate::machine::memory::Memory;
use crate::ptx::ast::{InitValue, Module, Space, Variable};
use crate::{Code, Error, Result};

/// What the names of a module's variables stand for.
#[derive(Default)]
pub struct Variables {
    /// Global and constant memory.
    pub globals: HashMap<String, Symbol>,
    /// Shared memory: laid out by each kernel that names it.
    pub shared: HashMap<String, Variable>,
}

/// Allocates the variables of `module` and stores their initial values. `function` gives the address of a
/// function's name.
pub fn load(
    module: &Module,
    memory: &Memory,
    program: &mut Program,
    function: impl Fn(&str) -> Option<u64>,
) -> Result<Variables> {
    let mut variables = Variables::default();
    for v in &module.variables {
        match v.space {
            Space::Shared => {
                variables.shared.insert(v.name.clone(), v.clone());
            }
            Space::Global | Space::Const => {
                if v.external {
                    let text = format!("line {}: extern variable {} is defined nowhere", v.line, v.name);
                    return Err(Error::new(Code::SharedObjectSymbolNotFound, text));
                }
                let address = memory.allocate(v.bytes.max(1))?;
                program.variables.push((v.name.clone(), address, v.bytes));
                variables.globals.insert(v.name.clone(), Symbol::Memory(v.space, address));
                let allocation = memory.find(address, 1)?;
                allocation.clear();
                allocation.constant.store(v.space == Space::Const, Relaxed);
            }
            other => {
                let text = format!(
                    "line {}: module variable {} in {other:?} space is not supported",
                    v.line, v.name
                );
                return Err(Error::new(Code::InvalidPtx, text));
            }
        }
    }
    for v in module.variables.iter().filter(|v| !v.init.is_empty()) {
        let Some(Symbol::Memory(_, base)) = variables.globals.get(&v.name) else {
            let text = format!("line {}: shared variable {} cannot have an initial value", v.line, v.name);
            return Err(Error::new(Code::InvalidPtx, text));
        };
        for init in &v.init {
            let value = match &init.value {
                InitValue::Bits(bits) => *bits,
                InitValue::Address { symbol, offset, .. } => {
                    let address = match variables.globals.get(symbol) {
                        Some(Symbol::Memory(_, at)) => Some(*at),
                        _ => function(symbol),
                    };
                    let unknown = || {
                        Error::new(
                            Code::InvalidPtx,
                            format!("line {}: initial value names unknown `{symbol}`", v.line),
                        )
                    };
                    address.ok_or_else(unknown)?.wrapping_add_signed(*offset)
                }
            };
            let bytes = init.bytes.min(8);
            if init.offset + bytes > v.bytes {
                let text = format!("line {}: more initial values than {} holds", v.line, v.name);
                return Err(Error::new(Code::InvalidPtx, text));
            }
            memory.write(base + init.offset as u64, &value.to_le_bytes()[..bytes])?;
        }
    }
    Ok(variables)
}
