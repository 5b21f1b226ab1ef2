//! Whatever bytes arrive, the readers answer quickly, with a result or with an error that says where.

mod common;

use common::fatbin::{Entry, Packing, fatbin};
use proptest::prelude::*;
use softgpu::image::read;
use softgpu::ptx::parse;
use softgpu::{Code, Error};
use std::time::{Duration, Instant};

const SAMPLE: &str = include_str!("data/sample.ptx");

const PACKINGS: &[Packing] = &[Packing::Plain, Packing::Zstd, Packing::Lz4];

/// Inputs here are a few KiB: far more than they need, even on a busy machine.
const QUICK: Duration = Duration::from_secs(5);

/// Pieces of PTX, to reach places that random characters do not.
#[rustfmt::skip]
const PIECES: &[&str] = &[
    ".version", "8.0", ".target", "sm_80", ".entry", ".func", ".visible", ".extern", ".global", ".shared",
    ".param", ".const", ".reg", ".b32", ".u64", ".f32", ".pred", ".v4", ".align", "16", ".attribute",
    ".ptr", ".maxntid", ".loc", ".file", ".section", ".debug_info", ".pragma", ".alias", ".branchtargets",
    ".callprototype", "\"text\"", "k", "%r", "%r1", "$L_1", "_", "generic", "WARP_SZ", "ld", "call", "0x1F",
    "0f3F800000", "1.5", "4294967295", "U", "(", ")", "[", "]", "{", "}", "<", ">", "<<", ",", ";", ":",
    "?", "+", "-", "*", "/", "%", "!", "~", "|", "&", "=", "==", "@", "//", "/*", "*/", "\n", "\"", ".",
    "::", "\u{e9}",
];

/// One edit of a byte string.
#[derive(Clone, Debug)]
enum Edit {
    Replace(usize, u8),
    Insert(usize, Vec<u8>),
    Remove(usize, usize),
    /// Copies a piece from one place to another.
    Splice(usize, usize, usize),
    Truncate(usize),
}

impl Edit {
    /// Applies it; places are taken modulo the length.
    fn apply(&self, bytes: &mut Vec<u8>) {
        let place = |at: usize| at % (bytes.len() + 1);
        match *self {
            Edit::Replace(at, byte) => {
                let at = place(at);
                bytes.splice(at..(at + 1).min(bytes.len()), [byte]);
            }
            Edit::Insert(at, ref new) => {
                let at = place(at);
                bytes.splice(at..at, new.iter().copied());
            }
            Edit::Remove(at, length) => {
                let at = place(at);
                bytes.drain(at..(at + length).min(bytes.len()));
            }
            Edit::Splice(from, length, to) => {
                let (from, to) = (place(from), place(to));
                let piece = bytes[from..(from + length).min(bytes.len())].to_vec();
                bytes.splice(to..to, piece);
            }
            Edit::Truncate(at) => bytes.truncate(place(at)),
        }
    }
}

fn edits() -> impl Strategy<Value = Vec<Edit>> {
    let place = any::<usize>();
    let piece = prop::sample::select(PIECES).prop_map(|piece| piece.as_bytes().to_vec());
    let edit = prop_oneof![
        (place, any::<u8>()).prop_map(|(at, byte)| Edit::Replace(at, byte)),
        (place, piece).prop_map(|(at, piece)| Edit::Insert(at, piece)),
        (place, 1..40_usize).prop_map(|(at, length)| Edit::Remove(at, length)),
        (place, 1..400_usize, place).prop_map(|(from, length, to)| Edit::Splice(from, length, to)),
        place.prop_map(Edit::Truncate),
    ];
    prop::collection::vec(edit, 1..6)
}

fn edited(bytes: &[u8], edits: &[Edit]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    edits.iter().for_each(|edit| edit.apply(&mut bytes));
    bytes
}

/// Parses, and checks that an error has a code of the parser and names a line of the text.
fn parses_or_says_where(text: &str) -> Result<(), TestCaseError> {
    let start = Instant::now();
    if let Err(Error { code, text: message }) = parse(text) {
        prop_assert!(matches!(code, Code::InvalidPtx | Code::UnsupportedPtxVersion), "{}", message);
        let line = message.strip_prefix("line ").and_then(|rest| rest.split_once(':'));
        let line = line.and_then(|(line, _)| line.parse().ok()).unwrap_or(0);
        prop_assert!((1..=text.matches('\n').count() + 1).contains(&line), "{}", message);
        prop_assert!(message.chars().count() < 300, "{}", message);
    }
    prop_assert!(start.elapsed() < QUICK, "{:?}", start.elapsed());
    Ok(())
}

/// Reads an image, and checks the code of an error.
fn reads_or_refuses(image: &[u8]) -> Result<(), TestCaseError> {
    let start = Instant::now();
    match read(image, 86) {
        Ok(text) => parses_or_says_where(&text)?,
        Err(Error { code, text }) => {
            prop_assert!(matches!(code, Code::InvalidImage | Code::NoBinaryForGpu), "{}", text);
        }
    }
    prop_assert!(start.elapsed() < QUICK, "{:?}", start.elapsed());
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..Default::default() })]

    #[test]
    fn random_bytes(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        parses_or_says_where(&String::from_utf8_lossy(&bytes))?;
        reads_or_refuses(&bytes)?;
    }

    #[test]
    fn random_pieces(
        pieces in prop::collection::vec(prop::sample::select(PIECES), 0..200),
        headed in any::<bool>(),
        spaced in any::<bool>(),
    ) {
        let header = if headed { ".version 8.0 .target sm_80 .address_size 64 .entry k() {" } else { "" };
        parses_or_says_where(&format!("{header}{}", pieces.join(if spaced { " " } else { "" })))?;
    }

    #[test]
    fn edited_ptx(edits in edits()) {
        parses_or_says_where(&String::from_utf8_lossy(&edited(SAMPLE.as_bytes(), &edits)))?;
    }

    #[test]
    fn edited_fatbins(
        packings in prop::collection::vec(prop::sample::select(PACKINGS), 1..4),
        edits in edits(),
    ) {
        let entries: Vec<_> = packings.iter().map(|&packing| Entry::ptx(80, ' ', packing, SAMPLE)).collect();
        reads_or_refuses(&edited(&fatbin(&entries), &edits))?;
    }

    /// Small numbers and all bits set, in the fields of the headers.
    #[test]
    fn fields_of_fatbins(
        packing in prop::sample::select(PACKINGS),
        at in 4..100_usize,
        value in prop_oneof![Just(u64::MAX), Just(u64::MAX >> 1), 0..100_u64, any::<u64>()],
        bytes in prop::sample::select(&[1_usize, 2, 4, 8]),
    ) {
        let mut image = fatbin(&[Entry::elf(86), Entry::ptx(80, ' ', packing, SAMPLE)]);
        image[at..at + bytes].copy_from_slice(&value.to_le_bytes()[..bytes]);
        reads_or_refuses(&image)?;
    }

    /// Right headers, wrong bytes in the compressed payload.
    #[test]
    fn edited_payloads(
        packing in prop::sample::select(&PACKINGS[1..]),
        flips in prop::collection::vec((any::<usize>(), any::<u8>()), 1..8),
    ) {
        let mut image = fatbin(&[Entry::ptx(80, ' ', packing, SAMPLE)]);
        for (at, byte) in flips {
            let at = 96 + at % (image.len() - 96);
            image[at] = byte;
        }
        reads_or_refuses(&image)?;
    }
}

#[test]
fn every_prefix_of_valid_ptx() {
    for end in 0..SAMPLE.len() {
        parses_or_says_where(&SAMPLE[..end]).expect("a prefix");
    }
}
