//! Text files and folders as a stream of documents.

use std::fs;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::reader::Pieces;
use super::unpack::{Packing, Unpacked};
use crate::{Error, Result};

/// Endings of the files that are read out of a folder; each may be followed by `.gz` or `.zst`.
const FOLDER_ENDINGS: [&str; 4] = [".txt", ".tokens", ".raw", ".jsonl"];

/// How a file holds its documents, told by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// One document, byte for byte.
    Text,
    /// One document in WikiText spacing.
    WikiText,
    /// One document a line: the `text` field of a JSON object.
    JsonLines,
}

/// One file of a source.
#[derive(Clone, Debug)]
pub(super) struct SourceFile {
    pub path: PathBuf,
    pub layout: Layout,
    pub packing: Packing,
}

impl SourceFile {
    fn new(path: PathBuf) -> Self {
        let name = lower_name(&path);
        let (packing, stem) = Packing::of(&name);
        let layout = if stem.ends_with(".jsonl") {
            Layout::JsonLines
        } else if stem.ends_with(".tokens") || stem.ends_with(".raw") {
            Layout::WikiText
        } else {
            Layout::Text
        };
        SourceFile { path, layout, packing }
    }
}

/// A corpus of UTF-8 text on disk: one file, or the text files of a folder in the order of their names.
///
/// | name ends in | read as |
/// | --- | --- |
/// | `.jsonl` | JSON lines, a document per row: the string in its `text` field |
/// | `.tokens`, `.raw` | official WikiText files, their spacing turned into that of ordinary text by [`wikitext`](super::wikitext) unless [`verbatim`](Self::verbatim) |
/// | anything else | UTF-8 text, byte for byte |
///
/// Each may be packed as `.gz` or `.zst`. A folder contributes its `.txt`, `.tokens`, `.raw` and `.jsonl`
/// files (packed or not), not those of folders inside it. Nothing but the piece at hand is held in memory.
#[derive(Clone, Debug)]
pub struct TextSource {
    path: PathBuf,
    files: Vec<SourceFile>,
    verbatim: bool,
}

impl TextSource {
    /// Finds the files behind `path`; their content is read by [`pieces`](Self::pieces).
    ///
    /// # Errors
    /// [`Error::Io`] when `path` cannot be read, [`Error::Data`] when it is an empty file, or a folder
    /// without a usable one.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let is_folder = fs::metadata(path).map_err(Error::io("read", path))?.is_dir();
        let files = if is_folder { list_folder(path)? } else { vec![SourceFile::new(path.to_owned())] };
        for file in &files {
            if fs::metadata(&file.path).map_err(Error::io("read", &file.path))?.len() == 0 {
                return Err(Error::data(&file.path, "the file is empty"));
            }
        }
        Ok(TextSource { path: path.to_owned(), files, verbatim: false })
    }

    /// The same source with WikiText files kept as they are, byte for byte.
    #[must_use]
    pub fn verbatim(mut self) -> Self {
        self.verbatim = true;
        self
    }

    /// The path it was opened with.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The files it reads, in order.
    pub fn files(&self) -> impl ExactSizeIterator<Item = &Path> {
        self.files.iter().map(|file| file.path.as_path())
    }

    /// Streams the documents, cut into bounded pieces.
    ///
    /// The iterator ends after its first error: a file that is binary, not UTF-8, cut short or without any
    /// text, or a JSON line that cannot be used. Each names the file and the line or byte.
    pub fn pieces(&self) -> Pieces<'_> {
        Pieces::new(&self.files, self.verbatim)
    }

    /// SHA-256 over the name, size and bytes of every file and over how they are read: two sources with the
    /// same hash give the same pieces, wherever they lie.
    ///
    /// # Errors
    /// [`Error::Io`] when a file cannot be read.
    pub fn content_hash(&self) -> Result<[u8; 32]> {
        let mut hash = Sha256::new();
        hash.update([self.verbatim as u8]);
        let mut block = vec![0; 1 << 18];
        for file in &self.files {
            let name = file.path.file_name().unwrap_or_default().to_string_lossy();
            hash.update((name.len() as u64).to_le_bytes());
            hash.update(name.as_bytes());
            let mut content = Sha256::new();
            let mut bytes = Unpacked::open(&file.path, Packing::Plain)?;
            loop {
                let n = bytes.fill(&mut block)?;
                content.update(&block[..n]);
                if n < block.len() {
                    break;
                }
            }
            hash.update(content.finalize());
        }
        Ok(hash.finalize().into())
    }
}

fn list_folder(folder: &Path) -> Result<Vec<SourceFile>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(Error::io("read", folder))? {
        let path = entry.map_err(Error::io("read", folder))?.path();
        let name = lower_name(&path);
        let (_, stem) = Packing::of(&name);
        if !name.starts_with('.')
            && FOLDER_ENDINGS.iter().any(|ending| stem.ends_with(ending))
            && path.is_file()
        {
            files.push(SourceFile::new(path));
        }
    }
    if files.is_empty() {
        let why = format!("the folder holds no {} file, plain, .gz or .zst", FOLDER_ENDINGS.join(", "));
        return Err(Error::data(folder, why));
    }
    // The order in which a file system lists its entries is its own affair.
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

fn lower_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().to_lowercase()
}
