//! Declarations of variables and parameters.

use super::ast::{Space, Type, Variable};
use super::initial::Values;
use super::lexer::Kind;
use super::parser::{Parser, error_at, quote};
use crate::Result;

/// Most dimensions of an array.
const MAX_DIMENSIONS: usize = 16;

/// What is said of a variable with more than [`most_bytes`].
pub(super) const TOO_LARGE: &str = "is too large for its state space";

/// Most bytes of one variable: well above what any GPU has of the space, and far from overflow.
pub(super) fn most_bytes(space: Space) -> usize {
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
pub(super) struct Element {
    pub(super) space: Space,
    external: bool,
    pub(super) ty: Type,
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

    /// What stands before the names; the alignment is the natural one if none is given.
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
                name => match Type::parse(name.trim_start_matches('.')) {
                    Some(Type::Pred) | None => {
                        let text = format!("`{}` is no type that memory can hold", quote(name));
                        return Err(error_at(part.line, text));
                    }
                    found => ty = found,
                },
            }
        }
        let ty = ty.ok_or_else(|| self.expected("a type"))?;
        let natural = lanes * ty.bytes();
        Ok(Element { space, external, ty, lanes, align: align.unwrap_or(natural) })
    }

    /// `.attribute(.managed)` or `.attribute(.unified(1, 2))`: nothing here depends on them.
    pub(super) fn skip_attribute(&mut self) -> Result<()> {
        self.expect("(")?;
        self.list(|parser| {
            parser.expect_kind(Kind::Dot, "an attribute")?;
            if parser.accept("(") {
                parser.list_until(")", Self::constant)?;
            }
            Ok(())
        })?;
        self.expect(")")
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

    /// `name[2][3] = {...}`; `initialised` says whether a value may follow.
    fn declarator(&mut self, element: &Element, initialised: bool) -> Result<Variable> {
        let line = self.line();
        let name = self.name("the name of a variable")?;
        let refuse = |why: &str| error_at(line, format!("`{}` {why}", quote(name)));
        let (mut dimensions, open) = self.dimensions_of(name)?;
        if element.lanes > 1 {
            dimensions.push(element.lanes);
        }
        let strides = strides(element, &dimensions).ok_or_else(|| refuse(TOO_LARGE))?;
        let mut values = Values::new(element, &strides);
        let mut bytes = if open { 0 } else { values.strides.first().copied().unwrap_or(0) };
        if initialised && self.accept("=") {
            if element.external || !matches!(element.space, Space::Global | Space::Const) {
                return Err(refuse("cannot have a value: it is no .global or .const"));
            }
            bytes = values.read(self, open)?;
        } else if open && !element.external && element.space != Space::Param {
            return Err(refuse("has no size: it needs one, a value, or `.extern`"));
        }
        if bytes > most_bytes(element.space) {
            return Err(refuse(TOO_LARGE));
        }
        let &Element { space, external, ty, align, .. } = element;
        Ok(Variable { name: name.to_owned(), space, ty, external, align, bytes, init: values.init, line })
    }

    /// `[2][3]`, or `[][3]` where the first size is left open.
    fn dimensions_of(&mut self, name: &str) -> Result<(Vec<usize>, bool)> {
        let mut dimensions = Vec::new();
        let mut open = false;
        while self.accept("[") {
            if dimensions.is_empty() && !open && self.accept("]") {
                open = true;
                continue;
            }
            if dimensions.len() == MAX_DIMENSIONS {
                let name = quote(name);
                return Err(self.error(format!("`{name}` has more than {MAX_DIMENSIONS} dimensions")));
            }
            dimensions.push(self.count("the size of an array")? as usize);
            self.expect("]")?;
        }
        Ok((dimensions, open))
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
