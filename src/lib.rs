#![doc = include_str!("../README.md")]

pub mod cli;
pub mod compress;
mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
mod device;
mod elem;
mod error;
mod int4;
pub mod moe;
pub mod ops;
mod place;
mod plan;
pub mod profile;
mod staging;
mod tensor;
pub mod train;
mod view;

pub use device::Device;
pub use elem::{DType, Elem, Plain};
pub use error::{Error, Result};
pub use half::{bf16, f16};
pub use int4::{Int4Block, Int4Format, Int4Layout, Int4Tensor, Int4View, Int4ViewMut, Stacked, StackedMut};
pub use ops::Op;
pub use place::{Operand, Place, Visit};
pub use plan::{HostOrder, Order, Plan, Segments};
pub use tensor::Tensor;
pub use view::{View, ViewMut};
