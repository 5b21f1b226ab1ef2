//! The model around the feed-forward layers.

use candle_core::{D, DType, Device, Result, Tensor, Var};
use candle_nn::ops::{rms_norm_slow, softmax};
use candle_nn::rotary_emb::rope_slow;

use crate::Config;
use crate::ffn::Ffn;

/// Makes parameters and remembers them for the optimiser.
pub struct Weights {
    dtype: DType,
    vars: Vec<Var>,
}

impl Weights {
    pub fn new(dtype: DType) -> Self {
        Weights { dtype, vars: Vec::new() }
    }

    /// A matrix drawn with a standard deviation of 0.02.
    pub fn matrix(&mut self, rows: usize, cols: usize) -> Result<Tensor> {
        self.keep(Tensor::randn(0f32, 0.02, (rows, cols), &Device::Cpu)?)
    }

    fn ones(&mut self, len: usize) -> Result<Tensor> {
        self.keep(Tensor::ones(len, DType::F32, &Device::Cpu)?)
    }

    fn keep(&mut self, start: Tensor) -> Result<Tensor> {
        let var = Var::from_tensor(&start.to_dtype(self.dtype)?)?;
        self.vars.push(var.clone());
        Ok(var.into_inner())
    }

    pub fn into_vars(self) -> Vec<Var> {
        self.vars
    }
}

/// `x [n, d_in]` times `w [d_out, d_in]` transposed.
pub fn linear(x: &Tensor, w: &Tensor) -> Result<Tensor> {
    x.matmul(&w.t()?)
}

struct Block {
    norm_attention: Tensor,
    norm_ffn: Tensor,
    qkv: Tensor,
    out: Tensor,
    ffn: Ffn,
}

pub struct Model {
    config: Config,
    embedding: Tensor, // tied with the output projection
    blocks: Vec<Block>,
    norm: Tensor,
    cos: Tensor, // [S, d / H / 2]
    sin: Tensor,
    mask: Tensor, // [S, S], -inf above the diagonal
}

impl Model {
    pub fn new(c: &Config, weights: &mut Weights) -> Result<Self> {
        let embedding = weights.matrix(c.vocab, c.hidden)?;
        let block = |_| {
            Ok(Block {
                norm_attention: weights.ones(c.hidden)?,
                norm_ffn: weights.ones(c.hidden)?,
                qkv: weights.matrix(3 * c.hidden, c.hidden)?,
                out: weights.matrix(c.hidden, c.hidden)?,
                ffn: Ffn::new(c, weights)?,
            })
        };
        let blocks = (0..c.layers).map(block).collect::<Result<_>>()?;
        let norm = weights.ones(c.hidden)?;
        let half = c.hidden / c.heads / 2;
        let angle = |at: usize| (at / half) as f64 * c.rope_theta.powf(-((at % half) as f64) / half as f64);
        let angles: Vec<f32> = (0..c.seq * half).map(|at| angle(at) as f32).collect();
        let angles = Tensor::from_vec(angles, (c.seq, half), &Device::Cpu)?;
        let masked = |at: usize| if at % c.seq > at / c.seq { f32::NEG_INFINITY } else { 0.0 };
        let mask = Tensor::from_vec((0..c.seq * c.seq).map(masked).collect(), (c.seq, c.seq), &Device::Cpu)?;
        let stored = |x: Tensor| x.to_dtype(weights.dtype);
        let (cos, sin, mask) = (stored(angles.cos()?)?, stored(angles.sin()?)?, stored(mask)?);
        Ok(Model { config: c.clone(), embedding, blocks, norm, cos, sin, mask })
    }

    /// Tokens `[B, S + 1]` to the mean loss.
    pub fn loss(&self, tokens: &Tensor) -> Result<Tensor> {
        let c = &self.config;
        let inputs = tokens.narrow(1, 0, c.seq)?.flatten_all()?;
        let targets = tokens.narrow(1, 1, c.seq)?.flatten_all()?;
        let mut x = self.embedding.index_select(&inputs, 0)?; // [T, d]
        let mut balances = Vec::new();
        for block in &self.blocks {
            let normed = rms_norm_slow(&x, &block.norm_attention, c.norm_eps as f32)?;
            x = (&x + linear(&self.attention(&linear(&normed, &block.qkv)?)?, &block.out)?)?;
            let normed = rms_norm_slow(&x, &block.norm_ffn, c.norm_eps as f32)?;
            let (y, balance) = block.ffn.forward(&normed)?;
            x = (x + y)?;
            balances.extend(balance);
        }
        let normed = rms_norm_slow(&x, &self.norm, c.norm_eps as f32)?;
        let logits = linear(&normed, &self.embedding)?.to_dtype(DType::F32)?;
        let loss = candle_nn::loss::cross_entropy(&logits, &targets)?;
        balances.iter().try_fold(loss, |sum, balance| sum + balance.to_dtype(DType::F32)?)
    }

    /// Causal attention of `[T, 3 d]`: `[T, d]`.
    fn attention(&self, qkv: &Tensor) -> Result<Tensor> {
        let c = &self.config;
        let (batch, width) = (qkv.dim(0)? / c.seq, c.hidden / c.heads);
        let qkv = qkv.reshape((batch, c.seq, 3, c.heads, width))?;
        let part = |at| qkv.narrow(2, at, 1)?.squeeze(2)?.transpose(1, 2)?.contiguous(); // [B, H, S, d / H]
        let (q, k, v) = (part(0)?, part(1)?, part(2)?);
        let (q, k) = (rope_slow(&q, &self.cos, &self.sin)?, rope_slow(&k, &self.cos, &self.sin)?);
        let scores = (q.matmul(&k.t()?)? * (1.0 / (width as f64).sqrt()))?;
        let shares = softmax(&scores.broadcast_add(&self.mask)?, D::Minus1)?;
        shares.matmul(&v)?.transpose(1, 2)?.reshape((batch * c.seq, c.hidden))
    }
}
