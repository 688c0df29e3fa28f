//! `tidemark sitemap init`: the settings of a site, with a word on each.

use anyhow::Context;
use clap::Args;
use std::process::ExitCode;
use tidemark_sitemap::loc::BaseUrl;

/// Arguments of `sitemap init`.
#[derive(Debug, Args)]
pub(crate) struct InitArgs {
    /// The site, as in `https://www.example.com`
    #[arg(long, value_name = "URL", default_value = "https://www.example.com")]
    base_url: String,
}

/// Prints the settings.
#[expect(clippy::print_stdout, reason = "the command's answer")]
pub(super) fn run(args: &InitArgs) -> anyhow::Result<ExitCode> {
    BaseUrl::parse(&args.base_url).context("--base-url")?;
    print!("{}", tidemark_sitemap::site::template(&args.base_url));
    Ok(ExitCode::SUCCESS)
}
