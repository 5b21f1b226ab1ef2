//! The cursor over tokens that all of the grammar shares.

use super::lexer::{Kind, Lexer, Token};
use crate::{Code, Error, Result};

/// Most levels of `{ }` scopes, and of brackets in operands and constant expressions.
pub(super) const MAX_DEPTH: u32 = 64;

/// Longest piece of the text that an error quotes, in characters.
const MAX_QUOTE: usize = 40;

/// A parser: the text, and the next token of it.
pub(super) struct Parser<'a> {
    lexer: Lexer<'a>,
    peek: Token<'a>,
}

impl<'a> Parser<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        let mut lexer = Lexer::new(text);
        let peek = lexer.next();
        Self { lexer, peek }
    }

    /// The next token, left where it is.
    pub(super) fn peek(&self) -> Token<'a> {
        self.peek
    }

    /// The token after the next one.
    pub(super) fn peek_second(&self) -> Token<'a> {
        let mut ahead = self.lexer;
        ahead.next()
    }

    /// Takes the next token.
    pub(super) fn next(&mut self) -> Token<'a> {
        std::mem::replace(&mut self.peek, self.lexer.next())
    }

    /// Line of the next token.
    pub(super) fn line(&self) -> u32 {
        self.peek.line
    }

    /// Whether the next token is this operator or bracket.
    pub(super) fn at(&self, mark: &str) -> bool {
        self.peek.kind == Kind::Mark && self.peek.text == mark
    }

    /// Whether the next token is this directive, dot included.
    pub(super) fn at_dot(&self, directive: &str) -> bool {
        self.peek.kind == Kind::Dot && self.peek.text == directive
    }

    /// Takes the next token if it is this operator or bracket.
    pub(super) fn accept(&mut self, mark: &str) -> bool {
        let found = self.at(mark);
        if found {
            self.next();
        }
        found
    }

    /// Takes the next token if it is this directive, dot included.
    pub(super) fn accept_dot(&mut self, directive: &str) -> bool {
        let found = self.at_dot(directive);
        if found {
            self.next();
        }
        found
    }

    /// Takes an operator or bracket that must be next.
    pub(super) fn expect(&mut self, mark: &str) -> Result<()> {
        if self.accept(mark) { Ok(()) } else { Err(self.expected(&format!("`{mark}`"))) }
    }

    /// Takes a token of one kind that must be next; `what` names it in the error.
    pub(super) fn expect_kind(&mut self, kind: Kind, what: &str) -> Result<Token<'a>> {
        if self.peek.kind == kind { Ok(self.next()) } else { Err(self.expected(what)) }
    }

    /// Takes a name.
    pub(super) fn name(&mut self, what: &str) -> Result<&'a str> {
        Ok(self.expect_kind(Kind::Name, what)?.text)
    }

    /// Takes a name and its component: `%tid.x` is one name.
    pub(super) fn dotted_name(&mut self, what: &str) -> Result<String> {
        let mut name = self.name(what)?.to_owned();
        while self.peek.kind == Kind::Dot {
            name.push_str(self.next().text);
        }
        Ok(name)
    }

    /// Takes `a, b, c`, each read by `item`.
    pub(super) fn list<T>(&mut self, mut item: impl FnMut(&mut Self) -> Result<T>) -> Result<Vec<T>> {
        let mut items = vec![item(self)?];
        while self.accept(",") {
            items.push(item(self)?);
        }
        Ok(items)
    }

    /// Takes `a, b, c)` behind an opening bracket, or just the closing one.
    pub(super) fn list_until<T>(
        &mut self,
        close: &str,
        item: impl FnMut(&mut Self) -> Result<T>,
    ) -> Result<Vec<T>> {
        if self.accept(close) {
            return Ok(Vec::new());
        }
        let items = self.list(item)?;
        self.expect(close)?;
        Ok(items)
    }

    /// The error that something else stands at the next token.
    pub(super) fn expected(&self, what: &str) -> Error {
        let found = match self.peek.kind {
            Kind::End => "the end of the text".to_owned(),
            _ => format!("`{}`", quote(self.peek.text)),
        };
        error_at(self.peek.line, format!("expected {what}, found {found}"))
    }

    /// An error at the next token.
    pub(super) fn error(&self, text: impl AsRef<str>) -> Error {
        error_at(self.peek.line, text)
    }
}

/// An error that names its line.
pub(super) fn error_at(line: u32, text: impl AsRef<str>) -> Error {
    Error::new(Code::InvalidPtx, format!("line {line}: {}", text.as_ref()))
}

/// The first line of a piece of text, shortened to fit into a sentence.
pub(super) fn quote(text: &str) -> String {
    let line = text.lines().next().unwrap_or("");
    match line.char_indices().nth(MAX_QUOTE) {
        Some((end, _)) => format!("{}...", line.get(..end).unwrap_or(line)),
        None => line.to_owned(),
    }
}
