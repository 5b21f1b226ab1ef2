//! Initial values of variables.

use super::ast::{Init, InitValue, Type};
use super::constant::Constant;
use super::lexer::Kind;
use super::parser::{Parser, error_at};
use super::variable::{Element, TOO_LARGE, most_bytes};
use crate::Result;

/// The initial values of one variable while they are read.
pub(super) struct Values<'a> {
    element: &'a Element,
    /// Bytes of the whole (of one row, where the first size is open), of its parts, down to one scalar.
    pub(super) strides: &'a [usize],
    /// The values so far.
    pub(super) init: Vec<Init>,
}

impl<'a> Values<'a> {
    pub(super) fn new(element: &'a Element, strides: &'a [usize]) -> Self {
        Self { element, strides, init: Vec::new() }
    }

    /// Reads what stands behind `=`, and returns the size of the variable; `open` says that the number of
    /// values decides over it.
    pub(super) fn read(&mut self, parser: &mut Parser, open: bool) -> Result<usize> {
        let whole = self.strides.first().copied().unwrap_or(0);
        if open {
            // The last row counts in full, even where it was not filled.
            return Ok(self.braces(parser, 0, usize::MAX, 0)?.next_multiple_of(whole.max(1)));
        }
        if self.strides.len() == 1 {
            self.scalar(parser, 0)?;
        } else {
            self.braces(parser, 0, whole, 1)?;
        }
        Ok(whole)
    }

    /// Reads `{...}`, the value of the aggregate from byte `start` to `end`. Its parts with braces of their
    /// own have the size `strides[level]`; as in C, values without braces fill it scalar by scalar. Returns
    /// where the values end.
    fn braces(&mut self, parser: &mut Parser, start: usize, end: usize, level: usize) -> Result<usize> {
        parser.expect("{")?;
        let mut at = start;
        if parser.accept("}") {
            return Ok(at);
        }
        loop {
            let part = match self.strides.get(level) {
                Some(&part) if parser.at("{") => part,
                _ => self.element.ty.bytes(),
            };
            let next = at.checked_add(part).filter(|&next| next <= end);
            let next = next.ok_or_else(|| parser.error("more values than the variable has elements"))?;
            if next - start > most_bytes(self.element.space) {
                return Err(parser.error(format!("the variable {TOO_LARGE}")));
            }
            if !parser.at("{") {
                self.scalar(parser, at)?;
            } else if part > 0 && (at - start).is_multiple_of(part) && level < self.strides.len() - 1 {
                self.braces(parser, at, next, level + 1)?;
            } else {
                return Err(parser.error("the braces do not match the dimensions of the variable"));
            }
            at = next;
            if !parser.accept(",") {
                parser.expect("}")?;
                return Ok(at);
            }
        }
    }

    /// Reads one value and stores it at a byte offset. Zeros are left out: what has no value is zero.
    fn scalar(&mut self, parser: &mut Parser, offset: usize) -> Result<()> {
        let line = parser.line();
        let bytes = self.element.ty.bytes();
        let value = if parser.peek().kind == Kind::Name && parser.peek().text != "WARP_SZ" {
            self.symbol(parser)?
        } else {
            let constant = parser.constant()?;
            if parser.at("(") {
                return Err(parser.error("values of the form `mask(symbol)` are not supported"));
            }
            let bits = bits(self.element.ty, constant).ok_or_else(|| {
                error_at(line, format!("a value of {:?} cannot be given so", self.element.ty))
            })?;
            InitValue::Bits(bits)
        };
        if value != InitValue::Bits(0) {
            self.init.push(Init { offset, bytes, value });
        }
        Ok(())
    }

    /// `symbol+8` or `generic(symbol)+8`
    fn symbol(&mut self, parser: &mut Parser) -> Result<InitValue> {
        if self.element.ty.is_float() || !matches!(self.element.ty.bytes(), 4 | 8) {
            return Err(parser.error(format!("a value of {:?} cannot hold an address", self.element.ty)));
        }
        let mut symbol = parser.name("a symbol")?;
        let generic = symbol == "generic" && parser.accept("(");
        if generic {
            symbol = parser.name("a symbol")?;
            parser.expect(")")?;
        }
        Ok(InitValue::Address { symbol: symbol.to_owned(), offset: parser.offset()?, generic })
    }
}

/// Little-endian bits of a constant as a value of `ty`; integers are cut to its size, as PTX says. `None`
/// where PTX has no literals: for half and smaller floats, packed types, and 128 bits.
fn bits(ty: Type, constant: Constant) -> Option<u64> {
    let float = match constant {
        Constant::Int { bits, unsigned: true } => bits as f64,
        Constant::Int { bits, unsigned: false } => bits as i64 as f64,
        Constant::F32(bits) => f64::from(f32::from_bits(bits)),
        Constant::F64(bits) => f64::from_bits(bits),
    };
    match (ty, constant) {
        // Bit patterns stay as they are: a conversion may change a NaN.
        (Type::F32 | Type::B32, Constant::F32(bits)) => Some(u64::from(bits)),
        (Type::F64 | Type::B64, Constant::F64(bits)) => Some(bits),
        (Type::F32, _) => Some(u64::from((float as f32).to_bits())),
        (Type::F64, _) => Some(float.to_bits()),
        (_, Constant::Int { bits, .. }) if !ty.is_float() && ty.bytes() <= 8 => {
            Some(bits & u64::MAX >> (64 - 8 * ty.bytes() as u32))
        }
        _ => None,
    }
}
