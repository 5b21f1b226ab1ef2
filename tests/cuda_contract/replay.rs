//! Running an operation several times, captured and not.

use trimoe::cuda::cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
use trimoe::cuda::{Cuda, cudarc};
use trimoe::{Device, Elem, Plain, Tensor};

use crate::common::{Guarded, Rng};

/// What is enqueued by `work`, as a graph. The strictest mode: nothing else of this process may touch the driver.
pub fn captured(cuda: &Cuda, work: impl FnOnce()) -> cudarc::driver::CudaGraph {
    cuda.stream().begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_GLOBAL).unwrap();
    work();
    cuda.stream().end_capture(CUgraphInstantiate_flags(0)).unwrap().unwrap()
}

/// Standard normal values.
pub fn normal<T: Elem, const N: usize>(seed: u64, shape: [usize; N]) -> Guarded<T, N> {
    Guarded::normal(&mut Rng::new(seed), shape, 1.0)
}

/// `holds!(device; x = .., y = ..; Op { x: x.view_on(device), y: y.view_mut_on(device) })`: runs the operation on these
/// operands, made anew, twice, and then once more and from a graph twice; all bytes must agree.
macro_rules! holds {
    ($device:ident; $($name:ident = $tensor:expr),+; $op:expr) => {{
        #[allow(unused_mut, reason = "some are inputs")]
        let eager = || {
            $(let mut $name = $tensor;)+
            $crate::common::coverage::run($device, $op).unwrap();
            vec![$($name.bytes()),+]
        };
        let want = eager();
        assert_eq!(eager(), want, "{} at {}: run again", stringify!($op), line!());

        #[allow(unused_mut, reason = "some are inputs")]
        {
            $(let mut $name = $tensor;)+
            $crate::common::coverage::run($device, $op).unwrap();
            $($name.reset();)+
            let before = vec![$($name.bytes()),+];
            let graph = $crate::replay::captured($device.as_cuda().unwrap(), || $crate::common::coverage::run($device, $op).unwrap());
            assert_eq!(vec![$($name.bytes()),+], before, "{}: ran while captured", line!());
            for _ in 0..2 {
                $($name.reset();)+
                graph.launch().unwrap();
                assert_eq!(vec![$($name.bytes()),+], want, "{} at {}: from a graph", stringify!($op), line!());
            }
        }
    }};
}
pub(crate) use holds;

/// Runs `work`, which leaves its results in tensors of its own, twice and from a graph; `read` gives their bytes.
pub fn repeats<S>(
    d: &Device,
    mut state: S,
    work: impl Fn(&Device, &mut S),
    read: impl Fn(&S) -> Vec<Vec<u8>>,
) {
    work(d, &mut state);
    let want = read(&state);
    work(d, &mut state);
    assert_eq!(read(&state), want, "run again");
    let graph = captured(d.as_cuda().unwrap(), || work(d, &mut state));
    for _ in 0..2 {
        graph.launch().unwrap();
        assert_eq!(read(&state), want, "from a graph");
    }
}

pub fn bytes<E: Plain, const N: usize>(tensor: &Tensor<E, N>) -> Vec<u8> {
    bytemuck::cast_slice(&tensor.to_vec().unwrap()).to_vec()
}
