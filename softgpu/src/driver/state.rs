//! The one driver of the process: its objects, and what is current on a thread.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ptr::without_provenance_mut;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, RwLock};

use super::abi::Handle;
use super::capture::Capture;
use super::context::Context;
use super::event::Event;
use super::fault::Faults;
use super::graph::{Exec, Graph, Node};
use super::module::{Function, Module};
use super::owner::Owners;
use super::pool::Pool;
use super::stats::Stats;
use super::stream::Stream;
use crate::machine::memory::Memory;
use crate::options::Options;
use crate::{Code, Error, Result};

/// Locks; a panic elsewhere does not make the data unusable, it was reported where it happened.
pub(super) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

/// Live objects of one kind by their handles. A handle is a number that is never given twice, so that a stale
/// one, or one of another kind, is always noticed.
pub(super) struct Table<T> {
    kind: &'static str,
    code: Code,
    live: RwLock<BTreeMap<usize, Arc<T>>>,
}

/// Handles start here, where nothing is mapped, so that a program that follows one is stopped by the system.
static NEXT: AtomicUsize = AtomicUsize::new(0x10_0000_0000_0000);

impl<T> Table<T> {
    fn new(kind: &'static str, code: Code) -> Self {
        Self { kind, code, live: RwLock::default() }
    }

    /// Adds the object that `make` builds for its handle.
    pub fn add(&self, make: impl FnOnce(usize) -> T) -> Arc<T> {
        let handle = NEXT.fetch_add(16, Relaxed);
        let object = Arc::new(make(handle));
        self.write().insert(handle, object.clone());
        object
    }

    /// The object of a handle.
    pub fn get(&self, handle: Handle) -> Result<Arc<T>> {
        let found = self.live.read().unwrap_or_else(|e| e.into_inner()).get(&handle.addr()).cloned();
        found.ok_or_else(|| self.unknown(handle))
    }

    /// Takes the object of a handle out.
    pub fn remove(&self, handle: Handle) -> Result<Arc<T>> {
        self.write().remove(&handle.addr()).ok_or_else(|| self.unknown(handle))
    }

    /// Keeps the objects for which `keep` holds.
    pub fn retain(&self, keep: impl Fn(&T) -> bool) {
        // Dropped after the lock is released: an object may own others.
        let mut gone = Vec::new();
        self.write().retain(|_, object| {
            let kept = keep(object);
            if !kept {
                gone.push(object.clone());
            }
            kept
        });
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, BTreeMap<usize, Arc<T>>> {
        self.live.write().unwrap_or_else(|e| e.into_inner())
    }

    fn unknown(&self, handle: Handle) -> Error {
        let Self { kind, code, .. } = self;
        let text = match handle.is_null() {
            true => format!("the {kind} is null"),
            false => format!("{handle:p} is no {kind}: never made, destroyed, or of another kind"),
        };
        Error::new(*code, text)
    }
}

/// A handle as C sees it.
pub(super) fn handle(number: usize) -> Handle {
    without_provenance_mut(number)
}

/// The driver of the process.
pub(super) struct Driver {
    pub options: Options,
    pub memory: Memory,
    pub owners: Owners,
    pub contexts: Table<Context>,
    pub streams: Table<Stream>,
    pub events: Table<Event>,
    pub modules: Table<Module>,
    pub libraries: Table<Module>,
    pub functions: Table<Function>,
    pub pools: Table<Pool>,
    pub graphs: Table<Graph>,
    pub nodes: Table<Node>,
    pub execs: Table<Exec>,
    /// The primary context and how often it is retained.
    pub primary: Mutex<(Option<Arc<Context>>, usize)>,
    /// The pool that the device allocates from.
    pub default_pool: OnceLock<Arc<Pool>>,
    pub current_pool: Mutex<Option<Arc<Pool>>>,
    pub captures: Mutex<Vec<std::sync::Weak<Capture>>>,
    /// Held while the device works: one thing at a time, so that what one thread launches after another is
    /// ordered, and memory of the host is not given back under a running kernel.
    pub engine: Mutex<()>,
    pub faults: Faults,
    pub stats: Stats,
}

static DRIVER: OnceLock<Driver> = OnceLock::new();

/// Reads the environment and makes the device; once.
pub(super) fn initialise() -> Result<()> {
    static ONCE: Mutex<()> = Mutex::new(());
    let _once = lock(&ONCE);
    if DRIVER.get().is_some() {
        return Ok(());
    }
    let options = Options::from_env()?;
    let driver = Driver {
        memory: Memory::new(options.chip.memory_bytes),
        owners: Owners::default(),
        contexts: Table::new("context", Code::InvalidContext),
        streams: Table::new("stream", Code::InvalidHandle),
        events: Table::new("event", Code::InvalidHandle),
        modules: Table::new("module", Code::InvalidHandle),
        libraries: Table::new("library", Code::InvalidHandle),
        functions: Table::new("function", Code::InvalidHandle),
        pools: Table::new("memory pool", Code::InvalidValue),
        graphs: Table::new("graph", Code::InvalidValue),
        nodes: Table::new("graph node", Code::InvalidValue),
        execs: Table::new("executable graph", Code::InvalidValue),
        primary: Mutex::default(),
        default_pool: OnceLock::new(),
        current_pool: Mutex::default(),
        captures: Mutex::default(),
        engine: Mutex::default(),
        faults: Faults::from_env()?,
        stats: Stats::from_env()?,
        options,
    };
    let pool = driver.pools.add(|handle| Pool::new(handle, true));
    let _ = driver.default_pool.set(pool);
    let _ = DRIVER.set(driver);
    Ok(())
}

/// The driver, once `cuInit` was called.
pub(super) fn driver() -> Result<&'static Driver> {
    DRIVER.get().ok_or_else(|| Error::new(Code::NotInitialized, "cuInit was not called"))
}

/// The driver if `dev` is its device.
pub(super) fn device(dev: i32) -> Result<&'static Driver> {
    let driver = driver()?;
    match dev {
        0 => Ok(driver),
        _ => Err(Error::new(Code::InvalidDevice, format!("device {dev} of 1"))),
    }
}

thread_local! {
    /// The contexts pushed on this thread, the current one last.
    static CURRENT: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
}

/// Looks at or changes the contexts of this thread. A thread that is ending has none.
pub(super) fn with_stack<T: Default>(f: impl FnOnce(&mut Vec<usize>) -> T) -> T {
    CURRENT.try_with(|stack| f(&mut stack.borrow_mut())).unwrap_or_default()
}

/// The driver and the current context.
#[derive(Clone)]
pub(super) struct Here {
    pub driver: &'static Driver,
    pub context: Arc<Context>,
}

/// What is current on this thread, whether or not it has failed.
pub(super) fn even_failed() -> Result<Here> {
    let driver = driver()?;
    let top = with_stack(|stack| stack.last().copied());
    let top = top.ok_or_else(|| Error::new(Code::InvalidContext, "no context is current on this thread"))?;
    let gone = |_| Error::new(Code::ContextIsDestroyed, "the current context was destroyed");
    Ok(Here { driver, context: driver.contexts.get(handle(top)).map_err(gone)? })
}

/// What is current on this thread; a context that has failed stays failed and says so here.
pub(super) fn here() -> Result<Here> {
    let here = even_failed()?;
    here.driver.faults.alive()?;
    here.context.healthy()?;
    Ok(here)
}
