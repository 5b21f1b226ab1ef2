//! Data for the reference trainer: text files, the tokenizer, cached token files, batches, and the built-in
//! grammar that stands in for a corpus.
//!
//! The way from text to a batch:
//!
//! ```text
//! TextSource ── pieces ──> Tokenizer ── ids ──> TokenFile ──┐
//!  (streamed)             (byte-level BPE)      (mapped)     ├─> Corpus ──> Batches, EvalWindows
//!                                                Grammar ────┘
//! ```
//!
//! Every step is a pure function of its inputs and the seed: the same files, options and seed give the same
//! ids, for any number of threads.

mod batch;
mod grammar;
mod reader;
mod source;
mod tokenizer;
mod tokens;
mod unigram;
mod unpack;
pub mod wikitext;

pub use batch::{BatchShape, Batches, Corpus, EvalWindows};
pub use grammar::{Grammar, GrammarParams, Split};
pub use reader::{Piece, Pieces};
pub use source::TextSource;
pub use tokenizer::{END_OF_TEXT, MIN_VOCAB, Tokenizer};
pub use tokens::TokenFile;
pub(crate) use tokens::{check_writable, write_atomically};
pub use unigram::{Perplexity, Unigram};
