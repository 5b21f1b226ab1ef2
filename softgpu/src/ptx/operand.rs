//! Operands of instructions.

use super::ast::Operand;
use super::constant::Constant;
use super::lexer::Kind;
use super::parser::Parser;
use crate::Result;

impl From<Constant> for Operand {
    fn from(constant: Constant) -> Self {
        match constant {
            Constant::Int { bits, .. } => Operand::Int(bits),
            Constant::F32(bits) => Operand::F32(bits),
            Constant::F64(bits) => Operand::F64(bits),
        }
    }
}

impl Parser<'_> {
    /// Reads one operand. `call` says that `(` opens an argument list and not a constant expression.
    pub(super) fn operand(&mut self, call: bool) -> Result<Operand> {
        match self.peek().text {
            "(" if call => {
                self.next();
                Ok(Operand::List(self.list_until(")", |parser| parser.simple())?))
            }
            "[" => self.address(),
            "{" => self.vector(),
            _ => self.simple(),
        }
    }

    /// `{a, b}`
    fn vector(&mut self) -> Result<Operand> {
        self.expect("{")?;
        Ok(Operand::Vector(self.list_until("}", |parser| parser.simple())?))
    }

    /// `[base]`, `[base+offset]` or `[base, {coordinates}, ...]`
    fn address(&mut self) -> Result<Operand> {
        self.expect("[")?;
        let (base, offset) = match self.simple()? {
            Operand::NameOffset(name, offset) => (Operand::Name(name), offset),
            base @ (Operand::Name(_) | Operand::Int(_)) => (base, 0),
            _ => return Err(self.error("an address starts with a name or an integer")),
        };
        if self.accept("]") {
            return Ok(Operand::Address(Box::new(base), offset));
        }
        if !self.at(",") {
            return Err(self.expected("`]`"));
        }
        let mut parts = vec![match base {
            Operand::Name(name) if offset != 0 => Operand::NameOffset(name, offset),
            base => base,
        }];
        while self.accept(",") {
            parts.push(if self.at("{") { self.vector()? } else { self.simple()? });
        }
        self.expect("]")?;
        Ok(Operand::Tensor(parts))
    }

    /// An operand without brackets.
    fn simple(&mut self) -> Result<Operand> {
        let is_name = |kind, text| kind == Kind::Name && text != "WARP_SZ";
        let first = self.peek();
        if is_name(first.kind, first.text) {
            return self.name_operand();
        }
        if matches!(first.text, "!" | "-") {
            let second = self.peek_second();
            if is_name(second.kind, second.text) {
                self.next();
                let name = Box::new(Operand::Name(self.dotted_name("a name")?));
                return Ok(if first.text == "!" { Operand::Not(name) } else { Operand::Negative(name) });
            }
        }
        if first.kind == Kind::Number || matches!(first.text, "-" | "+" | "~" | "!" | "(" | "WARP_SZ") {
            return Ok(self.constant()?.into());
        }
        Err(self.expected("an operand"))
    }

    /// `name`, `name+4` or `name|name`
    fn name_operand(&mut self) -> Result<Operand> {
        let name = self.dotted_name("a name")?;
        if self.accept("|") {
            let second = Operand::Name(self.dotted_name("the second result")?);
            return Ok(Operand::Pair(Box::new(Operand::Name(name)), Box::new(second)));
        }
        if self.at("+") || self.at("-") {
            return Ok(Operand::NameOffset(name, self.offset()?));
        }
        Ok(Operand::Name(name))
    }
}
