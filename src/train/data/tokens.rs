//! A corpus as token ids: one file on disk, memory-mapped, kept in a cache by content hash.

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use memmap2::Mmap;
use sha2::{Digest, Sha256};

use super::{Piece, TextSource, Tokenizer};
use crate::error::{Error, Result, ensure};

/// First bytes of every token file; the last is the version of the layout.
const MAGIC: [u8; 8] = *b"TRIMOET\x01";

/// Pieces tokenized at a time: enough to keep many threads busy, 2 MiB of text at most.
const BATCH: usize = 64;

/// The header: little-endian fields, then SHA-256 of the ids, then SHA-256 of all of that.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Header {
    /// Hash of all that decides the content: text, tokenizer, limit.
    key: [u8; 32],
    vocab: u64,
    tokens: u64,
    words: u64,
    ids_hash: [u8; 32],
}

impl Header {
    const BYTES: usize = 8 + 32 + 3 * 8 + 32 + 32;

    fn to_bytes(&self) -> [u8; Self::BYTES] {
        let mut bytes = Vec::with_capacity(Self::BYTES);
        bytes.extend(MAGIC);
        bytes.extend(self.key);
        bytes.extend([self.vocab, self.tokens, self.words].iter().flat_map(|x| x.to_le_bytes()));
        bytes.extend(self.ids_hash);
        let seal = Sha256::digest(&bytes);
        bytes.extend(seal);
        let mut out = [0; Self::BYTES];
        out.copy_from_slice(&bytes);
        out
    }

    /// The header of a file made for `key`; `None` when it is anything else.
    fn from_bytes(bytes: &[u8; Self::BYTES], key: &[u8; 32]) -> Option<Header> {
        let word = |at: usize| Some(u64::from_le_bytes(bytes[at..at + 8].try_into().ok()?));
        let header = Header {
            key: bytes[8..40].try_into().ok()?,
            vocab: word(40)?,
            tokens: word(48)?,
            words: word(56)?,
            ids_hash: bytes[64..96].try_into().ok()?,
        };
        // Comparing the whole encoding checks magic, version and seal at once.
        (header.to_bytes() == *bytes && header.key == *key).then_some(header)
    }

    /// Bytes of one id.
    fn width(&self) -> usize {
        id_width(self.vocab)
    }
}

fn id_width(vocab: u64) -> usize {
    if vocab <= 1 << 16 { 2 } else { 4 }
}

/// A corpus as token ids, mapped from a file: the ids cost no heap, and a clone is another handle on the same
/// file.
///
/// Every document is preceded by the tokenizer's end-of-text token, so that the first word of a document is
/// predicted from a token too. Ids are stored as 2 bytes where the vocabulary allows, else as 4.
#[derive(Clone, Debug)]
pub struct TokenFile {
    path: PathBuf,
    header: Header,
    map: Arc<Mmap>,
}

impl TokenFile {
    /// The ids of `source` under `tokenizer`, from `cache` where it has them, else tokenized and put there.
    ///
    /// With `limit`, tokenizing stops at the end of the first piece (at most 32 KiB of text) that reaches so
    /// many tokens, so that the word count stays exact. The file in the cache is named by the hash of the
    /// text, the tokenizer and the limit; one that is damaged, cut short or made for something else is built
    /// again.
    ///
    /// # Errors
    /// [`Error::Io`] when the cache folder cannot be written, and whatever [`TextSource::pieces`] reports; in
    /// no case is a partial file left under the final name.
    pub fn open_or_build(
        cache: impl AsRef<Path>,
        source: &TextSource,
        tokenizer: &Tokenizer,
        limit: Option<u64>,
    ) -> Result<Self> {
        let mut hash = Sha256::new();
        hash.update(MAGIC);
        hash.update(source.content_hash()?);
        hash.update(tokenizer.content_hash());
        hash.update(limit.unwrap_or(u64::MAX).to_le_bytes());
        let key: [u8; 32] = hash.finalize().into();
        let name: String = key[..12].iter().map(|b| format!("{b:02x}")).collect();
        let path = cache.as_ref().join(format!("{name}.tokens.bin"));

        if let Some(header) = verify(&path, &key)? {
            return Self::map(path, header);
        }
        fs::create_dir_all(&cache).map_err(Error::io("create", &cache))?;
        let header = build(&path, key, source, tokenizer, limit)?;
        Self::map(path, header)
    }

    fn map(path: PathBuf, header: Header) -> Result<Self> {
        let file = File::open(&path).map_err(Error::io("read", &path))?;
        // SAFETY: the file belongs to the cache, which replaces files by renaming and never writes into one,
        // so the mapped bytes do not change.
        let map = unsafe { Mmap::map(&file) }.map_err(Error::io("map", &path))?;
        let expected = Header::BYTES as u64 + header.tokens * header.width() as u64;
        if map.len() as u64 != expected {
            return Err(Error::data(&path, "the file changed while it was being opened"));
        }
        Ok(TokenFile { path, header, map: Arc::new(map) })
    }

    /// Where the file lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Number of ids.
    pub fn len(&self) -> usize {
        self.header.tokens as usize
    }

    /// Whether there are no ids; a file that was built always has some.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bound of the ids: each is below it.
    pub fn vocab(&self) -> usize {
        self.header.vocab as usize
    }

    /// Words of the original text, line ends included: the denominator of a word-level perplexity.
    pub fn words(&self) -> u64 {
        self.header.words
    }

    /// Copies the ids `start..start + out.len()`.
    ///
    /// # Errors
    /// [`Error::Rule`] when they go beyond the end of the file.
    pub fn copy_to(&self, start: usize, out: &mut [u32]) -> Result<()> {
        let end = start.saturating_add(out.len());
        ensure!("TokenFile::copy_to", end <= self.len(), end = end, len = self.len());
        let width = self.header.width();
        let bytes = &self.map[Header::BYTES + start * width..Header::BYTES + end * width];
        unpack(bytes, width, |i, id| out[i] = id);
        Ok(())
    }
}

/// Calls `each(i, id)` for the ids in `bytes`, each of `width` bytes.
fn unpack(bytes: &[u8], width: usize, mut each: impl FnMut(usize, u32)) {
    match width {
        2 => bytes.as_chunks().0.iter().enumerate().for_each(|(i, b)| each(i, u16::from_le_bytes(*b).into())),
        _ => bytes.as_chunks().0.iter().enumerate().for_each(|(i, b)| each(i, u32::from_le_bytes(*b))),
    }
}

/// The header of the file at `path` if that is whole and made for `key`: length, both hashes, every id.
fn verify(path: &Path, key: &[u8; 32]) -> Result<Option<Header>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::io("read", path)(e)),
    };
    let header = check(file, key).map_err(Error::io("read", path))?;
    if header.is_none() {
        tracing::warn!("{}: the cached token file is damaged and is built again", path.display());
    }
    Ok(header)
}

fn check(file: File, key: &[u8; 32]) -> io::Result<Option<Header>> {
    let length = file.metadata()?.len();
    let mut file = BufReader::with_capacity(1 << 18, file);
    let mut bytes = [0; Header::BYTES];
    if length < bytes.len() as u64 {
        return Ok(None);
    }
    file.read_exact(&mut bytes)?;
    let Some(header) = Header::from_bytes(&bytes, key) else { return Ok(None) };
    let ids = header.tokens.checked_mul(header.width() as u64);
    if ids.and_then(|ids| ids.checked_add(bytes.len() as u64)) != Some(length) {
        return Ok(None);
    }
    let mut hash = Sha256::new();
    let mut in_range = true;
    let mut block = vec![0; 1 << 16];
    let mut left = length - bytes.len() as u64;
    while left > 0 {
        let n = left.min(block.len() as u64) as usize;
        file.read_exact(&mut block[..n])?;
        hash.update(&block[..n]);
        unpack(&block[..n], header.width(), |_, id| in_range &= u64::from(id) < header.vocab);
        left -= n as u64;
    }
    Ok((in_range && header.ids_hash == <[u8; 32]>::from(hash.finalize())).then_some(header))
}

/// Tokenizes `source` into the file at `path`.
fn build(
    path: &Path,
    key: [u8; 32],
    source: &TextSource,
    tokenizer: &Tokenizer,
    limit: Option<u64>,
) -> Result<Header> {
    let failed = || Error::io("write", path);
    write_atomically(path, |file| {
        // The header is known last, so its place is left free first.
        file.write_all(&[0; Header::BYTES]).map_err(failed())?;
        let vocab = tokenizer.vocab_size() as u64;
        let width = id_width(vocab);
        let mut ids = IdWriter { out: BufWriter::with_capacity(1 << 18, file), hash: Sha256::new() };
        let (mut tokens, mut words) = (0, 0);
        let is_full = |tokens| limit.is_some_and(|limit| tokens >= limit);
        let mut pieces = source.pieces();
        while !is_full(tokens) {
            let batch: Vec<Piece> = pieces.by_ref().take(BATCH).collect::<Result<_>>()?;
            if batch.is_empty() {
                break;
            }
            for (piece, encoded) in batch.iter().zip(encode(tokenizer, &batch)?) {
                if is_full(tokens) {
                    break;
                }
                let start = piece.starts_document.then_some(tokenizer.end_of_text());
                for &id in start.iter().chain(&encoded) {
                    ids.push(id, width).map_err(failed())?;
                    tokens += 1;
                }
                words += piece.words;
            }
        }
        let ids_hash = ids.hash.finalize().into();
        let header = Header { key, vocab, tokens, words, ids_hash };
        let file = ids.out.into_inner().map_err(|e| failed()(e.into_error()))?;
        file.rewind().and_then(|()| file.write_all(&header.to_bytes())).map_err(failed())?;
        Ok(header)
    })
}

fn encode(tokenizer: &Tokenizer, batch: &[Piece]) -> Result<Vec<Vec<u32>>> {
    let texts: Vec<&str> = batch.iter().map(|piece| piece.text.as_str()).collect();
    tokenizer.encode_all(&texts)
}

/// Writes ids and hashes what it writes.
struct IdWriter<W> {
    out: W,
    hash: Sha256,
}

impl<W: Write> IdWriter<W> {
    fn push(&mut self, id: u32, width: usize) -> io::Result<()> {
        let bytes = &id.to_le_bytes()[..width];
        self.hash.update(bytes);
        self.out.write_all(bytes)
    }
}

/// Writes `path` through a temporary file in the same folder, flushed to the disk and then renamed: whoever
/// looks sees the old file or the whole new one. The temporary file is removed when writing fails.
///
/// # Errors
/// [`Error::Io`] naming `path`, and whatever `write` reports.
pub(crate) fn write_atomically<T>(path: &Path, write: impl FnOnce(&mut File) -> Result<T>) -> Result<T> {
    let temporary = temporary_beside(path);
    let mut file = File::create(&temporary).map_err(Error::io("write", path))?;
    let written = write(&mut file).and_then(|value| {
        file.sync_all().map_err(Error::io("write", path))?;
        fs::rename(&temporary, path).map_err(Error::io("write", path))?;
        Ok(value)
    });
    if written.is_err() {
        // The first error is the one to report, whether or not its remains can be removed.
        let _ = fs::remove_file(&temporary);
    }
    written
}

/// Finds out before a long run that a file cannot be written at its end: makes and removes the temporary file.
///
/// # Errors
/// [`Error::Io`] naming `path`.
pub(crate) fn check_writable(path: &Path) -> Result<()> {
    if path.is_dir() {
        return Err(Error::io("write", path)(io::ErrorKind::IsADirectory.into()));
    }
    let temporary = temporary_beside(path);
    File::create(&temporary).and_then(|_| fs::remove_file(&temporary)).map_err(Error::io("write", path))
}

fn temporary_beside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    // Two threads or processes may write the same file; each renames its own.
    static COUNT: AtomicU64 = AtomicU64::new(0);
    name.push(format!(".{}-{}.tmp", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)));
    path.with_file_name(name)
}
