//! The module level.

use super::ast::{Alias, Module};
use super::lexer::Kind;
use super::parser::{Parser, error_at, quote};
use super::variable::space;
use crate::{Code, Error, Result};

/// Newest major version of PTX that is understood.
const NEWEST_MAJOR: u32 = 9;

impl Parser<'_> {
    /// Reads a whole module.
    pub(super) fn module(mut self) -> Result<Module> {
        // Without `.address_size` the manual says 32, which no GPU since Maxwell has: 64 is what is meant.
        let mut module = Module { address_size: 64, version: self.version()?, ..Module::default() };
        module.target = self.target()?;
        while self.peek().kind != Kind::End {
            if self.accept(";") || self.skip_note()? {
                continue;
            }
            if self.accept_dot(".address_size") {
                self.address_size()?;
            } else if self.accept_dot(".alias") {
                module.aliases.push(self.alias()?);
            } else {
                self.definition(&mut module)?;
            }
        }
        Ok(module)
    }

    /// `.version 8.7`, which must come first.
    fn version(&mut self) -> Result<(u32, u32)> {
        if !self.accept_dot(".version") {
            return Err(self.expected("`.version`"));
        }
        let number = self.expect_kind(Kind::Number, "a version")?;
        let parts = number.text.split_once('.');
        let parts = parts.and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
        let (major, minor) = parts
            .ok_or_else(|| error_at(number.line, format!("`{}` is no version of PTX", quote(number.text))))?;
        if major > NEWEST_MAJOR {
            let text = format!(
                "line {}: the module is PTX {major}.{minor}, versions up to {NEWEST_MAJOR}.x are supported",
                number.line
            );
            return Err(Error::new(Code::UnsupportedPtxVersion, text));
        }
        Ok((major, minor))
    }

    /// `.target sm_90a, debug`: the architecture among the names.
    fn target(&mut self) -> Result<String> {
        if !self.accept_dot(".target") {
            return Err(self.expected("`.target`"));
        }
        let line = self.line();
        let names = self.list(|parser| parser.name("a target"))?;
        let target = names.iter().find(|name| name.starts_with("sm_"));
        let target = target.ok_or_else(|| error_at(line, "the target names no architecture (`sm_80`)"))?;
        Ok((*target).to_owned())
    }

    fn address_size(&mut self) -> Result<()> {
        let line = self.line();
        match self.count("the address size")? {
            64 => Ok(()),
            size => Err(error_at(line, format!("addresses of {size} bits are not supported, only of 64"))),
        }
    }

    /// `.alias name, target;` behind `.alias`.
    fn alias(&mut self) -> Result<Alias> {
        let line = self.line();
        let name = self.name("the name of an alias")?.to_owned();
        self.expect(",")?;
        let target = self.name("the function behind an alias")?.to_owned();
        self.expect(";")?;
        Ok(Alias { name, target, line })
    }

    /// A kernel, a function or a declaration of variables.
    fn definition(&mut self, module: &mut Module) -> Result<()> {
        let linkage = self.linkage();
        let directive = self.peek();
        let is_space = space(directive.text).filter(|_| directive.kind == Kind::Dot);
        match (directive.text, is_space) {
            (".entry", _) | (".func", _) => {
                self.next();
                module.functions.push(self.function(directive.text == ".entry")?);
            }
            (".param", _) => return Err(self.error("`.param` outside a function")),
            (_, Some(space)) => {
                self.next();
                module.variables.extend(self.variables(space, linkage.external)?);
            }
            _ => return Err(self.expected("a function, a variable or a directive of a module")),
        }
        Ok(())
    }
}
