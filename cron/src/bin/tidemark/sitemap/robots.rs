//! `tidemark sitemap robots`: the lines of robots.txt that name a sitemap.

use anyhow::{Context, bail};
use clap::Args;
use std::path::PathBuf;
use std::process::ExitCode;
use tidemark_runtime::clients;
use tidemark_runtime::clock::Clock;
use tidemark_sitemap::keys;
use tidemark_sitemap::robots::{self, BYTES_MAX, Robots};
use tidemark_sitemap::site;
use tidemark_sitemap::web::{USER_AGENT, Web};

/// Arguments of `sitemap robots`.
#[derive(Debug, Args)]
pub(crate) struct RobotsArgs {
    /// Address of an index; may be repeated
    #[arg(required_unless_present = "site", value_name = "URL")]
    index: Vec<String>,
    /// Settings of a site (TOML, see `sitemap init`): the index of each of its sitemaps, since none may name another
    #[arg(long, value_name = "FILE", conflicts_with = "index")]
    site: Option<PathBuf>,
    /// Fetch this robots.txt and exit with 1 where it does not name every index
    #[arg(long, value_name = "URL", conflicts_with = "write")]
    check: Option<String>,
    /// Put the lines into this object, between two markers; everything else in it stays as it is
    #[arg(long, value_name = "s3://BUCKET/KEY")]
    write: Option<String>,
}

/// Prints, checks or writes.
#[expect(clippy::print_stdout, reason = "the command's answer")]
pub(super) async fn run(args: &RobotsArgs) -> anyhow::Result<ExitCode> {
    let indexes = match &args.site {
        None => args.index.clone(),
        Some(path) => {
            let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
            let sitemaps = site::parse_local(&path.display().to_string(), &text)?;
            sitemaps.iter().map(|sitemap| format!("{}/{}", sitemap.files_url, keys::INDEX)).collect()
        }
    };
    for index in &indexes {
        let plain = index.starts_with("http://") || index.starts_with("https://");
        if !plain || index.contains(char::is_whitespace) {
            bail!("{index:?} is no address of an index: give it as crawlers find it");
        }
    }
    if let Some(url) = &args.check {
        return check(url, &indexes).await;
    }
    let Some(object) = &args.write else {
        print!("{}", robots::lines(&indexes));
        return Ok(ExitCode::SUCCESS);
    };
    let parts = object.strip_prefix("s3://").and_then(|rest| rest.split_once('/'));
    let (bucket, key) = parts
        .filter(|(bucket, key)| !bucket.is_empty() && !key.is_empty())
        .with_context(|| format!("--write {object:?} is no object: give one such as s3://www-bucket/robots.txt"))?;
    let s3 = clients::s3(&clients::config(None).await);
    let written = robots::write(&s3, bucket, key, &indexes).await?;
    println!("{object}: {}", if written { "written" } else { "names them already" });
    Ok(ExitCode::SUCCESS)
}

#[expect(clippy::print_stdout, reason = "the command's answer")]
async fn check(url: &str, indexes: &[String]) -> anyhow::Result<ExitCode> {
    let answer = Web::new(Clock::system(), USER_AGENT)?.get(url).await?;
    if answer.status != 200 {
        println!("{url}: answers {}", answer.status);
        return Ok(ExitCode::FAILURE);
    }
    let text = answer.first_bytes(BYTES_MAX + 1).await?;
    let robots = Robots::parse(&text);
    let missing: Vec<&String> = indexes.iter().filter(|index| !robots.names(index)).collect();
    for index in &missing {
        println!("{url}: does not name {index}");
    }
    if text.len() > BYTES_MAX {
        println!("{url}: is longer than {BYTES_MAX} bytes, and crawlers read no further");
    }
    let good = missing.is_empty() && text.len() <= BYTES_MAX;
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
