//! Bad input: one sentence that names the file or option, and nothing half-written.

use std::fs;
use std::path::Path;

use safetensors::tensor::Dtype;

use crate::command::{Done, story, text, train, trimoe};
use crate::model::{Layout, mixtral, olmoe, shard_name, tensors, write};

fn compress(from: &Path, to: &Path, args: &[&str]) -> Done {
    trimoe(
        &[&["compress", "--from", text(from), "--to", text(to), "--clusters", "2", "--rank", "2"], args]
            .concat(),
    )
}

/// Nothing in a folder but these.
#[track_caller]
fn holds(folder: &Path, names: &[&str]) {
    let mut found: Vec<String> =
        fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    found.sort();
    assert_eq!(found, names);
}

#[test]
fn options_that_do_not_fit_a_run_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let [flat, dense, to, short] = ["flat", "dense", "to", "short.txt"].map(|name| dir.path().join(name));
    train(&flat, 2, &["--ffn", "flat"]).ok();
    train(&dense, 2, &["--ffn", "dense"]).ok();
    fs::write(&short, "a text").unwrap();
    compress(&flat, &to, &["--clusters", "3"]).fails(2, &["--clusters 3", "does not divide --experts 4"]);
    compress(&flat, &to, &["--clusters", "4"]).fails(2, &["--topk 2", "above the 1 experts of a cluster"]);
    compress(&flat, &to, &["--clusters", "0"]).fails(2, &["--clusters 0", "at least 1"]);
    compress(&flat, &to, &["--rank", "17"]).fails(2, &["--rank 17", "above min"]);
    compress(&flat, &to, &["--alpha", "1.5"]).fails(2, &["--alpha 1.5", "0..=1"]);
    compress(&flat, &to, &["--threads", "99999"]).fails(2, &["--threads 99999", "limit"]);
    compress(&flat, &to, &["--calibration", text(&short)]).fails(2, &["--calibration", "built-in language"]);
    compress(&dense, &to, &[]).fails(2, &["--from", "is dense", "flat"]);
    compress(&flat, &dense, &[]).fails(2, &["--to", "holds a run already"]);
    compress(&dir.path().join("nowhere"), &to, &[]).fails(1, &["cannot read", "nowhere"]);
    let base = ["compress", "--from", text(&flat), "--to", text(&to), "--clusters", "2"];
    trimoe(&[&base[..], &["--ratio", "0.4"]].concat()).fails(2, &["--ratio 0.4", "keep 60.42 %"]);
    assert_eq!(trimoe(&base).code, Some(2), "neither --rank nor --ratio");
    assert!(!to.exists());
}

#[test]
fn a_run_from_weights_takes_their_shape() {
    let dir = tempfile::tempdir().unwrap();
    let [flat, out] = ["flat", "out"].map(|name| dir.path().join(name));
    train(&flat, 2, &["--ffn", "flat"]).ok();
    let from = |args: &[&str]| {
        trimoe(&[&["train", "--from", text(&flat), "--out", text(&out), "--steps", "2"], args].concat())
    };
    from(&["--resume"]).fails(2, &["--from", "--resume continues one"]);
    from(&["--preset", "small"]).fails(2, &["--preset small", "the model is that of --from"]);
    from(&["--checkpoint", text(&flat)]).fails(2, &["--checkpoint", "the model is that of --from"]);
    from(&["--ffn", "clustered"]).fails(2, &["--ffn clustered", "was made with flat"]);
    from(&["--out", text(&flat)]).fails(2, &["--out", "holds a run already"]);
    trimoe(&["compare", "--from", text(&flat)]).fails(2, &["--from", "from their start"]);
    assert!(!out.exists());
    from(&[]).ok();
}

#[test]
fn a_text_too_short_to_calibrate_on_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let [data, run, to, short] = ["data.txt", "run", "to", "short.txt"].map(|name| dir.path().join(name));
    fs::write(&data, story(2000)).unwrap();
    fs::write(&short, story(10)).unwrap();
    train(&run, 2, &["--ffn", "flat", "--data", text(&data), "--eval-data", text(&data), "--vocab", "300"])
        .ok();
    compress(&run, &to, &[]).fails(2, &["--calibration (none)", "trained on text"]);
    compress(&run, &to, &["--calibration", text(&short)]).fails(1, &["short.txt", "fewer than the 33"]);
    let missing = dir.path().join("missing.txt");
    compress(&run, &to, &["--calibration", text(&missing)]).fails(1, &["missing.txt"]);
    assert!(!to.exists());
    compress(&run, &to, &["--calibration", text(&data)]).ok();
}

#[test]
fn models_that_cannot_be_compressed_say_why() {
    let dir = tempfile::tempdir().unwrap();
    let to = dir.path().join("to");
    let good = tensors(&mixtral(), Dtype::F32, 1);
    let from = |name: &str, layout: &Layout, change: &dyn Fn(&Path)| {
        let folder = dir.path().join(name);
        write(&folder, layout, &good, 3);
        change(&folder);
        folder
    };
    let keep = |_: &Path| ();
    let plain = from("plain", &mixtral(), &keep);
    compress(&plain, &to, &["--clusters", "4"]).fails(2, &["--clusters 4", "does not divide the 6 experts"]);
    compress(&plain, &to, &["--clusters", "6"]).fails(2, &["--clusters 6", "fewer than the 2 of a token"]);
    compress(&plain, &to, &["--rank", "13"]).fails(2, &["--rank 13", "1..=12"]);
    compress(&plain, &to, &["--calibration", "x.txt"]).fails(2, &["--calibration x.txt", "cannot be run"]);
    compress(&plain, &to, &["--base", "load"]).fails(2, &["--base load", "cannot be run"]);
    compress(&plain, &plain, &[]).fails(2, &["--to", "exists already"]);

    let mut other = mixtral();
    other.config["model_type"] = "llama".into();
    compress(&from("llama", &other, &keep), &to, &[])
        .fails(1, &["config.json", "`llama`", "mixtral, qwen3_moe, olmoe"]);
    let mut other = mixtral();
    other.config["num_local_experts"] = serde_json::Value::Null;
    compress(&from("sizes", &other, &keep), &to, &[]).fails(1, &["`num_local_experts` is null"]);
    let mut other = mixtral();
    other.config["num_hidden_layers"] = 4.into();
    compress(&from("layers", &other, &keep), &to, &[])
        .fails(1, &["no tensor `model.layers.3.block_sparse_moe.gate.weight`"]);
    let mut other = mixtral();
    other.config["intermediate_size"] = 13.into();
    compress(&from("shape", &other, &keep), &to, &[]).fails(1, &["experts.0.w1", "[12, 20] where [13, 20]"]);

    let (second, third) = (shard_name(1, 3), shard_name(2, 3));
    let missing = from("missing", &mixtral(), &|folder| {
        for name in [&second, &third] {
            fs::remove_file(folder.join(name)).unwrap();
        }
    });
    compress(&missing, &to, &[]).fails(1, &["2 of 3 shards are missing", &second, &third]);
    let cut = from("cut", &mixtral(), &|folder| {
        let bytes = fs::read(folder.join(&second)).unwrap();
        fs::write(folder.join(&second), &bytes[..bytes.len() - 1]).unwrap();
    });
    compress(&cut, &to, &[]).fails(1, &[&second, "truncated or overwritten"]);
    let stub = from("stub", &mixtral(), &|folder| fs::write(folder.join(&third), "short").unwrap());
    compress(&stub, &to, &[]).fails(1, &[&third, "5 bytes"]);
    let swapped = from("swapped", &mixtral(), &|folder| {
        fs::copy(folder.join(&third), folder.join(&second)).unwrap();
    });
    compress(&swapped, &to, &[]).fails(1, &[&second, "there is no tensor"]);
    let index = "model.safetensors.index.json";
    let without = from("without", &mixtral(), &|folder| fs::remove_file(folder.join(index)).unwrap());
    compress(&without, &to, &[]).fails(1, &["neither", index]);
    let escape = from("escape", &mixtral(), &|folder| {
        let text =
            fs::read_to_string(folder.join(index)).unwrap().replace(&third, &format!("../plain/{third}"));
        fs::write(folder.join(index), text).unwrap();
    });
    compress(&escape, &to, &[]).fails(1, &[index, "no name of a file beside it"]);

    let mut broken = good.clone();
    let weight = "model.layers.2.block_sparse_moe.experts.4.w2.weight";
    broken.get_mut(weight).unwrap().2[8..12].copy_from_slice(&f32::NAN.to_le_bytes());
    let folder = dir.path().join("nan");
    write(&folder, &mixtral(), &broken, 1);
    compress(&folder, &to, &[]).fails(1, &["model.safetensors", "element 2", weight, "NaN"]);
    let mut eight = good.clone();
    eight.get_mut(weight).unwrap().0 = Dtype::I32;
    write(&folder, &mixtral(), &eight, 1);
    compress(&folder, &to, &[]).fails(1, &[weight, "I32", "BF16"]);
    assert!(!to.exists());
    assert!(
        !fs::read_dir(dir.path())
            .unwrap()
            .any(|e| { e.unwrap().file_name().into_string().unwrap().starts_with(".unfinished") })
    );
}

#[cfg(unix)]
#[test]
fn a_full_disk_leaves_nothing_half_written() {
    use crate::command::with_file_limit;
    let dir = tempfile::tempdir().unwrap();
    let [model, run, to] = ["model", "run", "to"].map(|name| dir.path().join(name));
    write(&model, &olmoe(), &tensors(&olmoe(), Dtype::F32, 2), 3);
    train(&run, 2, &["--ffn", "flat"]).ok();
    let args = |from: &Path| {
        ["compress", "--from", text(from), "--to", text(&to), "--clusters", "2", "--rank", "2"]
            .map(str::to_owned)
    };
    let limited = |from: &Path| with_file_limit(4, &args(from).each_ref().map(String::as_str));
    limited(&model).fails(1, &["cannot write", "safetensors", "too large"]);
    holds(dir.path(), &["model", "run"]);
    limited(&run).fails(1, &["cannot write", "safetensors", "too large"]);
    holds(&to.join("checkpoints"), &[]);
    compress(&run, &to, &[]).ok();
    holds(&to.join("checkpoints"), &["step-00000002"]);
}
