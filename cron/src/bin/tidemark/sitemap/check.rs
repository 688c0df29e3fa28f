//! `tidemark sitemap check`: a sitemap, on the web or local, held against the rules of the protocol.

use super::progress::Bar;
use clap::Args;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use tidemark_runtime::clock::Clock;
use tidemark_sitemap::check::{self, Checked, Options};
use tidemark_sitemap::keys;
use tidemark_sitemap::place::directory;
use tidemark_sitemap::web::{USER_AGENT, Web};

/// Pages of a sitemap on the web that are fetched where nothing else is said.
const SAMPLE: usize = 10;

/// Arguments of `sitemap check`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tidemark sitemap check https://www.example.com/sitemap-index.xml
  tidemark sitemap check public/sitemaps
  tidemark sitemap check https://www.example.com/sitemap.xml --sample 100 --agent googlebot --json")]
pub(crate) struct CheckArgs {
    /// Address of the index or of a single shard; or a local one, or the directory that the index lies in. Of a sitemap with
    /// several indexes all are checked: those in the directory, or those that robots.txt names beside the address
    #[arg(value_name = "URL|FILE|DIR")]
    target: String,
    /// Pages to fetch, drawn from all: status, noindex, canonical address, robots.txt [default: 10 of a sitemap on the web, none of a local one]
    #[arg(long, value_name = "PAGES")]
    sample: Option<usize>,
    /// What the pages are drawn with; the same seed draws the same pages
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// The crawler whose rules in robots.txt count for pages, as in googlebot; * is everybody
    #[arg(long, value_name = "TOKEN", default_value = "*")]
    agent: String,
    /// Requests a second, at most
    #[arg(long, value_name = "REQUESTS", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rate: u32,
    /// How long an answer is waited for
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=600))]
    timeout: u64,
    /// What requests are signed with
    #[arg(long, value_name = "TEXT", default_value = USER_AGENT)]
    user_agent: String,
    /// Print what was found as JSON
    #[arg(long)]
    json: bool,
}

/// Checks what the arguments say; exits with 1 where a rule is broken.
#[expect(clippy::print_stdout, reason = "the command's answer")]
pub(super) async fn run(args: &CheckArgs) -> anyhow::Result<ExitCode> {
    let clock = Clock::system();
    let on_the_web = is_address(&args.target);
    let sample = args.sample.unwrap_or(if on_the_web { SAMPLE } else { 0 });
    let options = Options { sample, seed: args.seed, agent: args.agent.clone(), ..Options::new(clock.now_ms()) };
    let bar = Bar::new("files", !args.json);
    let watch = |progress: check::Progress| {
        bar.set(progress.files as u64, progress.files_total as u64, &format!("{} URLs", progress.urls));
    };
    let checked = if on_the_web {
        check::live(&web(args, clock)?, &args.target, options, &watch).await
    } else {
        let web = if sample > 0 { Some(web(args, clock)?) } else { None };
        check::local(web.as_ref(), &local_indexes(&args.target), options, &watch).await
    };
    bar.finish();
    if args.json {
        println!("{}", serde_json::to_string_pretty(&checked)?);
    } else {
        print(&checked);
    }
    Ok(if checked.faults_total == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

pub(super) fn is_address(target: &str) -> bool {
    target.starts_with("http://") || target.starts_with("https://")
}

/// What other tools call an index, or the only shard of a small site, in the order in which they are looked for.
const OTHER_INDEXES: [&str; 6] = [
    "sitemap_index.xml",
    "sitemapindex.xml",
    "sitemap.xml",
    "sitemap_index.xml.gz",
    "sitemap-index.xml.gz",
    "sitemap.xml.gz",
];

/// The index at `target`, or all of them where that is a directory; of another tool's sitemap, the first of
/// [`OTHER_INDEXES`] that is there.
pub(super) fn local_indexes(target: &str) -> Vec<PathBuf> {
    let path = PathBuf::from(target);
    if !path.is_dir() {
        return vec![path];
    }
    // What is not there is said by whoever reads it.
    let mut files = directory::index_files(&path).unwrap_or_default();
    if files.is_empty()
        && let Some(other) = OTHER_INDEXES.map(|name| path.join(name)).into_iter().find(|file| file.is_file())
    {
        return vec![other];
    }
    files.entry(1).or_insert_with(|| path.join(keys::INDEX));
    files.into_values().collect()
}

fn web(args: &CheckArgs, clock: Clock) -> anyhow::Result<Web> {
    let mut web = Web::new(clock, &args.user_agent)?;
    web.timeout = Duration::from_secs(args.timeout);
    web.pause = Duration::from_secs(1) / args.rate;
    Ok(web)
}

#[expect(clippy::print_stdout, reason = "the command's answer")]
fn print(checked: &Checked) {
    for fault in &checked.faults {
        println!("{fault}");
    }
    let unlisted = checked.faults_total - checked.faults.len() as u64;
    if unlisted > 0 {
        println!("and {unlisted} more");
    }
    for note in &checked.notes {
        println!("note: {note}");
    }
    let Checked { files, urls, sampled, faults_total, .. } = checked;
    println!("{files} files, {urls} URLs, {sampled} pages fetched, {faults_total} faults");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_a_directory_our_indexes_come_first_and_then_what_others_call_theirs() {
        let dir = tempfile::tempdir().unwrap();
        let of = || local_indexes(dir.path().to_str().unwrap());
        assert_eq!(of(), [dir.path().join(keys::INDEX)], "what is not there is said by its name");
        for name in ["sitemap.xml.gz", "sitemap.xml", "sitemap_index.xml", keys::INDEX] {
            std::fs::write(dir.path().join(name), "").unwrap();
            assert_eq!(of(), [dir.path().join(name)]);
        }
    }
}
