//! Text to tokens, one at a time and without copies.

/// What a token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A name: `%r1`, `$L__BB0_1`, `ld`, `_`.
    Name,
    /// A directive or one part of an opcode with its dot: `.reg`, `.shared::cta`.
    Dot,
    /// A literal of any form: `10`, `0x1F`, `0f3F800000`, `1.5e-3`.
    Number,
    /// A quoted string, with its quotes.
    Text,
    /// An operator or a bracket, one or two characters.
    Mark,
    /// The end of the text.
    End,
    /// Something that PTX does not have; the text is the rest of it.
    Bad,
}

/// A token and where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Token<'a> {
    pub(super) kind: Kind,
    pub(super) text: &'a str,
    pub(super) line: u32,
}

/// The unread rest of a text. Copying it remembers a place to come back to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lexer<'a> {
    rest: &'a str,
    line: u32,
}

impl<'a> Lexer<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { rest: text, line: 1 }
    }

    /// The next token; [`Kind::End`] for ever once the text is used up.
    pub(super) fn next(&mut self) -> Token<'a> {
        if let Some(unclosed) = self.skip_blanks() {
            return unclosed;
        }
        let bytes = self.rest.as_bytes();
        let Some(&first) = bytes.first() else { return self.token(Kind::End, 0) };
        let second = bytes.get(1).copied().unwrap_or(0);
        match first {
            b'0'..=b'9' => self.token(Kind::Number, number_length(bytes)),
            b'.' if is_word(second) => self.token(Kind::Dot, part_length(bytes)),
            b'%' if !is_word(second) => self.token(Kind::Mark, 1),
            b'%' | b'$' => self.token(Kind::Name, 1 + word_length(bytes, 1)),
            b'"' => self.string(),
            _ if is_word(first) => self.token(Kind::Name, word_length(bytes, 0)),
            _ if is_double(first, second) => self.token(Kind::Mark, 2),
            _ if b"{}[]()<>,;:+-*/!|&^~=@?".contains(&first) => self.token(Kind::Mark, 1),
            _ => self.token(Kind::Bad, self.rest.chars().next().map_or(0, char::len_utf8)),
        }
    }

    /// Takes `length` bytes as a token. Lengths come from counting ASCII bytes or from whole characters.
    fn token(&mut self, kind: Kind, length: usize) -> Token<'a> {
        let (text, rest) = self.rest.split_at_checked(length).unwrap_or((self.rest, ""));
        self.rest = rest;
        Token { kind, text, line: self.line }
    }

    /// A string ends on its line; a backslash takes the character after it along.
    fn string(&mut self) -> Token<'a> {
        let mut escaped = false;
        for (at, byte) in self.rest.bytes().enumerate().skip(1) {
            match byte {
                b'\n' => return self.token(Kind::Bad, at),
                b'"' if !escaped => return self.token(Kind::Text, at + 1),
                _ => escaped = byte == b'\\' && !escaped,
            }
        }
        self.token(Kind::Bad, self.rest.len())
    }

    /// Skips white space and comments; a comment that is never closed is returned as a bad token.
    fn skip_blanks(&mut self) -> Option<Token<'a>> {
        loop {
            let blank = self.rest.bytes().take_while(u8::is_ascii_whitespace).count();
            self.skip(blank);
            if self.rest.starts_with("//") {
                let end = self.rest.find('\n').unwrap_or(self.rest.len());
                self.skip(end);
            } else if self.rest.starts_with("/*") {
                match self.rest.get(2..).and_then(|comment| comment.find("*/")) {
                    Some(end) => self.skip(end + 4),
                    None => return Some(self.token(Kind::Bad, self.rest.len())),
                }
            } else {
                return None;
            }
        }
    }

    fn skip(&mut self, length: usize) {
        let skipped = self.token(Kind::Bad, length).text;
        self.line += skipped.bytes().filter(|&byte| byte == b'\n').count() as u32;
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$'
}

fn word_length(bytes: &[u8], from: usize) -> usize {
    bytes.iter().skip(from).take_while(|&&byte| is_word(byte)).count()
}

/// Length of `.name` or `.name::name::name`.
fn part_length(bytes: &[u8]) -> usize {
    let mut length = 1 + word_length(bytes, 1);
    while bytes.get(length..).is_some_and(|rest| rest.starts_with(b"::"))
        && word_length(bytes, length + 2) > 0
    {
        length += 2 + word_length(bytes, length + 2);
    }
    length
}

/// Length of a literal; what its letters mean is decided later. `0xE+4` ends before the sign, `1.5e+4` not.
fn number_length(bytes: &[u8]) -> usize {
    let decimal = !matches!(bytes, [b'0', b'x' | b'X' | b'f' | b'F' | b'd' | b'D', ..]);
    let mut length = 1;
    while let Some(&byte) = bytes.get(length) {
        let before = bytes.get(length - 1).copied().unwrap_or(0);
        let sign = decimal && matches!(byte, b'+' | b'-') && matches!(before, b'e' | b'E');
        let point = decimal && byte == b'.';
        if !(is_word(byte) || point || sign) {
            break;
        }
        length += 1;
    }
    length
}

fn is_double(first: u8, second: u8) -> bool {
    const DOUBLE: [&[u8; 2]; 8] = [b"<<", b">>", b"<=", b">=", b"==", b"!=", b"&&", b"||"];
    DOUBLE.contains(&&[first, second])
}
