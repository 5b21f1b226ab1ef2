//! Modules, libraries and the functions in them.

use std::ffi::{CString, c_void};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Instant;

use super::abi::{CUdeviceptr, Handle, In, Out, Text};
use super::call::api;
use super::state::{Driver, driver, handle, here};
use crate::program::{Kernel, Program};
use crate::{Code, Error, Result, image};

/// A loaded module, of a context (`cuModule*`) or of none (`cuLibrary*`).
pub(super) struct Module {
    driver: &'static Driver,
    pub handle: usize,
    /// Handle of its context; 0 for a library.
    pub context: usize,
    pub program: Program,
    functions: OnceLock<Vec<usize>>,
}

impl Drop for Module {
    fn drop(&mut self) {
        for (_, address, _) in &self.program.variables {
            // Nobody else can free them: they are in no table of owners.
            let _ = self.driver.memory.free(*address);
        }
    }
}

/// A kernel of a module, with what was set for it.
pub(super) struct Function {
    pub handle: usize,
    pub module: Arc<Module>,
    index: usize,
    pub name: CString,
    /// Most dynamic shared memory that a launch may ask for.
    pub dynamic_shared: AtomicU32,
    pub carveout: AtomicI32,
    /// Cluster that every launch must have; 0: not set.
    pub cluster: Mutex<[u32; 3]>,
    pub large_clusters: AtomicBool,
    pub cluster_policy: AtomicI32,
}

impl Function {
    /// What it runs.
    pub fn kernel(&self) -> &Kernel {
        // In bounds: made from an index into the same program, which never changes.
        &self.module.program.kernels[self.index]
    }

    fn new(handle: usize, module: &Arc<Module>, index: usize, kernel: &Kernel, most: u32) -> Self {
        Self {
            handle,
            module: module.clone(),
            index,
            name: CString::new(kernel.name.replace('\0', "")).unwrap_or_default(),
            dynamic_shared: most.saturating_sub(kernel.static_shared as u32).into(),
            carveout: (-1).into(),
            cluster: kernel.cluster.unwrap_or([0; 3]).into(),
            large_clusters: false.into(),
            cluster_policy: 0.into(),
        }
    }
}

impl Module {
    /// Handles of its functions, in order of the text.
    fn functions(&self) -> &[usize] {
        self.functions.get().map_or(&[], Vec::as_slice)
    }

    fn function(&self, name: &str) -> Result<usize> {
        self.program.kernel(name)?;
        let index = self.program.kernels.iter().position(|k| k.name == name);
        let found = index.and_then(|index| self.functions().get(index)).copied();
        found.ok_or_else(|| Error::new(Code::NotFound, format!("no kernel is called {name}")))
    }

    fn variable(&self, name: &str) -> Result<(u64, usize)> {
        let found = self.program.variables.iter().find(|(n, ..)| n == name);
        let known = || self.program.variables.iter().map(|(n, ..)| n.as_str()).collect::<Vec<_>>().join(", ");
        let unknown =
            || Error::new(Code::NotFound, format!("no variable is called {name}; there are: {}", known()));
        found.map(|(_, address, bytes)| (*address, *bytes)).ok_or_else(unknown)
    }

    fn unload(&self) {
        self.driver.functions.retain(|f| f.module.handle != self.handle);
    }
}

fn load(driver: &'static Driver, context: usize, text: &str) -> Result<Arc<Module>> {
    driver.faults.alive()?;
    let program = Program::load(text, &driver.memory, &driver.options)?;
    let table = if context == 0 { &driver.libraries } else { &driver.modules };
    let functions = OnceLock::new();
    let module = table.add(|handle| Module { driver, handle, context, program, functions });
    let most = driver.options.chip.shared_per_block;
    let handles = module.program.kernels.iter().enumerate().map(|(index, kernel)| {
        driver.functions.add(|handle| Function::new(handle, &module, index, kernel, most)).handle
    });
    let _ = module.functions.set(handles.collect());
    Ok(module)
}

fn text_of(driver: &Driver, image: *const c_void) -> Result<String> {
    // SAFETY: the caller gave an image, complete and readable, or null.
    unsafe { image::from_pointer(image, driver.options.chip.capability) }
}

fn text_in(driver: &Driver, file: &Text) -> Result<String> {
    let path = file.get()?;
    let unread = |e: std::io::Error| Error::new(Code::FileNotFound, format!("{path} cannot be read: {e}"));
    image::read(&std::fs::read(&path).map_err(unread)?, driver.options.chip.capability)
}

fn load_here(out: Out<Handle>, read: impl FnOnce(&Driver) -> Result<String>) -> Result<()> {
    out.required()?;
    let here = here()?;
    out.set(handle(load(here.driver, here.context.handle, &read(here.driver)?)?.handle))
}

/// Options of the loader that are looked at, by their numbers in `CUjit_option`.
struct Options {
    keys: Vec<u32>,
    values: Out<*mut c_void>,
}

impl Options {
    fn new(keys: In<u32>, values: Out<*mut c_void>, count: u32) -> Result<Self> {
        let keys = keys.list(count as usize)?;
        match keys.iter().find(|key| **key > 35) {
            Some(key) => Err(Error::new(Code::InvalidValue, format!("loader option {key} is unknown"))),
            None => Ok(Self { keys, values }),
        }
    }

    fn value(&self, key: u32) -> Option<(usize, *mut c_void)> {
        let index = self.keys.iter().position(|k| *k == key)?;
        self.values.at(index).ok().map(|value| (index, value))
    }

    /// Writes `text` into the buffer of option `buffer` and its length into the option after it.
    fn say(&self, buffer: u32, text: &str) {
        if let (Some((_, data)), Some((index, size))) = (self.value(buffer), self.value(buffer + 1)) {
            let room = size.addr();
            let length = text.len().min(room.saturating_sub(1));
            if room > 0 && Out::from_raw(data).text(text, room).is_ok() {
                self.values.put_at(index, handle(length));
            }
        }
    }

    /// Loads with the time and the log that the options ask for.
    fn load(&self, load: impl FnOnce() -> Result<()>) -> Result<()> {
        let start = Instant::now();
        let result = load();
        self.say(3, "");
        self.say(5, result.as_ref().err().map_or("", |e| e.text.as_str()));
        if let Some((index, _)) = self.value(2) {
            // A float of milliseconds in the low half of the value.
            let milliseconds = (start.elapsed().as_secs_f64() * 1e3) as f32;
            self.values.put_at(index, handle(milliseconds.to_bits() as usize));
        }
        result
    }
}

fn library(out: Out<Handle>, read: impl FnOnce(&Driver) -> Result<String>) -> Result<()> {
    out.required()?;
    let driver = driver()?;
    out.set(handle(load(driver, 0, &read(driver)?)?.handle))
}

fn named(module: &Module, name: &Text, address: Out<CUdeviceptr>, bytes: Out<usize>) -> Result<()> {
    let (at, size) = module.variable(&name.get()?)?;
    address.set_if(at);
    bytes.set_if(size);
    Ok(())
}

/// The module of a handle; that of a library serves as one in every context.
fn module(handle: Handle) -> Result<Arc<Module>> {
    let driver = here()?.driver;
    driver.libraries.get(handle).or_else(|_| driver.modules.get(handle))
}

fn list(out: Out<Handle>, room: u32, module: &Module) -> Result<()> {
    out.required()?.fill(module.functions().iter().map(|f| handle(*f)), room as usize);
    Ok(())
}

api! {
    fn cuModuleLoadData(module: Out<Handle>, image: *const c_void) {
        load_here(module, |driver| text_of(driver, image))
    }

    fn cuModuleLoadDataEx(
        module: Out<Handle>, image: *const c_void, numOptions: u32, options: In<u32>, optionValues: Out<*mut c_void>,
    ) {
        let options = Options::new(options, optionValues, numOptions)?;
        options.load(|| load_here(module, |driver| text_of(driver, image)))
    }

    fn cuModuleLoadFatBinary(module: Out<Handle>, fatCubin: *const c_void) {
        load_here(module, |driver| text_of(driver, fatCubin))
    }

    fn cuModuleLoad(module: Out<Handle>, fname: Text) {
        load_here(module, |driver| text_in(driver, &fname))
    }

    fn cuModuleUnload(hmod: Handle) {
        here()?.driver.modules.remove(hmod)?.unload();
        Ok(())
    }

    fn cuModuleGetLoadingMode(mode: Out<u32>) {
        driver()?;
        mode.set(1) // eager
    }

    fn cuModuleGetFunction(hfunc: Out<Handle>, hmod: Handle, name: Text) {
        hfunc.required()?;
        hfunc.set(handle(module(hmod)?.function(&name.get()?)?))
    }

    fn cuModuleGetFunctionCount(count: Out<u32>, hmod: Handle) {
        count.set(module(hmod)?.functions().len() as u32)
    }

    fn cuModuleEnumerateFunctions(functions: Out<Handle>, numFunctions: u32, hmod: Handle) {
        list(functions, numFunctions, &*module(hmod)?)
    }

    fn cuModuleGetGlobal_v2(dptr: Out<CUdeviceptr>, bytes: Out<usize>, hmod: Handle, name: Text) {
        named(&*module(hmod)?, &name, dptr, bytes)
    }

    fn cuLibraryLoadData(
        library: Out<Handle>,
        code: *const c_void,
        jitOptions: In<u32>,
        jitOptionsValues: Out<*mut c_void>,
        numJitOptions: u32,
        libraryOptions: *const c_void,
        libraryOptionValues: *const c_void,
        numLibraryOptions: u32,
    ) {
        let _ = (libraryOptions, libraryOptionValues, numLibraryOptions); // hints
        let options = Options::new(jitOptions, jitOptionsValues, numJitOptions)?;
        options.load(|| self::library(library, |driver| text_of(driver, code)))
    }

    fn cuLibraryLoadFromFile(
        library: Out<Handle>,
        fileName: Text,
        jitOptions: In<u32>,
        jitOptionsValues: Out<*mut c_void>,
        numJitOptions: u32,
        libraryOptions: *const c_void,
        libraryOptionValues: *const c_void,
        numLibraryOptions: u32,
    ) {
        let _ = (libraryOptions, libraryOptionValues, numLibraryOptions); // hints
        let options = Options::new(jitOptions, jitOptionsValues, numJitOptions)?;
        options.load(|| self::library(library, |driver| text_in(driver, &fileName)))
    }

    fn cuLibraryUnload(library: Handle) {
        driver()?.libraries.remove(library)?.unload();
        Ok(())
    }

    fn cuLibraryGetKernel(pKernel: Out<Handle>, library: Handle, name: Text) {
        pKernel.required()?;
        pKernel.set(handle(driver()?.libraries.get(library)?.function(&name.get()?)?))
    }

    fn cuLibraryGetKernelCount(count: Out<u32>, lib: Handle) {
        count.set(driver()?.libraries.get(lib)?.functions().len() as u32)
    }

    fn cuLibraryEnumerateKernels(kernels: Out<Handle>, numKernels: u32, lib: Handle) {
        list(kernels, numKernels, &*driver()?.libraries.get(lib)?)
    }

    fn cuLibraryGetModule(pMod: Out<Handle>, library: Handle) {
        pMod.set(handle(here()?.driver.libraries.get(library)?.handle))
    }

    fn cuLibraryGetGlobal(dptr: Out<CUdeviceptr>, bytes: Out<usize>, library: Handle, name: Text) {
        named(&*here()?.driver.libraries.get(library)?, &name, dptr, bytes)
    }
}
