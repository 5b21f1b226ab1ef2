//! Parts of clusters: what moves between memory and file, and how it lies there.

use std::ops::Range;

use bytemuck::{cast_slice, cast_slice_mut};

use crate::elem::{DType, Elem};
use crate::error::Result;
use crate::moe::Shape;
use crate::tensor::Tensor;
use crate::train::config::ModelConfig;
use crate::train::param::Param;

/// Tensors of a clustered layer that clusters own: w13, w2, b, a2. The router, before them, stays in memory.
pub(super) const TENSORS: usize = 4;

/// What a part holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The weights as stored, which every pass reads.
    Weights,
    /// What the optimiser alone reads: both moments, and master copies where they are kept.
    State,
}

/// What a section of a part holds of one tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::train) enum Field {
    /// The weights: the master copy where one is kept.
    Weight,
    /// AdamW's first moment.
    First,
    /// AdamW's second moment.
    Second,
}

/// One kind of one cluster of one layer: the unit of transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub layer: usize,
    pub cluster: usize,
    pub kind: Kind,
}

/// Sizes and places of all parts of a model. A part is a run of 32-bit words; the file holds them one after the other.
#[derive(Clone, Debug)]
pub(super) struct Parts {
    pub layers: usize,
    pub clusters: usize,
    /// What one cluster owns of each tensor, `[groups, rows, cols]`.
    pub shapes: [[usize; 3]; TENSORS],
    /// Words of the stored weights of each tensor.
    stored: [usize; TENSORS],
    /// Whether f32 master copies are kept beside stored weights.
    pub masters: bool,
}

impl Parts {
    /// Of a clustered model.
    pub fn new(config: &ModelConfig, dtype: DType, masters: bool) -> Self {
        let shape = config.layer().shape;
        let Shape { hidden, inner, experts, clusters, rank, .. } = shape;
        let (factors, per) = (shape.factors(), experts / clusters);
        let shapes = [
            [1, 2 * inner + 2 * factors, hidden],
            [1, hidden, inner + factors],
            [per, 2 * inner, rank],
            [per, rank, inner],
        ];
        let stored = shapes.map(|s| (elements(s) * dtype.size()).div_ceil(size_of::<u32>()));
        Parts { layers: config.layers, clusters, shapes, stored, masters }
    }

    pub fn count(&self) -> usize {
        2 * self.layers * self.clusters
    }

    pub fn index(&self, part: Part) -> usize {
        2 * (part.layer * self.clusters + part.cluster) + usize::from(part.kind == Kind::State)
    }

    pub fn part(&self, index: usize) -> Part {
        let (cluster, kind) = (index / 2, if index.is_multiple_of(2) { Kind::Weights } else { Kind::State });
        Part { layer: cluster / self.clusters, cluster: cluster % self.clusters, kind }
    }

    pub fn words(&self, kind: Kind) -> usize {
        match kind {
            Kind::Weights => self.stored.iter().sum(),
            Kind::State => (2 + usize::from(self.masters)) * self.shapes.map(elements).iter().sum::<usize>(),
        }
    }

    pub fn bytes(&self, kind: Kind) -> u64 {
        (self.words(kind) * size_of::<u32>()) as u64
    }

    /// Of all parts together.
    pub fn total_bytes(&self) -> u64 {
        (self.layers * self.clusters) as u64 * (self.bytes(Kind::Weights) + self.bytes(Kind::State))
    }

    /// Where a part starts in the file, in bytes.
    pub fn offset(&self, part: Part) -> u64 {
        let (weights, state) = (self.bytes(Kind::Weights), self.bytes(Kind::State));
        let before = (part.layer * self.clusters + part.cluster) as u64 * (weights + state);
        before + if part.kind == Kind::State { weights } else { 0 }
    }

    /// Words of the stored weights of a tensor, in a part of [`Kind::Weights`].
    pub fn stored(&self, tensor: usize) -> Range<usize> {
        let start: usize = self.stored[..tensor].iter().sum();
        start..start + self.stored[tensor]
    }

    /// Words of both moments and of the master copy of a tensor, in a part of [`Kind::State`]; the last is empty where none
    /// is kept.
    pub fn state(&self, tensor: usize) -> [Range<usize>; 3] {
        let per = 2 + usize::from(self.masters);
        let start = per * self.shapes[..tensor].iter().map(|&s| elements(s)).sum::<usize>();
        let len = elements(self.shapes[tensor]);
        let master = if self.masters { len } else { 0 };
        [start..start + len, start + len..start + 2 * len, start + 2 * len..start + 2 * len + master]
    }

    /// The part and the words in it that hold a field of a tensor in f32.
    pub fn section(&self, field: Field, tensor: usize) -> (Kind, Range<usize>) {
        let [first, second, master] = self.state(tensor);
        match field {
            Field::First => (Kind::State, first),
            Field::Second => (Kind::State, second),
            Field::Weight if self.masters => (Kind::State, master),
            Field::Weight => (Kind::Weights, self.stored(tensor)),
        }
    }

    /// Shape of a tensor of a whole layer.
    pub fn whole(&self, tensor: usize) -> [usize; 3] {
        let [groups, rows, cols] = self.shapes[tensor];
        [self.clusters * groups, rows, cols]
    }

    /// Writes the rows of a cluster into the tensors of its layer.
    pub fn fill<T: Elem>(&self, part: Part, words: &[u32], params: &mut [Param<T>]) -> Result<()> {
        for (t, param) in params.iter_mut().enumerate() {
            let len = elements(self.shapes[t]);
            let start = part.cluster * len;
            if part.kind == Kind::Weights {
                param.weight.write(start, &cast_slice(&words[self.stored(t)])[..len])?;
                continue;
            }
            for (tensor, section) in state_tensors(param).into_iter().zip(self.state(t)) {
                if let Some(tensor) = tensor {
                    tensor.write(start, cast_slice(&words[section]))?;
                }
            }
        }
        Ok(())
    }

    /// Reads the rows of a cluster from the tensors of its layer.
    pub fn gather<T: Elem>(&self, part: Part, words: &mut [u32], params: &mut [Param<T>]) -> Result<()> {
        for (t, param) in params.iter_mut().enumerate() {
            let len = elements(self.shapes[t]);
            let start = part.cluster * len;
            if part.kind == Kind::Weights {
                param.weight.read(start, &mut cast_slice_mut(&mut words[self.stored(t)])[..len])?;
                continue;
            }
            for (tensor, section) in state_tensors(param).into_iter().zip(self.state(t)) {
                if let Some(tensor) = tensor {
                    tensor.read(start, cast_slice_mut(&mut words[section]))?;
                }
            }
        }
        Ok(())
    }
}

/// Both moments and the master copy.
fn state_tensors<T>(param: &mut Param<T>) -> [Option<&mut Tensor<f32, 3>>; 3] {
    match &mut param.state {
        Some(state) => [Some(&mut state.m), Some(&mut state.v), state.master.as_mut()],
        None => [None, None, None],
    }
}

pub(super) fn elements(shape: [usize; 3]) -> usize {
    shape.iter().product()
}
