//! The data side of the trainer: text in every layout and packing, every kind of bad file, the tokenizer,
//! cached token files, batches, evaluation windows, and the built-in grammar.

mod batches;
mod real;
mod text;
mod tokens;
mod wikitext;

use std::fs;
use std::path::PathBuf;

use tempfile::TempDir;
use trimoe::train::data::{TextSource, TokenFile, Tokenizer};

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn put(folder: &TempDir, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
    let path = folder.path().join(name);
    fs::write(&path, bytes).unwrap();
    path
}

/// Made-up prose of `lines` lines of 12 words, with accents, numbers and marks.
fn prose(lines: usize) -> String {
    const WORDS: [&str; 16] = [
        "the",
        "river",
        "carries",
        "grain",
        "to",
        "mills,",
        "where",
        "42",
        "stones",
        "grind",
        "it;",
        "naïve",
        "fish",
        "wait",
        "below.",
        "“Ever?”",
    ];
    let mut state = 1u32;
    let mut text = String::new();
    for _ in 0..lines {
        for _ in 0..12 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            text.push_str(WORDS[(state >> 28) as usize]);
            text.push(' ');
        }
        text.push('\n');
    }
    text
}

/// A small corpus and a tokenizer of `vocab` entries trained on it.
fn trained(dir: &TempDir, vocab: usize) -> (TextSource, Tokenizer) {
    let source = TextSource::open(put(dir, "corpus.txt", prose(1_000))).unwrap();
    let tokenizer = Tokenizer::train(&source, vocab).unwrap();
    (source, tokenizer)
}

/// The small corpus as ids below 300.
fn token_file(dir: &TempDir) -> TokenFile {
    let (source, tokenizer) = trained(dir, 300);
    TokenFile::open_or_build(dir.path(), &source, &tokenizer, None).unwrap()
}

fn ids(file: &TokenFile) -> Vec<u32> {
    let mut ids = vec![0; file.len()];
    file.copy_to(0, &mut ids).unwrap();
    ids
}
