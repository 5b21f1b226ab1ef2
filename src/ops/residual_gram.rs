//! Dot products between clustered experts, whose matrices nobody writes out as a whole.

use super::Op;
#[cfg(feature = "cuda")]
use super::gram;
use super::residual_form::{Cost, Form};
#[cfg(feature = "cuda")]
use crate::cuda::{Cuda, Kernel, ResidualParams, images};
#[cfg(feature = "cuda")]
use crate::elem::DType;
use crate::elem::Elem;
use crate::error::{Result, ensure};
use crate::place::{Place, Visit, operands};
use crate::view::{View, ViewMut};

#[cfg(feature = "cuda")]
const RESIDUAL: Kernel = Kernel { image: &images::RESIDUAL, name: "residual", tile: "moe_residual_launch" };

/// `gram[i, j] = <W_i, W_j>`, summed over gate, up and down, where a matrix of expert `i` of cluster `g` is
/// `base_g + A_i B_i^T`.
///
/// The CPU takes whichever costs less for the shape, all in f64: the matrices, a few rows at a time,
/// `experts^2 / 2` multiply-adds an element; or, from `base_g` and `R_i = A_i B_i^T`,
/// `<base_g, base_h> + <base_g, R_j> + <R_i, base_h> + tr((A_i^T A_j)(B_j^T B_i))`, `clusters experts` of them and a
/// small part. Both compute `R` once, `rank experts` multiply-adds an element.
///
/// CUDA devices always write matrices, as many rows of all experts in f32 as the workspace has room for, and multiply
/// them as [`Gram`](super::Gram) does. An element costs them 8 bytes an expert, written and read, and the two forms
/// differ only in multiply-adds of tensor cores, three of TF32 each. On an A100 (1.56 TB/s, 19.5 TFLOP/s of f32, 156 of
/// TF32), for 32 experts of rank 16 in 4 clusters, those are 0.16 ns for the bytes, 0.05 for `R`, and 0.020 for the dot
/// products, of which `<base_g, R_j>` would leave 0.005: the closed form saves 6 %; for 128 in 16 clusters, 20 %, once
/// in a hundred steps. Without writing `R`, from `base_g A_j`, it takes `clusters experts rank` multiply-adds an element:
/// more than the `3 experts^2 / 2` of all pairs until a cluster has `2 rank / 3` experts.
///
/// Weights are those of [`clustered`](crate::moe::clustered::Weights).
#[derive(Debug)]
pub struct ResidualGram<'a, T> {
    /// `[clusters, 2 inner + 2 K rank, hidden]`: base of gate and up, then each expert's `A^T` of gate and of up.
    pub w13: View<'a, T, 3>,
    /// `[clusters, hidden, inner + K rank]`: base of down, then each expert's `B` of down.
    pub w2: View<'a, T, 3>,
    /// `[experts, 2 inner, rank]`: `B` of gate, then of up.
    pub b: View<'a, T, 3>,
    /// `[experts, rank, inner]`: `A^T` of down.
    pub a2: View<'a, T, 3>,
    /// `[experts, experts]`.
    pub gram: ViewMut<'a, f64, 2>,
    /// [`ResidualGram::workspace_len`] elements or more on a CUDA device, none on the CPU.
    pub workspace: ViewMut<'a, f64, 1>,
}

impl<T> ResidualGram<'_, T> {
    /// Elements of workspace on a CUDA device to write `rows` rows of every expert at a time, 1 or more. Millions of
    /// elements at a time keep a device busy.
    pub fn workspace_len(experts: usize, hidden: usize, inner: usize, rows: usize) -> usize {
        let columns = hidden.max(inner);
        Room::of(experts, rows.max(1), columns).total()
    }
}

/// What lies in the workspace, in f64: partial sums, then f32 matrices from a multiple of 16 bytes on.
#[derive(Clone, Copy, Debug)]
struct Room {
    partial: usize,
    matrices: usize,
}

impl Room {
    fn of(experts: usize, rows: usize, columns: usize) -> Self {
        let matrix = expert_stride(rows, columns);
        let partial = super::Gram::<f32>::workspace_len([experts, rows, columns]);
        Room { partial, matrices: experts.saturating_mul(matrix).div_ceil(2) }
    }

    fn total(self) -> usize {
        self.partial.saturating_add(self.matrices).saturating_add(1)
    }
}

/// Elements from one expert's matrix to the next one's: a multiple of 16 bytes.
fn expert_stride(rows: usize, columns: usize) -> usize {
    rows.saturating_mul(columns).saturating_add(3) / 4 * 4
}

impl<T: Elem> ResidualGram<'_, T> {
    fn sizes(&self) -> Sizes {
        let [experts, rank, inner] = self.a2.shape();
        Sizes { experts, clusters: self.w13.dim(0), rank, inner, hidden: self.w13.dim(2) }
    }

    /// Gate, up and down.
    fn forms(&self) -> [Form<'_, T>; 3] {
        let Sizes { experts, clusters, rank, inner, hidden } = self.sizes();
        let per = experts / clusters;
        let ([w13, row, _], [w2, column, _]) = (self.w13.strides(), self.w2.strides());
        let ([b, b_row, _], [a2, a2_row, _]) = (self.b.strides(), self.a2.strides());
        let a13 = self.w13.narrow(1, 2 * inner..2 * inner + 2 * per * rank);
        let a13 = a13.reindex([clusters, per, 2 * rank, hidden], [w13, 2 * rank * row, row, 1]);
        let b13 = self.b.reindex([clusters, per, 2 * inner, rank], [per * b, b, b_row, 1]);
        let up_or_gate = |i: usize| Form {
            base: self.w13.narrow(1, i * inner..(i + 1) * inner),
            a: a13.narrow(2, i * rank..(i + 1) * rank),
            b: b13.narrow(2, i * inner..(i + 1) * inner),
        };
        let b2 = self.w2.narrow(2, inner..inner + per * rank);
        let down = Form {
            base: self.w2.narrow(2, 0..inner),
            a: self.a2.reindex([clusters, per, rank, inner], [per * a2, a2, a2_row, 1]),
            b: b2.reindex([clusters, per, hidden, rank], [w2, rank, column, 1]),
        };
        [up_or_gate(0), up_or_gate(1), down]
    }
}

/// Sizes of the experts.
struct Sizes {
    experts: usize,
    clusters: usize,
    rank: usize,
    inner: usize,
    hidden: usize,
}

impl<T: Elem> Op for ResidualGram<'_, T> {
    const NAME: &'static str = "residual_gram";

    fn operands(&self, visit: Visit<'_>) {
        operands!(self to visit: w13, w2, b, a2, gram, workspace);
    }

    fn check(&self) -> Result<()> {
        let (w13, w2, b, a2) = (self.w13.shape(), self.w2.shape(), self.b.shape(), self.a2.shape());
        let Sizes { experts, clusters, rank, inner, hidden } = self.sizes();
        ensure!(Self::NAME, experts <= u16::MAX as usize, experts = experts);
        ensure!(Self::NAME, self.gram.shape() == [experts; 2], gram = self.gram.shape(), experts = experts);
        ensure!(Self::NAME, clusters >= 1, w13 = w13);
        ensure!(Self::NAME, experts.is_multiple_of(clusters), experts = experts, clusters = clusters);
        ensure!(Self::NAME, rank >= 1 && inner >= 1 && hidden >= 1, a2 = a2, w13 = w13);
        ensure!(Self::NAME, inner.saturating_mul(hidden) <= i32::MAX as usize, a2 = a2, w13 = w13);
        let factors = (experts / clusters).saturating_mul(rank);
        ensure!(Self::NAME, w13[1] == 2 * inner + 2 * factors, w13 = w13, inner = inner, factors = factors);
        ensure!(Self::NAME, w2 == [clusters, hidden, inner + factors], w2 = w2, w13 = w13, a2 = a2);
        ensure!(Self::NAME, b == [experts, 2 * inner, rank], b = b, a2 = a2);
        let (len, need) = (self.workspace.dim(0), Self::workspace_len(experts, hidden, inner, 1));
        let room = self.workspace.place() == Place::Host || len >= need;
        ensure!(Self::NAME, room, workspace = len, need = need);
        Ok(())
    }

    fn is_empty(&self) -> bool {
        self.gram.shape().contains(&0)
    }

    fn flops(&self) -> u64 {
        let Sizes { experts, clusters, rank, inner, hidden } = self.sizes();
        let cost = Cost::of(experts, clusters, rank, [inner, hidden]);
        (2.0 * 3.0 * cost.closed.min(cost.written)) as u64
    }

    fn bytes(&self) -> u64 {
        let elements = |shape: [usize; 3]| shape.iter().product::<usize>();
        let read = [self.w13.shape(), self.w2.shape(), self.b.shape(), self.a2.shape()].map(elements);
        (read.iter().sum::<usize>() * T::DTYPE.size() + self.gram.dim(0).pow(2) * size_of::<f64>()) as u64
    }

    fn cpu(mut self) -> Result<()> {
        let experts = self.gram.dim(0);
        let mut packed = vec![0.0; experts * (experts + 1) / 2];
        self.forms().iter().for_each(|form| form.add(&mut packed));
        let mut values = packed.into_iter();
        for i in 0..experts {
            for (j, value) in values.by_ref().take(i + 1).enumerate() {
                self.gram.row_mut(i)[j] = value;
                self.gram.row_mut(j)[i] = value;
            }
        }
        Ok(())
    }

    #[cfg(feature = "cuda")]
    fn cuda(self, device: &Cuda) -> Result<()> {
        let (experts, workspace) = (self.gram.dim(0), self.workspace.dim(0));
        let mut accumulate = false;
        let gram = (self.gram.address(), self.gram.stride(0));
        for form in self.forms() {
            let [_, all_rows, columns] = form.base.shape();
            let fits = |rows: usize| Room::of(experts, rows, columns).total() <= workspace;
            // Room grows with the rows: as many as fit, of which there is one (`check`).
            let most = (1..=all_rows).rev().find(|&rows| fits(rows)).unwrap_or(1);
            for first in (0..all_rows).step_by(most) {
                let rows = most.min(all_rows - first);
                let partial = self.workspace.address();
                let behind = partial + (Room::of(experts, rows, columns).partial * size_of::<f64>()) as u64;
                let w = behind.next_multiple_of(16);
                let stride = expert_stride(rows, columns);
                let (base, b) =
                    (form.base.narrow(1, first..first + rows), form.b.narrow(2, first..first + rows));
                let params = ResidualParams {
                    base: base.address(),
                    a: form.a.address(),
                    b: b.address(),
                    w,
                    base_cluster_stride: base.stride(0),
                    base_row_stride: base.stride(1),
                    a_cluster_stride: form.a.stride(0),
                    a_expert_stride: form.a.stride(1),
                    a_row_stride: form.a.stride(2),
                    b_cluster_stride: b.stride(0),
                    b_expert_stride: b.stride(1),
                    b_row_stride: b.stride(2),
                    w_stride: stride as u64,
                    rows: rows as u32,
                    columns: columns as u32,
                    rank: form.a.dim(2) as u32,
                    per: form.a.dim(1) as u32,
                };
                let tile = device.tile(RESIDUAL)?;
                let grid = [
                    rows.div_ceil(tile.rows as usize),
                    columns.div_ceil(tile.columns as usize).min(65535),
                    experts,
                ];
                // SAFETY: the views are on this device (`misplaced`) and of these shapes (`check`), and the workspace has
                // room for the partial sums and these rows of all experts (`fits`).
                unsafe { device.launch(RESIDUAL, T::DTYPE.variant(), grid, &params)? };
                let x = gram::Operand {
                    dtype: DType::F32,
                    address: w,
                    shape: [experts, rows, columns],
                    strides: [stride, columns],
                };
                // SAFETY: the matrices were just written there; the rest as above.
                unsafe { gram::launch(device, x, partial, gram, accumulate)? };
                accumulate = true;
            }
        }
        Ok(())
    }
}
