//! Trainable tensors: storage, gradient, optimiser state, and their names in a checkpoint.

use std::ops::Range;

use crate::device::Device;
use crate::elem::{DType, Elem};
use crate::tensor::Tensor;

/// A trainable tensor `[groups, out, in]`.
///
/// One tensor may hold several named matrices of a checkpoint (gate and up side by side, a base and its
/// low-rank factors), because the products that use them are one product: see [`Piece`].
#[derive(Debug)]
pub struct Param<T> {
    /// Storage dtype: what the operations read.
    pub weight: Tensor<T, 3>,
    /// Gradient and optimiser state; `None` in a model that only evaluates.
    pub state: Option<ParamState>,
    /// Whether weight decay applies (matrices: yes; norm gains: no).
    pub decay: bool,
    /// The named matrices inside, which together cover every element once.
    pub pieces: Vec<Piece>,
}

/// What training keeps beside a weight, all `[groups, out, in]` in f32.
#[derive(Debug)]
pub struct ParamState {
    /// Gradient of the loss.
    pub grad: Tensor<f32, 3>,
    /// AdamW's first moment.
    pub m: Tensor<f32, 3>,
    /// AdamW's second moment.
    pub v: Tensor<f32, 3>,
    /// The f32 weights that AdamW updates, when the storage dtype is not f32 itself.
    pub master: Option<Tensor<f32, 3>>,
}

/// A named matrix inside a [`Param`]: rows and columns of one group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Name in the checkpoint, in Hugging Face style.
    pub name: String,
    /// Index along the first dimension.
    pub group: usize,
    /// Rows of the group.
    pub rows: Range<usize>,
    /// Columns of the group.
    pub cols: Range<usize>,
    /// True for a vector: its shape in the checkpoint is `[cols]`, not `[1, cols]`.
    pub vector: bool,
}

impl Piece {
    /// A matrix `rows x cols` of group `group`.
    pub fn matrix(name: impl Into<String>, group: usize, rows: Range<usize>, cols: Range<usize>) -> Self {
        Piece { name: name.into(), group, rows, cols, vector: false }
    }

    /// Shape in the checkpoint.
    pub fn shape(&self) -> Vec<usize> {
        if self.vector { vec![self.cols.len()] } else { vec![self.rows.len(), self.cols.len()] }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.rows.len() * self.cols.len()
    }

    /// True if the piece has no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Copies the piece out of a tensor that holds it, row-major.
    pub fn gather<E: bytemuck::Pod>(&self, tensor: &Tensor<E, 3>) -> Vec<E> {
        let matrix = tensor.view().matrix(self.group);
        self.rows.clone().flat_map(|r| matrix.row(r)[self.cols.clone()].iter().copied()).collect()
    }

    /// Copies row-major `values` ([`Piece::len`] of them) into a tensor that holds the piece.
    pub fn scatter<E: bytemuck::Pod>(&self, values: &[E], tensor: &mut Tensor<E, 3>) {
        assert_eq!(values.len(), self.len(), "values of {}", self.name);
        let Some(mut matrix) = tensor.view_mut().into_matrices().into_iter().nth(self.group) else { return };
        for (row, values) in self.rows.clone().zip(values.chunks(self.cols.len().max(1))) {
            matrix.row_mut(row)[self.cols.clone()].copy_from_slice(values);
        }
    }
}

impl<T: Elem> Param<T> {
    /// A tensor of zeros, with state when `train` is set.
    pub fn zeros(device: &Device, shape: [usize; 3], decay: bool, pieces: Vec<Piece>, train: bool) -> Self {
        let state = train.then(|| ParamState {
            grad: device.zeros(shape),
            m: device.zeros(shape),
            v: device.zeros(shape),
            master: (T::DTYPE != DType::F32).then(|| device.zeros(shape)),
        });
        Param { weight: device.zeros(shape), state, decay, pieces }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.weight.len()
    }

    /// True if the tensor has no element.
    pub fn is_empty(&self) -> bool {
        self.weight.is_empty()
    }

    /// Sets the weights of one piece from row-major f32 values, in the master copy too.
    pub fn set(&mut self, piece: usize, values: &[f32]) {
        let piece = &self.pieces[piece];
        let stored: Vec<T> = values.iter().map(|&v| T::from_f32(v)).collect();
        piece.scatter(&stored, &mut self.weight);
        if let Some(master) = self.state.as_mut().and_then(|s| s.master.as_mut()) {
            piece.scatter(values, master);
        }
    }

    /// The weights of one piece as f32, row-major: from the master copy when there is one.
    pub fn get(&self, piece: usize) -> Vec<f32> {
        let piece = &self.pieces[piece];
        match self.state.as_ref().and_then(|s| s.master.as_ref()) {
            Some(master) => piece.gather(master),
            None => piece.gather(&self.weight).into_iter().map(|v| v.to_f32()).collect(),
        }
    }
}
