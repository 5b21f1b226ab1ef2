//! The `trimoe` command: options in, sentences and tables out.
//!
//! Results go to stdout; progress, logs (`RUST_LOG`) and errors to stderr. Exit codes: 0 done, 1 failed,
//! 2 unusable options, 130 stopped by Ctrl-C with the run saved.

mod allocator;
mod compare;
mod compress;
mod corpus;
mod device;
mod eval;
mod generate;
mod inspect;
mod interrupt;
mod metrics;
mod options;
mod pack;
mod profile;
mod progress;
mod report;
mod similarity;
mod summary;
mod terminal;
mod train;
mod variants;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::error::Result;
use options::Options;

/// Trains and measures clustered Mixture-of-Experts language models.
///
/// Without a command: compares dense, flat and clustered on a built-in made-up language, in less than two
/// minutes.
#[derive(Debug, Parser)]
#[command(name = "trimoe", version, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Train one model; evaluate it and print sample text at the end.
    Train(train::TrainOptions),
    /// Perplexity and load balance of a checkpoint.
    Eval(Options),
    /// Train variants on the same tokens, each in its own process, and compare: dense, flat and clustered, or --variants.
    Compare(compare::CompareOptions),
    /// Turn the full experts of a trained flat model into clusters with shared bases and low-rank residuals.
    Compress(compress::CompressOptions),
    /// Store the residuals of a clustered model in INT4, to evaluate and generate from them.
    Pack(pack::PackOptions),
    /// Continue a text.
    Generate(generate::GenerateOptions),
    /// Parameters, arithmetic, memory and traffic of a configuration or checkpoint, without allocating it.
    Inspect(Options),
}

/// Runs the command line `args`, the program's name first, and returns the process exit code.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(usage) => {
            // Help and version are printed this way too. If that fails there is nowhere left to say so.
            let _ = usage.print();
            return ExitCode::from(usage.exit_code() as u8);
        }
    };
    start_logs();
    match dispatch(cli.command) {
        Ok(code) => code.into(),
        Err(error) => {
            terminal::note(format_args!("trimoe: {error}"));
            error.exit_code().into()
        }
    }
}

fn dispatch(command: Option<Command>) -> Result<u8> {
    match command {
        None => compare::quick(),
        Some(Command::Train(options)) => train::run(options),
        Some(Command::Eval(options)) => eval::run(options.with_file()?),
        Some(Command::Compare(options)) => compare::run(options),
        Some(Command::Compress(options)) => compress::run(options),
        Some(Command::Pack(options)) => pack::run(options),
        Some(Command::Generate(options)) => generate::run(options),
        Some(Command::Inspect(options)) => inspect::run(options.with_file()?),
    }
}

fn start_logs() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env();
    let filter = filter.unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn"));
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // Fails only where a subscriber is installed already, and then that one serves.
    let _ = logs.without_time().with_target(false).try_init();
}
