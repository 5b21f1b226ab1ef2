//! Directives that do not change what a program computes: debug information and hints to an optimiser.

use super::lexer::Kind;
use super::parser::Parser;
use crate::Result;

impl Parser<'_> {
    /// Takes a `.file`, `.loc`, `.pragma` or `.section` directive if one is next.
    pub(super) fn skip_note(&mut self) -> Result<bool> {
        match self.peek().text {
            ".file" => self.skip_file()?,
            ".loc" => self.skip_loc()?,
            ".pragma" => self.skip_pragma()?,
            ".section" => self.skip_section()?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// `.file 1 "name", 1234, 5678`
    fn skip_file(&mut self) -> Result<()> {
        self.next();
        self.expect_kind(Kind::Number, "the number of a file")?;
        self.expect_kind(Kind::Text, "the name of a file")?;
        while self.peek().kind == Kind::Text {
            self.next();
        }
        while self.accept(",") {
            self.expect_kind(Kind::Number, "a time or a size")?;
        }
        Ok(())
    }

    /// `.loc 1 25 7, function_name $L__info_string0+4, inlined_at 1 24 3`
    fn skip_loc(&mut self) -> Result<()> {
        self.next();
        self.expect_kind(Kind::Number, "the number of a file")?;
        self.skip_numbers();
        while self.accept(",") {
            match self.name("`function_name` or `inlined_at`")? {
                "function_name" => {
                    self.name("a label")?;
                    self.offset()?;
                }
                _ => self.skip_numbers(),
            }
        }
        Ok(())
    }

    fn skip_numbers(&mut self) {
        while self.peek().kind == Kind::Number {
            self.next();
        }
    }

    /// `.pragma "nounroll", "other";`
    fn skip_pragma(&mut self) -> Result<()> {
        self.next();
        self.list(|parser| parser.expect_kind(Kind::Text, "a pragma in quotes"))?;
        self.expect(";")
    }

    /// `.section .debug_info { ... }`
    fn skip_section(&mut self) -> Result<()> {
        self.next();
        if !matches!(self.peek().kind, Kind::Dot | Kind::Name) {
            return Err(self.expected("the name of a section"));
        }
        self.next();
        self.expect("{")?;
        while !self.accept("}") {
            if matches!(self.peek().kind, Kind::End | Kind::Bad) || self.at("{") {
                return Err(self.expected("`}`"));
            }
            self.next();
        }
        Ok(())
    }
}
