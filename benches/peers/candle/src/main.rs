//! A training step of trimoe's reference model in candle, on the CPU, for a comparison of speed only.
//!
//! `candle-step --model MODEL --batch 8 --steps 10 --warmup 3`, with MODEL the JSON object that `trimoe inspect --json` has
//! under `model`; `RAYON_NUM_THREADS` says how many threads. A step is: forward, loss, backward, clip the global norm to 1,
//! AdamW. Tokens are random; making them is outside the clock. The last line printed is a JSON object with the seconds of
//! each step after the warm-up.

mod ffn;
mod model;

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor, Var};
use candle_nn::{AdamW, Optimizer, ParamsAdamW};
use clap::{Parser, ValueEnum};
use serde::Deserialize;

use crate::model::{Model, Weights};

/// The shape of a model, as `trimoe inspect --json` names it.
#[derive(Clone, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Config {
    pub ffn: String,
    pub vocab: usize,
    pub hidden: usize,
    pub inner: usize,
    pub layers: usize,
    pub heads: usize,
    pub seq: usize,
    pub experts: usize,
    pub topk: usize,
    pub rope_theta: f64,
    pub norm_eps: f64,
}

#[derive(Clone, Copy, ValueEnum)]
enum Precision {
    F32,
    Bf16,
}

/// Times a training step of trimoe's reference model in candle.
#[derive(Parser)]
struct Args {
    /// JSON object of `trimoe inspect --json`
    #[arg(long)]
    model: String,
    /// Of weights, activations and optimiser state
    #[arg(long, value_enum, default_value = "f32")]
    precision: Precision,
    #[arg(long, default_value_t = 8)]
    batch: usize,
    #[arg(long, default_value_t = 10)]
    steps: usize,
    #[arg(long, default_value_t = 3)]
    warmup: usize,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let config: Config = serde_json::from_str(&args.model).context("--model")?;
    let dtype = match args.precision {
        Precision::F32 => DType::F32,
        Precision::Bf16 => DType::BF16,
    };
    let mut weights = Weights::new(dtype);
    let model = Model::new(&config, &mut weights)?;
    let params = ParamsAdamW { lr: 3e-4, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1 };
    let vars = weights.into_vars();
    let mut adamw = AdamW::new(vars.clone(), params)?;
    let mut seconds = Vec::new();
    for step in 0..args.warmup + args.steps {
        let tokens = Tensor::rand(0f32, config.vocab as f32, (args.batch, config.seq + 1), &Device::Cpu)?
            .to_dtype(DType::U32)?;
        let start = Instant::now();
        let loss = model.loss(&tokens)?;
        let mut grads = loss.backward()?;
        clip(&mut grads, &vars)?;
        adamw.step(&grads)?;
        let loss = loss.to_scalar::<f32>()?;
        ensure!(loss.is_finite(), "the loss of step {} is {loss}", step + 1);
        if step >= args.warmup {
            seconds.push(start.elapsed().as_secs_f64());
        }
    }
    println!("{}", serde_json::json!({ "seconds": seconds }));
    Ok(())
}

/// Scales the gradient to a global norm of at most 1.
fn clip(grads: &mut GradStore, vars: &[Var]) -> Result<()> {
    let mut squares = 0.0;
    for grad in vars.iter().filter_map(|var| grads.get(var)) {
        squares += f64::from(grad.sqr()?.sum_all()?.to_dtype(DType::F32)?.to_scalar::<f32>()?);
    }
    let scale = (1.0 / (squares.sqrt() + 1e-6)).min(1.0);
    for var in vars {
        if let Some(grad) = grads.remove(var) {
            grads.insert(var, (grad * scale)?);
        }
    }
    Ok(())
}
