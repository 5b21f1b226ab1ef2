//! The rows of the table: one function for each operation makes its operands at a shape.

mod attention;
mod experts;
mod int4;
mod products;
mod routing;
mod rowwise;
mod similar;
mod sorted;
mod training;

#[cfg(feature = "cuda")]
pub use products::WHOLE;
use trimoe::{Elem, Result};

use crate::lab::{Lab, Work};
use crate::shapes::Shape;

/// A row at a shape.
pub type Case = fn(&Lab, &Shape) -> Result<Work>;

/// Every row, in this dtype. No operation is left out: the bench looks.
pub fn all<T: Elem>() -> Vec<Case> {
    let families: [fn() -> Vec<Case>; 9] = [
        rowwise::cases::<T>,
        attention::cases::<T>,
        routing::cases::<T>,
        sorted::cases::<T>,
        products::cases::<T>,
        experts::cases::<T>,
        int4::cases::<T>,
        training::cases::<T>,
        similar::cases::<T>,
    ];
    families.iter().flat_map(|family| family()).collect()
}
