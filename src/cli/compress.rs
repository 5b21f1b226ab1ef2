//! `trimoe compress`.

use std::path::PathBuf;

use super::device::Chosen;
use super::options::{DeviceName, Options};
use super::summary::{bytes, count, table, write_json};
use super::terminal::{note, say};
use crate::compress::hub::{HubModel, HubReport};
use crate::compress::{BaseOf, GroupBy, Settings, expert_parameters, rank_for};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::moe::Shape;
use crate::place::Place;

mod own;

/// Options of `compress`.
#[derive(Debug, clap::Args)]
#[command(args_override_self = true)] // The last of several wins, so a script can append.
pub(super) struct CompressOptions {
    /// Run folder or checkpoint of a flat model, or a folder with a Mixtral, Qwen3-MoE or OLMoE model (config.json and
    /// safetensors).
    #[arg(long, value_name = "FOLDER")]
    from: PathBuf,
    /// Folder to write: a run folder, or a model folder.
    #[arg(long, value_name = "FOLDER")]
    to: PathBuf,
    /// Clusters the experts of a layer are divided into.
    #[arg(long)]
    clusters: usize,
    /// Rank of an expert's residual.
    #[arg(long, required_unless_present = "ratio", conflicts_with = "ratio")]
    rank: Option<usize>,
    /// Share of the experts' parameters to keep, between 0 and 1; instead of --rank.
    #[arg(long)]
    ratio: Option<f64>,
    /// Text of the kind the model is for, which says how its experts are used; needed for a run that was trained on text.
    #[arg(long, value_name = "PATH")]
    calibration: Option<PathBuf>,
    /// Tokens of the calibration text to use.
    #[arg(long, default_value_t = 16_384)]
    calibration_tokens: u64,
    /// How experts are grouped.
    #[arg(long, value_enum, default_value_t = GroupBy::Cluster)]
    grouping: GroupBy,
    /// What weighs an expert in the base of its cluster.
    #[arg(long, value_enum, default_value_t = BaseOf::Mean)]
    base: BaseOf,
    /// Share of the weights in the similarity of experts; the rest is that of what they are sent.
    #[arg(long, default_value_t = 0.7)]
    alpha: f64,
    /// Least similarity that makes an expert a candidate when clusters are evened out.
    #[arg(long, default_value_t = 0.1)]
    tau: f64,
    /// Seed of groupings and random subspaces.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Text to evaluate on, before and after.
    #[arg(long, value_name = "PATH")]
    eval_data: Option<PathBuf>,
    /// Compress with experts grouped at random too, to print beside.
    #[arg(long)]
    against_random: bool,
    /// Keep the spacing of WikiText files (` @-@ `, ` ,`) instead of undoing it.
    #[arg(long)]
    verbatim: bool,
    /// Folder for tokenized text [default: a temporary one].
    #[arg(long, value_name = "FOLDER")]
    cache: Option<PathBuf>,
    /// Where models run: cpu, cuda, cuda:N, or auto for the first CUDA device if there is one; layers are converted on the
    /// CPU.
    #[arg(long, value_name = "DEVICE", default_value_t = DeviceName::Cpu)]
    device: DeviceName,
    /// Threads of the CPU; 0 for one per core.
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// Print results as JSON, as the last line or into FILE.
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = "-")]
    json: Option<PathBuf>,
}

pub(super) fn run(args: CompressOptions) -> Result<u8> {
    for (option, value) in [("--alpha", args.alpha), ("--tau", args.tau)] {
        if !(0.0..=1.0).contains(&value) {
            return Err(Error::config(option, value, "must lie in 0..=1"));
        }
    }
    if args.clusters == 0 {
        return Err(Error::config("--clusters", 0, "must be at least 1"));
    }
    let options = args.options();
    let cpu = || Device::cpu_with_threads(options.threads()?);
    options.threads()?;
    let from = &args.from;
    std::fs::metadata(from).map_err(Error::io("read", from))?;
    let ours = from.join("checkpoints").is_dir() || from.join("state.json").is_file();
    if !ours && from.join("config.json").is_file() {
        return args.hub(&cpu()?);
    }
    let device = Chosen::open(&options)?.into_device();
    let cpu = if device.place() == Place::Host { device.clone() } else { cpu()? };
    own::run(&args, &device, &cpu)
}

impl CompressOptions {
    /// The options that other commands have too.
    fn options(&self) -> Options {
        Options {
            eval_data: self.eval_data.clone(),
            verbatim: Some(self.verbatim),
            cache: self.cache.clone(),
            device: Some(self.device),
            threads: Some(self.threads),
            ..Options::default()
        }
    }

    /// Settings for layers of this shape, whose `clusters` and `rank` do not matter.
    fn settings(&self, shape: Shape) -> Result<Settings> {
        let clusters = self.clusters;
        let rank = match (self.rank, self.ratio) {
            (Some(rank), _) => rank,
            (None, Some(ratio)) => rank_for(ratio, Shape { clusters, ..shape })?,
            (None, None) => return Err(Error::config("--rank", "(none)", "is needed, or --ratio")),
        };
        let CompressOptions { grouping, alpha, tau, seed, .. } = *self;
        Ok(Settings { clusters, rank, grouping, alpha, tau, seed })
    }

    /// A model in a layout of Hugging Face.
    fn hub(&self, device: &Device) -> Result<u8> {
        for (option, given) in [("--calibration", &self.calibration), ("--eval-data", &self.eval_data)] {
            if let Some(path) = given {
                let why = "is for runs of trimoe: models in other layouts cannot be run here";
                return Err(Error::config(option, path.display(), why));
            }
        }
        if self.base != BaseOf::Mean || self.against_random {
            let (option, value) = if self.against_random {
                ("--against-random", "true".to_owned())
            } else {
                ("--base", format!("{:?}", self.base).to_lowercase())
            };
            return Err(Error::config(
                option,
                value,
                "needs a run of trimoe: models in other layouts cannot be run here",
            ));
        }
        let model = HubModel::open(&self.from)?;
        let settings = self.settings(model.config().shape())?;
        let shape = model.target(&settings)?;
        let mut layers = Vec::new();
        let written = model.compress(&self.to, &settings, device, |report: &HubReport| {
            note(format_args!("layer {}: mean error {:.4}", report.layer, mean(&report.errors)));
            layers.push(report.clone());
            Ok(())
        })?;
        let rows = layers.iter().map(|r| {
            vec![
                r.layer.to_string(),
                format!("{:.4}", mean(&r.errors)),
                format!("{:.4}", most(&r.errors)),
                format!("{:.4}", r.similarity[0]),
                format!("{:.4}", r.similarity[1]),
            ]
        });
        say(format_args!("{}", table(&["layer", "mean error", "worst", "similar inside", "of all"], rows)))?;
        print_ratio(shape, layers.len())?;
        let [before, after] = written.bytes;
        say(format_args!("all tensors: {} instead of {}", bytes(after), bytes(before)))?;
        say(format_args!("written to {}; experts were compared by their weights alone", self.to.display()))?;
        let json = serde_json::json!({
            "clusters": shape.clusters,
            "rank": shape.rank,
            "expert_params": expert_parameters(shape).map(|n| n * layers.len() as u64),
            "layers": layers,
        });
        write_json(self.json.as_deref(), &json)?;
        Ok(0)
    }
}

/// Parameters of all experts, before and after.
fn print_ratio(shape: Shape, layers: usize) -> Result<()> {
    let [full, ours] = expert_parameters(shape).map(|n| n * layers as u64);
    say(format_args!(
        "{} clusters, rank {}: {} expert parameters instead of {}, {:.2} %",
        shape.clusters,
        shape.rank,
        count(ours),
        count(full),
        100.0 * ours as f64 / full as f64
    ))
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

fn most(values: &[f64]) -> f64 {
    values.iter().copied().fold(0.0, f64::max)
}
