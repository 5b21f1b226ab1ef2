//! Declarations of variables and parameters, with their initial values.

use super::ast::{Init, InitValue, Space, Type, Variable};
use super::constant::Constant;
use super::lexer::Kind;
use super::parser::{Parser, error_at, quote};
use crate::Result;

/// Most dimensions of an array.
const MAX_DIMENSIONS: usize = 16;

/// Most bytes of one variable: well above what any GPU has of the space, and far from overflow.
fn most_bytes(space: Space) -> usize {
    if space == Space::Global { 1 << 36 } else { 1 << 20 }
}

/// The space of a directive that opens a variable declaration.
pub(super) fn space(directive: &str) -> Option<Space> {
    Some(match directive {
        ".global" => Space::Global,
        ".shared" => Space::Shared,
        ".local" => Space::Local,
        ".param" => Space::Param,
        ".const" => Space::Const,
        _ => return None,
    })
}

/// What stands between the space and the names of a declaration.
struct Element {
    space: Space,
    external: bool,
    ty: Type,
    /// Components of a vector, 1 for a scalar.
    lanes: usize,
    align: usize,
}

impl Parser<'_> {
    /// Reads the rest of `.global .align 4 .b32 a[2] = {1, 2}, b;` behind its space.
    pub(super) fn variables(&mut self, space: Space, external: bool) -> Result<Vec<Variable>> {
        let element = self.element(space, external)?;
        let variables = self.list(|parser| parser.declarator(&element, true))?;
        self.expect(";")?;
        Ok(variables)
    }

    /// Reads one parameter: `.param .align 8 .b8 name[16]`.
    pub(super) fn parameter(&mut self) -> Result<Variable> {
        if self.at_dot(".reg") {
            return Err(self.error("parameters in registers are not supported: use `.param`"));
        }
        if !self.accept_dot(".param") {
            return Err(self.expected("`.param`"));
        }
        let element = self.element(Space::Param, false)?;
        self.declarator(&element, false)
    }

    fn element(&mut self, space: Space, external: bool) -> Result<Element> {
        let (mut align, mut lanes, mut ty) = (None, 1, None);
        while self.peek().kind == Kind::Dot {
            let part = self.next();
            match part.text {
                ".attribute" => self.skip_attribute()?,
                ".align" => align = Some(self.alignment()?),
                ".v2" => lanes = 2,
                ".v4" => lanes = 4,
                ".v8" => lanes = 8,
                ".ptr" => self.skip_pointee()?,
                name => {
                    let found = Type::parse(name.trim_start_matches('.')).filter(|&ty| ty != Type::Pred);
                    let refused =
                        || error_at(part.line, format!("`{}` is no type that memory can hold", quote(name)));
                    ty = Some(found.ok_or_else(refused)?);
                }
            }
        }
        let ty = ty.ok_or_else(|| self.expected("a type"))?;
        let natural = lanes * ty.bytes();
        Ok(Element { space, external, ty, lanes, align: align.unwrap_or(natural) })
    }

    /// `.attribute(.managed)`: nothing here depends on it.
    pub(super) fn skip_attribute(&mut self) -> Result<()> {
        self.expect("(")?;
        while !self.accept(")") {
            if !matches!(self.peek().kind, Kind::Dot | Kind::Number) && !matches!(self.peek().text, "," | "(")
            {
                return Err(self.expected("an attribute"));
            }
            if self.next().text == "(" {
                self.list_until(")", Self::constant)?;
            }
        }
        Ok(())
    }

    /// `.ptr .global .align 4`: a promise about where a pointer points, which the executor checks anyway.
    fn skip_pointee(&mut self) -> Result<()> {
        if space(self.peek().text).is_some() {
            self.next();
        }
        if self.accept_dot(".align") {
            self.alignment()?;
        }
        Ok(())
    }

    fn alignment(&mut self) -> Result<usize> {
        let line = self.line();
        let align = self.expect_kind(Kind::Number, "an alignment")?.text.parse().unwrap_or(0_usize);
        if align.is_power_of_two() && align <= 1 << 16 {
            Ok(align)
        } else {
            Err(error_at(line, "an alignment is a power of two up to 65536"))
        }
    }

    fn declarator(&mut self, element: &Element, initialised: bool) -> Result<Variable> {
        let line = self.line();
        let name = self.name("the name of a variable")?.to_owned();
        let mut dimensions = Vec::new();
        let mut unsized_array = false;
        while self.accept("[") {
            if dimensions.is_empty() && !unsized_array && self.at("]") {
                unsized_array = true;
            } else if dimensions.len() < MAX_DIMENSIONS {
                dimensions.push(self.count("the size of an array")? as usize);
            } else {
                return Err(
                    self.error(format!("`{}` has more than {MAX_DIMENSIONS} dimensions", quote(&name)))
                );
            }
            self.expect("]")?;
        }
        if element.lanes > 1 {
            dimensions.push(element.lanes);
        }
        let strides = strides(element, &dimensions)
            .ok_or_else(|| error_at(line, format!("`{}` is too large for its state space", quote(&name))))?;
        let mut values = Values { element, init: Vec::new(), strides: &strides };
        let mut bytes = strides.first().copied().unwrap_or(0);
        if initialised && self.accept("=") {
            if element.external || !matches!(element.space, Space::Global | Space::Const) {
                let name = quote(&name);
                return Err(error_at(
                    line,
                    format!("`{name}` cannot have a value: it is no .global or .const"),
                ));
            }
            if unsized_array {
                // The last row counts in full, even where it was not filled.
                bytes = values.braces(self, 0, usize::MAX, 0)?.next_multiple_of(bytes.max(1));
            } else if dimensions.is_empty() {
                values.scalar(self, 0)?;
            } else {
                values.braces(self, 0, bytes, 1)?;
            }
        } else if unsized_array {
            if !element.external && element.space != Space::Param {
                return Err(error_at(
                    line,
                    format!("`{}[]` needs a size, a value or `.extern`", quote(&name)),
                ));
            }
            bytes = 0;
        }
        if bytes > most_bytes(element.space) {
            return Err(error_at(line, format!("`{}` is too large for its state space", quote(&name))));
        }
        let &Element { space, external, ty, align, .. } = element;
        Ok(Variable { name, space, ty, external, align, bytes, init: values.init, line })
    }
}

/// Bytes of the whole array, of its rows, and so on down to one scalar; `None` when it is too large.
fn strides(element: &Element, dimensions: &[usize]) -> Option<Vec<usize>> {
    let mut strides = vec![element.ty.bytes()];
    for &dimension in dimensions.iter().rev() {
        let bytes = strides.last()?.checked_mul(dimension)?;
        strides.push(Some(bytes).filter(|&bytes| bytes <= most_bytes(element.space))?);
    }
    strides.reverse();
    Some(strides)
}

/// The initial values of one variable while they are read.
struct Values<'a> {
    element: &'a Element,
    init: Vec<Init>,
    strides: &'a [usize],
}

impl Values<'_> {
    /// Reads `{...}`, the value of the aggregate from byte `start` to `end`; the parts of it that have braces of
    /// their own have the size `strides[level]`. As in C, parts without braces fill it scalar by scalar. Returns
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
                return Err(parser.error("the variable is too large for its state space"));
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

/// Little-endian bits of a constant as a value of `ty`; integers are cut to its size, as PTX says. `None` where PTX
/// has no literals: for half and smaller floats, packed types, and 128 bits.
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
