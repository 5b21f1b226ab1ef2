//! `trimoe generate`.

use super::corpus::Language;
use super::eval::Loaded;
use super::options::Options;
use super::summary::write_json;
use super::terminal::say;
use crate::bf16;
use crate::elem::Elem;
use crate::error::{Error, Result};
use crate::train::config::Precision;
use crate::train::generate::{Sampling, generate};

/// Options of `generate`.
#[derive(Debug, clap::Args)]
pub(super) struct GenerateOptions {
    /// Text to continue [default: the start of a text].
    #[arg(long, value_name = "TEXT")]
    prompt: Option<String>,
    /// Tokens to add.
    #[arg(long, default_value_t = 128)]
    length: usize,
    /// Divides the logits; 0 always takes the most likely token.
    #[arg(long, default_value_t = 0.8)]
    temperature: f32,
    /// Candidates for each token, the most likely ones; 0 for all.
    #[arg(long, default_value_t = 40)]
    candidates: usize,
    #[command(flatten)]
    options: Options,
}

pub(super) fn run(mut args: GenerateOptions) -> Result<u8> {
    if !(args.temperature.is_finite() && args.temperature >= 0.0) {
        return Err(Error::config("--temperature", args.temperature, "must not be negative"));
    }
    args.options = args.options.with_file()?;
    let loaded = Loaded::open(&args.options)?;
    match loaded.train.precision {
        Precision::F32 => continue_text::<f32>(&args, &loaded),
        Precision::Bf16 => continue_text::<bf16>(&args, &loaded),
    }
}

fn continue_text<T: Elem>(args: &GenerateOptions, loaded: &Loaded) -> Result<u8> {
    let language = Language::of_checkpoint(&loaded.checkpoint)?;
    let mut ids = language.start(args.prompt.as_deref())?;
    let given = if args.prompt.is_some() { 0 } else { ids.len() };
    let sampling = Sampling { temperature: args.temperature, topk: args.candidates, seed: loaded.train.seed };
    let mut model = loaded.model::<T>(1)?;
    generate(&mut model, &mut ids, args.length, loaded.temperature(), sampling, |_| {})?;
    let text = language.spell(&ids[given..])?;
    say(format_args!("{text}"))?;
    let json = serde_json::json!({ "text": text, "tokens": ids.len() - given });
    write_json(args.options.json.as_deref(), &json)?;
    Ok(0)
}
