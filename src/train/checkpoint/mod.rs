//! Checkpoints: complete or absent, checked when loaded, the last few kept.
//!
//! A run folder holds
//!
//! ```text
//! config.toml                      the options of the run, to repeat it
//! metrics.jsonl                    one line per step
//! offload/parts                    scratch of a run with a memory budget, gone when it ends
//! checkpoints/step-00000100/
//!     model.safetensors            weights in f32 under Hugging Face style names, selection biases; residuals may be packed
//!     optimizer.safetensors        AdamW's moments: `<name>.m`, `<name>.v`; what is remembered about experts; the f32
//!                                  factors of residuals that are packed
//!     config.json                  the model's shape, the schedule, the kind of data, how residuals are packed
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
//!
//! **Packed residuals.** Where `config.json` says `"packed": "block"` or `"group"`, `model.safetensors` has no
//! `…experts.E.gate_proj.lora_A.weight` and the like. The factors of a cluster are one matrix `[K rank, long]` in INT4, the
//! ranks of its experts one after the other; `long` is the input of `lora_A`, the output of `lora_B`. They are there as they
//! lie in memory (drawn in `src/int4.rs`), so that reading them is copying:
//!
//! ```text
//! model.layers.L.mlp.clusters.G.gate_proj.lora_A.qweight    I32  [K rank / 32, long / 32, 128]   8 codes a word
//!                                               .scales    BF16  block: [K rank / 32, long / 32, 32]; group: [32]
//!                                               .zeros       U8  as the scales                    (divisions round up)
//! ```
//!
//! A model to evaluate is complete with that and is never expanded. The f32 factors that training goes on from are part of
//! its state, under their own names in `optimizer.safetensors`; without them a run starts from what the packed ones stand for.

mod folder;
mod residuals;
mod state;
mod tensors;

pub use folder::RunFolder;
pub(crate) use folder::write_folder;
pub use state::{Checkpoint, DataKind, Description, FORMAT, Position};
pub(crate) use tensors::{Lazy, Values, write_file, write_tensors};
