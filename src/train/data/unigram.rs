//! The perplexity of knowing only how often each token occurs: the mark a language model has to beat.

use super::TokenFile;
use crate::error::{Result, ensure};

/// Ids read at a time.
const BLOCK: usize = 1 << 14;

/// A perplexity per subword token and per word of the original text.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Perplexity {
    /// `exp(nll / tokens)` over the predicted tokens: all but the first.
    pub subword: f64,
    /// `exp(nll / words)`, words and line ends counted on the original text: the same for every tokenizer.
    pub word: f64,
}

impl Perplexity {
    /// From the total negative log-likelihood `nll` in nats of `tokens` predicted tokens that make up `words`
    /// words.
    pub fn new(nll: f64, tokens: u64, words: u64) -> Self {
        Perplexity { subword: (nll / tokens as f64).exp(), word: (nll / words as f64).exp() }
    }
}

/// Token frequencies of a corpus, each count raised by one so that no token is impossible.
#[derive(Clone, Debug)]
pub struct Unigram {
    /// Negative log-probability of every id in nats, `[vocab]`.
    nll: Vec<f64>,
}

impl Unigram {
    /// Counts the ids of `train`.
    ///
    /// # Errors
    /// None in practice; those of [`TokenFile::copy_to`].
    pub fn count(train: &TokenFile) -> Result<Self> {
        let mut counts = vec![1u64; train.vocab()];
        for_each_id(train, 0, |id| counts[id as usize] += 1)?;
        let total = (train.len() + train.vocab()) as f64;
        Ok(Unigram { nll: counts.iter().map(|&n| -(n as f64 / total).ln()).collect() })
    }

    /// Perplexity on `eval`, whose first token is given and not predicted.
    ///
    /// # Errors
    /// [`Error::Rule`](crate::Error::Rule) when `eval` was made with a larger vocabulary.
    pub fn perplexity(&self, eval: &TokenFile) -> Result<Perplexity> {
        let vocab = self.nll.len();
        ensure!("Unigram::perplexity", eval.vocab() <= vocab, eval_vocab = eval.vocab(), vocab = vocab);
        let mut nll = 0.0;
        for_each_id(eval, 1, |id| nll += self.nll[id as usize])?;
        Ok(Perplexity::new(nll, eval.len().saturating_sub(1) as u64, eval.words()))
    }
}

fn for_each_id(file: &TokenFile, start: usize, mut each: impl FnMut(u32)) -> Result<()> {
    let mut block = vec![0; BLOCK];
    for at in (start..file.len()).step_by(BLOCK) {
        let block = &mut block[..BLOCK.min(file.len() - at)];
        file.copy_to(at, block)?;
        block.iter().for_each(|&id| each(id));
    }
    Ok(())
}
