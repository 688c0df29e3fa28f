//! `tidemark sitemap init`: the settings of a site, with a word on each.

use anyhow::Context;
use clap::Args;
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use tidemark_sitemap::loc::BaseUrl;

/// Arguments of `sitemap init`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tidemark sitemap init --base-url https://www.example.com --out shop.toml")]
pub(crate) struct InitArgs {
    /// The site, as in `https://www.example.com`
    #[arg(long, value_name = "URL", default_value = "https://www.example.com")]
    base_url: String,
    /// File to write; one that is there already is left alone. Without it the settings are printed
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Prints or writes the settings.
#[expect(clippy::print_stdout, reason = "the command's answer")]
pub(super) fn run(args: &InitArgs) -> anyhow::Result<ExitCode> {
    BaseUrl::parse(&args.base_url).context("--base-url")?;
    let text = tidemark_sitemap::site::template(&args.base_url);
    let Some(path) = &args.out else {
        print!("{text}");
        return Ok(ExitCode::SUCCESS);
    };
    let written = File::create_new(path).and_then(|mut file| file.write_all(text.as_bytes()));
    written.with_context(|| format!("cannot write {}: it must not be there yet", path.display()))?;
    println!("{}: edit it, and store it as sites/NAME.toml in the state bucket", path.display());
    Ok(ExitCode::SUCCESS)
}
