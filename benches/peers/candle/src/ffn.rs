//! Feed-forward layers: dense, and flat experts.

use candle_core::{D, Device, Result, Tensor, bail};
use candle_nn::ops::softmax;

use crate::Config;
use crate::model::{Weights, linear};

/// Coefficient of the Switch balance loss.
const BALANCE: f64 = 0.01;

/// Gate, up and down of a SwiGLU.
pub struct SwiGlu {
    gate: Tensor,
    up: Tensor,
    down: Tensor,
}

impl SwiGlu {
    fn new(c: &Config, weights: &mut Weights) -> Result<Self> {
        Ok(SwiGlu {
            gate: weights.matrix(c.inner, c.hidden)?,
            up: weights.matrix(c.inner, c.hidden)?,
            down: weights.matrix(c.hidden, c.inner)?,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        linear(&(linear(x, &self.gate)?.silu()? * linear(x, &self.up)?)?, &self.down)
    }
}

pub enum Ffn {
    Dense(Box<SwiGlu>),
    Flat { router: Tensor, experts: Vec<SwiGlu>, topk: usize },
}

impl Ffn {
    pub fn new(c: &Config, weights: &mut Weights) -> Result<Self> {
        match c.ffn.as_str() {
            "dense" => Ok(Ffn::Dense(Box::new(SwiGlu::new(c, weights)?))),
            "flat" => Ok(Ffn::Flat {
                router: weights.matrix(c.experts, c.hidden)?,
                experts: (0..c.experts).map(|_| SwiGlu::new(c, weights)).collect::<Result<_>>()?,
                topk: c.topk,
            }),
            other => bail!("written for dense and flat, not {other}"),
        }
    }

    /// `[T, d]` to `[T, d]`, and the balance loss if there are experts.
    pub fn forward(&self, x: &Tensor) -> Result<(Tensor, Option<Tensor>)> {
        match self {
            Ffn::Dense(layer) => Ok((layer.forward(x)?, None)),
            Ffn::Flat { router, experts, topk } => {
                let (y, balance) = flat(x, router, experts, *topk)?;
                Ok((y, Some(balance)))
            }
        }
    }
}

/// Softmax, top-k renormalised, slots sorted by expert, one loop over experts.
fn flat(x: &Tensor, router: &Tensor, experts: &[SwiGlu], topk: usize) -> Result<(Tensor, Tensor)> {
    let tokens = x.dim(0)?;
    let shares = softmax(&linear(x, router)?, D::Minus1)?; // [T, E]
    let ids = shares.arg_sort_last_dim(false)?.narrow(1, 0, topk)?.contiguous()?; // [T, k]
    let weight = shares.gather(&ids, 1)?;
    // A single choice keeps its share, or its router would get no gradient.
    let weight = if topk == 1 { weight } else { weight.broadcast_div(&weight.sum_keepdim(1)?)? };

    let ids = ids.flatten_all()?.to_vec1::<u32>()?;
    let mut order: Vec<u32> = (0..ids.len() as u32).collect();
    order.sort_by_key(|&slot| ids[slot as usize]);
    let mut counts = vec![0; experts.len()];
    ids.iter().for_each(|&id| counts[id as usize] += 1);
    let token = Tensor::from_iter(order.iter().map(|slot| slot / topk as u32), &Device::Cpu)?;
    let order = Tensor::from_vec(order, ids.len(), &Device::Cpu)?;

    let rows = x.index_select(&token, 0)?; // [kT, d]
    let (mut out, mut start) = (Vec::new(), 0);
    for (expert, &count) in experts.iter().zip(&counts) {
        if count > 0 {
            out.push(expert.forward(&rows.narrow(0, start, count)?)?);
        }
        start += count;
    }
    let scale = weight.flatten_all()?.index_select(&order, 0)?.unsqueeze(1)?; // [kT, 1]
    let out = Tensor::cat(&out, 0)?.broadcast_mul(&scale)?;
    let y = x.zeros_like()?.index_add(&token, &out, 0)?;

    let load: Vec<f32> = counts.iter().map(|&n| n as f32 / ids.len() as f32).collect();
    let load = Tensor::from_vec(load, experts.len(), &Device::Cpu)?.to_dtype(x.dtype())?;
    let balance = ((shares.sum(0)? / tokens as f64)? * load)?.sum_all()?;
    Ok((y, (balance * (BALANCE * experts.len() as f64))?))
}
