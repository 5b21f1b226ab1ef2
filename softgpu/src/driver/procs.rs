//! Functions by name, and the profiler.

use std::ffi::c_void;
use std::sync::LazyLock;

use super::abi::{Out, Text};
use super::call::api;
use super::state::driver;
use super::*;
use crate::{Code, Error, Result};

/// Functions whose plain name stands for something else than version 2: name, first CUDA version, symbol.
/// Later rows win.
const VERSIONS: &[(&str, i32, &str)] = &[
    ("cuStreamGetCaptureInfo", 10010, "cuStreamGetCaptureInfo"),
    ("cuStreamGetCaptureInfo", 11030, "cuStreamGetCaptureInfo_v2"),
    ("cuStreamGetCaptureInfo", 13000, "cuStreamGetCaptureInfo_v3"),
    ("cuGraphInstantiate", 11000, "cuGraphInstantiate_v2"),
    ("cuGraphInstantiate", 12000, "cuGraphInstantiateWithFlags"),
    ("cuGraphExecUpdate", 10020, "cuGraphExecUpdate"),
    ("cuGraphExecUpdate", 12000, "cuGraphExecUpdate_v2"),
    ("cuGraphAddKernelNode", 10000, "cuGraphAddKernelNode"),
    ("cuGraphAddKernelNode", 12000, "cuGraphAddKernelNode_v2"),
    ("cuGraphKernelNodeGetParams", 10000, "cuGraphKernelNodeGetParams"),
    ("cuGraphKernelNodeGetParams", 12000, "cuGraphKernelNodeGetParams_v2"),
    ("cuGraphKernelNodeSetParams", 10000, "cuGraphKernelNodeSetParams"),
    ("cuGraphKernelNodeSetParams", 12000, "cuGraphKernelNodeSetParams_v2"),
    ("cuGraphExecKernelNodeSetParams", 10000, "cuGraphExecKernelNodeSetParams"),
    ("cuGraphExecKernelNodeSetParams", 12000, "cuGraphExecKernelNodeSetParams_v2"),
    ("cuMemPrefetchAsync", 8000, "cuMemPrefetchAsync"),
    ("cuMemPrefetchAsync", 13000, "cuMemPrefetchAsync_v2"),
    ("cuMemAdvise", 8000, "cuMemAdvise"),
    ("cuMemAdvise", 13000, "cuMemAdvise_v2"),
    ("cuCtxSynchronize", 2000, "cuCtxSynchronize"),
    ("cuCtxGetDevice", 2000, "cuCtxGetDevice"),
    ("cuCtxCreate", 3020, "cuCtxCreate_v2"),
    ("cuCtxCreate", 11040, "cuCtxCreate_v3"),
    ("cuCtxCreate", 12050, "cuCtxCreate_v4"),
    ("cuGetProcAddress", 11030, "cuGetProcAddress"),
    ("cuGetProcAddress", 12000, "cuGetProcAddress_v2"),
];

/// Every function, by its symbol.
static TABLE: LazyLock<Vec<(&'static str, usize)>> = LazyLock::new(|| {
    let files = [
        capture::entries(),
        context::entries(),
        copy::entries(),
        device::entries(),
        errors::entries(),
        event::entries(),
        function::entries(),
        graph::entries(),
        graph_nodes::entries(),
        launch::entries(),
        memory::entries(),
        module::entries(),
        occupancy::entries(),
        pool::entries(),
        entries(),
        stream::entries(),
        tensor_map::entries(),
    ];
    files.concat().into_iter().map(|(name, address)| (name, address as usize)).collect()
});

/// The function that `name` means to a program built for CUDA version `version`.
fn lookup(name: &str, version: i32) -> Option<*mut c_void> {
    let symbol = |symbol: &str| TABLE.iter().find(|row| row.0 == symbol).map(|row| row.1 as *mut c_void);
    let versioned = VERSIONS.iter().rev().filter(|row| row.0 == name).collect::<Vec<_>>();
    match versioned.iter().find(|row| row.1 <= version) {
        Some(row) => symbol(row.2),
        None if !versioned.is_empty() => None,
        None => symbol(&format!("{name}_v2")).or_else(|| symbol(name)),
    }
}

fn find(name: &Text, version: i32, out: Out<*mut c_void>, status: Out<u32>) -> Result<()> {
    out.required()?.set_if(std::ptr::null_mut());
    let name = name.get()?;
    let found = lookup(&name, version);
    status.set_if(u32::from(found.is_none())); // CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND
    let missing = || Error::new(Code::NotFound, format!("this driver has no {name} for CUDA {version}"));
    out.set(found.ok_or_else(missing)?)
}

api! {
    fn cuGetProcAddress(symbol: Text, pfn: Out<*mut c_void>, cudaVersion: i32, flags: u64) {
        let _ = flags; // per-thread default streams are the same functions here
        find(&symbol, cudaVersion, pfn, Out::from_raw(std::ptr::null_mut()))
    }

    fn cuGetProcAddress_v2(
        symbol: Text, pfn: Out<*mut c_void>, cudaVersion: i32, flags: u64, symbolStatus: Out<u32>,
    ) {
        let _ = flags; // as above
        find(&symbol, cudaVersion, pfn, symbolStatus)
    }

    /// There are no export tables: those are private between parts of NVIDIA's own software.
    fn cuGetExportTable(ppExportTable: Out<*const c_void>, pExportTableId: *const c_void) {
        let _ = pExportTableId;
        ppExportTable.set(std::ptr::null())?;
        Err(Error::new(Code::NotFound, "this driver has no export tables"))
    }

    fn cuProfilerStart() {
        driver().map(drop)
    }

    fn cuProfilerStop() {
        driver().map(drop)
    }
}
