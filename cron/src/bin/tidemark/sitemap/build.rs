//! `tidemark sitemap build`: a sitemap from files, with no cloud at all.

use super::progress::Bar;
use anyhow::{Context, bail};
use clap::Args;
use jiff::tz::TimeZone;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tempfile::TempDir;
use tidemark_runtime::clock::Clock;
use tidemark_sitemap::build::{DROP_PERCENT_MAX, Options, Packing};
use tidemark_sitemap::loc::BaseUrl;
use tidemark_sitemap::pages;
use tidemark_sitemap::place::directory::{self, Directory, Outcome};
use tidemark_sitemap::plan::Outlook;
use tidemark_sitemap::run_report::{self, Entry};
use tidemark_sitemap::site::{self, Sitemap};
use tidemark_sitemap::{Limits, keys};

/// Between two drawings of the bar.
const REDRAW: Duration = Duration::from_millis(100);
/// What `--strict` exits with where a row was rejected.
const EXIT_REJECTED: u8 = 2;

/// Arguments of `sitemap build`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tidemark sitemap build --input pages.csv --base-url https://www.example.com --out public/sitemaps
  tidemark sitemap build --input a.parquet b.parquet --base-url https://www.example.com --out public --dry-run
  psql shop -c 'COPY pages TO STDOUT CSV HEADER' | tidemark sitemap build --input - --site shop.toml --out public")]
pub(crate) struct BuildArgs {
    /// Page lists: .csv, .tsv, .ndjson or .jsonl (also .gz or .zst), or .parquet, with a column loc; - is standard input
    #[arg(long, required = true, num_args = 1.., value_name = "FILE")]
    input: Vec<PathBuf>,
    /// What comes on standard input, by the ending that a file of it would have: csv, tsv.gz, ndjson
    #[arg(long, value_name = "FORMAT", default_value = "csv")]
    stdin: String,
    /// The site, as in `https://www.example.com`; relative pages lie under it, others must be on its host
    #[arg(long, value_name = "URL", required_unless_present = "site")]
    base_url: Option<String>,
    /// Settings of the site (TOML, see `sitemap init`) in place of what follows here: the only way to several sitemaps,
    /// each then in a directory of its name
    #[arg(long, value_name = "FILE", conflicts_with_all = ["base_url", "files_url", "lastmod_zone", "rows", "target", "level", "max_drop"])]
    site: Option<PathBuf>,
    /// Directory of the sitemap
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Where crawlers will find the directory, if not at the base URL
    #[arg(long, value_name = "URL")]
    files_url: Option<String>,
    /// Exit with 2 where a row was rejected
    #[arg(long)]
    strict: bool,
    /// Time zone of lastmod times that name none, as in Asia/Seoul
    #[arg(long, value_name = "ZONE")]
    lastmod_zone: Option<String>,
    /// Settings of rows (TOML: hosts, engines, sort_key, and tables canonical, select, news, columns), as in the table rows
    /// of a site
    #[arg(long, value_name = "FILE")]
    rows: Option<PathBuf>,
    /// URLs to which new shards are filled
    #[arg(long, value_name = "URLS", default_value_t = Limits::default().urls_target, value_parser = clap::value_parser!(u32).range(1..=50_000))]
    target: u32,
    /// Compression level
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(i32).range(1..=12))]
    level: i32,
    /// Write .xml instead of .xml.gz, for a server that compresses by itself
    #[arg(long)]
    plain: bool,
    /// How many percent fewer URLs than before to believe; 100 allows any drop
    #[arg(long, value_name = "PERCENT", default_value_t = DROP_PERCENT_MAX, value_parser = clap::value_parser!(u32).range(..=100))]
    max_drop: u32,
    /// Allow any drop in this run; TEXT, who allows it and why, is kept in the manifest and the report
    #[arg(long, value_name = "TEXT")]
    accept_drop: Option<String>,
    /// Where the settings sort pages by something else than before: put every page into a new file, once
    #[arg(long)]
    reshard: bool,
    /// Only say what would change: pages, files, bytes; nothing is written to the directory
    #[arg(long)]
    dry_run: bool,
    /// Print the outcome as JSON on standard output
    #[arg(long)]
    json: bool,
}

/// Builds what the arguments say: every sitemap of the site, one that fails not stopping the others.
pub(super) async fn run(mut args: BuildArgs) -> anyhow::Result<ExitCode> {
    let sitemaps = sitemaps(&args)?;
    let _stdin = stdin_to_disk(&mut args)?;
    let now_ms = Clock::system().now_ms();
    let (mut outcomes, mut failed, mut rejected_rows, mut plans) = (Vec::new(), Vec::new(), false, Vec::new());
    for sitemap in &sitemaps {
        let options = Options {
            packing: if args.plain { Packing::Plain } else { Packing::Gzip },
            accept_drop: args.accept_drop.clone(),
            reshard: args.reshard,
            ..sitemap.options(&format!("local-{now_ms}"), now_ms)
        };
        let out = args.out.join(keys::sitemap_dir(&sitemap.name));
        if args.dry_run {
            let (rejected, json) = plan(&args, &out, &options, sitemaps.len() > 1)?;
            rejected_rows |= rejected > 0;
            plans.push(json);
            continue;
        }
        match built(&args, &out, &options, &sitemap.files_url).await {
            Ok(outcome) => {
                record(&out, &options, &outcome);
                if !args.json {
                    print_text(&out, &outcome);
                }
                outcomes.push((sitemap, out, outcome));
            }
            Err(error) if sitemaps.len() == 1 => return Err(error),
            Err(error) => {
                eprintln!("tidemark: {} stays as it was: {error:#}", out.display());
                failed.push(sitemap.name.as_str());
            }
        }
    }
    if args.json {
        let all = if args.dry_run { plans } else { outcomes.iter().map(outcome_json).collect() };
        print_json(&args, all, &failed)?;
    }
    let rejected = rejected_rows || outcomes.iter().any(|(_, _, outcome)| outcome.report.rejected_total() > 0);
    Ok(match (failed.is_empty(), args.strict && rejected) {
        (false, _) => ExitCode::FAILURE,
        (true, true) => ExitCode::from(EXIT_REJECTED),
        (true, false) => ExitCode::SUCCESS,
    })
}

/// Has standard input, where it is a page list, copied to a file in its place: a list is read twice where it is not sorted,
/// and by each sitemap of several. The file goes with what is returned.
fn stdin_to_disk(args: &mut BuildArgs) -> anyhow::Result<Option<TempDir>> {
    let mut named = args.input.iter_mut().filter(|input| input.as_os_str() == "-");
    let Some(input) = named.next() else { return Ok(None) };
    if named.next().is_some() {
        bail!("--input - is given twice: standard input can be read once");
    }
    let dir = tempfile::tempdir().context("cannot make a temporary directory")?;
    *input = dir.path().join(format!("stdin.{}", args.stdin));
    let copied = File::create_new(&input).and_then(|mut file| io::copy(&mut io::stdin().lock(), &mut file));
    copied
        .with_context(|| format!("cannot copy standard input to {}: TMPDIR may name another place", input.display()))?;
    Ok(Some(dir))
}

/// The sitemaps of the site's settings, or the one that the arguments describe.
fn sitemaps(args: &BuildArgs) -> anyhow::Result<Vec<Sitemap>> {
    let read = |path: &Path| std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()));
    if let Some(path) = &args.site {
        return Ok(site::parse_local(&path.display().to_string(), &read(path)?)?);
    }
    let base = BaseUrl::parse(args.base_url.as_deref().unwrap_or_default()).context("--base-url")?;
    let files_url = match &args.files_url {
        Some(url) => BaseUrl::parse(url).context("--files-url")?,
        None => base.clone(),
    };
    let lastmod_zone = match &args.lastmod_zone {
        Some(name) => match TimeZone::get(name) {
            Ok(zone) => Some(zone),
            Err(_) => bail!("--lastmod-zone {name:?} is no time zone: give one such as UTC or Asia/Seoul"),
        },
        None => None,
    };
    let rows = match &args.rows {
        Some(path) => pages::Settings::parse(&read(path)?)
            .with_context(|| format!("{} is no settings of rows", path.display()))?,
        None => pages::Settings::default(),
    };
    Ok(vec![Sitemap {
        name: String::new(),
        base,
        files_url: files_url.as_str().to_owned(),
        lastmod_zone,
        limits: rows.narrow(Limits { urls_target: args.target, ..Limits::default() }),
        rows,
        others: Vec::new(),
        level: args.level,
        drop_percent_max: args.max_drop,
        packing: Packing::default(),
        kinds_drop_percent_max: BTreeMap::new(),
    }])
}

/// Says what a build would do, of one of several where it is; gives how many rows it would reject, and all of it as JSON.
#[expect(clippy::print_stdout, reason = "the command's answer")]
fn plan(args: &BuildArgs, out: &Path, options: &Options, is_one_of_several: bool) -> anyhow::Result<(u64, Value)> {
    let work = tempfile::tempdir().context("cannot make a temporary directory")?;
    let (outlook, report) = directory::plan(out, &args.input, options, work.path())?;
    if !args.json {
        eprint!("{report}");
        if is_one_of_several {
            println!("{}", out.display());
        }
        let Outlook { added, edited, removed, urls_before, urls, .. } = outlook;
        println!("pages: {added} to add, {edited} to edit, {removed} to remove; {urls_before} now, {urls} then");
        let Outlook { files_new, files_rewritten, files_retired, files_unchanged, put_bytes, .. } = outlook;
        println!(
            "files: {files_new} new, {files_rewritten} to rewrite, {files_retired} to remove, {files_unchanged} as they \
             are; {put_bytes} bytes to write"
        );
    }
    Ok((outlook.rejected, json!({"out": out, "outlook": outlook, "report": report})))
}

/// Builds, with a bar that counts the rows against the URLs of the last run, which are a good guess.
async fn built(args: &BuildArgs, out: &Path, options: &Options, files_url: &str) -> anyhow::Result<Outcome> {
    let directory = Directory::open(out)?;
    let guess = directory.manifest(options.policy.base.as_str()).map(|manifest| manifest.urls()).unwrap_or_default();
    let bar = Bar::new("rows", !args.json);
    let rows = Arc::clone(&options.rows_read);
    let drawn = bar.clone();
    let drawing = tokio::spawn(async move {
        loop {
            let read = rows.load(Ordering::Relaxed);
            drawn.set(read, guess.max(read), "");
            tokio::time::sleep(REDRAW).await;
        }
    });
    let outcome = directory.build(&args.input, options, files_url).await;
    drawing.abort();
    bar.finish();
    Ok(outcome?)
}

/// Adds the run to the history beside the sitemap. A history that cannot be written is no reason to fail a build.
fn record(out: &Path, options: &Options, outcome: &Outcome) {
    let times = (options.policy.now_ms, Clock::system().now_ms());
    let entry = Entry::new(&options.run, times, &outcome.manifest, &outcome.published, &outcome.report);
    let state = out.join(keys::STATE_DIR);
    if let Err(error) = run_report::record(&state, options.policy.base.as_str(), entry, &outcome.report) {
        eprintln!("tidemark: the report of the run could not be written to {}: {error}", state.display());
    }
}

fn outcome_json((sitemap, out, outcome): &(&Sitemap, PathBuf, Outcome)) -> Value {
    json!({
        "sitemap": sitemap.name,
        "out": out,
        "urls": outcome.manifest.urls(),
        "shards": outcome.manifest.shards.len(),
        "report": outcome.report,
        "published": outcome.published,
        "rejects": outcome.rejects,
        "accepted": outcome.manifest.accepted,
    })
}

/// One object for the one sitemap of the arguments; of a site's settings, a list, and what failed.
#[expect(clippy::print_stdout, reason = "the command's answer")]
fn print_json(args: &BuildArgs, mut all: Vec<Value>, failed: &[&str]) -> anyhow::Result<()> {
    let json = if all.len() == 1 && args.site.is_none() {
        all.remove(0)
    } else {
        json!({ "sitemaps": all, "failed": failed })
    };
    println!("{}", serde_json::to_string_pretty(&json)?);
    Ok(())
}

/// The account, for people, on standard error.
fn print_text(out: &Path, outcome: &Outcome) {
    eprint!("{}", outcome.report);
    if !outcome.report.rejected.is_empty() || !outcome.report.dropped.is_empty() {
        eprintln!("  all of them: {}", outcome.rejects.display());
    }
    let published = &outcome.published;
    eprintln!(
        "{}: {} URLs in {} shards ({} new, {} rewritten, {} removed, {} unchanged), {} of {} indexes written",
        out.join(keys::INDEX).display(),
        outcome.manifest.urls(),
        outcome.manifest.shards.len(),
        published.files_new.len(),
        published.files_rewritten.len(),
        published.files_removed.len(),
        published.shards_unchanged,
        published.indexes_written.len(),
        published.indexes.len(),
    );
    for index in &published.indexes_new {
        eprintln!("{index} is new: robots.txt has to name it, see tidemark sitemap robots --out");
    }
    eprintln!("report: {}", out.join(keys::STATE_DIR).join(keys::RUN_REPORT_PAGE).display());
}
