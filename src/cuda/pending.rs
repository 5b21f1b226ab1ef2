//! Whose error it may be: kernels run after they are enqueued, and their errors come later still.

use std::collections::VecDeque;

use cudarc::driver::DriverError;
use cudarc::driver::sys::CUresult;

/// Operations that are remembered.
const MOST: usize = 16;

/// The latest operations enqueued since the stream was last waited for without an error, the newest last.
#[derive(Debug, Default)]
pub(super) struct Pending(VecDeque<&'static str>);

impl Pending {
    /// One more; the same several times in a row counts once.
    pub fn push(&mut self, op: &'static str) {
        if self.0.back() != Some(&op) {
            if self.0.len() == MOST {
                self.0.pop_front();
            }
            self.0.push_back(op);
        }
    }

    /// Those of a graph.
    pub fn extend(&mut self, ops: &Pending) {
        ops.0.iter().for_each(|op| self.push(op));
    }

    /// All of them ran.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Those one of which an error is from: none, if the error is not one of kernels.
    pub fn suspects(&self, error: DriverError) -> Vec<&'static str> {
        if is_of_kernels(error.0) { self.0.iter().copied().collect() } else { Vec::new() }
    }
}

/// Whether it is the error of something that ran on the device, and not of the call that returned it.
fn is_of_kernels(error: CUresult) -> bool {
    use CUresult::*;
    matches!(
        error,
        CUDA_ERROR_ILLEGAL_ADDRESS
            | CUDA_ERROR_LAUNCH_TIMEOUT
            | CUDA_ERROR_ASSERT
            | CUDA_ERROR_HARDWARE_STACK_ERROR
            | CUDA_ERROR_ILLEGAL_INSTRUCTION
            | CUDA_ERROR_MISALIGNED_ADDRESS
            | CUDA_ERROR_INVALID_ADDRESS_SPACE
            | CUDA_ERROR_INVALID_PC
            | CUDA_ERROR_LAUNCH_FAILED
            | CUDA_ERROR_ECC_UNCORRECTABLE
            | CUDA_ERROR_UNKNOWN
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_operations_are_suspects_of_kernel_errors_alone() {
        let mut pending = Pending::default();
        ["a", "b", "b", "a"].into_iter().for_each(|op| pending.push(op));
        let (kernel, call) = (CUresult::CUDA_ERROR_LAUNCH_FAILED, CUresult::CUDA_ERROR_OUT_OF_MEMORY);
        assert_eq!(pending.suspects(DriverError(kernel)), ["a", "b", "a"]);
        assert!(pending.suspects(DriverError(call)).is_empty());
        (0..10).for_each(|_| ["c", "d"].into_iter().for_each(|op| pending.push(op)));
        assert_eq!(pending.suspects(DriverError(kernel)), ["c", "d"].repeat(MOST / 2));
        pending.clear();
        assert!(pending.suspects(DriverError(kernel)).is_empty());
    }
}
