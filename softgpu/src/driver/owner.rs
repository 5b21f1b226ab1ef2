//! Who owns which allocation of device memory, and the storage of memory that the host sees too.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::collections::BTreeMap;
use std::sync::Mutex;

use super::state::{Driver, lock};
use crate::{Code, Error, Result};

/// What kind of memory it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Of `cuMemAlloc`.
    Device,
    /// Of a pool, by its handle.
    Pool(usize),
    /// Of an allocation node of a graph.
    Graph,
    /// Of `cuMemAllocManaged`.
    Managed,
    /// Of `cuMemHostAlloc`, with its flags.
    Pinned(u32),
    /// Of `cuMemHostRegister`, with its flags: the storage is the caller's.
    Registered(u32),
}

impl Kind {
    /// Whether the host can follow its address.
    pub fn on_host(self) -> bool {
        matches!(self, Kind::Managed | Kind::Pinned(_) | Kind::Registered(_))
    }
}

/// A record of an allocation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Owned {
    /// Handle of its context.
    pub context: usize,
    pub bytes: usize,
    pub kind: Kind,
}

/// Every allocation that a program made, by its address.
#[derive(Default)]
pub(super) struct Owners(Mutex<BTreeMap<u64, Owned>>);

/// Page-aligned, as the system's own pinned memory is.
fn layout(bytes: usize) -> Result<Layout> {
    let error =
        |_| Error::new(Code::OutOfMemory, format!("{bytes} bytes are more than the host can address"));
    Layout::from_size_align(bytes, 4096).map_err(error)
}

impl Owners {
    /// Takes device memory for `context`.
    pub fn allocate(&self, driver: &Driver, context: usize, bytes: usize, kind: Kind) -> Result<u64> {
        driver.faults.allocation()?;
        let address = driver.memory.allocate(bytes)?;
        lock(&self.0).insert(address, Owned { context, bytes, kind });
        Ok(address)
    }

    /// Takes memory that host and device see under one address.
    pub fn allocate_host(&self, driver: &Driver, context: usize, bytes: usize, kind: Kind) -> Result<u64> {
        driver.faults.allocation()?;
        if bytes == 0 {
            return Err(Error::new(Code::InvalidValue, "an allocation of 0 bytes"));
        }
        let layout = layout(bytes)?;
        // SAFETY: the layout is not empty.
        let host = unsafe { alloc_zeroed(layout) };
        if host.is_null() {
            return Err(Error::new(Code::OutOfMemory, format!("the host has no {bytes} bytes")));
        }
        // SAFETY: the storage is given back by `give_back` only, after `Memory::free`.
        unsafe { driver.memory.register(host, bytes) };
        lock(&self.0).insert(host as u64, Owned { context, bytes, kind });
        Ok(host as u64)
    }

    /// Makes memory of the caller visible to the device.
    pub fn register(
        &self,
        driver: &Driver,
        context: usize,
        host: *mut u8,
        bytes: usize,
        flags: u32,
    ) -> Result<()> {
        let (start, end) = (host as u64, (host as u64).checked_add(bytes as u64));
        let (1.., 1.., Some(end)) = (start, bytes, end) else {
            let text = format!("{bytes} bytes at {host:p} cannot be registered");
            return Err(Error::new(Code::InvalidValue, text));
        };
        let mut owners = lock(&self.0);
        if let Some((at, old)) =
            owners.range(..end).next_back().filter(|(at, old)| *at + old.bytes as u64 > start)
        {
            let text = format!("{bytes} bytes at {host:p} overlap {} bytes at {at:#x}", old.bytes);
            return Err(Error::new(Code::HostMemoryAlreadyRegistered, text));
        }
        // SAFETY: the caller of `cuMemHostRegister` keeps the memory until `cuMemHostUnregister`.
        unsafe { driver.memory.register(host, bytes) };
        owners.insert(start, Owned { context, bytes, kind: Kind::Registered(flags) });
        Ok(())
    }

    /// The record of an allocation by its first address.
    pub fn get(&self, address: u64) -> Option<Owned> {
        lock(&self.0).get(&address).copied()
    }

    /// The allocation that holds `address`, and its first address.
    pub fn holding(&self, address: u64) -> Option<(u64, Owned)> {
        let owners = lock(&self.0);
        let (at, owned) = owners.range(..=address).next_back()?;
        (address - at < owned.bytes as u64).then_some((*at, *owned))
    }

    /// Gives back the allocation that starts at `address` if it is of a kind that `fits`.
    pub fn free(&self, driver: &Driver, address: u64, fits: impl Fn(Kind) -> bool) -> Result<Owned> {
        let mut owners = lock(&self.0);
        let owned = match owners.get(&address) {
            Some(owned) if fits(owned.kind) => *owned,
            Some(owned) => {
                let text = format!("{address:#x} is {:?} memory, which another function frees", owned.kind);
                return Err(Error::new(Code::InvalidValue, text));
            }
            None => {
                let text = format!("free of {address:#x}: {}", driver.memory.describe(address));
                return Err(Error::new(Code::InvalidValue, text));
            }
        };
        owners.remove(&address);
        drop(owners);
        give_back(driver, address, &owned)?;
        Ok(owned)
    }

    /// Gives back everything of a context.
    pub fn free_all_of(&self, driver: &Driver, context: usize) {
        let mut gone = Vec::new();
        lock(&self.0).retain(|address, owned| {
            let keep = owned.context != context;
            if !keep {
                gone.push((*address, *owned));
            }
            keep
        });
        for (address, owned) in gone {
            // Each was in the table, so that memory knows it.
            let _ = give_back(driver, address, &owned);
        }
    }
}

fn give_back(driver: &Driver, address: u64, owned: &Owned) -> Result<()> {
    if !owned.kind.on_host() {
        if let Kind::Pool(pool) = owned.kind
            && let Ok(pool) = driver.pools.get(super::state::handle(pool))
        {
            pool.returned(owned.bytes);
        }
        return driver.memory.free(address);
    }
    // A kernel that runs may hold the storage.
    let _engine = lock(&driver.engine);
    driver.memory.free(address)?;
    if !matches!(owned.kind, Kind::Registered(_)) {
        // SAFETY: `allocate_host` took it with this layout; it was in the table, hence not given back before.
        unsafe { dealloc(address as *mut u8, layout(owned.bytes)?) };
    }
    Ok(())
}
