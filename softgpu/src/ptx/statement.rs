//! Bodies of functions.

use super::ast::{Instruction, Statement, Type};
use super::lexer::Kind;
use super::parser::{Parser, error_at, quote};
use super::variable::space;
use crate::Result;

/// Most registers that one function may declare. Debug builds of large kernels need tens of thousands.
const MAX_REGISTERS: u32 = 1 << 20;

impl Parser<'_> {
    /// Reads `{ ... }`, the body of a function.
    pub(super) fn body(&mut self) -> Result<Vec<Statement>> {
        self.expect("{")?;
        let mut registers = MAX_REGISTERS;
        self.block(0, &mut registers)
    }

    /// Reads statements and the brace that ends them; `registers` may still be declared.
    fn block(&mut self, depth: u32, registers: &mut u32) -> Result<Vec<Statement>> {
        let mut statements = Vec::new();
        while !self.accept("}") {
            if self.accept(";") {
                continue;
            }
            if self.at("{") {
                let depth = self.deeper(depth)?;
                self.next();
                statements.push(Statement::Block(self.block(depth, registers)?));
                continue;
            }
            match self.peek().kind {
                Kind::Dot => self.declaration(registers, &mut statements)?,
                Kind::Name if self.peek_second().text == ":" => statements.push(self.labelled()?),
                Kind::Name => statements.push(Statement::Instruction(self.instruction()?)),
                Kind::Mark if self.at("@") => statements.push(Statement::Instruction(self.instruction()?)),
                _ => return Err(self.expected("a statement or `}`")),
            }
        }
        Ok(statements)
    }

    /// A directive inside a body.
    fn declaration(&mut self, registers: &mut u32, statements: &mut Vec<Statement>) -> Result<()> {
        if self.skip_note()? {
            return Ok(());
        }
        if self.accept_dot(".reg") {
            return self.registers(registers, statements);
        }
        let linkage = self.linkage();
        match space(self.peek().text).filter(|_| self.peek().kind == Kind::Dot) {
            Some(space) => {
                self.next();
                let variables = self.variables(space, linkage.external)?;
                statements.extend(variables.into_iter().map(Statement::Variable));
                Ok(())
            }
            None => Err(self.expected("a directive that a body may hold")),
        }
    }

    /// `.reg .b32 %r<5>, a, b;` behind `.reg`.
    fn registers(&mut self, left: &mut u32, statements: &mut Vec<Statement>) -> Result<()> {
        let ty = self.expect_kind(Kind::Dot, "the type of a register")?;
        let ty = Type::parse(ty.text.trim_start_matches('.')).ok_or_else(|| {
            error_at(ty.line, format!("registers of type `{}` are not supported", quote(ty.text)))
        })?;
        let registers = self.list(|parser| {
            let line = parser.line();
            let name = parser.name("the name of a register")?;
            let count = parser.register_count()?;
            *left = left.checked_sub(count.unwrap_or(1)).ok_or_else(|| {
                let name = quote(name);
                error_at(line, format!("with `{name}` the function has more than {MAX_REGISTERS} registers"))
            })?;
            Ok(Statement::Register { name: name.to_owned(), count, ty, line })
        })?;
        statements.extend(registers);
        self.expect(";")
    }

    /// `<5>` behind the name of a register, or nothing.
    fn register_count(&mut self) -> Result<Option<u32>> {
        if !self.accept("<") {
            return Ok(None);
        }
        // A plain number and no expression, for the `>` behind it is no operator.
        let number = self.expect_kind(Kind::Number, "a number of registers")?;
        let count = number.text.parse().map_err(|_| {
            error_at(number.line, format!("`{}` is no number of registers", quote(number.text)))
        })?;
        self.expect(">")?;
        Ok(Some(count))
    }

    /// A label, with the directive that only a label can precede.
    fn labelled(&mut self) -> Result<Statement> {
        let line = self.line();
        let name = self.name("a label")?.to_owned();
        self.expect(":")?;
        if self.accept_dot(".branchtargets") {
            let targets = self.targets()?;
            return Ok(Statement::BranchTargets { name, targets, line });
        }
        if self.accept_dot(".calltargets") {
            let targets = self.targets()?;
            return Ok(Statement::CallTargets { name, targets, line });
        }
        if self.accept_dot(".callprototype") {
            let returns = self.parameters()?;
            self.name("`_`")?;
            let params = self.parameters()?;
            self.skip_abi()?;
            self.expect(";")?;
            return Ok(Statement::CallPrototype { name, returns, params, line });
        }
        Ok(Statement::Label { name, line })
    }

    fn targets(&mut self) -> Result<Vec<String>> {
        let targets = self.list(|parser| Ok(parser.name("a target")?.to_owned()))?;
        self.expect(";")?;
        Ok(targets)
    }

    /// `@!%p1 ld.global.v2.f32 {%f1, %f2}, [%rd1+8];`
    fn instruction(&mut self) -> Result<Instruction> {
        let mut guard = None;
        if self.accept("@") {
            let negated = self.accept("!");
            guard = Some((self.name("a predicate")?.to_owned(), negated));
        }
        let line = self.line();
        let name = self.name("an instruction")?.to_owned();
        let mut modifiers = self.modifiers();
        let mut operands = Vec::new();
        if !self.at(";") {
            let call = name == "call";
            operands = self.list(|parser| {
                let operand = parser.operand(call)?;
                // `ld.u32 %r1, [%rd1].unified;`: a part of the opcode behind the address.
                modifiers.extend(parser.modifiers());
                Ok(operand)
            })?;
        }
        self.expect(";")?;
        Ok(Instruction { guard, name, modifiers, operands, line })
    }

    fn modifiers(&mut self) -> Vec<String> {
        let mut modifiers = Vec::new();
        while self.peek().kind == Kind::Dot {
            modifiers.push(self.next().text.trim_start_matches('.').to_owned());
        }
        modifiers
    }
}
