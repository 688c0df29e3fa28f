//! `tidemark sitemap check`: a sitemap held against the rules of the protocol.

use clap::Args;
use std::path::PathBuf;
use std::process::ExitCode;

/// Arguments of `sitemap check`.
#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// The index, or the directory that it lies in
    #[arg(value_name = "INDEX")]
    index: PathBuf,
}

/// Checks what the arguments say.
#[expect(clippy::print_stdout, reason = "the command's answer")]
pub(super) fn run(args: &CheckArgs) -> ExitCode {
    let index = &args.index;
    let index = if index.is_dir() { index.join(tidemark_sitemap::keys::INDEX) } else { index.clone() };
    let checked = tidemark_sitemap::check::directory(&index);
    for fault in &checked.faults {
        println!("{fault}");
    }
    println!("{} files, {} URLs, {} faults", checked.files, checked.urls, checked.faults_total);
    if checked.faults_total == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
