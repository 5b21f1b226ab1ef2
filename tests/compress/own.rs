//! Runs of this crate.

use std::fs;
use std::path::Path;

use crate::command::{Done, checkpoints, contents, metrics, story, text, train, trimoe};

/// A flat model after some steps on the built-in language.
fn flat(out: &Path) {
    train(out, 60, &["--ffn", "flat", "--lr", "0.01", "--warmup", "5"]).ok();
}

fn compress(from: &Path, to: &Path, args: &[&str]) -> Done {
    trimoe(
        &[&["compress", "--from", text(from), "--to", text(to), "--threads", "2", "--json"], args].concat(),
    )
}

#[test]
fn a_compressed_run_is_evaluated_continued_and_trained_on() {
    let dir = tempfile::tempdir().unwrap();
    let [from, to, on] = ["from", "to", "on"].map(|name| dir.path().join(name));
    flat(&from);
    let json = compress(&from, &to, &["--clusters", "2", "--ratio", "0.8", "--against-random"]).json();
    let value = |name: &str| json[name].as_f64().unwrap();
    // 4 experts of 3 x 16 x 24; half of them stays as bases, 480 parameters a rank.
    assert_eq!((json["rank"].as_u64(), json["expert_params"][0].as_u64()), (Some(2), Some(4608)));
    assert_eq!(json["expert_params"][1].as_u64(), Some(2304 + 2 * 480));
    for name in ["ppl_word_before", "ppl_word_after", "ppl_word_random"] {
        assert!((20.0..256.0).contains(&value(name)), "{name}: {json}");
    }
    let layer = &json["layers"][0];
    assert_eq!(layer["errors"].as_array().unwrap().len(), 4);
    assert!(layer["errors"].as_array().unwrap().iter().all(|e| (0.01..1.0).contains(&e.as_f64().unwrap())));
    let gains = layer["gains"].as_array().unwrap();
    assert!(gains.iter().all(|g| g.as_f64().unwrap() > 1.0), "p_g is below 1: {gains:?}");

    let evaluated = trimoe(&["eval", "--checkpoint", text(&to), "--json"]).json();
    assert_eq!(evaluated["ppl_word"], json["ppl_word_after"]);
    assert_eq!(evaluated["step"], 60);
    trimoe(&["generate", "--checkpoint", text(&to), "--length", "4"]).ok();
    trimoe(&["train", "--resume", "--out", text(&to), "--steps", "70"])
        .fails(1, &["no optimiser state", "--from"]);
    let args = ["train", "--from", text(&to), "--out", text(&on), "--steps", "20", "--lr", "0.005", "--json"];
    let trained = trimoe(&args).json();
    assert_eq!((trained["variant"].as_str(), trained["steps"].as_u64()), (Some("clustered"), Some(20)));
    assert!(trained["ppl_word"].as_f64().unwrap() < value("ppl_word_after"), "{trained}");
    assert_eq!(metrics(&on).len(), 20);
    // A run from weights is a run like others: it continues without them.
    fs::remove_dir_all(&to).unwrap();
    trimoe(&["train", "--resume", "--out", text(&on), "--steps", "22"]).ok();
    assert_eq!(metrics(&on).len(), 22);
}

#[test]
fn a_run_from_weights_draws_from_the_text_they_saw_and_resumes_to_the_bit() {
    let dir = tempfile::tempdir().unwrap();
    let [data, flat, whole, parts] = ["data.txt", "flat", "whole", "parts"].map(|name| dir.path().join(name));
    fs::write(&data, story(4000)).unwrap();
    let texts = ["--data", text(&data), "--eval-data", text(&data)];
    train(&flat, 40, &[&texts[..], &["--ffn", "flat", "--vocab", "300", "--warmup", "5"]].concat()).ok();
    let from = |out: &Path, args: &[&str]| {
        let base = ["train", "--from", text(&flat), "--out", text(out), "--steps", "4", "--threads", "2"];
        trimoe(&[&base[..], &texts, args].concat()).ok();
    };
    from(&whole, &[]);
    from(&parts, &["--stop-at", "2"]);
    let config = fs::read_to_string(whole.join("config.toml")).unwrap();
    // A tenth of the peak, where the schedule of the flat run ends.
    let lr = config.lines().find_map(|line| line.strip_prefix("lr = ")).unwrap().parse::<f64>().unwrap();
    assert!((lr - 0.0005).abs() < 1e-7, "{config}");
    assert!(config.contains("corpus-tokens = 1280\n") && !config.contains("\nfrom ="), "{config}");
    trimoe(&["train", "--resume", "--out", text(&parts)]).ok();
    assert_eq!(metrics(&whole), metrics(&parts));
    let last = |run: &Path| contents(&checkpoints(run).pop().unwrap());
    assert!(last(&whole) == last(&parts));
}

#[test]
fn one_cluster_of_full_rank_is_the_model_itself() {
    let dir = tempfile::tempdir().unwrap();
    let [from, to] = ["from", "to"].map(|name| dir.path().join(name));
    flat(&from);
    let json = compress(&from, &to, &["--clusters", "1", "--rank", "16"]).json();
    let [before, after] = ["ppl_word_before", "ppl_word_after"].map(|name| json[name].as_f64().unwrap());
    assert!((after / before - 1.0).abs() < 1e-4, "{json}");
    let layer = &json["layers"][0];
    assert!(layer["output_error"].as_f64().unwrap() < 1e-4, "{layer}");
    assert_eq!(layer["together"].as_f64(), Some(1.0));
}

#[test]
fn the_same_bits_on_any_number_of_threads_and_for_every_base() {
    let dir = tempfile::tempdir().unwrap();
    let from = dir.path().join("from");
    flat(&from);
    for base in ["mean", "load", "fisher"] {
        let [one, three] = ["1", "3"].map(|threads| {
            let to = dir.path().join(format!("{base}-{threads}"));
            let args = ["--clusters", "2", "--rank", "3", "--base", base, "--threads", threads];
            trimoe(&[&["compress", "--from", text(&from), "--to", text(&to)], &args[..]].concat()).ok();
            contents(&checkpoints(&to).pop().unwrap())
        });
        assert!(one == three, "{base}");
    }
    let model = |base: &str| contents(&checkpoints(&dir.path().join(format!("{base}-1")))[0])[1].clone();
    assert_eq!(model("mean").0, "model.safetensors");
    assert!(model("mean") != model("load") && model("load") != model("fisher"));
}
