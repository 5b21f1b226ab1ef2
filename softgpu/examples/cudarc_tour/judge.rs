//! How far results are from the truth, in percent of what is allowed.

use crate::Result;

/// One unit in the last place of a rounded f32 sum, relative: 2^-24.
pub const F32_ROUNDING: f64 = 1.0 / 16_777_216.0;

/// Compares one result after another.
#[derive(Default)]
pub struct Judge {
    worst: f64,
    compared: usize,
    wrong: Option<String>,
}

impl Judge {
    /// Takes the result of element `index`, its true value and the error it may have.
    pub fn compare(&mut self, index: usize, got: f64, want: f64, bound: f64) {
        self.compared += 1;
        let share = (got - want).abs() / bound.max(f64::MIN_POSITIVE);
        // NaN is in no order with anything: it must be asked for by name.
        if share.is_nan() || share > 1.0 {
            self.reject(format!("element {index} is {got}, should be {want} to {bound:e}"));
        } else {
            self.worst = self.worst.max(share);
        }
    }

    /// Takes something that must be so.
    pub fn require(&mut self, holds: bool, what: impl FnOnce() -> String) {
        self.compared += 1;
        if !holds {
            self.reject(what());
        }
    }

    fn reject(&mut self, what: String) {
        self.wrong.get_or_insert(what);
    }

    /// Prints the line of `kernel` at `shape`; an error if anything was wrong or nothing was compared.
    pub fn conclude(self, kernel: &str, shape: &str) -> Result<()> {
        if let Some(wrong) = self.wrong {
            return Err(format!("{kernel} {shape}: {wrong}").into());
        }
        if self.compared == 0 {
            return Err(format!("{kernel} {shape}: nothing was compared").into());
        }
        println!("{kernel:<13} {shape:<40} max error {:5.1} % of its bound", 100.0 * self.worst);
        Ok(())
    }
}

/// How far a product summed in f32 over `k` terms may be off before it is rounded for storage; `sum` is the true
/// value, `magnitude` the sum of the terms' magnitudes. The tensor cores cut sums off instead of rounding them, so
/// their error has a side: that is the last term.
pub fn product_bound(k: usize, sum: f64, magnitude: f64) -> f64 {
    (4.0 * (k as f64).sqrt() * magnitude + k as f64 * sum.abs()) * F32_ROUNDING
}
