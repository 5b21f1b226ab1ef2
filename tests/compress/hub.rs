//! Models in layouts of Hugging Face: what comes out is what went in, as far as the rank allows.

use std::fs;

use safetensors::tensor::Dtype;
use serde_json::Value;

use crate::command::{contents, text, trimoe};
use crate::model::{
    EXPERTS, HIDDEN, INNER, LAYERS, Layout, Tensors, mixtral, olmoe, qwen3_moe, read, tensors, values, write,
};

const CLUSTERS: usize = 2;
const RANK: usize = 5;

/// Gate, up and down of an expert of the output: its base plus the product of its factors, `[out, in]` row-major.
fn rebuilt(output: &Tensors, l: usize, place: usize) -> [Vec<f64>; 3] {
    let get = |name: String| values(&output[&format!("model.layers.{l}.mlp.{name}.weight")]);
    let cluster = place / (EXPERTS / CLUSTERS);
    ["gate", "up", "down"].map(|part| {
        let [out, into] = if part == "down" { [HIDDEN, INNER] } else { [INNER, HIDDEN] };
        let mut matrix = get(format!("clusters.{cluster}.{part}_proj"));
        let a = get(format!("experts.{place}.{part}_proj.lora_A"));
        let b = get(format!("experts.{place}.{part}_proj.lora_B"));
        assert_eq!([matrix.len(), a.len(), b.len()], [out * into, RANK * into, out * RANK]);
        for (i, row) in matrix.chunks_exact_mut(into).enumerate() {
            for (j, w) in row.iter_mut().enumerate() {
                *w += (0..RANK).map(|k| b[i * RANK + k] * a[k * into + j]).sum::<f64>();
            }
        }
        matrix
    })
}

fn round_trip(layout: Layout, dtype: Dtype, shards: usize) {
    let dir = tempfile::tempdir().unwrap();
    let [from, to] = ["from", "below/to"].map(|name| dir.path().join(name));
    let input = tensors(&layout, dtype, 7);
    write(&from, &layout, &input, shards);
    let args =
        ["compress", "--from", text(&from), "--to", text(&to), "--clusters", "2", "--rank", "5", "--json"];
    let json = trimoe(&args).json();
    let output = read(&to);
    let config: Value = serde_json::from_slice(&fs::read(to.join("config.json")).unwrap()).unwrap();
    assert_eq!(config["source"], layout.config);

    let layers: Vec<usize> = (0..LAYERS).filter(|l| !layout.dense.contains(l)).collect();
    assert_eq!(json["layers"].as_array().unwrap().len(), layers.len());
    let of_experts =
        |name: &str| name.contains(".experts.") || name.ends_with(&format!("{}.gate.weight", layout.block));
    for (name, tensor) in input.iter().filter(|(name, _)| !of_experts(name)) {
        assert!(output[name] == *tensor, "{name} is copied byte for byte");
    }
    let others = input.keys().filter(|name| !of_experts(name)).count();
    // A router of two stages, three bases a cluster, six factors an expert.
    assert_eq!(output.len(), others + layers.len() * (2 + 3 * CLUSTERS + 6 * EXPERTS));
    let slack = if dtype == Dtype::BF16 { 0.004 } else { 1e-5 };
    for (i, &l) in layers.iter().enumerate() {
        let order: Vec<u64> =
            config["clustered"]["order"][i].as_array().unwrap().iter().map(|e| e.as_u64().unwrap()).collect();
        let mut clusters = [&order[..3], &order[3..]].map(<[u64]>::to_vec);
        clusters.sort();
        assert_eq!(clusters, [[0, 2, 4], [1, 3, 5]], "experts that are alike share a cluster");
        let source = |part: &str| &input[&format!("model.layers.{l}.{}.{part}.weight", layout.block)];
        for (place, &e) in order.iter().enumerate() {
            let (mut lost, mut whole) = (0.0, 0.0);
            for (got, part) in rebuilt(&output, l, place).iter().zip(layout.parts) {
                let tensor = source(&format!("experts.{e}.{part}"));
                assert_eq!(output[&format!("model.layers.{l}.mlp.clusters.0.gate_proj.weight")].0, dtype);
                for (got, want) in got.iter().zip(values(tensor)) {
                    lost += (got - want).powi(2);
                    whole += want * want;
                }
            }
            let (found, reported) =
                ((lost / whole).sqrt(), json["layers"][i]["errors"][place].as_f64().unwrap());
            assert!((0.02..0.3).contains(&reported), "{reported}");
            assert!((found - reported).abs() < slack, "expert {e}: {found}, reported {reported}");
            let rows = |tensor: &crate::model::Tensor| -> Vec<Vec<u8>> {
                tensor.2.chunks(tensor.2.len() / EXPERTS).map(<[u8]>::to_vec).collect()
            };
            let router = &output[&format!("model.layers.{l}.mlp.gate.weight")];
            assert_eq!(
                rows(router)[place],
                rows(source("gate"))[e as usize],
                "a row travels with its expert"
            );
        }
    }
    assert_eq!(fs::read_to_string(to.join("tokenizer.json")).unwrap(), "{\"kept\": true}");
    assert!(!to.join("training_args.bin").exists());
    let left: Vec<_> =
        fs::read_dir(dir.path().join("below")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["to"]);
}

#[test]
fn mixtral_goes_around_from_one_file_and_from_three() {
    round_trip(mixtral(), Dtype::F32, 1);
    round_trip(mixtral(), Dtype::F32, 3);
}

#[test]
fn qwen3_moe_goes_around_with_a_dense_layer_in_bf16() {
    round_trip(qwen3_moe(), Dtype::BF16, 1);
    round_trip(qwen3_moe(), Dtype::BF16, 3);
}

#[test]
fn olmoe_goes_around_from_one_file_and_from_three() {
    round_trip(olmoe(), Dtype::F32, 1);
    round_trip(olmoe(), Dtype::F32, 3);
}

#[test]
fn grouping_at_random_is_worse_and_threads_do_not_matter() {
    let dir = tempfile::tempdir().unwrap();
    let from = dir.path().join("from");
    write(&from, &olmoe(), &tensors(&olmoe(), Dtype::F32, 3), 3);
    let run = |name: &str, args: &[&str]| {
        let to = dir.path().join(name);
        let base =
            ["compress", "--from", text(&from), "--to", text(&to), "--clusters", "2", "--ratio", "0.85"];
        let json = trimoe(&[&base[..], args, &["--json"]].concat()).json();
        (json, contents(&to))
    };
    let (one, files) = run("one", &["--threads", "1"]);
    let (three, same) = run("three", &["--threads", "3"]);
    assert_eq!(one, three);
    assert!(files == same);
    let (random, _) = run("random", &["--grouping", "random"]);
    let error = |json: &Value| -> f64 {
        let layers = json["layers"].as_array().unwrap().iter();
        layers.flat_map(|l| l["errors"].as_array().unwrap()).map(|e| e.as_f64().unwrap()).sum()
    };
    assert!(error(&random) > 1.5 * error(&one), "{} and {}", error(&random), error(&one));
}
