//! A whole training step of each variant and precision at preset small: `cargo bench --bench step`.
//!
//! Prints tokens/s, the share of the measured product ceiling of that precision that the step reaches, where the rest of
//! its time goes, and peak memory over what training must hold; fails if that ratio is above its bound.

use std::process::Command;

use trimoe::profile::Ceilings;
use trimoe::train::accounting::Accounting;
use trimoe::train::config::{FfnKind, Precision, TrainConfig};
use trimoe::train::preset::Preset;
use trimoe::train::trainer::Trainer;
use trimoe::{Device, Elem, Result, bf16};

const WARMUP: u64 = 3;
const STEPS: u64 = 12;
/// Most that peak memory may be, over weights, gradients, optimiser state and kept activations.
const MEMORY_BOUND: f64 = 1.15;

fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    // `cargo test --benches` only checks that it builds and starts.
    if std::env::args().any(|a| a == "--test") {
        return Ok(());
    }
    println!("preset small, {} threads; medians of {STEPS} steps\n", Device::cpu().threads());
    let mut too_large = Vec::new();
    for ffn in [FfnKind::Dense, FfnKind::Flat, FfnKind::Clustered] {
        for precision in [Precision::F32, Precision::Bf16] {
            match precision {
                Precision::F32 => speed::<f32>(ffn, precision)?,
                Precision::Bf16 => speed::<bf16>(ffn, precision)?,
            }
            let ratio = memory(ffn, precision)?;
            if ratio.is_some_and(|r| r > MEMORY_BOUND) {
                too_large.push(format!("{ffn} in {precision}"));
            }
        }
    }
    if !too_large.is_empty() {
        return Err(format!(
            "peak memory above {MEMORY_BOUND} x what must be held: {}",
            too_large.join(", ")
        )
        .into());
    }
    Ok(())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn speed<T: Elem>(ffn: FfnKind, precision: Precision) -> Result<()> {
    let ceiling = Ceilings::measure::<T>(&Device::cpu())?.product;
    let model = Preset::Small.model().variant(ffn);
    let train = TrainConfig { steps: 1000, precision, ..Preset::Small.train() };
    let device = Device::cpu().profiled();
    let mut trainer = Trainer::<T>::new(&model, &train, &device)?;
    let mut seconds = Vec::new();
    let mut state = 1u64;
    for step in 0..WARMUP + STEPS {
        if step == WARMUP {
            device.take_profile();
        }
        let report = trainer.step(|_, ids| {
            for id in ids {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                *id = ((state >> 33) % model.vocab as u64) as u32;
            }
            Ok(())
        })?;
        if step >= WARMUP {
            seconds.push(report.seconds);
        }
    }
    let tokens = (train.batch * model.seq) as f64;
    let (per_token, seconds) =
        (Accounting::new(&model, precision)?.flops_forward.training(), median(seconds));
    println!(
        "{ffn} (inner {}) in {precision}: {:.0} tokens/s, {:.1} MFLOP a token, {:.0} GFLOP/s = {:.0} % of the ceiling of {:.0}",
        model.inner,
        tokens / seconds,
        per_token / 1e6,
        tokens * per_token / seconds / 1e9,
        100.0 * tokens * per_token / seconds / ceiling,
        ceiling / 1e9
    );
    let costs = device.take_profile();
    let total: f64 = costs.iter().map(|c| c.seconds).sum();
    println!("  {:<22} {:>7} {:>9} {:>10} {:>11}", "operation", "share", "ms/step", "GFLOP/s", "of ceiling");
    for cost in costs.iter().filter(|c| c.seconds > 0.005 * total) {
        let rate = cost.flops as f64 / cost.seconds;
        let rates = match cost.flops {
            0 => format!("{:>10} {:>11}", "-", "-"),
            _ => format!("{:>10.0} {:>9.0} %", rate / 1e9, 100.0 * rate / ceiling),
        };
        println!(
            "  {:<22} {:>5.1} % {:>9.2} {rates}",
            cost.name,
            100.0 * cost.seconds / total,
            1e3 * cost.seconds / STEPS as f64
        );
    }
    Ok(())
}

/// Peak memory of a training process over what it must hold; `None` where the system does not say.
fn memory(
    ffn: FfnKind,
    precision: Precision,
) -> std::result::Result<Option<f64>, Box<dyn std::error::Error>> {
    let out = std::env::temp_dir().join(format!("trimoe-step-{}-{ffn}-{precision}", std::process::id()));
    let inner = Preset::Small.model().variant(ffn).inner.to_string();
    let output = Command::new(env!("CARGO_BIN_EXE_trimoe"))
        .args([
            "train",
            "--preset",
            "small",
            "--steps",
            "4",
            "--json",
            "--ffn",
            ffn.name(),
            "--precision",
            &precision.to_string(),
            "--inner",
            &inner,
            "--out",
        ])
        .arg(&out)
        .output()?;
    std::fs::remove_dir_all(&out)?;
    let stdout = String::from_utf8(output.stdout)?;
    let last = stdout.lines().last().ok_or("the trainer printed nothing")?;
    let result: serde_json::Value = serde_json::from_str(last)?;
    let bytes = |field: &str| result[field].as_f64();
    let (Some(state), Some(kept)) = (bytes("state_bytes"), bytes("activation_bytes")) else {
        return Err("the trainer's result lacks its byte counts".into());
    };
    let Some(peak) = bytes("peak_bytes") else {
        println!("  peak memory: not known on this system\n");
        return Ok(None);
    };
    let ratio = peak / (state + kept);
    let mib = |b: f64| b / f64::from(1 << 20);
    println!(
        "  peak memory {:.0} MiB = {ratio:.3} x (state {:.0} MiB + kept activations {:.0} MiB)\n",
        mib(peak),
        mib(state),
        mib(kept)
    );
    Ok(Some(ratio))
}
