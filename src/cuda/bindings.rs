//! The parameters of the kernels: written by `cargo xtask bindings` from `kernels/*.h`.
#![allow(missing_docs, dead_code, non_camel_case_types, non_upper_case_globals, clippy::all)]

#[doc = " How a kernel over a matrix is launched: `threads` threads a block, and a grid of\n `(ceil(rows / tile.rows), min(ceil(columns / tile.columns), 65535))` blocks."]
#[repr(C)]
#[derive(Debug, Copy, Clone, bytemuck :: Pod, bytemuck :: Zeroable)]
pub struct RowTile {
    #[doc = " Threads of a block."]
    pub threads: u32,
    #[doc = " Rows of a block."]
    pub rows: u32,
    #[doc = " Columns of a block; 0 if a block takes whole rows, and the grid has one dimension."]
    pub columns: u32,
    #[doc = " Always 0."]
    pub unused: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of RowTile"][::core::mem::size_of::<RowTile>() - 16usize];
    ["Alignment of RowTile"][::core::mem::align_of::<RowTile>() - 4usize];
    ["Offset of field: RowTile::threads"][::core::mem::offset_of!(RowTile, threads) - 0usize];
    ["Offset of field: RowTile::rows"][::core::mem::offset_of!(RowTile, rows) - 4usize];
    ["Offset of field: RowTile::columns"][::core::mem::offset_of!(RowTile, columns) - 8usize];
    ["Offset of field: RowTile::unused"][::core::mem::offset_of!(RowTile, unused) - 12usize];
};
#[doc = " Parameters of `moe_swiglu_*`; launched by the tile `moe_swiglu_launch` over `rows` and `inner`."]
#[repr(C)]
#[derive(Debug, Copy, Clone, bytemuck :: Pod, bytemuck :: Zeroable)]
pub struct SwiGluParams {
    #[doc = " [rows, 2 inner]"]
    pub z: u64,
    #[doc = " [rows, inner]"]
    pub h: u64,
    #[doc = " [tokens, fan], f32; 0 means ones"]
    pub weight: u64,
    #[doc = " [rows], u32: the choice token * fan + slot of each row; read if there are weights"]
    pub source: u64,
    pub z_stride: u64,
    pub h_stride: u64,
    pub weight_stride: u64,
    pub rows: u32,
    pub inner: u32,
    pub fan: u32,
    pub unused: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of SwiGluParams"][::core::mem::size_of::<SwiGluParams>() - 72usize];
    ["Alignment of SwiGluParams"][::core::mem::align_of::<SwiGluParams>() - 8usize];
    ["Offset of field: SwiGluParams::z"][::core::mem::offset_of!(SwiGluParams, z) - 0usize];
    ["Offset of field: SwiGluParams::h"][::core::mem::offset_of!(SwiGluParams, h) - 8usize];
    ["Offset of field: SwiGluParams::weight"][::core::mem::offset_of!(SwiGluParams, weight) - 16usize];
    ["Offset of field: SwiGluParams::source"][::core::mem::offset_of!(SwiGluParams, source) - 24usize];
    ["Offset of field: SwiGluParams::z_stride"][::core::mem::offset_of!(SwiGluParams, z_stride) - 32usize];
    ["Offset of field: SwiGluParams::h_stride"][::core::mem::offset_of!(SwiGluParams, h_stride) - 40usize];
    ["Offset of field: SwiGluParams::weight_stride"]
        [::core::mem::offset_of!(SwiGluParams, weight_stride) - 48usize];
    ["Offset of field: SwiGluParams::rows"][::core::mem::offset_of!(SwiGluParams, rows) - 56usize];
    ["Offset of field: SwiGluParams::inner"][::core::mem::offset_of!(SwiGluParams, inner) - 60usize];
    ["Offset of field: SwiGluParams::fan"][::core::mem::offset_of!(SwiGluParams, fan) - 64usize];
    ["Offset of field: SwiGluParams::unused"][::core::mem::offset_of!(SwiGluParams, unused) - 68usize];
};
#[doc = " Parameters of `moe_swiglu_backward_*`; launched by the tile `moe_swiglu_backward_launch` over `rows`."]
#[repr(C)]
#[derive(Debug, Copy, Clone, bytemuck :: Pod, bytemuck :: Zeroable)]
pub struct SwiGluBackwardParams {
    #[doc = " [rows, 2 inner]: z on entry, its gradient on return"]
    pub z: u64,
    #[doc = " [rows, inner]: the gradient of h on entry, h on return"]
    pub dh: u64,
    #[doc = " [tokens, fan], f32; 0 means ones"]
    pub weight: u64,
    #[doc = " [tokens, fan], f32, overwritten; there exactly if there are weights"]
    pub dweight: u64,
    #[doc = " [rows], u32; read if there are weights"]
    pub source: u64,
    pub z_stride: u64,
    pub dh_stride: u64,
    pub weight_stride: u64,
    pub dweight_stride: u64,
    pub rows: u32,
    pub inner: u32,
    pub fan: u32,
    pub unused: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of SwiGluBackwardParams"][::core::mem::size_of::<SwiGluBackwardParams>() - 88usize];
    ["Alignment of SwiGluBackwardParams"][::core::mem::align_of::<SwiGluBackwardParams>() - 8usize];
    ["Offset of field: SwiGluBackwardParams::z"][::core::mem::offset_of!(SwiGluBackwardParams, z) - 0usize];
    ["Offset of field: SwiGluBackwardParams::dh"][::core::mem::offset_of!(SwiGluBackwardParams, dh) - 8usize];
    ["Offset of field: SwiGluBackwardParams::weight"]
        [::core::mem::offset_of!(SwiGluBackwardParams, weight) - 16usize];
    ["Offset of field: SwiGluBackwardParams::dweight"]
        [::core::mem::offset_of!(SwiGluBackwardParams, dweight) - 24usize];
    ["Offset of field: SwiGluBackwardParams::source"]
        [::core::mem::offset_of!(SwiGluBackwardParams, source) - 32usize];
    ["Offset of field: SwiGluBackwardParams::z_stride"]
        [::core::mem::offset_of!(SwiGluBackwardParams, z_stride) - 40usize];
    ["Offset of field: SwiGluBackwardParams::dh_stride"]
        [::core::mem::offset_of!(SwiGluBackwardParams, dh_stride) - 48usize];
    ["Offset of field: SwiGluBackwardParams::weight_stride"]
        [::core::mem::offset_of!(SwiGluBackwardParams, weight_stride) - 56usize];
    ["Offset of field: SwiGluBackwardParams::dweight_stride"]
        [::core::mem::offset_of!(SwiGluBackwardParams, dweight_stride) - 64usize];
    ["Offset of field: SwiGluBackwardParams::rows"]
        [::core::mem::offset_of!(SwiGluBackwardParams, rows) - 72usize];
    ["Offset of field: SwiGluBackwardParams::inner"]
        [::core::mem::offset_of!(SwiGluBackwardParams, inner) - 76usize];
    ["Offset of field: SwiGluBackwardParams::fan"]
        [::core::mem::offset_of!(SwiGluBackwardParams, fan) - 80usize];
    ["Offset of field: SwiGluBackwardParams::unused"]
        [::core::mem::offset_of!(SwiGluBackwardParams, unused) - 84usize];
};
// SAFETY: repr(C) and Pod, the layout asserted above and in the kernel's file.
unsafe impl cudarc::driver::DeviceRepr for SwiGluParams {}
// SAFETY: repr(C) and Pod, the layout asserted above and in the kernel's file.
unsafe impl cudarc::driver::DeviceRepr for SwiGluBackwardParams {}
