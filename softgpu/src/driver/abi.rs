//! The types of the C interface, and the only places where pointers of the caller are followed.
//!
//! An argument of type [`Out`], [`In`] or [`Text`] is a pointer whose caller promised, by calling an `unsafe`
//! function of the driver API, that it may be written or read, or is null. They are made by
//! [`Arg::wrap`] at the border, so that everything behind it is safe code.

use std::ffi::{CStr, c_char, c_void};
use std::fmt;

use crate::{Code, Error, Result};

/// A result code: 0 or a [`Code`].
pub type CUresult = u32;
/// A device: its ordinal.
pub type CUdevice = i32;
/// An address in device memory.
pub type CUdeviceptr = u64;
/// Any object of the driver: a number that is never dereferenced.
pub type Handle = *mut c_void;
/// A function of the host that a stream calls.
pub type CUhostFn = Option<unsafe extern "C" fn(*mut c_void)>;
/// A callback of `cuStreamAddCallback`.
pub type CUstreamCallback = Option<unsafe extern "C" fn(Handle, CUresult, *mut c_void)>;
/// Dynamic shared memory of a block of so many threads.
pub type CUoccupancyB2DSize = Option<unsafe extern "C" fn(i32) -> usize>;

/// An argument of a function of the driver API.
pub trait Arg: Sized + fmt::Debug {
    /// Its C type.
    type Raw;

    /// Takes the argument over.
    ///
    /// # Safety
    /// A pointer must be null or valid for what the function is documented to do with it, until the function
    /// returns.
    unsafe fn wrap(raw: Self::Raw) -> Self;
}

macro_rules! plain {
    ($($ty:ty),*) => {$(
        impl Arg for $ty {
            type Raw = $ty;
            unsafe fn wrap(raw: $ty) -> $ty {
                raw
            }
        }
    )*};
}

plain!(u8, u16, u32, u64, i32, usize, *mut c_void, *const c_void, *mut *mut c_void);
plain!(CUhostFn, CUstreamCallback, CUoccupancyB2DSize, CUmemLocation);

/// A place for results.
pub struct Out<T>(*mut T);

impl<T> Arg for Out<T> {
    type Raw = *mut T;
    unsafe fn wrap(raw: *mut T) -> Self {
        Out(raw)
    }
}

impl<T> Clone for Out<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Out<T> {}

impl<T> fmt::Debug for Out<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:p}", self.0)
    }
}

impl<T> Out<T> {
    /// Whether the caller does not want the result.
    pub fn is_null(self) -> bool {
        self.0.is_null()
    }

    /// Refuses a null pointer, before anything is done whose result would be lost.
    pub fn required(self) -> Result<Self> {
        if self.0.is_null() {
            return Err(Error::new(Code::InvalidValue, "the pointer to the result is null"));
        }
        Ok(self)
    }

    /// Stores a result that the caller must want.
    pub fn set(self, value: T) -> Result<()> {
        self.required()?.put_at(0, value);
        Ok(())
    }

    /// Stores a result unless the pointer is null.
    pub fn set_if(self, value: T) {
        if !self.0.is_null() {
            self.put_at(0, value);
        }
    }

    /// Stores the first `room` of `values`; the caller has checked for null.
    pub fn fill(self, values: impl IntoIterator<Item = T>, room: usize) {
        if !self.0.is_null() {
            values.into_iter().take(room).enumerate().for_each(|(i, v)| self.put_at(i, v));
        }
    }

    /// What stands there now.
    pub fn get(self) -> Result<T>
    where
        T: Copy,
    {
        self.at(0)
    }

    /// What stands there now, of several.
    pub fn at(self, index: usize) -> Result<T>
    where
        T: Copy,
    {
        In(self.0.cast_const()).at(index)
    }

    /// Reads an untyped argument of the driver API as what another argument says it points to.
    pub(super) fn from_raw(raw: *mut c_void) -> Self {
        Out(raw.cast())
    }

    /// Stores one of several results; the caller has checked for null.
    pub fn put_at(self, index: usize, value: T) {
        // SAFETY: not null, hence writable for as many items as the function is documented to write, by the
        // promise made to `wrap`.
        unsafe { self.0.add(index).write_unaligned(value) }
    }
}

impl Out<c_char> {
    /// Stores text of at most `room` bytes with its final 0.
    pub fn text(self, text: &str, room: usize) -> Result<()> {
        let Some(most) = room.checked_sub(1) else {
            return Err(Error::new(Code::InvalidValue, "a buffer of 0 bytes for text"));
        };
        let bytes = text.bytes().take(most).chain([0]).map(|b| b as c_char);
        self.required()?.fill(bytes, room);
        Ok(())
    }
}

/// Values given by pointer.
pub struct In<T>(*const T);

impl<T> Arg for In<T> {
    type Raw = *const T;
    unsafe fn wrap(raw: *const T) -> Self {
        In(raw)
    }
}

impl<T> Clone for In<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for In<T> {}

impl<T> fmt::Debug for In<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:p}", self.0)
    }
}

impl<T: Copy> In<T> {
    /// An array that an argument of the driver API contains.
    pub(super) fn from_raw(raw: *const T) -> Self {
        In(raw)
    }

    /// Whether nothing was given.
    pub fn is_null(self) -> bool {
        self.0.is_null()
    }

    /// The one value.
    pub fn get(self) -> Result<T> {
        self.at(0)
    }

    /// One of several values.
    pub fn at(self, index: usize) -> Result<T> {
        if self.0.is_null() {
            return Err(Error::new(Code::InvalidValue, "a pointer to an argument is null"));
        }
        // SAFETY: not null, hence readable for as many items as the function is documented to read, by the
        // promise made to `wrap`.
        Ok(unsafe { self.0.add(index).read_unaligned() })
    }

    /// `count` values; none need no pointer.
    pub fn list(self, count: usize) -> Result<Vec<T>> {
        (0..count).map(|i| self.at(i)).collect()
    }
}

/// Text that ends with a 0.
pub struct Text(*const c_char);

impl Arg for Text {
    type Raw = *const c_char;
    unsafe fn wrap(raw: *const c_char) -> Self {
        Text(raw)
    }
}

impl Text {
    /// The text.
    pub fn get(&self) -> Result<String> {
        if self.0.is_null() {
            return Err(Error::new(Code::InvalidValue, "a name is null"));
        }
        // SAFETY: not null, hence 0-terminated and readable by the promise made to `wrap`.
        Ok(unsafe { CStr::from_ptr(self.0) }.to_string_lossy().into_owned())
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.get() {
            Ok(text) => write!(f, "{text:?}"),
            Err(_) => f.write_str("null"),
        }
    }
}

/// `CUDA_MEMCPY2D`.
#[repr(C)]
#[derive(Clone, Copy)]
#[allow(missing_docs, non_snake_case)] // the names are those of cuda.h
pub struct CUDA_MEMCPY2D {
    pub srcXInBytes: usize,
    pub srcY: usize,
    pub srcMemoryType: u32,
    pub srcHost: *const c_void,
    pub srcDevice: CUdeviceptr,
    pub srcArray: Handle,
    pub srcPitch: usize,
    pub dstXInBytes: usize,
    pub dstY: usize,
    pub dstMemoryType: u32,
    pub dstHost: *mut c_void,
    pub dstDevice: CUdeviceptr,
    pub dstArray: Handle,
    pub dstPitch: usize,
    pub WidthInBytes: usize,
    pub Height: usize,
}

/// `CUDA_MEMCPY3D`.
#[repr(C)]
#[derive(Clone, Copy)]
#[allow(missing_docs, non_snake_case)] // the names are those of cuda.h
pub struct CUDA_MEMCPY3D {
    pub srcXInBytes: usize,
    pub srcY: usize,
    pub srcZ: usize,
    pub srcLOD: usize,
    pub srcMemoryType: u32,
    pub srcHost: *const c_void,
    pub srcDevice: CUdeviceptr,
    pub srcArray: Handle,
    pub reserved0: *mut c_void,
    pub srcPitch: usize,
    pub srcHeight: usize,
    pub dstXInBytes: usize,
    pub dstY: usize,
    pub dstZ: usize,
    pub dstLOD: usize,
    pub dstMemoryType: u32,
    pub dstHost: *mut c_void,
    pub dstDevice: CUdeviceptr,
    pub dstArray: Handle,
    pub reserved1: *mut c_void,
    pub dstPitch: usize,
    pub dstHeight: usize,
    pub WidthInBytes: usize,
    pub Height: usize,
    pub Depth: usize,
}

/// `CUDA_KERNEL_NODE_PARAMS` as of version 2, whose first fields are those of version 1.
#[repr(C)]
#[derive(Clone, Copy)]
#[allow(missing_docs, non_snake_case)] // the names are those of cuda.h
pub struct CUDA_KERNEL_NODE_PARAMS {
    pub func: Handle,
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub sharedMemBytes: u32,
    pub kernelParams: *mut *mut c_void,
    pub extra: *mut *mut c_void,
}

/// The fields that version 2 of `CUDA_KERNEL_NODE_PARAMS` adds.
#[repr(C)]
#[derive(Clone, Copy)]
#[allow(missing_docs, non_snake_case)] // the names are those of cuda.h
pub struct CUDA_KERNEL_NODE_PARAMS_v2 {
    pub v1: CUDA_KERNEL_NODE_PARAMS,
    pub kern: Handle,
    pub ctx: Handle,
}

/// `CUDA_MEMSET_NODE_PARAMS`.
#[repr(C)]
#[derive(Clone, Copy)]
#[allow(missing_docs, non_snake_case)] // the names are those of cuda.h
pub struct CUDA_MEMSET_NODE_PARAMS {
    pub dst: CUdeviceptr,
    pub pitch: usize,
    pub value: u32,
    pub elementSize: u32,
    pub width: usize,
    pub height: usize,
}

/// `CUDA_HOST_NODE_PARAMS`.
#[repr(C)]
#[derive(Clone, Copy)]
#[allow(missing_docs, non_snake_case)] // the names are those of cuda.h
pub struct CUDA_HOST_NODE_PARAMS {
    pub callback: CUhostFn,
    pub userData: *mut c_void,
}

/// `CUlaunchConfig`.
#[repr(C)]
#[derive(Clone, Copy)]
#[allow(missing_docs, non_snake_case)] // the names are those of cuda.h
pub struct CUlaunchConfig {
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub sharedMemBytes: u32,
    pub hStream: Handle,
    pub attrs: *const CUlaunchAttribute,
    pub numAttrs: u32,
}

/// `CUlaunchAttribute`: its value is a union of 64 bytes, here as words.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)] // the names are those of cuda.h
pub struct CUlaunchAttribute {
    pub id: u32,
    pub pad: u32,
    pub value: [u32; 16],
}

/// `CUmemLocation`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)] // the names are those of cuda.h
pub struct CUmemLocation {
    pub kind: u32,
    pub id: i32,
}

/// `CUmemPoolProps`.
#[repr(C)]
#[derive(Clone, Copy)]
#[allow(missing_docs, non_snake_case)] // the names are those of cuda.h
pub struct CUmemPoolProps {
    pub allocType: u32,
    pub handleTypes: u32,
    pub location: CUmemLocation,
    pub win32SecurityAttributes: *mut c_void,
    pub maxSize: usize,
    pub reserved: [u8; 56],
}
