//! Which trainable tensors a model has: shapes, names in a checkpoint, start values.

use std::ops::Range;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};

use super::anneal::FULL;
use super::config::{FfnKind, ModelConfig, Parts};
use super::param::{Buffer, Param, Piece};
use crate::device::Device;
use crate::elem::Elem;
use crate::error::Result;
use crate::moe::{Layer, Shape};

/// Position of the embedding among the parameters; it is the output projection too.
pub(super) const EMBEDDING: usize = 0;

/// Positions of a layer's parameters, relative to its first.
pub(super) const NORM1: usize = 0;
pub(super) const QKV: usize = 1;
pub(super) const OUT: usize = 2;
pub(super) const NORM2: usize = 3;
pub(super) const FFN: usize = 4;

/// How far full experts of [`FfnKind::Full`] start from their common matrix, over its size: independent ones would leave
/// nothing to cluster by and nothing of low rank.
const NOISE: f64 = 0.02;

/// How a piece starts.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Start {
    One,
    Zero,
    /// Normal with this standard deviation, drawn under the piece's own name.
    Normal(f64),
    /// The same, drawn under a name that all clusters and experts share: all start from one common matrix.
    Shared(f64),
    /// The same plus a share of it drawn under the piece's own name.
    Near(f64, f64),
}

/// A parameter before it is allocated.
struct Spec {
    shape: [usize; 3],
    decay: bool,
    pieces: Vec<(Piece, Start)>,
}

impl Spec {
    /// The same without factors of residuals, which lie behind the bases: what is left starts at the same place. Empty where
    /// there was nothing else.
    fn without_residuals(mut self) -> Self {
        self.pieces.retain(|(piece, _)| !is_factor(piece));
        let ends = self.pieces.iter().map(|(piece, _)| [piece.group + 1, piece.rows.end, piece.cols.end]);
        self.shape = ends.fold([0; 3], |all, end| std::array::from_fn(|i| all[i].max(end[i])));
        self
    }
}

/// Whether a piece is a factor of an expert's residual.
pub(super) fn is_factor(piece: &Piece) -> bool {
    piece.name.contains("_proj.lora_")
}

/// Where a factor of an expert's residual is in a clustered feed-forward part: in which of its parameters, and which of the
/// pieces. `part`: 0 of gate, 1 of up, 2 of down; `side`: 0 for A, 1 for B.
pub(super) fn factor_at(shape: &Shape, expert: usize, part: usize, side: usize) -> (usize, usize) {
    match (part, side) {
        (2, 0) => (4, expert),
        (2, _) => (2, shape.clusters + expert),
        (_, 0) => (1, 2 * (shape.clusters + expert) + part),
        (_, _) => (3, 2 * expert + part),
    }
}

impl ModelConfig {
    /// The feed-forward layer of this model.
    pub fn layer(&self) -> Layer {
        let moe = self.ffn != FfnKind::Dense;
        let shape = Shape {
            hidden: self.hidden,
            inner: self.inner,
            experts: if moe { self.experts } else { 1 },
            clusters: self.routing_clusters(),
            topk: if moe { self.topk } else { 1 },
            rank: self.residual_rank(),
        };
        Layer { kind: self.ffn, shape }
    }

    /// Number of parameters (tensors, not elements) of a layer.
    pub(super) fn params_per_layer(&self) -> usize {
        FFN + self.layer().weight_shapes().len()
    }

    /// Position of the first parameter of layer `layer`'s full experts while they fade out ([`Mode::Anneal`](super::config::Mode)).
    pub(super) fn fading_start(&self, layer: usize) -> usize {
        self.layer_start(self.layers) + 1 + layer * FULL
    }

    /// Positions of what clusters own in a clustered layer: its feed-forward part but for the router.
    pub(super) fn owned_by_clusters(&self, layer: usize) -> Range<usize> {
        self.layer_start(layer) + FFN + 1..self.layer_start(layer + 1)
    }

    /// Position of the first parameter of layer `layer`; that of the final norm for `layer = layers`.
    pub(super) fn layer_start(&self, layer: usize) -> usize {
        1 + layer * self.params_per_layer()
    }
}

/// Allocates and initialises every parameter; the values depend on `seed` and the names only, so variants
/// that share a name start from the same values.
pub(super) fn build<T: Elem>(
    config: &ModelConfig,
    device: &Device,
    seed: u64,
    train: bool,
) -> Result<Vec<Param<T>>> {
    let allocate = |spec: Spec| {
        let (pieces, starts): (Vec<_>, Vec<_>) = spec.pieces.into_iter().unzip();
        let mut param = Param::zeros(device, spec.shape, spec.decay, pieces, train)?;
        for (i, start) in starts.into_iter().enumerate() {
            let values = values(&param.pieces[i], start, seed);
            param.set(i, &values)?;
        }
        Ok(param)
    };
    specs(config).into_iter().map(allocate).collect()
}

/// Every parameter of a model to evaluate, zero; factors of residuals, which it holds in INT4, are left out.
pub(super) fn build_packed<T: Elem>(config: &ModelConfig, device: &Device) -> Result<Vec<Param<T>>> {
    let allocate = |spec: Spec| {
        let Spec { shape, decay, pieces } = spec.without_residuals();
        let pieces = pieces.into_iter().map(|(piece, _)| piece).collect();
        Param::zeros(device, shape, decay, pieces, false)
    };
    specs(config).into_iter().map(allocate).collect()
}

/// The weights of the feed-forward part of one layer, zero, with training state.
pub(super) fn build_ffn<T: Elem>(
    config: &ModelConfig,
    device: &Device,
    layer: usize,
) -> Result<Vec<Param<T>>> {
    let specs = specs(config).into_iter().skip(config.layer_start(layer) + FFN);
    let allocate = |spec: Spec| {
        let pieces = spec.pieces.into_iter().map(|(piece, _)| piece).collect();
        Param::zeros(device, spec.shape, spec.decay, pieces, true)
    };
    specs.take(config.params_per_layer() - FFN).map(allocate).collect()
}

/// The selection biases of the routers, zero: none when dense.
pub(super) fn biases(config: &ModelConfig, device: &Device) -> Result<Vec<Buffer>> {
    let (layer, experts) = (config.layer(), config.experts);
    if layer.kind == FfnKind::Dense {
        return Ok(Vec::new());
    }
    let levels = layer.shape.logits() - experts;
    let bias = |l: usize| {
        let name = |part: &str| format!("model.layers.{l}.mlp.{part}.e_score_correction_bias");
        let mut pieces = vec![Piece::vector(name("gate"), levels..levels + experts)];
        if levels > 0 {
            pieces.insert(0, Piece::vector(name("cluster_gate"), 0..levels));
        }
        Buffer::zeros(device, [1, 1, levels + experts], pieces)
    };
    (0..config.layers).map(bias).collect()
}

fn values(piece: &Piece, start: Start, seed: u64) -> Vec<f32> {
    let normal = |name: &str, deviation: f64| {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(name_hash(name));
        (0..piece.len())
            .map(|_| (deviation * Distribution::<f64>::sample(&StandardNormal, &mut rng)) as f32)
            .collect()
    };
    match start {
        Start::One => vec![1.0; piece.len()],
        Start::Zero => vec![0.0; piece.len()],
        Start::Normal(deviation) => normal(&piece.name, deviation),
        Start::Shared(deviation) => normal(&shared_name(&piece.name), deviation),
        Start::Near(deviation, share) => {
            let own = normal(&piece.name, share * deviation);
            normal(&shared_name(&piece.name), deviation)
                .iter()
                .zip(own)
                .map(|(common, own)| common + own)
                .collect()
        }
    }
}

/// `model.layers.0.mlp.clusters.3.up_proj.weight` -> `model.layers.0.mlp.up_proj.weight`; the same for experts.
fn shared_name(name: &str) -> String {
    match name.split_once(".clusters.").or(name.split_once(".experts.")) {
        Some((head, tail)) => format!("{head}.{}", tail.split_once('.').map_or(tail, |(_, rest)| rest)),
        None => name.to_owned(),
    }
}

/// FNV-1a.
fn name_hash(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
}

fn specs(config: &ModelConfig) -> Vec<Spec> {
    let (d, depth) = (config.hidden, (2.0 * config.layers as f64).sqrt());
    let fan = |n: usize| 1.0 / (n as f64).sqrt();
    let norm = |name: String| Spec {
        shape: [1, 1, d],
        decay: false,
        pieces: vec![(Piece::vector(name, 0..d), Start::One)],
    };
    let embedding = Piece::matrix("model.embed_tokens.weight", 0, 0..config.vocab, 0..d);
    let mut specs = vec![Spec {
        shape: [1, config.vocab, d],
        decay: true,
        pieces: vec![(embedding, Start::Normal(0.02))],
    }];
    for l in 0..config.layers {
        let name = |part: &str| format!("model.layers.{l}.{part}.weight");
        let heads = ["q", "k", "v"].iter().enumerate();
        let qkv = heads
            .map(|(i, h)| Piece::matrix(name(&format!("self_attn.{h}_proj")), 0, i * d..(i + 1) * d, 0..d));
        let out = Piece::matrix(name("self_attn.o_proj"), 0, 0..d, 0..d);
        specs.push(norm(name("input_layernorm")));
        let qkv = qkv.map(|piece| (piece, Start::Normal(fan(d)))).collect();
        specs.push(Spec { shape: [1, 3 * d, d], decay: true, pieces: qkv });
        specs.push(Spec {
            shape: [1, d, d],
            decay: true,
            pieces: vec![(out, Start::Normal(fan(d) / depth))],
        });
        specs.push(norm(name("post_attention_layernorm")));
        let pieces = ffn_pieces(config.layer(), config.parts, l, depth);
        let shapes = config.layer().weight_shapes().into_iter();
        specs.extend(shapes.zip(pieces).map(|(shape, pieces)| Spec { shape, decay: true, pieces }));
    }
    specs.push(norm("model.norm.weight".into()));
    specs
}

/// The pieces of each weight of a layer's feed-forward part, in the order of [`Layer::weight_shapes`].
pub(crate) fn pieces_of(layer: Layer, l: usize) -> Vec<Vec<Piece>> {
    let pieces = |weight: Vec<(Piece, Start)>| weight.into_iter().map(|(piece, _)| piece).collect();
    ffn_pieces(layer, Parts::Both, l, 1.0).into_iter().map(pieces).collect()
}

/// The pieces of each feed-forward weight, in the order of [`Layer::weight_shapes`].
fn ffn_pieces(layer: Layer, parts: Parts, l: usize, depth: f64) -> Vec<Vec<(Piece, Start)>> {
    let Shape { hidden: d, inner: f, experts, clusters, rank: r, .. } = layer.shape;
    let per = experts / clusters;
    let name = |part: String| format!("model.layers.{l}.mlp.{part}.weight");
    let (into, out) = (1.0 / (d as f64).sqrt(), 1.0 / (f as f64).sqrt() / depth);
    // Gate, up and down of the matrices called `owner.`, in group `g`.
    let gate_up = |owner: &str, g: usize, start: fn(f64) -> Start| {
        [("gate", 0), ("up", f)].map(|(part, row)| {
            (Piece::matrix(name(format!("{owner}{part}_proj")), g, row..row + f, 0..d), start(into))
        })
    };
    let down = |owner: &str, g: usize, start: fn(f64) -> Start| {
        (Piece::matrix(name(format!("{owner}down_proj")), g, 0..d, 0..f), start(out))
    };
    let expert = |e: usize| format!("experts.{e}.");
    let cluster = |g: usize| format!("clusters.{g}.");
    // Logits near zero: the router starts almost uniform.
    let levels = layer.shape.logits() - experts;
    let level =
        |part: &str, rows| (Piece::matrix(name(part.into()), 0, rows, 0..d), Start::Normal(0.1 * into));
    let mut router = vec![level("gate", levels..levels + experts)];
    if levels > 0 {
        router.insert(0, level("cluster_gate", 0..levels));
    }
    match layer.kind {
        FfnKind::Dense => vec![gate_up("", 0, Start::Normal).into(), vec![down("", 0, Start::Normal)]],
        FfnKind::Flat => vec![
            router,
            (0..experts).flat_map(|e| gate_up(&expert(e), e, Start::Normal)).collect(),
            (0..experts).map(|e| down(&expert(e), e, Start::Normal)).collect(),
        ],
        FfnKind::Full => {
            let near = |deviation| Start::Near(deviation, NOISE);
            let mut w2: Vec<_> = (0..experts).map(|e| down(&expert(e), e, near)).collect();
            w2.iter_mut().for_each(|(_, start)| *start = near(out * clusters as f64)); // as below
            vec![router, (0..experts).flat_map(|e| gate_up(&expert(e), e, near)).collect(), w2]
        }
        FfnKind::Clustered => {
            let factor =
                |e: usize, part: &str, side: &str| name(format!("{}{part}_proj.lora_{side}", expert(e)));
            // The router weighs a token's cluster with p_g, near 1 / clusters at the start: without this factor
            // the layer would start that much weaker, and raising p_g would pay before choosing well does.
            let last = out * clusters as f64;
            let base = if parts == Parts::Residuals { |_| Start::Zero } else { Start::Shared };
            let mut w13: Vec<_> = (0..clusters).flat_map(|g| gate_up(&cluster(g), g, base)).collect();
            let mut w2: Vec<_> = (0..clusters).map(|g| down(&cluster(g), g, base)).collect();
            w2.iter_mut().for_each(|(_, start)| *start = base(last));
            let (mut b, mut a2) = (Vec::new(), Vec::new());
            // A is small and B zero: the residual starts at zero, and B gets a gradient at once. Without a base the
            // product of both has to start as large as a base would.
            let root = (r as f64).sqrt();
            let first =
                |deviation: f64| if parts == Parts::Base { Start::Zero } else { Start::Normal(deviation) };
            let second = |deviation: f64| {
                if parts == Parts::Residuals { Start::Normal(deviation) } else { Start::Zero }
            };
            for e in 0..experts {
                let (g, i) = (e / per, e % per);
                for (half, part) in ["gate", "up"].into_iter().enumerate() {
                    let row = 2 * f + (2 * i + half) * r;
                    w13.push((Piece::matrix(factor(e, part, "A"), g, row..row + r, 0..d), first(into)));
                    b.push((
                        Piece::matrix(factor(e, part, "B"), e, half * f..(half + 1) * f, 0..r),
                        second(1.0 / root),
                    ));
                }
                let col = f + i * r;
                let b2 = second(last / (out * depth * root));
                w2.push((Piece::matrix(factor(e, "down", "B"), g, 0..d, col..col + r), b2));
                a2.push((Piece::matrix(factor(e, "down", "A"), e, 0..r, 0..f), first(out * depth)));
            }
            vec![router, w13, w2, b, a2]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::preset::Preset;

    #[test]
    fn pieces_cover_every_element_once() {
        for ffn in FfnKind::ALL {
            for clusters in [1, 2] {
                let config = ModelConfig { clusters, ..Preset::Tiny.model().variant(ffn) };
                let mut names = std::collections::HashSet::new();
                for spec in specs(&config) {
                    let mut count = vec![0u8; spec.shape.iter().product()];
                    for (piece, _) in &spec.pieces {
                        assert!(names.insert(piece.name.clone()), "{} twice", piece.name);
                        for (r, c) in piece.rows.clone().flat_map(|r| piece.cols.clone().map(move |c| (r, c)))
                        {
                            count[(piece.group * spec.shape[1] + r) * spec.shape[2] + c] += 1;
                        }
                    }
                    assert!(count.iter().all(|&n| n == 1), "{:?}", spec.pieces);
                }
            }
        }
    }

    #[test]
    fn factors_are_where_they_are_said_to_be_and_bases_stay_without_them() {
        let config = Preset::Tiny.model().variant(FfnKind::Clustered);
        let (shape, device) = (config.layer().shape, Device::cpu());
        let plain = build::<f32>(&config, &device, 0, false).unwrap();
        let ffn = &plain[config.layer_start(1) + FFN..];
        for (e, part) in (0..shape.experts).flat_map(|e| (0..3).map(move |part| (e, part))) {
            for (side, letter) in ["A", "B"].into_iter().enumerate() {
                let (param, piece) = factor_at(&shape, e, part, side);
                let part = ["gate", "up", "down"][part];
                let name = format!("model.layers.1.mlp.experts.{e}.{part}_proj.lora_{letter}.weight");
                assert_eq!(ffn[param].pieces[piece].name, name);
            }
        }
        let packed = build_packed::<f32>(&config, &device).unwrap();
        let names = |params: &[Param<f32>]| -> Vec<Piece> {
            params.iter().flat_map(|p| p.pieces.clone()).filter(|p| !is_factor(p)).collect()
        };
        assert_eq!(names(&packed), names(&plain));
        let Shape { hidden, inner, clusters, .. } = shape;
        let shapes: Vec<_> = packed[config.layer_start(0) + FFN..].iter().map(|p| p.weight.shape()).collect();
        let want = [[1, shape.logits(), hidden], [clusters, 2 * inner, hidden], [clusters, hidden, inner]];
        assert_eq!(shapes[..5], [&want[..], &[[0; 3]; 2]].concat());
    }

    #[test]
    fn every_base_starts_from_one_matrix() {
        let config = Preset::Tiny.model().variant(FfnKind::Clustered);
        let params = build::<f32>(&config, &Device::cpu(), 3, false).unwrap();
        let get = |name: &str| {
            let found = params.iter().find_map(|p| Some((p, p.pieces.iter().position(|q| q.name == name)?)));
            let (param, piece) = found.unwrap_or_else(|| panic!("no {name}"));
            param.get(piece).unwrap()
        };
        for part in ["gate", "up", "down"] {
            let base = |g| get(&format!("model.layers.1.mlp.clusters.{g}.{part}_proj.weight"));
            assert_eq!(base(0), base(1));
            assert!(
                get(&format!("model.layers.0.mlp.experts.5.{part}_proj.lora_B.weight"))
                    .iter()
                    .all(|&b| b == 0.0)
            );
            assert!(
                get(&format!("model.layers.0.mlp.experts.5.{part}_proj.lora_A.weight"))
                    .iter()
                    .any(|&a| a != 0.0)
            );
        }
        assert_ne!(
            get("model.layers.0.mlp.clusters.0.up_proj.weight"),
            get("model.layers.1.mlp.clusters.0.up_proj.weight")
        );
    }
}
