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

/// What is above its limit, in words.
fn excess(row: &Row) -> Vec<String> {
    let limits = [
        ("distinct sectors", row.distinct, row.floor, SECTORS),
        ("requested sectors", if row.implied > 0 { row.requested } else { 0 }, row.implied, SECTORS),
        ("tensor flops", if row.ideal_flops > 0 { row.tensor_flops } else { 0 }, row.ideal_flops, TENSOR),
        ("wavefronts of shared memory", row.wavefronts, row.allowed_wavefronts, 1.0),
        ("reports of the sanitizer", row.reports, 0, 1.0),
    ];
    let above = limits.into_iter().filter(|&(_, got, want, most)| got as f64 > want as f64 * most);
    above
        .map(|(what, got, want, most)| {
            format!("{} {}: {got} {what}, more than {most} x {want}", row.op, row.shape)
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
    let mut broken = Vec::new();
    for shape in shapes::ALL.iter().filter(|s| wanted.is_empty() || wanted.iter().any(|w| w == s.name)) {
        let rows = match cases::all(&lab, shape) {
            Ok(rows) => rows,
            Err(why) => {
                eprintln!("error: {}: {why}", shape.name);
                return ExitCode::FAILURE;
            }
        };
        for row in rows {
            broken.extend(excess(&row));
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
    for line in &broken {
        println!("ABOVE ITS LIMIT: {line}");
    }
    if broken.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
