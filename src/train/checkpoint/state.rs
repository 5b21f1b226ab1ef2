//! What a checkpoint says about itself, and loading it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use sha2::{Digest, Sha256};

use super::residuals;
use super::tensors::{FileDigest, Tensors, Verified, hex};
use crate::device::Device;
use crate::elem::Elem;
use crate::error::{Error, Result};
use crate::train::config::{FfnKind, Granularity, ModelConfig, TrainConfig};
use crate::train::layout::is_factor;
use crate::train::model::Model;
use crate::train::param::{Buffer, Param, Piece};
use crate::train::trainer::Trainer;

/// Version of the layout of files and names; another one is refused.
pub const FORMAT: u32 = 3;

pub(super) const STATE: &str = "state.json";
pub(super) const MODEL: &str = "model.safetensors";
pub(super) const OPTIMIZER: &str = "optimizer.safetensors";
pub(super) const CONFIG: &str = "config.json";
pub(super) const TOKENIZER: &str = "tokenizer.json";

/// What the token ids mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum DataKind {
    /// Text, through the tokenizer beside the weights.
    Text,
    /// The built-in grammar with this seed.
    Grammar {
        /// Seed of its tables and text.
        seed: u64,
    },
}

/// `config.json`: everything needed to build the model again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Description {
    /// Always `trimoe`; the name Hugging Face tools look for.
    pub model_type: String,
    /// The model's shape.
    pub model: ModelConfig,
    /// The schedule it is trained with.
    pub train: TrainConfig,
    /// What the token ids mean.
    pub data: DataKind,
    /// How the residuals of a clustered model are packed in `model.safetensors`; `None` if they are f32 there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packed: Option<Granularity>,
}

impl Description {
    /// A description of this crate's model, with residuals in f32.
    pub fn new(model: ModelConfig, train: TrainConfig, data: DataKind) -> Self {
        Description { model_type: "trimoe".into(), model, train, data, packed: None }
    }
}

/// How far training has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// Optimiser steps done; batches and random numbers are functions of it and the seed.
    pub step: u64,
    /// Tokens trained on.
    pub tokens: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct State {
    pub format: u32,
    #[serde(flatten)]
    pub position: Position,
    pub files: BTreeMap<String, FileDigest>,
}

/// `state.json`: the state and a hash of its compact form, so that a flipped digit in it is seen as well.
#[derive(Serialize, Deserialize)]
pub(super) struct Sealed {
    state: State,
    sha256: String,
}

impl Sealed {
    pub fn new(state: State) -> serde_json::Result<Self> {
        let sha256 = hex(&Sha256::digest(serde_json::to_vec(&state)?));
        Ok(Sealed { state, sha256 })
    }
}

/// A checkpoint whose files are all present and undamaged.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    position: Position,
    description: Description,
    model: Verified,
    optimizer: Verified,
    tokenizer: Option<Verified>,
}

impl Checkpoint {
    /// Opens one checkpoint folder and checks every file in it.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let sealed: Sealed = read_json(
            &path.join(STATE),
            &fs::read(path.join(STATE)).map_err(|e| match e.kind() {
                std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory => {
                    Error::checkpoint(path, format!("there is no {STATE}: it is not a checkpoint"))
                }
                _ => Error::io("read", path.join(STATE))(e),
            })?,
        )?;
        let Sealed { state, sha256 } = sealed;
        if state.format != FORMAT {
            let why = format!("it has format {}, and this version reads format {FORMAT}", state.format);
            return Err(Error::checkpoint(path, why));
        }
        if Sealed::new(state.clone()).map(|s| s.sha256 != sha256).unwrap_or(true) {
            let why = "the content is damaged: it does not agree with its own hash";
            return Err(Error::checkpoint(path.join(STATE), why));
        }
        let open = |name: &str| state.files.get(name).map(|d| Verified::open(path.join(name), d)).transpose();
        let need = |name: &str| {
            open(name)?.ok_or_else(|| Error::checkpoint(path.join(STATE), format!("it does not list {name}")))
        };
        let config = need(CONFIG)?;
        let description: Description = read_json(config.path(), config.bytes())?;
        description.model.validate()?;
        let checkpoint = Checkpoint {
            path: path.to_owned(),
            position: state.position,
            description,
            model: need(MODEL)?,
            optimizer: need(OPTIMIZER)?,
            tokenizer: open(TOKENIZER)?,
        };
        let form = checkpoint.form();
        if checkpoint.description.packed.is_some() && form != FfnKind::Clustered {
            let why = format!("it says that residuals are packed, and the model is {form}");
            return Err(Error::checkpoint(config.path(), why));
        }
        Ok(checkpoint)
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How far training had come.
    pub fn position(&self) -> Position {
        self.position
    }

    /// The model, its schedule and its data.
    pub fn description(&self) -> &Description {
        &self.description
    }

    /// The form that the feed-forward parts have at this point of the run.
    pub fn form(&self) -> FfnKind {
        let Description { model, train, .. } = &self.description;
        train.form(model.ffn, self.position.step)
    }

    /// Bytes of the weights as they are stored, in `model.safetensors`.
    pub fn model_bytes(&self) -> u64 {
        self.model.bytes().len() as u64
    }

    /// Bytes of what else training goes on from, in `optimizer.safetensors`.
    pub fn optimizer_bytes(&self) -> u64 {
        self.optimizer.bytes().len() as u64
    }

    /// The `tokenizer.json` inside, where the data is text.
    pub fn tokenizer_path(&self) -> Option<&Path> {
        self.tokenizer.as_ref().map(Verified::path)
    }

    /// Checks that the checkpoint is of `model`; the error names the first option that differs.
    pub fn check_model(&self, model: &ModelConfig) -> Result<()> {
        let ours = &self.description.model;
        let moe = ours.ffn != crate::moe::FfnKind::Dense;
        let part = |used: bool, wanted: usize, ours: usize| used.then_some((wanted, ours));
        self.check("--ffn", model.ffn, ours.ffn)?;
        for (option, values) in [
            ("--vocab", part(true, model.vocab, ours.vocab)),
            ("--hidden", part(true, model.hidden, ours.hidden)),
            ("--inner", part(true, model.inner, ours.inner)),
            ("--layers", part(true, model.layers, ours.layers)),
            ("--heads", part(true, model.heads, ours.heads)),
            ("--seq", part(true, model.seq, ours.seq)),
            ("--experts", part(moe, model.experts, ours.experts)),
            ("--clusters", part(moe, model.routing_clusters(), ours.routing_clusters())),
            ("--topk", part(moe, model.topk, ours.topk)),
            ("--rank", part(moe, model.residual_rank(), ours.residual_rank())),
        ] {
            if let Some((wanted, ours)) = values {
                self.check(option, wanted, ours)?;
            }
        }
        self.check("--parts", model.parts, ours.parts)?;
        self.check("--rope-theta", model.rope_theta, ours.rope_theta)?;
        self.check("--norm-eps", model.norm_eps, ours.norm_eps)
    }

    /// Checks that training with `train` continues the same run: seed, batches and storage.
    pub fn check_run(&self, train: &TrainConfig) -> Result<()> {
        let ours = &self.description.train;
        self.check("--seed", train.seed, ours.seed)?;
        self.check("--batch", train.batch, ours.batch)?;
        self.check("--accumulate", train.accumulate, ours.accumulate)?;
        self.check("--precision", train.precision, ours.precision)
    }

    fn check<V: PartialEq + ToString>(&self, option: &'static str, wanted: V, ours: V) -> Result<()> {
        if wanted == ours {
            return Ok(());
        }
        let why = format!("checkpoint {} was made with {}", self.path.display(), ours.to_string());
        Err(Error::config(option, wanted, why))
    }

    /// The model at this point of the run, for batches of up to `batch` sequences, to evaluate: where residuals are stored
    /// packed, it holds and computes from them so. `config` has the shape of its own model, in the form of
    /// [`form`](Self::form).
    pub fn model<T: Elem>(&self, config: &ModelConfig, device: &Device, batch: usize) -> Result<Model<T>> {
        let Some(packed) = self.description.packed else {
            let mut model = Model::new(config, device, batch, 0, false)?;
            let share = self.description.train.fade(self.position.step);
            if share > 0.0 {
                model.start_fading(share, false)?;
            }
            self.load_model(&mut model)?;
            return Ok(model);
        };
        let mut model = Model::packed(config, device, batch, packed.format())?;
        let tensors = self.model.tensors()?;
        self.check_model_count(&tensors, &model)?;
        for param in model.params_mut() {
            (0..param.pieces.len()).try_for_each(|i| load_piece(&tensors, param, i))?;
        }
        model.buffers_mut().iter_mut().try_for_each(|buffer| load_buffer(&tensors, buffer))?;
        residuals::load(&tensors, &mut model)?;
        Ok(model)
    }

    /// Sets the weights of a model as they are trained, their master copies, and its buffers. Residuals of which there is
    /// nothing but the packed ones are what those stand for.
    ///
    /// On an error, some may be set already.
    pub fn load_model<T: Elem>(&self, model: &mut Model<T>) -> Result<()> {
        let (tensors, optimizer) = (self.model.tensors()?, self.optimizer.tensors()?);
        let packed = self.description.packed;
        let trained = optimizer.len() > 0;
        self.check_model_count(&tensors, model)?;
        model.each_param(|param| {
            for i in 0..param.pieces.len() {
                match packed.is_some() && is_factor(&param.pieces[i]) {
                    false => load_piece(&tensors, param, i)?,
                    true if trained => load_piece(&optimizer, param, i)?,
                    true => {}
                }
            }
            Ok(())
        })?;
        if let Some(packed) = packed.filter(|_| !trained) {
            residuals::unpack(&tensors, model, packed.format())?;
        }
        model.buffers_mut().iter_mut().try_for_each(|buffer| load_buffer(&tensors, buffer))
    }

    /// Checks that `model.safetensors` holds as many tensors as are read for such a model.
    fn check_model_count<T: Elem>(&self, tensors: &Tensors<'_>, model: &Model<T>) -> Result<()> {
        let packed = self.description.packed;
        let pieces = model.params().iter().flat_map(|p| &p.pieces);
        let plain = pieces.filter(|piece| packed.is_none() || !is_factor(piece)).count();
        let buffers: usize = model.buffers().iter().map(|b| b.pieces.len()).sum();
        let factors = packed.map_or(0, |packed| residuals::count(model.config(), packed.format()));
        check_count(&self.model, tensors, plain + buffers + factors)
    }

    /// Sets the weights that a new run starts from: those of this one as they are trained, whatever it computed with.
    ///
    /// On an error, some may be set already.
    pub fn load_weights<T: Elem>(&self, trainer: &mut Trainer<T>) -> Result<()> {
        self.load_model(trainer.model_mut())?;
        trainer.pack()
    }

    /// Sets everything a run continues from: the model, AdamW's moments, what it remembers about the experts, the step.
    ///
    /// On an error, some may be set already.
    pub fn load_trainer<T: Elem>(&self, trainer: &mut Trainer<T>) -> Result<()> {
        trainer.go_to(self.position.step)?;
        self.load_model(trainer.model_mut())?;
        let tensors = self.optimizer.tensors()?;
        if tensors.len() == 0 {
            let why = "it has no optimiser state, so that no run can continue from it; --from starts one from its weights";
            return Err(Error::checkpoint(&self.path, why));
        }
        let pieces = || trainer.model().params().iter().flat_map(|p| &p.pieces);
        let masters = pieces().filter(|piece| self.description.packed.is_some() && is_factor(piece)).count();
        let buffers: usize = trainer.clustering().buffers().map(|b| b.pieces.len()).sum();
        check_count(&self.optimizer, &tensors, 2 * pieces().count() + masters + buffers)?;
        trainer.model_mut().each_param(|param| {
            let Some(state) = &mut param.state else { return Ok(()) };
            for piece in &param.pieces {
                let get = |moment| tensors.get(&moment_name(piece, moment), &piece.shape());
                piece.scatter(&get('m')?, &mut state.m)?;
                piece.scatter(&get('v')?, &mut state.v)?;
            }
            Ok(())
        })?;
        trainer.clustering_mut().buffers_mut().try_for_each(|buffer| load_buffer(&tensors, buffer))?;
        trainer.pack()
    }
}

fn load_piece<T: Elem>(tensors: &Tensors<'_>, param: &mut Param<T>, piece: usize) -> Result<()> {
    let found = &param.pieces[piece];
    let values = tensors.get(&found.name, &found.shape())?;
    param.set(piece, &values)
}

fn load_buffer(tensors: &Tensors<'_>, buffer: &mut Buffer) -> Result<()> {
    for piece in &buffer.pieces {
        piece.scatter(&tensors.get(&piece.name, &piece.shape())?, &mut buffer.tensor)?;
    }
    Ok(())
}

/// Name of a moment of AdamW in `optimizer.safetensors`.
pub(super) fn moment_name(piece: &Piece, moment: char) -> String {
    format!("{}.{moment}", piece.name)
}

fn check_count(file: &Verified, tensors: &Tensors<'_>, want: usize) -> Result<()> {
    if tensors.len() == want {
        return Ok(());
    }
    let why = format!("it holds {} tensors where the model has {want}", tensors.len());
    Err(Error::checkpoint(file.path(), why))
}

fn read_json<T: DeserializeOwned>(path: &Path, bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|e| Error::checkpoint(path, format!("the content is damaged: {e}")))
}
