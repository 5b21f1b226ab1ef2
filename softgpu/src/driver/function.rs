//! Attributes of functions. A `CUkernel` is a `CUfunction` here: both name a kernel of a loaded program.

use std::ffi::c_char;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::abi::{Handle, Out};
use super::call::api;
use super::module::Function;
use super::state::{Driver, device, driver, handle, lock};
use crate::{Code, Error, Result};

impl Function {
    /// Most threads of a block.
    pub fn max_threads(&self) -> u32 {
        let kernel = self.kernel();
        let required = kernel.required_threads.map(|t| t.iter().fold(1, |n: u32, x| n.saturating_mul(*x)));
        required.or(kernel.max_threads).unwrap_or(1024).min(1024)
    }
}

fn attribute(driver: &Driver, function: &Function, number: u32) -> Result<i32> {
    let (kernel, cluster) = (function.kernel(), *lock(&function.cluster));
    Ok(match number {
        0 => function.max_threads() as i32,
        1 => kernel.static_shared as i32,
        2 | 7 => 0, // constants of a function of its own, cache mode of the compiler
        3 => kernel.local_bytes as i32,
        4 => kernel.registers as i32,
        5 => function.module.program.target as i32,
        6 => driver.options.chip.capability as i32,
        8 => function.dynamic_shared.load(Relaxed) as i32,
        9 => function.carveout.load(Relaxed),
        10 => kernel.cluster.is_some().into(),
        11..=13 => cluster.get(number as usize - 11).copied().unwrap_or(0) as i32,
        14 => function.large_clusters.load(Relaxed).into(),
        15 => function.cluster_policy.load(Relaxed),
        _ => return Err(Error::new(Code::InvalidValue, format!("function attribute {number} is unknown"))),
    })
}

fn set_attribute(driver: &Driver, function: &Function, number: u32, value: i32) -> Result<()> {
    let kernel = function.kernel();
    let bad = |why: &str| {
        let text = format!("function attribute {number} of {} cannot be {value}: {why}", kernel.name);
        Err(Error::new(Code::InvalidValue, text))
    };
    match number {
        8 => {
            let optin = driver.options.chip.shared_per_block_optin;
            let most = optin.saturating_sub(kernel.static_shared as u32);
            match u32::try_from(value) {
                Ok(bytes) if bytes <= most => function.dynamic_shared.store(bytes, Relaxed),
                _ => return bad(&format!("{most} bytes of dynamic shared memory are left of {optin}")),
            }
        }
        9 if (-1..=100).contains(&value) => function.carveout.store(value, Relaxed),
        9 => return bad("a carveout is -1 or a percentage"),
        11..=13 if kernel.cluster.is_some() => return bad("the kernel fixes its cluster"),
        11..=13 => match (u32::try_from(value), lock(&function.cluster).get_mut(number as usize - 11)) {
            (Ok(blocks), Some(place)) if blocks <= 16 => *place = blocks,
            _ => return bad("a cluster has at most 16 blocks"),
        },
        14 => function.large_clusters.store(value != 0, Relaxed),
        15 if (0..=2).contains(&value) => function.cluster_policy.store(value, Relaxed),
        _ => return bad("it is unknown, read only or out of range"),
    }
    Ok(())
}

fn known(handle: Handle) -> Result<(&'static Driver, Arc<Function>)> {
    let driver = driver()?;
    Ok((driver, driver.functions.get(handle)?))
}

fn parameter(function: &Function, index: usize, offset: Out<usize>, size: Out<usize>) -> Result<()> {
    let params = &function.kernel().params;
    let missing = || {
        let text = format!("parameter {index} of {}, which has {}", function.kernel().name, params.len());
        Error::new(Code::InvalidValue, text)
    };
    let param = params.get(index).ok_or_else(missing)?;
    offset.set(param.offset)?;
    size.set_if(param.bytes);
    Ok(())
}

fn cache(config: u32) -> Result<()> {
    match config {
        0..=3 => Ok(()), // a hint
        _ => Err(Error::new(Code::InvalidValue, format!("cache configuration {config}"))),
    }
}

api! {
    /// The number of registers is an estimate: the assembler of a real driver decides it.
    fn cuFuncGetAttribute(pi: Out<i32>, attrib: u32, hfunc: Handle) {
        let (driver, function) = known(hfunc)?;
        pi.set(attribute(driver, &function, attrib)?)
    }

    fn cuFuncSetAttribute(hfunc: Handle, attrib: u32, value: i32) {
        let (driver, function) = known(hfunc)?;
        set_attribute(driver, &function, attrib, value)
    }

    fn cuFuncSetCacheConfig(hfunc: Handle, config: u32) {
        known(hfunc)?;
        cache(config)
    }

    fn cuFuncSetSharedMemConfig(hfunc: Handle, config: u32) {
        known(hfunc)?;
        match config {
            0..=2 => Ok(()), // a hint without effect since sm_50
            _ => Err(Error::new(Code::InvalidValue, format!("shared memory configuration {config}"))),
        }
    }

    fn cuFuncGetName(name: Out<*const c_char>, hfunc: Handle) {
        name.set(known(hfunc)?.1.name.as_ptr())
    }

    fn cuFuncGetModule(hmod: Out<Handle>, hfunc: Handle) {
        hmod.set(handle(known(hfunc)?.1.module.handle))
    }

    fn cuFuncGetParamInfo(func: Handle, paramIndex: usize, paramOffset: Out<usize>, paramSize: Out<usize>) {
        parameter(&known(func)?.1, paramIndex, paramOffset, paramSize)
    }

    fn cuFuncGetParamCount(func: Handle, paramCount: Out<usize>) {
        paramCount.set(known(func)?.1.kernel().params.len())
    }

    fn cuFuncIsLoaded(state: Out<u32>, function: Handle) {
        known(function)?;
        state.set(1)
    }

    fn cuFuncLoad(function: Handle) {
        known(function).map(drop)
    }

    fn cuKernelGetFunction(pFunc: Out<Handle>, kernel: Handle) {
        super::state::here()?;
        pFunc.set(handle(known(kernel)?.1.handle))
    }

    fn cuKernelGetLibrary(pLib: Out<Handle>, kernel: Handle) {
        pLib.set(handle(known(kernel)?.1.module.handle))
    }

    fn cuKernelGetName(name: Out<*const c_char>, hfunc: Handle) {
        name.set(known(hfunc)?.1.name.as_ptr())
    }

    fn cuKernelGetAttribute(pi: Out<i32>, attrib: u32, kernel: Handle, dev: i32) {
        let driver = device(dev)?;
        pi.set(attribute(driver, &known(kernel)?.1, attrib)?)
    }

    fn cuKernelSetAttribute(attrib: u32, val: i32, kernel: Handle, dev: i32) {
        let driver = device(dev)?;
        set_attribute(driver, &known(kernel)?.1, attrib, val)
    }

    fn cuKernelSetCacheConfig(kernel: Handle, config: u32, dev: i32) {
        device(dev)?;
        known(kernel)?;
        cache(config)
    }

    fn cuKernelGetParamInfo(kernel: Handle, paramIndex: usize, paramOffset: Out<usize>, paramSize: Out<usize>) {
        parameter(&known(kernel)?.1, paramIndex, paramOffset, paramSize)
    }

    fn cuKernelGetParamCount(kernel: Handle, paramCount: Out<usize>) {
        paramCount.set(known(kernel)?.1.kernel().params.len())
    }
}
