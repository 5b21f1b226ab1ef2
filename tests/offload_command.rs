//! `--memory-budget` through the real binary.

mod command;

use std::fs;
use std::path::Path;

#[cfg(unix)]
use command::with_file_limit;
use command::{SMALL, checkpoints, contents, metrics, small, text, train, trimoe};
use serde_json::Value;

/// More layers, so that the least budget is far below what all clusters take.
const DEEP: &[&str] = &["--layers", "4"];

/// The least budget of [`DEEP`], as the error about a smaller one names it.
fn least() -> String {
    let dir = tempfile::tempdir().unwrap();
    let done = train(dir.path(), 1, &[DEEP, &["--memory-budget", "1"]].concat());
    done.fails(2, &["--memory-budget 1:", "the least that works is"]);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nothing was written");
    done.stderr.trim().rsplit(' ').next().expect("a number").to_owned()
}

/// The lines of `metrics.jsonl` without what offload did.
fn computed(run: &Path) -> Vec<Value> {
    let mut lines = metrics(run);
    lines.iter_mut().for_each(|line| {
        line.as_object_mut().unwrap().remove("offload");
    });
    lines
}

/// The files of the last checkpoint of a run.
fn last(run: &Path) -> Vec<(String, Vec<u8>)> {
    contents(&checkpoints(run).pop().expect("a checkpoint"))
}

#[test]
fn a_budget_changes_neither_losses_nor_checkpoints() {
    let (dir, least) = (tempfile::tempdir().unwrap(), least());
    let [plain, tight] = ["plain", "tight"].map(|name| dir.path().join(name));
    train(&plain, 12, DEEP).ok();
    let budget = [DEEP, &["--memory-budget", &least]].concat();
    train(&tight, 12, &[&budget[..], &["--stop-at", "5"]].concat()).ok();
    let lines = metrics(&tight);
    assert!(lines.iter().all(|line| line["offload"]["bytes_read"].as_u64().unwrap() > 0), "{lines:?}");
    // The options of a run go on with it, unless others are given.
    trimoe(&["train", "--resume", "--out", text(&tight), "--stop-at", "8"]).ok();
    let done =
        trimoe(&["train", "--resume", "--out", text(&tight), "--stop-at", "10", "--memory-budget", "none"]);
    done.ok();
    let given = ["train", "--resume", "--out", text(&tight), "--memory-budget", "1GiB", "--json"];
    let done = trimoe(&given);
    assert!(done.stdout.contains("offload: "), "{done:#?}");
    let json = done.json();
    let counts = &json["offload"];
    assert!(
        counts["hits"].as_u64().unwrap() > 0 && counts["bytes_written"].as_u64().unwrap() > 0,
        "{counts}"
    );
    let offloaded: Vec<bool> = metrics(&tight).iter().map(|line| line.get("offload").is_some()).collect();
    assert_eq!(offloaded, [[true; 8].as_slice(), &[false; 2], &[true; 2]].concat());
    assert_eq!(computed(&tight), computed(&plain));
    assert!(last(&tight) == last(&plain), "the last checkpoints differ");
    assert!(!tight.join("offload").exists());
}

#[test]
fn budgets_that_cannot_be_are_one_sentence() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("run");
    let with = |args: &[&str]| small("train", &[&["--out", text(&out), "--steps", "2"], args].concat());
    with(&["--memory-budget", "1GiB", "--ffn", "flat"]).fails(2, &["--memory-budget 1073741824:", "flat"]);
    let usage = with(&["--memory-budget", "lots"]);
    assert_eq!(usage.code, Some(2), "{usage:#?}");
    assert!(usage.stderr.contains("'lots' for '--memory-budget <BYTES>'"), "{usage:#?}");
    let file = dir.path().join("run.toml");
    fs::write(&file, "memory-budget = 1\n").unwrap();
    with(&["--config", text(&file)]).fails(2, &["--memory-budget 1:"]);
    let args = [SMALL, &["--variants", "offload", "--memory-budget", "1", "--out", text(&out)]].concat();
    trimoe(&[&["compare"], &args[..]].concat()).fails(2, &["--memory-budget 1:"]);
    assert!(!out.exists(), "nothing was written");
}

#[test]
fn a_comparison_has_a_budget_of_its_own_choice() {
    let dir = tempfile::tempdir().unwrap();
    let args = [SMALL, DEEP, &["--steps", "3", "--out", text(dir.path()), "--variants", "clustered,offload"]];
    let json = trimoe(&[&["compare", "--json"], &args.concat()[..]].concat()).json();
    let [clustered, offload] = json.as_array().unwrap().as_slice() else { panic!("{json}") };
    assert_eq!(clustered["train_loss"], offload["train_loss"]);
    assert_eq!((clustered.get("offload"), offload["name"].as_str()), (None, Some("offload")));
    assert!(offload["offload"]["bytes_read"].as_u64().unwrap() > 0, "{offload}");
}

/// The limit is the shell's: the scratch file cannot grow to its size.
#[cfg(unix)]
#[test]
fn a_full_disk_leaves_the_last_checkpoint() {
    let (dir, least) = (tempfile::tempdir().unwrap(), least());
    let out = dir.path().join("run");
    train(&out, 4, &[DEEP, &["--stop-at", "2"]].concat()).ok();
    let before = last(&out);
    let resume = ["train", "--resume", "--out", text(&out), "--memory-budget", &least];
    with_file_limit(32, &resume).fails(1, &["cannot write", "offload/parts"]);
    assert!(!out.join("offload").exists(), "no scratch stays");
    assert!(last(&out) == before, "the last checkpoint is as it was");
    trimoe(&resume).ok();
    let plain = dir.path().join("plain");
    train(&plain, 4, DEEP).ok();
    assert!(last(&out) == last(&plain), "the last checkpoints differ");
}

#[test]
fn a_killed_run_leaves_only_scratch() {
    let (dir, least) = (tempfile::tempdir().unwrap(), least());
    let [out, plain] = ["run", "plain"].map(|name| dir.path().join(name));
    let args = [SMALL, DEEP, &["--out", text(&out), "--save-every", "2", "--memory-budget", &least]].concat();
    let start = |steps: &str| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_trimoe"));
        command.arg("train").args(&args).args(["--steps", steps]);
        command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap()
    };
    let mut child = start("6000");
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while !out.join("checkpoints/step-00000004").exists() {
        assert!(
            std::time::Instant::now() < deadline && child.try_wait().unwrap().is_none(),
            "it is training"
        );
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(out.join("offload/parts").exists(), "it was killed in the middle");
    let step: u64 = text(&checkpoints(&out).pop().unwrap()).rsplit('-').next().unwrap().parse().unwrap();
    let to = (step + 3).to_string();
    trimoe(&["train", "--resume", "--out", text(&out), "--stop-at", &to, "--memory-budget", "none"]).ok();
    assert!(!out.join("offload").exists(), "what it left is gone");
    let args = [SMALL, DEEP, &["--out", text(&plain), "--steps", "6000", "--stop-at", &to]].concat();
    trimoe(&[&["train"], &args[..]].concat()).ok();
    assert!(last(&out) == last(&plain), "the last checkpoints differ");
}
