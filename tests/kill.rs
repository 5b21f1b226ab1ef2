//! Runs that are killed.

mod command;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use command::{SMALL, checkpoints, contents, metrics, text, train, trimoe};

/// How often.
const KILLS: usize = 20;
const STEPS: u64 = 900;

/// Lines that a run has written so far.
fn lines(run: &Path) -> usize {
    fs::read(run.join("metrics.jsonl")).map_or(0, |bytes| bytes.iter().filter(|&&b| b == b'\n').count())
}

fn has_checkpoint(run: &Path) -> bool {
    run.join("checkpoints").is_dir()
        && checkpoints(run)
            .iter()
            .any(|path| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with("step-")))
}

#[test]
fn a_run_that_is_killed_twenty_times_ends_as_one_that_never_was() {
    let dir = tempfile::tempdir().unwrap();
    let [whole, killed] = ["whole", "killed"].map(|name| dir.path().join(name));
    // It saves and regroups all the time, so that kills meet both.
    let args = ["--save-every", "2", "--cluster-every", "3", "--burn-in", "2", "--cluster-gain", "0"];
    train(&whole, STEPS, &args).ok();
    let steps = STEPS.to_string();
    let new = [&["train", "--out", text(&killed), "--steps", &steps], SMALL, &args].concat();
    let on = ["train", "--resume", "--out", text(&killed)];
    let mut state = 1u64;
    let mut below = |n: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % n
    };
    let mut kills = 0;
    while kills < KILLS {
        let args: &[&str] = if has_checkpoint(&killed) { &on } else { &new };
        let mut command = Command::new(env!("CARGO_BIN_EXE_trimoe"));
        let mut child =
            command.args(args).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("runs");
        // After a few steps, and then at any moment: before the first line of all there is nothing to lose.
        let wanted = lines(&killed) + below(12) as usize;
        let start = Instant::now();
        while lines(&killed) < wanted && start.elapsed() < Duration::from_secs(60) {
            if child.try_wait().unwrap().is_some() {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_micros(below(15_000)));
        child.kill().unwrap();
        let ended = child.wait_with_output().unwrap();
        // A run that could not start has an exit code, and so has one that was faster; one that was killed has none.
        let said = String::from_utf8_lossy(&ended.stderr);
        assert_eq!(ended.status.code(), None, "after {kills} kills: {said}");
        kills += 1;
    }
    trimoe(if has_checkpoint(&killed) { &on } else { &new }).ok();
    let [a, b] = [&whole, &killed].map(|run| checkpoints(run).pop().unwrap());
    assert!(a.ends_with(format!("step-{STEPS:08}")) && b.ends_with(format!("step-{STEPS:08}")));
    for (a, b) in contents(&a).into_iter().zip(contents(&b)) {
        assert!(a == b, "{} differs", a.0);
    }
    assert_eq!(metrics(&whole), metrics(&killed));
    // Nothing unfinished is left beside them.
    assert_eq!(checkpoints(&killed).len(), 2);
}
