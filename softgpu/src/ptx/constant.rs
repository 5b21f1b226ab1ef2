//! Literals and constant expressions, which PTX allows wherever it takes a number.

use super::lexer::Kind;
use super::parser::{MAX_DEPTH, Parser, error_at, quote};
use crate::Result;

/// The value of a constant expression.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Constant {
    /// 64 bits, and whether they are `.u64` rather than `.s64`.
    Int { bits: u64, unsigned: bool },
    /// `0f...`: bits of an f32.
    F32(u32),
    /// `0d...` or a decimal literal: bits of an f64.
    F64(u64),
}

impl Constant {
    fn signed(value: i64) -> Self {
        Constant::Int { bits: value as u64, unsigned: false }
    }
}

/// Binary operators and how tightly they bind, as in C.
fn binding(operator: &str) -> Option<u8> {
    Some(match operator {
        "||" => 1,
        "&&" => 2,
        "|" => 3,
        "^" => 4,
        "&" => 5,
        "==" | "!=" => 6,
        "<" | ">" | "<=" | ">=" => 7,
        "<<" | ">>" => 8,
        "+" | "-" => ADDITIVE,
        "*" | "/" | "%" => 10,
        _ => return None,
    })
}

const ADDITIVE: u8 = 9;

impl Parser<'_> {
    /// Reads a constant expression.
    pub(super) fn constant(&mut self) -> Result<Constant> {
        self.conditional(0)
    }

    /// Reads a constant expression that must be an integer.
    pub(super) fn integer(&mut self) -> Result<u64> {
        let line = self.line();
        match self.constant()? {
            Constant::Int { bits, .. } => Ok(bits),
            _ => Err(error_at(line, "expected an integer, found a floating-point constant")),
        }
    }

    /// Reads a number that must fit 32 bits, as directives take; `what` names it in the error.
    pub(super) fn count(&mut self, what: &str) -> Result<u32> {
        let line = self.line();
        let value = self.integer()?;
        u32::try_from(value).map_err(|_| error_at(line, format!("{what} is {}: out of range", value as i64)))
    }

    /// Reads what may follow a name: `+8`, `-8`, `+-8`, `+4*2`, or nothing.
    pub(super) fn offset(&mut self) -> Result<i64> {
        let line = self.line();
        if !self.at("+") && !self.at("-") {
            return Ok(0);
        }
        match self.binary_rest(Constant::signed(0), ADDITIVE, 0)? {
            Constant::Int { bits, .. } => Ok(bits as i64),
            _ => Err(error_at(line, "expected an integer offset, found a floating-point constant")),
        }
    }

    /// `a ? b : c` and everything that binds tighter.
    fn conditional(&mut self, depth: u32) -> Result<Constant> {
        let line = self.line();
        let condition = self.binary(0, depth)?;
        if !self.accept("?") {
            return Ok(condition);
        }
        let chosen = self.conditional(self.deeper(depth)?)?;
        self.expect(":")?;
        let other = self.conditional(self.deeper(depth)?)?;
        match condition {
            Constant::Int { bits, .. } => Ok(if bits != 0 { chosen } else { other }),
            _ => Err(error_at(line, "the condition of `?` is not an integer")),
        }
    }

    fn binary(&mut self, least: u8, depth: u32) -> Result<Constant> {
        let left = self.unary(depth)?;
        self.binary_rest(left, least, depth)
    }

    /// Applies the operators behind `left` that bind at least as tightly as `least`.
    fn binary_rest(&mut self, mut left: Constant, least: u8, depth: u32) -> Result<Constant> {
        while self.peek().kind == Kind::Mark {
            let operator = self.peek();
            let Some(level) = binding(operator.text).filter(|&level| level >= least) else { break };
            self.next();
            let right = self.binary(level + 1, self.deeper(depth)?)?;
            left = apply(operator.text, left, right).map_err(|text| error_at(operator.line, text))?;
        }
        Ok(left)
    }

    fn unary(&mut self, depth: u32) -> Result<Constant> {
        let line = self.line();
        let not_integer =
            |operator: &str| error_at(line, format!("`{operator}` of a floating-point constant"));
        if self.accept("+") {
            return self.unary(self.deeper(depth)?);
        }
        if self.accept("-") {
            return Ok(match self.unary(self.deeper(depth)?)? {
                Constant::Int { bits, unsigned } => Constant::Int { bits: bits.wrapping_neg(), unsigned },
                Constant::F32(bits) => Constant::F32(bits ^ 1 << 31),
                Constant::F64(bits) => Constant::F64(bits ^ 1 << 63),
            });
        }
        if self.accept("~") {
            return match self.unary(self.deeper(depth)?)? {
                Constant::Int { bits, unsigned } => Ok(Constant::Int { bits: !bits, unsigned }),
                _ => Err(not_integer("~")),
            };
        }
        if self.accept("!") {
            return match self.unary(self.deeper(depth)?)? {
                Constant::Int { bits, .. } => Ok(Constant::signed(i64::from(bits == 0))),
                _ => Err(not_integer("!")),
            };
        }
        if self.accept("(") {
            return self.parenthesised(self.deeper(depth)?);
        }
        if self.peek().kind == Kind::Name && self.peek().text == "WARP_SZ" {
            self.next();
            return Ok(Constant::signed(32));
        }
        let literal = self.expect_kind(Kind::Number, "a constant")?;
        number(literal.text)
            .ok_or_else(|| error_at(line, format!("`{}` is not a number of PTX", quote(literal.text))))
    }

    /// `(expression)` or a cast, `(.s64) expression`, behind its opening parenthesis.
    fn parenthesised(&mut self, depth: u32) -> Result<Constant> {
        let line = self.line();
        let unsigned = self.at_dot(".u64");
        if self.accept_dot(".u64") || self.accept_dot(".s64") {
            self.expect(")")?;
            return match self.unary(depth)? {
                Constant::Int { bits, .. } => Ok(Constant::Int { bits, unsigned }),
                _ => Err(error_at(line, "cast of a floating-point constant")),
            };
        }
        let value = self.conditional(depth)?;
        self.expect(")")?;
        Ok(value)
    }

    /// One level of brackets further down, so that nesting cannot exhaust the stack.
    pub(super) fn deeper(&self, depth: u32) -> Result<u32> {
        if depth < MAX_DEPTH {
            Ok(depth + 1)
        } else {
            Err(self.error(format!("more than {MAX_DEPTH} levels of nesting")))
        }
    }
}

/// One binary operation in the 64-bit arithmetic of constant expressions; the error says why there is none.
fn apply(operator: &str, left: Constant, right: Constant) -> Result<Constant, String> {
    let (Constant::Int { bits: a, unsigned: ua }, Constant::Int { bits: b, unsigned: ub }) = (left, right)
    else {
        return Err(format!("`{operator}` of a floating-point constant"));
    };
    let unsigned = ua || ub;
    let (sa, sb) = (a as i64, b as i64);
    let int = |bits: u64| Ok(Constant::Int { bits, unsigned });
    let truth = |value: bool| Ok(Constant::signed(i64::from(value)));
    let shift = u32::try_from(b).ok().filter(|&shift| shift < 64);
    match operator {
        "||" => truth(a != 0 || b != 0),
        "&&" => truth(a != 0 && b != 0),
        "|" => int(a | b),
        "^" => int(a ^ b),
        "&" => int(a & b),
        "==" => truth(a == b),
        "!=" => truth(a != b),
        "<" => truth(if unsigned { a < b } else { sa < sb }),
        ">" => truth(if unsigned { a > b } else { sa > sb }),
        "<=" => truth(if unsigned { a <= b } else { sa <= sb }),
        ">=" => truth(if unsigned { a >= b } else { sa >= sb }),
        // The left operand alone decides the type of a shift.
        "<<" => Ok(Constant::Int { bits: shift.map_or(0, |shift| a << shift), unsigned: ua }),
        ">>" if ua => Ok(Constant::Int { bits: shift.map_or(0, |shift| a >> shift), unsigned: ua }),
        ">>" => Ok(Constant::signed(sa >> shift.unwrap_or(63))),
        "+" => int(a.wrapping_add(b)),
        "-" => int(a.wrapping_sub(b)),
        "*" => int(a.wrapping_mul(b)),
        "/" | "%" if b == 0 => Err(format!("`{operator}` by zero in a constant expression")),
        "/" => int(if unsigned { a / b } else { sa.wrapping_div(sb) as u64 }),
        "%" => int(if unsigned { a % b } else { sa.wrapping_rem(sb) as u64 }),
        _ => Err(format!("`{operator}` in a constant expression")),
    }
}

/// The value of a literal.
fn number(text: &str) -> Option<Constant> {
    if let Some(digits) = text.strip_prefix("0f").or_else(|| text.strip_prefix("0F")) {
        return hexadecimal(digits, 8).map(|bits| Constant::F32(bits as u32));
    }
    if let Some(digits) = text.strip_prefix("0d").or_else(|| text.strip_prefix("0D")) {
        return hexadecimal(digits, 16).map(Constant::F64);
    }
    let (digits, suffix) = match text.strip_suffix('U') {
        Some(digits) => (digits, true),
        None => (text, false),
    };
    let bits = match digits.as_bytes() {
        [b'0', b'x' | b'X', ..] => u64::from_str_radix(digits.get(2..)?, 16).ok()?,
        [b'0', b'b' | b'B', ..] => u64::from_str_radix(digits.get(2..)?, 2).ok()?,
        [b'0', _, ..] if !digits.contains(['.', 'e', 'E']) => u64::from_str_radix(digits, 8).ok()?,
        _ if digits.bytes().all(|byte| byte.is_ascii_digit()) => digits.parse().ok()?,
        _ if !suffix => return digits.parse::<f64>().ok().map(|value| Constant::F64(value.to_bits())),
        _ => return None,
    };
    Some(Constant::Int { bits, unsigned: suffix || bits > i64::MAX as u64 })
}

/// Exactly `length` hexadecimal digits.
fn hexadecimal(digits: &str, length: usize) -> Option<u64> {
    let valid = digits.len() == length && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    if valid { u64::from_str_radix(digits, 16).ok() } else { None }
}
