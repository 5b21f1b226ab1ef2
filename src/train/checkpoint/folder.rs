//! Run folders: where checkpoints go, which one is the newest good one.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use safetensors::Dtype;

use super::state::{CONFIG, MODEL, OPTIMIZER, STATE, Sealed, State, TOKENIZER, moment_name};
use super::tensors::{Lazy, Values, write_file, write_tensors};
use super::{Checkpoint, Description, FORMAT, Position, residuals};
use crate::elem::Elem;
use crate::error::{Error, Result};
use crate::train::data::Tokenizer;
use crate::train::layout::is_factor;
use crate::train::model::Model;
use crate::train::offload::{self, Field};
use crate::train::param::{Buffer, Param};
use crate::train::trainer::Trainer;

/// Start of the names of folders being written.
const UNFINISHED: &str = ".unfinished-";

/// A folder with the checkpoints of one run.
#[derive(Clone, Debug)]
pub struct RunFolder {
    path: PathBuf,
}

impl RunFolder {
    /// Makes the folder where it is missing, and removes what an interrupted run left unfinished.
    pub fn create(path: impl AsRef<Path>) -> Result<Self> {
        let run = RunFolder { path: path.as_ref().to_owned() };
        let checkpoints = run.checkpoints_path();
        fs::create_dir_all(&checkpoints).map_err(Error::io("create", &checkpoints))?;
        offload::remove_stale(&run.path)?;
        for name in entries(&checkpoints)? {
            if name.starts_with(UNFINISHED) {
                let path = checkpoints.join(name);
                fs::remove_dir_all(&path).map_err(Error::io("remove", &path))?;
            }
        }
        Ok(run)
    }

    /// Whether `path` holds a checkpoint of a run.
    pub fn exists(path: impl AsRef<Path>) -> bool {
        let run = RunFolder { path: path.as_ref().to_owned() };
        run.checkpoints().is_ok_and(|found| !found.is_empty())
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn checkpoints_path(&self) -> PathBuf {
        self.path.join("checkpoints")
    }

    /// The checkpoints by step, oldest first; their content is not looked at.
    pub fn checkpoints(&self) -> Result<Vec<(u64, PathBuf)>> {
        let folder = self.checkpoints_path();
        let step = |name: &String| name.strip_prefix("step-")?.parse::<u64>().ok();
        let named = entries(&folder)?.into_iter().filter_map(|name| Some((step(&name)?, folder.join(name))));
        let mut found: Vec<_> = named.collect();
        found.sort();
        Ok(found)
    }

    /// Opens the newest checkpoint that is undamaged, with a warning about each damaged one passed over.
    pub fn newest(&self) -> Result<Checkpoint> {
        let mut damaged = Vec::new();
        for (_, path) in self.checkpoints()?.into_iter().rev() {
            match Checkpoint::open(&path) {
                Ok(checkpoint) => return Ok(checkpoint),
                Err(error) => {
                    tracing::warn!("passed over: {error}");
                    damaged.push(error);
                }
            }
        }
        let why = match damaged.first() {
            None => "the folder holds no checkpoint".to_owned(),
            Some(newest) => {
                format!("none of its {} checkpoints can be loaded; the newest: {newest}", damaged.len())
            }
        };
        Err(Error::checkpoint(&self.path, why))
    }

    /// Opens `path`: the newest good checkpoint of a run folder, or one checkpoint folder.
    pub fn open_checkpoint(path: impl AsRef<Path>) -> Result<Checkpoint> {
        let path = path.as_ref();
        fs::metadata(path).map_err(Error::io("read", path))?;
        let run = RunFolder { path: path.to_owned() };
        if run.checkpoints_path().is_dir() { run.newest() } else { Checkpoint::open(path) }
    }

    /// Writes a checkpoint, then removes the older ones beyond the last `keep`. Residuals are packed where they count so
    /// ([`Trainer::packed`]), whatever the description says.
    ///
    /// On an error nothing is left of the new checkpoint, and the older ones are untouched.
    pub fn save<T: Elem>(
        &self,
        trainer: &Trainer<T>,
        description: &Description,
        tokenizer: Option<&Tokenizer>,
        position: Position,
        keep: usize,
    ) -> Result<PathBuf> {
        let remembered: Vec<&Buffer> = trainer.clustering().buffers().collect();
        let description = Description { packed: trainer.packed(), ..description.clone() };
        self.write(trainer.model(), &remembered, &description, tokenizer, position, keep)
    }

    /// As [`RunFolder::save`], of a model alone: runs can start from such a checkpoint, and none can continue from it.
    /// Residuals are packed as the description says.
    pub fn save_model<T: Elem>(
        &self,
        model: &Model<T>,
        description: &Description,
        tokenizer: Option<&Tokenizer>,
        position: Position,
    ) -> Result<PathBuf> {
        self.write(model, &[], description, tokenizer, position, 1)
    }

    fn write<T: Elem>(
        &self,
        model: &Model<T>,
        remembered: &[&Buffer],
        description: &Description,
        tokenizer: Option<&Tokenizer>,
        position: Position,
        keep: usize,
    ) -> Result<PathBuf> {
        model.settle()?;
        let name = format!("step-{:08}", position.step);
        let place = write_folder(&self.checkpoints_path(), &name, |folder| {
            write_all(folder, model, remembered, description, tokenizer, position)
        })?;
        self.prune(position.step, keep)?;
        Ok(place)
    }

    /// Removes all but the last `keep` checkpoints up to `step`. Later ones, which exist when a run goes back
    /// to an older checkpoint, are written over when the run gets there.
    fn prune(&self, step: u64, keep: usize) -> Result<()> {
        let mut older = self.checkpoints()?;
        older.retain(|(s, _)| *s <= step);
        let surplus = older.len().saturating_sub(keep.max(1));
        for (_, path) in older.drain(..surplus) {
            fs::remove_dir_all(&path).map_err(Error::io("remove", &path))?;
        }
        Ok(())
    }
}

/// Writes the folder `name` in `parent`, whole or not at all: `write` fills one beside it, which then takes its place.
/// Returns the place.
pub(crate) fn write_folder(
    parent: &Path,
    name: &str,
    write: impl FnOnce(&Path) -> Result<()>,
) -> Result<PathBuf> {
    let unfinished = parent.join(format!("{UNFINISHED}{name}"));
    let place = parent.join(name);
    let written = remove_stale(&unfinished)
        .and_then(|()| fs::create_dir(&unfinished).map_err(Error::io("create", &unfinished)))
        .and_then(|()| write(&unfinished))
        .and_then(|()| sync_folder(&unfinished))
        .and_then(|()| put_in_place(parent, &unfinished, &place));
    if written.is_err() {
        // The first error is the one to report, whether or not the remains can be removed.
        let _ = fs::remove_dir_all(&unfinished);
    }
    written.map(|()| place)
}

/// Removes what a process that was killed left there.
fn remove_stale(unfinished: &Path) -> Result<()> {
    if unfinished.exists() {
        fs::remove_dir_all(unfinished).map_err(Error::io("remove", unfinished))?;
    }
    Ok(())
}

fn write_all<'a, T: Elem>(
    folder: &Path,
    model: &'a Model<T>,
    remembered: &[&Buffer],
    description: &Description,
    tokenizer: Option<&Tokenizer>,
    position: Position,
) -> Result<()> {
    let mut files = BTreeMap::new();
    let params = model.params();
    let pieces = || {
        let pieces = |(p, param): (usize, &'a Param<T>)| (0..param.pieces.len()).map(move |i| (p, i));
        params.iter().enumerate().flat_map(pieces)
    };
    let mut weights = Vec::new();
    let mut masters = Vec::new();
    for (p, i) in pieces() {
        let piece = &params[p].pieces[i];
        let (name, shape) = (piece.name.clone(), piece.shape());
        let values = Box::new(move || Ok(Values::F32(model.piece(p, i, Field::Weight)?)));
        let weight = Lazy { name, dtype: Dtype::F32, shape, values };
        match description.packed.is_some() && is_factor(piece) {
            false => weights.push(weight),
            true if params[p].state.is_some() => masters.push(weight),
            true => {}
        }
    }
    if let Some(packed) = description.packed {
        weights.extend(residuals::packed(model, packed.format())?);
    }
    let mut moments = Vec::new();
    for (p, i) in pieces().filter(|&(p, _)| params[p].state.is_some()) {
        let piece = &params[p].pieces[i];
        for (moment, field) in [('m', Field::First), ('v', Field::Second)] {
            let name = moment_name(piece, moment);
            let values = Box::new(move || Ok(Values::F32(model.piece(p, i, field)?)));
            moments.push(Lazy { name, dtype: Dtype::F32, shape: piece.shape(), values });
        }
    }
    weights.extend(model.buffers().iter().flat_map(lazy));
    moments.extend(masters);
    moments.extend(remembered.iter().copied().flat_map(lazy));
    let mut write = |name: &str, content: &dyn Fn(&mut dyn std::io::Write) -> std::io::Result<()>| {
        files.insert(name.to_owned(), write_file(&folder.join(name), content)?);
        Result::Ok(())
    };
    write(MODEL, &|out| write_tensors(out, &weights))?;
    write(OPTIMIZER, &|out| write_tensors(out, &moments))?;
    write(CONFIG, &|out| Ok(serde_json::to_writer_pretty(out, description)?))?;
    if let Some(tokenizer) = tokenizer {
        write(TOKENIZER, &|out| out.write_all(tokenizer.json().as_bytes()))?;
    }
    let state = State { format: FORMAT, position, files };
    write_file(&folder.join(STATE), |out| Ok(serde_json::to_writer_pretty(out, &Sealed::new(state)?)?))?;
    Ok(())
}

/// The matrices of a buffer.
fn lazy(buffer: &Buffer) -> impl Iterator<Item = Lazy<'_>> {
    buffer.pieces.iter().map(|piece| Lazy {
        name: piece.name.clone(),
        dtype: Dtype::F32,
        shape: piece.shape(),
        values: Box::new(|| Ok(Values::F32(piece.gather(&buffer.tensor)?))),
    })
}

/// Renames a finished folder; one of the same step, damaged or from before going back, makes way.
fn put_in_place(folder: &Path, finished: &Path, place: &Path) -> Result<()> {
    if place.exists() {
        let old = folder.join(format!("{UNFINISHED}replaced"));
        fs::rename(place, &old).map_err(Error::io("replace", place))?;
        fs::rename(finished, place).map_err(Error::io("create", place))?;
        fs::remove_dir_all(&old).map_err(Error::io("remove", &old))?;
    } else {
        fs::rename(finished, place).map_err(Error::io("create", place))?;
    }
    sync_folder(folder)
}

/// Flushes a folder's own entries, on systems where a folder can be opened for that.
fn sync_folder(folder: &Path) -> Result<()> {
    if cfg!(unix) {
        File::open(folder).and_then(|f| f.sync_all()).map_err(Error::io("write", folder))?;
    }
    Ok(())
}

/// Names in a folder, sorted; names that are no UTF-8 are none of ours.
fn entries(folder: &Path) -> Result<Vec<String>> {
    let read = || -> std::io::Result<Vec<String>> {
        let names = fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name().into_string().ok()));
        let mut names: Vec<String> =
            names.collect::<std::io::Result<Vec<_>>>()?.into_iter().flatten().collect();
        names.sort();
        Ok(names)
    };
    read().map_err(Error::io("read", folder))
}
