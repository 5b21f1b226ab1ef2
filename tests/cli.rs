//! The command line, through the real binary.

mod command;

use std::fs;

use command::{checkpoints, contents, metrics, small, story, text, train, trimoe};

#[test]
fn training_in_two_parts_is_training_in_one_to_the_bit() {
    for precision in ["f32", "bf16"] {
        for ffn in ["dense", "flat", "clustered"] {
            let dir = tempfile::tempdir().unwrap();
            let [whole, parts] = ["whole", "parts"].map(|name| dir.path().join(name));
            let args = ["--ffn", ffn, "--precision", precision, "--accumulate", "2", "--burn-in", "2"];
            train(&whole, 6, &args).ok();
            train(&parts, 6, &[&args[..], &["--stop-at", "3"]].concat()).ok();
            // More threads must not matter either.
            trimoe(&["train", "--resume", "--out", text(&parts), "--threads", "1"]).ok();
            let [whole_last, parts_last] = [&whole, &parts].map(|run| checkpoints(run).pop().unwrap());
            assert!(whole_last.ends_with("step-00000006"));
            for (a, b) in contents(&whole_last).into_iter().zip(contents(&parts_last)) {
                assert!(a == b, "{} of {ffn} {precision} differs", a.0);
            }
            assert_eq!(metrics(&whole), metrics(&parts));
            assert_eq!(metrics(&whole).len(), 6);
        }
    }
}

#[test]
fn a_run_continues_to_the_bit_from_either_side_of_an_event() {
    // Centroids of one batch are noise: there is something to regroup.
    let noise = ["--cluster-alpha", "0", "--centroid-rate", "1", "--experts", "8", "--balance", "bias"];
    let regroup = ["--cluster-every", "2", "--burn-in", "2", "--cluster-gain", "0", "--cluster-error", "9"];
    let convert = ["--cluster-every", "3", "--burn-in", "4", "--mode", "convert", "--precision", "bf16"];
    let anneal = ["--cluster-every", "2", "--burn-in", "3", "--mode", "anneal", "--anneal-share", "0.4"];
    let packed = [&regroup[..], &["--int4-from", "4"]].concat();
    let cases: [(&[&str], _, _); 4] = [
        (&regroup, "accepted", 4),
        (&convert, "converted", 2),
        (&anneal, "converted", 3),
        (&packed, "accepted", 4),
    ];
    for (args, want, count) in cases {
        let args = [args, &noise].concat();
        let dir = tempfile::tempdir().unwrap();
        let whole = dir.path().join("whole");
        train(&whole, 8, &args).ok();
        let events: Vec<_> =
            metrics(&whole).iter().flat_map(|m| m["clustering"].as_array().cloned()).flatten().collect();
        assert_eq!(events.len(), count, "{events:?}");
        assert!(events.iter().any(|event| event["result"] == want), "{events:?}");
        for stop in 1..8 {
            let parts = dir.path().join(format!("stopped-{stop}"));
            train(&parts, 8, &[&args[..], &["--stop-at", &stop.to_string()]].concat()).ok();
            trimoe(&["train", "--resume", "--out", text(&parts)]).ok();
            let [whole_last, parts_last] = [&whole, &parts].map(|run| checkpoints(run).pop().unwrap());
            for (a, b) in contents(&whole_last).into_iter().zip(contents(&parts_last)) {
                assert!(a == b, "{} of {want} differs after stopping at {stop}", a.0);
            }
            assert_eq!(metrics(&whole), metrics(&parts));
        }
    }
}

#[test]
fn flags_win_over_the_file_and_the_file_over_the_preset() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("run.toml");
    fs::write(&file, "preset = \"small\"\nhidden = 128\nlayers = 3\nffn = \"flat\"\n").unwrap();
    let account = |args: &[&str]| trimoe(&[&["inspect", "--json"], args].concat()).json()[0]["model"].clone();
    let model = account(&["--config", text(&file), "--layers", "2"]);
    let value = |name: &str| model[name].as_u64().unwrap();
    assert_eq!(model["ffn"], "flat");
    // Flag, file, preset of the file.
    assert_eq!([value("layers"), value("hidden"), value("inner")], [2, 128, 768]);
    // Nothing given: preset tiny.
    assert_eq!(account(&["--ffn", "dense"])["hidden"], 64);
    // A budget in tokens on the command line replaces one in steps from the file.
    fs::write(&file, "steps = 100\n").unwrap();
    let out = dir.path().join("run");
    small("train", &["--out", text(&out), "--config", text(&file), "--tokens", "65"]).ok();
    assert_eq!(metrics(&out).len(), 3);
}

#[test]
fn training_ends_with_a_sample_and_one_json_object() {
    let dir = tempfile::tempdir().unwrap();
    let done = train(dir.path(), 8, &["--json"]);
    assert!(done.stdout.contains("\nsample: "), "{done:#?}");
    assert!(done.stdout.contains("entropy floor"), "{done:#?}");
    assert!(done.stderr.contains("step 8/8  loss "), "{done:#?}");
    let summary = done.json();
    assert_eq!((summary["variant"].as_str(), summary["steps"].as_u64()), (Some("clustered"), Some(8)));
    for name in [
        "params_total",
        "params_expert",
        "active_params",
        "tokens_per_s",
        "train_loss",
        "ppl_word",
        "seconds",
    ] {
        assert!(summary[name].as_f64().unwrap() > 0.0, "{name} of {summary}");
    }
    for name in ["load_cv", "peak_bytes", "all_to_all_bytes_per_token"] {
        assert!(summary.as_object().unwrap().contains_key(name), "{name} of {summary}");
    }
    // A model this new knows nothing: about as many choices as there are tokens.
    let perplexity = summary["ppl_word"].as_f64().unwrap();
    assert!((100.0..600.0).contains(&perplexity), "{perplexity}");

    let again = trimoe(&["eval", "--checkpoint", text(dir.path()), "--json"]).json();
    assert_eq!(again["ppl_word"], summary["ppl_word"], "eval of the checkpoint");
    assert_eq!(again["load_cv"], summary["load_cv"]);
    let generate = |seed: &str| {
        trimoe(&["generate", "--checkpoint", text(dir.path()), "--length", "12", "--seed", seed]).ok()
    };
    assert_eq!(generate("0"), generate("0"));
    assert_eq!(generate("0").split_whitespace().count(), 12);
    let json = trimoe(&["generate", "--checkpoint", text(dir.path()), "--length", "40", "--json"]).json();
    assert_eq!((&json["tokens"], &json["texts"][0]["tokens"]), (&40.into(), &40.into()), "{json}");
    assert!(json["texts"][0]["prompt"].is_null() && json["ms_per_token"].as_f64() > Some(0.0), "{json}");
}

#[test]
fn prompts_are_continued_together_as_each_alone() {
    let dir = tempfile::tempdir().unwrap();
    let [data, out, prompts] = ["train.txt", "run", "prompts.txt"].map(|name| dir.path().join(name));
    fs::write(&data, story(400)).unwrap();
    train(&out, 6, &["--data", text(&data), "--vocab", "300"]).ok();
    let generate = |args: &[&str]| {
        let all = ["generate", "--checkpoint", text(&out), "--length", "20", "--json", "--threads", "2"];
        trimoe(&[&all[..], args].concat())
    };
    fs::write(&prompts, "quiet farms\n\n  \nthe river runs past old mills and quiet farms\n").unwrap();
    for precision in ["f32", "bf16"] {
        let with = |args: &[&str]| generate(&[&["--precision", precision], args].concat());
        let done = with(&["--prompt", "the", "--prompts", text(&prompts), "--prompt", "old mills"]);
        let (stdout, stderr) = (done.stdout.clone(), done.stderr.clone());
        let json = done.json();
        let texts = json["texts"].as_array().unwrap();
        let given = ["the", "old mills", "quiet farms", "the river runs past old mills and quiet farms"];
        assert_eq!(texts.len(), given.len(), "{json}");
        for (number, (one, prompt)) in texts.iter().zip(given).enumerate() {
            assert_eq!(one["prompt"], prompt);
            let spelled = one["text"].as_str().unwrap();
            assert!(spelled.starts_with(prompt), "{spelled}");
            assert!(stdout.contains(&format!("[{}] {spelled}\n", number + 1)), "{stdout}");
            assert_eq!(*one, with(&["--prompt", prompt]).json()["texts"][0], "alone");
        }
        let sum: u64 = texts.iter().map(|one| one["tokens"].as_u64().unwrap()).sum();
        assert_eq!(json["tokens"], sum);
        // Four sequences of 16 tokens in one layer, a key and a value of 16 each.
        let bytes = if precision == "f32" { 4 } else { 2 };
        assert_eq!(json["cache_bytes"], 4 * 16 * 2 * 16 * bytes);
        assert!(json["weight_bytes"].as_u64() > Some(0), "{json}");
        assert!(stderr.contains("ms per token") && stderr.contains("cache"), "{stderr}");
    }
    let alike = generate(&["--prompt", "the", "--prompt", "the"]).json();
    assert_ne!(alike["texts"][0]["text"], alike["texts"][1]["text"]);
    let none = generate(&["--length", "0", "--prompt", "the"]).json();
    assert_eq!((&none["texts"][0]["text"], &none["tokens"]), (&"the".into(), &0.into()));
    assert!(none["ms_per_token"].is_null());

    fs::write(&prompts, " \n\n").unwrap();
    generate(&["--prompts", text(&prompts)]).fails(2, &["--prompts", "prompts.txt", "has no text"]);
    generate(&["--prompts", text(&data.join("none"))]).fails(1, &["cannot read", "none"]);
    fs::write(&prompts, [b'a', 0xff]).unwrap();
    generate(&["--prompts", text(&prompts)]).fails(1, &["cannot read", "UTF-8"]);
}

#[test]
fn checkpoints_are_pruned_and_named_for_other_tools() {
    let dir = tempfile::tempdir().unwrap();
    train(dir.path(), 7, &["--save-every", "2", "--keep", "3"]).ok();
    let names: Vec<_> =
        checkpoints(dir.path()).iter().map(|p| p.file_name().unwrap().to_str().unwrap().to_owned()).collect();
    assert_eq!(names, ["step-00000004", "step-00000006", "step-00000007"]);
    let model = fs::read(checkpoints(dir.path()).pop().unwrap().join("model.safetensors")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&model).unwrap();
    assert_eq!(tensors.tensor("model.embed_tokens.weight").unwrap().shape(), [256, 16]);
    assert_eq!(tensors.tensor("model.layers.0.self_attn.q_proj.weight").unwrap().shape(), [16, 16]);
    assert_eq!(tensors.tensor("model.norm.weight").unwrap().shape(), [16]);
}

#[test]
fn text_is_trained_on_evaluated_and_continued() {
    let dir = tempfile::tempdir().unwrap();
    let [data, eval, out] = ["train.txt", "eval.txt", "run"].map(|name| dir.path().join(name));
    fs::write(&data, story(4000)).unwrap();
    fs::write(&eval, story(300)).unwrap();
    let paths = ["--data", text(&data), "--eval-data", text(&eval), "--vocab", "300", "--lr", "0.01"];
    let summary = train(&out, 60, &[&paths[..], &["--json"]].concat()).json();
    assert!(summary["ppl_word"].as_f64().unwrap() < 16.0 * 256.0, "{summary}");
    let done =
        trimoe(&["eval", "--checkpoint", text(&out), "--eval-data", text(&eval), "--data", text(&data)]);
    assert!(done.stdout.contains("(unigram)"), "{done:#?}");
    let prompt =
        trimoe(&["generate", "--checkpoint", text(&out), "--prompt", "the river", "--length", "8"]).ok();
    assert!(prompt.starts_with("the river"), "{prompt}");
    // A checkpoint folder is complete by itself.
    let copy = dir.path().join("copy");
    fs::create_dir(&copy).unwrap();
    for (name, bytes) in contents(&checkpoints(&out).pop().unwrap()) {
        fs::write(copy.join(name), bytes).unwrap();
    }
    fs::remove_dir_all(&out).unwrap();
    let alone = trimoe(&["eval", "--checkpoint", text(&copy), "--eval-data", text(&eval), "--json"]).json();
    assert_eq!(alone["ppl_word"], summary["ppl_word"]);
}

#[test]
fn compare_trains_each_variant_once() {
    let dir = tempfile::tempdir().unwrap();
    let [out, json] = ["out", "table.json"].map(|name| dir.path().join(name));
    let args = ["--out", text(&out), "--json", text(&json), "--steps", "5"];
    let first = small("compare", &args);
    assert!(first.stdout.contains("entropy floor"), "{first:#?}");
    let table = || serde_json::from_slice::<serde_json::Value>(&fs::read(&json).unwrap()).unwrap();
    first.ok();
    let runs = table();
    let of = |name: &str| runs.as_array().unwrap().iter().map(|r| r[name].clone()).collect::<Vec<_>>();
    assert_eq!(of("variant"), ["dense", "flat", "clustered"]);
    // Dense gets the inner size of the experts a token uses: the same active size but for the router.
    let active: Vec<u64> = of("active_params").iter().map(|n| n.as_u64().unwrap()).collect();
    assert_eq!(active[1] - active[0], 4 * 16);
    assert_eq!(of("all_to_all_bytes_per_token")[0], 0.0);
    let second = small("compare", &args);
    assert_eq!(second.stderr.matches("finished before").count(), 3, "{second:#?}");
    assert_eq!(table(), runs);
    small("compare", &[&args[..], &["--lr", "0.5"]].concat())
        .fails(2, &["--out", "dense-seed0", "other options"]);
    // More seeds and variants continue the same comparison.
    let more = small("compare", &[&args[..], &["--variants", "flat,static", "--seeds", "2"]].concat());
    assert_eq!(more.stderr.matches("finished before").count(), 1, "{more:#?}");
    assert!(more.stdout.contains("medians of 2 seeds"), "{more:#?}");
    let runs = table();
    let of = |name: &str| runs.as_array().unwrap().iter().map(|r| r[name].clone()).collect::<Vec<_>>();
    assert_eq!(of("name"), ["flat", "static", "flat", "static"]);
    assert_eq!(of("seed"), [0, 0, 1, 1]);
    small("compare", &[&args[..], &["--seeds", "0"]].concat()).fails(2, &["--seeds 0:"]);
    small("compare", &[&args[..], &["--variants", "static", "--clusters", "3"]].concat())
        .fails(2, &["--clusters 3:", "does not divide"]);
}

#[test]
fn a_reader_that_leaves_is_no_failure() {
    use std::process::{Command, Stdio};
    let mut child = Command::new(env!("CARGO_BIN_EXE_trimoe"))
        .arg("inspect")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let done = command::Done::from(child.wait_with_output().unwrap());
    assert_eq!((done.code, done.stderr.as_str()), (Some(0), ""));
}

#[test]
fn a_run_that_continues_outlives_the_checkpoint_it_came_from() {
    let dir = tempfile::tempdir().unwrap();
    let (data, out) = (dir.path().join("text.txt"), dir.path().join("run"));
    fs::write(&data, story(400)).unwrap();
    let args = ["--data", text(&data), "--vocab", "300", "--save-every", "1", "--keep", "1"];
    train(&out, 6, &[&args[..], &["--stop-at", "2"]].concat()).ok();
    // The tokenizer came with the checkpoint of step 2, which is gone after step 3.
    trimoe(&["train", "--resume", "--out", text(&out)]).ok();
    let left = checkpoints(&out);
    assert!(left.len() == 1 && left[0].ends_with("step-00000006"), "{left:?}");
    trimoe(&["generate", "--checkpoint", text(&out), "--prompt", "the", "--length", "3"]).ok();
}

#[test]
fn a_report_is_one_page_with_every_plot_and_no_links() {
    let dir = tempfile::tempdir().unwrap();
    let [out, report] = ["runs", "report"].map(|name| dir.path().join(name));
    let args = ["--variants", "flat,clustered", "--steps", "8", "--burn-in", "2", "--cluster-every", "2"];
    let compare = [&args[..], &["--out", text(&out), "--report", text(&report)]].concat();
    let said = small("compare", &compare).ok();
    assert!(said.contains("report: "), "{said}");
    let page = fs::read_to_string(report.join("index.html")).unwrap();
    for part in [
        "The three legs",
        "about -80 %",
        "Loss against tokens",
        "Loss against seconds",
        "accounted, not trained",
    ] {
        assert!(page.contains(part), "no {part:?}");
    }
    for plot in
        ["Load per expert", "Cluster of each expert", "Similarity, layer 0, before step 2", "before step 8"]
    {
        assert!(page.contains(plot), "no {plot:?}");
    }
    // Two of loss, memory where the system tells it, load of both; membership and two similarities of one.
    let plots = page.matches("<svg").count();
    assert!(plots >= 7, "{plots}");
    // Names of namespaces are no links; nothing is loaded.
    for link in ["href", "src=", "url(", "<script"] {
        assert!(!page.contains(link), "{link}");
    }
    assert_eq!(fs::read_dir(&report).unwrap().count(), 1);
    // From finished runs, again, the same but for the times.
    small("compare", &compare).ok();
    fs::write(dir.path().join("file"), "").unwrap();
    let nowhere = dir.path().join("file/report");
    small("compare", &[&args[..], &["--out", text(&out), "--report", text(&nowhere)]].concat())
        .fails(1, &["cannot create", "report"]);
}

#[test]
fn a_new_run_takes_the_precision_that_the_processor_is_best_at_and_keeps_it() {
    #[cfg(target_arch = "x86_64")]
    let best = if is_x86_feature_detected!("avx512bf16") { "bf16" } else { "f32" };
    #[cfg(not(target_arch = "x86_64"))]
    let best = "f32";
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let config = || fs::read_to_string(run.join("config.toml")).unwrap();
    let done = trimoe(&["train", "--preset", "tiny", "--steps", "1", "--out", text(&run), "--threads", "2"]);
    assert!(done.stderr.contains(&format!("clustered model in {best}: ")), "{}", done.stderr);
    done.ok();
    assert!(config().contains(&format!("precision = \"{best}\"")), "{}", config());
    // What is not the processor's best is kept by a run that continues, or starts from another's weights.
    let other = if best == "f32" { "bf16" } else { "f32" };
    let [first, next] = ["first", "next"].map(|name| dir.path().join(name));
    train(&first, 1, &["--precision", other]).ok();
    for args in [
        &["train", "--resume", "--out", text(&first), "--steps", "2"][..],
        &["train", "--from", text(&first), "--out", text(&next), "--steps", "1"],
    ] {
        let done = trimoe(args);
        assert!(done.stderr.contains(&format!("clustered model in {other}: ")), "{}", done.stderr);
        done.ok();
    }
}
