//! Bad input, through the real binary: one sentence that names the file or option and the value, the right
//! exit code, no panic, and the last good checkpoint still loads.

mod command;

use std::fs;
use std::path::Path;
use std::process::Command;

#[cfg(unix)]
use command::with_file_limit;
use command::{Done, SMALL, checkpoints, contents, metrics, small, story, text, train, trimoe};

/// Loads the newest good checkpoint of a run and returns its step.
#[track_caller]
fn loads(run: &Path) -> u64 {
    trimoe(&["eval", "--checkpoint", text(run), "--json"]).json()["step"].as_u64().unwrap()
}

/// Changes one byte in the middle of a file.
fn flip(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(path, bytes).unwrap();
}

fn cut(path: &Path) {
    let bytes = fs::read(path).unwrap();
    fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
}

#[test]
fn devices_that_are_not_there_are_named() {
    let out = tempfile::tempdir().unwrap();
    let done = small("train", &["--out", text(out.path()), "--device", "gpu"]);
    assert!(
        done.code == Some(2) && done.stderr.contains("a device is cpu, cuda, cuda:N or auto"),
        "{done:#?}"
    );
    if cfg!(not(feature = "cuda")) {
        let why = "no CUDA device: this trimoe was built without the feature `cuda`";
        small("train", &["--out", text(out.path()), "--device", "cuda"]).fails(1, &[why]);
        let done = small("train", &["--out", text(out.path()), "--device", "auto", "--steps", "1"]);
        assert!(done.stderr.contains(&format!("device: cpu ({why})")), "{done:#?}");
        done.ok();
    }
}

#[test]
fn shapes_that_do_not_work_name_the_option() {
    for (args, parts) in [
        (["--experts", "8", "--clusters", "3"], ["--clusters 3:", "does not divide --experts 8"]),
        (["--experts", "4", "--topk", "3"], ["--topk 3:", "above the 2 experts of a cluster"]),
        (["--topk", "0", "--seed", "1"], ["--topk 0:", "at least 1"]),
        (["--rank", "17", "--seed", "1"], ["--rank 17:", "min(--hidden 16, --inner 24)"]),
        (["--heads", "3", "--seed", "1"], ["--heads 3:", "does not divide --hidden 16"]),
        (["--heads", "16", "--seed", "1"], ["--heads 16:", "even"]),
        (["--layers", "0", "--seed", "1"], ["--layers 0:", "at least 1"]),
        (["--batch", "0", "--seed", "1"], ["--batch 0:", "at least 1"]),
        (["--batch", "99999999999999", "--seed", "1"], ["--batch 99999999999999:", "too many tokens"]),
        (["--hidden", "4294967294", "--heads", "1"], ["--hidden 4294967294:", "too large"]),
        (["--vocab", "100", "--seed", "1"], ["--vocab 100:", "256"]),
        (["--lr", "0", "--seed", "1"], ["--lr 0:", "above 0"]),
        (["--threads", "1000000", "--seed", "1"], ["--threads 1000000:", "limit"]),
        (["--tokens", "100", "--steps", "3"], ["--tokens 100:", "--steps"]),
        (["--tokens", "0", "--seed", "1"], ["--tokens 0:", "at least 1"]),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("run");
        small("train", &[&["--out", text(&out)], &args[..]].concat()).fails(2, &parts);
    }
    trimoe(&["train", "--ffn", "flat", "--topk", "9"]).fails(2, &["--topk 9:", "above --experts 8"]);
    trimoe(&["inspect", "--experts", "18446744073709551615", "--clusters", "1"])
        .fails(2, &["--experts 18446744073709551615:"]);
    // What is no option or no number at all is answered by the parser of the command line.
    for (args, part) in [
        (["train", "--cluster", "3"], "'--cluster'"),
        (["train", "--lr", "nan"], "'nan' for '--lr <LR>': the number is not finite"),
        (["train", "--steps", "-1"], "'-1'"),
        (["train", "--ffn", "sparse"], "'sparse' for '--ffn <FFN>'"),
    ] {
        let usage = trimoe(&args);
        assert_eq!(usage.code, Some(2), "{usage:#?}");
        assert!(usage.stderr.contains(part), "{usage:#?}");
    }
}

#[test]
fn config_files_name_the_file_and_the_line() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("run.toml");
    let with = |content: &str| {
        fs::write(&file, content).unwrap();
        trimoe(&["inspect", "--config", text(&file)])
    };
    with("layers = 2\nclsters = 3\n").fails(2, &["--config", "run.toml", "line 2", "`clsters`"]);
    with("layers = \"two\"\n").fails(2, &["run.toml", "line 1", "invalid type"]);
    with("layers = -1\n").fails(2, &["run.toml", "line 1", "-1"]);
    with("lr = inf\n").fails(2, &["run.toml", "line 1", "not finite"]);
    with("layers = \n").fails(2, &["run.toml", "line 1"]);
    with("steps = 3\ntokens = 4\n").fails(2, &["--tokens 4:"]);
    with("clusters = 3\n").fails(2, &["--clusters 3:"]);
    trimoe(&["inspect", "--config", "/nowhere/run.toml"]).fails(1, &["cannot read /nowhere/run.toml"]);
}

#[test]
fn data_that_cannot_be_used_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, content: &[u8]| {
        let path = dir.path().join(name);
        fs::write(&path, content).unwrap();
        path
    };
    let good = write("good.txt", story(2000).as_bytes());
    let mut latin = story(500).into_bytes();
    latin.extend(b"caf\xe9\n");
    for (path, why) in [
        (dir.path().join("missing.txt"), "No such file"),
        (write("empty.txt", b""), "empty"),
        (write("binary.txt", &[0, 1, 2, 3, 0, 0, 255, 254, 0]), "binary.txt"),
        (write("latin1.txt", &latin), "UTF-8"),
        (write("short.txt", b"only a few words"), "fewer than"),
        (write("broken.jsonl", b"{\"text\": \"good\"}\n{\"text\": \n"), "line 2"),
        (write("notzstd.txt.zst", b"plain text"), "notzstd"),
    ] {
        let out = dir.path().join("out");
        let done = train(&out, 3, &["--data", text(&path), "--vocab", "300"]);
        done.fails(1, &[path.file_name().unwrap().to_str().unwrap(), why]);
        // The same as evaluation text, with good text to train on; a short one is fine there.
        if !path.ends_with("short.txt") {
            let args = ["--data", text(&good), "--eval-data", text(&path), "--vocab", "300"];
            train(&out, 3, &args).fails(1, &[path.file_name().unwrap().to_str().unwrap(), why]);
        }
        // Nothing that failed stands in the way of the next attempt.
        let _ = fs::remove_dir_all(&out);
        assert!(!out.join("checkpoints/step-00000003").exists());
    }
    let tokenizer = write("tokenizer.json", b"{}");
    train(dir.path(), 3, &["--data", text(&good), "--tokenizer", text(&tokenizer)])
        .fails(1, &["tokenizer.json"]);
    train(dir.path(), 3, &["--eval-data", text(&good)]).fails(2, &["--eval-data", "good.txt", "--data"]);
    small("compare", &["--data", text(&good)]).fails(2, &["--eval-data", "good.txt"]);
}

#[test]
fn checkpoints_that_do_not_fit_name_the_option_and_both_values() {
    let dir = tempfile::tempdir().unwrap();
    let out = text(dir.path());
    train(dir.path(), 2, &[]).ok();
    for command in ["eval", "generate"] {
        trimoe(&[command, "--checkpoint", out, "--vocab", "512"])
            .fails(2, &["--vocab 512:", "made with 256", "step-00000002"]);
        trimoe(&[command, "--checkpoint", out, "--ffn", "flat"])
            .fails(2, &["--ffn flat:", "made with clustered"]);
        trimoe(&[command, "--checkpoint", "/nowhere"]).fails(1, &["/nowhere"]);
        trimoe(&[command]).fails(2, &["--checkpoint"]);
    }
    let resume =
        |args: &[&str]| trimoe(&[&["train", "--resume", "--out", out, "--steps", "4"], args].concat());
    resume(&["--hidden", "32"]).fails(2, &["--hidden 32:", "made with 16"]);
    resume(&["--seed", "9"]).fails(2, &["--seed 9:", "made with 0"]);
    resume(&["--batch", "4"]).fails(2, &["--batch 4:", "made with 2"]);
    resume(&["--preset", "small", "--steps", "1"]).fails(2, &["--steps 1:", "has done 2"]);
    train(dir.path(), 4, &[]).fails(2, &["--out", "--resume"]);
    trimoe(&["train", "--resume"]).fails(2, &["--resume", "--out or --checkpoint"]);
    trimoe(&["eval", "--checkpoint", text(&dir.path().join("checkpoints"))]).fails(1, &["state.json"]);
    let good = dir.path().join("eval.txt");
    fs::write(&good, story(100)).unwrap();
    trimoe(&["eval", "--checkpoint", out, "--eval-data", text(&good)])
        .fails(2, &["--eval-data", "eval.txt", "built-in"]);
    assert_eq!(loads(dir.path()), 2);
}

#[test]
fn damage_to_any_file_of_a_checkpoint_is_seen_and_the_one_before_is_used() {
    let dir = tempfile::tempdir().unwrap();
    train(dir.path(), 4, &["--save-every", "2"]).ok();
    let [older, newest] = <[_; 2]>::try_from(checkpoints(dir.path())).unwrap();
    let good = contents(&newest);
    assert_eq!(good.len(), 4, "{:?}", good.iter().map(|(name, _)| name).collect::<Vec<_>>());
    for (name, bytes) in &good {
        let file = newest.join(name);
        let remove = |path: &Path| fs::remove_file(path).unwrap();
        for damage in [flip as fn(&Path), cut, remove] {
            damage(&file);
            let alone = trimoe(&["eval", "--checkpoint", text(&newest)]);
            alone.fails(1, &["step-00000004", if name == "state.json" { "" } else { name }]);
            let done = trimoe(&["eval", "--checkpoint", text(dir.path()), "--json"]);
            assert!(
                done.stderr.contains("passed over") && done.stderr.contains("step-00000004"),
                "{done:#?}"
            );
            assert_eq!(done.json()["step"], 2);
            fs::write(&file, bytes).unwrap();
        }
    }
    assert_eq!(loads(dir.path()), 4);
    // A run goes on from the older one, to the same end.
    flip(&newest.join("optimizer.safetensors"));
    trimoe(&["train", "--resume", "--out", text(dir.path())]).ok();
    assert!(contents(&newest) == good, "the repeated steps end in another checkpoint");
    assert_eq!(metrics(dir.path()).len(), 4);
    // Without any good one there is an end.
    flip(&older.join("model.safetensors"));
    flip(&newest.join("model.safetensors"));
    trimoe(&["eval", "--checkpoint", text(dir.path())])
        .fails(1, &["none of its 2 checkpoints", "model.safetensors"]);
}

#[test]
fn a_diverging_loss_ends_the_run_and_keeps_the_checkpoints() {
    let dir = tempfile::tempdir().unwrap();
    let args = ["--lr", "1e30", "--warmup", "0", "--save-every", "1"];
    train(dir.path(), 50, &args).fails(1, &["training diverged at step", "is "]);
    assert!(loads(dir.path()) >= 1);
    assert_eq!(metrics(dir.path()).len() as u64, loads(dir.path()));
}

#[test]
fn an_output_folder_that_cannot_be_written_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "in the way").unwrap();
    train(&file, 2, &[]).fails(1, &["cannot create", "file"]);
    train(&file.join("below"), 2, &[]).fails(1, &["cannot create", "file/below"]);
    small("compare", &["--out", text(&file), "--steps", "2"]).fails(1, &["cannot create", "file"]);
    let json = file.join("table.json");
    let run = dir.path().join("run");
    train(&run, 2, &["--json", text(&json)]).fails(1, &["cannot write", "table.json"]);
    assert_eq!(loads(&run), 2);
}

#[cfg(unix)]
#[test]
fn a_full_disk_leaves_the_last_good_checkpoint_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    train(dir.path(), 4, &["--stop-at", "2", "--save-every", "1"]).ok();
    let before = checkpoints(dir.path());
    let good: Vec<_> = before.iter().map(|c| contents(c)).collect();
    let resume = [&["train", "--resume", "--out", text(dir.path())], SMALL].concat();
    with_file_limit(16, &resume).fails(1, &["cannot write", "safetensors", "too large"]);
    assert_eq!(checkpoints(dir.path()), before, "no checkpoint more, none less, nothing unfinished");
    assert!(before.iter().map(|c| contents(c)).eq(good), "the checkpoints are as they were");
    assert_eq!(loads(dir.path()), 2);
    trimoe(&resume).ok();
    assert_eq!(loads(dir.path()), 4);
    assert_eq!(metrics(dir.path()).len(), 4);
}

#[cfg(target_os = "linux")]
#[test]
fn results_that_cannot_be_written_are_a_failure() {
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_trimoe"));
    let done = Done::from(command.arg("inspect").stdout(full).output().unwrap());
    done.fails(1, &["cannot write standard output", "No space left"]);
}

#[cfg(unix)]
#[test]
fn ctrl_c_finishes_the_step_saves_and_exits_with_130() {
    use std::io::{BufRead, BufReader};
    use std::process::Stdio;
    let dir = tempfile::tempdir().unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_trimoe"))
        .arg("train")
        .args(SMALL)
        .args(["--out", text(dir.path()), "--steps", "1000000"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The first line about a step says that training is under way.
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(|line| line.unwrap());
    assert!(lines.any(|line| line.contains("step 1/1000000")));
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(lines.any(|line| line.contains("finishing this step")));
    let step = loads(dir.path());
    assert_eq!(metrics(dir.path()).len() as u64, step);
    assert!(checkpoints(dir.path()).last().unwrap().ends_with(format!("step-{step:08}")));
}
