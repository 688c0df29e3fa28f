//! The steps on sitemaps: the page table, and the job that a schedule fires.

use crate::pages::{Package, packages, write_parts};
use crate::progress::Progress;
use crate::published::{self, Published};
use anyhow::{Context as _, Result, anyhow, ensure};
use aws_sdk_s3::primitives::ByteStream;
use serde_json::json;
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tidemark_local::page_table::{self, DATABASE, TABLE};
use tidemark_local::{Deployment, SITEMAP_BUCKET};
use tokio::sync::mpsc;

const SITE: &str = "demo";
/// Where the site's pages live; what stands in the sitemap.
const BASE_URL: &str = "https://packages.example";
/// Finished parts waiting to be uploaded: what bounds the space on disk.
const PARTS_WAITING_MAX: usize = 1;
/// The local cloud looks at its schedules every ten seconds.
const FIRE_TIMEOUT: Duration = Duration::from_secs(60);
/// Rows a second at least, the slowest machine assumed.
const ROWS_PER_SECOND_MIN: u64 = 4_000;
/// How many packages are looked up in the published files by their exact address.
const SAMPLES_MAX: usize = 50;

/// The page table.
#[derive(Debug)]
pub(crate) struct Pages {
    /// Its rows.
    pub(crate) rows: u64,
    /// Of these, made-up pages with a lastmod.
    dated: u64,
    /// Where the packages come from.
    pub(crate) origin: &'static str,
    /// Addresses that must be found in the sitemap, letter by letter.
    samples: HashSet<String>,
}

/// The index's address on this machine.
pub(crate) fn index_url(deployment: &Deployment) -> String {
    deployment.cloud().object_url(SITEMAP_BUCKET, "sitemap-index.xml")
}

/// Writes the page table to S3, part by part, and enters it into the catalogue.
pub(crate) async fn fill_page_table(
    deployment: &Deployment,
    python: &Path,
    product_pages: u64,
    progress: &mut Progress,
) -> Result<Pages> {
    let step = progress.begin("Page table of real packages");
    let list = tokio::task::spawn_blocking(packages).await??;
    let (origin, samples) = (list.origin, samples(&list.packages));
    let package_pages = list.packages.len();
    let folder = tempfile::tempdir().context("make a directory for the page table")?;
    let (send, mut receive) = mpsc::channel::<(usize, PathBuf)>(PARTS_WAITING_MAX);
    let parts_folder = folder.path().to_path_buf();
    let writer = tokio::task::spawn_blocking(move || {
        write_parts(&list.packages, product_pages, &parts_folder, |number, path| {
            send.blocking_send((number, path)).map_err(|_| anyhow!("nobody uploads the page table any more"))
        })
    });
    let mut parts = 0;
    while let Some((number, path)) = receive.recv().await {
        step.doing(&format!("uploading part {}", number + 1));
        page_table::put_part(deployment, number, &path).await?;
        std::fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))?;
        parts += 1;
    }
    let rows = writer.await.context("write the page table")??;
    page_table::register(deployment, python).await?;
    put_site(deployment).await?;
    let pages = Pages { rows, dated: product_pages, origin, samples };
    let result =
        format!("{package_pages} pages of {origin}, {product_pages} made up; {parts} CSV file(s) behind a Glue table");
    progress.end(step, result);
    Ok(pages)
}

/// Addresses of packages whose names or versions need care.
fn samples(packages: &[Package]) -> HashSet<String> {
    let with = |wanted: char| {
        let careful = packages.iter().filter(move |package| package.path().contains(wanted));
        careful.take(SAMPLES_MAX / 4).map(|package| format!("{BASE_URL}{}", package.path()))
    };
    with('+').chain(with('~')).chain(with(':')).chain(with('.')).collect()
}

async fn put_site(deployment: &Deployment) -> Result<()> {
    let state = &deployment.hub().bucket;
    let toml = site_toml(deployment);
    let key = format!("sites/{SITE}.toml");
    let put =
        deployment.hub().clients.s3.put_object().bucket(state).key(&key).body(ByteStream::from(toml.into_bytes()));
    put.send().await.with_context(|| format!("PutObject {state}/{key}"))?;
    Ok(())
}

/// The site's settings. Crawlers would find the files where the local cloud serves them, so the index can be followed.
fn site_toml(deployment: &Deployment) -> String {
    format!(
        r#"base_url = "{BASE_URL}"
files_url = "{files}"

[query]
sql = "SELECT loc, lastmod FROM {TABLE} ORDER BY loc"
database = "{DATABASE}"
fetch = "select"
output = "s3://{state}/athena/"

[publish]
bucket = "{SITEMAP_BUCKET}"
edge_ttl_seconds = 0
"#,
        files = deployment.cloud().object_url(SITEMAP_BUCKET, "").trim_end_matches('/'),
        state = deployment.hub().bucket,
    )
}

/// A schedule starts the sitemap job; what it published is fetched over HTTP and checked.
pub(crate) async fn scheduled_job(deployment: &Deployment, pages: &Pages, progress: &mut Progress) -> Result<()> {
    let step = progress.begin("A schedule fires the sitemap job");
    let input = json!({
        "job": "sitemap",
        "scheduled": "<aws.scheduler.scheduled-time>",
        "args": { "site": SITE },
    });
    deployment.schedule_once("tidemark-sitemap-demo", Duration::from_secs(1), &input).await?;
    step.doing(&format!("waiting for the schedule, the query over {} rows, index and shards", pages.rows));
    let start = Instant::now();
    let index = index_url(deployment);
    let timeout = FIRE_TIMEOUT + Duration::from_secs(60 + pages.rows / ROWS_PER_SECOND_MIN);
    deployment.until_run(&format!("sitemap-{SITE}"), timeout, |doing| step.telling(doing)).await?;
    let fired_and_done = start.elapsed();

    step.doing("fetching index and shards over HTTP");
    let wanted = pages.samples.clone();
    let published = tokio::task::spawn_blocking(move || published::check(&index, &wanted)).await??;
    compare(&published, pages)?;
    let Published { shards, urls, bytes, .. } = published;
    let result = format!(
        "{urls} URLs in {shards} shards, {:.1} MB by HTTP, all checked; published {:.1} s after the schedule was made",
        bytes as f64 / 1e6,
        fired_and_done.as_secs_f64()
    );
    progress.end(step, result);
    Ok(())
}

fn compare(published: &Published, pages: &Pages) -> Result<()> {
    ensure!(published.urls == pages.rows, "{} URLs published, {} rows in the page table", published.urls, pages.rows);
    ensure!(published.dated == pages.dated, "{} URLs with lastmod, {} rows with one", published.dated, pages.dated);
    let missing: Vec<&String> = pages.samples.difference(&published.found).take(3).collect();
    ensure!(missing.is_empty(), "not in the sitemap as it should be written: {missing:?}");
    Ok(())
}
