//! The one error type of the crate.

use std::path::{Path, PathBuf};

/// What can go wrong, each with the values a reader needs to act on it.
///
/// Nothing a caller can pass makes the crate panic: a broken rule of an operation is [`Error::Rule`], a
/// bad option is [`Error::Config`], and everything about a file names the file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An argument of an operation breaks one of its rules; `rule` is the condition itself.
    #[error("{op}: `{rule}` does not hold ({values})")]
    Rule {
        /// Name of the operation ([`Op::NAME`](crate::Op::NAME)) or type.
        op: &'static str,
        /// The condition that must hold, as written in the code.
        rule: &'static str,
        /// The values it was checked with.
        values: String,
    },
    /// A device has no implementation of an operation.
    #[error("{op}: {device} has no implementation of it")]
    Unsupported {
        /// Name of the operation.
        op: &'static str,
        /// The device.
        device: String,
    },
    /// There is no CUDA device to use.
    #[error("no CUDA device: {why}")]
    NoDevice {
        /// What is missing.
        why: String,
    },
    /// The CUDA driver reports an error. Those of kernels come late: `what` is where it was noticed, and one of `after`
    /// is where it comes from. With `CUDA_LAUNCH_BLOCKING=1` the driver waits for each kernel, and the last of them is.
    #[error("CUDA, {what}: {why}{}", listed(after))]
    Cuda {
        /// The operation, or what was being done.
        what: &'static str,
        /// The driver's code and text.
        why: String,
        /// The latest operations enqueued since the stream was last waited for, oldest first; empty if the error is not
        /// one of kernels.
        after: Vec<&'static str>,
    },
    /// An option of the configuration, the command line or a config file cannot be used.
    #[error("{option} {value}: {why}")]
    Config {
        /// The option as the user writes it, for example `--clusters`.
        option: &'static str,
        /// The value it was given.
        value: String,
        /// Why it cannot be used, and what can.
        why: String,
    },
    /// A text, token or tokenizer file holds something that cannot be used.
    #[error("{}: {why}", path.display())]
    Data {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A checkpoint cannot be loaded, or does not fit the model.
    #[error("checkpoint {}: {why}", path.display())]
    Checkpoint {
        /// The checkpoint folder or the file inside it.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The operating system refused an operation on a file.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried, as a verb: "read", "create".
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's own error.
        source: std::io::Error,
    },
    /// Training produced a loss or gradient norm that is not finite.
    #[error("training diverged at step {step}: {what} is {value}")]
    Diverged {
        /// The step, counted from 1.
        step: u64,
        /// "loss" or "gradient norm".
        what: &'static str,
        /// Its value.
        value: f32,
    },
    /// A host resource (the thread pool, a signal handler) could not be set up.
    #[error("cannot set up {what}: {why}")]
    Host {
        /// What was being set up.
        what: &'static str,
        /// The system's reason.
        why: String,
    },
}

/// The operations an error may come from, as the end of a sentence.
fn listed(after: &[&str]) -> String {
    if after.is_empty() { String::new() } else { format!("; enqueued before: {}", after.join(", ")) }
}

/// Shorthand used by every fallible function of the crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An [`Error::Config`] for `option` with the value it was given.
    pub fn config(option: &'static str, value: impl ToString, why: impl Into<String>) -> Self {
        Error::Config { option, value: value.to_string(), why: why.into() }
    }

    /// An [`Error::Data`] for `path`.
    pub fn data(path: impl AsRef<Path>, why: impl Into<String>) -> Self {
        Error::Data { path: path.as_ref().to_owned(), why: why.into() }
    }

    /// An [`Error::Checkpoint`] for `path`.
    pub fn checkpoint(path: impl AsRef<Path>, why: impl Into<String>) -> Self {
        Error::Checkpoint { path: path.as_ref().to_owned(), why: why.into() }
    }

    /// Wraps an I/O error with what was tried and on which path; for `map_err`.
    pub fn io(action: &'static str, path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.as_ref().to_owned();
        move |source| Error::Io { action, path, source }
    }

    /// The process exit code: 2 for an unusable option, 1 for everything that failed while running.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Config { .. } => 2,
            _ => 1,
        }
    }
}

/// Checks one rule of operation `$op`; the condition is the message, followed by the named values.
///
/// ```text
/// ensure!(Self::NAME, self.w.dim(2) == self.x.dim(1), w = self.w.shape(), x = self.x.shape());
/// ```
macro_rules! ensure {
    ($op:expr, $rule:expr $(, $name:ident = $value:expr)* $(,)?) => {
        let holds: bool = $rule;
        if !holds {
            #[allow(unused_mut)]
            let mut values = Vec::<String>::new();
            $( values.push(format!(concat!(stringify!($name), " = {:?}"), $value)); )*
            return Err($crate::Error::Rule { op: $op, rule: stringify!($rule), values: values.join(", ") });
        }
    };
}
pub(crate) use ensure;
