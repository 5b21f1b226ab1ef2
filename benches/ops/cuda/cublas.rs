//! cuBLAS, opened at run time: nothing is linked, and where it is not installed its rows are left out.

use std::ffi::{c_int, c_void};
use std::rc::Rc;
use std::sync::Arc;

use libloading::Library;
use trimoe::cuda::cudarc::driver::{CudaSlice, CudaStream, DevicePtr, DevicePtrMut};
use trimoe::{Error, Result, bf16};

use crate::lab::{Lab, Work, values};
use crate::shapes::Shape;

const NAMES: [&str; 5] =
    ["libcublas.so.13", "libcublas.so.12", "libcublas.so", "cublas64_13.dll", "cublas64_12.dll"];

// Of cublas_api.h and library_types.h.
const OP_N: c_int = 0;
const OP_T: c_int = 1;
const R_32F: c_int = 0;
const R_16BF: c_int = 14;
const COMPUTE_32F: c_int = 68;
const ALGORITHM_DEFAULT: c_int = -1;

type Create = unsafe extern "C" fn(*mut *mut c_void) -> c_int;
type SetStream = unsafe extern "C" fn(*mut c_void, *mut c_void) -> c_int;
type Destroy = unsafe extern "C" fn(*mut c_void) -> c_int;
/// `cublasGemmEx`: handle, transa, transb, m, n, k, alpha, A, Atype, lda, B, Btype, ldb, beta, C, Ctype, ldc, compute type,
/// algorithm.
type GemmEx = unsafe extern "C" fn(
    *mut c_void,
    c_int,
    c_int,
    c_int,
    c_int,
    c_int,
    *const c_void,
    u64,
    c_int,
    c_int,
    u64,
    c_int,
    c_int,
    *const c_void,
    u64,
    c_int,
    c_int,
    c_int,
    c_int,
) -> c_int;

/// Which product of `x [m, k]`, `w [n, k]` and `y [m, n]`, all row-major.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `y = x w^T`
    Forward,
    /// `dx = dy w`
    Dgrad,
    /// `dw = dy^T x`, in f32
    Wgrad,
}

#[derive(Clone, Copy, Debug)]
pub struct Product {
    pub kind: Kind,
    pub m: usize,
    pub n: usize,
    pub k: usize,
}

impl Product {
    /// The product of an operation over all rows of a shape.
    pub fn of(op: &str, s: &Shape) -> Option<Self> {
        let kind = match op {
            "grouped_gemm" => Kind::Forward,
            "grouped_gemm_dgrad" => Kind::Dgrad,
            "grouped_gemm_wgrad" => Kind::Wgrad,
            _ => return None,
        };
        Some(Product { kind, m: s.tokens, n: 2 * s.inner, k: s.hidden })
    }
}

/// The library with a handle on a stream.
pub struct Cublas {
    handle: *mut c_void,
    gemm: GemmEx,
    destroy: Destroy,
    stream: Arc<CudaStream>,
    /// Keeps the functions where they are.
    _library: Library,
}

impl Drop for Cublas {
    fn drop(&mut self) {
        // SAFETY: the handle is one of `load`, and nobody uses it any more.
        unsafe { (self.destroy)(self.handle) };
    }
}

impl Cublas {
    pub fn load(stream: &Arc<CudaStream>) -> std::result::Result<Self, String> {
        // SAFETY: cuBLAS's initialisers run in every program that uses it.
        let library = NAMES.into_iter().find_map(|name| unsafe { Library::new(name) }.ok());
        let library = library.ok_or("libcublas is not installed")?;
        let missing = |e: libloading::Error| e.to_string();
        // SAFETY: the types are those of cublas_api.h.
        let (create, set_stream, gemm, destroy) = unsafe {
            (
                *library.get::<Create>(b"cublasCreate_v2\0").map_err(missing)?,
                *library.get::<SetStream>(b"cublasSetStream_v2\0").map_err(missing)?,
                *library.get::<GemmEx>(b"cublasGemmEx\0").map_err(missing)?,
                *library.get::<Destroy>(b"cublasDestroy_v2\0").map_err(missing)?,
            )
        };
        let mut handle = std::ptr::null_mut();
        // SAFETY: `handle` is room for one.
        succeeded(unsafe { create(&mut handle) })
            .map_err(|status| format!("cublasCreate: status {status}"))?;
        let cublas = Cublas { handle, gemm, destroy, stream: stream.clone(), _library: library };
        // SAFETY: the stream lives as long as the handle, in the same struct.
        succeeded(unsafe { set_stream(handle, stream.cu_stream().cast()) })
            .map_err(|status| format!("cublasSetStream: status {status}"))?;
        Ok(cublas)
    }

    /// A product with operands of its own.
    pub fn work(self: &Rc<Self>, lab: &Lab, product: Product) -> Result<Work> {
        let Product { m, n, k, .. } = product;
        let cuda = lab.device.as_cuda().ok_or_else(|| failed("no CUDA device".into()))?;
        let of = |len: usize| cuda.upload(&values::<bf16>(len));
        let operands = match product.kind {
            Kind::Forward => [of(m * k)?, of(n * k)?, of(m * n)?],
            Kind::Dgrad => [of(m * n)?, of(n * k)?, of(m * k)?],
            Kind::Wgrad => [of(m * n)?, of(m * k)?, of(2 * n * k)?],
        };
        let (cublas, [a, b, mut c]) = (self.clone(), operands);
        Ok(Work::new(move |_| cublas.run(product, &a, &b, &mut c)))
    }

    /// As a product of column-major matrices, which are the transposes of ours: `c^T = b^T a^T`.
    fn run(
        &self,
        Product { kind, m, n, k }: Product,
        a: &CudaSlice<bf16>,
        b: &CudaSlice<bf16>,
        c: &mut CudaSlice<bf16>,
    ) -> Result<()> {
        // Whether each is transposed, rows and columns of the result, depth, leading dimensions.
        let (ops, [rows, columns, depth], [ld_b, ld_a, ld_c]) = match kind {
            Kind::Forward => ([OP_T, OP_N], [n, m, k], [k, k, n]),
            Kind::Dgrad => ([OP_N, OP_N], [k, m, n], [k, n, k]),
            Kind::Wgrad => ([OP_N, OP_T], [k, n, m], [k, n, k]),
        };
        let out = if kind == Kind::Wgrad { R_32F } else { R_16BF };
        let ((a, _a), (b, _b)) = (a.device_ptr(&self.stream), b.device_ptr(&self.stream));
        let (c, _c) = c.device_ptr_mut(&self.stream);
        let (one, zero) = (1f32, 0f32);
        let scalar = |value: &f32| std::ptr::from_ref(value).cast::<c_void>();
        // SAFETY: the operands hold matrices of these sizes on the handle's device; scalars are read before it returns.
        let status = unsafe {
            (self.gemm)(
                self.handle,
                ops[0],
                ops[1],
                rows as c_int,
                columns as c_int,
                depth as c_int,
                scalar(&one),
                b,
                R_16BF,
                ld_b as c_int,
                a,
                R_16BF,
                ld_a as c_int,
                scalar(&zero),
                c,
                out,
                ld_c as c_int,
                COMPUTE_32F,
                ALGORITHM_DEFAULT,
            )
        };
        succeeded(status).map_err(|status| failed(format!("cublasGemmEx: status {status}")))
    }
}

fn succeeded(status: c_int) -> std::result::Result<(), c_int> {
    if status == 0 { Ok(()) } else { Err(status) }
}

fn failed(why: String) -> Error {
    Error::Host { what: "cuBLAS", why }
}
