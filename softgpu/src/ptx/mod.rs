//! PTX text to syntax tree.
//!
//! [`parse`] reads one module as nvcc and LLVM print it. The text is not trusted: nesting, register counts
//! and sizes are bounded; work and memory grow with the length of the text and with nothing else.

pub mod ast;
mod constant;
mod function;
mod initial;
mod lexer;
mod module;
mod operand;
mod parser;
mod skip;
mod statement;
mod variable;

use crate::{Code, Error, Result};

/// Longest PTX text that is read, in bytes. Real modules stay below a tenth of it; the tree of a text is many
/// times larger than the text.
pub const MAX_TEXT: usize = 64 << 20;

/// Parses a module.
///
/// The module is checked as a text, not for meaning: names are not looked up and opcodes are not known here.
/// Fails with [`Code::InvalidPtx`] for text that is not PTX or uses a form that this parser refuses (the
/// error names the line), and with [`Code::UnsupportedPtxVersion`] for a `.version` above 9.
pub fn parse(text: &str) -> Result<ast::Module> {
    if text.len() > MAX_TEXT {
        let text = format!("PTX of {} bytes: at most {MAX_TEXT} are read", text.len());
        return Err(Error::new(Code::InvalidPtx, text));
    }
    parser::Parser::new(text).module()
}
