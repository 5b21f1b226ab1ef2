//! Trainable tensors: storage, gradient, optimiser state, and their names in a checkpoint.

use std::ops::Range;

use crate::device::Device;
use crate::elem::{DType, Elem, Plain};
use crate::error::{Result, ensure};
use crate::tensor::Tensor;

/// A trainable tensor `[groups, out, in]`.
///
/// One tensor may hold several named matrices of a checkpoint (gate and up side by side, a base and its
/// low-rank factors), because the products that use them are one product: see [`Piece`].
#[derive(Debug)]
pub struct Param<T> {
    /// Storage dtype: what the operations read. Without rows while it is offloaded
    /// ([`Trainer::offload`](super::trainer::Trainer::offload)), as are all tensors of its state.
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

/// Named f32 values that no gradient changes: selection biases, centroids.
#[derive(Debug)]
pub struct Buffer {
    /// The values, `[groups, rows, cols]`.
    pub tensor: Tensor<f32, 3>,
    /// The named matrices inside, which together cover every element once.
    pub pieces: Vec<Piece>,
}

impl Buffer {
    /// Zeros.
    pub fn zeros(device: &Device, shape: [usize; 3], pieces: Vec<Piece>) -> Result<Self> {
        Ok(Buffer { tensor: device.zeros(shape)?, pieces })
    }
}

/// A named matrix inside a [`Param`] or [`Buffer`]: rows and columns of one group.
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

    /// A vector: columns of the only row of group 0.
    pub fn vector(name: impl Into<String>, cols: Range<usize>) -> Self {
        Piece { vector: true, ..Piece::matrix(name, 0, 0..1, cols) }
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

    /// Copies the piece, row-major, out of a tensor that holds it, wherever that is.
    pub fn gather<E: Plain>(&self, tensor: &Tensor<E, 3>) -> Result<Vec<E>> {
        let mut values = vec![E::zeroed(); self.len()];
        let (starts, len) = self.stretches(tensor.shape());
        starts.zip(values.chunks_mut(len)).try_for_each(|(start, part)| tensor.read(start, part))?;
        Ok(values)
    }

    /// Copies the piece, row-major, out of the elements of a tensor of this shape. Panics if it lies outside: for internal
    /// use.
    pub(crate) fn copy<E: Plain>(&self, elements: &[E], shape: [usize; 3]) -> Vec<E> {
        let (starts, len) = self.stretches(shape);
        starts.flat_map(|start| &elements[start..start + len]).copied().collect()
    }

    /// Copies row-major `values` ([`Piece::len`] of them) into a tensor that holds the piece, wherever that is.
    pub fn scatter<E: Plain>(&self, values: &[E], tensor: &mut Tensor<E, 3>) -> Result<()> {
        ensure!("Piece", values.len() == self.len(), piece = self.name, values = values.len());
        let (mut starts, len) = self.stretches(tensor.shape());
        values.chunks(len).zip(&mut starts).try_for_each(|(part, start)| tensor.write(start, part))
    }

    /// Makes the piece zero in a tensor that holds it, wherever that is.
    pub fn clear<E: Plain>(&self, tensor: &mut Tensor<E, 3>) -> Result<()> {
        let (mut starts, len) = self.stretches(tensor.shape());
        if self.is_empty() { Ok(()) } else { starts.try_for_each(|start| tensor.clear(start, len)) }
    }

    /// Where its stretches of neighbouring elements start in a tensor of this shape, and how long each is: all rows at
    /// once where they are whole.
    fn stretches(&self, [_, rows, cols]: [usize; 3]) -> (impl Iterator<Item = usize> + use<>, usize) {
        let (group, start) = (self.group, self.cols.start);
        let whole = self.cols == (0..cols);
        let step = if whole { self.rows.len().max(1) } else { 1 };
        let starts = self.rows.clone().step_by(step).map(move |r| (group * rows + r) * cols + start);
        (starts, (step * self.cols.len()).max(1))
    }
}

impl<T: Elem> Param<T> {
    /// A tensor of zeros, with state when `train` is set.
    pub fn zeros(
        device: &Device,
        shape: [usize; 3],
        decay: bool,
        pieces: Vec<Piece>,
        train: bool,
    ) -> Result<Self> {
        let state = || {
            Ok(ParamState {
                grad: device.zeros(shape)?,
                m: device.zeros(shape)?,
                v: device.zeros(shape)?,
                master: (T::DTYPE != DType::F32).then(|| device.zeros(shape)).transpose()?,
            })
        };
        let state = train.then(state).transpose()?;
        Ok(Param { weight: device.zeros(shape)?, state, decay, pieces })
    }

    /// Gives a parameter in training an f32 master copy if it has none, so that what is stored may differ from it.
    pub fn keep_master(&mut self, device: &Device) -> Result<()> {
        let values = self.values()?;
        if let Some(state) = self.state.as_mut().filter(|s| s.master.is_none()) {
            let mut master = device.zeros(self.weight.shape())?;
            master.copy_from(&values)?;
            state.master = Some(master);
        }
        Ok(())
    }

    /// Number of elements, also while they are offloaded.
    pub fn len(&self) -> usize {
        self.pieces.iter().map(Piece::len).sum()
    }

    /// True if the tensor has no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All weights as f32, in the order of the tensor: from the master copy when there is one.
    pub fn values(&self) -> Result<Vec<f32>> {
        match self.state.as_ref().and_then(|s| s.master.as_ref()) {
            Some(master) => master.to_vec(),
            None => Ok(self.weight.to_vec()?.into_iter().map(|v| v.to_f32()).collect()),
        }
    }

    /// Sets all weights from f32 values in the order of the tensor, in the master copy too.
    pub fn set_values(&mut self, values: &[f32]) -> Result<()> {
        let stored: Vec<T> = values.iter().map(|&v| T::from_f32(v)).collect();
        self.weight.copy_from(&stored)?;
        match self.state.as_mut().and_then(|s| s.master.as_mut()) {
            Some(master) => master.copy_from(values),
            None => Ok(()),
        }
    }

    /// Sets the weights of one piece from row-major f32 values, in the master copy too.
    pub fn set(&mut self, piece: usize, values: &[f32]) -> Result<()> {
        let piece = &self.pieces[piece];
        let stored: Vec<T> = values.iter().map(|&v| T::from_f32(v)).collect();
        piece.scatter(&stored, &mut self.weight)?;
        match self.state.as_mut().and_then(|s| s.master.as_mut()) {
            Some(master) => piece.scatter(values, master),
            None => Ok(()),
        }
    }

    /// The weights of one piece as f32, row-major: from the master copy when there is one.
    pub fn get(&self, piece: usize) -> Result<Vec<f32>> {
        let piece = &self.pieces[piece];
        match self.state.as_ref().and_then(|s| s.master.as_ref()) {
            Some(master) => piece.gather(master),
            None => Ok(piece.gather(&self.weight)?.into_iter().map(|v| v.to_f32()).collect()),
        }
    }
}
