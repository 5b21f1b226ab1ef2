//! One function for each operation: its operands at a shape, and what it cannot do without.

mod attention;
mod compressed;
mod products;
mod residuals;
mod routing;
mod rowwise;
mod similar;
mod sorted;
mod training;

use trimoe::Result;

use crate::lab::{Lab, Need, Row};
use crate::shapes::Shape;

/// An operation at a shape.
type Case = fn(&Lab, &Shape) -> Result<Row>;

/// Every operation at a shape.
pub fn all(lab: &Lab, s: &Shape) -> Result<Vec<Row>> {
    let families = [
        rowwise::CASES,
        sorted::CASES,
        training::CASES,
        attention::CASES,
        products::CASES,
        routing::CASES,
        residuals::CASES,
        compressed::CASES,
        similar::CASES,
    ];
    families.concat().iter().map(|case| case(lab, s)).collect()
}

/// Everything once, nothing again.
fn once(floor: u64) -> Need {
    Need { floor, ..Need::default() }
}

/// Sectors that `count` separate reads of a 32-bit value ask for beyond those that the values lie in.
fn one_by_one(count: usize) -> u64 {
    (count - (count * 4).div_ceil(32)) as u64
}
