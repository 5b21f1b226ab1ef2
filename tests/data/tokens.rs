//! The tokenizer, cached token files, and the unigram mark.

use std::fs;

use trimoe::Error;
use trimoe::train::data::{Perplexity, TextSource, TokenFile, Tokenizer, Unigram};

use crate::{folder, ids, prose, put, token_file, trained};

#[test]
fn a_tokenizer_round_trips_any_text_and_its_file() {
    let dir = folder();
    let (source, tokenizer) = trained(&dir, 300);
    assert_eq!(tokenizer.vocab_size(), 300);
    let unseen = "日本語 \u{0}\u{1b}\r\n\t  <|endoftext|> z\u{301}🦀  \u{2028}end ";
    for text in [unseen, "", " ", &prose(20)] {
        let ids = tokenizer.encode(text).unwrap();
        assert!(ids.iter().all(|&id| id < 300 && id != tokenizer.end_of_text()));
        assert_eq!(tokenizer.decode(&ids).unwrap(), text);
    }
    assert!(tokenizer.encode(&prose(20)).unwrap().len() < prose(20).len() / 2, "merges were learned");

    let path = dir.path().join("tokenizer.json");
    tokenizer.save(&path).unwrap();
    let loaded = Tokenizer::load(&path).unwrap();
    assert_eq!(loaded.content_hash(), tokenizer.content_hash());
    assert_eq!(loaded.end_of_text(), tokenizer.end_of_text());
    assert_eq!(loaded.encode(unseen).unwrap(), tokenizer.encode(unseen).unwrap());
    for _ in 0..3 {
        let again = Tokenizer::train(&source, 300).unwrap();
        assert_eq!(again.content_hash(), tokenizer.content_hash(), "training is deterministic");
    }
    let texts = [prose(3), String::new(), unseen.to_owned()];
    let one_by_one: Vec<_> = texts.iter().map(|text| tokenizer.encode(text).unwrap()).collect();
    assert_eq!(tokenizer.encode_all(&texts).unwrap(), one_by_one);
}

#[test]
fn unusable_tokenizers_are_named() {
    let dir = folder();
    let source = TextSource::open(put(&dir, "a.txt", "some text")).unwrap();
    let e = Tokenizer::train(&source, 256).err().unwrap();
    assert_eq!((e.exit_code(), e.to_string().contains("--vocab 256")), (2, true), "{e}");
    assert_eq!(Tokenizer::train(&source, 257).unwrap().encode("some").unwrap().len(), 4, "bytes alone");

    let rows = put(&dir, "bad.jsonl", "{\"text\": \"a\"}\n{}");
    let e = Tokenizer::train(&TextSource::open(&rows).unwrap(), 300).err().unwrap();
    assert!(e.to_string().contains("line 2"), "{e}");

    for (name, content) in [("json", "{}"), ("text", "hello"), ("binary", "\u{0}")] {
        let path = put(&dir, name, content);
        let e = Tokenizer::load(&path).err().unwrap().to_string();
        assert!(e.contains(path.to_str().unwrap()) && e.contains("tokenizer.json"), "{e}");
    }
    assert!(matches!(Tokenizer::load(dir.path().join("none")).err(), Some(Error::Io { .. })));
    let no_end = put(
        &dir,
        "no_end.json",
        r#"{"version": "1.0", "model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}, "added_tokens": [],
            "normalizer": null, "pre_tokenizer": null, "post_processor": null, "decoder": null,
            "truncation": null, "padding": null}"#,
    );
    let e = Tokenizer::load(&no_end).err().unwrap().to_string();
    assert!(e.contains("no token that ends a text"), "{e}");
    let e = trained(&dir, 300).1.save(dir.path().join("no/such/folder.json")).unwrap_err();
    assert!(matches!(e, Error::Io { action: "write", .. }), "{e}");
}

#[test]
fn a_token_file_holds_the_corpus_and_is_reused() {
    let dir = folder();
    let rows = "{\"text\": \"the river\"}\n{\"text\": \"naïve fish\\n\"}\n";
    let source = TextSource::open(put(&dir, "rows.jsonl", rows)).unwrap();
    let (corpus, tokenizer) = trained(&dir, 300);
    let cache = dir.path().join("new/cache");
    let file = TokenFile::open_or_build(&cache, &source, &tokenizer, None).unwrap();
    let end = tokenizer.end_of_text();
    let expected =
        ["the river", "naïve fish\n"].map(|text| [vec![end], tokenizer.encode(text).unwrap()].concat());
    assert_eq!(ids(&file), expected.concat());
    assert_eq!((file.words(), file.vocab(), file.is_empty()), (5, 300, false));
    assert!(file.copy_to(1, &mut vec![0; file.len()]).is_err());
    assert!(file.copy_to(usize::MAX, &mut [0]).is_err());

    let written = || fs::metadata(file.path()).unwrap().modified().unwrap();
    let before = written();
    let again = TokenFile::open_or_build(&cache, &source, &tokenizer, None).unwrap();
    assert_eq!((again.path(), ids(&again)), (file.path(), ids(&file)));
    assert_eq!(written(), before, "not built again");

    // Another text, tokenizer or limit is another file.
    let whole = TokenFile::open_or_build(&cache, &corpus, &tokenizer, None).unwrap();
    let limited = TokenFile::open_or_build(&cache, &corpus, &tokenizer, Some(2_000)).unwrap();
    let other = Tokenizer::train(&corpus, 280).unwrap();
    let other = TokenFile::open_or_build(&cache, &corpus, &other, None).unwrap();
    assert_eq!(fs::read_dir(&cache).unwrap().count(), 4, "and no temporary files");
    assert!(limited.len() >= 2_000 && limited.len() < whole.len());
    assert_eq!(ids(&limited), ids(&whole)[..limited.len()]);
    let first = corpus.pieces().next().unwrap().unwrap();
    assert_eq!(limited.words(), first.words, "words of exactly the pieces that were kept");
    assert!(other.len() > whole.len());
}

#[test]
fn wide_vocabularies_take_four_bytes() {
    let dir = folder();
    let (source, tokenizer) = trained(&dir, 300);
    let path = dir.path().join("tokenizer.json");
    tokenizer.save(&path).unwrap();
    // The id of the end-of-text token, moved beyond 16 bits.
    let mut json: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    json["model"]["vocab"]["<|endoftext|>"] = 70_000.into();
    json["added_tokens"][0]["id"] = 70_000.into();
    fs::write(&path, json.to_string()).unwrap();
    let wide = Tokenizer::load(&path).unwrap();
    assert_eq!((wide.vocab_size(), wide.end_of_text()), (70_001, 70_000));
    let [narrow, wide] =
        [&tokenizer, &wide].map(|t| TokenFile::open_or_build(dir.path(), &source, t, None).unwrap());
    assert_eq!(ids(&wide)[0], 70_000);
    assert_eq!(ids(&wide)[1..], ids(&narrow)[1..]);
    let size = |file: &TokenFile| fs::metadata(file.path()).unwrap().len() as usize;
    assert_eq!(size(&wide) - size(&narrow), 2 * narrow.len());
}

#[test]
fn a_damaged_token_file_is_built_again() {
    let dir = folder();
    let (source, tokenizer) = trained(&dir, 300);
    let open = || TokenFile::open_or_build(dir.path(), &source, &tokenizer, Some(500)).unwrap();
    let (path, good) = (open().path().to_owned(), ids(&open()));
    let whole = fs::read(&path).unwrap();
    let flipped = |at: usize| {
        let mut bytes = whole.clone();
        bytes[at] ^= 4;
        bytes
    };
    let mut damaged = vec![vec![], whole[..100].to_vec(), whole[..whole.len() - 1].to_vec()];
    damaged.push([&whole[..], &[0]].concat());
    damaged.extend((0..128).chain([whole.len() / 2, whole.len() - 1]).map(flipped));
    for bytes in damaged {
        fs::write(&path, &bytes).unwrap();
        assert_eq!(ids(&open()), good);
        assert!(fs::read(&path).unwrap() == whole);
    }
}

#[test]
fn a_failed_build_leaves_nothing_behind() {
    let dir = folder();
    let (good, tokenizer) = trained(&dir, 300);
    let source = TextSource::open(put(&dir, "bad.jsonl", "{\"text\": \"a\"}\n{}")).unwrap();
    let cache = dir.path().join("cache");
    let e = TokenFile::open_or_build(&cache, &source, &tokenizer, None).unwrap_err();
    assert!(e.to_string().contains("bad.jsonl: line 2"), "{e}");
    assert_eq!(fs::read_dir(&cache).unwrap().count(), 0);
    let blocked = put(&dir, "blocked", "a file where a folder should be");
    let e = TokenFile::open_or_build(&blocked, &good, &tokenizer, None).unwrap_err();
    assert!(e.to_string().contains(blocked.to_str().unwrap()), "{e}");
}

#[test]
fn the_unigram_perplexity_is_that_of_counted_frequencies() {
    let dir = folder();
    let file = token_file(&dir);
    let all = ids(&file);
    let count = |id: u32| all.iter().filter(|&&other| other == id).count() as f64 + 1.0;
    let total = (all.len() + 300) as f64;
    let nll: f64 = all[1..].iter().map(|&id| -(count(id) / total).ln()).sum();
    let expected = Perplexity::new(nll, all.len() as u64 - 1, file.words());
    let got = Unigram::count(&file).unwrap().perplexity(&file).unwrap();
    assert!((got.subword / expected.subword - 1.0).abs() < 1e-9, "{got:?} {expected:?}");
    assert!((got.word / expected.word - 1.0).abs() < 1e-9, "{got:?} {expected:?}");
    assert!(got.word > got.subword && got.subword > 1.0);

    let other = Tokenizer::train(&TextSource::open(dir.path().join("corpus.txt")).unwrap(), 301).unwrap();
    let source = TextSource::open(put(&dir, "other.txt", "another vocabulary")).unwrap();
    let wider = TokenFile::open_or_build(dir.path(), &source, &other, None).unwrap();
    assert!(matches!(Unigram::count(&file).unwrap().perplexity(&wider), Err(Error::Rule { .. })));
}
