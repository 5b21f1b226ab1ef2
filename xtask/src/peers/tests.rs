//! With programs that are scripts.
#![cfg(unix)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde_json::{Value, json};

use super::Variant;
use super::program::{FORMS, Programs, Torch};
use super::report::Report;

/// Takes 9 s for its first step and half a second in f32, a quarter in bf16, for two more.
const TRIMOE: &str = r#"
while [ $# -gt 0 ]; do
    case "$1" in --out) out=$2 ;; --precision) precision=$2 ;; esac
    shift
done
mkdir "$out"
case "$precision" in f32) seconds=0.5 ;; *) seconds=0.25 ;; esac
for step in 9 $seconds $seconds; do echo "{\"seconds\": $step}"; done > "$out/metrics.jsonl"
"#;

/// Has torch, takes a second a step, and fails in bf16.
const PYTHON: &str = r#"
[ "$1" = -c ] && { echo 9.9.9; exit; }
case "$*" in *bf16*) echo 'Traceback' >&2; echo 'RuntimeError: no bf16 | here' >&2; exit 1 ;; esac
echo 'a warning'
echo '{"seconds": [1.0, 1.0]}'
"#;

/// One test at a time: a script that is still open for writing in the child of another test cannot be run.
static ALONE: Mutex<()> = Mutex::new(());

fn script(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    fs::write(&path, format!("#!/bin/sh\n{text}")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// With the run folders beside our program.
fn programs(trimoe: PathBuf, python: &Path) -> Programs {
    Programs {
        scratch: trimoe.parent().unwrap().to_owned(),
        trimoe,
        torch: Some(Torch::find(python, vec![("SOME".into(), "thing".into())], None)),
        candle: Some(Err("does not build here: no C compiler".into())),
        steps: 2,
        warmup: 1,
        batch: 4,
        threads: 2,
        rounds: 2,
        optimizer: "foreach".into(),
    }
}

fn dense() -> Variant {
    let model = json!({ "ffn": "dense", "seq": 100, "norm-eps": 1e-5 });
    Variant { name: "dense, inner 8".into(), ffn: "dense", model }
}

/// Two rounds of everything dense.
fn measured(programs: &Programs) -> anyhow::Result<Report> {
    let mut report = Report::new(programs);
    let contestants = FORMS.iter().filter(|c| c.ffn == "dense").copied().collect();
    let mut rows = report.rows(&dense(), contestants);
    for round in 1..=2 {
        for row in &mut rows {
            row.run(programs, &dense(), round)?;
        }
    }
    report.add(rows);
    Ok(report)
}

#[test]
fn what_runs_has_ratios_and_what_does_not_says_why() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = tempfile::tempdir().unwrap();
    let programs =
        programs(script(folder.path(), "trimoe", TRIMOE), &script(folder.path(), "python", PYTHON));
    let report = measured(&programs).unwrap();
    let table = report.markdown();
    let row = |start: &str| {
        let found = table.lines().find(|line| line.starts_with(&format!("| dense, inner 8 | {start}")));
        found.unwrap_or_else(|| panic!("no {start:?} in\n{table}")).to_owned()
    };
    // 400 tokens a step; the first step of trimoe is its warm-up.
    assert!(row("trimoe | f32").contains("| 800 (800 to 800) | 1.00 (1.00 to 1.00) | 2.00 (2.00 to 2.00) |"));
    assert!(
        row("PyTorch | f32").contains("| 400 (400 to 400) | 2.00 (2.00 to 2.00) | 4.00 (4.00 to 4.00) |")
    );
    assert!(
        row("PyTorch, autocast | bf16")
            .contains(r"DOES NOT RUN: RuntimeError: no bf16 \| here | - | - | - |")
    );
    assert!(row("candle | f32").contains("DOES NOT RUN: does not build here: no C compiler"));
    assert_eq!(report.missing().len(), 3);
    assert!(table.contains("PyTorch 9.9.9 (SOME=thing), AdamW foreach; candle 0."), "{table}");

    let document: Value = serde_json::from_str(&report.json().unwrap()).unwrap();
    let rows = document["rows"].as_array().unwrap();
    assert_eq!(rows.len(), FORMS.iter().filter(|c| c.ffn == "dense").count());
    assert_eq!(rows[2]["trimoe_bf16_over_it"]["median"], 4.0);
    assert_eq!(rows[2]["runs"][1]["seconds"], json!([1.0, 1.0]));
    assert_eq!(rows[3]["does_not_run"], "RuntimeError: no bf16 | here");
}

#[test]
fn a_python_without_torch_is_named_with_what_to_do() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = tempfile::tempdir().unwrap();
    let without = "echo \"ModuleNotFoundError: No module named 'torch'\" >&2; exit 1";
    let python = script(folder.path(), "python", without);
    let found = Torch::find(&python, Vec::new(), None).version.unwrap_err();
    assert!(found.contains("No module named 'torch'") && found.contains("--python"), "{found}");
    let found = Torch::find(Path::new("/none/python"), Vec::new(), None).version.unwrap_err();
    assert!(found.contains("/none/python does not start"), "{found}");

    let report = measured(&programs(script(folder.path(), "trimoe", TRIMOE), &python)).unwrap();
    assert_eq!(report.missing().iter().filter(|line| line.contains("No module named 'torch'")).count(), 2);
    assert!(report.markdown().contains("no PyTorch"));
}

#[test]
fn without_ours_there_is_no_comparison() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = tempfile::tempdir().unwrap();
    let python = script(folder.path(), "python", PYTHON);
    for (text, why) in [
        ("echo 'trimoe: --vocab 9: too small' >&2; exit 2", "trimoe: --vocab 9: too small"),
        (r#"mkdir "$5"; echo '{"seconds": 1}' > "$5/metrics.jsonl""#, "reports 0 timed steps of 2"),
    ] {
        let trimoe = script(folder.path(), "trimoe", text);
        let error = measured(&programs(trimoe, &python)).err().expect("an error");
        let error = format!("{error:#}");
        assert!(error.contains("dense, inner 8, trimoe, f32") && error.contains(why), "{error}");
    }
}
