//! The model's buffers: activations kept for the backward, and what lives shorter.

use super::config::ModelConfig;
use super::model::HEAD_ROWS;
use crate::device::Device;
use crate::elem::Elem;
use crate::error::Result;
use crate::moe::{Saved, Workspace};
use crate::ops::{AttentionBackward, RmsNormBackward};
use crate::tensor::Tensor;

/// Activations of one block.
#[derive(Debug)]
pub(super) struct Block<T> {
    pub normed1: Tensor<T, 2>,    // [rows, hidden]
    pub inv_rms1: Tensor<f32, 1>, // [rows]
    pub qkv: Tensor<T, 2>,        // [rows, 3 hidden], q and k rotated
    pub attended: Tensor<T, 2>,   // [rows, hidden]
    pub lse: Tensor<f32, 2>,      // [heads, rows]
    pub middle: Tensor<T, 2>,     // [rows, hidden], after attention
    pub normed2: Tensor<T, 2>,    // [rows, hidden]
    pub inv_rms2: Tensor<f32, 1>, // [rows]
    pub ffn: Saved<T>,
}

/// All buffers of a model, for batches of up to `batch` sequences.
#[derive(Debug)]
pub(super) struct Activations<T> {
    pub batch: usize,
    /// Of the batch, a row a token: what goes in, what is to come out, and the loss of each.
    pub inputs: Tensor<u32, 1>,
    pub targets: Tensor<u32, 1>,
    pub loss: Tensor<f32, 1>,
    /// Block inputs, and the last block's output: one each when training, else two in turn.
    pub streams: Vec<Tensor<T, 2>>, // [rows, hidden]
    /// One each when training, else one for all.
    pub blocks: Vec<Block<T>>,
    pub normed: Tensor<T, 2>,    // [rows, hidden], after the final norm
    pub inv_rms: Tensor<f32, 1>, // [rows]
    /// The feed-forward layers' buffers; lends `[HEAD_ROWS, vocab]` for logits, `[rows, 3 hidden]` for the
    /// gradient of qkv.
    pub ws: Workspace<T>,
    /// Gradients that live for a block: of the stream, of a norm's output. Empty unless training.
    pub dstream: Tensor<T, 2>, // [rows, hidden]
    pub dnormed: Tensor<T, 2>, // [rows, hidden]
    /// Workspace of the backward of norms and attention.
    pub floats: Tensor<f32, 1>,
}

impl<T: Elem> Activations<T> {
    pub fn new(config: &ModelConfig, device: &Device, batch: usize, train: bool) -> Result<Self> {
        let (hidden, layer) = (config.hidden, config.layer());
        let rows = batch * config.seq;
        let block = |_| {
            Ok(Block {
                normed1: device.zeros([rows, hidden])?,
                inv_rms1: device.zeros([rows])?,
                qkv: device.zeros([rows, 3 * hidden])?,
                attended: device.zeros([rows, hidden])?,
                lse: device.zeros([config.heads, rows])?,
                middle: device.zeros([rows, hidden])?,
                normed2: device.zeros([rows, hidden])?,
                inv_rms2: device.zeros([rows])?,
                ffn: layer.saved(device, rows)?,
            })
        };
        let (blocks, streams) = if train { (config.layers, config.layers + 1) } else { (1, 2) };
        let backward = if train { rows } else { 0 };
        let lent = (HEAD_ROWS.min(rows) * config.vocab).max(backward * 3 * hidden);
        let floats = RmsNormBackward::<T>::workspace_len(backward, hidden)
            .max(AttentionBackward::<T>::workspace_len(backward, config.heads));
        Ok(Activations {
            batch,
            inputs: device.zeros([rows])?,
            targets: device.zeros([rows])?,
            loss: device.zeros([rows])?,
            streams: (0..streams).map(|_| device.zeros([rows, hidden])).collect::<Result<_>>()?,
            blocks: (0..blocks).map(block).collect::<Result<_>>()?,
            normed: device.zeros([rows, hidden])?,
            inv_rms: device.zeros([rows])?,
            ws: Workspace::new(device, &layer, rows, train, lent)?,
            dstream: device.zeros([backward, hidden])?,
            dnormed: device.zeros([backward, hidden])?,
            floats: device.zeros([floats])?,
        })
    }

    pub fn block(&self, l: usize) -> &Block<T> {
        &self.blocks[l % self.blocks.len()]
    }

    /// What block `l` works on: its input stream, its activations, its output stream, the workspace.
    pub fn at(&mut self, l: usize) -> (&Tensor<T, 2>, &mut Block<T>, &mut Tensor<T, 2>, &mut Workspace<T>) {
        let (from, to) = (l % self.streams.len(), (l + 1) % self.streams.len());
        let (head, tail) = self.streams.split_at_mut(from.max(to));
        let (x, y) = if from < to { (&head[from], &mut tail[0]) } else { (&tail[0], &mut head[to]) };
        let block = l % self.blocks.len();
        (x, &mut self.blocks[block], y, &mut self.ws)
    }

    /// Bytes kept from forward to backward.
    pub fn kept_bytes(&self) -> u64 {
        let block = |b: &Block<T>| {
            let rows = [&b.normed1, &b.qkv, &b.attended, &b.middle, &b.normed2].map(|t| t.bytes());
            let statistics = b.inv_rms1.bytes() + b.lse.bytes() + b.inv_rms2.bytes();
            rows.iter().sum::<u64>() + statistics + b.ffn.bytes()
        };
        let streams: u64 = self.streams.iter().map(|s| s.bytes()).sum();
        let blocks: u64 = self.blocks.iter().map(block).sum();
        streams + blocks + self.normed.bytes() + self.inv_rms.bytes()
    }

    /// Bytes of everything else.
    pub fn workspace_bytes(&self) -> u64 {
        let batch = self.inputs.bytes() + self.targets.bytes() + self.loss.bytes();
        batch + self.ws.bytes() + self.dstream.bytes() + self.dnormed.bytes() + self.floats.bytes()
    }
}
