//! The parameters of the kernels: written by `cargo xtask bindings` from `kernels/*.h`.
#![allow(missing_docs, dead_code, non_camel_case_types, non_upper_case_globals, clippy::all)]

pub const GLOBAL_NORM_CHUNK: u32 = 32768;
pub const PLAN_GROUPS: u32 = 1024;
pub const PLAN_SLOTS: u32 = 16;
pub const PLAN_TOKENS: u32 = 1024;
pub const RMS_NORM_PARTIAL_ROWS: u32 = 32;
#[doc = " How a kernel is launched, exported by its image as `moe_<name>_launch`, so that host and device agree.\n\n A kernel over the rows of a matrix gets `threads` threads a block and a grid of\n `(ceil(rows / tile.rows), min(ceil(columns / tile.columns), 65535))` blocks; the others say in their header what\n grid they want."]
#[repr(C)]
#[derive(Debug, Copy, Clone, bytemuck :: Pod, bytemuck :: Zeroable)]
pub struct LaunchTile {
    #[doc = " Threads of a block."]
    pub threads: u32,
    #[doc = " Rows of a block."]
    pub rows: u32,
    #[doc = " Columns of a block; 0 if a block takes whole rows, and the grid has one dimension."]
    pub columns: u32,
    #[doc = " Bytes of dynamic shared memory of a block."]
    pub shared: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of LaunchTile"][::core::mem::size_of::<LaunchTile>() - 16usize];
    ["Alignment of LaunchTile"][::core::mem::align_of::<LaunchTile>() - 4usize];
    ["Offset of field: LaunchTile::threads"][::core::mem::offset_of!(LaunchTile, threads) - 0usize];
    ["Offset of field: LaunchTile::rows"][::core::mem::offset_of!(LaunchTile, rows) - 4usize];
    ["Offset of field: LaunchTile::columns"][::core::mem::offset_of!(LaunchTile, columns) - 8usize];
    ["Offset of field: LaunchTile::shared"][::core::mem::offset_of!(LaunchTile, shared) - 12usize];
};
#[doc = " Parameters of `moe_adamw_*`, whose variant is the dtype of `stored`; launched by the tile `moe_adamw_launch` over\n one row of `len` columns."]
#[repr(C)]
#[derive(Debug, Copy, Clone, bytemuck :: Pod, bytemuck :: Zeroable)]
pub struct AdamWParams {
    #[doc = " [len], f32"]
    pub weight: u64,
    #[doc = " [len], f32, before clipping"]
    pub grad: u64,
    #[doc = " [len], f32"]
    pub m: u64,
    #[doc = " [len], f32"]
    pub v: u64,
    #[doc = " [len]: a copy of the weights; 0 means none"]
    pub stored: u64,
    #[doc = " [1], f32"]
    pub norm: u64,
    #[doc = " [3], f32: lr, rate and scale2, in place of those below and of lr in decay; 0 means none"]
    pub rates: u64,
    pub len: u64,
    pub max_norm: f32,
    pub beta1: f32,
    pub beta2: f32,
    pub eps: f32,
    #[doc = " 1 - lr weight_decay"]
    pub decay: f32,
    #[doc = " lr / (1 - beta1^step), divided in f64"]
    pub rate: f32,
    #[doc = " 1 / (1 - beta2^step), divided in f64"]
    pub scale2: f32,
    pub weight_decay: f32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of AdamWParams"][::core::mem::size_of::<AdamWParams>() - 96usize];
    ["Alignment of AdamWParams"][::core::mem::align_of::<AdamWParams>() - 8usize];
    ["Offset of field: AdamWParams::weight"][::core::mem::offset_of!(AdamWParams, weight) - 0usize];
    ["Offset of field: AdamWParams::grad"][::core::mem::offset_of!(AdamWParams, grad) - 8usize];
    ["Offset of field: AdamWParams::m"][::core::mem::offset_of!(AdamWParams, m) - 16usize];
    ["Offset of field: AdamWParams::v"][::core::mem::offset_of!(AdamWParams, v) - 24usize];
    ["Offset of field: AdamWParams::stored"][::core::mem::offset_of!(AdamWParams, stored) - 32usize];
    ["Offset of field: AdamWParams::norm"][::core::mem::offset_of!(AdamWParams, norm) - 40usize];
    ["Offset of field: AdamWParams::rates"][::core::mem::offset_of!(AdamWParams, rates) - 48usize];
    ["Offset of field: AdamWParams::len"][::core::mem::offset_of!(AdamWParams, len) - 56usize];
    ["Offset of field: AdamWParams::max_norm"][::core::mem::offset_of!(AdamWParams, max_norm) - 64usize];
    ["Offset of field: AdamWParams::beta1"][::core::mem::offset_of!(AdamWParams, beta1) - 68usize];
    ["Offset of field: AdamWParams::beta2"][::core::mem::offset_of!(AdamWParams, beta2) - 72usize];
    ["Offset of field: AdamWParams::eps"][::core::mem::offset_of!(AdamWParams, eps) - 76usize];
    ["Offset of field: AdamWParams::decay"][::core::mem::offset_of!(AdamWParams, decay) - 80usize];
    ["Offset of field: AdamWParams::rate"][::core::mem::offset_of!(AdamWParams, rate) - 84usize];
    ["Offset of field: AdamWParams::scale2"][::core::mem::offset_of!(AdamWParams, scale2) - 88usize];
    ["Offset of field: AdamWParams::weight_decay"]
        [::core::mem::offset_of!(AdamWParams, weight_decay) - 92usize];
};
#[doc = " Parameters of `moe_add_*`; launched by the tile `moe_add_launch` over `rows` and `hidden`."]
#[repr(C)]
#[derive(Debug, Copy, Clone, bytemuck :: Pod, bytemuck :: Zeroable)]
pub struct AddParams {
    #[doc = " [rows, hidden]"]
    pub x: u64,
    #[doc = " [rows, hidden]"]
    pub y: u64,
    pub x_stride: u64,
    pub y_stride: u64,
    pub rows: u32,
    pub hidden: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of AddParams"][::core::mem::size_of::<AddParams>() - 40usize];
    ["Alignment of AddParams"][::core::mem::align_of::<AddParams>() - 8usize];
    ["Offset of field: AddParams::x"][::core::mem::offset_of!(AddParams, x) - 0usize];
    ["Offset of field: AddParams::y"][::core::mem::offset_of!(AddParams, y) - 8usize];
    ["Offset of field: AddParams::x_stride"][::core::mem::offset_of!(AddParams, x_stride) - 16usize];
    ["Offset of field: AddParams::y_stride"][::core::mem::offset_of!(AddParams, y_stride) - 24usize];
    ["Offset of field: AddParams::rows"][::core::mem::offset_of!(AddParams, rows) - 32usize];
    ["Offset of field: AddParams::hidden"][::core::mem::offset_of!(AddParams, hidden) - 36usize];
};
#[doc = " Parameters of `moe_attention_*`, whose tile is of queries."]
#[repr(C)]
#[derive(Debug, Copy, Clone, bytemuck :: Pod, bytemuck :: Zeroable)]
pub struct AttentionParams {
    #[doc = " [sequences seq, 3 heads head_dim]: queries, keys, values"]
    pub qkv: u64,
    #[doc = " [sequences seq, heads head_dim]"]
    pub out: u64,
    #[doc = " [heads, sequences seq], f32: ln of the sum over j of exp(scale q[i] . k[j])"]
    pub lse: u64,
    pub qkv_stride: u64,
    pub out_stride: u64,
    pub lse_stride: u64,
    pub seq: u32,
    pub heads: u32,
    pub head_dim: u32,
    #[doc = " 1 / sqrt(head_dim)"]
    pub scale: f32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of AttentionParams"][::core::mem::size_of::<AttentionParams>() - 64usize];
    ["Alignment of AttentionParams"][::core::mem::align_of::<AttentionParams>() - 8usize];
    ["Offset of field: AttentionParams::qkv"][::core::mem::offset_of!(AttentionParams, qkv) - 0usize];
    ["Offset of field: AttentionParams::out"][::core::mem::offset_of!(AttentionParams, out) - 8usize];
    ["Offset of field: AttentionParams::lse"][::core::mem::offset_of!(AttentionParams, lse) - 16usize];
    ["Offset of field: AttentionParams::qkv_stride"]
        [::core::mem::offset_of!(AttentionParams, qkv_stride) - 24usize];
    ["Offset of field: AttentionParams::out_stride"]
        [::core::mem::offset_of!(AttentionParams, out_stride) - 32usize];
    ["Offset of field: AttentionParams::lse_stride"]
        [::core::mem::offset_of!(AttentionParams, lse_stride) - 40usize];
    ["Offset of field: AttentionParams::seq"][::core::mem::offset_of!(AttentionParams, seq) - 48usize];
    ["Offset of field: AttentionParams::heads"][::core::mem::offset_of!(AttentionParams, heads) - 52usize];
    ["Offset of field: AttentionParams::head_dim"]
        [::core::mem::offset_of!(AttentionParams, head_dim) - 56usize];
    ["Offset of field: AttentionParams::scale"][::core::mem::offset_of!(AttentionParams, scale) - 60usize];
};
#[doc = " With p[i, j] the probabilities, delta[i] = dout[i] . out[i] and ds[i, j] = p[i, j] (dout[i] . v[j] - delta[i]):\n dq[i] = scale sum over j of ds[i, j] k[j], dk[j] = scale sum over i of ds[i, j] q[i],\n dv[j] = sum over i of p[i, j] dout[i].\n\n Parameters of `moe_attention_dq_*`, whose tile is of queries and which writes delta, and of `moe_attention_dkv_*`,\n whose tile is of keys and which reads it: in this order on a stream."]
#[repr(C)]
#[derive(Debug, Copy, Clone, bytemuck :: Pod, bytemuck :: Zeroable)]
pub struct AttentionBackwardParams {
    #[doc = " [sequences seq, heads head_dim]"]
    pub dout: u64,
    #[doc = " [sequences seq, heads head_dim]"]
    pub out: u64,
    #[doc = " [sequences seq, 3 heads head_dim]"]
    pub qkv: u64,
    #[doc = " [sequences seq, 3 heads head_dim]"]
    pub dqkv: u64,
    #[doc = " [heads, sequences seq], f32"]
    pub lse: u64,
    #[doc = " [heads, sequences seq], f32, contiguous: workspace"]
    pub delta: u64,
    pub dout_stride: u64,
    pub out_stride: u64,
    pub qkv_stride: u64,
    pub dqkv_stride: u64,
    pub lse_stride: u64,
    pub rows: u64,
    pub seq: u32,
    pub heads: u32,
    pub head_dim: u32,
    #[doc = " 1 / sqrt(head_dim)"]
    pub scale: f32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of AttentionBackwardParams"][::core::mem::size_of::<AttentionBackwardParams>() - 112usize];
    ["Alignment of AttentionBackwardParams"][::core::mem::align_of::<AttentionBackwardParams>() - 8usize];
    ["Offset of field: AttentionBackwardParams::dout"]
        [::core::mem::offset_of!(AttentionBackwardParams, dout) - 0usize];
    ["Offset of field: AttentionBackwardParams::out"]
        [::core::mem::offset_of!(AttentionBackwardParams, out) - 8usize];
    ["Offset of field: AttentionBackwardParams::qkv"]
        [::core::mem::offset_of!(AttentionBackwardParams, qkv) - 16usize];
    ["Offset of field: AttentionBackwardParams::dqkv"]
        [::core::mem::offset_of!(AttentionBackwardParams, dqkv) - 24usize];
    ["Offset of field: AttentionBackwardParams::lse"]
        [::core::mem::offset_of!(AttentionBackwardParams, lse) - 32usize];
    ["Offset of field: AttentionBackwardParams::delta"]
        [::core::mem::offset_of!(AttentionBackwardParams, delta) - 40usize];
    ["Offset of field: AttentionBackwardParams::dout_stride"]
        [::core::mem::offset_of!(AttentionBackwardParams, dout_stride) - 48usize];
    ["Offset of field: AttentionBackwardParams::out_stride"]
        [::core::mem::offset_of!(AttentionBackwardParams, out_stride) - 56usize];
    ["Offset of field: AttentionBackwardParams::qkv_stride"]
        [::core::mem::offset_of!(AttentionBackwardParams, qkv_stride) - 64usize];
    ["Offset of field: AttentionBackwardParams::dqkv_stride"]
        [::core::mem::offset_of!(AttentionBackwardParams, dqkv_stride) - 72usize];
    ["Offset of field: AttentionBackwardParams::lse_stride"]
        [::core::mem::offset_of!(AttentionBackwardParams, lse_stride) - 80usize];
    ["Offset of field: AttentionBackwardParams::rows"]
        [::core::mem::offset_of!(AttentionBackwardParams, rows) - 88usize];
    ["Offset of field: AttentionBackwardParams::seq"]
        [::core::mem::offset_of!(AttentionBackwardParams, seq) - 96usize];
    ["Offset of field: AttentionBackwardParams::heads"]
        [::core::mem::offset_of!(AttentionBackwardParams, heads) - 100usize];
    ["Offset of field: AttentionBackwardParams::head_dim"]
        [::core::mem::offset_of!(AttentionBackwardParams, head_dim) - 104usize];
    ["Offset of field: AttentionBackwardParams::scale"]
        [::core::mem::offset_of!(AttentionBackwardParams, scale) - 108usize];
};
#[doc = " Parameters of `moe_attention_step_*`, for rows of a head of at most 512 bytes; launched by the tile\n `moe_attention_step_launch`, with heads rows blocks along x."]
#[repr(C)]
#[derive(Debug, Copy, Clone, bytemuck :: Pod, bytemuck :: Zeroable)]
pub struct AttentionStepParams {
    #[doc = " [rows, 3 heads head_dim]: queries, keys and values, not rotated"]
    pub qkv: u64,
    #[doc = " [sequences, seq, 2 heads head_dim]: rotated keys, and values, by position"]
    pub kv: u64,
    #[doc = " [rows], u32"]
    pub sequence: u64,
    #[doc = " [rows], u32"]
    pub position: u64,
    #[doc = " [rows, heads head_dim]"]
    pub out: u64,
    pub qkv_stride: u64,
    #[doc = " from sequence to sequence"]
    pub kv_sequence_stride: u64,
    #[doc = " from position to position"]
    pub kv_stride: u64,
    pub out_stride: u64,
    #[doc = " theta^(-2 / head_dim), positive: the angle of pair i turns by ratio^i a position"]
    pub ratio: f64,
    pub sequences: u32,
    pub seq: u32,
    pub heads: u32,
    #[doc = " head_dim / 2"]
    pub half: u32,
    #[doc = " 1 / sqrt(head_dim)"]
    pub scale: f32,
    pub unused: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of AttentionStepParams"][::core::mem::size_of::<AttentionStepParams>() - 104usize];
    ["Alignment of AttentionStepParams"][::core::mem::align_of::<AttentionStepParams>() - 8usize];
    ["Offset of field: AttentionStepParams::qkv"][::core::mem::offset_of!(AttentionStepParams, qkv) - 0usize];
    ["Offset of field: AttentionStepParams::kv"][::core::mem::offset_of!(AttentionStepParams, kv) - 8usize];
    ["Offset of field: AttentionStepParams::sequence"]
        [::core::mem::offset_of!(AttentionStepParams, sequence) - 16usize];
    ["Offset of field: AttentionStepParams::position"]
        [::core::mem::offset_of!(AttentionStepParams, position) - 24usize];
    ["Offset of field: AttentionStepParams::out"]
        [::core::mem::offset_of!(AttentionStepParams, out) - 32usize];
    ["Offset of field: AttentionStepParams::qkv_stride"]
        [::core::mem::offset_of!(AttentionStepParams, qkv_stride) - 40usize];
    ["Offset of field: AttentionStepParams::kv_sequence_stride"]
        [::core::mem::offset_of!(AttentionStepParams, kv_sequence_stride) - 48usize];
    ["Offset of field: AttentionStepParams::kv_stride"]
        [::core::mem::offset_of!(AttentionStepParams, kv_stride) - 56usize];
    ["Offset of field: AttentionStepParams::out_stride"]
        [::core::mem::offset_of!(AttentionStepParams, out_stride) - 64usize];
    ["Offset of field: AttentionStepParams::ratio"]
        [::core::mem::offset_of!(AttentionStepParams, ratio) - 72usize];
    ["Offset of field: AttentionStepParams::sequences"]
        [::core::mem::offset_of!(AttentionStepParams, sequences) - 80usize];
    ["Offset of field: AttentionStepParams::seq"]
        [::core::mem::offset_of!(AttentionStepParams, seq) - 84usize];
    ["Offset of field: AttentionStepParams::heads"]
        [::core::mem::offset_of!(AttentionStepParams, heads) - 88usize];
    ["Offset of field: AttentionStepParams::half"]
        [::core::mem::offset_of!(AttentionStepParams, half) - 92usize];
    ["Offset of field: AttentionStepParams::scale"]
        [::core::mem::offset_of!(AttentionStepParams, scale) - 96usize];
    ["Offset of field: AttentionStepParams::unused"]
        [::core::mem::offset_of!(AttentionStepParams, unused) - 100usize];
};
#[doc = " mu[e] = (1 - beta) mu[e] + beta mean over rows r of expert e of x[source[r] / fan], for every e that has rows.\n Parameters of `moe_centroid_ema_*`; launched by the tile `moe_centroid_ema_launch` over `experts` and `hidden`."]
#[repr(C)]
#[derive(Debug, Copy, Clone, bytemuck :: Pod, bytemuck :: Zeroable)]
pub struct CentroidEmaParams {
    #[doc = " [tokens, hidden]"]
    pub x: u64,
    #[doc = " [experts, hidden], f32"]
    pub mu: u64,
    #[doc = " [experts + 1], u32"]
    pub offsets: u64,
    #[doc = " [tokens fan], u32"]
    pub source: u64,
    pub x_stride: u64,
    pub mu_stride: u64,
    pub experts: u32,
    pub hidden: u32,
    pub fan: u32,
    pub beta: f32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of CentroidEmaParams"][::core::mem::size_of::<CentroidEmaParams>() - 64usize];
    ["Alignment of CentroidEmaParams"][::core::mem::align_of::<CentroidEmaParams>() - 8usize];
    ["Offset of field: CentroidEmaParams::x"][::core::mem::offset_of!(CentroidEmaParams, x) - 0usize];
    ["Offset of field: CentroidEmaParams::mu"][::core::mem::offset_of!(CentroidEmaParams, mu) - 8usize];
    ["Offset of field: CentroidEmaParams::offsets"]
        [::core::mem::offset_of!(CentroidEmaParams, offsets) - 16usize];
    ["Offset of field: CentroidEmaParams::source"]
        [::core::mem::offset_of!(CentroidEmaParams, source) - 24usize];
    ["Offset of field: CentroidEmaParams::x_stride"]
        [::core::mem::offset_of!(CentroidEmaParams, x_stride) - 32usize];
    ["Offset of field: CentroidEmaParams::mu_stride"]
        [::core::mem::offset_of!(CentroidEmaParams, mu_stride) - 40usize];
    ["Offset of field: CentroidEmaParams::experts"]
        [::core::mem::offset_of!(CentroidEmaParams, experts) - 48usize];
    ["Offset of field: CentroidEmaParams::hidden"]
        [::core::mem::offset_of!(CentroidEmaParams, hidden) - 52usize];
    ["Offset of field: CentroidEmaParams::fan"][::core::mem::offset_of!(CentroidEmaParams, fan) - 56usize];
    ["Offset of field: CentroidEmaParams::beta"][::core::mem::offset_of!(CentroidEmaParams, beta) - 60usize];
};
#[doc = " Parameters of `moe_copy_*`; launched by the tile `moe_copy_launch` over `rows` and `hidden`."]
#[repr(C)]
#[derive(Debug, Copy, Clone, bytemuck :: Pod, bytemuck :: Zeroable)]
pub struct CopyParams {
    #[doc = " [rows, hidden]"]
    pub x: u64,
    #[doc = " [rows, hidden]"]
    pub y: u64,
    pub x_stride: u64,
    pub y_stride: u64,
    pub rows: u32,
    pub hidden: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of CopyParams"][::core::mem::size_of::<CopyParams>() - 40usize];
    ["Alignment of CopyParams"][::core::mem::align_of::<CopyParams>() - 8usize];
    ["Offset of field: CopyParams::x"][::core::mem::offset_of!(CopyParams, x) - 0usize];
    ["Offset of field: CopyParams::y"][::core::mem::offset_of!(CopyParams, y) - 8usize];
    ["Offset of field: CopyParams::x_stride"][::core::mem::offset_of!(CopyParams, x_stride) - 16usize];
    ["Offset of field: CopyParams::y_stride"][::core::mem::offset_of!(CopyParams, y_stride) - 24usize];
    ["Offset of field: CopyParams::rows"][::core::mem::offset_of!(CopyParams, rows) - 32usize];
    ["Offset of field: CopyParams::hidden"][::core::mem::offset_of!(CopyParams, hidden) - 36usize];
};
#[doc = " loss[p] = -ln softmax(logits[p])[targets[p]], and, with `gradient`,\n logits[p] <- scale (softmax(logits[p]) - onehot(targets[p])). A target that is not below `vocab` gives NaN; a loss\n that is not finite gives a gradient of NaN. Parameters of `moe_cross_entropy_*`; launched by the tile `moe_cross_entropy_launch` over `rows`, below 2^31."]
#[repr(C)]
#[derive(Debug, Copy, Clone, bytemuck :: Pod, bytemuck :: Zeroable)]
pub struct CrossEntropyParams {
    #[doc = " [rows, vocab]: logits; their gradient on return if `gradient` is 1"]
    pub logits: u64,
    #[doc = " [rows], u32"]
    pub targets: u64,
    #[doc = " [rows], f32, in nats, not scaled"]
    pub loss: u64,
    pub logits_stride: u64,
    pub rows: u32,
    pub vocab: u32,
    #[doc = " Weight of every row in the gradient"]
    pub scale: f32,
    #[doc = " 1: replace the logits by their gradient; 0: leave them"]
    pub gradient: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of CrossEntropyParams"][::core::mem::size_of::<CrossEntropyParams>() - 48usize];
    ["Alignment of CrossEntropyParams"][::core::mem::align_of::<CrossEntropyParams>() - 8usize];
    ["Offset of field: CrossEntropyParams::logits"]
        [::core::mem::offset_of!(CrossEntropyParams, logits) - 0usize];
    ["Offset of field: CrossEntropyParams::targets"]
        [::core::mem::offset_of!(CrossEntropyParams, targets) - 8usize];
    ["Offset of field: CrossEntropyParams::loss"]
        [::core::mem::offset_of!(CrossEntropyParams, loss) - 16usize];
    ["Offset of field: CrossEntropyParams::logits_stride"]
        [::core::mem::offset_of!(CrossEntropyParams, logits_stride) - 24usize];
    ["Offset of field: CrossEntropyParams::rows"]
        [::core::mem::offset_of!(CrossEntropyParams, rows) - 32usize];
    ["Offset of field: CrossEntropyParams::vocab"]
        [::core::mem::offset_of!(CrossEntropyParams, vocab) - 36usize];
    ["Offset of field: CrossEntropyParams::scale"]
        [::core::mem::offset_of!(CrossEntropyParams, scale) - 40usize];
    ["Offset of field: CrossEntropyParams::gradient"]
        [::core::mem::offset_of!(CrossEntropyParams, gradient) - 44usize];
};
#[doc = " y[p] = scale table[ids[p]]; a row whose id is not below `vocab` becomes NaN. Parameters of `moe_embedding_*`;\n launched by the tile `moe_embedding_launch` over `rows` and `hidden`."]
#[repr(C)]
#[derive(Debug, Copy, Clone, bytemuck :: Pod, bytemuck :: Zeroable)]
pub struct EmbeddingParams {
    #[doc = " [rows], u32"]
    pub ids: u64,
    #[doc = " [vocab, hidden]"]
    pub table: u64,
    #[doc = " [rows, hidden]"]
    pub y: u64,
    pub table_stride: u64,
    pub y_stride: u64,
    pub rows: u32,
    pub hidden: u32,
    pub vocab: u32,
    pub scale: f32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of EmbeddingParams"][::core::mem::size_of::<EmbeddingParams>() - 56usize];
    ["Alignment of EmbeddingParams"][::core::mem::align_of::<EmbeddingParams>() - 8usize];
    ["Offset of field: EmbeddingParams::ids"][::core::mem::offset_of!(EmbeddingParams, ids) - 0usize];
    ["Offset of field: EmbeddingParams::table"][::core::mem::offset_of!(EmbeddingParams, table) - 8usize];
    ["Offset of field: EmbeddingParams::y"][::core::mem::offset_of!(EmbeddingParams, y) - 16usize];
    ["Offset of field: EmbeddingParams::table_stride"]
        [::core::mem::offset_of!(EmbeddingParams, table_stride) - 24usize];
    ["Offset of field: EmbeddingParams::y_stride"]
        [::core::mem::offset_of!(EmbeddingParams, y_stride) - 32usize];
    ["Offset of field: EmbeddingParams::rows"][::core::mem::offset_of!(EmbeddingParams, rows) - 40usize];
    ["Offset of field: EmbeddingParams::hidden"][::core::mem::offset_of!(EmbeddingParams, hidden) - 44usize];
    ["Offset of field: EmbeddingParams::vocab"][::core::mem::offset_of!(EmbeddingParams, vocab) - 48usize];
    ["Offset of field: EmbeddingParams::scale"][::core::mem::offset_of!(EmbeddingParams, scale) - 52usize];
};
#[doc = " dtable[ids[p]] += scale dy[p], in row order; rows whose id is not below `vocab` are left out. Parameters of\n `moe_embedding_backward_*`; launched by the tile `moe_embedding_backward_launch` over `rows`, below 2^31, and\n `hidden`."]
#[repr(C)]
#[derive(Debug, Copy, Clone, bytemuck :: Pod, bytemuck :: Zeroable)]
pub struct EmbeddingBackwardParams {
    #[doc = " [rows], u32"]
    pub ids: u64,
    #[doc = " [rows, hidden]"]
    pub dy: u64,
    #[doc = " [vocab, hidden], f32"]
    pub dtable: u64,
    pub dy_stride: u64,
    pub dtable_stride: u64,
    pub rows: u32,
    pub hidden: u32,
    pub vocab: u32,
    pub scale: f32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of EmbeddingBackwardParams"][::core::mem::size_of::<EmbeddingBackwardParams>() - 56usize];
    ["Alignment of EmbeddingBackwardParams"][::core::mem::align_of::<EmbeddingBackwardParams>() - 8usize];
    ["Offset of field: EmbeddingBackwardParams::ids"]
        [::core::mem::offset_of!(EmbeddingBackwardParams, ids) - 0usize];
    ["Offset of field: EmbeddingBackwardParams::dy"]
        [::core::mem::offset_of!(EmbeddingBackwardParams, dy) - 8usize];
    ["Offset of field: EmbeddingBackwardParams::dtable"]
        [::core::mem::offset_of!(EmbeddingBackwardParams, dtable) - 16usize];
    ["Offset of field: EmbeddingBackwardParams::dy_stride"]
        [::core::mem::offset_of!(EmbeddingBackwardParams, dy_stride) - 24usize];
    ["Offset of field: EmbeddingBackwardParams::dtable_stride"]
        [::core::mem::offset_of!(EmbeddingBackwardParams, dtable_stride) - 32usize];
    ["Offset of field: EmbeddingBackwardParams::rows"]
        [::core::mem::offset_of!(EmbeddingBackwardParams, rows) - 40usize];
    ["Offset of field: EmbeddingBackwardParams::hidden"]
        [::core::mem::offset_of!(EmbeddingBackwardParams, hidden) - 44usize];
    ["Offset of field: EmbeddingBackwardParams::vocab"]
        [::core::mem::offset_of!(EmbeddingBackwardParams, vocab) - 48usize];
    ["Offset of field: EmbeddingBackwardParams::scale"]
        [::core::mem::offset_of!(EmbeddingBackwardParams, scale) - 52usize];
};
#[doc = " Parameters of `moe_expand_{tall,flat,any}_*`. The grid is ceil(tokens / tile.rows) + clusters blocks. `tall` and\n `flat` want all addresses and strides of `bp`, `b`, `a2` and `hq` to be multiples of 16 bytes, inner and rank\n multiples of 8. topk is at most 16, and topk ceil(rank / 16) at most tile.columns, which says how many Q of 16 ranks\n a row may have."]
#[repr(C)]
#[derive(Debug, Copy, Clone, bytemuck :: Pod, bytemuck :: Zeroable)]
pub struct ExpandParams {
    #[doc = " [tokens, 2 inner + 2 K rank]"]
    pub bp: u64,
    #[doc = " [experts, 2 inner, rank]"]
    pub b: u64,
    #[doc = " [experts, rank, inner]"]
    pub a2: u64,
    #[doc = " [tokens, topk], f32"]
    pub weight: u64,
    #[doc = " [tokens, inner + K rank]"]
    pub hq: u64,
    #[doc = " [clusters + 1], u32: first row of each cluster, then the number of rows"]
    pub cluster_offsets: u64,
    #[doc = " [tokens], u32: the token of each row"]
    pub token_of: u64,
    #[doc = " [experts + 1], u32: first slot of each expert in expert order, then the number of slots"]
    pub expert_offsets: u64,
    #[doc = " [tokens, topk], u32: where each choice lies in expert order"]
    pub place: u64,
    pub bp_stride: u64,
    pub b_strides: [u64; 2usize],
    pub a2_strides: [u64; 2usize],
    pub weight_stride: u64,
    pub hq_stride: u64,
    pub clusters: u32,
    #[doc = " Experts per cluster."]
    pub per: u32,
    pub topk: u32,
    pub rank: u32,
    pub inner: u32,
    pub unused: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of ExpandParams"][::core::mem::size_of::<ExpandParams>() - 152usize];
    ["Alignment of ExpandParams"][::core::mem::align_of::<ExpandParams>() - 8usize];
    ["Offset of field: ExpandParams::bp"][::core::mem::offset_of!(ExpandParams, bp) - 0usize];
    ["Offset of field: ExpandParams::b"][::core::mem::offset_of!(ExpandParams, b) - 8usize];
    ["Offset of field: ExpandParams::a2"][::core::mem::offset_of!(ExpandParams, a2) - 16usize];
    ["Offset of field: ExpandParams::weight"][::core::mem::offset_of!(ExpandParams, weight) - 24usize];
    ["Offset of field: ExpandParams::hq"][::core::mem::offset_of!(ExpandParams, hq) - 32usize];
    ["Offset of field: ExpandParams::cluster_offsets"]
        [::core::mem::offset_of!(ExpandParams, cluster_offsets) - 40usize];
    ["Offset of field: ExpandParams::token_of"][::core::mem::offset_of!(ExpandParams, token_of) - 48usize];
    ["Offset of field: ExpandParams::expert_offsets"]
        [::core::mem::offset_of!(ExpandParams, expert_offsets) - 56usize];
    ["Offset of field: ExpandParams::place"][::core::mem::offset_of!(ExpandParams, place) - 64usize];
    ["Offset of field: ExpandParams::bp_stride"][::core::mem::offset_of!(ExpandParams, bp_stride) - 72usize];
    ["Offset of field: ExpandParams::b_strides"][::core::mem::offset_of!(ExpandParams, b_strides) - 80usize];
    ["Offset of field: ExpandParams::a2_strides"]
        [::core::mem::offset_of!(ExpandParams, a2_strides) - 96usize];
    ["Offset of field: ExpandParams::weight_stride"]
        [::core::mem::offset_of!(ExpandParams, weight_stride) - 112usize];
    ["Offset of field: ExpandParams::hq_stride"][::core::mem::offset_of!(ExpandParams, hq_stride) - 120usize];
    ["Offset of field: ExpandParams::clusters"][::core::mem::offset_of!(ExpandParams, clusters) - 128usize];
    ["Offset of field: ExpandParams::per"][::core::mem::offset_of!(ExpandParams, per) - 132usize];
    ["Offset of field: ExpandParams::topk"][::core::mem::offset_of!(ExpandParams, topk) - 136usize];
    ["Offset of field: ExpandParams::rank"][::core::mem::offset_of!(ExpandParams, rank) - 140usize];
    ["Offset of field: ExpandParams::inner"][::core::mem::offset_of!(ExpandParams, inner) - 144usize];
    ["Offset of field: ExpandParams::unused"][::core::mem::offset_of!(ExpandParams, unused) - 148usize];
};
#[doc = " The gradient of `bp`, in place, and of `weight`: with R_re the columns of Q in dhq, dh = dhbar + R_re A2_e,\n     dz = w dh (silu'(g) u | silu(g)),   (dgate | dup)_r = sum over the slots of dz,   dP_re = dz B_e,\n     dweight = <dh, silu(g) u>.\n Parameters of `moe_expand_backward_{tall,flat,any}_*`; grid, alignment and limits as for the forward."]
#[repr(C)]
#[derive(Debug, Copy, Clone, bytemuck :: Pod, bytemuck :: Zeroable)]
pub struct ExpandBackwardParams {
    #[doc = " [tokens, 2 inner + 2 K rank]: [gate | up | P] on entry, its gradient on return"]
    pub bp: u64,
    #[doc = " [experts, 2 inner, rank]"]
    pub b: u64,
    #[doc = " [experts, rank, inner]"]
    pub a2: u64,
    #[doc = " [tokens, topk], f32"]
    pub weight: u64,
    #[doc = " [tokens, inner + K rank]: the gradient of [hbar | Q]"]
    pub dhq: u64,
    #[doc = " [tokens, topk], f32, overwritten"]
    pub dweight: u64,
    #[doc = " [clusters + 1], u32"]
    pub cluster_offsets: u64,
    #[doc = " [tokens], u32"]
    pub token_of: u64,
    #[doc = " [experts + 1], u32"]
    pub expert_offsets: u64,
    #[doc = " [tokens, topk], u32"]
    pub place: u64,
    pub bp_stride: u64,
    pub b_strides: [u64; 2usize],
    pub a2_strides: [u64; 2usize],
    pub weight_stride: u64,
    pub dhq_stride: u64,
    pub dweight_stride: u64,
    pub clusters: u32,
    pub per: u32,
    pub topk: u32,
    pub rank: u32,
    pub inner: u32,
    pub unused: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of ExpandBackwardParams"][::core::mem::size_of::<ExpandBackwardParams>() - 168usize];
    ["Alignment of ExpandBackwardParams"][::core::mem::align_of::<ExpandBackwardParams>() - 8usize];
    ["Offset of field: ExpandBackwardParams::bp"][::core::mem::offset_of!(ExpandBackwardParams, bp) - 0usize];
    ["Offset of field: ExpandBackwardParams::b"][::core::mem::offset_of!(ExpandBackwardParams, b) - 8usize];
    ["Offset of field: ExpandBackwardParams::a2"]
        [::core::mem::offset_of!(ExpandBackwardParams, a2) - 16usize];
    ["Offset of field: ExpandBackwardParams::weight"]
        [::core::mem::offset_of!(ExpandBackwardParams, weight) - 24usize];
    ["Offset of field: ExpandBackwardParams::dhq"]
        [::core::mem::offset_of!(ExpandBackwardParams, dhq) - 32usize];
    ["Offset of field: ExpandBackwardParams::dweight"]
        [::core::mem::offset_of!(ExpandBackwardParams, dweight) - 40usize];
    ["Offset of field: ExpandBackwardParams::cluster_offsets"]
        [::core::mem::offset_of!(ExpandBackwardParams, cluster_offsets) - 48usize];
    ["Offset of field: ExpandBackwardParams::token_of"]
        [::core::mem::offset_of!(ExpandBackwardParams, token_of) - 56usize];
    ["Offset of field: ExpandBackwardParams::expert_offsets"]
        [::core::mem::offset_of!(ExpandBackwardParams, expert_offsets) - 64usize];
    ["Offset of field: ExpandBackwardParams::place"]
        [::core::mem::offset_of!(ExpandBackwardParams, place) - 72usize];
    ["Offset of field: ExpandBackwardParams::bp_stride"]
        [::core::mem::offset_of!(ExpandBackwardParams, bp_stride) - 80usize];
    ["Offset of field: ExpandBackwardParams::b_strides"]
        [::core::mem::offset_of!(ExpandBackwardParams, b_strides) - 88usize];
    ["Offset of field: ExpandBackwardParams::a2_strides"]
        [::core::mem::offset_of!(ExpandBackwardParams, a2_strides) - 104usize];
    ["Offset of field: ExpandBackwardParams::weight_stride"]
        [::core::mem::offset_of!(ExpandBackwardParams, weight_stride) - 120usize];
    ["Offset of field: ExpandBackwardParams::dhq_stride"]
        [::core::mem::offset_of!(ExpandBackwardParams, dhq_stride) - 128usize];
    ["Offset of field: ExpandBackwardParams::dweight_stride"]
        [::core::mem::offset_of!(ExpandBackwardParams, dweight_stride) - 136usize];
    ["Offset of field: ExpandBackwardParams::clusters"]
        [::core::mem::offset_of!(ExpandBackwardParams, clusters) - 144usize];
    ["Offset of field: ExpandBackwardParams::per"]
        [::core::mem::offset_of!(ExpandBackwardParams, per) - 148usize];
    ["Offset of field: ExpandBackwardParams::topk"]
        [::core::mem::offset_of!(ExpandBackwardParams, topk) - 152usize];
    ["Offset of field: ExpandBackwardParams::rank"]
        [::core::mem::offset_of!(ExpandBackwardParams, rank) - 156usize];
    ["Offset of field: ExpandBackwardParams::inner"]
        [::core::mem::offset_of!(ExpandBackwardParams, inner) - 160usize];
    ["Offset of field: ExpandBackwardParams::unused"]
        [::core::mem::offset_of!(ExpandBackwardParams, unused) - 164usize];
};
#[doc = " The gradients of the factors, from [gate | up | P] as it was before the gradient replaced it:\n     dB_e = sum over the slots of e of dz^T P_re,   dA2_e = sum of R_re^T h.\n A piece is at most tile.rows slots of one expert. An expert of one piece is written to `db` and `da2`; the sums of\n more pieces go to `partial`, in order of expert and piece, for `moe_expand_fold`. Parameters of\n `moe_expand_factors_*` and `moe_expand_factors_any_*` (no wishes for alignment); the grid is\n (topk tokens / tile.rows + experts, ceil(inner / tile.columns), ceil(rank / 16)) blocks."]
#[repr(C)]
#[derive(Debug, Copy, Clone, bytemuck :: Pod, bytemuck :: Zeroable)]
pub struct ExpandFactorsParams {
    #[doc = " [tokens, 2 inner + 2 K rank]"]
    pub bp: u64,
    #[doc = " [experts, 2 inner, rank]"]
    pub b: u64,
    #[doc = " [experts, rank, inner]"]
    pub a2: u64,
    #[doc = " [tokens, topk], f32"]
    pub weight: u64,
    #[doc = " [tokens, inner + K rank]"]
    pub dhq: u64,
    #[doc = " [experts, 2 inner, rank], f32"]
    pub db: u64,
    #[doc = " [experts, rank, inner], f32"]
    pub da2: u64,
    #[doc = " [pieces, 3 inner rank], f32: dB, then dA2, contiguous"]
    pub partial: u64,
    #[doc = " [experts + 1], u32"]
    pub expert_offsets: u64,
    #[doc = " [tokens topk], u32: the choice of each slot in expert order"]
    pub choice_of: u64,
    #[doc = " [tokens], u32: the row of each token"]
    pub row_of: u64,
    pub bp_stride: u64,
    pub b_strides: [u64; 2usize],
    pub a2_strides: [u64; 2usize],
    pub weight_stride: u64,
    pub dhq_stride: u64,
    pub db_strides: [u64; 2usize],
    pub da2_strides: [u64; 2usize],
    pub experts: u32,
    pub per: u32,
    pub topk: u32,
    pub rank: u32,
    pub inner: u32,
    #[doc = " 1: add to db and da2; 0: overwrite them"]
    pub accumulate: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of ExpandFactorsParams"][::core::mem::size_of::<ExpandFactorsParams>() - 200usize];
    ["Alignment of ExpandFactorsParams"][::core::mem::align_of::<ExpandFactorsParams>() - 8usize];
    ["Offset of field: ExpandFactorsParams::bp"][::core::mem::offset_of!(ExpandFactorsParams, bp) - 0usize];
    ["Offset of field: ExpandFactorsParams::b"][::core::mem::offset_of!(ExpandFactorsParams, b) - 8usize];
    ["Offset of field: ExpandFactorsParams::a2"][::core::mem::offset_of!(ExpandFactorsParams, a2) - 16usize];
    ["Offset of field: ExpandFactorsParams::weight"]
        [::core::mem::offset_of!(ExpandFactorsParams, weight) - 24usize];
    ["Offset of field: ExpandFactorsParams::dhq"]
        [::core::mem::offset_of!(ExpandFactorsParams, dhq) - 32usize];
    ["Offset of field: ExpandFactorsParams::db"][::core::mem::offset_of!(ExpandFactorsParams, db) - 40usize];
    ["Offset of field: ExpandFactorsParams::da2"]
        [::core::mem::offset_of!(ExpandFactorsParams, da2) - 48usize];
    ["Offset of field: ExpandFactorsParams::partial"]
        [::core::mem::offset_of!(ExpandFactorsParams, partial) - 56usize];
    ["Offset of field: ExpandFactorsParams::expert_offsets"]
        [::core::mem::offset_of!(ExpandFactorsParams, expert_offsets) - 64usize];
    ["Offset of field: ExpandFactorsParams::choice_of"]
        [::core::mem::offset_of!(ExpandFactorsParams, choice_of) - 72usize];
    ["Offset of field: ExpandFactorsParams::row_of"]
        [::core::mem::offset_of!(ExpandFactorsParams, row_of) - 80usize];
    ["Offset of field: ExpandFactorsParams::bp_stride"]
        [::core::mem::offset_of!(ExpandFactorsParams, bp_stride) - 88usize];
    ["Offset of field: ExpandFactorsParams::b_strides"]
        [::core::mem::offset_of!(ExpandFactorsParams, b_strides) - 96usize];
    ["Offset of field: ExpandFactorsParams::a2_strides"]
        [::core::mem::offset_of!(ExpandFactorsParams, a2_strides) - 112usize];
    ["Offset of field: ExpandFactorsParams::weight_stride"]
        [::core::mem::offset_of!(ExpandFactorsParams, weight_stride) - 128usize];
    ["Offset of field: ExpandFactorsParams::dhq_stride"]
        [::core::mem::offset_of!(ExpandFactorsParams, dhq_stride) - 136usize];
    ["Offset of field: ExpandFactorsParams::db_strides"]
        [::core::mem::offset_of!(ExpandFactorsParams, db_strides) - 144usize];
    ["Offset of field: ExpandFactorsParams::da2_strides"]
        [::core::mem::offset_of!(ExpandFactorsParams, da2_strides) - 160usize];
    ["Offset of field: ExpandFactorsParams::experts"]
        [::core::mem::offset_of!(ExpandFactorsParams, experts) - 176usize];
    ["Offset of field: ExpandFactorsParams::per"]
        [::core::mem::offset_of!(ExpandFactorsParams, per) - 180usize];
    ["Offset of field: ExpandFactorsParams::topk"]
        [::core::mem::offset_of!(ExpandFactorsParams, topk) - 184usize];
    ["Offset of field: ExpandFactorsParams::rank"]
        [::core::mem::offset_of!(ExpandFactorsParams, rank) - 188usize];
    ["Offset of field: ExpandFactorsParams::inner"]
        [::core::mem::offset_of!(ExpandFactorsParams, inner) - 192usize];
    ["Offset of field: ExpandFactorsParams::accumulate"]
        [::core::mem::offset_of!(ExpandFactorsParams, accumulate) - 196usize];
};
#[doc = " db_e and da2_e of the experts that have no piece, or several: [themselves +] the sum of their pieces, in order.\n Parameters of `moe_expand_fold`; the grid is (experts, min(ceil(3 inner rank / tile.columns), 65535)) blocks."]
#[repr(C)]
#[derive(Debug, Copy, Clone, bytemuck :: Pod, bytemuck :: Zeroable)]
pub struct ExpandFoldParams {
    #[doc = " [experts, 2 inner, rank], f32"]
    pub db: u64,
    #[doc = " [experts, rank, inner], f32"]
    pub da2: u64,
    #[doc = " [pieces, 3 inner rank], f32"]
    pub partial: u64,
    #[doc = " [experts + 1], u32"]
    pub expert_offsets: u64,
    pub db_strides: [u64; 2usize],
    pub da2_strides: [u64; 2usize],
    pub experts: u32,
    pub rank: u32,
    pub inner: u32,
    pub accumulate: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of ExpandFoldParams"][::core::mem::size_of::<ExpandFoldParams>() - 80usize];
    ["Alignment of ExpandFoldParams"][::core::mem::align_of::<ExpandFoldParams>() - 8usize];
    ["Offset of field: ExpandFoldParams::db"][::core::mem::offset_of!(ExpandFoldParams, db) - 0usize];
    ["Offset of field: ExpandFoldParams::da2"][::core::mem::offset_of!(ExpandFoldParams, da2) - 8usize];
    ["Offset of field: ExpandFoldParams::partial"]
        [::core::mem::offset_of!(ExpandFoldParams, partial) - 16usize];
    ["Offset of field: ExpandFoldParams::expert_offsets"]
        [::core::mem::offset_of!(ExpandFoldParams, expert_offsets) - 24usize];
    ["Offset of field: ExpandFoldParams::db_strides"]
        [::core::mem::offset_of!(ExpandFoldParams, db_strides) - 32usize];
    ["Offset of field: ExpandFoldParams::da2_strides"]
        [::core::mem::offset_of!(ExpandFoldParams, da2_strides) - 48usize];
    ["Offset of field: ExpandFoldParams::experts"]
        [::core::mem::offset_of!(ExpandFoldParams, experts) - 64usize];
    ["Offset of field: ExpandFoldParams::rank"][::core::mem::offset_of!(ExpandFoldParams, rank) - 68usize];
    ["Offset of field: ExpandFoldParams::inner"][::core::mem::offset_of!(ExpandFoldParams, inner) - 72usize];
    ["Offset of field: ExpandFoldParams::accumulate"]
        [::core::mem::offset_of!(ExpandFoldParams, accumulate) - 76usize];
};
#[doc = " Packed weights [groups, out, in]: w = scale (q - zero), one scale and zero-point a block of a row. Rows go in strips of\n 32 (`strips` = ceil(out / 32)), columns in steps of 32 (`steps` = ceil(in / 32)). The addresses are multiples of 16."]
#[repr(C)]
#[derive(Debug, Copy, Clone, bytemuck :: Pod, bytemuck :: Zeroable)]
pub struct Int4Weights {
    #[doc = " [groups, strips, steps, 32, 4], u32 of 8 values each"]
    pub words: u64,
    #[doc = " [groups, strips, blocks, 32], bf16; [groups, 32], equal in a group, with `per_matrix`"]
    pub scales: u64,
    #[doc = " As `scales`, u8; 0 means 8 everywhere"]
    pub zeros: u64,
    pub groups: u32,
    pub outputs: u32,
    pub inputs: u32,
    #[doc = " Blocks of a row"]
    pub blocks: u32,
    #[doc = " A block has 2^shift steps; 31: all of them"]
    pub shift: u32,
    #[doc = " 1: one scale and zero-point a matrix (and `blocks` is 1, `shift` 31); 0: the rows have their own"]
    pub per_matrix: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of Int4Weights"][::core::mem::size_of::<Int4Weights>() - 48usize];
    ["Alignment of Int4Weights"][::core::mem::align_of::<Int4Weights>() - 8usize];
    ["Offset of field: Int4Weights::words"][::core::mem::offset_of!(Int4Weights, words) - 0usize];
    ["Offset of field: Int4Weights::scales"][::core::mem::offset_of!(Int4Weights, scales) - 8usize];
    ["Offset of field: Int4Weights::zeros"][::core::mem::offset_of!(Int4Weights, zeros) - 16usize];
    ["Offset of field: Int4Weights::groups"][::core::mem::offset_of!(Int4Weights, groups) - 24usize];
    ["Offset of field: Int4Weights::outputs"][::core::mem::offset_of!(Int4Weights, outputs) - 28usize];
    ["Offset of field: Int4Weights::inputs"][::core::mem::offset_of!(Int4Weights, inputs) - 32usize];
    ["Offset of field: Int4Weights::blocks"][::core::mem::offset_of!(Int4Weights, blocks) - 36usize];
    ["Offset of field: Int4Weights::shift"][::core::mem::offset_of!(Int4Weights, shift) - 40usize];
    ["Offset of field: Int4Weights::per_matrix"][::core::mem::offset_of!(Int4Weights, per_matrix) - 44usize];
};
#[doc = " Matrices [groups, out, in] in plain memory: row o, column i of group g lies at element\n g group + (o / rows) part + (o % rows) row + i column. Either `row` or `column` is 1."]
#[repr(C)]
#[derive(Debug, Copy, Clone, bytemuck :: Pod, bytemuck :: Zeroable)]
pub struct Int4Matrices {
    pub address: u64,
    pub group: u64,
    pub part: u64,
    pub row: u64,
    pub column: u64,
    #[doc = " Rows of a part, at least 1"]
    pub rows: u32,
    pub unused: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of Int4Matrices"][::core::mem::size_of::<Int4Matrices>() - 48usize];
    ["Alignment of Int4Matrices"][::core::mem::align_of::<Int4Matrices>() - 8usize];
    ["Offset of field: Int4Matrices::address"][::core::mem::offset_of!(Int4Matrices, address) - 0usize];
    ["Offset of field: Int4Matrices::group"][::core::mem::offset_of!(Int4Matrices, group) - 8usize];
    ["Offset of field: Int4Matrices::part"][::core::mem::offset_of!(Int4Matrices, part) - 16usize];
    ["Offset of field: Int4Matrices::row"][::core::mem::offset_of!(Int4Matrices, row) - 24usize];
    ["Offset of field: Int4Matrices::column"][::core::mem::offset_of!(Int4Matrices, column) - 32usize];
    ["Offset of field: Int4Matrices::rows"][::core::mem::offset_of!(Int4Matrices, rows) - 40usize];
    ["Offset of field: Int4Matrices::unused"][::core::mem::offset_of!(Int4Matrices, unused) - 44usize];
};
#[doc = " w = quantised x. Parameters of `moe_quantize_int4_*`; a grid of one dimension: blocks of a row are dealt to the warps of\n ceil(groups strips blocks / moe_quantize_int4_launch.rows) blocks; with shift 31 a block of threads takes a strip, with\n `per_matrix` a matrix."]
#[repr(C)]
#[derive(Debug, Copy, Clone, bytemuck :: Pod, bytemuck :: Zeroable)]
pub struct QuantizeInt4Params {
    pub w: Int4Weights,
    pub x: Int4Matrices,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of QuantizeInt4Params"][::core::mem::size_of::<QuantizeInt4Params>() - 96usize];
    ["Alignment of QuantizeInt4Params"][::core::mem::align_of::<QuantizeInt4Params>() - 8usize];
    ["Offset of field: QuantizeInt4Params::w"][::core::mem::offset_of!(QuantizeInt4Params, w) - 0usize];
    ["Offset of field: QuantizeInt4Params::x"][::core::mem::offset_of!(QuantizeInt4Params, x) - 48usize];
};
#[doc = " y = scale (q - zero), rounded as src/int4.rs says. Parameters of `moe_dequantize_int4_*`; a grid of one dimension: steps\n of strips are dealt to the warps of ceil(groups strips steps / moe_dequantize_int4_launch.rows) blocks."]
#[repr(C)]
#[derive(Debug, Copy, Clone, bytemuck :: Pod, bytemuck :: Zeroable)]
pub struct DequantizeInt4Params {
    pub w: Int4Weights,
    pub y: Int4Matrices,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of DequantizeInt4Params"][::core::mem::size_of::<DequantizeInt4Params>() - 96usize];
    ["Alignment of DequantizeInt4Params"][::core::mem::align_of::<DequantizeInt4Params>() - 8usize];
    ["Offset of field: DequantizeInt4Params::w"][::core::mem::offset_of!(DequantizeInt4Params, w) - 0usize];
    ["Offset of field: DequantizeInt4Params::y"][::core::mem::offset_of!(DequantizeInt4Params, y) - 48usize];
};
#[doc = " y = dequantised quantised x, nothing packed. Parameters of `moe_fake_quant_int4_*`; the grid of `moe_quantize_int4_*`."]
#[repr(C)]
#[derive(Debug, Copy, Clone, bytemuck :: Pod, bytemuck :: Zeroable)]
pub struct FakeQuantInt4Params {
    #[doc = " No addresses; `zeros` is 0 if symmetric, else 1"]
    pub w: Int4Weights,
    pub x: Int4Matrices,
    pub y: Int4Matrices,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of FakeQuantInt4Params"][::core::mem::size_of::<FakeQuantInt4Params>() - 144usize];
    ["Alignment of FakeQuantInt4Params"][::core::mem::align_of::<FakeQuantInt4Params>() - 8usize];
    ["Offset of field: FakeQuantInt4Params::w"][::core::mem::offset_of!(FakeQuantInt4Params, w) - 0usize];
    ["Offset of field: FakeQuantInt4Params::x"][::core::mem::offset_of!(FakeQuantInt4Params, x) - 48usize];
    ["Offset of field: FakeQuantInt4Params::y"][::core::mem::offset_of!(FakeQuantInt4Params, y) - 96usize];
};
#[doc = " Parameters of `moe_expand_int4_{tall,flat,any}_*`. The grid is ceil(tokens / tile.rows) + clusters blocks. `tall` and\n `flat` want all addresses and strides of `bp` and `hq` to be multiples of 16 bytes, inner and rank multiples of 8. topk\n is at most 16, and topk ceil(rank / 16) at most tile.columns."]
#[repr(C)]
#[derive(Debug, Copy, Clone, bytemuck :: Pod, bytemuck :: Zeroable)]
pub struct ExpandInt4Params {
    #[doc = " [clusters, F, inner]: B^T of gate"]
    pub gate: Int4Weights,
    #[doc = " [clusters, F, inner]: B^T of up"]
    pub up: Int4Weights,
    #[doc = " [clusters, F, inner]: A^T of down"]
    pub down: Int4Weights,
    #[doc = " [tokens, 2 inner + 2 F]"]
    pub bp: u64,
    #[doc = " [tokens, topk], f32"]
    pub weight: u64,
    #[doc = " [tokens, inner + F]"]
    pub hq: u64,
    #[doc = " [clusters + 1], u32: first row of each cluster, then the number of rows"]
    pub cluster_offsets: u64,
    #[doc = " [tokens], u32: the token of each row"]
    pub token_of: u64,
    #[doc = " [experts + 1], u32: first slot of each expert in expert order, then the number of slots"]
    pub expert_offsets: u64,
    #[doc = " [tokens, topk], u32: where each choice lies in expert order"]
    pub place: u64,
    pub bp_stride: u64,
    pub weight_stride: u64,
    pub hq_stride: u64,
    pub clusters: u32,
    #[doc = " Experts per cluster."]
    pub per: u32,
    pub topk: u32,
    pub rank: u32,
    pub inner: u32,
    pub unused: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of ExpandInt4Params"][::core::mem::size_of::<ExpandInt4Params>() - 248usize];
    ["Alignment of ExpandInt4Params"][::core::mem::align_of::<ExpandInt4Params>() - 8usize];
    ["Offset of field: ExpandInt4Params::gate"][::core::mem::offset_of!(ExpandInt4Params, gate) - 0usize];
    ["Offset of field: ExpandInt4Params::up"][::core::mem::offset_of!(ExpandInt4Params, up) - 48usize];
    ["Offset of field: ExpandInt4Params::down"][::core::mem::offset_of!(ExpandInt4Params, down) - 96usize];
    ["Offset of field: ExpandInt4Params::bp"][::core::mem::offset_of!(ExpandInt4Params, bp) - 144usize];
    ["Offset of field: ExpandInt4Params::weight"]
        [::core::mem::offset_of!(ExpandInt4Params, weight) - 152usize];
    ["Offset of field: ExpandInt4Params::hq"][::core::mem::offset_of!(ExpandInt4Params, hq) - 160usize];
    ["Offset of field: ExpandInt4Params::cluster_offsets"]
        [::core::mem::offset_of!(ExpandInt4Params, cluster_offsets) - 168usize];
    ["Offset of field: ExpandInt4Params::token_of"]
        [::core::mem::offset_of!(ExpandInt4Params, token_of) - 176usize];
    ["Offset of field: ExpandInt4Params::expert_offsets"]
        [::core::mem::offset_of!(ExpandInt4Params, expert_offsets) - 184usize];
    ["Offset of field: ExpandInt4Params::place"][::core::mem::offset_of!(ExpandInt4Params, place) - 192usize];
    ["Offset of field: ExpandInt4Params::bp_stride"]
        [::core::mem::offset_of!(ExpandInt4Params, bp_stride) - 200usize];
    ["Offset of field: ExpandInt4Params::weight_stride"]
        [::core::mem::offset_of!(ExpandInt4Params, weight_stride) - 208usize];
    ["Offset of field: ExpandInt4Params::hq_stride"]
        [::core::mem::offset_of!(ExpandInt4Params, hq_stride) - 216usize];
    ["Offset of field: ExpandInt4Params::clusters"]
        [::core::mem::offset_of!(ExpandInt4Params, clusters) - 224usize];
    ["Offset of field: ExpandInt4Params::per"][::core::mem::offset_of!(ExpandInt4Params, per) - 228usize];
    ["Offset of field: ExpandInt4Params::topk"][::core::mem::offset_of!(ExpandInt4Params, topk) - 232usize];
    ["Offset of field: ExpandInt4Params::rank"][::core::mem::offset_of!(ExpandInt4Params, rank) - 236usize];
    ["Offset of field: ExpandInt4Params::inner"][::core::mem::offset_of!(ExpandInt4Params, inner) - 240usize];
    ["Offset of field: ExpandInt4Params::unused"]
        [::core::mem::offset_of!(ExpandInt4Params, unused) - 244usize];
};
#[doc = " partial[b] = sum of squares of the chunk of block b. Parameters of `moe_global_norm_*`, for each tensor that has\n elements; launched by the tile `moe_global_norm_launch` with ceil(len / GLOBAL_NORM_CHUNK) blocks along x."]
#[repr(C)]
#[derive(Debug, Copy, Clone, bytemuck :: Pod, bytemuck :: Zeroable)]
pub struct GlobalNormParams {
    #[doc = " [len], f32"]
    pub grad: u64,
    #[doc = " [ceil(len / GLOBAL_NORM_CHUNK)], f64: this tensor's part of the workspace"]
    pub partial: u64,
    pub len: u64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of GlobalNormParams"][::core::mem::size_of::<GlobalNormParams>() - 24usize];
    ["Alignment of GlobalNormParams"][::core::mem::align_of::<GlobalNormParams>() - 8usize];
    ["Offset of field: GlobalNormParams::grad"][::core::mem::offset_of!(GlobalNormParams, grad) - 0usize];
    ["Offset of field: GlobalNormParams::partial"]
        [::core::mem::offset_of!(GlobalNormParams, partial) - 8usize];
    ["Offset of field: GlobalNormParams::len"][::core::mem::offset_of!(GlobalNormParams, len) - 16usize];
};
#[doc = " norm = sqrt(sum of partial). Parameters of `moe_global_norm_root`, also without tensors; launched by the tile\n `moe_global_norm_root_launch` with one block."]
#[repr(C)]
#[derive(Debug, Copy, Clone, bytemuck :: Pod, bytemuck :: Zeroable)]
pub struct GlobalNormRootParams {
    #[doc = " [partials], f64: of all tensors"]
    pub partial: u64,
    #[doc = " [1], f32"]
    pub norm: u64,
    pub partials: u64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of GlobalNormRootParams"][::core::mem::size_of::<GlobalNormRootParams>() - 24usize];
    ["Alignment of GlobalNormRootParams"][::core::mem::align_of::<GlobalNormRootParams>() - 8usize];
    ["Offset of field: GlobalNormRootParams::partial"]
        [::core::mem::offset_of!(GlobalNormRootParams, partial) - 0usize];
    ["Offset of field: GlobalNormRootParams::norm"]
        [::core::mem::offset_of!(GlobalNormRootParams, norm) - 8usize];
    ["Offset of field: GlobalNormRootParams::partials"]
        [::core::mem::offset_of!(GlobalNormRootParams, partials) - 16usize];
};
#[doc = " y[p] = [y[p] +] x[p] w[g]^T for the rows p of group g. Parameters of `moe_grouped_gemm_*`."]
#[repr(C)]
#[derive(Debug, Copy, Clone, bytemuck :: Pod, bytemuck :: Zeroable)]
pub struct GroupedGemmParams {
    #[doc = " [rows, inputs]; with `source`, [tokens, inputs]"]
    pub x: u64,
    #[doc = " [groups, outputs, inputs]"]
    pub w: u64,
    #[doc = " [rows, outputs]"]
    pub y: u64,
    #[doc = " [groups + 1], u32; 0: one group with all rows"]
    pub offsets: u64,
    #[doc = " [rows], u32: row p of x lies at source[p] / fan; 0: at p"]
    pub source: u64,
    pub x_stride: u64,
    pub w_group_stride: u64,
    pub w_stride: u64,
    pub y_stride: u64,
    pub rows: u32,
    pub groups: u32,
    pub outputs: u32,
    pub inputs: u32,
    pub fan: u32,
    #[doc = " 1: add to y; 0: overwrite it"]
    pub accumulate: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of GroupedGemmParams"][::core::mem::size_of::<GroupedGemmParams>() - 96usize];
    ["Alignment of GroupedGemmParams"][::core::mem::align_of::<GroupedGemmParams>() - 8usize];
    ["Offset of field: GroupedGemmParams::x"][::core::mem::offset_of!(GroupedGemmParams, x) - 0usize];
    ["Offset of field: GroupedGemmParams::w"][::core::mem::offset_of!(GroupedGemmParams, w) - 8usize];
    ["Offset of field: GroupedGemmParams::y"][::core::mem::offset_of!(GroupedGemmParams, y) - 16usize];
    ["Offset of field: GroupedGemmParams::offsets"]
        [::core::mem::offset_of!(GroupedGemmParams, offsets) - 24usize];
    ["Offset of field: GroupedGemmParams::source"]
        [::core::mem::offset_of!(GroupedGemmParams, source) - 32usize];
    ["Offset of field: GroupedGemmParams::x_stride"]
        [::core::mem::offset_of!(GroupedGemmParams, x_stride) - 40usize];
    ["Offset of field: GroupedGemmParams::w_group_stride"]
        [::core::mem::offset_of!(GroupedGemmParams, w_group_stride) - 48usize];
    ["Offset of field: GroupedGemmParams::w_stride"]
        [::core::mem::offset_of!(GroupedGemmParams, w_stride) - 56usize];
    ["Offset of field: GroupedGemmParams::y_stride"]
        [::core::mem::offset_of!(GroupedGemmParams, y_stride) - 64usize];
    ["Offset of field: GroupedGemmParams::rows"][::core::mem::offset_of!(GroupedGemmParams, rows) - 72usize];
    ["Offset of field: GroupedGemmParams::groups"]
        [::core::mem::offset_of!(GroupedGemmParams, groups) - 76usize];
    ["Offset of field: GroupedGemmParams::outputs"]
        [::core::mem::offset_of!(GroupedGemmParams, outputs) - 80usize];
    ["Offset of field: GroupedGemmParams::inputs"]
        [::core::mem::offset_of!(GroupedGemmParams, inputs) - 84usize];
    ["Offset of field: GroupedGemmParams::fan"][::core::mem::offset_of!(GroupedGemmParams, fan) - 88usize];
    ["Offset of field: GroupedGemmParams::accumulate"]
        [::core::mem::offset_of!(GroupedGemmParams, accumulate) - 92usize];
};
#[doc = " dx[p] = [dx[p] +] dy[p] w[g] for the rows p of group g. Parameters of `moe_grouped_gemm_dgrad_*`."]
#[repr(C)]
#[derive(Debug, Copy, Clone, bytemuck :: Pod, bytemuck :: Zeroable)]
pub struct GroupedGemmDgradParams {
    #[doc = " [rows, outputs]"]
    pub dy: u64,
    #[doc = " [groups, outputs, inputs]"]
    pub w: u64,
    #[doc = " [rows, inputs]"]
    pub dx: u64,
    #[doc = " [groups + 1], u32; 0: one group with all rows"]
    pub offsets: u64,
    pub dy_stride: u64,
    pub w_group_stride: u64,
    pub w_stride: u64,
    pub dx_stride: u64,
    pub rows: u32,
    pub groups: u32,
    pub outputs: u32,
    pub inputs: u32,
    #[doc = " 1: add to dx; 0: overwrite it"]
    pub accumulate: u32,
    pub unused: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of GroupedGemmDgradParams"][::core::mem::size_of::<GroupedGemmDgradParams>() - 88usize];
    ["Alignment of GroupedGemmDgradParams"][::core::mem::align_of::<GroupedGemmDgradParams>() - 8usize];
    ["Offset of field: GroupedGemmDgradParams::dy"]
        [::core::mem::offset_of!(GroupedGemmDgradParams, dy) - 0usize];
    ["Offset of field: GroupedGemmDgradParams::w"]
        [::core::mem::offset_of!(GroupedGemmDgradParams, w) - 8usize];
    ["Offset of field: GroupedGemmDgradParams::dx"]
        [::core::mem::offset_of!(GroupedGemmDgradParams, dx) - 16usize];
    ["Offset of field: GroupedGemmDgradParams::offsets"]
        [::core::mem::offset_of!(GroupedGemmDgradParams, offsets) - 24usize];
    ["Offset of field: GroupedGemmDgradParams::dy_stride"]
        [::core::mem::offset_of!(GroupedGemmDgradParams, dy_stride) - 32usize];
    ["Offset of field: GroupedGemmDgradParams::w_group_stride"]
        [::core::mem::offset_of!(GroupedGemmDgradParams, w_group_stride) - 40usize];
    ["Offset of field: GroupedGemmDgradParams::w_stride"]
        [::core::mem::offset_of!(GroupedGemmDgradParams, w_stride) - 48usize];
    ["Offset of field: GroupedGemmDgradParams::dx_stride"]
        [::core::mem::offset_of!(GroupedGemmDgradParams, dx_stride) - 56usize];
    ["Offset of field: GroupedGemmDgradParams::rows"]
        [::core::mem::offset_of!(GroupedGemmDgradParams, rows) - 64usize];
    ["Offset of field: GroupedGemmDgradParams::groups"]
        [::core::mem::offset_of!(GroupedGemmDgradParams, groups) - 68usize];
    ["Offset of field: GroupedGemmDgradParams::outputs"]
        [::core::mem::offset_of!(GroupedGemmDgradParams, outputs) - 72usize];
    ["Offset of field: GroupedGemmDgradParams::inputs"]
        [::core::mem::offset_of!(GroupedGemmDgradParams, inputs) - 76usize];
    ["Offset of field: GroupedGemmDgradParams::accumulate"]
        [::core::mem::offset_of!(GroupedGemmDgradParams, accumulate) - 80usize];
    ["Offset of field: GroupedGemmDgradParams::unused"]
        [::core::mem::offset_of!(GroupedGemmDgradParams, unused) - 84usize];
};
#[doc = " dw[g] = [dw[g] +] sum over the rows p of group g of dy[p]^T x[p]; zeros if there are none. Parameters of\n `moe_grouped_gemm_wgrad_*`."]
#[repr(C)]
#[derive(Debug, Copy, Clone, bytemuck :: Pod, bytemuck :: Zeroable)]
pub struct GroupedGemmWgradParams {
    #[doc = " [rows, outputs]"]
    pub dy: u64,
    #[doc = " [rows, inputs]; with `source`, [tokens, inputs]"]
    pub x: u64,
    #[doc = " [groups, outputs, inputs], f32"]
    pub dw: u64,
    #[doc = " [groups + 1], u32; 0: one group with all rows"]
    pub offsets: u64,
    #[doc = " [rows], u32: row p of x lies at source[p] / fan; 0: at p"]
    pub source: u64,
    pub dy_stride: u64,
    pub x_stride: u64,
    pub dw_group_stride: u64,
    pub dw_stride: u64,
    pub rows: u32,
    pub groups: u32,
    pub outputs: u32,
    pub inputs: u32,
    pub fan: u32,
    #[doc = " 1: add to dw; 0: overwrite it"]
    pub accumulate: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of GroupedGemmWgradParams"][::core::mem::size_of::<GroupedGemmWgradParams>() - 96usize];
    ["Alignment of GroupedGemmWgradParams"][::core::mem::align_of::<GroupedGemmWgradParams>() - 8usize];
    ["Offset of field: GroupedGemmWgradParams::dy"]
        [::core::mem::offset_of!(GroupedGemmWgradParams, dy) - 0usize];
    ["Offset of field: GroupedGemmWgradParams::x"]
        [::core::mem::offset_of!(GroupedGemmWgradParams, x) - 8usize];
    ["Offset of field: GroupedGemmWgradParams::dw"]
        [::core::mem::offset_of!(GroupedGemmWgradParams, dw) - 16usize];
    ["Offset of field: GroupedGemmWgradParams::offsets"]
        [::core::mem::offset_of!(GroupedGemmWgradParams, offsets) - 24usize];
    ["Offset of field: GroupedGemmWgradParams::source"]
        [::core::mem::offset_of!(GroupedGemmWgradParams, source) - 32usize];
    ["Offset of field: GroupedGemmWgradParams::dy_stride"]
        [::core::mem::offset_of!(GroupedGemmWgradParams, dy_stride) - 40usize];
    ["Offset of field: GroupedGemmWgradParams::x_stride"]
        [::core::mem::offset_of!(GroupedGemmWgradParams, x_stride) - 48usize];
    ["Offset of field: GroupedGemmWgradParams::dw_group_stride"]
        [::core::mem::offset_of!(GroupedGemmWgradParams, dw_group_stride) - 56usize];
    ["Offset of field: GroupedGemmWgradParams::dw_stride"]
        [::core::mem::offset_of!(GroupedGemmWgradParams, dw_stride) - 64usize];
    ["Offset of field: GroupedGemmWgradParams::rows"]
        [::core::mem::offset_of!(GroupedGemmWgradParams, rows) - 72usize];
    ["Offset of field: GroupedGemmWgradParams::groups"]
        [::core::mem::offset_of!(GroupedGemmWgradParams, groups) - 76usize];
    ["Offset of field: GroupedGemmWgradParams::outputs"]
        [::core::mem::offset_of!(GroupedGemmWgradParams, outputs) - 80usize];
    ["Offset of field: GroupedGemmWgradParams::inputs"]
        [::core::mem::offset_of!(GroupedGemmWgradParams, inputs) - 84usize];
    ["Offset of field: GroupedGemmWgradParams::fan"]
        [::core::mem::offset_of!(GroupedGemmWgradParams, fan) - 88usize];
    ["Offset of field: GroupedGemmWgradParams::accumulate"]
        [::core::mem::offset_of!(GroupedGemmWgradParams, accumulate) - 92usize];
};
#[doc = " y[p] = x[p] [w[g] ; first[g] ; second[g]]^T for the rows p of group g: the last rows of the weights are packed.\n Parameters of `moe_grouped_gemm_int4_rows_*`."]
#[repr(C)]
#[derive(Debug, Copy, Clone, bytemuck :: Pod, bytemuck :: Zeroable)]
pub struct GroupedGemmInt4RowsParams {
    #[doc = " [groups, F, inputs]"]
    pub first: Int4Weights,
    #[doc = " [groups, F, inputs], of the same format"]
    pub second: Int4Weights,
    #[doc = " [rows, inputs]; with `source`, [tokens, inputs]"]
    pub x: u64,
    #[doc = " [groups, outputs, inputs]"]
    pub w: u64,
    #[doc = " [rows, outputs + 2 F]"]
    pub y: u64,
    #[doc = " [groups + 1], u32; 0: one group with all rows"]
    pub offsets: u64,
    #[doc = " [rows], u32: row p of x lies at source[p] / fan; 0: at p"]
    pub source: u64,
    pub x_stride: u64,
    pub w_group_stride: u64,
    pub w_stride: u64,
    pub y_stride: u64,
    pub rows: u32,
    pub groups: u32,
    pub outputs: u32,
    pub inputs: u32,
    pub fan: u32,
    pub unused: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of GroupedGemmInt4RowsParams"][::core::mem::size_of::<GroupedGemmInt4RowsParams>() - 192usize];
    ["Alignment of GroupedGemmInt4RowsParams"][::core::mem::align_of::<GroupedGemmInt4RowsParams>() - 8usize];
    ["Offset of field: GroupedGemmInt4RowsParams::first"]
        [::core::mem::offset_of!(GroupedGemmInt4RowsParams, first) - 0usize];
    ["Offset of field: GroupedGemmInt4RowsParams::second"]
        [::core::mem::offset_of!(GroupedGemmInt4RowsParams, second) - 48usize];
    ["Offset of field: GroupedGemmInt4RowsParams::x"]
        [::core::mem::offset_of!(GroupedGemmInt4RowsParams, x) - 96usize];
    ["Offset of field: GroupedGemmInt4RowsParams::w"]
        [::core::mem::offset_of!(GroupedGemmInt4RowsParams, w) - 104usize];
    ["Offset of field: GroupedGemmInt4RowsParams::y"]
        [::core::mem::offset_of!(GroupedGemmInt4RowsParams, y) - 112usize];
    ["Offset of field: GroupedGemmInt4RowsParams::offsets"]
        [::core::mem::offset_of!(GroupedGemmInt4RowsParams, offsets) - 120usize];
    ["Offset of field: GroupedGemmInt4RowsParams::source"]
        [::core::mem::offset_of!(GroupedGemmInt4RowsParams, source) - 128usize];
    ["Offset of field: GroupedGemmInt4RowsParams::x_stride"]
        [::core::mem::offset_of!(GroupedGemmInt4RowsParams, x_stride) - 136usize];
    ["Offset of field: GroupedGemmInt4RowsParams::w_group_stride"]
        [::core::mem::offset_of!(GroupedGemmInt4RowsParams, w_group_stride) - 144usize];
    ["Offset of field: GroupedGemmInt4RowsParams::w_stride"]
        [::core::mem::offset_of!(GroupedGemmInt4RowsParams, w_stride) - 152usize];
    ["Offset of field: GroupedGemmInt4RowsParams::y_stride"]
        [::core::mem::offset_of!(GroupedGemmInt4RowsParams, y_stride) - 160usize];
    ["Offset of field: GroupedGemmInt4RowsParams::rows"]
        [::core::mem::offset_of!(GroupedGemmInt4RowsParams, rows) - 168usize];
    ["Offset of field: GroupedGemmInt4RowsParams::groups"]
        [::core::mem::offset_of!(GroupedGemmInt4RowsParams, groups) - 172usize];
    ["Offset of field: GroupedGemmInt4RowsParams::outputs"]
        [::core::mem::offset_of!(GroupedGemmInt4RowsParams, outputs) - 176usize];
    ["Offset of field: GroupedGemmInt4RowsParams::inputs"]
        [::core::mem::offset_of!(GroupedGemmInt4RowsParams, inputs) - 180usize];
    ["Offset of field: GroupedGemmInt4RowsParams::fan"]
        [::core::mem::offset_of!(GroupedGemmInt4RowsParams, fan) - 184usize];
    ["Offset of field: GroupedGemmInt4RowsParams::unused"]
        [::core::mem::offset_of!(GroupedGemmInt4RowsParams, unused) - 188usize];
};
#[doc = " y[p] = x[p] [w[g] | last[g]^T]^T for the rows p of group g: the last columns of the weights are packed. Parameters of\n `moe_grouped_gemm_int4_columns_*`."]
#[repr(C)]
#[derive(Debug, Copy, Clone, bytemuck :: Pod, bytemuck :: Zeroable)]
pub struct GroupedGemmInt4ColumnsParams {
    #[doc = " [groups, F, outputs]"]
    pub last: Int4Weights,
    #[doc = " [rows, inputs + F]; with `source`, [tokens, inputs + F]"]
    pub x: u64,
    #[doc = " [groups, outputs, inputs]"]
    pub w: u64,
    #[doc = " [rows, outputs]"]
    pub y: u64,
    #[doc = " [groups + 1], u32; 0: one group with all rows"]
    pub offsets: u64,
    #[doc = " [rows], u32: row p of x lies at source[p] / fan; 0: at p"]
    pub source: u64,
    pub x_stride: u64,
    pub w_group_stride: u64,
    pub w_stride: u64,
    pub y_stride: u64,
    pub rows: u32,
    pub groups: u32,
    pub outputs: u32,
    pub inputs: u32,
    pub fan: u32,
    pub unused: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of GroupedGemmInt4ColumnsParams"]
        [::core::mem::size_of::<GroupedGemmInt4ColumnsParams>() - 144usize];
    ["Alignment of GroupedGemmInt4ColumnsParams"]
        [::core::mem::align_of::<GroupedGemmInt4ColumnsParams>() - 8usize];
    ["Offset of field: GroupedGemmInt4ColumnsParams::last"]
        [::core::mem::offset_of!(GroupedGemmInt4ColumnsParams, last) - 0usize];
    ["Offset of field: GroupedGemmInt4ColumnsParams::x"]
        [::core::mem::offset_of!(GroupedGemmInt4ColumnsParams, x) - 48usize];
    ["Offset of field: GroupedGemmInt4ColumnsParams::w"]
        [::core::mem::offset_of!(GroupedGemmInt4ColumnsParams, w) - 56usize];
    ["Offset of field: GroupedGemmInt4ColumnsParams::y"]
        [::core::mem::offset_of!(GroupedGemmInt4ColumnsParams, y) - 64usize];
    ["Offset of field: GroupedGemmInt4ColumnsParams::offsets"]
        [::core::mem::offset_of!(GroupedGemmInt4ColumnsParams, offsets) - 72usize];
    ["Offset of field: GroupedGemmInt4ColumnsParams::source"]
        [::core::mem::offset_of!(GroupedGemmInt4ColumnsParams, source) - 80usize];
    ["Offset of field: GroupedGemmInt4ColumnsParams::x_stride"]
        [::core::mem::offset_of!(GroupedGemmInt4ColumnsParams, x_stride) - 88usize];
    ["Offset of field: GroupedGemmInt4ColumnsParams::w_group_stride"]
        [::core::mem::offset_of!(GroupedGemmInt4ColumnsParams, w_group_stride) - 96usize];
    ["Offset of field: GroupedGemmInt4ColumnsParams::w_stride"]
        [::core::mem::offset_of!(GroupedGemmInt4ColumnsParams, w_stride) - 104usize];
    ["Offset of field: GroupedGemmInt4ColumnsParams::y_stride"]
        [::core::mem::offset_of!(GroupedGemmInt4ColumnsParams, y_stride) - 112usize];
    ["Offset of field: GroupedGemmInt4ColumnsParams::rows"]
        [::core::mem::offset_of!(GroupedGemmInt4ColumnsParams, rows) - 120usize];
    ["Offset of field: GroupedGemmInt4ColumnsParams::groups"]
        [::core::mem::offset_of!(GroupedGemmInt4ColumnsParams, groups) - 124usize];
    ["Offset of field: GroupedGemmInt4ColumnsParams::outputs"]
        [::core::mem::offset_of!(GroupedGemmInt4ColumnsParams, outputs) - 128usize];
    ["Offset of field: GroupedGemmInt4ColumnsParams::inputs"]
        [::core::mem::offset_of!(GroupedGemmInt4ColumnsParams, inputs) - 132usize];
    ["Offset of field: GroupedGemmInt4ColumnsParams::fan"]
        [::core::mem::offset_of!(GroupedGemmInt4ColumnsParams, fan) - 136usize];
    ["Offset of field: GroupedGemmInt4ColumnsParams::unused"]
        [::core::mem::offset_of!(GroupedGemmInt4ColumnsParams, unused) - 140usize];
};
#[doc = " Parameters of `moe_int4_gemm_*`; launched by the tile `moe_int4_gemm_launch_<variant>` on a grid of any number of\n blocks along x, which share the tiles, and `splits` along y, each of which takes its part of the columns of `w`."]
#[repr(C)]
#[derive(Debug, Copy, Clone, bytemuck :: Pod, bytemuck :: Zeroable)]
pub struct Int4GemmParams {
    pub w: Int4Weights,
    #[doc = " [rows, in], or gathered"]
    pub x: u64,
    #[doc = " [rows, out]; written if `splits` is 1"]
    pub y: u64,
    #[doc = " [groups + 1], u32: first row of each group; 0 means one group"]
    pub offsets: u64,
    #[doc = " [rows], u32: row p of the product is row source[p] / fan of x; 0 means row p"]
    pub source: u64,
    #[doc = " [splits, rows, 32 strips], f32, at a multiple of 16: the sums of each split; written if there are several"]
    pub partial: u64,
    pub x_stride: u64,
    pub y_stride: u64,
    pub rows: u32,
    pub splits: u32,
    pub fan: u32,
    #[doc = " 1: add to y; 0: overwrite it"]
    pub accumulate: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of Int4GemmParams"][::core::mem::size_of::<Int4GemmParams>() - 120usize];
    ["Alignment of Int4GemmParams"][::core::mem::align_of::<Int4GemmParams>() - 8usize];
    ["Offset of field: Int4GemmParams::w"][::core::mem::offset_of!(Int4GemmParams, w) - 0usize];
    ["Offset of field: Int4GemmParams::x"][::core::mem::offset_of!(Int4GemmParams, x) - 48usize];
    ["Offset of field: Int4GemmParams::y"][::core::mem::offset_of!(Int4GemmParams, y) - 56usize];
    ["Offset of field: Int4GemmParams::offsets"][::core::mem::offset_of!(Int4GemmParams, offsets) - 64usize];
    ["Offset of field: Int4GemmParams::source"][::core::mem::offset_of!(Int4GemmParams, source) - 72usize];
    ["Offset of field: Int4GemmParams::partial"][::core::mem::offset_of!(Int4GemmParams, partial) - 80usize];
    ["Offset of field: Int4GemmParams::x_stride"]
        [::core::mem::offset_of!(Int4GemmParams, x_stride) - 88usize];
    ["Offset of field: Int4GemmParams::y_stride"]
        [::core::mem::offset_of!(Int4GemmParams, y_stride) - 96usize];
    ["Offset of field: Int4GemmParams::rows"][::core::mem::offset_of!(Int4GemmParams, rows) - 104usize];
    ["Offset of field: Int4GemmParams::splits"][::core::mem::offset_of!(Int4GemmParams, splits) - 108usize];
    ["Offset of field: Int4GemmParams::fan"][::core::mem::offset_of!(Int4GemmParams, fan) - 112usize];
    ["Offset of field: Int4GemmParams::accumulate"]
        [::core::mem::offset_of!(Int4GemmParams, accumulate) - 116usize];
};
#[doc = " y = [y +] sum over splits of partial, in their order, whatever they are of. Parameters of `moe_int4_gemm_reduce_*`; launched by the tile\n `moe_int4_gemm_reduce_launch` over `rows` and `out`."]
#[repr(C)]
#[derive(Debug, Copy, Clone, bytemuck :: Pod, bytemuck :: Zeroable)]
pub struct Int4GemmReduceParams {
    #[doc = " [splits, rows, width], f32, at a multiple of 16"]
    pub partial: u64,
    #[doc = " [rows, out]"]
    pub y: u64,
    pub y_stride: u64,
    pub rows: u32,
    pub outputs: u32,
    pub width: u32,
    pub splits: u32,
    pub accumulate: u32,
    pub unused: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of Int4GemmReduceParams"][::core::mem::size_of::<Int4GemmReduceParams>() - 48usize];
    ["Alignment of Int4GemmReduceParams"][::core::mem::align_of::<Int4GemmReduceParams>() - 8usize];
    ["Offset of field: Int4GemmReduceParams::partial"]
        [::core::mem::offset_of!(Int4GemmReduceParams, partial) - 0usize];
    ["Offset of field: Int4GemmReduceParams::y"][::core::mem::offset_of!(Int4GemmReduceParams, y) - 8usize];
    ["Offset of field: Int4GemmReduceParams::y_stride"]
        [::core::mem::offset_of!(Int4GemmReduceParams, y_stride) - 16usize];
    ["Offset of field: Int4GemmReduceParams::rows"]
        [::core::mem::offset_of!(Int4GemmReduceParams, rows) - 24usize];
    ["Offset of field: Int4GemmReduceParams::outputs"]
        [::core::mem::offset_of!(Int4GemmReduceParams, outputs) - 28usize];
    ["Offset of field: Int4GemmReduceParams::width"]
        [::core::mem::offset_of!(Int4GemmReduceParams, width) - 32usize];
    ["Offset of field: Int4GemmReduceParams::splits"]
        [::core::mem::offset_of!(Int4GemmReduceParams, splits) - 36usize];
    ["Offset of field: Int4GemmReduceParams::accumulate"]
        [::core::mem::offset_of!(Int4GemmReduceParams, accumulate) - 40usize];
    ["Offset of field: Int4GemmReduceParams::unused"]
        [::core::mem::offset_of!(Int4GemmReduceParams, unused) - 44usize];
};
#[doc = " y[place[t, s]] = x[t]. Parameters of `moe_permute_*`; launched by the tile `moe_permute_launch` over `tokens` and\n `hidden`."]
#[repr(C)]
#[derive(Debug, Copy, Clone, bytemuck :: Pod, bytemuck :: Zeroable)]
pub struct PermuteParams {
    #[doc = " [tokens, hidden]"]
    pub x: u64,
    #[doc = " [tokens fan, hidden]"]
    pub y: u64,
    #[doc = " [tokens, fan], u32"]
    pub place: u64,
    pub x_stride: u64,
    pub y_stride: u64,
    pub tokens: u32,
    pub hidden: u32,
    pub fan: u32,
    pub unused: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of PermuteParams"][::core::mem::size_of::<PermuteParams>() - 56usize];
    ["Alignment of PermuteParams"][::core::mem::align_of::<PermuteParams>() - 8usize];
    ["Offset of field: PermuteParams::x"][::core::mem::offset_of!(PermuteParams, x) - 0usize];
    ["Offset of field: PermuteParams::y"][::core::mem::offset_of!(PermuteParams, y) - 8usize];
    ["Offset of field: PermuteParams::place"][::core::mem::offset_of!(PermuteParams, place) - 16usize];
    ["Offset of field: PermuteParams::x_stride"][::core::mem::offset_of!(PermuteParams, x_stride) - 24usize];
    ["Offset of field: PermuteParams::y_stride"][::core::mem::offset_of!(PermuteParams, y_stride) - 32usize];
    ["Offset of field: PermuteParams::tokens"][::core::mem::offset_of!(PermuteParams, tokens) - 40usize];
    ["Offset of field: PermuteParams::hidden"][::core::mem::offset_of!(PermuteParams, hidden) - 44usize];
    ["Offset of field: PermuteParams::fan"][::core::mem::offset_of!(PermuteParams, fan) - 48usize];
    ["Offset of field: PermuteParams::unused"][::core::mem::offset_of!(PermuteParams, unused) - 52usize];
};
#[doc = " y[t] = sum over s of weight[t, s] x[place[t, s]], in f32 and in slot order. Parameters of `moe_combine_*`;\n launched by the tile `moe_combine_launch` over `tokens` and `hidden`."]
#[repr(C)]
#[derive(Debug, Copy, Clone, bytemuck :: Pod, bytemuck :: Zeroable)]
pub struct CombineParams {
    #[doc = " [tokens fan, hidden]"]
    pub x: u64,
    #[doc = " [tokens, hidden]"]
    pub y: u64,
    #[doc = " [tokens, fan], f32; 0 means ones"]
    pub weight: u64,
    #[doc = " [tokens, fan], u32"]
    pub place: u64,
    pub x_stride: u64,
    pub y_stride: u64,
    pub weight_stride: u64,
    pub tokens: u32,
    pub hidden: u32,
    pub fan: u32,
    #[doc = " 1: add to y; 0: overwrite it"]
    pub accumulate: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of CombineParams"][::core::mem::size_of::<CombineParams>() - 72usize];
    ["Alignment of CombineParams"][::core::mem::align_of::<CombineParams>() - 8usize];
    ["Offset of field: CombineParams::x"][::core::mem::offset_of!(CombineParams, x) - 0usize];
    ["Offset of field: CombineParams::y"][::core::mem::offset_of!(CombineParams, y) - 8usize];
    ["Offset of field: CombineParams::weight"][::core::mem::offset_of!(CombineParams, weight) - 16usize];
    ["Offset of field: CombineParams::place"][::core::mem::offset_of!(CombineParams, place) - 24usize];
    ["Offset of field: CombineParams::x_stride"][::core::mem::offset_of!(CombineParams, x_stride) - 32usize];
    ["Offset of field: CombineParams::y_stride"][::core::mem::offset_of!(CombineParams, y_stride) - 40usize];
    ["Offset of field: CombineParams::weight_stride"]
        [::core::mem::offset_of!(CombineParams, weight_stride) - 48usize];
    ["Offset of field: CombineParams::tokens"][::core::mem::offset_of!(CombineParams, tokens) - 56usize];
    ["Offset of field: CombineParams::hidden"][::core::mem::offset_of!(CombineParams, hidden) - 60usize];
    ["Offset of field: CombineParams::fan"][::core::mem::offset_of!(CombineParams, fan) - 64usize];
    ["Offset of field: CombineParams::accumulate"]
        [::core::mem::offset_of!(CombineParams, accumulate) - 68usize];
};
#[doc = " dx[place[t, s]] = weight[t, s] dy[t], dweight[t, s] = <dy[t], x[place[t, s]]>. Parameters of\n `moe_combine_backward_*`; launched by the tile `moe_combine_backward_launch` over `tokens`."]
#[repr(C)]
#[derive(Debug, Copy, Clone, bytemuck :: Pod, bytemuck :: Zeroable)]
pub struct CombineBackwardParams {
    #[doc = " [tokens, hidden]"]
    pub dy: u64,
    #[doc = " [tokens fan, hidden]"]
    pub x: u64,
    #[doc = " [tokens fan, hidden]"]
    pub dx: u64,
    #[doc = " [tokens, fan], f32"]
    pub weight: u64,
    #[doc = " [tokens, fan], f32"]
    pub dweight: u64,
    #[doc = " [tokens, fan], u32"]
    pub place: u64,
    pub dy_stride: u64,
    pub x_stride: u64,
    pub dx_stride: u64,
    pub weight_stride: u64,
    pub dweight_stride: u64,
    pub tokens: u32,
    pub hidden: u32,
    pub fan: u32,
    pub unused: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of CombineBackwardParams"][::core::mem::size_of::<CombineBackwardParams>() - 104usize];
    ["Alignment of CombineBackwardParams"][::core::mem::align_of::<CombineBackwardParams>() - 8usize];
    ["Offset of field: CombineBackwardParams::dy"]
        [::core::mem::offset_of!(CombineBackwardParams, dy) - 0usize];
    ["Offset of field: CombineBackwardParams::x"][::core::mem::offset_of!(CombineBackwardParams, x) - 8usize];
    ["Offset of field: CombineBackwardParams::dx"]
        [::core::mem::offset_of!(CombineBackwardParams, dx) - 16usize];
    ["Offset of field: CombineBackwardParams::weight"]
        [::core::mem::offset_of!(CombineBackwardParams, weight) - 24usize];
    ["Offset of field: CombineBackwardParams::dweight"]
        [::core::mem::offset_of!(CombineBackwardParams, dweight) - 32usize];
    ["Offset of field: CombineBackwardParams::place"]
        [::core::mem::offset_of!(CombineBackwardParams, place) - 40usize];
    ["Offset of field: CombineBackwardParams::dy_stride"]
        [::core::mem::offset_of!(CombineBackwardParams, dy_stride) - 48usize];
    ["Offset of field: CombineBackwardParams::x_stride"]
        [::core::mem::offset_of!(CombineBackwardParams, x_stride) - 56usize];
    ["Offset of field: CombineBackwardParams::dx_stride"]
        [::core::mem::offset_of!(CombineBackwardParams, dx_stride) - 64usize];
    ["Offset of field: CombineBackwardParams::weight_stride"]
        [::core::mem::offset_of!(CombineBackwardParams, weight_stride) - 72usize];
    ["Offset of field: CombineBackwardParams::dweight_stride"]
        [::core::mem::offset_of!(CombineBackwardParams, dweight_stride) - 80usize];
    ["Offset of field: CombineBackwardParams::tokens"]
        [::core::mem::offset_of!(CombineBackwardParams, tokens) - 88usize];
    ["Offset of field: CombineBackwardParams::hidden"]
        [::core::mem::offset_of!(CombineBackwardParams, hidden) - 92usize];
    ["Offset of field: CombineBackwardParams::fan"]
        [::core::mem::offset_of!(CombineBackwardParams, fan) - 96usize];
    ["Offset of field: CombineBackwardParams::unused"]
        [::core::mem::offset_of!(CombineBackwardParams, unused) - 100usize];
};
#[doc = " place[c] = offsets[id[c]] + (number of c' < c with id[c'] = id[c]), source[place[c]] = c, for both orders.\n\n A token whose cluster does not exist, or whose experts are not distinct ids of its cluster, gets cluster 0 and the\n experts 0 to fan - 1; `status` is the first such token, or 0xffffffff.\n\n Parameters of all kernels here. `moe_plan_*` does it in one block, for up to PLAN_TOKENS tokens. Otherwise range\n u of tokens, u unit .. (u + 1) unit, belongs to a warp: `moe_plan_count_*`, `moe_plan_scan_*` and\n `moe_plan_fill_*` are launched in this order, the first and the last with ceil(units / tile.rows) blocks, the one\n between with 2."]
#[repr(C)]
#[derive(Debug, Copy, Clone, bytemuck :: Pod, bytemuck :: Zeroable)]
pub struct PlanParams {
    #[doc = " [tokens], u32; 0: every token counts as sent to the first experts of cluster 0, and as fine"]
    pub cluster: u64,
    #[doc = " [tokens, fan], u32"]
    pub expert: u64,
    #[doc = " [clusters + 1], u32"]
    pub cluster_offsets: u64,
    #[doc = " [tokens], u32"]
    pub cluster_source: u64,
    #[doc = " [tokens], u32"]
    pub cluster_place: u64,
    #[doc = " [experts + 1], u32"]
    pub expert_offsets: u64,
    #[doc = " [tokens fan], u32"]
    pub expert_source: u64,
    #[doc = " [tokens fan], u32"]
    pub expert_place: u64,
    #[doc = " [units, clusters + experts], then [units], u32: workspace; not read by one block"]
    pub counts: u64,
    #[doc = " [1], u32"]
    pub status: u64,
    pub expert_stride: u64,
    pub tokens: u32,
    pub fan: u32,
    pub experts: u32,
    pub clusters: u32,
    pub units: u32,
    #[doc = " a multiple of 32"]
    pub unit: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of PlanParams"][::core::mem::size_of::<PlanParams>() - 112usize];
    ["Alignment of PlanParams"][::core::mem::align_of::<PlanParams>() - 8usize];
    ["Offset of field: PlanParams::cluster"][::core::mem::offset_of!(PlanParams, cluster) - 0usize];
    ["Offset of field: PlanParams::expert"][::core::mem::offset_of!(PlanParams, expert) - 8usize];
    ["Offset of field: PlanParams::cluster_offsets"]
        [::core::mem::offset_of!(PlanParams, cluster_offsets) - 16usize];
    ["Offset of field: PlanParams::cluster_source"]
        [::core::mem::offset_of!(PlanParams, cluster_source) - 24usize];
    ["Offset of field: PlanParams::cluster_place"]
        [::core::mem::offset_of!(PlanParams, cluster_place) - 32usize];
    ["Offset of field: PlanParams::expert_offsets"]
        [::core::mem::offset_of!(PlanParams, expert_offsets) - 40usize];
    ["Offset of field: PlanParams::expert_source"]
        [::core::mem::offset_of!(PlanParams, expert_source) - 48usize];
    ["Offset of field: PlanParams::expert_place"]
        [::core::mem::offset_of!(PlanParams, expert_place) - 56usize];
    ["Offset of field: PlanParams::counts"][::core::mem::offset_of!(PlanParams, counts) - 64usize];
    ["Offset of field: PlanParams::status"][::core::mem::offset_of!(PlanParams, status) - 72usize];
    ["Offset of field: PlanParams::expert_stride"]
        [::core::mem::offset_of!(PlanParams, expert_stride) - 80usize];
    ["Offset of field: PlanParams::tokens"][::core::mem::offset_of!(PlanParams, tokens) - 88usize];
    ["Offset of field: PlanParams::fan"][::core::mem::offset_of!(PlanParams, fan) - 92usize];
    ["Offset of field: PlanParams::experts"][::core::mem::offset_of!(PlanParams, experts) - 96usize];
    ["Offset of field: PlanParams::clusters"][::core::mem::offset_of!(PlanParams, clusters) - 100usize];
    ["Offset of field: PlanParams::units"][::core::mem::offset_of!(PlanParams, units) - 104usize];
    ["Offset of field: PlanParams::unit"][::core::mem::offset_of!(PlanParams, unit) - 108usize];
};
#[doc = " w[e, o] = base[g, o] + sum over q of b[e, o, q] a[e, q], in f32, for expert e, number k of cluster g. Parameters of\n `moe_residual_*`; launched by the tile `moe_residual_launch` with ceil(rows / tile.rows) blocks along x,\n min(ceil(columns / tile.columns), 65535) along y and one along z for each expert."]
#[repr(C)]
#[derive(Debug, Copy, Clone, bytemuck :: Pod, bytemuck :: Zeroable)]
pub struct ResidualParams {
    #[doc = " [clusters, rows, columns]"]
    pub base: u64,
    #[doc = " [clusters, experts of a cluster, rank, columns]"]
    pub a: u64,
    #[doc = " [clusters, experts of a cluster, rows, rank]"]
    pub b: u64,
    #[doc = " [experts, rows, columns], f32, without gaps between rows; a multiple of 16"]
    pub w: u64,
    pub base_cluster_stride: u64,
    pub base_row_stride: u64,
    pub a_cluster_stride: u64,
    pub a_expert_stride: u64,
    pub a_row_stride: u64,
    pub b_cluster_stride: u64,
    pub b_expert_stride: u64,
    pub b_row_stride: u64,
    #[doc = " A multiple of 4."]
    pub w_stride: u64,
    pub rows: u32,
    pub columns: u32,
    pub rank: u32,
    #[doc = " Experts of a cluster."]
    pub per: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of ResidualParams"][::core::mem::size_of::<ResidualParams>() - 120usize];
    ["Alignment of ResidualParams"][::core::mem::align_of::<ResidualParams>() - 8usize];
    ["Offset of field: ResidualParams::base"][::core::mem::offset_of!(ResidualParams, base) - 0usize];
    ["Offset of field: ResidualParams::a"][::core::mem::offset_of!(ResidualParams, a) - 8usize];
    ["Offset of field: ResidualParams::b"][::core::mem::offset_of!(ResidualParams, b) - 16usize];
    ["Offset of field: ResidualParams::w"][::core::mem::offset_of!(ResidualParams, w) - 24usize];
    ["Offset of field: ResidualParams::base_cluster_stride"]
        [::core::mem::offset_of!(ResidualParams, base_cluster_stride) - 32usize];
    ["Offset of field: ResidualParams::base_row_stride"]
        [::core::mem::offset_of!(ResidualParams, base_row_stride) - 40usize];
    ["Offset of field: ResidualParams::a_cluster_stride"]
        [::core::mem::offset_of!(ResidualParams, a_cluster_stride) - 48usize];
    ["Offset of field: ResidualParams::a_expert_stride"]
        [::core::mem::offset_of!(ResidualParams, a_expert_stride) - 56usize];
    ["Offset of field: ResidualParams::a_row_stride"]
        [::core::mem::offset_of!(ResidualParams, a_row_stride) - 64usize];
    ["Offset of field: ResidualParams::b_cluster_stride"]
        [::core::mem::offset_of!(ResidualParams, b_cluster_stride) - 72usize];
    ["Offset of field: ResidualParams::b_expert_stride"]
        [::core::mem::offset_of!(ResidualParams, b_expert_stride) - 80usize];
    ["Offset of field: ResidualParams::b_row_stride"]
        [::core::mem::offset_of!(ResidualParams, b_row_stride) - 88usize];
    ["Offset of field: ResidualParams::w_stride"]
        [::core::mem::offset_of!(ResidualParams, w_stride) - 96usize];
    ["Offset of field: ResidualParams::rows"][::core::mem::offset_of!(ResidualParams, rows) - 104usize];
    ["Offset of field: ResidualParams::columns"][::core::mem::offset_of!(ResidualParams, columns) - 108usize];
    ["Offset of field: ResidualParams::rank"][::core::mem::offset_of!(ResidualParams, rank) - 112usize];
    ["Offset of field: ResidualParams::per"][::core::mem::offset_of!(ResidualParams, per) - 116usize];
};
#[doc = " Parameters of `moe_rms_norm_*`; launched by the tile `moe_rms_norm_launch` over `rows`, below 2^31."]
#[repr(C)]
#[derive(Debug, Copy, Clone, bytemuck :: Pod, bytemuck :: Zeroable)]
pub struct RmsNormParams {
    #[doc = " [rows, hidden]"]
    pub x: u64,
    #[doc = " [hidden]"]
    pub gain: u64,
    #[doc = " [rows, hidden]"]
    pub y: u64,
    #[doc = " [rows], f32: 1 / rms(x)"]
    pub inv_rms: u64,
    pub x_stride: u64,
    pub y_stride: u64,
    pub rows: u32,
    pub hidden: u32,
    pub eps: f32,
    pub unused: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of RmsNormParams"][::core::mem::size_of::<RmsNormParams>() - 64usize];
    ["Alignment of RmsNormParams"][::core::mem::align_of::<RmsNormParams>() - 8usize];
    ["Offset of field: RmsNormParams::x"][::core::mem::offset_of!(RmsNormParams, x) - 0usize];
    ["Offset of field: RmsNormParams::gain"][::core::mem::offset_of!(RmsNormParams, gain) - 8usize];
    ["Offset of field: RmsNormParams::y"][::core::mem::offset_of!(RmsNormParams, y) - 16usize];
    ["Offset of field: RmsNormParams::inv_rms"][::core::mem::offset_of!(RmsNormParams, inv_rms) - 24usize];
    ["Offset of field: RmsNormParams::x_stride"][::core::mem::offset_of!(RmsNormParams, x_stride) - 32usize];
    ["Offset of field: RmsNormParams::y_stride"][::core::mem::offset_of!(RmsNormParams, y_stride) - 40usize];
    ["Offset of field: RmsNormParams::rows"][::core::mem::offset_of!(RmsNormParams, rows) - 48usize];
    ["Offset of field: RmsNormParams::hidden"][::core::mem::offset_of!(RmsNormParams, hidden) - 52usize];
    ["Offset of field: RmsNormParams::eps"][::core::mem::offset_of!(RmsNormParams, eps) - 56usize];
    ["Offset of field: RmsNormParams::unused"][::core::mem::offset_of!(RmsNormParams, unused) - 60usize];
};
#[doc = " With n = x inv_rms and g = dy gain: dx = inv_rms (g - n mean(g n)), and the sums of dy n over the rows of each\n block. Parameters of `moe_rms_norm_backward_*`; launched by the tile `moe_rms_norm_backward_launch` over `rows`."]
#[repr(C)]
#[derive(Debug, Copy, Clone, bytemuck :: Pod, bytemuck :: Zeroable)]
pub struct RmsNormBackwardParams {
    #[doc = " [rows, hidden]"]
    pub dy: u64,
    #[doc = " [rows, hidden]"]
    pub x: u64,
    #[doc = " [hidden]"]
    pub gain: u64,
    #[doc = " [rows], f32"]
    pub inv_rms: u64,
    #[doc = " [rows, hidden]"]
    pub dx: u64,
    #[doc = " [ceil(rows / RMS_NORM_PARTIAL_ROWS), hidden], f32, contiguous: workspace"]
    pub partial: u64,
    pub dy_stride: u64,
    pub x_stride: u64,
    pub dx_stride: u64,
    pub rows: u32,
    pub hidden: u32,
    #[doc = " 1: add to dx; 0: overwrite it"]
    pub accumulate_dx: u32,
    pub unused: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of RmsNormBackwardParams"][::core::mem::size_of::<RmsNormBackwardParams>() - 88usize];
    ["Alignment of RmsNormBackwardParams"][::core::mem::align_of::<RmsNormBackwardParams>() - 8usize];
    ["Offset of field: RmsNormBackwardParams::dy"]
        [::core::mem::offset_of!(RmsNormBackwardParams, dy) - 0usize];
    ["Offset of field: RmsNormBackwardParams::x"][::core::mem::offset_of!(RmsNormBackwardParams, x) - 8usize];
    ["Offset of field: RmsNormBackwardParams::gain"]
        [::core::mem::offset_of!(RmsNormBackwardParams, gain) - 16usize];
    ["Offset of field: RmsNormBackwardParams::inv_rms"]
        [::core::mem::offset_of!(RmsNormBackwardParams, inv_rms) - 24usize];
    ["Offset of field: RmsNormBackwardParams::dx"]
        [::core::mem::offset_of!(RmsNormBackwardParams, dx) - 32usize];
    ["Offset of field: RmsNormBackwardParams::partial"]
        [::core::mem::offset_of!(RmsNormBackwardParams, partial) - 40usize];
    ["Offset of field: RmsNormBackwardParams::dy_stride"]
        [::core::mem::offset_of!(RmsNormBackwardParams, dy_stride) - 48usize];
    ["Offset of field: RmsNormBackwardParams::x_stride"]
        [::core::mem::offset_of!(RmsNormBackwardParams, x_stride) - 56usize];
    ["Offset of field: RmsNormBackwardParams::dx_stride"]
        [::core::mem::offset_of!(RmsNormBackwardParams, dx_stride) - 64usize];
    ["Offset of field: RmsNormBackwardParams::rows"]
        [::core::mem::offset_of!(RmsNormBackwardParams, rows) - 72usize];
    ["Offset of field: RmsNormBackwardParams::hidden"]
        [::core::mem::offset_of!(RmsNormBackwardParams, hidden) - 76usize];
    ["Offset of field: RmsNormBackwardParams::accumulate_dx"]
        [::core::mem::offset_of!(RmsNormBackwardParams, accumulate_dx) - 80usize];
    ["Offset of field: RmsNormBackwardParams::unused"]
        [::core::mem::offset_of!(RmsNormBackwardParams, unused) - 84usize];
};
#[doc = " dgain = [dgain +] sum over the rows of partial. Parameters of `moe_rms_norm_dgain`; launched by the tile\n `moe_rms_norm_dgain_launch` with ceil(hidden / tile.columns) blocks, also if there are no rows."]
#[repr(C)]
#[derive(Debug, Copy, Clone, bytemuck :: Pod, bytemuck :: Zeroable)]
pub struct RmsNormDgainParams {
    #[doc = " [partials, hidden], f32, contiguous: of moe_rms_norm_backward_*"]
    pub partial: u64,
    #[doc = " [hidden], f32"]
    pub dgain: u64,
    pub partials: u32,
    pub hidden: u32,
    #[doc = " 1: add to dgain; 0: overwrite it"]
    pub accumulate: u32,
    pub unused: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of RmsNormDgainParams"][::core::mem::size_of::<RmsNormDgainParams>() - 32usize];
    ["Alignment of RmsNormDgainParams"][::core::mem::align_of::<RmsNormDgainParams>() - 8usize];
    ["Offset of field: RmsNormDgainParams::partial"]
        [::core::mem::offset_of!(RmsNormDgainParams, partial) - 0usize];
    ["Offset of field: RmsNormDgainParams::dgain"]
        [::core::mem::offset_of!(RmsNormDgainParams, dgain) - 8usize];
    ["Offset of field: RmsNormDgainParams::partials"]
        [::core::mem::offset_of!(RmsNormDgainParams, partials) - 16usize];
    ["Offset of field: RmsNormDgainParams::hidden"]
        [::core::mem::offset_of!(RmsNormDgainParams, hidden) - 20usize];
    ["Offset of field: RmsNormDgainParams::accumulate"]
        [::core::mem::offset_of!(RmsNormDgainParams, accumulate) - 24usize];
    ["Offset of field: RmsNormDgainParams::unused"]
        [::core::mem::offset_of!(RmsNormDgainParams, unused) - 28usize];
};
#[doc = " Parameters of `moe_rope_*`; launched by the tile `moe_rope_launch` over `rows`."]
#[repr(C)]
#[derive(Debug, Copy, Clone, bytemuck :: Pod, bytemuck :: Zeroable)]
pub struct RopeParams {
    #[doc = " [rows, heads head_dim]"]
    pub x: u64,
    pub x_stride: u64,
    #[doc = " theta^(-2 / head_dim), positive: the angle of pair i turns by ratio^i a position"]
    pub ratio: f64,
    pub rows: u32,
    pub seq: u32,
    pub heads: u32,
    #[doc = " head_dim / 2"]
    pub half: u32,
    #[doc = " 1: rotate by the opposite angle"]
    pub inverse: u32,
    pub unused: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of RopeParams"][::core::mem::size_of::<RopeParams>() - 48usize];
    ["Alignment of RopeParams"][::core::mem::align_of::<RopeParams>() - 8usize];
    ["Offset of field: RopeParams::x"][::core::mem::offset_of!(RopeParams, x) - 0usize];
    ["Offset of field: RopeParams::x_stride"][::core::mem::offset_of!(RopeParams, x_stride) - 8usize];
    ["Offset of field: RopeParams::ratio"][::core::mem::offset_of!(RopeParams, ratio) - 16usize];
    ["Offset of field: RopeParams::rows"][::core::mem::offset_of!(RopeParams, rows) - 24usize];
    ["Offset of field: RopeParams::seq"][::core::mem::offset_of!(RopeParams, seq) - 28usize];
    ["Offset of field: RopeParams::heads"][::core::mem::offset_of!(RopeParams, heads) - 32usize];
    ["Offset of field: RopeParams::half"][::core::mem::offset_of!(RopeParams, half) - 36usize];
    ["Offset of field: RopeParams::inverse"][::core::mem::offset_of!(RopeParams, inverse) - 40usize];
    ["Offset of field: RopeParams::unused"][::core::mem::offset_of!(RopeParams, unused) - 44usize];
};
#[doc = " How logits become choices and weights."]
#[repr(C)]
#[derive(Debug, Copy, Clone, bytemuck :: Pod, bytemuck :: Zeroable)]
pub struct RouteRule {
    #[doc = " [1], f32: in place of the temperature; 0 means none"]
    pub temperature_at: u64,
    #[doc = " Divides the logits."]
    pub temperature: f32,
    #[doc = " Factor of the weights."]
    pub scale: f32,
    pub experts: u32,
    pub clusters: u32,
    pub topk: u32,
    #[doc = " 0: two stages. Else experts are scored all together, in so many groups (at most 32) of equal size, and"]
    pub groups: u32,
    #[doc = " so many groups are kept."]
    pub top_groups: u32,
    #[doc = " Of all experts together. 1: sigmoid; 0: softmax"]
    pub sigmoid: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of RouteRule"][::core::mem::size_of::<RouteRule>() - 40usize];
    ["Alignment of RouteRule"][::core::mem::align_of::<RouteRule>() - 8usize];
    ["Offset of field: RouteRule::temperature_at"]
        [::core::mem::offset_of!(RouteRule, temperature_at) - 0usize];
    ["Offset of field: RouteRule::temperature"][::core::mem::offset_of!(RouteRule, temperature) - 8usize];
    ["Offset of field: RouteRule::scale"][::core::mem::offset_of!(RouteRule, scale) - 12usize];
    ["Offset of field: RouteRule::experts"][::core::mem::offset_of!(RouteRule, experts) - 16usize];
    ["Offset of field: RouteRule::clusters"][::core::mem::offset_of!(RouteRule, clusters) - 20usize];
    ["Offset of field: RouteRule::topk"][::core::mem::offset_of!(RouteRule, topk) - 24usize];
    ["Offset of field: RouteRule::groups"][::core::mem::offset_of!(RouteRule, groups) - 28usize];
    ["Offset of field: RouteRule::top_groups"][::core::mem::offset_of!(RouteRule, top_groups) - 32usize];
    ["Offset of field: RouteRule::sigmoid"][::core::mem::offset_of!(RouteRule, sigmoid) - 36usize];
};
#[doc = " Parameters of `moe_route_*`, launched with ceil(tokens / tile.rows) blocks by the tile `moe_route_launch`, for at most\n tile.columns logits; and of `moe_route_many_*`, by `moe_route_many_launch`."]
#[repr(C)]
#[derive(Debug, Copy, Clone, bytemuck :: Pod, bytemuck :: Zeroable)]
pub struct RouteParams {
    #[doc = " [tokens, hidden]"]
    pub x: u64,
    #[doc = " [logits, hidden]"]
    pub w: u64,
    #[doc = " [logits], f32: added to scores for the choice alone; 0 means none"]
    pub bias: u64,
    #[doc = " [tokens], u32"]
    pub cluster: u64,
    #[doc = " [tokens, topk], u32"]
    pub expert: u64,
    #[doc = " [tokens, topk], f32"]
    pub weight: u64,
    #[doc = " [tokens, clusters], f32"]
    pub prob_cluster: u64,
    #[doc = " [tokens, experts / clusters], f32: of the chosen cluster"]
    pub prob_expert: u64,
    #[doc = " [tokens, 2], f32: logs of the softmaxes' denominators"]
    pub lse: u64,
    #[doc = " [ceil(tokens / tile.rows), 2 (clusters + experts) + 2], f32, contiguous: workspace"]
    pub partial: u64,
    pub x_stride: u64,
    pub w_stride: u64,
    pub tokens: u32,
    pub hidden: u32,
    pub rule: RouteRule,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of RouteParams"][::core::mem::size_of::<RouteParams>() - 144usize];
    ["Alignment of RouteParams"][::core::mem::align_of::<RouteParams>() - 8usize];
    ["Offset of field: RouteParams::x"][::core::mem::offset_of!(RouteParams, x) - 0usize];
    ["Offset of field: RouteParams::w"][::core::mem::offset_of!(RouteParams, w) - 8usize];
    ["Offset of field: RouteParams::bias"][::core::mem::offset_of!(RouteParams, bias) - 16usize];
    ["Offset of field: RouteParams::cluster"][::core::mem::offset_of!(RouteParams, cluster) - 24usize];
    ["Offset of field: RouteParams::expert"][::core::mem::offset_of!(RouteParams, expert) - 32usize];
    ["Offset of field: RouteParams::weight"][::core::mem::offset_of!(RouteParams, weight) - 40usize];
    ["Offset of field: RouteParams::prob_cluster"]
        [::core::mem::offset_of!(RouteParams, prob_cluster) - 48usize];
    ["Offset of field: RouteParams::prob_expert"]
        [::core::mem::offset_of!(RouteParams, prob_expert) - 56usize];
    ["Offset of field: RouteParams::lse"][::core::mem::offset_of!(RouteParams, lse) - 64usize];
    ["Offset of field: RouteParams::partial"][::core::mem::offset_of!(RouteParams, partial) - 72usize];
    ["Offset of field: RouteParams::x_stride"][::core::mem::offset_of!(RouteParams, x_stride) - 80usize];
    ["Offset of field: RouteParams::w_stride"][::core::mem::offset_of!(RouteParams, w_stride) - 88usize];
    ["Offset of field: RouteParams::tokens"][::core::mem::offset_of!(RouteParams, tokens) - 96usize];
    ["Offset of field: RouteParams::hidden"][::core::mem::offset_of!(RouteParams, hidden) - 100usize];
    ["Offset of field: RouteParams::rule"][::core::mem::offset_of!(RouteParams, rule) - 104usize];
};
#[doc = " Sums over the blocks' `partial`, in their order. Parameters of `moe_route_sums`; launched by the tile\n `moe_route_sums_launch` with ceil((2 (clusters + experts) + 2) / tile.columns) blocks, also if there are no tokens."]
#[repr(C)]
#[derive(Debug, Copy, Clone, bytemuck :: Pod, bytemuck :: Zeroable)]
pub struct RouteSumsParams {
    #[doc = " [partials, 2 (clusters + experts) + 2], f32"]
    pub partial: u64,
    #[doc = " [clusters], u32"]
    pub cluster_tokens: u64,
    #[doc = " [experts], u32"]
    pub expert_slots: u64,
    #[doc = " [clusters], f64"]
    pub cluster_prob: u64,
    #[doc = " [experts], f64"]
    pub expert_prob: u64,
    #[doc = " [1], f64"]
    pub lse_squared: u64,
    #[doc = " [1], u32"]
    pub skipped: u64,
    pub partials: u32,
    pub experts: u32,
    pub clusters: u32,
    pub unused: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of RouteSumsParams"][::core::mem::size_of::<RouteSumsParams>() - 72usize];
    ["Alignment of RouteSumsParams"][::core::mem::align_of::<RouteSumsParams>() - 8usize];
    ["Offset of field: RouteSumsParams::partial"][::core::mem::offset_of!(RouteSumsParams, partial) - 0usize];
    ["Offset of field: RouteSumsParams::cluster_tokens"]
        [::core::mem::offset_of!(RouteSumsParams, cluster_tokens) - 8usize];
    ["Offset of field: RouteSumsParams::expert_slots"]
        [::core::mem::offset_of!(RouteSumsParams, expert_slots) - 16usize];
    ["Offset of field: RouteSumsParams::cluster_prob"]
        [::core::mem::offset_of!(RouteSumsParams, cluster_prob) - 24usize];
    ["Offset of field: RouteSumsParams::expert_prob"]
        [::core::mem::offset_of!(RouteSumsParams, expert_prob) - 32usize];
    ["Offset of field: RouteSumsParams::lse_squared"]
        [::core::mem::offset_of!(RouteSumsParams, lse_squared) - 40usize];
    ["Offset of field: RouteSumsParams::skipped"]
        [::core::mem::offset_of!(RouteSumsParams, skipped) - 48usize];
    ["Offset of field: RouteSumsParams::partials"]
        [::core::mem::offset_of!(RouteSumsParams, partials) - 56usize];
    ["Offset of field: RouteSumsParams::experts"]
        [::core::mem::offset_of!(RouteSumsParams, experts) - 60usize];
    ["Offset of field: RouteSumsParams::clusters"]
        [::core::mem::offset_of!(RouteSumsParams, clusters) - 64usize];
    ["Offset of field: RouteSumsParams::unused"][::core::mem::offset_of!(RouteSumsParams, unused) - 68usize];
};
#[doc = " dlogits from the gradient of the weights and the router's losses. Parameters of `moe_route_dlogits`; launched by\n the tile `moe_route_dlogits_launch` over `tokens`."]
#[repr(C)]
#[derive(Debug, Copy, Clone, bytemuck :: Pod, bytemuck :: Zeroable)]
pub struct RouteDlogitsParams {
    #[doc = " [tokens, topk], f32"]
    pub dweight: u64,
    #[doc = " [tokens], u32"]
    pub cluster: u64,
    #[doc = " [tokens, topk], u32"]
    pub expert: u64,
    #[doc = " [tokens, clusters], f32"]
    pub prob_cluster: u64,
    #[doc = " [tokens, experts / clusters], f32"]
    pub prob_expert: u64,
    #[doc = " [tokens, 2], f32"]
    pub lse: u64,
    #[doc = " [clusters], u32"]
    pub cluster_tokens: u64,
    #[doc = " [experts], u32"]
    pub expert_slots: u64,
    #[doc = " [tokens, logits], f32"]
    pub dlogits: u64,
    pub dweight_stride: u64,
    pub dlogits_stride: u64,
    pub tokens: u32,
    #[doc = " Coefficient of the balance loss"]
    pub balance: f32,
    #[doc = " Coefficient of the z-loss"]
    pub z: f32,
    pub unused: u32,
    pub rule: RouteRule,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of RouteDlogitsParams"][::core::mem::size_of::<RouteDlogitsParams>() - 144usize];
    ["Alignment of RouteDlogitsParams"][::core::mem::align_of::<RouteDlogitsParams>() - 8usize];
    ["Offset of field: RouteDlogitsParams::dweight"]
        [::core::mem::offset_of!(RouteDlogitsParams, dweight) - 0usize];
    ["Offset of field: RouteDlogitsParams::cluster"]
        [::core::mem::offset_of!(RouteDlogitsParams, cluster) - 8usize];
    ["Offset of field: RouteDlogitsParams::expert"]
        [::core::mem::offset_of!(RouteDlogitsParams, expert) - 16usize];
    ["Offset of field: RouteDlogitsParams::prob_cluster"]
        [::core::mem::offset_of!(RouteDlogitsParams, prob_cluster) - 24usize];
    ["Offset of field: RouteDlogitsParams::prob_expert"]
        [::core::mem::offset_of!(RouteDlogitsParams, prob_expert) - 32usize];
    ["Offset of field: RouteDlogitsParams::lse"][::core::mem::offset_of!(RouteDlogitsParams, lse) - 40usize];
    ["Offset of field: RouteDlogitsParams::cluster_tokens"]
        [::core::mem::offset_of!(RouteDlogitsParams, cluster_tokens) - 48usize];
    ["Offset of field: RouteDlogitsParams::expert_slots"]
        [::core::mem::offset_of!(RouteDlogitsParams, expert_slots) - 56usize];
    ["Offset of field: RouteDlogitsParams::dlogits"]
        [::core::mem::offset_of!(RouteDlogitsParams, dlogits) - 64usize];
    ["Offset of field: RouteDlogitsParams::dweight_stride"]
        [::core::mem::offset_of!(RouteDlogitsParams, dweight_stride) - 72usize];
    ["Offset of field: RouteDlogitsParams::dlogits_stride"]
        [::core::mem::offset_of!(RouteDlogitsParams, dlogits_stride) - 80usize];
    ["Offset of field: RouteDlogitsParams::tokens"]
        [::core::mem::offset_of!(RouteDlogitsParams, tokens) - 88usize];
    ["Offset of field: RouteDlogitsParams::balance"]
        [::core::mem::offset_of!(RouteDlogitsParams, balance) - 92usize];
    ["Offset of field: RouteDlogitsParams::z"][::core::mem::offset_of!(RouteDlogitsParams, z) - 96usize];
    ["Offset of field: RouteDlogitsParams::unused"]
        [::core::mem::offset_of!(RouteDlogitsParams, unused) - 100usize];
    ["Offset of field: RouteDlogitsParams::rule"]
        [::core::mem::offset_of!(RouteDlogitsParams, rule) - 104usize];
};
#[doc = " dx += dlogits w. Parameters of `moe_route_dx_*`; launched by the tile `moe_route_product_launch` over `tokens` and\n `hidden`."]
#[repr(C)]
#[derive(Debug, Copy, Clone, bytemuck :: Pod, bytemuck :: Zeroable)]
pub struct RouteDxParams {
    #[doc = " [tokens, logits], f32"]
    pub dlogits: u64,
    #[doc = " [logits, hidden]"]
    pub w: u64,
    #[doc = " [tokens, hidden]"]
    pub dx: u64,
    pub dlogits_stride: u64,
    pub w_stride: u64,
    pub dx_stride: u64,
    pub tokens: u32,
    pub logits: u32,
    pub hidden: u32,
    pub unused: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of RouteDxParams"][::core::mem::size_of::<RouteDxParams>() - 64usize];
    ["Alignment of RouteDxParams"][::core::mem::align_of::<RouteDxParams>() - 8usize];
    ["Offset of field: RouteDxParams::dlogits"][::core::mem::offset_of!(RouteDxParams, dlogits) - 0usize];
    ["Offset of field: RouteDxParams::w"][::core::mem::offset_of!(RouteDxParams, w) - 8usize];
    ["Offset of field: RouteDxParams::dx"][::core::mem::offset_of!(RouteDxParams, dx) - 16usize];
    ["Offset of field: RouteDxParams::dlogits_stride"]
        [::core::mem::offset_of!(RouteDxParams, dlogits_stride) - 24usize];
    ["Offset of field: RouteDxParams::w_stride"][::core::mem::offset_of!(RouteDxParams, w_stride) - 32usize];
    ["Offset of field: RouteDxParams::dx_stride"]
        [::core::mem::offset_of!(RouteDxParams, dx_stride) - 40usize];
    ["Offset of field: RouteDxParams::tokens"][::core::mem::offset_of!(RouteDxParams, tokens) - 48usize];
    ["Offset of field: RouteDxParams::logits"][::core::mem::offset_of!(RouteDxParams, logits) - 52usize];
    ["Offset of field: RouteDxParams::hidden"][::core::mem::offset_of!(RouteDxParams, hidden) - 56usize];
    ["Offset of field: RouteDxParams::unused"][::core::mem::offset_of!(RouteDxParams, unused) - 60usize];
};
#[doc = " dw = [dw +] dlogits^T x. Parameters of `moe_route_dw_*`; launched by the tile `moe_route_product_launch` over\n `logits` and `hidden`, also if there are no tokens. Several blocks along z split the tokens, and leave their sums one\n behind the other, for `moe_int4_gemm_reduce_F32` to add."]
#[repr(C)]
#[derive(Debug, Copy, Clone, bytemuck :: Pod, bytemuck :: Zeroable)]
pub struct RouteDwParams {
    #[doc = " [tokens, logits], f32"]
    pub dlogits: u64,
    #[doc = " [tokens, hidden]"]
    pub x: u64,
    #[doc = " [splits, logits, hidden], f32"]
    pub dw: u64,
    pub dlogits_stride: u64,
    pub x_stride: u64,
    pub dw_stride: u64,
    pub tokens: u32,
    pub logits: u32,
    pub hidden: u32,
    #[doc = " Tokens of a split; all of them and one split more are fewer than 2^32."]
    pub span: u32,
    #[doc = " 1: add to dw; 0: overwrite it"]
    pub accumulate: u32,
    pub unused: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of RouteDwParams"][::core::mem::size_of::<RouteDwParams>() - 72usize];
    ["Alignment of RouteDwParams"][::core::mem::align_of::<RouteDwParams>() - 8usize];
    ["Offset of field: RouteDwParams::dlogits"][::core::mem::offset_of!(RouteDwParams, dlogits) - 0usize];
    ["Offset of field: RouteDwParams::x"][::core::mem::offset_of!(RouteDwParams, x) - 8usize];
    ["Offset of field: RouteDwParams::dw"][::core::mem::offset_of!(RouteDwParams, dw) - 16usize];
    ["Offset of field: RouteDwParams::dlogits_stride"]
        [::core::mem::offset_of!(RouteDwParams, dlogits_stride) - 24usize];
    ["Offset of field: RouteDwParams::x_stride"][::core::mem::offset_of!(RouteDwParams, x_stride) - 32usize];
    ["Offset of field: RouteDwParams::dw_stride"]
        [::core::mem::offset_of!(RouteDwParams, dw_stride) - 40usize];
    ["Offset of field: RouteDwParams::tokens"][::core::mem::offset_of!(RouteDwParams, tokens) - 48usize];
    ["Offset of field: RouteDwParams::logits"][::core::mem::offset_of!(RouteDwParams, logits) - 52usize];
    ["Offset of field: RouteDwParams::hidden"][::core::mem::offset_of!(RouteDwParams, hidden) - 56usize];
    ["Offset of field: RouteDwParams::span"][::core::mem::offset_of!(RouteDwParams, span) - 60usize];
    ["Offset of field: RouteDwParams::accumulate"]
        [::core::mem::offset_of!(RouteDwParams, accumulate) - 64usize];
    ["Offset of field: RouteDwParams::unused"][::core::mem::offset_of!(RouteDwParams, unused) - 68usize];
};
#[doc = " partial[s, (i, j)] = <x_i, x_j> over the s-th span of the experts' chunks. Parameters of `moe_gram_*` and\n `moe_gram_small_*`, which differ in the tile; launched by the tile `moe_gram_launch` (`moe_gram_small_launch`, for\n at most tile.rows experts) with n (n + 1) / 2 blocks along x for n = ceil(experts / tile.rows), and one along y for\n each span.\n\n A chunk is 16 bytes of a row, or what is left of it: an expert has rows ceil(columns / elements of a chunk) of\n them, at most 2^31 with one span more."]
#[repr(C)]
#[derive(Debug, Copy, Clone, bytemuck :: Pod, bytemuck :: Zeroable)]
pub struct GramParams {
    #[doc = " [experts, rows, columns]"]
    pub x: u64,
    #[doc = " [spans, experts (experts + 1) / 2], f64"]
    pub partial: u64,
    pub expert_stride: u64,
    pub row_stride: u64,
    pub experts: u32,
    pub rows: u32,
    pub columns: u32,
    #[doc = " Chunks of a span, a multiple of tile.columns."]
    pub span: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of GramParams"][::core::mem::size_of::<GramParams>() - 48usize];
    ["Alignment of GramParams"][::core::mem::align_of::<GramParams>() - 8usize];
    ["Offset of field: GramParams::x"][::core::mem::offset_of!(GramParams, x) - 0usize];
    ["Offset of field: GramParams::partial"][::core::mem::offset_of!(GramParams, partial) - 8usize];
    ["Offset of field: GramParams::expert_stride"]
        [::core::mem::offset_of!(GramParams, expert_stride) - 16usize];
    ["Offset of field: GramParams::row_stride"][::core::mem::offset_of!(GramParams, row_stride) - 24usize];
    ["Offset of field: GramParams::experts"][::core::mem::offset_of!(GramParams, experts) - 32usize];
    ["Offset of field: GramParams::rows"][::core::mem::offset_of!(GramParams, rows) - 36usize];
    ["Offset of field: GramParams::columns"][::core::mem::offset_of!(GramParams, columns) - 40usize];
    ["Offset of field: GramParams::span"][::core::mem::offset_of!(GramParams, span) - 44usize];
};
#[doc = " gram[i, j] = gram[j, i] = sum over s of partial[s, (i, j)], in the order of s strided by tile.rows. Parameters of\n `moe_gram_sum`, launched with ceil(experts (experts + 1) / 2 / tile.columns) blocks along x of the tile\n `moe_gram_sum_launch`."]
#[repr(C)]
#[derive(Debug, Copy, Clone, bytemuck :: Pod, bytemuck :: Zeroable)]
pub struct GramSumParams {
    #[doc = " [spans, experts (experts + 1) / 2], f64"]
    pub partial: u64,
    #[doc = " [experts, experts], f64"]
    pub gram: u64,
    pub gram_stride: u64,
    pub experts: u32,
    pub spans: u32,
    #[doc = " 1: add to gram, of which the lower half counts; 0: overwrite it"]
    pub accumulate: u32,
    pub unused: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of GramSumParams"][::core::mem::size_of::<GramSumParams>() - 40usize];
    ["Alignment of GramSumParams"][::core::mem::align_of::<GramSumParams>() - 8usize];
    ["Offset of field: GramSumParams::partial"][::core::mem::offset_of!(GramSumParams, partial) - 0usize];
    ["Offset of field: GramSumParams::gram"][::core::mem::offset_of!(GramSumParams, gram) - 8usize];
    ["Offset of field: GramSumParams::gram_stride"]
        [::core::mem::offset_of!(GramSumParams, gram_stride) - 16usize];
    ["Offset of field: GramSumParams::experts"][::core::mem::offset_of!(GramSumParams, experts) - 24usize];
    ["Offset of field: GramSumParams::spans"][::core::mem::offset_of!(GramSumParams, spans) - 28usize];
    ["Offset of field: GramSumParams::accumulate"]
        [::core::mem::offset_of!(GramSumParams, accumulate) - 32usize];
    ["Offset of field: GramSumParams::unused"][::core::mem::offset_of!(GramSumParams, unused) - 36usize];
};
#[doc = " s[i, j] = s[j, i] = alpha cos(param)[i, j] + (1 - alpha) cos(act)[i, j] for j < i, s[i, i] = 1, where\n cos(g)[i, j] = g[i, j] / sqrt(g[i, i]) / sqrt(g[j, j]), or 0 without a positive norm. Parameters of\n `moe_similarity_F64`, launched with ceil(experts (experts + 1) / 2 / tile.columns) blocks along x of the tile\n `moe_similarity_launch`."]
#[repr(C)]
#[derive(Debug, Copy, Clone, bytemuck :: Pod, bytemuck :: Zeroable)]
pub struct SimilarityParams {
    #[doc = " [experts, experts], f64: the lower half is read"]
    pub param: u64,
    #[doc = " [experts, experts], f64: the lower half is read"]
    pub act: u64,
    #[doc = " [experts, experts], f64"]
    pub s: u64,
    pub param_stride: u64,
    pub act_stride: u64,
    pub s_stride: u64,
    pub alpha: f64,
    pub experts: u32,
    pub unused: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of SimilarityParams"][::core::mem::size_of::<SimilarityParams>() - 64usize];
    ["Alignment of SimilarityParams"][::core::mem::align_of::<SimilarityParams>() - 8usize];
    ["Offset of field: SimilarityParams::param"][::core::mem::offset_of!(SimilarityParams, param) - 0usize];
    ["Offset of field: SimilarityParams::act"][::core::mem::offset_of!(SimilarityParams, act) - 8usize];
    ["Offset of field: SimilarityParams::s"][::core::mem::offset_of!(SimilarityParams, s) - 16usize];
    ["Offset of field: SimilarityParams::param_stride"]
        [::core::mem::offset_of!(SimilarityParams, param_stride) - 24usize];
    ["Offset of field: SimilarityParams::act_stride"]
        [::core::mem::offset_of!(SimilarityParams, act_stride) - 32usize];
    ["Offset of field: SimilarityParams::s_stride"]
        [::core::mem::offset_of!(SimilarityParams, s_stride) - 40usize];
    ["Offset of field: SimilarityParams::alpha"][::core::mem::offset_of!(SimilarityParams, alpha) - 48usize];
    ["Offset of field: SimilarityParams::experts"]
        [::core::mem::offset_of!(SimilarityParams, experts) - 56usize];
    ["Offset of field: SimilarityParams::unused"]
        [::core::mem::offset_of!(SimilarityParams, unused) - 60usize];
};
#[doc = " Parameters of `moe_swiglu_*`; launched by the tile `moe_swiglu_launch` over `rows` and `inner`."]
#[repr(C)]
#[derive(Debug, Copy, Clone, bytemuck :: Pod, bytemuck :: Zeroable)]
pub struct SwiGluParams {
    #[doc = " [rows, 2 inner]"]
    pub z: u64,
    #[doc = " [rows, inner]"]
    pub h: u64,
    #[doc = " [tokens, fan], f32; 0 means ones"]
    pub weight: u64,
    #[doc = " [rows], u32: the choice token * fan + slot of each row; read if there are weights"]
    pub source: u64,
    pub z_stride: u64,
    pub h_stride: u64,
    pub weight_stride: u64,
    pub rows: u32,
    pub inner: u32,
    pub fan: u32,
    pub unused: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of SwiGluParams"][::core::mem::size_of::<SwiGluParams>() - 72usize];
    ["Alignment of SwiGluParams"][::core::mem::align_of::<SwiGluParams>() - 8usize];
    ["Offset of field: SwiGluParams::z"][::core::mem::offset_of!(SwiGluParams, z) - 0usize];
    ["Offset of field: SwiGluParams::h"][::core::mem::offset_of!(SwiGluParams, h) - 8usize];
    ["Offset of field: SwiGluParams::weight"][::core::mem::offset_of!(SwiGluParams, weight) - 16usize];
    ["Offset of field: SwiGluParams::source"][::core::mem::offset_of!(SwiGluParams, source) - 24usize];
    ["Offset of field: SwiGluParams::z_stride"][::core::mem::offset_of!(SwiGluParams, z_stride) - 32usize];
    ["Offset of field: SwiGluParams::h_stride"][::core::mem::offset_of!(SwiGluParams, h_stride) - 40usize];
    ["Offset of field: SwiGluParams::weight_stride"]
        [::core::mem::offset_of!(SwiGluParams, weight_stride) - 48usize];
    ["Offset of field: SwiGluParams::rows"][::core::mem::offset_of!(SwiGluParams, rows) - 56usize];
    ["Offset of field: SwiGluParams::inner"][::core::mem::offset_of!(SwiGluParams, inner) - 60usize];
    ["Offset of field: SwiGluParams::fan"][::core::mem::offset_of!(SwiGluParams, fan) - 64usize];
    ["Offset of field: SwiGluParams::unused"][::core::mem::offset_of!(SwiGluParams, unused) - 68usize];
};
#[doc = " Parameters of `moe_swiglu_backward_*`; launched by the tile `moe_swiglu_backward_launch` over `rows`."]
#[repr(C)]
#[derive(Debug, Copy, Clone, bytemuck :: Pod, bytemuck :: Zeroable)]
pub struct SwiGluBackwardParams {
    #[doc = " [rows, 2 inner]: z on entry, its gradient on return"]
    pub z: u64,
    #[doc = " [rows, inner]: the gradient of h on entry, h on return"]
    pub dh: u64,
    #[doc = " [tokens, fan], f32; 0 means ones"]
    pub weight: u64,
    #[doc = " [tokens, fan], f32, overwritten; there exactly if there are weights"]
    pub dweight: u64,
    #[doc = " [rows], u32; read if there are weights"]
    pub source: u64,
    pub z_stride: u64,
    pub dh_stride: u64,
    pub weight_stride: u64,
    pub dweight_stride: u64,
    pub rows: u32,
    pub inner: u32,
    pub fan: u32,
    pub unused: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of SwiGluBackwardParams"][::core::mem::size_of::<SwiGluBackwardParams>() - 88usize];
    ["Alignment of SwiGluBackwardParams"][::core::mem::align_of::<SwiGluBackwardParams>() - 8usize];
    ["Offset of field: SwiGluBackwardParams::z"][::core::mem::offset_of!(SwiGluBackwardParams, z) - 0usize];
    ["Offset of field: SwiGluBackwardParams::dh"][::core::mem::offset_of!(SwiGluBackwardParams, dh) - 8usize];
    ["Offset of field: SwiGluBackwardParams::weight"]
        [::core::mem::offset_of!(SwiGluBackwardParams, weight) - 16usize];
    ["Offset of field: SwiGluBackwardParams::dweight"]
        [::core::mem::offset_of!(SwiGluBackwardParams, dweight) - 24usize];
    ["Offset of field: SwiGluBackwardParams::source"]
        [::core::mem::offset_of!(SwiGluBackwardParams, source) - 32usize];
    ["Offset of field: SwiGluBackwardParams::z_stride"]
        [::core::mem::offset_of!(SwiGluBackwardParams, z_stride) - 40usize];
    ["Offset of field: SwiGluBackwardParams::dh_stride"]
        [::core::mem::offset_of!(SwiGluBackwardParams, dh_stride) - 48usize];
    ["Offset of field: SwiGluBackwardParams::weight_stride"]
        [::core::mem::offset_of!(SwiGluBackwardParams, weight_stride) - 56usize];
    ["Offset of field: SwiGluBackwardParams::dweight_stride"]
        [::core::mem::offset_of!(SwiGluBackwardParams, dweight_stride) - 64usize];
    ["Offset of field: SwiGluBackwardParams::rows"]
        [::core::mem::offset_of!(SwiGluBackwardParams, rows) - 72usize];
    ["Offset of field: SwiGluBackwardParams::inner"]
        [::core::mem::offset_of!(SwiGluBackwardParams, inner) - 76usize];
    ["Offset of field: SwiGluBackwardParams::fan"]
        [::core::mem::offset_of!(SwiGluBackwardParams, fan) - 80usize];
    ["Offset of field: SwiGluBackwardParams::unused"]
        [::core::mem::offset_of!(SwiGluBackwardParams, unused) - 84usize];
};
// SAFETY: repr(C) and Pod, the layout asserted above and in the kernel's file.
unsafe impl cudarc::driver::DeviceRepr for AdamWParams {}
// SAFETY: repr(C) and Pod, the layout asserted above and in the kernel's file.
unsafe impl cudarc::driver::DeviceRepr for AddParams {}
// SAFETY: repr(C) and Pod, the layout asserted above and in the kernel's file.
unsafe impl cudarc::driver::DeviceRepr for AttentionParams {}
// SAFETY: repr(C) and Pod, the layout asserted above and in the kernel's file.
unsafe impl cudarc::driver::DeviceRepr for AttentionBackwardParams {}
// SAFETY: repr(C) and Pod, the layout asserted above and in the kernel's file.
unsafe impl cudarc::driver::DeviceRepr for AttentionStepParams {}
// SAFETY: repr(C) and Pod, the layout asserted above and in the kernel's file.
unsafe impl cudarc::driver::DeviceRepr for CentroidEmaParams {}
// SAFETY: repr(C) and Pod, the layout asserted above and in the kernel's file.
unsafe impl cudarc::driver::DeviceRepr for CopyParams {}
// SAFETY: repr(C) and Pod, the layout asserted above and in the kernel's file.
unsafe impl cudarc::driver::DeviceRepr for CrossEntropyParams {}
// SAFETY: repr(C) and Pod, the layout asserted above and in the kernel's file.
unsafe impl cudarc::driver::DeviceRepr for EmbeddingParams {}
// SAFETY: repr(C) and Pod, the layout asserted above and in the kernel's file.
unsafe impl cudarc::driver::DeviceRepr for EmbeddingBackwardParams {}
// SAFETY: repr(C) and Pod, the layout asserted above and in the kernel's file.
unsafe impl cudarc::driver::DeviceRepr for ExpandParams {}
// SAFETY: repr(C) and Pod, the layout asserted above and in the kernel's file.
unsafe impl cudarc::driver::DeviceRepr for ExpandBackwardParams {}
// SAFETY: repr(C) and Pod, the layout asserted above and in the kernel's file.
unsafe impl cudarc::driver::DeviceRepr for ExpandFactorsParams {}
// SAFETY: repr(C) and Pod, the layout asserted above and in the kernel's file.
unsafe impl cudarc::driver::DeviceRepr for ExpandFoldParams {}
// SAFETY: repr(C) and Pod, the layout asserted above and in the kernel's file.
unsafe impl cudarc::driver::DeviceRepr for QuantizeInt4Params {}
// SAFETY: repr(C) and Pod, the layout asserted above and in the kernel's file.
unsafe impl cudarc::driver::DeviceRepr for DequantizeInt4Params {}
// SAFETY: repr(C) and Pod, the layout asserted above and in the kernel's file.
unsafe impl cudarc::driver::DeviceRepr for FakeQuantInt4Params {}
// SAFETY: repr(C) and Pod, the layout asserted above and in the kernel's file.
unsafe impl cudarc::driver::DeviceRepr for ExpandInt4Params {}
// SAFETY: repr(C) and Pod, the layout asserted above and in the kernel's file.
unsafe impl cudarc::driver::DeviceRepr for GlobalNormParams {}
// SAFETY: repr(C) and Pod, the layout asserted above and in the kernel's file.
unsafe impl cudarc::driver::DeviceRepr for GlobalNormRootParams {}
// SAFETY: repr(C) and Pod, the layout asserted above and in the kernel's file.
unsafe impl cudarc::driver::DeviceRepr for GroupedGemmParams {}
// SAFETY: repr(C) and Pod, the layout asserted above and in the kernel's file.
unsafe impl cudarc::driver::DeviceRepr for GroupedGemmDgradParams {}
// SAFETY: repr(C) and Pod, the layout asserted above and in the kernel's file.
unsafe impl cudarc::driver::DeviceRepr for GroupedGemmWgradParams {}
// SAFETY: repr(C) and Pod, the layout asserted above and in the kernel's file.
unsafe impl cudarc::driver::DeviceRepr for GroupedGemmInt4RowsParams {}
// SAFETY: repr(C) and Pod, the layout asserted above and in the kernel's file.
unsafe impl cudarc::driver::DeviceRepr for GroupedGemmInt4ColumnsParams {}
// SAFETY: repr(C) and Pod, the layout asserted above and in the kernel's file.
unsafe impl cudarc::driver::DeviceRepr for Int4GemmParams {}
// SAFETY: repr(C) and Pod, the layout asserted above and in the kernel's file.
unsafe impl cudarc::driver::DeviceRepr for Int4GemmReduceParams {}
// SAFETY: repr(C) and Pod, the layout asserted above and in the kernel's file.
unsafe impl cudarc::driver::DeviceRepr for PermuteParams {}
// SAFETY: repr(C) and Pod, the layout asserted above and in the kernel's file.
unsafe impl cudarc::driver::DeviceRepr for CombineParams {}
// SAFETY: repr(C) and Pod, the layout asserted above and in the kernel's file.
unsafe impl cudarc::driver::DeviceRepr for CombineBackwardParams {}
// SAFETY: repr(C) and Pod, the layout asserted above and in the kernel's file.
unsafe impl cudarc::driver::DeviceRepr for PlanParams {}
// SAFETY: repr(C) and Pod, the layout asserted above and in the kernel's file.
unsafe impl cudarc::driver::DeviceRepr for ResidualParams {}
// SAFETY: repr(C) and Pod, the layout asserted above and in the kernel's file.
unsafe impl cudarc::driver::DeviceRepr for RmsNormParams {}
// SAFETY: repr(C) and Pod, the layout asserted above and in the kernel's file.
unsafe impl cudarc::driver::DeviceRepr for RmsNormBackwardParams {}
// SAFETY: repr(C) and Pod, the layout asserted above and in the kernel's file.
unsafe impl cudarc::driver::DeviceRepr for RmsNormDgainParams {}
// SAFETY: repr(C) and Pod, the layout asserted above and in the kernel's file.
unsafe impl cudarc::driver::DeviceRepr for RopeParams {}
// SAFETY: repr(C) and Pod, the layout asserted above and in the kernel's file.
unsafe impl cudarc::driver::DeviceRepr for RouteParams {}
// SAFETY: repr(C) and Pod, the layout asserted above and in the kernel's file.
unsafe impl cudarc::driver::DeviceRepr for RouteSumsParams {}
// SAFETY: repr(C) and Pod, the layout asserted above and in the kernel's file.
unsafe impl cudarc::driver::DeviceRepr for RouteDlogitsParams {}
// SAFETY: repr(C) and Pod, the layout asserted above and in the kernel's file.
unsafe impl cudarc::driver::DeviceRepr for RouteDxParams {}
// SAFETY: repr(C) and Pod, the layout asserted above and in the kernel's file.
unsafe impl cudarc::driver::DeviceRepr for RouteDwParams {}
// SAFETY: repr(C) and Pod, the layout asserted above and in the kernel's file.
unsafe impl cudarc::driver::DeviceRepr for GramParams {}
// SAFETY: repr(C) and Pod, the layout asserted above and in the kernel's file.
unsafe impl cudarc::driver::DeviceRepr for GramSumParams {}
// SAFETY: repr(C) and Pod, the layout asserted above and in the kernel's file.
unsafe impl cudarc::driver::DeviceRepr for SimilarityParams {}
// SAFETY: repr(C) and Pod, the layout asserted above and in the kernel's file.
unsafe impl cudarc::driver::DeviceRepr for SwiGluParams {}
// SAFETY: repr(C) and Pod, the layout asserted above and in the kernel's file.
unsafe impl cudarc::driver::DeviceRepr for SwiGluBackwardParams {}
