//! Figures that others published, and what the same shapes cannot take less than.

/// A published figure.
struct Figure {
    what: &'static str,
    shape: &'static str,
    /// Bytes and floating-point operations that cannot be saved.
    bytes: f64,
    flops: f64,
    /// As published; claims of their authors, on an H100 unless said.
    published: &'static str,
}

/// A layer of experts, forward: three products of each chosen expert.
const fn layer(tokens: f64, hidden: f64, inner: f64, experts: f64, topk: f64) -> (f64, f64) {
    let weights = 3.0 * experts * hidden * inner;
    (2.0 * (weights + 2.0 * tokens * hidden), 2.0 * 3.0 * tokens * topk * hidden * inner)
}

/// Prints the table.
pub fn print() {
    let figure = |what, shape, (bytes, flops), published| Figure { what, shape, bytes, flops, published };
    let figures = [
        figure(
            "experts forward",
            "T 40960 d 768 n 256 E 128 k 8",
            layer(40960., 768., 256., 128., 8.),
            "338 TFLOP/s (SonicMoE chart)",
        ),
        figure(
            "experts forward",
            "T 24576 d 1536 n 1024 E 32 k 2",
            layer(24576., 1536., 1024., 32., 2.),
            "468 TFLOP/s (SonicMoE chart)",
        ),
        figure(
            "experts forward",
            "T 32768 d 2048 n 768 E 128 k 8",
            layer(32768., 2048., 768., 128., 8.),
            "242 TFLOP/s (torch grouped_mm, VeOmni#460)",
        ),
        // 4-bit weights and a 16-bit scale for 128 of them, 16-bit activations.
        figure(
            "W4A16",
            "8192 x 8192, g 128, m 1",
            (8192. * 8192. * (0.5 + 2. / 128.) + 2. * 2. * 8192., 2. * 8192. * 8192.),
            "27.0 us (humming#2)",
        ),
        figure(
            "router, forward and metadata",
            "T 8192, E 256, d 7168, k 8",
            (2. * 7168. * (8192. + 256.), 2. * 8192. * 256. * 7168.),
            "20.4 us for selection and metadata alone (TRT-LLM#15656)",
        ),
        figure("similarity", "E 128 x 18.9 M weights", (2. * 128. * 18.9e6, 128. * 129. * 18.9e6), "none"),
    ];
    println!("| what | shape | bound A100 us | bound H100 us | published |");
    println!("|---|---|---|---|---|");
    for f in figures {
        let bound = |bandwidth: f64, peak: f64| 1e6 * (f.bytes / bandwidth).max(f.flops / peak);
        println!(
            "| {} | {} | {:.1} | {:.1} | {} |",
            f.what,
            f.shape,
            bound(2.04e12, 312e12),
            bound(3.35e12, 989.5e12),
            f.published
        );
    }
    println!(
        "bound, not a timing: the larger of bytes / bandwidth and flops / bf16 peak; published figures are claims"
    );
}
