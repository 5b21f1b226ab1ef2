//! The CUDA driver API.
//!
//! Every function has the name and the C interface of cuda.h, checks its arguments as a real driver does, and
//! never lets a panic out. What is done on the device is done when a call returns; the errors of kernels
//! still arrive as on a GPU: the launch succeeds, the context fails, and the next call that could notice and
//! every later one returns the error until `cuDevicePrimaryCtxReset`. `cuGetErrorString` gives the text of
//! the error that the thread was given last.
//!
//! Environment, besides that of [`crate::options`]:
//!
//! - `SOFTGPU_LOG=1` or `=FILE`: every call with arguments and result, on standard error or appended to a file.
//! - `SOFTGPU_STATS=FILE`: a line of JSON for every launch, appended: exact counts, and the seconds that the
//!   emulation took.
//! - `SOFTGPU_QUIET=1`: mistakes of kernels are not printed on standard error.
//! - `SOFTGPU_FAULT=alloc:N`: the N-th allocation fails with `CUDA_ERROR_OUT_OF_MEMORY`.
//! - `SOFTGPU_FAULT=launch:N`: the N-th launch fails its context with `CUDA_ERROR_LAUNCH_FAILED`.
//! - `SOFTGPU_FAULT=lost:N`: the device is lost at the N-th launch: that and all that follows is
//!   `CUDA_ERROR_UNKNOWN`, and a reset does not help.
//!
//! Faults can be combined with commas. What differs from a real driver: host functions and callbacks of
//! streams run on the thread that submits them, memory of graphs lives as long as the graph, and pools keep
//! nothing back.

#![allow(non_snake_case, non_camel_case_types)] // the names are those of cuda.h

pub mod abi;
mod attributes;
mod call;
mod capture;
mod context;
mod copy;
mod device;
mod errors;
mod event;
mod fault;
mod function;
mod graph;
mod graph_nodes;
mod launch;
mod memory;
mod module;
mod occupancy;
mod owner;
mod pool;
mod procs;
mod state;
mod stats;
mod stream;
pub mod tensor_map;
mod transfer;
mod work;

pub use capture::*;
pub use context::*;
pub use copy::*;
pub use device::*;
pub use errors::*;
pub use event::*;
pub use function::*;
pub use graph::*;
pub use graph_nodes::*;
pub use launch::*;
pub use memory::*;
pub use module::*;
pub use occupancy::*;
pub use pool::*;
pub use procs::*;
pub use stream::*;
pub use tensor_map::{cuTensorMapEncodeTiled, cuTensorMapReplaceAddress};
