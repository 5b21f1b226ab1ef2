//! The arithmetic of PTX without the machine: pure functions of numbers.
//!
//! Everything here is called for each of the 32 lanes of a warp, in loops that are compiled once for each
//! level of SIMD. The common instructions are therefore branch-free, `#[inline(always)]`, and take their
//! modifiers as plain arguments: with constants there, the branches on them vanish and the loop vectorises.
//! The rare ones (directed rounding in f64 above all) go through [`exact`], which is slow and obviously right.
//!
//! NaNs follow the PTX manual: every f32 result that is NaN is `0x7fffffff`, every f16 or bf16 one `0x7fff`;
//! f64 keeps the payload of its operand.

pub mod approx;
pub mod convert;
pub mod exact;
pub mod float;
pub mod fp8;
pub mod half;
pub mod half_math;
pub mod integer_matrix;
pub mod minmax;
pub mod tensor;

/// A rounding mode of PTX.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Round {
    /// `.rn`, `.rni`: to the nearest, ties to even.
    Nearest,
    /// `.rna`: to the nearest, ties away from zero.
    Away,
    /// `.rz`, `.rzi`: toward zero.
    Zero,
    /// `.rm`, `.rmi`: toward negative infinity.
    Down,
    /// `.rp`, `.rpi`: toward positive infinity.
    Up,
}

impl Round {
    /// The mode of a PTX modifier without its dot, for floats (`"rn"`) and for integers (`"rni"`) alike.
    pub fn parse(name: &str) -> Option<Round> {
        Some(match name {
            "rn" | "rni" => Round::Nearest,
            "rna" => Round::Away,
            "rz" | "rzi" => Round::Zero,
            "rm" | "rmi" => Round::Down,
            "rp" | "rpi" => Round::Up,
            _ => return None,
        })
    }
}
