//! Checkpoints: complete or absent, checked when loaded, the last few kept.
//!
//! A run folder holds
//!
//! ```text
//! config.toml                      the options of the run, to repeat it
//! metrics.jsonl                    one line per step
//! checkpoints/step-00000100/
//!     model.safetensors            weights in f32 under Hugging Face style names, selection biases
//!     optimizer.safetensors        AdamW's moments: `<name>.m`, `<name>.v`; what is remembered about experts
//!     config.json                  the model's shape, the schedule, the kind of data
//!     tokenizer.json               the tokenizer, where the data is text
//!     state.json                   step and data position; size and SHA-256 of every other file
//! ```
//!
//! A checkpoint is written into a hidden folder beside its place, flushed to the disk and renamed, so a name
//! that exists holds all of it. Weights are the f32 master copy for bf16 storage too: rounding it gives the
//! stored weights back, so resuming is exact. Batches and random numbers are functions of (seed, step), so
//! the step is the whole position in the data and in the random stream.
//!
//! Tensors are written from and read into the model one matrix at a time; the files are mapped, never held
//! in memory as a whole.

mod folder;
mod state;
mod tensors;

pub use folder::RunFolder;
pub(crate) use folder::write_folder;
pub use state::{Checkpoint, DataKind, Description, FORMAT, Position};
pub(crate) use tensors::{Lazy, Values, write_file, write_tensors};
