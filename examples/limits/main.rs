//! Runs every operation that has kernels once at named shapes on softgpu, and holds its exact counts against what the
//! operation cannot do without: `cargo xtask limits`.
//!
//! Counts, not times. Per launch: different sectors of 32 bytes touched against the floor (each input and each output
//! once), sectors requested against what the launch's tiling implies, work of tensor cores against the ideal,
//! wavefronts of shared memory against what they would be without bank conflicts.

mod cases;
mod lab;
mod shapes;

use std::process::ExitCode;

use comfy_table::{Table, presets};

use lab::{Lab, Row};

/// Most that a count may exceed what it is held against.
const SECTORS: f64 = 1.10;
const TENSOR: f64 = 1.05;

/// Limits that are missed, and by how much: operation, shape, what, the factor that was recorded. More than that fails.
/// In the gradient of routing the compiler cuts some stores of whole chunks to shared memory in two.
const MISSED: &[(&str, &str, &str, f64)] = &[
    ("route_backward", "mixtral", WAVEFRONTS, 1.01),
    ("route_backward", "qwen3_moe", WAVEFRONTS, 1.01),
    ("route_backward", "deepseek_v3", WAVEFRONTS, 1.01),
    ("route_backward", "paper", WAVEFRONTS, 1.01),
    ("route_backward", "tiny", WAVEFRONTS, 1.01),
];
const WAVEFRONTS: &str = "wavefronts of shared memory";

/// What is above its limit, in words, and whether it is more than was recorded.
fn excess(row: &Row) -> Vec<(String, bool)> {
    let limits = [
        ("distinct sectors", row.distinct, row.floor, SECTORS),
        ("requested sectors", row.requested, row.implied, SECTORS),
        ("tensor flops", if row.ideal_flops > 0 { row.tensor_flops } else { 0 }, row.ideal_flops, TENSOR),
        (WAVEFRONTS, row.wavefronts, row.allowed_wavefronts, 1.0),
        ("reports of the sanitizer", row.reports, 0, 1.0),
    ];
    let above = limits.into_iter().filter(|&(_, got, want, most)| got as f64 > want as f64 * most);
    above
        .map(|(what, got, want, most)| {
            let known = MISSED.iter().find(|m| (m.0, m.1, m.2) == (row.op, &row.shape, what));
            let text = format!("{} {}: {got} {what}, more than {most} x {want}", row.op, row.shape);
            match known {
                Some(&(.., recorded)) if got as f64 <= want as f64 * recorded => {
                    (format!("{text}; as recorded, at most {recorded} x"), false)
                }
                _ => (text, true),
            }
        })
        .collect()
}

fn share(got: u64, of: u64) -> String {
    if of == 0 { "-".into() } else { format!("{:.3}", got as f64 / of as f64) }
}

fn main() -> ExitCode {
    let lab = match Lab::new() {
        Ok(lab) => lab,
        Err(why) => {
            eprintln!("error: {why}");
            return ExitCode::FAILURE;
        }
    };
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    if let Some(unknown) = wanted.iter().find(|w| !shapes::ALL.iter().any(|s| s.name == **w)) {
        eprintln!("error: there is no shape {unknown}");
        return ExitCode::FAILURE;
    }
    let mut table = Table::new();
    table.load_preset(presets::ASCII_MARKDOWN).set_header([
        "op",
        "shape",
        "distinct / floor",
        "requested / implied",
        "tensor / ideal",
        "wavefronts / ideal",
        "MB",
        "GFLOP",
        "bound A100 us",
        "bound H100 us",
    ]);
    let (mut missed, mut broken) = (Vec::new(), Vec::new());
    for shape in shapes::ALL.iter().filter(|s| wanted.is_empty() || wanted.iter().any(|w| w == s.name)) {
        println!("{shape}");
        let rows = match cases::all(&lab, shape) {
            Ok(rows) => rows,
            Err(why) => {
                eprintln!("error: {}: {why}", shape.name);
                return ExitCode::FAILURE;
            }
        };
        for row in rows {
            for (text, fails) in excess(&row) {
                if fails { broken.push(text) } else { missed.push(text) }
            }
            let bound = |chip: &lab::Chip| format!("{:.2}", 1e6 * chip.bound(row.bytes, row.flops));
            table.add_row([
                row.op.to_string(),
                row.shape.clone(),
                share(row.distinct, row.floor),
                share(row.requested, row.implied),
                share(row.tensor_flops, row.ideal_flops),
                share(row.wavefronts, row.ideal_wavefronts),
                format!("{:.2}", row.bytes as f64 / 1e6),
                format!("{:.3}", row.flops as f64 / 1e9),
                bound(&lab::A100),
                bound(&lab::H100),
            ]);
        }
    }
    println!("{table}");
    println!("bound, not a timing: the larger of bytes / bandwidth and flops / bf16 peak");
    for line in &missed {
        println!("MISSED: {line}");
    }
    for line in &broken {
        println!("ABOVE ITS LIMIT: {line}");
    }
    if broken.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
