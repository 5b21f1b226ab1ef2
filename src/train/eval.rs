//! Evaluation: likelihood of a whole text, and how evenly it uses the experts.

use super::data::{EvalWindows, Perplexity};
use super::exchange::{ExchangeCost, Traffic};
use super::load::LoadCounts;
use super::model::Model;
use crate::elem::Elem;
use crate::error::Result;

/// What a pass over a text found.
#[derive(Clone, Debug, PartialEq)]
pub struct EvalReport {
    /// Total negative log-likelihood in nats.
    pub nll: f64,
    /// Predicted tokens.
    pub tokens: u64,
    /// Words of the original text; the tokens themselves for the grammar, whose tokens are its words.
    pub words: u64,
    /// Use of the experts over the whole pass; empty when dense.
    pub load: LoadCounts,
    /// What the choices would send between ranks; empty when dense.
    pub traffic: Vec<ExchangeCost>,
}

impl EvalReport {
    /// Mean negative log-likelihood in nats per token.
    pub fn loss(&self) -> f64 {
        self.nll / self.tokens as f64
    }

    /// Perplexity per token and per word.
    pub fn perplexity(&self) -> Perplexity {
        Perplexity::new(self.nll, self.tokens, self.words)
    }
}

/// Runs `model` over all `windows`, up to `batch` at a time (at most what the model was made for).
///
/// `temperature` is the router's; use that of the last training step.
pub fn evaluate<T: Elem>(
    model: &mut Model<T>,
    windows: &EvalWindows,
    batch: usize,
    temperature: f32,
) -> Result<EvalReport> {
    let words = windows.words().unwrap_or(windows.predicted());
    let mut report =
        EvalReport { nll: 0.0, tokens: 0, words, load: LoadCounts::default(), traffic: Vec::new() };
    let (config, mut traffic) = (model.config().clone(), Traffic::default());
    let (mut ids, mut window) = (Vec::new(), Vec::new());
    let (mut sequences, mut width) = (0, 0);
    for index in 0..=windows.len() {
        let last = index == windows.len();
        if !last {
            windows.read(index, &mut window)?;
        }
        // The last window may be shorter than the others: a batch has one length.
        if sequences > 0 && (last || sequences == batch || window.len() != width) {
            let nll = model.nll(&ids, sequences, temperature, |layer, routed| {
                report.load.add(layer, &routed.stats);
                traffic.add(&config, &routed.choices);
            })?;
            report.nll += nll.iter().map(|&x| f64::from(x)).sum::<f64>();
            report.tokens += nll.len() as u64;
            ids.clear();
            sequences = 0;
        }
        if !last {
            width = window.len();
            ids.extend_from_slice(&window);
            sequences += 1;
        }
    }
    report.traffic = traffic.costs(&config);
    Ok(report)
}
