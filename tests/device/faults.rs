//! Devices that are missing, too old, too small, or lost: one sentence, and nothing else is lost.

use std::path::Path;
use std::process::Command;

use crate::command::{Done, SMALL, checkpoints, text, train, trimoe};
use crate::{cuda, is_software};

/// Runs `trimoe` under settings of the software device; `None` where the device is another one.
fn with(settings: &[(&str, &str)], args: &[&str]) -> Option<Done> {
    let Some(device) = cuda().filter(is_software) else {
        eprintln!("SKIPPED: faults: they are asked of the software device");
        return None;
    };
    drop(device);
    let mut command = Command::new(env!("CARGO_BIN_EXE_trimoe"));
    command.args(args).envs(settings.iter().copied()).env("SOFTGPU_QUIET", "1").env_remove("RUST_LOG");
    Some(command.output().unwrap().into())
}

fn training<'a>(out: &'a Path, more: &[&'a str]) -> Vec<&'a str> {
    let start = ["train", "--out", text(out), "--steps", "6", "--save-every", "2"];
    [&start[..], SMALL, more].concat()
}

#[test]
fn a_device_that_cannot_run_the_kernels_says_why_and_auto_takes_the_cpu() {
    let cases: [(&[(&str, &str)], &str); 3] = [
        (&[("LD_LIBRARY_PATH", "")], "the CUDA driver (libcuda.so.1) is not installed"),
        (&[("SOFTGPU_DRIVER", "12040")], "the driver supports CUDA 12.4, and the kernels were built with 13"),
        (&[("SOFTGPU_ARCH", "sm_75")], "has compute capability 7.5, and the kernels need 8.0 or later"),
    ];
    for (settings, why) in cases {
        let dir = tempfile::tempdir().unwrap();
        let Some(done) = with(settings, &training(dir.path(), &["--device", "cuda"])) else { return };
        done.fails(1, &["no CUDA device: ", why]);
        let done = with(settings, &training(dir.path(), &["--device", "auto"])).unwrap();
        assert!(
            done.stderr.contains("device: cpu (no CUDA device: ") && done.stderr.contains(why),
            "{done:#?}"
        );
        done.ok();
    }
    let dir = tempfile::tempdir().unwrap();
    let done = with(&[], &training(dir.path(), &["--device", "cuda:7"])).unwrap();
    done.fails(1, &["no CUDA device: device 7 is not one of the 1 that there are"]);
}

#[test]
fn memory_that_runs_out_is_an_error_and_auto_takes_the_cpu() {
    for number in ["1", "20", "60"] {
        let dir = tempfile::tempdir().unwrap();
        let fault = format!("alloc:{number}");
        let settings = [("SOFTGPU_FAULT", fault.as_str())];
        let Some(done) = with(&settings, &training(dir.path(), &["--device", "cuda"])) else { return };
        done.fails(1, &["CUDA, allocating: cuda:0 has no memory for ", "bytes"]);
        let done = with(&settings, &training(dir.path(), &["--device", "auto"])).unwrap();
        assert!(done.stderr.contains("device: cpu (CUDA, allocating: "), "{done:#?}");
        done.ok();
    }
}

#[test]
fn a_device_that_is_lost_in_a_step_loses_no_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("run");
    // Four steps and their checkpoints on the device that works, so that the fault comes in the middle of what follows.
    let Some(device) = cuda().filter(is_software) else { return };
    drop(device);
    train(&out, 6, &["--device", "cuda", "--save-every", "2", "--stop-at", "4"]).ok();
    let on = ["train", "--resume", "--out", text(&out), "--device", "cuda"];
    for fault in ["lost:40", "launch:45", "lost:3"] {
        let done = with(&[("SOFTGPU_FAULT", fault)], &on).unwrap();
        done.fails(1, &["CUDA, "]);
        assert!(done.stderr.contains("the checkpoint of step 4 is in "), "{done:#?}");
        let evaluated = trimoe(&["eval", "--checkpoint", text(&out), "--json"]).json();
        assert_eq!(evaluated["step"], 4, "{fault}");
        assert_eq!(checkpoints(&out).len(), 2);
    }
    let done = trimoe(&["train", "--resume", "--out", text(&out)]);
    done.ok();
    assert_eq!(trimoe(&["eval", "--checkpoint", text(&out), "--json"]).json()["step"], 6);
}
