//! Byte-level byte-pair encoding: trained on a corpus, or read from a `tokenizer.json`.

use std::fs;
use std::io::Write;
use std::path::Path;

use rayon::prelude::*;
use sha2::{Digest, Sha256};
use tokenizers::decoders::byte_level::ByteLevel;
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::{AddedToken, Tokenizer as Inner};

use super::TextSource;
use super::tokens::write_atomically;
use crate::{Error, Result};

/// The token that begins every document, and with it every generated text.
pub const END_OF_TEXT: &str = "<|endoftext|>";

/// Names other tokenizers give to that token, in the order they are looked for.
const END_NAMES: [&str; 5] = [END_OF_TEXT, "<|end_of_text|>", "</s>", "<eos>", "<s>"];

/// Smallest vocabulary: the 256 bytes and [`END_OF_TEXT`].
pub const MIN_VOCAB: usize = 257;

/// Bytes of text that training looks at. More text changes the first few thousand merges hardly at all, and
/// both the time and the memory of training grow with it.
const TRAINING_BYTES: u64 = 16 << 20;

/// A byte-level BPE tokenizer: any text goes to ids and back unchanged.
pub struct Tokenizer {
    inner: Inner,
    end_of_text: u32,
    /// The `tokenizer.json`, which is also what its hash is taken over.
    json: String,
}

impl Tokenizer {
    /// Trains `vocab` entries on `source`: 256 bytes, [`END_OF_TEXT`], and merges in the order of their
    /// counts.
    ///
    /// A corpus above 16 MiB of text is sampled: pieces spread evenly over all of it, chosen by their
    /// position alone, so the same corpus always gives the same tokenizer. A small corpus may not have enough
    /// pairs that occur twice; [`vocab_size`](Self::vocab_size) says how many entries there are.
    ///
    /// # Errors
    /// [`Error::Config`] when `vocab` is below [`MIN_VOCAB`]; whatever [`TextSource::pieces`] reports.
    pub fn train(source: &TextSource, vocab: usize) -> Result<Self> {
        if vocab < MIN_VOCAB {
            let why = format!(
                "a byte-level vocabulary needs at least {MIN_VOCAB} entries: 256 bytes and {END_OF_TEXT}"
            );
            return Err(Error::config("--vocab", vocab, why));
        }
        let mut total = 0;
        for piece in source.pieces() {
            total += piece?.text.len() as u64;
        }

        let mut trainer: TrainerWrapper = BpeTrainer::builder()
            .show_progress(false)
            .vocab_size(vocab)
            .min_frequency(2)
            .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
            .special_tokens(vec![AddedToken::from(END_OF_TEXT, true)])
            .build()
            .into();
        let byte_level = ByteLevel::new(false, false, true);
        let mut inner = Inner::new(BPE::default());
        inner.with_pre_tokenizer(Some(byte_level)).with_decoder(Some(byte_level));

        // The trainer takes plain strings, so the first error of the stream ends it and is kept aside.
        let mut failure = None;
        let (mut seen, mut kept) = (0u64, 0u64);
        let sample = source
            .pieces()
            .map_while(|piece| piece.map_err(|e| failure = Some(e)).ok())
            .filter(|piece| {
                seen += piece.text.len() as u64;
                let take = total <= TRAINING_BYTES
                    || kept as u128 * total as u128 <= seen as u128 * TRAINING_BYTES as u128;
                kept += if take { piece.text.len() as u64 } else { 0 };
                take
            })
            .map(|piece| piece.text);
        let trained = inner.train(&mut trainer, sample).map(|_| ());
        if let Some(e) = failure {
            return Err(e);
        }
        trained.map_err(|e| Error::data(source.path(), format!("no tokenizer can be trained on it: {e}")))?;
        let json = inner.to_string(false);
        let json = json.map_err(|e| Error::Host { what: "the trained tokenizer", why: e.to_string() })?;
        // Reading it back drops everything training left behind.
        Self::from_json(json, source.path())
    }

    /// Reads a `tokenizer.json`, of this crate or any other made for text completion.
    ///
    /// # Errors
    /// [`Error::Io`] when the file cannot be read, [`Error::Data`] when it holds no tokenizer or one without
    /// an end-of-text token.
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let bytes = fs::read(path).map_err(Error::io("read", path))?;
        let json = String::from_utf8(bytes)
            .map_err(|_| Error::data(path, "the file is not UTF-8 text, so no tokenizer.json"))?;
        Self::from_json(json, path)
    }

    fn from_json(json: String, path: &Path) -> Result<Self> {
        let mut inner = Inner::from_bytes(json.as_bytes())
            .map_err(|e| Error::data(path, format!("the file is not a usable tokenizer.json: {e}")))?;
        // What looks like a special token inside a text is text.
        inner.set_encode_special_tokens(true);
        let end_of_text = END_NAMES.iter().find_map(|name| inner.token_to_id(name)).ok_or_else(|| {
            let names = END_NAMES.join(", ");
            Error::data(path, format!("the tokenizer has no token that ends a text (one of {names})"))
        })?;
        Ok(Tokenizer { inner, end_of_text, json })
    }

    /// Writes the `tokenizer.json`: to a temporary file beside it, then renamed.
    ///
    /// # Errors
    /// [`Error::Io`] when the folder cannot be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        write_atomically(path, |file| file.write_all(self.json.as_bytes()).map_err(Error::io("write", path)))
    }

    /// What [`save`](Self::save) writes.
    pub fn json(&self) -> &str {
        &self.json
    }

    /// The ids of `text`, each below [`vocab_size`](Self::vocab_size); no special token is added.
    ///
    /// # Errors
    /// [`Error::Host`] when a loaded tokenizer has no ids for this text (none trained here lacks any).
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = self.inner.encode_fast(text, false);
        let encoding =
            encoding.map_err(|e| Error::Host { what: "the tokenizer's encoding", why: e.to_string() })?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The ids of each text, in order, on all threads of the current pool.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn encode_all<S: AsRef<str> + Sync>(&self, texts: &[S]) -> Result<Vec<Vec<u32>>> {
        texts.par_iter().map(|text| self.encode(text.as_ref())).collect()
    }

    /// The text of `ids`; bytes that are no UTF-8 become U+FFFD, as half a character at an end does.
    ///
    /// # Errors
    /// [`Error::Host`] when a loaded tokenizer's decoder fails.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        let text = self.inner.decode(ids, false);
        text.map_err(|e| Error::Host { what: "the tokenizer's decoding", why: e.to_string() })
    }

    /// One more than the largest id there is.
    pub fn vocab_size(&self) -> usize {
        // A loaded vocabulary may have gaps, so its length is no bound on its ids.
        self.inner.get_vocab(true).values().max().map_or(0, |&id| id as usize + 1)
    }

    /// The id of the token that begins every document.
    pub fn end_of_text(&self) -> u32 {
        self.end_of_text
    }

    /// SHA-256 of the `tokenizer.json`.
    pub fn content_hash(&self) -> [u8; 32] {
        Sha256::digest(self.json.as_bytes()).into()
    }
}
