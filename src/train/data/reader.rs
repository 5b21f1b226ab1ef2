//! Documents of text files, streamed in bounded pieces and checked on the way.

use std::collections::VecDeque;

use serde::Deserialize;

use super::source::{Layout, SourceFile};
use super::unpack::Unpacked;
use super::wikitext;
use crate::{Error, Result};

/// Longest piece in bytes of the original text. Small enough that the tokenizer's own buffers, some hundred
/// times the text, stay out of the way of training; large enough that its cuts are rare.
const PIECE: usize = 32 << 10;

/// Longest row of a JSON lines file in bytes: what keeps a file that is no such thing from filling the
/// memory.
const LONGEST_ROW: usize = 256 << 20;

/// A stretch of a document, cut at a line end wherever there is one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The text, at most 32 KiB of the file. The pieces of a plain text file, concatenated, are the file.
    pub text: String,
    /// Whether a document starts here.
    pub starts_document: bool,
    /// Words of the *original* text: whitespace-separated words, plus one for every line end, as the official
    /// WikiText counts do. A word cut by the end of a piece belongs to the first.
    pub words: u64,
}

/// Iterator over the pieces of a source, in order; made by [`TextSource::pieces`](super::TextSource::pieces).
pub struct Pieces<'a> {
    files: std::slice::Iter<'a, SourceFile>,
    verbatim: bool,
    open: Option<FilePieces<'a>>,
}

impl<'a> Pieces<'a> {
    pub(super) fn new(files: &'a [SourceFile], verbatim: bool) -> Self {
        Pieces { files: files.iter(), verbatim, open: None }
    }

    fn advance(&mut self) -> Result<Option<Piece>> {
        loop {
            if let Some(open) = &mut self.open {
                if let Some(piece) = open.next()? {
                    return Ok(Some(piece));
                }
                self.open = None;
            }
            let Some(file) = self.files.next() else { return Ok(None) };
            self.open = Some(FilePieces::open(file, self.verbatim)?);
        }
    }
}

impl Iterator for Pieces<'_> {
    type Item = Result<Piece>;

    fn next(&mut self) -> Option<Result<Piece>> {
        let next = self.advance();
        if next.is_err() {
            self.open = None;
            self.files = [].iter();
        }
        next.transpose()
    }
}

/// The pieces of one file.
struct FilePieces<'a> {
    file: &'a SourceFile,
    bytes: Unpacked<'a>,
    normalise: bool,
    /// Bytes read and not yet handed out; `start` of them are spent.
    buffer: Vec<u8>,
    start: usize,
    at_end: bool,
    /// Where `buffer[start]` lies in the unpacked file.
    offset: u64,
    /// JSON lines: pieces of the row at hand.
    row: VecDeque<Piece>,
    /// JSON lines: rows read so far.
    rows: u64,
    words: WordCount,
    any: bool,
}

impl<'a> FilePieces<'a> {
    fn open(file: &'a SourceFile, verbatim: bool) -> Result<Self> {
        Ok(FilePieces {
            file,
            bytes: Unpacked::open(&file.path, file.packing)?,
            normalise: file.layout == Layout::WikiText && !verbatim,
            buffer: Vec::new(),
            start: 0,
            at_end: false,
            offset: 0,
            row: VecDeque::new(),
            rows: 0,
            words: WordCount::default(),
            any: false,
        })
    }

    fn next(&mut self) -> Result<Option<Piece>> {
        let piece = match self.file.layout {
            Layout::JsonLines => self.next_of_rows()?,
            Layout::Text | Layout::WikiText => self.next_of_text()?,
        };
        if piece.is_none() && !self.any {
            return Err(self.error("the file holds no text"));
        }
        self.any |= piece.is_some();
        Ok(piece)
    }

    fn next_of_text(&mut self) -> Result<Option<Piece>> {
        while self.unread().len() <= PIECE && !self.at_end {
            self.read_more()?;
        }
        let unread = self.unread();
        if unread.is_empty() {
            return Ok(None);
        }
        let cut = cut(unread, PIECE);
        let (text, words) = {
            let original = self.checked(&self.unread()[..cut])?;
            let words = count_from(self.words, original);
            let text = if self.normalise { wikitext::to_ordinary(original) } else { original.to_owned() };
            (text, words)
        };
        let piece = Piece { text, starts_document: !self.any, words: words.total - self.words.total };
        self.words = words;
        self.consume(cut);
        Ok(Some(piece))
    }

    fn next_of_rows(&mut self) -> Result<Option<Piece>> {
        loop {
            if let Some(piece) = self.row.pop_front() {
                return Ok(Some(piece));
            }
            let Some((len, end)) = self.next_row()? else { return Ok(None) };
            self.rows += 1;
            let line = self.checked(&self.unread()[..len])?;
            if !line.trim().is_empty() {
                let row: Row = serde_json::from_str(line).map_err(|e| {
                    self.error(format!("line {} is not a usable JSON object: {}", self.rows, json_reason(&e)))
                })?;
                let text = row.text.ok_or_else(|| {
                    self.error(format!("line {} has no `text` field that holds a string", self.rows))
                })?;
                self.row.extend(split_row(&text));
            }
            self.consume(end);
        }
    }

    /// Length of the next line without and with its line end; reads on until there is one.
    fn next_row(&mut self) -> Result<Option<(usize, usize)>> {
        let mut searched = 0;
        loop {
            let unread = self.unread();
            if let Some(at) = unread[searched..].iter().position(|&b| b == b'\n') {
                return Ok(Some((searched + at, searched + at + 1)));
            }
            searched = unread.len();
            if self.at_end {
                return Ok((searched > 0).then_some((searched, searched)));
            }
            if searched > LONGEST_ROW {
                let mib = LONGEST_ROW >> 20;
                return Err(self.error(format!("line {} is longer than {mib} MiB", self.rows + 1)));
            }
            self.read_more()?;
        }
    }

    fn unread(&self) -> &[u8] {
        &self.buffer[self.start..]
    }

    /// Appends the next stretch of the file to the buffer, dropping what is spent.
    fn read_more(&mut self) -> Result<()> {
        self.buffer.drain(..self.start);
        self.start = 0;
        let held = self.buffer.len();
        // Doubling keeps a very long row linear.
        self.buffer.resize(held + held.max(4 * PIECE), 0);
        let filled = self.bytes.fill(&mut self.buffer[held..])?;
        self.at_end = held + filled < self.buffer.len();
        self.buffer.truncate(held + filled);
        Ok(())
    }

    fn consume(&mut self, len: usize) {
        self.start += len;
        self.offset += len as u64;
    }

    /// `bytes`, the next unread ones, as text.
    fn checked<'b>(&self, bytes: &'b [u8]) -> Result<&'b str> {
        if let Some(at) = bytes.iter().position(|&b| b == 0) {
            let at = self.offset + at as u64;
            return Err(
                self.error(format!("the file is binary, not text: it has a zero byte at offset {at}"))
            );
        }
        std::str::from_utf8(bytes).map_err(|e| {
            let at = self.offset + e.valid_up_to() as u64;
            self.error(format!("the file is not UTF-8 text: the byte at offset {at} does not belong there"))
        })
    }

    fn error(&self, why: impl Into<String>) -> Error {
        Error::data(&self.file.path, why)
    }
}

#[derive(Deserialize)]
struct Row {
    text: Option<String>,
}

/// The reason of a JSON error without its position, which counts from the line and not from the file.
fn json_reason(e: &serde_json::Error) -> String {
    let text = e.to_string();
    match text.rfind(" at line ") {
        Some(at) => text[..at].to_owned(),
        None => text,
    }
}

/// Cuts the text of one row; a row without text is no document.
fn split_row(mut text: &str) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut words = WordCount::default();
    while !text.is_empty() {
        let (piece, rest) = text.split_at(cut(text.as_bytes(), PIECE));
        let after = count_from(words, piece);
        pieces.push(Piece {
            text: piece.to_owned(),
            starts_document: pieces.is_empty(),
            words: after.total - words.total,
        });
        words = after;
        text = rest;
    }
    pieces
}

/// Where to end a piece of at most `limit` bytes of `text`: behind the last line end, else before the last
/// space, else between two characters.
fn cut(text: &[u8], limit: usize) -> usize {
    if text.len() <= limit {
        return text.len();
    }
    if let Some(at) = text[..limit].iter().rposition(|&b| b == b'\n') {
        return at + 1;
    }
    if let Some(at) = text[1..limit].iter().rposition(|&b| b == b' ') {
        return at + 1;
    }
    let continues = |at: &usize| text[*at] & 0xc0 == 0x80;
    // In UTF-8 at most three bytes continue a character; where there are more, the check that follows says
    // so.
    (limit - 3..=limit).rev().find(|at| !continues(at)).unwrap_or(limit)
}

/// Running count of words and line ends.
#[derive(Clone, Copy, Default)]
struct WordCount {
    total: u64,
    inside_word: bool,
}

fn count_from(mut count: WordCount, text: &str) -> WordCount {
    for c in text.chars() {
        let space = c.is_whitespace();
        count.total += (!space && !count.inside_word) as u64 + (c == '\n') as u64;
        count.inside_word = !space;
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_fall_behind_line_ends_before_spaces_or_between_characters() {
        assert_eq!(cut(b"abc", 3), 3);
        assert_eq!(cut(b"a\nbc\nde", 6), 5);
        assert_eq!(cut(b"ab cd efgh", 8), 5);
        assert_eq!(cut(b" abcdefgh", 6), 6, "a space at the very start would give an empty piece");
        assert_eq!(cut("ääää".as_bytes(), 5), 4);
        assert_eq!(cut(&[0x80; 16], 8), 8, "never empty, even where the text is no UTF-8");
    }

    #[test]
    fn words_are_counted_across_cuts_as_without_them() {
        let text = " a bb\u{a0}c\n\n d\te  f";
        let whole = count_from(WordCount::default(), text);
        assert_eq!(whole.total, 6 + 2);
        for (at, _) in text.char_indices() {
            let (left, right) = text.split_at(at);
            assert_eq!(count_from(count_from(WordCount::default(), left), right).total, whole.total);
        }
    }
}
