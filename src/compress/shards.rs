//! Safetensors files of a model, mapped: one, or shards with an index.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::ops::Range;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use memmap2::Mmap;
use safetensors::tensor::{Dtype, SafeTensors};

use crate::error::{Error, Result};

/// A model in one file.
pub const WHOLE: &str = "model.safetensors";
/// Which shard holds each tensor.
pub const INDEX: &str = "model.safetensors.index.json";

/// The tensors of a model folder. Nothing is read before it is asked for.
#[derive(Debug)]
pub struct Shards {
    folder: PathBuf,
    files: Vec<(PathBuf, Mmap)>,
    tensors: BTreeMap<String, Place>,
}

/// Where a tensor lies.
#[derive(Clone, Debug)]
struct Place {
    file: usize,
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Range<usize>,
}

/// A tensor as it is stored.
#[derive(Clone, Copy, Debug)]
pub struct Stored<'a> {
    /// Its name.
    pub name: &'a str,
    file: &'a Path,
    /// Its type.
    pub dtype: Dtype,
    /// Its shape.
    pub shape: &'a [usize],
    /// Its elements, little-endian.
    pub bytes: &'a [u8],
}

/// `weight_map` of an index.
#[derive(serde::Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl Shards {
    /// Maps `model.safetensors`, or every shard that `model.safetensors.index.json` names, and reads their headers.
    pub fn open(folder: impl AsRef<Path>) -> Result<Self> {
        let folder = folder.as_ref();
        let index = folder.join(INDEX);
        if !index.is_file() {
            let whole = folder.join(WHOLE);
            if !whole.is_file() {
                let why = format!("it has neither {INDEX} nor {WHOLE}");
                return Err(Error::checkpoint(folder, why));
            }
            let mut shards = Shards { folder: folder.into(), files: Vec::new(), tensors: BTreeMap::new() };
            shards.add(whole, None)?;
            return Ok(shards);
        }
        let text = fs::read(&index).map_err(Error::io("read", &index))?;
        let map: Index = serde_json::from_slice(&text)
            .map_err(|e| Error::checkpoint(&index, format!("the index cannot be read: {e}")))?;
        let mut shards = Shards { folder: folder.into(), files: Vec::new(), tensors: BTreeMap::new() };
        let names: BTreeSet<&String> = map.weight_map.values().collect();
        let missing: Vec<&str> =
            names.iter().map(|n| n.as_str()).filter(|n| !folder.join(n).is_file()).collect();
        if !missing.is_empty() {
            let why =
                format!("{} of {} shards are missing: {}", missing.len(), names.len(), missing.join(", "));
            return Err(Error::checkpoint(folder, why));
        }
        for name in names {
            if Path::new(name).components().count() != 1 {
                return Err(Error::checkpoint(&index, format!("`{name}` is no name of a file beside it")));
            }
            let of_shard = map.weight_map.iter().filter(|(_, shard)| *shard == name).map(|(t, _)| t.as_str());
            shards.add(folder.join(name), Some(&of_shard.collect::<Vec<_>>()))?;
        }
        Ok(shards)
    }

    /// Maps a file; `promised` are the tensors that the index says it holds, otherwise all are taken.
    fn add(&mut self, path: PathBuf, promised: Option<&[&str]>) -> Result<()> {
        let file = File::open(&path).map_err(Error::io("open", &path))?;
        // SAFETY: the file is a model's, which nothing writes to while it is compressed: as with any reader of mapped
        // weights, changing it meanwhile changes what is read.
        let map = unsafe { Mmap::map(&file) }.map_err(Error::io("map", &path))?;
        let damaged = |why: String| Error::checkpoint(&path, why);
        let (header, metadata) = SafeTensors::read_metadata(&map).map_err(|e| {
            damaged(format!(
                "its {} bytes are no whole safetensors file, truncated or overwritten: {e}",
                map.len()
            ))
        })?;
        let start = 8 + header;
        let found = metadata.tensors();
        for name in promised.unwrap_or_default() {
            if !found.contains_key(*name) {
                return Err(damaged(format!("there is no tensor `{name}`, which {INDEX} says it holds")));
            }
        }
        for (name, info) in found {
            if promised.is_some_and(|promised| !promised.contains(&name.as_str())) {
                continue;
            }
            let (from, to) = info.data_offsets;
            let place = Place {
                file: self.files.len(),
                dtype: info.dtype,
                shape: info.shape.clone(),
                bytes: start + from..start + to,
            };
            self.tensors.insert(name, place);
        }
        self.files.push((path, map));
        Ok(())
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Number of files.
    pub fn files(&self) -> usize {
        self.files.len()
    }

    /// Bytes of all tensors.
    pub fn bytes(&self) -> u64 {
        self.tensors.values().map(|place| place.bytes.len() as u64).sum()
    }

    /// The tensors of a file, by name.
    pub fn of_file(&self, file: usize) -> impl Iterator<Item = Stored<'_>> {
        let inside = self.tensors.iter().filter(move |(_, place)| place.file == file);
        inside.map(|(name, place)| self.stored(name, place))
    }

    /// A tensor, wherever it is.
    pub fn get(&self, name: &str) -> Result<Stored<'_>> {
        match self.tensors.get_key_value(name) {
            Some((name, place)) => Ok(self.stored(name, place)),
            None => Err(Error::checkpoint(&self.folder, format!("there is no tensor `{name}`"))),
        }
    }

    fn stored<'a>(&'a self, name: &'a str, place: &'a Place) -> Stored<'a> {
        let (file, map) = &self.files[place.file];
        Stored { name, file, dtype: place.dtype, shape: &place.shape, bytes: &map[place.bytes.clone()] }
    }

    /// A tensor that must have this shape and a type that can be read as f32.
    pub fn weight(&self, name: &str, shape: &[usize]) -> Result<Stored<'_>> {
        let found = self.get(name)?;
        if found.shape != shape {
            let why = format!("tensor `{name}` is {:?} where {shape:?} is needed", found.shape);
            return Err(Error::checkpoint(found.file, why));
        }
        if !matches!(found.dtype, Dtype::F32 | Dtype::BF16 | Dtype::F16) {
            let why = format!("tensor `{name}` is {}; F32, BF16 and F16 can be read", found.dtype);
            return Err(Error::checkpoint(found.file, why));
        }
        Ok(found)
    }
}

impl Stored<'_> {
    /// Elements from `start` on, as f32, each of them finite. Of a [`Shards::weight`]; panics beyond its end.
    pub(super) fn read(&self, start: usize, to: &mut [f32]) -> Result<()> {
        let size = self.dtype.bitsize() / 8;
        let bytes = &self.bytes[start * size..(start + to.len()) * size];
        match self.dtype {
            Dtype::BF16 => widen(bytes, to, |b| bf16::from_le_bytes(b).to_f32()),
            Dtype::F16 => widen(bytes, to, |b| f16::from_le_bytes(b).to_f32()),
            _ => widen(bytes, to, f32::from_le_bytes),
        }
        match to.iter().position(|v| !v.is_finite()) {
            Some(at) => {
                let why = format!("element {} of tensor `{}` is {}", start + at, self.name, to[at]);
                Err(Error::checkpoint(self.file, why))
            }
            None => Ok(()),
        }
    }

    /// All elements as f32.
    pub(super) fn to_f32(self) -> Result<Vec<f32>> {
        let mut values = vec![0f32; self.shape.iter().product()];
        self.read(0, &mut values)?;
        Ok(values)
    }
}

fn widen<const N: usize>(bytes: &[u8], to: &mut [f32], value: impl Fn([u8; N]) -> f32) {
    to.iter_mut().zip(bytes.as_chunks::<N>().0).for_each(|(to, bytes)| *to = value(*bytes));
}
