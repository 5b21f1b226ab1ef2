//! `trimoe generate`.

use std::path::PathBuf;

use serde::Serialize;

use super::corpus::Language;
use super::eval::Loaded;
use super::options::Options;
use super::summary::{bytes, write_json};
use super::terminal::{note, say};
use crate::bf16;
use crate::elem::Elem;
use crate::error::{Error, Result};
use crate::train::config::Precision;
use crate::train::generate::{Generated, Length, Sampling, generate};
use crate::train::memory::PeakMemory;

/// Options of `generate`.
#[derive(Debug, clap::Args)]
pub(super) struct GenerateOptions {
    /// Text to continue; repeat it for several at once [default: the start of a text].
    #[arg(long, value_name = "TEXT", action = clap::ArgAction::Append)]
    prompt: Vec<String>,
    /// File of texts to continue, one a line, after those of --prompt; blank lines are none.
    #[arg(long, value_name = "FILE")]
    prompts: Option<PathBuf>,
    /// Most tokens to add to each; a text may end before.
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

/// What `--json` prints.
#[derive(Serialize)]
struct Json {
    texts: Vec<Text>,
    tokens: usize,
    prompt_tokens: usize,
    prompt_seconds: f64,
    ms_per_token: Option<f64>,
    weight_bytes: u64,
    cache_bytes: u64,
    peak_bytes: Option<u64>,
}

/// A text of it.
#[derive(Serialize)]
struct Text {
    /// As given; `None` for the start of a text.
    prompt: Option<String>,
    /// With the prompt.
    text: String,
    /// Tokens added.
    tokens: usize,
}

pub(super) fn run(mut args: GenerateOptions) -> Result<u8> {
    if !(args.temperature.is_finite() && args.temperature >= 0.0) {
        return Err(Error::config("--temperature", args.temperature, "must not be negative"));
    }
    let prompts = args.all_prompts()?;
    args.options = args.options.with_file()?;
    let loaded = Loaded::open(&args.options)?;
    match loaded.train.precision {
        Precision::F32 => continue_texts::<f32>(&args, prompts, &loaded),
        Precision::Bf16 => continue_texts::<bf16>(&args, prompts, &loaded),
    }
}

impl GenerateOptions {
    /// All prompts, in their order; `None` stands for the start of a text.
    fn all_prompts(&self) -> Result<Vec<Option<String>>> {
        let mut prompts: Vec<_> = self.prompt.iter().cloned().map(Some).collect();
        if let Some(path) = &self.prompts {
            let file = std::fs::read_to_string(path).map_err(Error::io("read", path))?;
            let given = prompts.len();
            prompts.extend(file.lines().filter(|line| !line.trim().is_empty()).map(|l| Some(l.to_owned())));
            if prompts.len() == given {
                return Err(Error::config("--prompts", path.display(), "has no text to continue"));
            }
        }
        Ok(if prompts.is_empty() { vec![None] } else { prompts })
    }
}

fn continue_texts<T: Elem>(
    args: &GenerateOptions,
    prompts: Vec<Option<String>>,
    loaded: &Loaded,
) -> Result<u8> {
    let memory = PeakMemory::start();
    let language = Language::of_checkpoint(&loaded.checkpoint)?;
    let mut ids = prompts.iter().map(|p| language.start(p.as_deref())).collect::<Result<Vec<Vec<u32>>>>()?;
    let given: Vec<usize> = ids.iter().map(Vec::len).collect();
    let sampling = Sampling { temperature: args.temperature, topk: args.candidates, seed: loaded.train.seed };
    let length = Length { tokens: args.length, end: language.end() };
    let mut model = loaded.model::<T>(1)?;
    let done = generate(&mut model, &mut ids, length, loaded.temperature(), sampling)?;
    let several = prompts.len() > 1;
    let mut texts = Vec::with_capacity(prompts.len());
    for (number, ((prompt, ids), given)) in prompts.into_iter().zip(&ids).zip(given).enumerate() {
        // The start of a text is a token without a spelling.
        let text = language.spell(if prompt.is_some() { ids } else { &ids[given..] })?;
        if several {
            say(format_args!("[{}] {text}", number + 1))?;
        } else {
            say(format_args!("{text}"))?;
        }
        texts.push(Text { prompt, text, tokens: ids.len() - given });
    }
    let json = Json {
        texts,
        tokens: done.tokens,
        prompt_tokens: done.prompt_tokens,
        prompt_seconds: done.prompt_seconds,
        ms_per_token: done.ms_per_token(),
        weight_bytes: model.weight_bytes(),
        cache_bytes: done.cache_bytes,
        peak_bytes: memory.peak(),
    };
    summarise(&done, &json);
    write_json(args.options.json.as_deref(), &json)?;
    Ok(0)
}

/// What it took, beside the texts.
fn summarise(done: &Generated, json: &Json) {
    let speed = done.ms_per_token().map_or_else(String::new, |ms| format!(", {ms:.2} ms per token"));
    note(format_args!(
        "{} tokens added to {} in {:.0} ms{speed}",
        done.tokens,
        done.prompt_tokens,
        1e3 * (done.prompt_seconds + done.later_seconds)
    ));
    let peak = json.peak_bytes.map_or_else(String::new, |peak| format!(", peak {}", bytes(peak)));
    note(format_args!("weights {}, cache {}{peak}", bytes(json.weight_bytes), bytes(json.cache_bytes)));
}
