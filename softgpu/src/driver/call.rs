//! What every function of the driver API has around it.

use std::any::Any;
use std::ffi::c_void;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;

use super::errors;
use crate::{Code, Error, Result};

/// Name and address of a function, for `cuGetProcAddress`.
pub(super) type Entry = (&'static str, *mut c_void);

/// Defines functions of the driver API: arguments are taken over as [`Arg`](super::abi::Arg) says, the body
/// returns a [`Result`], and [`guard`] does the rest. Also defines `entries`, the functions by name.
macro_rules! api {
    ($( $(#[$attr:meta])* fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $body:block )*) => {
        $(
            #[doc = concat!("`", stringify!($name), "` of the CUDA driver API.")]
            #[doc = ""]
            $(#[$attr])*
            #[doc = ""]
            /// # Safety
            /// Every pointer is null or valid for what the driver API documents.
            #[allow(non_snake_case)]
            #[unsafe(no_mangle)]
            pub unsafe extern "C" fn $name(
                $($arg: <$ty as $crate::driver::abi::Arg>::Raw),*
            ) -> $crate::driver::abi::CUresult {
                // SAFETY: the caller's promise about pointers is that of `wrap`.
                $( let $arg = unsafe { <$ty as $crate::driver::abi::Arg>::wrap($arg) }; )*
                $crate::driver::call::guard(
                    stringify!($name),
                    || -> Vec<String> { vec![$( format!(concat!(stringify!($arg), "={:?}"), $arg) ),*] },
                    || -> $crate::Result<()> { $body },
                )
            }
        )*

        /// The functions of this file.
        pub(super) fn entries() -> Vec<$crate::driver::call::Entry> {
            vec![$( (stringify!($name), $name as *mut std::ffi::c_void) ),*]
        }
    };
}
pub(super) use api;

/// Runs the body of a function: a panic becomes an error, an error its code, and its text is kept for
/// `cuGetErrorString`.
pub(super) fn guard(
    name: &str,
    arguments: impl FnOnce() -> Vec<String>,
    body: impl FnOnce() -> Result<()>,
) -> u32 {
    let run = || {
        let result = catch_unwind(AssertUnwindSafe(body))
            .unwrap_or_else(|panic| Err(Error::new(Code::Unknown, format!("{name}: {}", told(&*panic)))));
        if let Err(error) = &result {
            errors::remember(error);
        }
        log(name, arguments, &result);
        result.map_or_else(|error| error.code as u32, |()| 0)
    };
    // What is left can only fail for want of memory; still nothing may unwind into the caller.
    catch_unwind(AssertUnwindSafe(run)).unwrap_or(Code::Unknown as u32)
}

/// What a panic says.
pub(super) fn told(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("internal error: {}", text.unwrap_or("unknown"))
}

/// Where `SOFTGPU_LOG` wants the calls written.
enum Log {
    Off,
    Stderr,
    File(File),
}

/// A log that cannot be opened falls back to standard error: to debug silently is worse.
fn open_log() -> Log {
    match std::env::var_os("SOFTGPU_LOG") {
        None => Log::Off,
        Some(path) if path.is_empty() || path == "0" => Log::Off,
        Some(path) if path == "1" => Log::Stderr,
        Some(path) => OpenOptions::new().create(true).append(true).open(path).map_or(Log::Stderr, Log::File),
    }
}

fn log(name: &str, arguments: impl FnOnce() -> Vec<String>, result: &Result<()>) {
    static LOG: OnceLock<Log> = OnceLock::new();
    let log = LOG.get_or_init(open_log);
    if matches!(log, Log::Off) {
        return;
    }
    let arguments = arguments().join(", ");
    let outcome = match result {
        Ok(()) => "0".to_string(),
        Err(error) => format!("{} {:?}: {}", error.code as u32, error.code, error.text),
    };
    let line = format!("softgpu: {name}({arguments}) = {outcome}\n");
    // One write a line keeps the lines of threads apart; a log that is full or closed stops nothing.
    let _ = match log {
        Log::File(file) => { file }.write_all(line.as_bytes()),
        _ => std::io::stderr().write_all(line.as_bytes()),
    };
}
