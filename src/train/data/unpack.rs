//! Streaming readers for plain, gzip and Zstandard files.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

use crate::{Error, Result};

/// How the bytes of a file are packed, told by the last part of its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Packing {
    Plain,
    Gzip,
    Zstd,
}

impl Packing {
    /// Splits a lower-case file name into its packing and the name without that ending.
    pub fn of(name: &str) -> (Packing, &str) {
        if let Some(stem) = name.strip_suffix(".gz") {
            (Packing::Gzip, stem)
        } else if let Some(stem) = name.strip_suffix(".zst") {
            (Packing::Zstd, stem)
        } else {
            (Packing::Plain, name)
        }
    }
}

/// Reads the unpacked bytes of one file and turns every failure into an error that names the file.
pub(super) struct Unpacked<'a> {
    path: &'a Path,
    packing: Packing,
    reader: Box<dyn Read + Send>,
    /// Unpacked bytes handed out so far.
    offset: u64,
}

impl<'a> Unpacked<'a> {
    pub fn open(path: &'a Path, packing: Packing) -> Result<Self> {
        let file = BufReader::with_capacity(1 << 16, File::open(path).map_err(Error::io("read", path))?);
        let reader: Box<dyn Read + Send> = match packing {
            Packing::Plain => Box::new(file),
            Packing::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(file)),
            Packing::Zstd => Box::new(ZstdReader { source: file, decoder: FrameDecoder::new(), open: false }),
        };
        Ok(Unpacked { path, packing, reader, offset: 0 })
    }

    /// Fills `out` as far as the file goes; fewer bytes than asked for mean its end.
    pub fn fill(&mut self, out: &mut [u8]) -> Result<usize> {
        let mut filled = 0;
        while filled < out.len() {
            match self.reader.read(&mut out[filled..]) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(self.failure(e, self.offset + filled as u64)),
            }
        }
        self.offset += filled as u64;
        Ok(filled)
    }

    fn failure(&self, source: io::Error, offset: u64) -> Error {
        let format = match self.packing {
            Packing::Plain => return Error::io("read", self.path)(source),
            Packing::Gzip => "gzip",
            Packing::Zstd => "Zstandard",
        };
        let why = if source.kind() == io::ErrorKind::UnexpectedEof {
            format!("the {format} stream is cut short after {offset} bytes of text")
        } else {
            format!("the {format} stream is damaged or cut short after {offset} bytes of text ({source})")
        };
        Error::data(self.path, why)
    }
}

/// All frames of a Zstandard file, one after the other, checksums verified.
///
/// `ruzstd`'s own `StreamingDecoder` stops after the first frame and ignores the checksum, while `zstd` and
/// `pzstd` write files of many frames.
struct ZstdReader<R> {
    source: R,
    decoder: FrameDecoder,
    /// Whether a frame has been started and not yet been handed out to its end.
    open: bool,
}

impl<R: BufRead> ZstdReader<R> {
    fn start_frame(&mut self) -> io::Result<()> {
        // The window grows with the data that is really there, so a header that lies about it costs nothing.
        match self.decoder.reset(&mut self.source) {
            Ok(()) => {
                self.open = true;
                Ok(())
            }
            Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                length, ..
            })) => {
                let skipped = io::copy(&mut (&mut self.source).take(length.into()), &mut io::sink())?;
                if skipped < length.into() { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
            }
            Err(e) => Err(io::Error::other(e)),
        }
    }

    fn finish_frame(&mut self) -> io::Result<()> {
        self.open = false;
        match (self.decoder.get_checksum_from_data(), self.decoder.get_calculated_checksum()) {
            (Some(stored), Some(computed)) if stored != computed => {
                Err(io::Error::other("a frame does not match its checksum"))
            }
            _ => Ok(()),
        }
    }
}

impl<R: BufRead> Read for ZstdReader<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if out.is_empty() {
            return Ok(0);
        }
        loop {
            if !self.open {
                if self.source.fill_buf()?.is_empty() {
                    return Ok(0);
                }
                self.start_frame()?;
                continue;
            }
            while self.decoder.can_collect() < out.len() && !self.decoder.is_finished() {
                let missing = out.len() - self.decoder.can_collect();
                self.decoder
                    .decode_blocks(&mut self.source, BlockDecodingStrategy::UptoBytes(missing))
                    .map_err(io::Error::other)?;
            }
            match self.decoder.read(out)? {
                0 if self.decoder.is_finished() => self.finish_frame()?,
                n => return Ok(n),
            }
        }
    }
}
