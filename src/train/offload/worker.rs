//! The file tier: one scratch file, and the one thread that reads and writes it.
//!
//! Transfers are owned buffers over channels, done in the order they were asked for, so a read sees what was written
//! before it. Reads and writes go to a position in the file; it is not mapped, because a full disk or a file cut short
//! would then be a signal that ends the process, not an error.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread::JoinHandle;

use super::words::Words;
use crate::device::Device;
use crate::error::{Error, Result};

/// Name of the folder of scratch files in a run folder.
pub(in crate::train) const FOLDER: &str = "offload";
const NAME: &str = "parts";

/// Something with room for all parts.
pub(super) trait Medium: Send {
    /// Fills `to` from position `at`.
    fn read_at(&mut self, at: u64, to: &mut [u8]) -> io::Result<()>;
    /// Writes `from` at position `at`.
    fn write_at(&mut self, at: u64, from: &[u8]) -> io::Result<()>;
}

impl Medium for File {
    fn read_at(&mut self, at: u64, to: &mut [u8]) -> io::Result<()> {
        self.seek(SeekFrom::Start(at))?;
        self.read_exact(to)
    }

    fn write_at(&mut self, at: u64, from: &[u8]) -> io::Result<()> {
        self.seek(SeekFrom::Start(at))?;
        self.write_all(from)
    }
}

/// A file of `bytes` zeros in a folder of its own, both removed in the end. Every byte is written, so that a disk without
/// room says so now.
#[derive(Debug)]
pub(super) struct Scratch {
    folder: PathBuf,
    pub path: PathBuf,
}

impl Scratch {
    pub fn create(run: &Path, bytes: u64) -> Result<(Self, File)> {
        let folder = run.join(FOLDER);
        fs::create_dir_all(&folder).map_err(Error::io("create", &folder))?;
        let path = folder.join(NAME);
        let scratch = Scratch { folder, path };
        let path = &scratch.path;
        let open = File::options().read(true).write(true).create(true).truncate(true).open(path);
        let mut file = open.map_err(Error::io("create", path))?;
        let zeros = vec![0; 1 << 20];
        let mut left = bytes;
        while left > 0 {
            let n = left.min(zeros.len() as u64);
            file.write_all(&zeros[..n as usize]).map_err(Error::io("write", path))?;
            left -= n;
        }
        Ok((scratch, file))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What stays is scratch: the next run in this folder removes it.
        let _ = fs::remove_file(&self.path);
        let _ = fs::remove_dir(&self.folder);
    }
}

/// Removes what a run that was killed left.
pub(in crate::train) fn remove_stale(run: &Path) -> Result<()> {
    let folder = run.join(FOLDER);
    match fs::remove_dir_all(&folder) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::io("remove", &folder)(e)),
        _ => Ok(()),
    }
}

/// Bytes of parts in memory, wherever they are on their way, and the most there ever were.
#[derive(Debug, Default)]
pub(super) struct Meter {
    held: AtomicU64,
    peak: AtomicU64,
}

impl Meter {
    pub fn add(&self, bytes: u64) {
        let held = self.held.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.peak.fetch_max(held, Ordering::Relaxed);
    }

    pub fn sub(&self, bytes: u64) {
        self.held.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// The most since the last call.
    pub fn take_peak(&self) -> u64 {
        let held = self.held.load(Ordering::Relaxed);
        self.peak.swap(held, Ordering::Relaxed).max(held)
    }
}

enum Request {
    Read { tag: usize, at: u64, words: usize },
    Write { at: u64, words: Words },
}

/// What became of a request.
pub(super) enum Done {
    /// The words of a read, with its tag.
    Read(usize, Words),
    /// So many bytes were written and left memory.
    Written(u64),
}

/// The thread.
#[derive(Debug)]
pub(super) struct Worker {
    requests: Option<Sender<Request>>,
    replies: Receiver<(&'static str, io::Result<Done>)>,
    thread: Option<JoinHandle<()>>,
    path: PathBuf,
}

impl Worker {
    /// Starts it; `path` is what errors name, and traces of `device` show what it does.
    pub fn start(
        mut medium: impl Medium + 'static,
        path: PathBuf,
        meter: Arc<Meter>,
        device: Device,
    ) -> Result<Self> {
        let (requests, todo) = channel();
        let (done, replies) = channel();
        let work = move || {
            for request in todo {
                let reply = match request {
                    Request::Read { tag, at, words } => {
                        let _span = device.span("read").with("bytes", words * size_of::<u32>());
                        ("read", read(&mut medium, (&device, &meter), tag, at, words))
                    }
                    Request::Write { at, words } => {
                        let _span = device.span("write").with("bytes", words.len() * size_of::<u32>());
                        ("write", write(&mut medium, &meter, at, words))
                    }
                };
                if done.send(reply).is_err() {
                    break;
                }
            }
        };
        let thread = std::thread::Builder::new().name("offload".into()).spawn(work);
        let thread = thread.map_err(|e| Error::Host { what: "the thread of offload", why: e.to_string() })?;
        Ok(Worker { requests: Some(requests), replies, thread: Some(thread), path })
    }

    pub fn read(&self, tag: usize, at: u64, words: usize) -> Result<()> {
        self.send(Request::Read { tag, at, words })
    }

    pub fn write(&self, at: u64, words: Words) -> Result<()> {
        self.send(Request::Write { at, words })
    }

    fn send(&self, request: Request) -> Result<()> {
        let sent = self.requests.as_ref().map(|requests| requests.send(request));
        if matches!(sent, Some(Ok(()))) { Ok(()) } else { Err(self.gone()) }
    }

    /// The next reply, if there is one.
    pub fn poll(&self) -> Result<Option<Done>> {
        match self.replies.try_recv() {
            Ok(reply) => self.done(reply).map(Some),
            Err(TryRecvError::Empty) => Ok(None),
            Err(TryRecvError::Disconnected) => Err(self.gone()),
        }
    }

    /// Waits for the next reply.
    pub fn wait(&self) -> Result<Done> {
        let reply = self.replies.recv().map_err(|_| self.gone())?;
        self.done(reply)
    }

    fn done(&self, (action, result): (&'static str, io::Result<Done>)) -> Result<Done> {
        result.map_err(Error::io(action, &self.path))
    }

    fn gone(&self) -> Error {
        Error::io("use", &self.path)(io::Error::other("the thread that reads and writes it has ended"))
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.requests = None;
        if let Some(thread) = self.thread.take() {
            // Everything it could say came with a reply.
            let _ = thread.join();
        }
    }
}

/// Memory counts from here on, when the writes that make room for it are done.
fn read(
    medium: &mut impl Medium,
    (device, meter): (&Device, &Meter),
    tag: usize,
    at: u64,
    words: usize,
) -> io::Result<Done> {
    let none = |e| io::Error::new(io::ErrorKind::OutOfMemory, e);
    let mut buffer = Words::zeros(device, words).map_err(none)?;
    meter.add((words * size_of::<u32>()) as u64);
    medium.read_at(at, bytemuck::cast_slice_mut(&mut buffer))?;
    Ok(Done::Read(tag, buffer))
}

fn write(medium: &mut impl Medium, meter: &Meter, at: u64, words: Words) -> io::Result<Done> {
    let bytes = (words.len() * size_of::<u32>()) as u64;
    medium.write_at(at, bytemuck::cast_slice(&words))?;
    drop(words);
    meter.sub(bytes);
    Ok(Done::Written(bytes))
}
