//! Text in every layout and packing, and every kind of bad file.

use std::fs;
use std::io::Write;
use std::path::Path;

use trimoe::Result;
use trimoe::train::data::{Piece, TextSource};

use crate::{folder, prose, put};

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
}

fn pieces(path: &Path) -> Result<Vec<Piece>> {
    TextSource::open(path)?.pieces().collect()
}

/// The documents, put together again.
fn documents(pieces: &[Piece]) -> Vec<String> {
    let mut documents = Vec::<String>::new();
    for piece in pieces {
        match documents.last_mut() {
            Some(last) if !piece.starts_document => last.push_str(&piece.text),
            _ => documents.push(piece.text.clone()),
        }
    }
    documents
}

fn words(pieces: &[Piece]) -> u64 {
    pieces.iter().map(|piece| piece.words).sum()
}

/// Reading `path` to its end fails with one sentence that names the file and holds `parts`.
#[track_caller]
fn assert_fails(path: &Path, parts: &[&str]) {
    let text = pieces(path).expect_err("must fail").to_string();
    for part in parts.iter().copied().chain([path.to_str().unwrap()]) {
        assert!(text.contains(part), "`{part}` is not in: {text}");
    }
    assert!(!text.contains('\n'), "more than a sentence: {text}");
}

#[test]
fn every_layout_reads_the_same_from_every_packing() {
    let dir = folder();
    let text = prose(2_000);
    let rows: String = ["one two\nthree", "", "vier äöü"]
        .map(|text| serde_json::json!({ "id": 7, "text": text, "tags": ["x"] }).to_string() + "\n")
        .concat()
        + "\n";
    let wiki = " \n = Title = \n \n A well @-@ known fact , no ? \n";
    for (ending, pack) in [("", None), (".gz", Some(gzip as fn(&[u8]) -> Vec<u8>)), (".zst", Some(zstd))] {
        let packed = |text: &str| pack.map_or_else(|| text.as_bytes().to_vec(), |pack| pack(text.as_bytes()));
        for name in ["a.txt", "b", "C.TXT"] {
            let read = pieces(&put(&dir, &format!("{name}{ending}"), packed(&text))).unwrap();
            assert!(read.len() > 4 && read.iter().all(|piece| piece.text.len() <= 32 * 1024));
            assert!(read.iter().all(|piece| piece.text.ends_with('\n')), "cut at line ends");
            assert_eq!(documents(&read), [text.as_str()], "byte for byte");
            assert_eq!(words(&read), 2_000 * 12 + 2_000);
        }
        let read = pieces(&put(&dir, &format!("rows.jsonl{ending}"), packed(&rows))).unwrap();
        assert_eq!(documents(&read), ["one two\nthree", "vier äöü"]);
        assert_eq!(words(&read), 3 + 1 + 2);
        for name in ["w.tokens", "w.raw"] {
            let path = put(&dir, &format!("{name}{ending}"), packed(wiki));
            let read = pieces(&path).unwrap();
            assert_eq!(documents(&read), ["\n= Title =\n\nA well-known fact, no?\n"]);
            assert_eq!(words(&read), 3 + 8 + 4, "counted on the original");
            let source = TextSource::open(&path).unwrap();
            let hash = source.content_hash().unwrap();
            let source = source.verbatim();
            assert_ne!(hash, source.content_hash().unwrap());
            let read: Vec<Piece> = source.pieces().collect::<Result<_>>().unwrap();
            assert_eq!((documents(&read), words(&read)), (vec![wiki.to_owned()], 15));
        }
    }
}

#[test]
fn packed_files_may_have_many_members() {
    let dir = folder();
    let two = |pack: fn(&[u8]) -> Vec<u8>| [pack(b"first "), pack(b"second")].concat();
    assert_eq!(documents(&pieces(&put(&dir, "a.gz", two(gzip))).unwrap()), ["first second"]);
    assert_eq!(documents(&pieces(&put(&dir, "a.zst", two(zstd))).unwrap()), ["first second"]);
    // A skippable frame (magic 0x184D2A50, length 3) holds no text.
    let skippable = [0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 9, 9, 9];
    let path = put(&dir, "b.zst", [&zstd(b"first "), &skippable[..], &zstd(b"second")].concat());
    assert_eq!(documents(&pieces(&path).unwrap()), ["first second"]);
}

#[test]
fn long_lines_and_rows_are_cut_without_loss() {
    let dir = folder();
    let line = "ä word, then another ".repeat(8_000);
    let read = pieces(&put(&dir, "line.txt", &line)).unwrap();
    assert!(read.len() > 4);
    assert_eq!((documents(&read), words(&read)), (vec![line.clone()], 4 * 8_000));
    let solid = "€".repeat(50_000);
    let read = pieces(&put(&dir, "solid.txt", &solid)).unwrap();
    assert_eq!((documents(&read), words(&read)), (vec![solid], 1));
    let row = serde_json::json!({ "text": line }).to_string();
    let read = pieces(&put(&dir, "row.jsonl", row)).unwrap();
    assert!(read.len() > 4);
    assert_eq!((documents(&read), words(&read)), (vec![line], 4 * 8_000));
}

#[test]
fn a_folder_gives_its_text_files_in_order_of_name() {
    let dir = folder();
    put(&dir, "2.jsonl.gz", gzip(b"{\"text\": \"two\"}"));
    put(&dir, "1.txt", "one");
    put(&dir, "3.raw.zst", zstd(b" three , \n"));
    put(&dir, ".hidden.txt", "no");
    put(&dir, "notes.md", "no");
    fs::create_dir(dir.path().join("sub.txt")).unwrap();
    assert_eq!(documents(&pieces(dir.path()).unwrap()), ["one", "two", "three,\n"]);
    assert_eq!(TextSource::open(dir.path()).unwrap().files().len(), 3);

    let empty = folder();
    put(&empty, "notes.md", "no");
    assert_fails(empty.path(), &["the folder holds no .txt, .tokens, .raw, .jsonl file"]);
}

#[test]
fn the_content_hash_follows_names_and_bytes_but_not_the_folder() {
    let hash = |name: &str, text: &str| {
        let dir = folder();
        TextSource::open(put(&dir, name, text)).unwrap().content_hash().unwrap()
    };
    assert_eq!(hash("a.txt", "text"), hash("a.txt", "text"));
    assert_ne!(hash("a.txt", "text"), hash("b.txt", "text"));
    assert_ne!(hash("a.txt", "text"), hash("a.txt", "test"));
}

#[test]
fn every_unusable_file_is_named_with_its_reason() {
    let dir = folder();
    assert_fails(&dir.path().join("none.txt"), &["cannot read"]);
    assert_fails(&put(&dir, "empty.txt", ""), &["the file is empty"]);
    for (name, bytes) in [("empty.gz", gzip(b"")), ("empty.zst", zstd(b""))] {
        assert_fails(&put(&dir, name, bytes), &["the file holds no text"]);
    }
    assert_fails(&put(&dir, "no.jsonl", "\n{\"text\": \"\"}\n"), &["the file holds no text"]);

    // Far enough into the file to lie beyond the first piece.
    let good = prose(1_000);
    let with = |bytes: &[u8]| [good.as_bytes(), bytes, b" and on\n"].concat();
    let at = |extra: usize| format!("offset {}", good.len() + extra);
    assert_fails(&put(&dir, "nul.txt", with(b"a\0b")), &["binary", &at(1)]);
    assert_fails(&put(&dir, "latin.txt", with(b"caf\xe9 ")), &["not UTF-8", &at(3)]);
    assert_fails(&put(&dir, "latin.txt.gz", gzip(&with(b"caf\xe9 "))), &["not UTF-8", &at(3)]);
    assert_fails(&put(&dir, "half.txt", b"half a character \xe2\x82"), &["not UTF-8", "offset 17"]);
    assert_fails(&put(&dir, "nul.jsonl", b"{\"text\": \"a\"}\n{\"te\0xt\"}\n"), &["binary", "offset 18"]);
    assert_fails(&put(&dir, "latin.jsonl", b"{\"text\": \"a\"}\n\xff\n"), &["not UTF-8", "offset 14"]);

    let rows = |second: &str| format!("{{\"text\": \"fine\"}}\n{second}\n{{\"text\": \"fine\"}}\n");
    assert_fails(&put(&dir, "bad.jsonl", rows("{\"text\": ")), &["line 2 is not a usable JSON object: EOF"]);
    assert_fails(&put(&dir, "seven.jsonl", rows("7")), &["line 2 is not a usable JSON object"]);
    assert_fails(&put(&dir, "number.jsonl", rows("{\"text\": 7}")), &["line 2", "invalid type: integer `7`"]);
    assert_fails(&put(&dir, "field.jsonl", rows("{\"body\": \"x\"}")), &["line 2 has no `text` field"]);
    assert_fails(&put(&dir, "null.jsonl", rows("{\"text\": null}")), &["line 2 has no `text` field"]);
}

#[test]
fn a_packed_file_that_is_cut_or_flipped_fails_or_reads_the_same() {
    let dir = folder();
    let text = prose(40);
    let packed = [("c.gz", "gzip", gzip(text.as_bytes())), ("c.zst", "Zstandard", zstd(text.as_bytes()))];
    for (name, format, whole) in packed {
        for len in (1..whole.len()).step_by(7).chain([whole.len() - 1]) {
            assert_fails(&put(&dir, name, &whole[..len]), &[format, "cut short"]);
        }
        let mut unseen = 0;
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << (at % 8);
            // A bit of a header that says nothing about the text, such as the time of packing, may go unseen.
            match pieces(&put(&dir, name, &bytes)) {
                Ok(read) => {
                    unseen += 1;
                    assert_eq!(documents(&read), [text.as_str()], "{format}: byte {at}");
                }
                Err(e) => assert!(e.to_string().contains(name), "{e}"),
            }
        }
        assert!(unseen <= 12, "{format}: {unseen} of {} flips unseen", whole.len());
        assert_fails(&put(&dir, name, &text), &[format, "damaged"]);
    }
}
