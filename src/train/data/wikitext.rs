//! WikiText spacing to ordinary spacing, and back without loss.
//!
//! The official WikiText files set every word and mark apart: `a large , asymmetrical pair ( 0 @.@ 7 – 2 @.@
//! 2 kg )` stands for `a large, asymmetrical pair (0.7–2.2 kg)`. A tokenizer that has learned ordinary text
//! cuts such lines into many rare pieces, so [`to_ordinary`] brings them into ordinary spacing. Nothing is
//! lost: [`to_wikitext`] restores the original byte for byte, for any text, so whatever
//! probability a model gives to the ordinary text it gives to the original, and a perplexity per *original*
//! word stays defined.
//!
//! # The rules
//! [`to_wikitext`] cuts each space-separated chunk of an ordinary line into words, as follows;
//! [`to_ordinary`] joins words into a chunk exactly when that cut gives them back, and so is reversible by
//! construction.
//!
//! 1. A chunk of `=` alone is that many words (`==` of a heading).
//! 2. From the front come off, each a word: `(` `[` `"` `$` `£`.
//! 3. From the back: `,` `;` `:` `!` `?` `)` `]` `"` `%`, and `.` unless it ends an abbreviation (a single
//!    letter, a word with a `.` inside, or one of a short list such as `Mr`).
//! 4. Inside, between letters or digits: `-` is the word `@-@`, `/` is the word `/`, and an apostrophe begins
//!    a word (`don't` is `don` `'t`); between digits: `,` is `@,@`, `.` is `@.@`, `–` is the word `–`.
//! 5. A chunk that starts with `@` is one word, the rest of it, untouched: the way out for a word that these
//!    rules would cut or that itself starts with `@`.
//!
//! A WikiText line has a space at both ends; an ordinary one has none. A line without them is marked by a
//! first chunk `@`. Quotation marks alternate between opening and closing within a line.

/// Abbreviations whose full stop WikiText leaves at the word.
const ABBREVIATIONS: [&str; 32] = [
    "Bros", "Capt", "Co", "Col", "Dr", "Ft", "Gen", "Gov", "Inc", "Jr", "Lt", "Ltd", "Maj", "Mr", "Mrs",
    "Ms", "Mt", "No", "Nos", "Prof", "Rep", "Rev", "Sen", "Sgt", "Sr", "St", "al", "cf", "pp", "ssp", "var",
    "vs",
];

/// Brings WikiText lines into ordinary spacing; see the [module](self) for the rules.
///
/// ```
/// use trimoe::train::data::wikitext::{to_ordinary, to_wikitext};
///
/// let original = " The \" crusher \" weighs 1 @.@ 5 – 2 kg ( 3 lb ) , it 's said . \n";
/// assert_eq!(to_ordinary(original), "The \"crusher\" weighs 1.5–2 kg (3 lb), it's said.\n");
/// assert_eq!(to_wikitext(&to_ordinary(original)), original);
/// ```
pub fn to_ordinary(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        let (line, end) = split_end(line);
        match line.strip_prefix(' ') {
            // Without its line end an empty line would be nothing at all.
            Some("") if !end.is_empty() => {}
            Some(rest) if rest.len() > 1 && rest.ends_with(' ') => {
                join_line(&rest[..rest.len() - 1], &mut out);
            }
            _ => {
                out.push_str("@ ");
                join_line(line, &mut out);
            }
        }
        out.push_str(end);
    }
    out
}

/// The inverse of [`to_ordinary`]: `to_wikitext(&to_ordinary(text)) == text` for every `text`.
pub fn to_wikitext(text: &str) -> String {
    let mut out = String::with_capacity(text.len() * 5 / 4);
    for line in text.split_inclusive('\n') {
        let (line, end) = split_end(line);
        match line.strip_prefix("@ ") {
            Some(bare) => cut_line(bare, &mut out),
            None if line.is_empty() => out.push(' '),
            None => {
                out.push(' ');
                cut_line(line, &mut out);
                out.push(' ');
            }
        }
        out.push_str(end);
    }
    out
}

/// A line and its line end, if it has one.
fn split_end(line: &str) -> (&str, &str) {
    line.split_at(line.len() - line.ends_with('\n') as usize)
}

fn cut_line(line: &str, out: &mut String) {
    let mut words = Vec::new();
    for (i, chunk) in line.split(' ').enumerate() {
        words.clear();
        cut_chunk(chunk, &mut words);
        for (j, word) in words.iter().enumerate() {
            if i + j > 0 {
                out.push(' ');
            }
            out.push_str(word);
        }
    }
}

fn join_line(line: &str, out: &mut String) {
    let words: Vec<&str> = line.split(' ').collect();
    let mut opening = false;
    // For every word whether it joins the one after it, as an opening mark does.
    let joins_next: Vec<bool> = words
        .iter()
        .map(|&word| {
            opening ^= word == "\"";
            matches!(word, "(" | "[" | "$" | "£") || (word == "\"" && opening)
        })
        .collect();

    let mut chunk = String::new();
    let mut longer = String::new();
    let mut first = 0;
    while first < words.len() {
        if first > 0 {
            out.push(' ');
        }
        chunk.clear();
        chunk.push_str(words[first]);
        let mut end = first + 1;
        if cuts_into(&chunk, &words[first..end]) {
            while let Some(&next) = words.get(end) {
                // A mark inside a word joins on both sides or not at all.
                let taken = match inside_mark(next) {
                    Some(_) => 2,
                    None if joins_next[end - 1] || (joins_previous(next) && !joins_next[end]) => 1,
                    None => break,
                };
                let Some(added) = words.get(end..end + taken) else { break };
                longer.clear();
                longer.push_str(&chunk);
                added.iter().for_each(|word| longer.push_str(inside_mark(word).unwrap_or(word)));
                if !cuts_into(&longer, &words[first..end + taken]) {
                    break;
                }
                std::mem::swap(&mut chunk, &mut longer);
                end += taken;
            }
        } else {
            out.push('@');
        }
        out.push_str(&chunk);
        first = end;
    }
}

/// How a word that stands between two others without spaces is written there.
fn inside_mark(word: &str) -> Option<&'static str> {
    match word {
        "@-@" => Some("-"),
        "@,@" => Some(","),
        "@.@" => Some("."),
        "/" => Some("/"),
        "–" => Some("–"),
        _ => None,
    }
}

fn joins_previous(word: &str) -> bool {
    matches!(word, "," | "." | ";" | ":" | "!" | "?" | ")" | "]" | "\"" | "%" | "=")
        || (word.len() > 1 && word.starts_with('\''))
}

/// Whether the rules cut `chunk` into exactly `words`, which is what lets it stand for them.
fn cuts_into(chunk: &str, words: &[&str]) -> bool {
    let mut cut = Vec::with_capacity(words.len() + 1);
    cut_chunk(chunk, &mut cut);
    cut == words
}

/// Rules 1 to 5 of the module: appends the words of one chunk.
fn cut_chunk<'c>(chunk: &'c str, words: &mut Vec<&'c str>) {
    if let Some(word) = chunk.strip_prefix('@') {
        words.push(word);
        return;
    }
    if !chunk.is_empty() && chunk.bytes().all(|b| b == b'=') {
        words.extend(chunk.split_inclusive('='));
        return;
    }
    let mut core = chunk;
    while let Some(mark) = core.chars().next().filter(|c| matches!(c, '(' | '[' | '"' | '$' | '£')) {
        let (mark, rest) = core.split_at(mark.len_utf8());
        if rest.is_empty() {
            break;
        }
        words.push(mark);
        core = rest;
    }
    let tail = core;
    while core.len() > 1 && ends_with_mark(core) {
        core = &core[..core.len() - 1];
    }
    cut_core(core, words);
    words.extend(tail[core.len()..].split_inclusive(|_: char| true));
}

/// Whether rule 3 takes off the last byte of `core`, which is longer than that.
fn ends_with_mark(core: &str) -> bool {
    let (last, rest) = (core.as_bytes()[core.len() - 1], core.len() - 1);
    match last {
        b',' | b';' | b':' | b'!' | b'?' | b')' | b']' | b'"' | b'%' => true,
        b'.' => !is_abbreviation(&core[..rest]),
        _ => false,
    }
}

fn is_abbreviation(word: &str) -> bool {
    let mut chars = word.chars();
    let single = chars.next().is_some_and(char::is_alphabetic) && chars.next().is_none();
    single || word.contains('.') || ABBREVIATIONS.contains(&word)
}

/// Rule 4.
fn cut_core<'c>(core: &'c str, words: &mut Vec<&'c str>) {
    let mut start = 0;
    let mut before = None;
    let mut chars = core.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        let after = chars.peek().map(|&(_, c)| c);
        let between = |kind: fn(char) -> bool| before.is_some_and(kind) && after.is_some_and(kind);
        let digits = || between(|c| c.is_ascii_digit());
        let mark = match c {
            '-' if between(char::is_alphanumeric) => Some("@-@"),
            '/' if between(char::is_alphanumeric) => Some("/"),
            '\'' if between(char::is_alphanumeric) => Some(""),
            ',' if digits() => Some("@,@"),
            '.' if digits() => Some("@.@"),
            '–' if digits() => Some("–"),
            _ => None,
        };
        if let Some(mark) = mark {
            words.push(&core[start..at]);
            // An apostrophe belongs to the word it begins.
            start = at;
            if !mark.is_empty() {
                words.push(mark);
                start += c.len_utf8();
            }
        }
        before = Some(c);
    }
    words.push(&core[start..]);
}
