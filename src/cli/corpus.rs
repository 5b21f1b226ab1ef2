//! The data of a command: text with its tokenizer, or the built-in grammar.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::options::Options;
use crate::error::{Error, Result};
use crate::train::checkpoint::{Checkpoint, DataKind};
use crate::train::config::{ModelConfig, TrainConfig};
use crate::train::data::{
    BatchShape, Batches, Corpus, EvalWindows, Grammar, GrammarParams, TextSource, TokenFile, Tokenizer,
    Unigram,
};

/// Seed of the built-in grammar: its language is the same for every run, whatever `--seed`.
const GRAMMAR_SEED: u64 = 0;

/// Tokens of the grammar's evaluation text.
const GRAMMAR_EVAL_TOKENS: u64 = 32_768;

/// The built-in grammar. Four topics, so that what a token alone tells about the next one is not nothing:
/// with eight at a vocabulary of 512 every class follows every other, and a model sees no gradient towards
/// the topic for the first million tokens.
fn built_in(vocab: usize, seed: u64) -> Result<Grammar> {
    Grammar::with(GrammarParams { vocab, topics: 4, branching: 4, switch: 1.0 / 64.0, seed })
}

/// How ids become text and text becomes ids.
pub(crate) enum Language {
    /// A tokenizer and the file it came from.
    Text(Box<Tokenizer>, PathBuf),
    /// The built-in grammar.
    Grammar(Grammar),
}

impl Language {
    /// What a checkpoint records about it.
    pub fn kind(&self) -> DataKind {
        match self {
            Language::Text(..) => DataKind::Text,
            Language::Grammar(grammar) => DataKind::Grammar { seed: grammar.params().seed },
        }
    }

    /// The tokenizer's file, for text.
    pub fn tokenizer_path(&self) -> Option<&Path> {
        match self {
            Language::Text(_, path) => Some(path),
            Language::Grammar(_) => None,
        }
    }

    /// The tokenizer, for text.
    pub fn tokenizer(&self) -> Option<&Tokenizer> {
        match self {
            Language::Text(tokenizer, _) => Some(tokenizer),
            Language::Grammar(_) => None,
        }
    }

    /// Ids as text for people.
    pub fn spell(&self, ids: &[u32]) -> Result<String> {
        match self {
            Language::Text(tokenizer, _) => tokenizer.decode(ids),
            Language::Grammar(grammar) => Ok(grammar.spell(ids)),
        }
    }

    /// Ids to start generating from: those of `prompt`, else a neutral start.
    pub fn start(&self, prompt: Option<&str>) -> Result<Vec<u32>> {
        match self {
            Language::Text(tokenizer, _) => {
                let ids = prompt.map(|text| tokenizer.encode(text)).transpose()?.unwrap_or_default();
                Ok(if ids.is_empty() { vec![tokenizer.end_of_text()] } else { ids })
            }
            Language::Grammar(_) => match prompt {
                None => Ok(vec![0]),
                Some(text) => {
                    Err(Error::config("--prompt", text, "the built-in language has no text to start from"))
                }
            },
        }
    }

    /// The token with which a text ends; the built-in language has no end.
    pub fn end(&self) -> Option<u32> {
        match self {
            Language::Text(tokenizer, _) => Some(tokenizer.end_of_text()),
            Language::Grammar(_) => None,
        }
    }

    /// The language of a run without a checkpoint: text for `--data`, else the grammar.
    pub fn of_run(options: &Options, model: &ModelConfig, cache: &Path) -> Result<Self> {
        let Some(data) = &options.data else {
            for (option, path) in [("--eval-data", &options.eval_data), ("--tokenizer", &options.tokenizer)] {
                if let Some(path) = path {
                    return Err(Error::config(option, path.display(), "needs --data to train on text"));
                }
            }
            return Ok(Language::Grammar(built_in(model.vocab, GRAMMAR_SEED)?));
        };
        if let Some(path) = &options.tokenizer {
            return Self::load(path, "--tokenizer", model);
        }
        let source = open_text(options, data)?;
        let mut hash = Sha256::new();
        hash.update(source.content_hash()?);
        hash.update((model.vocab as u64).to_le_bytes());
        let key: String = hash.finalize()[..12].iter().map(|b| format!("{b:02x}")).collect();
        let path = cache.join(format!("{key}.tokenizer.json"));
        if !path.exists() {
            let tokenizer = Tokenizer::train(&source, model.vocab)?;
            std::fs::create_dir_all(cache).map_err(Error::io("create", cache))?;
            tokenizer.save(&path)?;
        }
        Self::load(&path, "--vocab", model)
    }

    /// The language a checkpoint was trained on.
    pub fn of_checkpoint(checkpoint: &Checkpoint) -> Result<Self> {
        let model = &checkpoint.description().model;
        match (checkpoint.description().data, checkpoint.tokenizer_path()) {
            (DataKind::Grammar { seed }, _) => Ok(Language::Grammar(built_in(model.vocab, seed)?)),
            (DataKind::Text, Some(path)) => Self::load(path, "--checkpoint", model),
            (DataKind::Text, None) => {
                Err(Error::checkpoint(checkpoint.path(), "it was trained on text but has no tokenizer.json"))
            }
        }
    }

    fn load(path: &Path, option: &'static str, model: &ModelConfig) -> Result<Self> {
        let tokenizer = Tokenizer::load(path)?;
        let entries = tokenizer.vocab_size();
        if entries > model.vocab {
            let why =
                format!("the tokenizer has {entries} entries, more than the model's --vocab {}", model.vocab);
            return Err(Error::config(option, path.display(), why));
        }
        Ok(Language::Text(Box::new(tokenizer), path.to_owned()))
    }

    /// What to train on: of a text, no more than the whole run needs (or `--corpus-tokens`) is tokenized.
    pub fn training(
        &self,
        options: &Options,
        model: &ModelConfig,
        train: &TrainConfig,
        cache: &Path,
    ) -> Result<Corpus> {
        match self {
            Language::Grammar(grammar) => Ok(Corpus::Generated(grammar.clone())),
            Language::Text(tokenizer, _) => {
                let data = options.data.as_ref().ok_or_else(|| {
                    Error::config("--data", "(none)", "is needed: the checkpoint was trained on text")
                })?;
                let trained_on = train.tokens_per_step(model.seq).saturating_mul(train.steps);
                let needed = trained_on.max(options.corpus_tokens.unwrap_or(0)).saturating_add(1);
                let source = open_text(options, data)?;
                Ok(Corpus::File(TokenFile::open_or_build(cache, &source, tokenizer, Some(needed))?))
            }
        }
    }

    /// Training batches of [`Language::training`].
    pub fn batches(
        &self,
        options: &Options,
        model: &ModelConfig,
        train: &TrainConfig,
        cache: &Path,
    ) -> Result<Batches> {
        let corpus = self.training(options, model, train, cache)?;
        let shape = BatchShape { batch: train.batch, seq: model.seq, accumulate: train.accumulate };
        let named = |e| blame(e, options.data.as_deref());
        Batches::new(corpus, shape, train.seed).map_err(named)
    }

    /// What to evaluate on: `--eval-data`, or fresh text of the grammar; `None` for text without it.
    pub fn evaluation(&self, options: &Options, seq: usize, cache: &Path) -> Result<Option<Evaluation>> {
        match (self, &options.eval_data) {
            (Language::Text(tokenizer, _), Some(path)) => {
                let file = TokenFile::open_or_build(cache, &open_text(options, path)?, tokenizer, None)?;
                let windows = EvalWindows::of_file(file.clone(), seq).map_err(|e| blame(e, Some(path)))?;
                Ok(Some(Evaluation { windows, file: Some(file) }))
            }
            (Language::Text(..), None) => Ok(None),
            (Language::Grammar(_), Some(path)) => {
                let why = "the model was trained on the built-in language and has no tokenizer";
                Err(Error::config("--eval-data", path.display(), why))
            }
            (Language::Grammar(grammar), None) => {
                let windows = EvalWindows::of_grammar(grammar.clone(), seq, GRAMMAR_EVAL_TOKENS)?;
                Ok(Some(Evaluation { windows, file: None }))
            }
        }
    }
}

/// A text as the options want it read.
fn open_text(options: &Options, path: &Path) -> Result<TextSource> {
    let source = TextSource::open(path)?;
    Ok(if options.verbatim == Some(true) { source.verbatim() } else { source })
}

/// The error with the user's own path in place of that of a cached file made from it.
fn blame(error: Error, path: Option<&Path>) -> Error {
    match (error, path) {
        (Error::Data { why, .. }, Some(path)) => Error::data(path, why),
        (error, _) => error,
    }
}

/// A text to evaluate on.
pub(crate) struct Evaluation {
    /// Its windows.
    pub windows: EvalWindows,
    /// Its ids; none for the grammar.
    pub file: Option<TokenFile>,
}

impl Evaluation {
    /// The marks to compare a perplexity with, as sentences: frequencies alone, and the best possible.
    pub fn marks(&self, language: &Language, training: Option<&Corpus>) -> Result<Vec<String>> {
        match (language, &self.file, training) {
            (Language::Grammar(grammar), ..) => {
                let (floor, unigram) = (grammar.entropy_floor(), grammar.unigram_entropy());
                Ok(vec![
                    format!("frequencies alone: loss {unigram:.4}, perplexity {:.2}", unigram.exp()),
                    format!(
                        "entropy floor of the built-in language: loss {floor:.4}, perplexity {:.2}",
                        floor.exp()
                    ),
                ])
            }
            (_, Some(file), Some(Corpus::File(train))) => {
                let unigram = Unigram::count(train)?.perplexity(file)?;
                Ok(vec![format!(
                    "frequencies alone (unigram): subword perplexity {:.2}, word perplexity {:.0}",
                    unigram.subword, unigram.word
                )])
            }
            _ => Ok(Vec::new()),
        }
    }
}

/// Folder of tokenized text: `--cache`, else `cache` in `run`.
pub(crate) fn cache_folder(options: &Options, run: &Path) -> PathBuf {
    options.cache.clone().unwrap_or_else(|| run.join("cache"))
}
