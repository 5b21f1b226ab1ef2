//! Launches: what is checked before a kernel may run.

use std::ffi::c_void;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::abi::{CUlaunchAttribute, CUlaunchConfig, Handle, In, Out};
use super::call::api;
use super::module::Function;
use super::occupancy::{LARGE_CLUSTER, PORTABLE_CLUSTER};
use super::state::{Driver, Here, here, lock};
use super::work::{Op, submit};
use crate::machine::grid::{self, Launch};
use crate::{Code, Error, Result};

/// The shape of a launch, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub cluster: [u32; 3],
    pub dynamic_shared: u32,
    pub cooperative: bool,
}

/// A launch whose parameters were copied.
pub(super) struct Call {
    pub function: Arc<Function>,
    pub shape: Shape,
    pub params: Vec<u8>,
}

impl Call {
    /// As the machine runs it.
    pub fn launch(&self) -> Launch<'_> {
        let Shape { grid, block, cluster, dynamic_shared, cooperative } = self.shape;
        let (kernel, params) = (self.function.kernel(), self.params.as_slice());
        Launch { kernel, grid, block, cluster, dynamic_shared, params, cooperative }
    }
}

fn count(dims: [u32; 3]) -> u64 {
    dims.iter().fold(1u64, |n, d| n.saturating_mul(u64::from(*d)))
}

impl Shape {
    /// Checks as a real driver does, with its codes.
    pub fn checked(self, driver: &Driver, function: &Function) -> Result<Self> {
        let Shape { grid, block, cluster, dynamic_shared, cooperative } = self;
        let (kernel, chip) = (function.kernel(), driver.options.chip);
        let fail = |code, text: String| Err(Error::new(code, format!("launch of {}: {text}", kernel.name)));
        let threads = count(block);
        if threads > u64::from(function.max_threads()) && threads <= 1024 && kernel.required_threads.is_none()
        {
            let text = format!("{threads} threads in a block, .maxntid allows {}", function.max_threads());
            return fail(Code::LaunchOutOfResources, text);
        }
        let most = function.dynamic_shared.load(Relaxed);
        if dynamic_shared > most {
            let text = format!(
                "{dynamic_shared} bytes of dynamic shared memory beside {} static ones, {most} are allowed (more \
                 needs CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES)",
                kernel.static_shared
            );
            return fail(Code::InvalidValue, text);
        }
        let most = if function.large_clusters.load(Relaxed) { LARGE_CLUSTER } else { PORTABLE_CLUSTER };
        match count(cluster) {
            0..=1 => {}
            _ if chip.capability < 90 => {
                return fail(Code::InvalidClusterSize, format!("{} has no clusters", chip.arch));
            }
            blocks if blocks > u64::from(most) => {
                let text = format!("a cluster of {cluster:?} blocks, {most} in all are possible");
                return fail(Code::InvalidClusterSize, text);
            }
            _ => {}
        }
        // The parameters are looked at later: here only their number of bytes counts.
        let params = &vec![0; kernel.param_bytes];
        grid::check(
            &Launch { kernel, grid, block, cluster, dynamic_shared, params, cooperative },
            &driver.options,
        )?;
        Ok(self)
    }

    /// The shape that a `CUlaunchConfig` describes, checked.
    pub fn of_config(driver: &Driver, function: &Function, config: &CUlaunchConfig) -> Result<Self> {
        let mut cluster = fixed_cluster(function);
        let mut cooperative = false;
        for CUlaunchAttribute { id, value, .. } in attributes(config)? {
            match id {
                2 => cooperative = value[0] != 0,
                4 => {
                    let asked = [value[0], value[1], value[2]];
                    if cluster.is_some_and(|fixed| fixed != asked) {
                        let text =
                            format!("a cluster of {asked:?} blocks, the function is fixed to {cluster:?}");
                        return Err(Error::new(Code::InvalidClusterSize, text));
                    }
                    cluster = Some(asked);
                }
                7 | 12 | 13 => {
                    let text = format!("launch attribute {id}: events of kernels and device-side updates");
                    return Err(Error::new(Code::NotSupported, text));
                }
                // Hints, and orders that a synchronous device keeps anyway.
                0 | 1 | 3 | 5..=18 => {}
                _ => return Err(Error::new(Code::InvalidValue, format!("launch attribute {id} is unknown"))),
            }
        }
        let cluster = cluster.unwrap_or([1; 3]);
        let (grid, block, dynamic_shared) = (config.grid, config.block, config.sharedMemBytes);
        Shape { grid, block, cluster, dynamic_shared, cooperative }.checked(driver, function)
    }
}

fn attributes(config: &CUlaunchConfig) -> Result<Vec<CUlaunchAttribute>> {
    if config.numAttrs > 64 {
        let text = format!("{} launch attributes", config.numAttrs);
        return Err(Error::new(Code::InvalidValue, text));
    }
    In::from_raw(config.attrs).list(config.numAttrs as usize)
}

/// The cluster that every launch of a function has, if one is fixed.
fn fixed_cluster(function: &Function) -> Option<[u32; 3]> {
    let cluster = *lock(&function.cluster);
    cluster.iter().any(|n| *n > 0).then(|| cluster.map(|n| n.max(1)))
}

/// Where the parameters of a launch stand.
#[derive(Clone, Copy)]
pub(super) struct Arguments {
    pub params: Out<*mut c_void>,
    pub extra: Out<*mut c_void>,
}

impl Arguments {
    /// Copies the parameters into a bank.
    pub fn bank(self, function: &Function) -> Result<Vec<u8>> {
        let kernel = function.kernel();
        let bad =
            |text: String| Err(Error::new(Code::InvalidValue, format!("launch of {}: {text}", kernel.name)));
        let mut bank = vec![0; kernel.param_bytes];
        match (self.params.is_null(), self.extra.is_null()) {
            (false, false) => return bad("parameters are given in two ways".into()),
            (true, true) if kernel.params.is_empty() => {}
            (true, true) => return bad(format!("no parameters are given, it has {}", kernel.params.len())),
            (false, true) => {
                for (index, param) in kernel.params.iter().enumerate() {
                    let from = In::<u8>::from_raw(self.params.at(index)?.cast_const().cast());
                    if from.is_null() {
                        return bad(format!("the pointer to parameter {index} is null"));
                    }
                    if let Some(to) = bank.get_mut(param.offset..param.offset + param.bytes) {
                        to.copy_from_slice(&from.list(param.bytes)?);
                    }
                }
            }
            (true, false) => {
                let (data, size) = self.buffer()?;
                let needed = kernel.params.iter().map(|p| p.offset + p.bytes).max().unwrap_or(0);
                if !(needed..=kernel.param_bytes.next_multiple_of(16)).contains(&size) {
                    return bad(format!("a buffer of {size} bytes of parameters, it needs {needed}"));
                }
                bank[..needed].copy_from_slice(&data.list(needed)?);
            }
        }
        Ok(bank)
    }

    /// `CU_LAUNCH_PARAM_BUFFER_POINTER`, `_SIZE` and `_END`: keys and values in turn.
    fn buffer(self) -> Result<(In<u8>, usize)> {
        let (mut data, mut size) = (In::from_raw(std::ptr::null()), 0);
        for index in (0..8).step_by(2) {
            match self.extra.at(index)?.addr() {
                0 => return Ok((data, size)),
                1 => data = In::from_raw(self.extra.at(index + 1)?.cast_const().cast()),
                2 => size = In::from_raw(self.extra.at(index + 1)?.cast_const().cast()).get()?,
                key => return Err(Error::new(Code::InvalidValue, format!("launch parameter key {key}"))),
            }
        }
        Err(Error::new(Code::InvalidValue, "the list of launch parameters has no end"))
    }
}

fn launch(
    here: &Here,
    function: &Arc<Function>,
    shape: Shape,
    stream: Handle,
    arguments: Arguments,
) -> Result<()> {
    let stream = here.stream(stream)?;
    let home = function.module.context;
    if home != 0 && home != stream.context {
        let text = format!("{} was loaded in another context than the stream's", function.kernel().name);
        return Err(Error::new(Code::InvalidHandle, text));
    }
    let params = arguments.bank(function)?;
    submit(here, &stream, Op::Kernel(Arc::new(Call { function: function.clone(), shape, params })))
}

/// A launch with a grid, a block and shared memory.
pub(super) fn plain(
    driver: &Driver,
    function: &Function,
    (grid, block, dynamic_shared): ([u32; 3], [u32; 3], u32),
    cooperative: bool,
) -> Result<Shape> {
    let cluster = fixed_cluster(function).unwrap_or([1; 3]);
    Shape { grid, block, cluster, dynamic_shared, cooperative }.checked(driver, function)
}

api! {
    fn cuLaunchKernel(
        f: Handle,
        gridDimX: u32,
        gridDimY: u32,
        gridDimZ: u32,
        blockDimX: u32,
        blockDimY: u32,
        blockDimZ: u32,
        sharedMemBytes: u32,
        hStream: Handle,
        kernelParams: Out<*mut c_void>,
        extra: Out<*mut c_void>,
    ) {
        let here = here()?;
        let function = here.driver.functions.get(f)?;
        let dims = ([gridDimX, gridDimY, gridDimZ], [blockDimX, blockDimY, blockDimZ], sharedMemBytes);
        let shape = plain(here.driver, &function, dims, false)?;
        launch(&here, &function, shape, hStream, Arguments { params: kernelParams, extra })
    }

    fn cuLaunchCooperativeKernel(
        f: Handle,
        gridDimX: u32,
        gridDimY: u32,
        gridDimZ: u32,
        blockDimX: u32,
        blockDimY: u32,
        blockDimZ: u32,
        sharedMemBytes: u32,
        hStream: Handle,
        kernelParams: Out<*mut c_void>,
    ) {
        let here = here()?;
        let function = here.driver.functions.get(f)?;
        let dims = ([gridDimX, gridDimY, gridDimZ], [blockDimX, blockDimY, blockDimZ], sharedMemBytes);
        let shape = plain(here.driver, &function, dims, true)?;
        let arguments = Arguments { params: kernelParams, extra: Out::from_raw(std::ptr::null_mut()) };
        launch(&here, &function, shape, hStream, arguments)
    }

    /// Programmatic stream serialisation needs nothing here, because work is done when a call returns.
    fn cuLaunchKernelEx(
        config: In<CUlaunchConfig>, f: Handle, kernelParams: Out<*mut c_void>, extra: Out<*mut c_void>,
    ) {
        let (here, config) = (here()?, config.get()?);
        let function = here.driver.functions.get(f)?;
        let shape = Shape::of_config(here.driver, &function, &config)?;
        launch(&here, &function, shape, config.hStream, Arguments { params: kernelParams, extra })
    }
}
