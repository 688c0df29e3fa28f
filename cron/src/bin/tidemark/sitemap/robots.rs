//! `tidemark sitemap robots`: the lines of robots.txt that name a sitemap.

use anyhow::{Context, bail};
use clap::Args;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tidemark_runtime::clients;
use tidemark_runtime::clock::Clock;
use tidemark_sitemap::keys;
use tidemark_sitemap::manifest::Manifest;
use tidemark_sitemap::place::directory::Directory;
use tidemark_sitemap::refresh;
use tidemark_sitemap::robots::{self, BYTES_MAX, Object, Robots, Scope};
use tidemark_sitemap::site;
use tidemark_sitemap::web::{USER_AGENT, Web};

/// Arguments of `sitemap robots`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tidemark sitemap robots https://www.example.com/sitemap-index.xml
  tidemark sitemap robots --site shop.toml --out public --check https://www.example.com/robots.txt
  tidemark sitemap robots --site shop.toml --state-bucket my-state-bucket --write s3://www-bucket/robots.txt")]
pub(crate) struct RobotsArgs {
    /// Address of an index; may be repeated
    #[arg(required_unless_present = "site", value_name = "URL")]
    index: Vec<String>,
    /// Settings of a site (TOML, see `sitemap init`): the index of each of its sitemaps, since none may name another. A
    /// sitemap of many shards has several: say by --out or --state-bucket where that is known. Baidu reads no index:
    /// where the settings name it, every file is named too
    #[arg(long, value_name = "FILE", conflicts_with = "index")]
    site: Option<PathBuf>,
    /// Directory of the sitemap that `sitemap build --site` made: all of its indexes
    #[arg(long, value_name = "DIR", requires = "site", conflicts_with = "state_bucket")]
    out: Option<PathBuf>,
    /// State bucket of the sitemap in the cloud whose settings are FILE, sites/NAME.toml there: all of its indexes
    #[arg(long, value_name = "BUCKET", requires = "site")]
    state_bucket: Option<String>,
    /// Fetch this robots.txt and exit with 1 where it does not name every index
    #[arg(long, value_name = "URL", conflicts_with = "write")]
    check: Option<String>,
    /// Put the lines into this object, between two markers; everything else in it stays as it is
    #[arg(long, value_name = "s3://BUCKET/KEY")]
    write: Option<Object>,
}

/// Prints, checks or writes.
#[expect(clippy::print_stdout, reason = "the command's answer")]
pub(super) async fn run(args: &RobotsArgs) -> anyhow::Result<ExitCode> {
    let indexes = match &args.site {
        None => args.index.clone(),
        Some(path) => of_site(path, args).await?,
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
    let s3 = clients::s3(&clients::config(None).await);
    let written = robots::write(&s3, object, Scope::All, &indexes).await?;
    println!("{object}: {}", if written { "written" } else { "names them already" });
    Ok(ExitCode::SUCCESS)
}

/// The addresses of the indexes of every sitemap of the site whose settings are at `path`; of all files besides, where a
/// search engine of the settings reads no index.
async fn of_site(path: &Path, args: &RobotsArgs) -> anyhow::Result<Vec<String>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let (mut indexes, is_known) = (Vec::new(), args.out.is_some() || args.state_bucket.is_some());
    for sitemap in site::parse_local(&path.display().to_string(), &text)? {
        let manifest = match (&args.out, &args.state_bucket) {
            (Some(out), _) => {
                let dir = out.join(keys::sitemap_dir(&sitemap.name));
                let there = dir.is_dir().then(|| Directory::open(&dir)?.manifest(sitemap.base.as_str()));
                there.transpose()?
            }
            (None, Some(bucket)) => {
                let site = path.file_stem().unwrap_or_default().to_string_lossy();
                let s3 = clients::s3(&clients::config(None).await);
                refresh::committed(&s3, bucket, &keys::sitemap(&site, &sitemap.name)).await?
            }
            (None, None) => None,
        };
        let engine = sitemap.rows.engines.iter().find(|engine| !engine.reads_index());
        if let (Some(engine), None) = (engine, &manifest) {
            eprintln!("{} reads no index: give --out or --state-bucket to name every file", engine.name());
        }
        if is_known && manifest.as_ref().is_none_or(|manifest| manifest.shards.is_empty()) {
            eprintln!("{}: nothing is published yet, so nothing is to be named", sitemap.files_url);
            continue;
        }
        let manifest = manifest.unwrap_or_else(|| Manifest::empty(sitemap.base.as_str()));
        indexes.extend(robots::addresses(&sitemap, &manifest));
    }
    if indexes.is_empty() {
        bail!("no sitemap of {} is published there: look whether the place is right", path.display());
    }
    Ok(indexes)
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
