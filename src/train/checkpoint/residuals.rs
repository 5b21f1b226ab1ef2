//! Residuals in INT4 in a checkpoint: for each cluster, matrix and factor the codes, the scales and the zero-points.

use std::cell::Cell;
use std::rc::Rc;

use half::bf16;
use safetensors::Dtype;

use super::tensors::{Lazy, Tensors, Values};
use crate::device::Device;
use crate::elem::{Elem, Plain};
use crate::error::{Result, ensure};
use crate::int4::{Int4Block, Int4Format, Int4Layout, Int4Tensor, PANEL, PANEL_WORDS};
use crate::moe::Shape;
use crate::ops::{DequantizeInt4, QuantizeInt4};
use crate::tensor::Tensor;
use crate::train::config::ModelConfig;
use crate::train::layout::factor_at;
use crate::train::model::Model;
use crate::train::offload::Field;

/// A factor of a cluster's residuals: a matrix `[K rank, long]`, the ranks of its experts one after the other.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Factor {
    layer: usize,
    cluster: usize,
    /// 0 of gate, 1 of up, 2 of down.
    part: usize,
    /// 0 for A, 1 for B.
    side: usize,
}

/// One of the three arrays that INT4 weights are.
#[derive(Clone, Copy, Debug)]
enum Array {
    Words,
    Scales,
    Zeros,
}

/// Every factor of a clustered model.
fn factors(config: &ModelConfig) -> impl Iterator<Item = Factor> + use<> {
    let (layers, clusters) = (config.layers, config.layer().shape.clusters);
    let places = (0..layers).flat_map(move |layer| (0..clusters).map(move |cluster| (layer, cluster)));
    places
        .flat_map(|(layer, cluster)| (0..6).map(move |i| Factor { layer, cluster, part: i / 2, side: i % 2 }))
}

/// Tensors that hold the residuals of such a model.
pub(super) fn count(config: &ModelConfig, format: Int4Format) -> usize {
    factors(config).count() * Array::of(format).len()
}

impl Array {
    fn of(format: Int4Format) -> &'static [Array] {
        if format.symmetric {
            &[Array::Words, Array::Scales]
        } else {
            &[Array::Words, Array::Scales, Array::Zeros]
        }
    }

    fn name(self) -> &'static str {
        match self {
            Array::Words => "qweight",
            Array::Scales => "scales",
            Array::Zeros => "zeros",
        }
    }

    fn dtype(self) -> Dtype {
        match self {
            Array::Words => Dtype::I32,
            Array::Scales => Dtype::BF16,
            Array::Zeros => Dtype::U8,
        }
    }

    /// Its shape for one matrix.
    fn shape(self, layout: &Int4Layout) -> Vec<usize> {
        match (self, layout.format().block) {
            (Array::Words, _) => vec![layout.strips(), layout.steps(), PANEL_WORDS],
            (_, Int4Block::Matrix) => vec![PANEL],
            _ => vec![layout.strips(), layout.blocks(), PANEL],
        }
    }

    /// Its elements, little-endian.
    fn bytes(self, packed: &Int4Tensor) -> Result<Vec<u8>> {
        let (words, scales, zeros) = packed.parts();
        Ok(match self {
            Array::Words => words.to_vec()?.into_iter().flat_map(u32::to_le_bytes).collect(),
            Array::Scales => scales.to_vec()?.into_iter().flat_map(bf16::to_le_bytes).collect(),
            Array::Zeros => zeros.to_vec()?,
        })
    }

    /// Sets the elements of matrix `group`.
    fn set(self, packed: &mut Int4Tensor, group: usize, bytes: &[u8]) -> Result<()> {
        fn write<E: Plain>(to: &mut Tensor<E, 1>, group: usize, values: Vec<E>) -> Result<()> {
            to.write(group * values.len(), &values)
        }
        let (words, scales, zeros) = packed.parts_mut();
        match self {
            Array::Words => {
                write(words, group, bytes.as_chunks().0.iter().map(|b| u32::from_le_bytes(*b)).collect())
            }
            Array::Scales => {
                write(scales, group, bytes.as_chunks().0.iter().map(|b| bf16::from_le_bytes(*b)).collect())
            }
            Array::Zeros => write(zeros, group, bytes.to_vec()),
        }
    }
}

impl Factor {
    fn name(&self, array: Array) -> String {
        let Factor { layer, cluster, part, side } = self;
        let (part, side) = (["gate", "up", "down"][*part], ["A", "B"][*side]);
        format!("model.layers.{layer}.mlp.clusters.{cluster}.{part}_proj.lora_{side}.{}", array.name())
    }

    /// Of one matrix.
    fn layout(&self, shape: &Shape, format: Int4Format) -> Result<Int4Layout> {
        // A goes along the input, B along the output.
        let long = if (self.part == 2) == (self.side == 0) { shape.inner } else { shape.hidden };
        Int4Layout::new([1, shape.factors(), long], format)
    }

    /// Where its part of each of its experts is among the parameters of the layer, and which of their pieces.
    fn pieces(&self, shape: Shape) -> impl Iterator<Item = (usize, usize)> + use<> {
        let (Factor { cluster, part, side, .. }, per) = (*self, shape.experts / shape.clusters);
        (cluster * per..(cluster + 1) * per).map(move |e| factor_at(&shape, e, part, side))
    }

    /// The matrix in INT4, from the f32 weights rounded to the model's dtype: from what it computed with before.
    fn quantised<T: Elem>(&self, model: &Model<T>, layout: Int4Layout) -> Result<Int4Tensor> {
        let device = model.device();
        let mut values = Vec::with_capacity(layout.shape().iter().product());
        for (param, piece) in self.pieces(model.config().layer().shape) {
            let part = model.piece(model.ffn_start(self.layer) + param, piece, Field::Weight)?;
            let part = if self.side == 0 { part } else { transposed(&part, layout.shape()[2]) };
            values.extend(part.into_iter().map(T::from_f32));
        }
        let mut x: Tensor<T, 3> = device.zeros(layout.shape())?;
        x.copy_from(&values)?;
        let mut packed = Int4Tensor::new(device, layout)?;
        device.run(QuantizeInt4 { x: x.view().into(), w: packed.view_mut() })?;
        Ok(packed)
    }

    /// Copies the matrix from a file.
    fn read(
        &self,
        tensors: &Tensors<'_>,
        layout: &Int4Layout,
        to: &mut Int4Tensor,
        group: usize,
    ) -> Result<()> {
        for &array in Array::of(layout.format()) {
            let bytes = tensors.bytes(&self.name(array), array.dtype(), &array.shape(layout))?;
            array.set(to, group, bytes)?;
        }
        Ok(())
    }
}

/// `[rows, columns]` of `[columns, rows]`.
fn transposed(values: &[f32], columns: usize) -> Vec<f32> {
    let rows = values.len() / columns.max(1);
    (0..rows).flat_map(|r| (0..columns).map(move |c| values[c * rows + r])).collect()
}

/// The residuals of a clustered model with plain weights, packed when their turn to be written comes.
pub(super) fn packed<T: Elem>(model: &Model<T>, format: Int4Format) -> Result<Vec<Lazy<'_>>> {
    ensure!("Checkpoint", model.residuals().is_empty(), residuals_in_int4 = model.residuals().len());
    let shape = model.config().layer().shape;
    // The matrix packed last: its arrays are written one after the other.
    let last: Rc<Cell<Option<(Factor, Int4Tensor)>>> = Rc::default();
    let mut lazy = Vec::with_capacity(count(model.config(), format));
    for factor in factors(model.config()) {
        let layout = factor.layout(&shape, format)?;
        for &array in Array::of(format) {
            let last = Rc::clone(&last);
            let values = Box::new(move || {
                let matrix = match last.take() {
                    Some((of, matrix)) if of == factor => matrix,
                    _ => factor.quantised(model, layout)?,
                };
                let bytes = array.bytes(&matrix)?;
                last.set(Some((factor, matrix)));
                Ok(Values::Bytes(bytes.into()))
            });
            lazy.push(Lazy {
                name: factor.name(array),
                dtype: array.dtype(),
                shape: array.shape(&layout),
                values,
            });
        }
    }
    Ok(lazy)
}

/// Sets the residuals of a [`Model::packed`].
pub(super) fn load<T: Elem>(tensors: &Tensors<'_>, model: &mut Model<T>) -> Result<()> {
    let (config, shape) = (model.config().clone(), model.config().layer().shape);
    for factor in factors(&config) {
        let all = model.residuals_mut()[factor.layer].factors_mut();
        let to = &mut *all[2 * factor.part + factor.side];
        let layout = factor.layout(&shape, to.layout().format())?;
        factor.read(tensors, &layout, to, factor.cluster)?;
    }
    Ok(())
}

/// Sets the factors of a model with plain weights to what the packed ones stand for.
pub(super) fn unpack<T: Elem>(tensors: &Tensors<'_>, model: &mut Model<T>, format: Int4Format) -> Result<()> {
    let (config, shape) = (model.config().clone(), model.config().layer().shape);
    let device: Device = model.device().clone();
    let mut brought = None;
    for factor in factors(&config) {
        if brought != Some(factor.layer) {
            if let Some(layer) = brought {
                model.put(layer)?;
            }
            model.bring(factor.layer)?;
            brought = Some(factor.layer);
        }
        let layout = factor.layout(&shape, format)?;
        let mut matrix = Int4Tensor::new(&device, layout)?;
        factor.read(tensors, &layout, &mut matrix, 0)?;
        let mut values: Tensor<f32, 3> = device.zeros(layout.shape())?;
        device.run(DequantizeInt4 { w: matrix.view(), y: values.view_mut().into() })?;
        let values = values.to_vec()?;
        let params = model.ffn_mut(factor.layer);
        for ((param, piece), part) in
            factor.pieces(shape).zip(values.chunks_exact(shape.rank * layout.shape()[2]))
        {
            match factor.side {
                0 => params[param].set(piece, part)?,
                _ => params[param].set(piece, &transposed(part, shape.rank))?,
            }
        }
    }
    brought.map_or(Ok(()), |layer| model.put(layer))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::tensors::{Verified, write_file, write_tensors};
    use super::*;
    use crate::train::config::{FfnKind, Granularity};
    use crate::train::preset::Preset;

    #[test]
    fn a_tensor_that_is_missing_or_of_another_form_is_named() {
        let (config, device) = (Preset::Tiny.model().variant(FfnKind::Clustered), Device::cpu());
        let plain = Model::<f32>::new(&config, &device, 0, 1, false).unwrap();
        let format = Granularity::Block.format();
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, keep: &dyn Fn(&str) -> bool| {
            let kept: Vec<_> =
                packed(&plain, format).unwrap().into_iter().filter(|t| keep(&t.name)).collect();
            let path = folder.path().join(name);
            let digest = write_file(Path::new(&path), |out| write_tensors(out, &kept)).unwrap();
            Verified::open(path, &digest).unwrap()
        };
        let read = |file: &Verified, format| {
            let mut model = Model::<f32>::packed(&config, &device, 0, format).unwrap();
            let mut into = Model::<f32>::new(&config, &device, 0, 1, true).unwrap();
            let tensors = file.tensors().unwrap();
            let [loaded, unpacked] = [load(&tensors, &mut model), unpack(&tensors, &mut into, format)];
            assert_eq!(loaded.as_ref().err().map(|e| e.to_string()), unpacked.err().map(|e| e.to_string()));
            loaded.map_err(|e| e.to_string())
        };
        let whole = file("whole", &|_| true);
        assert_eq!(whole.tensors().unwrap().len(), count(&config, format));
        read(&whole, format).unwrap();
        let lost = "model.layers.1.mlp.clusters.0.down_proj.lora_B.scales";
        let error = read(&file("part", &|name| name != lost), format).unwrap_err();
        assert!(error.contains("part") && error.contains(&format!("no tensor `{lost}`")), "{error}");
        // A row of a factor has 2 blocks of 32.
        let error = read(&whole, Granularity::Group.format()).unwrap_err();
        assert!(error.contains("lora_A.scales` is BF16 [1, 2, 32] where BF16 [32] is needed"), "{error}");
    }
}
