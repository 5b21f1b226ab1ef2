//! `trimoe pack`.

use std::path::PathBuf;

use super::options::Options;
use super::summary::{bytes, write_json};
use super::terminal::say;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::moe::FfnKind;
use crate::train::checkpoint::{Checkpoint, Description, RunFolder};
use crate::train::config::{Granularity, Mode, TrainConfig};
use crate::train::model::Model;

/// Options of `pack`.
#[derive(Debug, clap::Args)]
#[command(args_override_self = true)] // The last of several wins, so a script can append.
pub(super) struct PackOptions {
    /// Run folder or checkpoint of a clustered model.
    #[arg(long, value_name = "FOLDER")]
    from: PathBuf,
    /// Run folder to write.
    #[arg(long, value_name = "FOLDER")]
    to: PathBuf,
    /// What shares a scale.
    #[arg(long, value_enum, default_value_t)]
    int4: Granularity,
    /// Threads; 0 for one per core.
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// Print results as JSON, as the last line or into FILE.
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = "-")]
    json: Option<PathBuf>,
}

/// What `--json` prints.
#[derive(serde::Serialize)]
struct Json {
    int4: Granularity,
    model_bytes_before: u64,
    model_bytes_after: u64,
}

pub(super) fn run(args: PackOptions) -> Result<u8> {
    let options = Options { threads: Some(args.threads), ..Options::default() };
    let device = Device::cpu_with_threads(options.threads()?)?;
    let from = RunFolder::open_checkpoint(&args.from)?;
    let refused = |why: String| Err(Error::config("--from", args.from.display(), why));
    if from.form() != FfnKind::Clustered {
        return refused(format!("its experts are {}, and only clustered ones have residuals", from.form()));
    }
    if let Some(int4) = from.description().packed {
        return refused(format!("its residuals are packed already ({int4})"));
    }
    if RunFolder::exists(&args.to) {
        return Err(Error::config("--to", args.to.display(), "holds a run already; name another folder"));
    }
    let Description { model: config, train, data, .. } = from.description().clone();
    // No batch: nothing is computed with it.
    let mut model = Model::<f32>::new(&config, &device, 0, 0, false)?;
    from.load_model(&mut model)?;
    // The model is clustered now, at whatever step.
    let train = TrainConfig { mode: Mode::Native, int4: args.int4, ..train };
    let description = Description { packed: Some(args.int4), ..Description::new(config, train, data) };
    let run = RunFolder::create(&args.to)?;
    let path = run.save_model(&model, &description, from.tokenizer_path(), from.position())?;
    let [before, after] = [from.model_bytes(), Checkpoint::open(&path)?.model_bytes()];
    say(format_args!(
        "weights: {} instead of {}, residuals in INT4 ({})",
        bytes(after),
        bytes(before),
        args.int4
    ))?;
    say(format_args!("written to {}; eval and generate compute from it as it is", path.display()))?;
    let json = Json { int4: args.int4, model_bytes_before: before, model_bytes_after: after };
    write_json(args.json.as_deref(), &json)?;
    Ok(0)
}
