//! The command on a CUDA device.

use std::fs;
use std::path::{Path, PathBuf};

use crate::command::{SMALL, metrics, small, story, text, trimoe};
use crate::cuda;

/// Text to train on, and little to evaluate: an emulator takes its time.
struct Texts {
    dir: tempfile::TempDir,
}

impl Texts {
    /// `None` without a device.
    fn new() -> Option<Self> {
        drop(cuda()?);
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("train.txt"), story(400)).unwrap();
        fs::write(dir.path().join("eval.txt"), story(30)).unwrap();
        Some(Texts { dir })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Trains in the folder `name`.
    fn train(&self, name: &str, more: &[&str]) -> crate::command::Done {
        let [out, data, eval] = [name, "train.txt", "eval.txt"].map(|name| self.path(name));
        let given = ["--out", text(&out), "--data", text(&data), "--eval-data", text(&eval)];
        trimoe(&[&["train"], SMALL, &given[..], &["--vocab", "300"], more].concat())
    }
}

fn loss(line: &serde_json::Value) -> f64 {
    line["loss"].as_f64().unwrap()
}

/// The losses of two runs from a step on, within a share of each other.
fn alike(a: &Path, b: &Path, from: usize, within: f64) {
    let (a, b) = (metrics(a), metrics(b));
    assert_eq!(a.len(), b.len());
    for (a, b) in a.iter().zip(&b).skip(from) {
        assert!((loss(a) - loss(b)).abs() < within * loss(a), "{a} {b}");
    }
}

#[test]
fn a_run_on_the_device_is_evaluated_continued_and_sampled_on_either() {
    let Some(texts) = Texts::new() else { return };
    let [cpu, gpu] = ["cpu", "gpu"].map(|name| texts.path(name));
    texts.train("cpu", &["--steps", "6", "--stop-at", "4"]).ok();
    let done = texts.train("gpu", &["--steps", "6", "--stop-at", "4", "--device", "cuda"]);
    assert!(done.stderr.contains("device: cuda:0, "), "{done:#?}");
    done.ok();
    alike(&cpu, &gpu, 0, 1e-3);
    // What one device began another can end.
    let on = |out: &Path, device: &str, stop: &str| {
        let args = ["train", "--resume", "--out", text(out), "--stop-at", stop, "--device", device];
        trimoe(&args).ok()
    };
    on(&cpu, "cpu", "6");
    on(&gpu, "cpu", "5");
    on(&gpu, "cuda:0", "6");
    alike(&cpu, &gpu, 4, 1e-3);
    let eval_data = texts.path("eval.txt");
    let eval = |device: &str| {
        let args = ["eval", "--checkpoint", text(&gpu), "--eval-data", text(&eval_data), "--json"];
        trimoe(&[&args[..], &["--device", device]].concat()).json()["loss"].as_f64().unwrap()
    };
    let (here, there) = (eval("cpu"), eval("cuda"));
    assert!((here - there).abs() < 1e-4 * here, "{here} {there}");
    let sample = |device: &str| {
        let args = ["generate", "--checkpoint", text(&gpu), "--length", "8", "--device", device];
        trimoe(&[&args[..], &["--temperature", "0"]].concat()).ok()
    };
    assert_eq!(sample("cpu"), sample("cuda"));
}

#[test]
fn clusters_are_offloaded_beside_the_device() {
    let Some(texts) = Texts::new() else { return };
    let args =
        ["--steps", "4", "--layers", "2", "--device", "cuda", "--cluster-every", "2", "--burn-in", "1"];
    texts.train("whole", &args).ok();
    let least = ["--memory-budget", "1"];
    let refused = texts.train("least", &[&args[..], &least].concat());
    let least = refused.stderr.trim().rsplit(' ').next().unwrap().to_owned();
    assert_eq!(refused.code, Some(2), "{refused:#?}");
    texts.train("tight", &[&args[..], &["--memory-budget", &least]].concat()).ok();
    // The CPU's steps of the optimiser round as they do, not as the device's.
    alike(&texts.path("whole"), &texts.path("tight"), 0, 1e-5);
}

#[test]
fn a_flat_run_is_compressed_with_its_models_on_the_device() {
    let Some(texts) = Texts::new() else { return };
    texts.train("flat", &["--ffn", "flat", "--steps", "3"]).ok();
    let [flat, data, eval] = ["flat", "train.txt", "eval.txt"].map(|name| texts.path(name));
    let compress = |device: &str| {
        let to = texts.path(device);
        let args = ["compress", "--from", text(&flat), "--to", text(&to), "--clusters", "2", "--rank", "2"];
        let texts = ["--calibration", text(&data), "--eval-data", text(&eval), "--calibration-tokens", "64"];
        trimoe(&[&args[..], &texts, &["--device", device, "--json"]].concat()).json()
    };
    let word = |json: serde_json::Value| json["ppl_word_after"].as_f64().unwrap();
    let (here, there) = (word(compress("cpu")), word(compress("cuda")));
    assert!((here - there).abs() < 1e-3 * here, "{here} {there}");
}

#[test]
fn variants_are_compared_on_the_device() {
    let Some(texts) = Texts::new() else { return };
    let [out, data, eval] = ["out", "train.txt", "eval.txt"].map(|name| texts.path(name));
    let args = ["--out", text(&out), "--data", text(&data), "--eval-data", text(&eval), "--vocab", "300"];
    let more = ["--steps", "2", "--variants", "dense,clustered", "--device", "auto", "--precision", "bf16"];
    let done = small("compare", &[&args[..], &more].concat());
    let said = done.stderr.clone();
    done.ok();
    assert_eq!(said.matches("device: cuda:0, ").count(), 2, "{said}");
}
