//! The `trimoe` command; see [`trimoe::cli`].

fn main() -> std::process::ExitCode {
    trimoe::cli::run(std::env::args_os())
}
