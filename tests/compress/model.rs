//! Small models in layouts of Hugging Face, written and read back.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use half::bf16;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView, serialize};
use serde_json::{Value, json};

use crate::rng::Rng;

pub const HIDDEN: usize = 20;
pub const INNER: usize = 12;
pub const EXPERTS: usize = 6;
pub const LAYERS: usize = 3;

/// A tensor: type, shape, bytes.
pub type Tensor = (Dtype, Vec<usize>, Vec<u8>);
/// Tensors by name.
pub type Tensors = BTreeMap<String, Tensor>;

/// The names a layout uses for gate, up and down of an expert.
pub struct Layout {
    pub config: Value,
    pub block: &'static str,
    pub parts: [&'static str; 3],
    /// Layers without experts.
    pub dense: &'static [usize],
}

pub fn mixtral() -> Layout {
    let config = json!({
        "model_type": "mixtral", "hidden_size": HIDDEN, "intermediate_size": INNER, "num_local_experts": EXPERTS,
        "num_experts_per_tok": 2, "num_hidden_layers": LAYERS, "torch_dtype": "float32",
    });
    Layout { config, block: "block_sparse_moe", parts: ["w1", "w3", "w2"], dense: &[] }
}

pub fn qwen3_moe() -> Layout {
    let config = json!({
        "model_type": "qwen3_moe", "hidden_size": HIDDEN, "intermediate_size": 99, "moe_intermediate_size": INNER,
        "num_experts": EXPERTS, "num_experts_per_tok": 2, "num_hidden_layers": LAYERS, "norm_topk_prob": true,
        "decoder_sparse_step": 1, "mlp_only_layers": [1],
    });
    Layout { config, block: "mlp", parts: ["gate_proj", "up_proj", "down_proj"], dense: &[1] }
}

pub fn olmoe() -> Layout {
    let config = json!({
        "model_type": "olmoe", "hidden_size": HIDDEN, "intermediate_size": INNER, "num_experts": EXPERTS,
        "num_experts_per_tok": 2, "num_hidden_layers": LAYERS, "norm_topk_prob": false,
    });
    Layout { config, block: "mlp", parts: ["gate_proj", "up_proj", "down_proj"], dense: &[] }
}

/// Numbers of the type as bytes.
fn bytes(dtype: Dtype, values: &[f64]) -> Vec<u8> {
    match dtype {
        Dtype::BF16 => values.iter().flat_map(|&v| bf16::from_f64(v).to_le_bytes()).collect(),
        _ => values.iter().flat_map(|&v| (v as f32).to_le_bytes()).collect(),
    }
}

/// The elements of a tensor.
pub fn values(tensor: &Tensor) -> Vec<f64> {
    match tensor.0 {
        Dtype::BF16 => tensor.2.as_chunks().0.iter().map(|b| bf16::from_le_bytes(*b).to_f64()).collect(),
        _ => tensor.2.as_chunks().0.iter().map(|b| f64::from(f32::from_le_bytes(*b))).collect(),
    }
}

/// Random tensors of a model of this layout. Experts 0, 2 and 4 are alike, and so are the others.
pub fn tensors(layout: &Layout, dtype: Dtype, seed: u64) -> Tensors {
    let mut rng = Rng::new(seed);
    let mut all = Tensors::new();
    let mut add = |name: String, shape: &[usize], values: Vec<f64>| {
        all.insert(name, (dtype, shape.to_vec(), bytes(dtype, &values)));
    };
    add("model.embed_tokens.weight".into(), &[30, HIDDEN], rng.normals(30 * HIDDEN));
    add("lm_head.weight".into(), &[30, HIDDEN], rng.normals(30 * HIDDEN));
    for l in 0..LAYERS {
        let name = |part: &str| format!("model.layers.{l}.{part}.weight");
        add(name("input_layernorm"), &[HIDDEN], rng.normals(HIDDEN));
        add(name("self_attn.q_proj"), &[HIDDEN, HIDDEN], rng.normals(HIDDEN * HIDDEN));
        if layout.dense.contains(&l) {
            add(name("mlp.gate_proj"), &[99, HIDDEN], rng.normals(99 * HIDDEN));
            continue;
        }
        let name = |part: String| format!("model.layers.{l}.{}.{part}.weight", layout.block);
        add(name("gate".into()), &[EXPERTS, HIDDEN], rng.normals(EXPERTS * HIDDEN));
        let centres: Vec<Vec<f64>> = (0..6).map(|_| rng.normals(HIDDEN * INNER)).collect();
        for e in 0..EXPERTS {
            for (i, part) in layout.parts.iter().enumerate() {
                let noise = rng.normals(HIDDEN * INNER);
                let own = centres[3 * (e % 2) + i].iter().zip(noise).map(|(c, n)| c + 0.3 * n).collect();
                let shape = if i == 2 { [HIDDEN, INNER] } else { [INNER, HIDDEN] };
                add(name(format!("experts.{e}.{part}")), &shape, own);
            }
        }
    }
    all
}

fn write_file(path: &Path, tensors: &Tensors) {
    let views = tensors.iter().map(|(name, (dtype, shape, bytes))| {
        (name.clone(), TensorView::new(*dtype, shape.clone(), bytes).unwrap())
    });
    fs::write(path, serialize(views, None).unwrap()).unwrap();
}

/// Writes the model into `folder`, in so many shards.
pub fn write(folder: &Path, layout: &Layout, tensors: &Tensors, shards: usize) {
    fs::create_dir_all(folder).unwrap();
    fs::write(folder.join("config.json"), layout.config.to_string()).unwrap();
    fs::write(folder.join("tokenizer.json"), "{\"kept\": true}").unwrap();
    fs::write(folder.join("training_args.bin"), "not copied").unwrap();
    if shards == 1 {
        return write_file(&folder.join("model.safetensors"), tensors);
    }
    let mut map = BTreeMap::new();
    let mut parts = vec![Tensors::new(); shards];
    // In turns, so that a layer lies in all shards.
    for (i, (name, tensor)) in tensors.iter().enumerate() {
        map.insert(name, shard_name(i % shards, shards));
        parts[i % shards].insert(name.clone(), tensor.clone());
    }
    for (i, part) in parts.iter().enumerate() {
        write_file(&folder.join(shard_name(i, shards)), part);
    }
    let index = json!({ "metadata": { "total_size": 0 }, "weight_map": map });
    fs::write(folder.join("model.safetensors.index.json"), index.to_string()).unwrap();
}

pub fn shard_name(i: usize, shards: usize) -> String {
    format!("model-{:05}-of-{shards:05}.safetensors", i + 1)
}

/// The tensors of a folder, through its index; every file is in it and every tensor where it says.
pub fn read(folder: &Path) -> Tensors {
    let index: Value =
        serde_json::from_slice(&fs::read(folder.join("model.safetensors.index.json")).unwrap()).unwrap();
    let mut all = Tensors::new();
    let mut total = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|end| end != "safetensors") {
            continue;
        }
        let data = fs::read(&path).unwrap();
        for (name, view) in SafeTensors::deserialize(&data).unwrap().iter() {
            assert_eq!(index["weight_map"][name].as_str(), path.file_name().unwrap().to_str(), "{name}");
            total += view.data().len();
            let tensor = (view.dtype(), view.shape().to_vec(), view.data().to_vec());
            assert!(all.insert(name.to_owned(), tensor).is_none(), "{name} twice");
        }
    }
    assert_eq!(index["weight_map"].as_object().unwrap().len(), all.len());
    assert_eq!(index["metadata"]["total_size"].as_u64(), Some(total as u64));
    all
}
