//! `trimoe train`.

mod plan;
mod session;

use crate::bf16;
use crate::cli::options::Options;
use crate::cli::profile::ProfileOptions;
use crate::error::Result;
use crate::train::config::Precision;
use plan::Plan;

/// What `train` takes.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct TrainOptions {
    #[command(flatten)]
    options: Options,
    #[command(flatten)]
    profile: ProfileOptions,
}

pub(super) fn run(TrainOptions { options, profile }: TrainOptions) -> Result<u8> {
    let plan = Plan::new(options.with_file()?)?;
    let profile = profile.wanted(plan.done(), plan.last())?;
    match plan.train.precision {
        Precision::F32 => plan.train::<f32>(profile),
        Precision::Bf16 => plan.train::<bf16>(profile),
    }
}
