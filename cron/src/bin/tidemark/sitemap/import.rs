//! `tidemark sitemap import`: begin with the files that search engines know already.

use super::check::{is_address, local_indexes};
use anyhow::{Context, bail};
use clap::Args;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tidemark_runtime::clock::Clock;
use tidemark_sitemap::build::{Options, Packing};
use tidemark_sitemap::import::{self, Comparison, Import};
use tidemark_sitemap::keys;
use tidemark_sitemap::loc::BaseUrl;
use tidemark_sitemap::pages::Policy;
use tidemark_sitemap::place::directory::Directory;
use tidemark_sitemap::web::{USER_AGENT, Web};

/// Arguments of `sitemap import`.
#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    /// The sitemap to take over: address of its index or only shard, or a local one, or the directory of that; may be
    /// repeated for a sitemap with several indexes
    #[arg(long, required = true, value_name = "URL|FILE|DIR")]
    from: Vec<String>,
    /// The site, as in `https://www.example.com`
    #[arg(long, value_name = "URL")]
    base_url: String,
    /// Directory of the sitemap to be; without it nothing is written
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Page list to compare with; may be repeated
    #[arg(long, value_name = "FILE")]
    input: Vec<PathBuf>,
    /// The files to be are .xml, not .xml.gz
    #[arg(long)]
    plain: bool,
    /// Print what was found as JSON
    #[arg(long)]
    json: bool,
}

/// Imports what the arguments say.
pub(super) async fn run(args: &ImportArgs) -> anyhow::Result<ExitCode> {
    let clock = Clock::system();
    let base = BaseUrl::parse(&args.base_url).context("--base-url")?;
    let packing = if args.plain { Packing::Plain } else { Packing::Gzip };
    let policy = Policy::new(base, clock.now_ms());
    let options = Options { packing, ..Options::new(policy, "import") };
    let work = tempfile::tempdir().context("cannot make a temporary directory")?;
    let on_the_web = args.from.iter().filter(|from| is_address(from)).count();
    let found = if on_the_web == args.from.len() {
        import::fetch(&Web::new(clock, USER_AGENT)?, &args.from, work.path()).await?
    } else if on_the_web == 0 {
        let indexes: Vec<PathBuf> = args.from.iter().flat_map(|from| local_indexes(from)).collect();
        import::local(&indexes)?
    } else {
        bail!("--from names addresses and local files: give all indexes of one sitemap, from one place");
    };
    let import = import::read(found, &options, work.path())?;
    let comparison = match args.input.as_slice() {
        [] => None,
        inputs => Some(import::compare(&import, inputs, &options, work.path())?),
    };
    if let Some(out) = &args.out {
        begin(out, &import)?;
    }
    print(args, &import, comparison.as_ref())?;
    Ok(ExitCode::SUCCESS)
}

/// Writes the manifest that the first build starts from.
fn begin(out: &Path, import: &Import) -> anyhow::Result<()> {
    let _held = Directory::open(out)?;
    let path = out.join(keys::STATE_DIR).join(keys::MANIFEST);
    if path.exists() {
        bail!("{} holds a sitemap already: import into another directory", out.display());
    }
    let new = path.with_extension("new");
    let written = fs::write(&new, import.manifest.to_json()?).and_then(|()| fs::rename(&new, &path));
    written.with_context(|| format!("cannot write {}", path.display()))
}

#[expect(clippy::print_stdout, reason = "the command's answer")]
fn print(args: &ImportArgs, import: &Import, comparison: Option<&Comparison>) -> anyhow::Result<()> {
    if args.json {
        println!("{}", serde_json::to_string_pretty(&serde_json::json!({"import": import, "comparison": comparison}))?);
        return Ok(());
    }
    println!(
        "{} pages in {} files, {} of them not of the site",
        import.urls + import.foreign,
        import.kept.len() + import.not_kept.len(),
        import.foreign
    );
    println!("{} files keep their names and pages", import.kept.len());
    for (file, reason) in &import.not_kept {
        println!("not kept: {file}: {reason}");
    }
    if let Some(comparison) = comparison {
        let Comparison { same, only_there, only_here, lastmod_differs, samples } = comparison;
        println!(
            "{same} pages equal, {only_there} only there, {only_here} only here, {lastmod_differs} with another lastmod"
        );
        for sample in samples {
            println!("  {sample}");
        }
    }
    match &args.out {
        Some(out) => println!("the next build into {} keeps those names; it writes each file once", out.display()),
        None => println!("nothing was written: give --out to begin with it"),
    }
    Ok(())
}
