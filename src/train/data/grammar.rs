//! A made-up language of known entropy: the corpus of a run without `--data`.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use crate::error::{Error, Result, ensure};

/// Tokens of one class, where the vocabulary divides evenly.
const CLASS: usize = 16;

/// Exponent of the Zipf law inside a class: steep enough for a token to hint at the topic.
const TOKEN_EXPONENT: f64 = 1.5;

/// Exponent of the Zipf law over the successors of a class.
const SUCCESSOR_EXPONENT: f64 = 1.0;

/// Size and shape of a [`Grammar`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GrammarParams {
    /// Number of tokens; ids run from 0.
    pub vocab: usize,
    /// Number of latent topics.
    pub topics: usize,
    /// Number of classes that may follow a class under one topic.
    pub branching: usize,
    /// Probability that the topic is drawn anew before a token.
    pub switch: f64,
    /// Seed of the tables and of the text.
    pub seed: u64,
}

/// Which text of the grammar: the two never share a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// Text to train on.
    Train,
    /// Text to evaluate on.
    Eval,
}

/// A latent-topic grammar.
///
/// The vocabulary is cut into classes of 16 tokens. A hidden topic follows a sticky Markov chain. Every topic
/// `t` has a permutation `s_t` of the classes, and after a token of class `c` comes one of the classes
/// `s_t(c) + 0, 1, …, branching - 1` (modulo their number), by a Zipf law. Within the class the token is
/// drawn by another Zipf law, whose ranking is rotated by topic, so that each topic has its own favourites.
///
/// So there is something to learn at three depths: which tokens form a class (from how often what follows
/// what), the topic behind a token (from its own favourites, then from the context), and one successor table
/// per topic, which is work for experts to share out. There are only `topics x classes` successor rows, so
/// at 512 tokens a text of 100,000 shows each some 400 times.
///
/// Both Markov chains are doubly stochastic, so topic and class are uniform and every window starts in
/// equilibrium, which makes the entropies below exact.
#[derive(Clone, Debug)]
pub struct Grammar {
    params: GrammarParams,
    /// First id of every class and the end of the last, `[classes + 1]`.
    class_start: Vec<u32>,
    /// Class of every id, `[vocab]`.
    class_of: Vec<u32>,
    /// First successor of a class under a topic, `[topics, classes]`.
    successor: Vec<u32>,
    /// Cumulative probabilities of the successors, `[branching]`.
    branch: Vec<f64>,
    /// Cumulative probabilities of the ranks in a class of `CLASS` and of `CLASS + 1` tokens.
    rank: [Vec<f64>; 2],
}

impl Grammar {
    /// The grammar of `vocab` tokens with 8 topics, 4 successors, and a topic that lasts 64 tokens on
    /// average.
    ///
    /// # Errors
    /// [`Error::Config`] when `vocab` is below 256, where the classes become too few to tell topics apart.
    pub fn new(vocab: usize, seed: u64) -> Result<Self> {
        Self::with(GrammarParams { vocab, topics: 8, branching: 4, switch: 1.0 / 64.0, seed })
    }

    /// A grammar of any shape.
    ///
    /// # Errors
    /// [`Error::Config`] when `vocab` is below 256 or no `u32`, and [`Error::Rule`] when there are no topics,
    /// more successors than classes (`vocab / 16`), or `switch` is no probability.
    pub fn with(params: GrammarParams) -> Result<Self> {
        let GrammarParams { vocab, topics, branching, switch, seed } = params;
        if vocab < CLASS * CLASS || u32::try_from(vocab).is_err() {
            let why = format!("the built-in grammar takes {} to {} tokens", CLASS * CLASS, u32::MAX);
            return Err(Error::config("--vocab", vocab, why));
        }
        let classes = vocab / CLASS;
        ensure!("Grammar", topics >= 1, topics = topics);
        ensure!("Grammar", (1..=classes).contains(&branching), branching = branching, classes = classes);
        ensure!("Grammar", (0.0..=1.0).contains(&switch), switch = switch);

        // Tokens left over by the division go to as many classes, one each; there are more classes than
        // those.
        let class_start: Vec<u32> = (0..=classes).map(|c| (c * vocab).div_ceil(classes) as u32).collect();
        let mut class_of = Vec::with_capacity(vocab);
        for (c, range) in class_start.windows(2).enumerate() {
            class_of.extend((range[0]..range[1]).map(|_| c as u32));
        }
        let mut rng = rng(seed, 0, 0);
        let successor = (0..topics).flat_map(|_| permutation(classes, &mut rng)).collect();
        Ok(Grammar {
            params,
            class_start,
            class_of,
            successor,
            branch: cumulative(&zipf(branching, SUCCESSOR_EXPONENT)),
            rank: [CLASS, CLASS + 1].map(|n| cumulative(&zipf(n, TOKEN_EXPONENT))),
        })
    }

    /// The parameters it was made with.
    pub fn params(&self) -> GrammarParams {
        self.params
    }

    /// Number of tokens; every id is below it.
    pub fn vocab(&self) -> usize {
        self.params.vocab
    }

    /// Writes window `window` of `split`: `out.len()` ids of a text of its own, a pure function of the seed
    /// and these.
    pub fn fill(&self, split: Split, window: u64, out: &mut [u32]) {
        self.generate(split, window, out.iter_mut(), |slot, id, _| *slot = id);
    }

    /// Generates a window over `slots`, handing each its id and topic.
    fn generate<S>(
        &self,
        split: Split,
        window: u64,
        slots: impl Iterator<Item = S>,
        mut put: impl FnMut(S, u32, usize),
    ) {
        let mut rng = rng(self.params.seed, 1 + split as u64, window);
        let mut topic = below(&mut rng, self.params.topics);
        // The class before the first token: in equilibrium, like all that follow.
        let mut class = below(&mut rng, self.classes());
        for slot in slots {
            if unit(&mut rng) < self.params.switch {
                topic = below(&mut rng, self.params.topics);
            }
            let first = self.successor[topic * self.classes() + class] as usize;
            class = (first + draw(&self.branch, &mut rng)) % self.classes();
            let size = self.class_size(class);
            let place = (draw(&self.rank[size - CLASS], &mut rng) + self.rotation(topic, size)) % size;
            put(slot, self.class_start[class] + place as u32, topic);
        }
    }

    fn classes(&self) -> usize {
        self.class_start.len() - 1
    }

    /// `CLASS` or `CLASS + 1`.
    fn class_size(&self, class: usize) -> usize {
        (self.class_start[class + 1] - self.class_start[class]) as usize
    }

    /// By how much `topic` rotates the ranking of a class of `size` tokens.
    fn rotation(&self, topic: usize, size: usize) -> usize {
        topic * size / self.params.topics
    }

    /// A lower bound of the cross-entropy that any model can reach, in nats per token: `H(token | previous
    /// token, topic)`, exact.
    ///
    /// It is the loss of a reader who is told the topic. A model has to infer the topic from the context and
    /// does not see the class before the first token, so the loss it can reach lies slightly above.
    pub fn entropy_floor(&self) -> f64 {
        // Given topic and class, the next class is one of `branching` distinct ones, and all classes are
        // equally likely in equilibrium, so the entropy of the token inside its class is a plain mean over
        // the classes.
        let within = [CLASS, CLASS + 1].map(|n| entropy(&zipf(n, TOKEN_EXPONENT)));
        let mean = (0..self.classes()).map(|c| within[self.class_size(c) - CLASS]).sum::<f64>()
            / self.classes() as f64;
        entropy(&zipf(self.params.branching, SUCCESSOR_EXPONENT)) + mean
    }

    /// Entropy of one token without any context, in nats, exact: the loss of a model that knows only
    /// frequencies.
    pub fn unigram_entropy(&self) -> f64 {
        let mut total = 0.0;
        for class in 0..self.classes() {
            let size = self.class_size(class);
            let law = zipf(size, TOKEN_EXPONENT);
            let mut mixed = vec![0.0; size];
            for topic in 0..self.params.topics {
                for (rank, p) in law.iter().enumerate() {
                    mixed[(rank + self.rotation(topic, size)) % size] += p / self.params.topics as f64;
                }
            }
            total += entropy(&mixed);
        }
        (self.classes() as f64).ln() + total / self.classes() as f64
    }

    /// A spelling of `ids` for people to read: two syllables a token, the first told by its class. An id
    /// outside the vocabulary is a `?`.
    pub fn spell(&self, ids: &[u32]) -> String {
        let word = |&id: &u32| match self.class_of.get(id as usize) {
            Some(&class) => syllables(class) + &syllables(id - self.class_start[class as usize]),
            None => "?".to_owned(),
        };
        ids.iter().map(word).collect::<Vec<_>>().join(" ")
    }
}

/// `n` in base 80, a consonant and a vowel a digit.
fn syllables(mut n: u32) -> String {
    let mut out = String::new();
    loop {
        out.push(char::from(b"bdfghjklmnprstvz"[n as usize % 16]));
        out.push(char::from(b"aeiou"[n as usize / 16 % 5]));
        n /= 80;
        if n == 0 {
            return out;
        }
    }
}

/// The generator of stream `index` in `domain`: 2^128 streams a seed, independent of each other.
pub(super) fn rng(seed: u64, domain: u64, index: u64) -> ChaCha8Rng {
    let mut key = [0; 32];
    for (bytes, value) in key.chunks_exact_mut(8).zip([seed, domain, index]) {
        bytes.copy_from_slice(&value.to_le_bytes());
    }
    ChaCha8Rng::from_seed(key)
}

/// Uniform in `[0, 1)` with 53 bits. Written out here, so that a seed means the same text whatever the
/// version of `rand`.
fn unit(rng: &mut ChaCha8Rng) -> f64 {
    (rng.next_u64() >> 11) as f64 * (-53f64).exp2()
}

/// Uniform in `0..n`; the bias of the product is below `n / 2^64`.
fn below(rng: &mut ChaCha8Rng, n: usize) -> usize {
    ((rng.next_u64() as u128 * n as u128) >> 64) as usize
}

fn permutation(n: usize, rng: &mut ChaCha8Rng) -> Vec<u32> {
    let mut items: Vec<u32> = (0..n as u32).collect();
    for i in (1..n).rev() {
        items.swap(i, below(rng, i + 1));
    }
    items
}

/// Probabilities proportional to `1 / rank^exponent` over `n` ranks.
fn zipf(n: usize, exponent: f64) -> Vec<f64> {
    let weights: Vec<f64> = (1..=n).map(|rank| (rank as f64).powf(-exponent)).collect();
    let total: f64 = weights.iter().sum();
    weights.iter().map(|w| w / total).collect()
}

fn cumulative(p: &[f64]) -> Vec<f64> {
    p.iter()
        .scan(0.0, |sum, p| {
            *sum += p;
            Some(*sum)
        })
        .collect()
}

/// A rank drawn by its cumulative law; rounding at the end falls to the last one.
fn draw(cumulative: &[f64], rng: &mut ChaCha8Rng) -> usize {
    let u = unit(rng);
    cumulative.partition_point(|&c| c <= u).min(cumulative.len() - 1)
}

fn entropy(p: &[f64]) -> f64 {
    -p.iter().filter(|&&p| p > 0.0).map(|p| p * p.ln()).sum::<f64>()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mean `-ln p(token | previous token, topic)` and `-ln p(token)` of a long sample, from counts alone:
    /// nothing of the tables is used, so a wrong formula and a wrong generator both show.
    fn estimates(grammar: &Grammar, tokens: usize) -> (f64, f64) {
        let vocab = grammar.vocab();
        let mut ids = Vec::with_capacity(tokens);
        grammar.generate(Split::Eval, 7, 0..tokens, |_, id, topic| ids.push((id as usize, topic)));
        let mut joint = std::collections::HashMap::<(usize, usize, usize), f64>::new();
        let mut context = std::collections::HashMap::<(usize, usize), f64>::new();
        let mut single = vec![0.0; vocab];
        for pair in ids.windows(2) {
            let ((before, _), (id, topic)) = (pair[0], pair[1]);
            *joint.entry((topic, before, id)).or_default() += 1.0;
            *context.entry((topic, before)).or_default() += 1.0;
            single[id] += 1.0;
        }
        let n = (ids.len() - 1) as f64;
        let conditional = joint.iter().map(|(&(t, b, _), &k)| -k / n * (k / context[&(t, b)]).ln()).sum();
        (conditional, entropy(&single.iter().map(|k| k / n).collect::<Vec<_>>()))
    }

    #[test]
    fn entropies_match_a_long_sample_with_the_topics_known() {
        // 256 tokens, 2 topics: few enough contexts for counting to converge; 261 has classes of both sizes.
        for vocab in [256, 261] {
            let params = GrammarParams { vocab, topics: 2, branching: 3, switch: 0.02, seed: 5 };
            let grammar = Grammar::with(params).unwrap();
            let (floor, unigram) = estimates(&grammar, 4_000_000);
            // Counting underestimates by about (cells - contexts) / 2n = 0.003.
            assert!((floor - grammar.entropy_floor()).abs() < 0.01, "{floor} {}", grammar.entropy_floor());
            assert!(
                (unigram - grammar.unigram_entropy()).abs() < 0.002,
                "{unigram} {}",
                grammar.unigram_entropy()
            );
        }
    }
}
