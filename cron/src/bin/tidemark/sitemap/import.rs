//! `tidemark sitemap import`: begin with the files that search engines know already.

use super::check::{is_address, local_indexes};
use crate::cloud::Cloud;
use crate::jobs::{arguments, run_and_report};
use anyhow::{Context, bail};
use clap::Args;
use serde::Deserialize;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tidemark_cron::run::Standing;
use tidemark_runtime::clock::Clock;
use tidemark_sitemap::build::{Options, Packing};
use tidemark_sitemap::import::{self, Comparison, Import, TakenOver};
use tidemark_sitemap::keys;
use tidemark_sitemap::loc::BaseUrl;
use tidemark_sitemap::pages::Policy;
use tidemark_sitemap::place::directory::Directory;
use tidemark_sitemap::web::{USER_AGENT, Web};
use tidemark_sitemap::xml::SHARDS_MAX;

/// Arguments of `sitemap import`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tidemark sitemap import --from https://www.example.com/sitemap.xml --base-url https://www.example.com --input pages.csv
  tidemark sitemap import --from https://www.example.com/sitemap.xml --site shop
  tidemark sitemap import --from https://www.example.com/sitemap.xml --site shop --switch")]
pub(crate) struct ImportArgs {
    /// The sitemap to take over: address of its index or only shard, or a local one, or the directory of that; may be
    /// repeated for a sitemap with several indexes
    #[arg(long, required = true, value_name = "URL|FILE|DIR")]
    from: Vec<String>,
    /// The site, as in `https://www.example.com`, for a sitemap in a directory
    #[arg(long, value_name = "URL", required_unless_present = "site")]
    base_url: Option<String>,
    /// Directory of the sitemap to be; without it nothing is written
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Page list to compare with; may be repeated. With --site one address of page lists in S3, in place of the site's rows
    #[arg(long, value_name = "FILE|s3://BUCKET/LISTS")]
    input: Vec<PathBuf>,
    /// The files to be are .xml, not .xml.gz
    #[arg(long)]
    plain: bool,
    /// The site, as in sites/NAME.toml, whose bucket the files lie in: compare them with its rows, as a job
    #[arg(long, value_name = "NAME", conflicts_with_all = ["base_url", "out", "plain"])]
    site: Option<String>,
    /// The one of its sitemaps, where it has several
    #[arg(long, value_name = "NAME", requires = "site")]
    sitemap: Option<String>,
    /// A value for a parameter of its query; may be repeated
    #[arg(long = "arg", value_name = "NAME=VALUE", requires = "site")]
    args: Vec<String>,
    /// Take them over: write our index of them, and have the next run go on from there
    #[arg(long, requires = "site")]
    switch: bool,
    /// Print what was found as JSON
    #[arg(long)]
    json: bool,
}

/// Imports what the arguments say.
pub(super) async fn run(args: &ImportArgs) -> anyhow::Result<ExitCode> {
    match (&args.site, &args.base_url) {
        (Some(site), _) => into_bucket(args, site).await,
        (None, Some(base_url)) => into_directory(args, base_url).await,
        (None, None) => bail!("give --site or --base-url"),
    }
}

async fn into_directory(args: &ImportArgs, base_url: &str) -> anyhow::Result<ExitCode> {
    let clock = Clock::system();
    let base = BaseUrl::parse(base_url).context("--base-url")?;
    let packing = if args.plain { Packing::Plain } else { Packing::Gzip };
    let policy = Policy::new(base, clock.now_ms());
    let options = Options { packing, ..Options::new(policy, "import") };
    let work = tempfile::tempdir().context("cannot make a temporary directory")?;
    let on_the_web = args.from.iter().filter(|from| is_address(from)).count();
    let found = if on_the_web == args.from.len() {
        import::fetch(&Web::new(clock, USER_AGENT)?, &args.from, SHARDS_MAX, work.path()).await?
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

/// Imports as a job, which reaches the site's bucket and rows.
async fn into_bucket(args: &ImportArgs, site: &str) -> anyhow::Result<ExitCode> {
    if let Some(from) = args.from.iter().find(|from| !is_address(from)) {
        bail!("--from {from:?}: with --site give the address that crawlers know");
    }
    let mut job = arguments(&args.args)?;
    job["site"] = site.into();
    job["from"] = args.from.clone().into();
    job["switch"] = args.switch.into();
    if let Some(sitemap) = &args.sitemap {
        job["sitemap"] = sitemap.clone().into();
    }
    match args.input.as_slice() {
        [] => {}
        [input] => job["input"] = input.to_string_lossy().into(),
        _ => bail!("--input: with --site give one address, of a list or of a folder of lists"),
    }
    if args.json {
        return run_and_report("sitemap_import", job, true).await;
    }
    let record = Cloud::from_env().await?.run_job("sitemap_import", job).await?;
    if record.standing != Standing::Done {
        bail!("run {}: {}", record.run, record.error.unwrap_or_default());
    }
    print_taken_over(&TakenOver::deserialize(&record.summary).context("the job's answer")?);
    Ok(ExitCode::SUCCESS)
}

#[expect(clippy::print_stdout, reason = "the command's answer")]
fn print(args: &ImportArgs, import: &Import, comparison: Option<&Comparison>) -> anyhow::Result<()> {
    if args.json {
        println!("{}", serde_json::to_string_pretty(&serde_json::json!({"import": import, "comparison": comparison}))?);
        return Ok(());
    }
    print_found(import.urls, import.foreign, &import.kept, &import.not_kept);
    if let Some(comparison) = comparison {
        print_comparison(comparison);
    }
    match &args.out {
        Some(out) if import.kept.is_empty() => {
            println!(
                "no name is kept: the next build into {} writes new files, guarded against no drop",
                out.display()
            );
        }
        Some(out) => println!("the next build into {} keeps those names; it writes each file once", out.display()),
        None => println!("nothing was written: give --out to begin with it"),
    }
    Ok(())
}

#[expect(clippy::print_stdout, reason = "the command's answer")]
fn print_found(urls: u64, foreign: u64, kept: &[String], not_kept: &[(String, String)]) {
    println!("{} pages in {} files, {foreign} of them not of the site", urls + foreign, kept.len() + not_kept.len());
    println!("{} files keep their names and pages", kept.len());
    for (file, reason) in not_kept {
        println!("not kept: {file}: {reason}");
    }
}

#[expect(clippy::print_stdout, reason = "the command's answer")]
fn print_comparison(comparison: &Comparison) {
    let Comparison { same, only_there, only_here, lastmod_differs, samples } = comparison;
    println!(
        "{same} pages equal, {only_there} only there, {only_here} only here, {lastmod_differs} with another lastmod"
    );
    for sample in samples {
        println!("  {sample}");
    }
}

#[expect(clippy::print_stdout, reason = "the command's answer")]
fn print_taken_over(taken: &TakenOver) {
    print_found(taken.urls, taken.foreign, &taken.kept, &taken.not_kept);
    print_comparison(&taken.comparison);
    let TakenOver { site, index, old_indexes, unnamed, .. } = taken;
    if !taken.switched {
        println!("nothing was written: give --switch to go on with it");
        return;
    }
    println!("{index} names the files now. Switch off what made them before: it would write into them");
    println!("the next run of {site} keeps the names; it writes each file once, and retires those that are not kept");
    if old_indexes.contains(index) {
        println!("it lies where an old index lay, which robots.txt names already");
    } else {
        println!("robots.txt: add     Sitemap: {index}");
    }
    let when = if unnamed.is_empty() { "now" } else { "after the next run" };
    for old in old_indexes.iter().filter(|old| *old != index) {
        println!("robots.txt: remove  Sitemap: {old}   ({when}; then that index can go, too)");
    }
    for file in unnamed {
        println!("until that run only the old index names {file}");
    }
}
