//! Residuals in INT4, through the real binary.

use std::fs;
use std::path::Path;

use crate::command::{Done, checkpoints, metrics, text, train, trimoe};

/// Factors of a cluster are 32 rows: nothing is padded.
const SIZES: [&str; 8] = ["--hidden", "32", "--inner", "64", "--rank", "8", "--experts", "8"];

fn clustered(out: &Path, args: &[&str]) -> Done {
    train(out, 20, &[&SIZES[..], &["--lr", "0.01", "--warmup", "5", "--json"], args].concat())
}

fn pack(from: &Path, to: &Path, args: &[&str]) -> Done {
    trimoe(&[&["pack", "--from", text(from), "--to", text(to), "--threads", "2"], args].concat())
}

fn evaluate(run: &Path) -> (f64, u64, String) {
    let done = trimoe(&["eval", "--checkpoint", text(run), "--json"]);
    let stdout = done.stdout.clone();
    let json = done.json();
    (json["ppl_word"].as_f64().unwrap(), json["weight_bytes"].as_u64().unwrap(), stdout)
}

#[test]
fn a_packed_run_is_small_evaluated_continued_and_trained_on() {
    let dir = tempfile::tempdir().unwrap();
    let [from, block, group, on] = ["from", "block", "group", "on"].map(|name| dir.path().join(name));
    clustered(&from, &[]).ok();
    let (before, plain_bytes, stdout) = evaluate(&from);
    assert!(!stdout.contains("INT4"), "{stdout}");
    pack(&from, &block, &[]).ok();
    for (to, int4) in [(&block, "block"), (&group, "group")] {
        if int4 == "group" {
            pack(&from, to, &["--int4", int4]).ok();
        }
        let (ppl, bytes, stdout) = evaluate(to);
        assert!((ppl / before - 1.0).abs() < 0.02 && ppl != before, "{int4}: {ppl} for {before}");
        assert!(stdout.contains(&format!("residuals in INT4 ({int4})")), "{stdout}");
        assert!(bytes < plain_bytes, "{bytes} of {plain_bytes}");
        trimoe(&["generate", "--checkpoint", text(to), "--length", "4"]).ok();
        let inspected = trimoe(&["inspect", "--checkpoint", text(to)]).ok();
        assert!(inspected.contains(&format!("of weights, residuals in INT4 ({int4})")), "{inspected}");
    }
    trimoe(&["train", "--resume", "--out", text(&block), "--steps", "30"])
        .fails(1, &["no optimiser state", "--from"]);
    // A run from it is a run like others: it continues without what it came from, from f32.
    trimoe(&["train", "--from", text(&block), "--out", text(&on), "--steps", "4"]).ok();
    fs::remove_dir_all(&block).unwrap();
    trimoe(&["train", "--resume", "--out", text(&on), "--steps", "6"]).ok();
    assert_eq!(metrics(&on).len(), 6);
    assert!(!evaluate(&on).2.contains("INT4"));
}

#[test]
fn the_sizes_it_prints_are_those_of_the_files() {
    let dir = tempfile::tempdir().unwrap();
    let [from, to] = ["from", "to"].map(|name| dir.path().join(name));
    clustered(&from, &[]).ok();
    let json = pack(&from, &to, &["--json"]).json();
    for (run, name) in [(&from, "model_bytes_before"), (&to, "model_bytes_after")] {
        let file = checkpoints(run).pop().unwrap().join("model.safetensors");
        assert_eq!(json[name].as_u64(), Some(fs::metadata(file).unwrap().len()), "{json}");
    }
    assert!(json["model_bytes_after"].as_u64() < json["model_bytes_before"].as_u64(), "{json}");
}

#[test]
fn a_run_in_int4_stores_residuals_packed_and_is_evaluated_from_them() {
    for args in [&["--int4-from", "9"][..], &["--int4-from", "9", "--int4", "group", "--precision", "bf16"]] {
        let dir = tempfile::tempdir().unwrap();
        let [run, other] = ["run", "other"].map(|name| dir.path().join(name));
        let summary = clustered(&run, args).json();
        let (ppl, _, stdout) = evaluate(&run);
        let trained = summary["ppl_word"].as_f64().unwrap();
        // Not to the bit: products with packed factors sum in another order.
        assert!((ppl / trained - 1.0).abs() < 1e-3, "{ppl} for {trained}");
        assert!(stdout.contains("residuals in INT4"), "{stdout}");
        // A new run goes on from its f32 residuals.
        trimoe(&["train", "--from", text(&run), "--out", text(&other), "--steps", "2", "--int4-from", "0"])
            .ok();
        assert!(!evaluate(&other).2.contains("INT4"));
    }
}

#[test]
fn what_cannot_be_packed_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let [flat, full, run, to] = ["flat", "full", "run", "to"].map(|name| dir.path().join(name));
    pack(&flat, &to, &[]).fails(1, &["cannot read", "flat"]);
    train(&flat, 2, &["--ffn", "flat"]).ok();
    pack(&flat, &to, &[]).fails(2, &["--from", "flat", "its experts are flat"]);
    train(&full, 4, &["--mode", "convert", "--burn-in", "3", "--stop-at", "2"]).ok();
    pack(&full, &to, &[]).fails(2, &["--from", "full", "its experts are full"]);
    train(&run, 2, &[]).ok();
    pack(&run, &flat, &[]).fails(2, &["--to", "flat", "holds a run already"]);
    assert!(!to.exists());
    pack(&run, &to, &[]).ok();
    pack(&to, &dir.path().join("again"), &[]).fails(2, &["--from", "to", "packed already (block)"]);
}
