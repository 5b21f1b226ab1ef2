//! Kernels, functions, and the directives between their parameters and bodies.

use super::ast::{Function, Variable};
use super::lexer::Kind;
use super::parser::{Parser, error_at};
use crate::Result;

/// What `.visible`, `.extern`, `.weak` and `.common` said.
#[derive(Clone, Copy, Default)]
pub(super) struct Linkage {
    /// `.extern`: the thing is defined elsewhere.
    pub(super) external: bool,
}

impl Parser<'_> {
    /// Takes the linking directives; only `.extern` changes what a single module means.
    pub(super) fn linkage(&mut self) -> Linkage {
        let mut linkage = Linkage::default();
        while self.peek().kind == Kind::Dot {
            match self.peek().text {
                ".extern" => linkage.external = true,
                ".visible" | ".weak" | ".common" => {}
                _ => break,
            }
            self.next();
        }
        linkage
    }

    /// Reads a kernel or a function behind `.entry` or `.func`.
    pub(super) fn function(&mut self, entry: bool) -> Result<Function> {
        while self.accept_dot(".attribute") {
            self.skip_attribute()?;
        }
        let returns = if entry { Vec::new() } else { self.parameters()? };
        let line = self.line();
        let name = self.name("the name of a function")?.to_owned();
        let params = self.parameters()?;
        let mut function = Function {
            name,
            entry,
            params,
            returns,
            body: None,
            max_threads: None,
            required_threads: None,
            min_blocks: None,
            cluster: None,
            line,
        };
        self.tuning(&mut function)?;
        if self.at("{") {
            function.body = Some(self.body()?);
        } else if !self.accept(";") {
            return Err(self.expected("`{`, `;` or a directive of a function"));
        }
        Ok(function)
    }

    /// Takes `(.param .b32 a, .param .b32 b)`, or nothing where there is no parenthesis.
    pub(super) fn parameters(&mut self) -> Result<Vec<Variable>> {
        if self.accept("(") { self.list_until(")", Self::parameter) } else { Ok(Vec::new()) }
    }

    /// Takes the directives behind the parameters. Those that only steer ptxas are read and dropped.
    fn tuning(&mut self, function: &mut Function) -> Result<()> {
        loop {
            if self.skip_note()? || self.skip_abi_one()? {
                continue;
            }
            match self.peek().text {
                ".maxntid" => function.max_threads = Some(self.dimensions()?),
                ".reqntid" => function.required_threads = Some(self.dimensions()?),
                ".reqnctapercluster" => function.cluster = Some(self.dimensions()?),
                ".minnctapersm" => function.min_blocks = Some(self.tuning_count()?),
                ".maxnreg" | ".minnreg" | ".maxnctapersm" | ".maxclusterrank" => drop(self.tuning_count()?),
                ".explicitcluster" | ".blocksareclusters" => drop(self.next()),
                _ => return Ok(()),
            }
        }
    }

    /// Takes `.noreturn` and the `.abi_preserve` directives, which say how a function keeps registers.
    pub(super) fn skip_abi(&mut self) -> Result<()> {
        while self.skip_abi_one()? {}
        Ok(())
    }

    fn skip_abi_one(&mut self) -> Result<bool> {
        match self.peek().text {
            ".noreturn" => drop(self.next()),
            ".abi_preserve" | ".abi_preserve_control" => drop(self.tuning_count()?),
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// The number behind a directive.
    fn tuning_count(&mut self) -> Result<u32> {
        let directive = self.expect_kind(Kind::Dot, "a directive")?;
        self.count(directive.text)
    }

    /// One to three numbers behind a directive; what is not given is 1.
    fn dimensions(&mut self) -> Result<[u32; 3]> {
        let directive = self.expect_kind(Kind::Dot, "a directive")?;
        let given = self.list(|parser| parser.count(directive.text))?;
        if given.len() > 3 || given.contains(&0) {
            let what = format!("`{}` takes one to three positive numbers", directive.text);
            return Err(error_at(directive.line, what));
        }
        let mut dimensions = [1; 3];
        dimensions.iter_mut().zip(given).for_each(|(dimension, given)| *dimension = given);
        Ok(dimensions)
    }
}
