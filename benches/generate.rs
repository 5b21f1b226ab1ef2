//! What a token of a text costs with a key/value cache: `cargo bench --bench generate`.
//!
//! Preset small with 32, 128 and 256 experts, 8 to a cluster, freshly initialised (a dense layer has the inner size that makes
//! a token as dear as two experts). One text, greedy; the variants take turns, and the medians of their rounds are printed with the bytes
//! of weights and of the cache.

use trimoe::train::config::{FfnKind, ModelConfig};
use trimoe::train::generate::{Length, Sampling, generate};
use trimoe::train::model::Model;
use trimoe::train::preset::Preset;
use trimoe::{Device, Int4Block, Int4Format, Result};

/// Experts of a cluster.
const PER_CLUSTER: usize = 8;
const ROUNDS: usize = 9;
const PROMPT: usize = 32;
const TOKENS: usize = 64;
const SAMPLING: Sampling = Sampling { temperature: 0.0, topk: 0, seed: 0 };

/// A model of the table and what it took so far.
struct Row {
    name: String,
    experts: usize,
    model: Model<f32>,
    cache_bytes: u64,
    prompt: Vec<f64>,
    token: Vec<f64>,
}

fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    // `cargo test --benches` only checks that it builds and starts.
    if std::env::args().any(|a| a == "--test") {
        return Ok(());
    }
    let device = Device::cpu();
    println!("preset small, f32, {} threads; medians of {ROUNDS} rounds\n", device.threads());
    println!(
        "{:<16} {:>7} {:>12} {:>16} {:>12} {:>10}",
        "variant", "experts", "ms per token", "ms of a prompt", "weights", "cache"
    );
    for experts in [32, 128, 256] {
        let mut rows = rows(&device, experts)?;
        for round in 0..=ROUNDS {
            for row in &mut rows {
                row.run(round > 0)?; // the first one warms up
            }
        }
        rows.iter_mut().for_each(Row::print);
    }
    println!("\na prompt has {PROMPT} tokens, {TOKENS} are added; one text at a time");
    Ok(())
}

/// The variants with so many experts; dense, which has none, beside the fewest.
fn rows(device: &Device, experts: usize) -> Result<Vec<Row>> {
    let small = Preset::Small.model();
    let config = ModelConfig { experts, clusters: experts / PER_CLUSTER, ..small.clone() };
    let row = |name: &str, experts, model| Row {
        name: name.into(),
        experts,
        model,
        cache_bytes: 0,
        prompt: Vec::new(),
        token: Vec::new(),
    };
    let mut rows = Vec::new();
    for ffn in [FfnKind::Dense, FfnKind::Flat, FfnKind::Clustered] {
        if ffn != FfnKind::Dense || experts == small.experts {
            let model = Model::new(&config.variant(ffn), device, 1, 0, false)?;
            rows.push(row(ffn.name(), if ffn == FfnKind::Dense { 0 } else { experts }, model));
        }
    }
    let format = Int4Format { symmetric: false, block: Int4Block::Columns32 };
    let mut model = Model::packed(&config, device, 1, format)?;
    // Packed models are made to load into: codes stay 0, the rest is as it starts.
    let plain = Model::<f32>::new(&config, device, 1, 0, false)?;
    let named = |name: &str| {
        plain.params().iter().find_map(|p| p.pieces.iter().position(|q| q.name == name).map(|i| p.get(i)))
    };
    for param in model.params_mut() {
        for piece in 0..param.pieces.len() {
            if let Some(values) = named(&param.pieces[piece].name) {
                param.set(piece, &values?)?;
            }
        }
    }
    rows.push(row("clustered int4", experts, model));
    Ok(rows)
}

impl Row {
    fn run(&mut self, counts: bool) -> Result<()> {
        let vocab = self.model.config().vocab as u32;
        let mut text: Vec<u32> = (0..PROMPT as u32).map(|i| i.wrapping_mul(2_654_435_761) % vocab).collect();
        let length = Length { tokens: TOKENS, end: None };
        let done = generate(&mut self.model, std::slice::from_mut(&mut text), length, 1.0, SAMPLING)?;
        self.cache_bytes = done.cache_bytes;
        if counts {
            self.prompt.push(1e3 * done.prompt_seconds);
            self.token.extend(done.ms_per_token());
        }
        Ok(())
    }

    fn print(&mut self) {
        let mib = |bytes: u64| format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20));
        println!(
            "{:<16} {:>7} {:>12.3} {:>16.2} {:>12} {:>10}",
            self.name,
            if self.experts == 0 { "-".into() } else { self.experts.to_string() },
            median(&mut self.token),
            median(&mut self.prompt),
            mib(self.model.weight_bytes()),
            mib(self.cache_bytes)
        );
    }
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
