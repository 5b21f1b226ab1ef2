//! Safetensors files written and read one matrix at a time.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use memmap2::Mmap;
use safetensors::tensor::{Dtype, Metadata, SafeTensors, TensorInfo};
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};

/// Size and hash of a file.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct FileDigest {
    pub bytes: u64,
    pub sha256: String,
}

/// Writes a new file through `write`, flushes it to the disk, and returns its size and hash.
pub(crate) fn write_file(
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> std::io::Result<()>,
) -> Result<FileDigest> {
    let file = File::create_new(path).map_err(Error::io("create", path))?;
    let mut writer =
        Hashing { inner: BufWriter::with_capacity(1 << 20, file), hash: Sha256::new(), bytes: 0 };
    write(&mut writer).map_err(Error::io("write", path))?;
    let Hashing { inner, hash, bytes } = writer;
    let file = inner.into_inner().map_err(|e| e.into_error()).map_err(Error::io("write", path))?;
    file.sync_all().map_err(Error::io("write", path))?;
    Ok(FileDigest { bytes, sha256: hex(&hash.finalize()) })
}

/// Hashes what passes through.
struct Hashing<W> {
    inner: W,
    hash: Sha256,
    bytes: u64,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
        let n = self.inner.write(data)?;
        self.hash.update(&data[..n]);
        self.bytes += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// A tensor to write: its values are produced when its turn comes.
pub(crate) struct Lazy<'a> {
    pub name: String,
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    pub values: Box<dyn Fn() -> Result<Values<'a>> + 'a>,
}

/// Values of a tensor.
pub(crate) enum Values<'a> {
    /// To be rounded to the tensor's type: F32, BF16 or F16.
    F32(Vec<f32>),
    /// Stored as they are, little-endian.
    Bytes(Cow<'a, [u8]>),
}

/// Writes the tensors in the order given.
pub(crate) fn write_tensors(out: &mut dyn Write, tensors: &[Lazy<'_>]) -> std::io::Result<()> {
    let mut offset = 0;
    let mut info = Vec::with_capacity(tensors.len());
    for tensor in tensors {
        let (dtype, shape) = (tensor.dtype, tensor.shape.clone());
        let end = offset + (dtype.bitsize() * shape.iter().product::<usize>()).div_ceil(8);
        info.push((tensor.name.clone(), TensorInfo { dtype, shape, data_offsets: (offset, end) }));
        offset = end;
    }
    let format = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let metadata = Metadata::new(Some(format), info).map_err(std::io::Error::other)?;
    let mut header = serde_json::to_vec(&metadata)?;
    header.resize(header.len().next_multiple_of(8), b' ');
    out.write_all(&(header.len() as u64).to_le_bytes())?;
    out.write_all(&header)?;
    for tensor in tensors {
        match (tensor.values)().map_err(std::io::Error::other)? {
            Values::Bytes(bytes) => out.write_all(&bytes)?,
            Values::F32(values) => match tensor.dtype {
                Dtype::BF16 => {
                    values.iter().try_for_each(|&v| out.write_all(&bf16::from_f32(v).to_le_bytes()))?
                }
                Dtype::F16 => {
                    values.iter().try_for_each(|&v| out.write_all(&f16::from_f32(v).to_le_bytes()))?
                }
                _ if cfg!(target_endian = "little") => out.write_all(bytemuck::cast_slice(&values))?,
                _ => values.iter().try_for_each(|v| out.write_all(&v.to_le_bytes()))?,
            },
        }
    }
    Ok(())
}

/// A mapped file that agrees with its recorded size and hash.
#[derive(Debug)]
pub(super) struct Verified {
    path: PathBuf,
    map: Mmap,
}

impl Verified {
    /// Maps the file and reads it once to check it.
    pub fn open(path: PathBuf, digest: &FileDigest) -> Result<Self> {
        let file = File::open(&path).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => Error::checkpoint(&path, "the file is missing"),
            _ => Error::io("open", &path)(e),
        })?;
        let bytes = file.metadata().map_err(Error::io("read", &path))?.len();
        if bytes != digest.bytes {
            let why = format!(
                "the file has {bytes} bytes instead of {}: it is truncated or overwritten",
                digest.bytes
            );
            return Err(Error::checkpoint(&path, why));
        }
        // SAFETY: files of a checkpoint are never written again under their name, only removed with their
        // folder, which leaves the mapping intact.
        let map = unsafe { Mmap::map(&file) }.map_err(Error::io("map", &path))?;
        let found = hex(&Sha256::digest(&map));
        if found != digest.sha256 {
            let (found, want) = (&found[..12], digest.sha256.get(..12).unwrap_or(&digest.sha256));
            let why = format!("the content is damaged: its SHA-256 is {found}… instead of {want}…");
            return Err(Error::checkpoint(&path, why));
        }
        Ok(Verified { path, map })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// The tensors inside.
    pub fn tensors(&self) -> Result<Tensors<'_>> {
        let why = |e| Error::checkpoint(&self.path, format!("the file is not usable safetensors: {e}"));
        Ok(Tensors { path: &self.path, inner: SafeTensors::deserialize(&self.map).map_err(why)? })
    }
}

/// The tensors of a [`Verified`] file.
pub(super) struct Tensors<'a> {
    path: &'a Path,
    inner: SafeTensors<'a>,
}

impl<'a> Tensors<'a> {
    /// Number of tensors.
    pub fn len(&self) -> usize {
        self.inner.len()
    }

    /// The values of an f32 tensor that must have `shape`.
    pub fn get(&self, name: &str, shape: &[usize]) -> Result<Cow<'a, [f32]>> {
        let data = self.bytes(name, Dtype::F32, shape)?;
        Ok(match bytemuck::try_cast_slice(data) {
            Ok(values) if cfg!(target_endian = "little") => Cow::Borrowed(values),
            _ => data.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
        })
    }

    /// The little-endian values of a tensor that must have this type and shape.
    pub fn bytes(&self, name: &str, want: Dtype, shape: &[usize]) -> Result<&'a [u8]> {
        let tensor = self
            .inner
            .tensor(name)
            .map_err(|_| Error::checkpoint(self.path, format!("there is no tensor `{name}`")))?;
        if tensor.dtype() != want || tensor.shape() != shape {
            let (dtype, found) = (tensor.dtype(), tensor.shape());
            let why = format!("tensor `{name}` is {dtype} {found:?} where {want} {shape:?} is needed");
            return Err(Error::checkpoint(self.path, why));
        }
        Ok(tensor.data())
    }
}
