//! 8 x 8 matrices of 16-bit elements between shared memory and a warp: `ldmatrix`, `stmatrix`, `movmatrix`.
//!
//! Lane `8 q + i` gives the address of row `i` of matrix `q`; lane `l` holds the elements `2 (l % 4)` and
//! `2 (l % 4) + 1` of row `l / 4`, or of the transpose.

use super::Code;
use crate::Result;
use crate::machine::access::Manner;
use crate::machine::registers::R;
use crate::machine::step::{Execution, Fault, Flow, Step};
use crate::program::decoder::{Address, Decoder};
use crate::ptx::ast::Space;
use crate::sanitizer::report::Kind;

/// One matrix, row after row.
type Matrix = [[u16; 8]; 8];

pub(super) fn decode(d: &mut Decoder<'_, '_>) -> Result<Code> {
    if !d.has("sync") || !d.has("aligned") || !d.has("m8n8") || !d.has("b16") {
        return Err(d.unsupported());
    }
    let transposed = d.has("trans");
    if d.inst.name == "movmatrix" {
        d.expect(2..=2)?;
        let (x, a) = (d.dst_r(d.operand(0)?)?, d.src_r(d.operand(1)?)?);
        return Ok(Box::new(move |s, mask| {
            if let Some(wait) = whole_warp(s, mask) {
                return Ok(wait);
            }
            let matrix = collect(&s.warp.registers.r[a.0 as usize], false);
            s.set(x, &spread(&matrix, true), mask);
            Ok(Flow::Next)
        }));
    }
    let load = d.inst.name == "ldmatrix";
    let count = d.one_of(&["x1", "x2", "x4"]).map(|i| 1usize << i).ok_or_else(|| d.unsupported())?;
    let (values, memory) = if load { (0, 1) } else { (1, 0) };
    let parts = d.vector(values)?;
    if parts.len() != count {
        return Err(d.fail(format!("{} registers for {count} matrices", parts.len())));
    }
    let registers =
        parts.iter().map(|p| if load { d.dst_r(p) } else { d.src_r(p) }).collect::<Result<Vec<R>>>()?;
    let before = d.uses.len();
    let address = d.address(d.operand(memory)?)?;
    // Only the first 8 lanes for each matrix give an address: the others may hold anything.
    let addresses = d.uses.split_off(before);
    if count == 4 {
        d.uses.extend(addresses);
    }
    let space = d.access_space(&address);
    let op = Rows { registers, address, space, transposed };
    Ok(if load {
        Box::new(move |s, mask| op.load(s, mask))
    } else {
        Box::new(move |s, mask| op.store(s, mask))
    })
}

/// Lanes of a warp have to come together for an `.aligned` instruction. Gives how to wait for the rest, if some
/// are elsewhere; reports it when some have ended.
pub(super) fn whole_warp(s: &mut Step<'_>, mask: u32) -> Option<Flow> {
    if mask != s.warp.alive {
        return Some(Flow::Wait);
    }
    if mask != u32::MAX {
        s.report(Kind::Divergent, mask.trailing_zeros() as usize, || {
            format!("only lanes {mask:#010x} are left for an .aligned instruction")
        });
    }
    None
}

struct Rows {
    registers: Vec<R>,
    address: Address,
    space: Space,
    transposed: bool,
}

const ROW: Manner = Manner { bytes: 16, align: 16, strong: false };

impl Rows {
    fn load(&self, s: &mut Step<'_>, mask: u32) -> Execution {
        if let Some(wait) = whole_warp(s, mask) {
            return Ok(wait);
        }
        let at = s.addresses(&self.address);
        for (q, x) in self.registers.iter().enumerate() {
            s.count_request(self.space, &at, 0xFF << (8 * q), 16);
            let mut matrix = [[0; 8]; 8];
            for (i, row) in matrix.iter_mut().enumerate() {
                let lane = 8 * q + i;
                let mut bytes = [0; 16];
                let place = s.place(self.space, at[lane], lane, ROW)?;
                s.load_lane(place, lane, ROW, &mut bytes);
                *row = std::array::from_fn(|c| u16::from_le_bytes([bytes[2 * c], bytes[2 * c + 1]]));
            }
            s.set(*x, &spread(&matrix, self.transposed), mask);
        }
        Ok(Flow::Next)
    }

    fn store(&self, s: &mut Step<'_>, mask: u32) -> Result<Flow, Fault> {
        if let Some(wait) = whole_warp(s, mask) {
            return Ok(wait);
        }
        let at = s.addresses(&self.address);
        for (q, a) in self.registers.iter().enumerate() {
            s.count_request(self.space, &at, 0xFF << (8 * q), 16);
            let matrix = collect(&s.warp.registers.r[a.0 as usize], self.transposed);
            for (i, row) in matrix.iter().enumerate() {
                let lane = 8 * q + i;
                let mut bytes = [0; 16];
                for (pair, value) in bytes.chunks_exact_mut(2).zip(row) {
                    pair.copy_from_slice(&value.to_le_bytes());
                }
                let place = s.place(self.space, at[lane], lane, ROW)?;
                s.store_lane(place, lane, ROW, &bytes)?;
            }
        }
        Ok(Flow::Next)
    }
}

/// A matrix as the lanes of a register.
fn spread(matrix: &Matrix, transposed: bool) -> [u32; 32] {
    std::array::from_fn(|lane| {
        let (row, column) = (lane / 4, 2 * (lane % 4));
        let (low, high) = if transposed {
            (matrix[column][row], matrix[column + 1][row])
        } else {
            (matrix[row][column], matrix[row][column + 1])
        };
        u32::from(low) | u32::from(high) << 16
    })
}

/// The matrix that the lanes of a register hold.
fn collect(lanes: &[u32; 32], transposed: bool) -> Matrix {
    let mut matrix = [[0; 8]; 8];
    for (lane, pair) in lanes.iter().enumerate() {
        let (row, column) = (lane / 4, 2 * (lane % 4));
        for (i, value) in [*pair as u16, (pair >> 16) as u16].into_iter().enumerate() {
            let to = if transposed { &mut matrix[column + i][row] } else { &mut matrix[row][column + i] };
            *to = value;
        }
    }
    matrix
}
