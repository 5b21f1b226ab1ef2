//! Runs the real binary.
#![allow(dead_code, reason = "every test binary uses its own part of this module")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A model so small that a step takes a millisecond, on the built-in language; in f32, whatever the processor is best at.
pub const SMALL: &[&str] = &[
    "--hidden",
    "16",
    "--inner",
    "24",
    "--layers",
    "1",
    "--heads",
    "2",
    "--vocab",
    "256",
    "--seq",
    "16",
    "--batch",
    "2",
    "--rank",
    "2",
    "--experts",
    "4",
    "--clusters",
    "2",
    "--threads",
    "2",
    "--precision",
    "f32",
];

/// What a command did.
#[derive(Debug)]
pub struct Done {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl From<Output> for Done {
    fn from(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("output is UTF-8");
        Done { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }
}

impl Done {
    /// Asserts success and returns stdout.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "{self:#?}");
        self.stdout
    }

    /// The JSON object on the last line of stdout.
    #[track_caller]
    pub fn json(self) -> serde_json::Value {
        let stdout = self.ok();
        serde_json::from_str(stdout.lines().last().expect("a line")).expect("JSON")
    }

    /// Asserts that it failed with `code` and one sentence that holds every part; nothing panicked.
    #[track_caller]
    pub fn fails(&self, code: i32, parts: &[&str]) {
        assert_eq!(self.code, Some(code), "{self:#?}");
        assert!(!self.stderr.contains("panicked"), "{self:#?}");
        let sentences: Vec<&str> = self.stderr.lines().filter(|line| line.starts_with("trimoe: ")).collect();
        assert_eq!(sentences.len(), 1, "{self:#?}");
        for part in parts {
            assert!(sentences[0].contains(part), "no {part:?} in {:?}", sentences[0]);
        }
    }
}

/// Runs `trimoe` with `args`.
pub fn trimoe(args: &[&str]) -> Done {
    Command::new(env!("CARGO_BIN_EXE_trimoe"))
        .args(args)
        .env_remove("RUST_LOG")
        .output()
        .expect("runs")
        .into()
}

/// A disk that is full for files beyond a size: the limit is the shell's, and the write fails in the middle.
#[cfg(unix)]
pub fn with_file_limit(kib: u32, args: &[&str]) -> Done {
    // Without the trap the system would end the process by a signal instead of an error.
    let script = format!("trap '' XFSZ; ulimit -f {}; exec \"$@\"", 2 * kib);
    let mut command = Command::new("sh");
    command.args(["-c", &script, "sh", env!("CARGO_BIN_EXE_trimoe")]).args(args).env_remove("RUST_LOG");
    command.output().expect("a shell").into()
}

/// Runs `trimoe COMMAND` on the small model with further `args`.
pub fn small(command: &str, args: &[&str]) -> Done {
    trimoe(&[&[command], SMALL, args].concat())
}

/// Trains the small model in `out` to `steps`.
pub fn train(out: &Path, steps: u64, args: &[&str]) -> Done {
    small("train", &[&["--out", text(out), "--steps", &steps.to_string()], args].concat())
}

/// A path as an argument.
pub fn text(path: &Path) -> &str {
    path.to_str().expect("a UTF-8 path")
}

/// Checkpoint folders of a run, oldest first.
pub fn checkpoints(run: &Path) -> Vec<PathBuf> {
    let folder = fs::read_dir(run.join("checkpoints")).expect("a run folder");
    let mut found: Vec<PathBuf> = folder.map(|entry| entry.unwrap().path()).collect();
    found.sort();
    found
}

/// Every file of a folder with its bytes, by name.
pub fn contents(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let names = fs::read_dir(folder).expect("a folder").map(|e| e.unwrap().path());
    let mut files: Vec<_> = names
        .map(|p| (p.file_name().unwrap().to_string_lossy().into_owned(), fs::read(&p).unwrap()))
        .collect();
    files.sort();
    files
}

/// The lines of `metrics.jsonl` without their timing.
pub fn metrics(run: &Path) -> Vec<serde_json::Value> {
    let parse = |line: &str| {
        let mut value: serde_json::Value = serde_json::from_str(line).expect("JSON");
        let line = value.as_object_mut().expect("an object");
        line.remove("seconds").expect("a time");
        line.remove("memory"); // as the system gives it
        for event in value["clustering"].as_array_mut().into_iter().flatten() {
            event.as_object_mut().expect("an object").remove("seconds").expect("a time");
        }
        value
    };
    fs::read_to_string(run.join("metrics.jsonl")).expect("metrics").lines().map(parse).collect()
}

/// English-looking text of `words` words, the same every time.
pub fn story(words: usize) -> String {
    const WORDS: [&str; 16] = [
        "the", "river", "runs", "past", "old", "mills", "and", "quiet", "farms", "where", "people", "once",
        "made", "paper", "from", "cloth",
    ];
    let mut state = 12345u32;
    let mut out = String::new();
    for i in 0..words {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        out.push_str(WORDS[(state >> 28) as usize]);
        out.push(if i % 12 == 11 { '\n' } else { ' ' });
    }
    out
}
