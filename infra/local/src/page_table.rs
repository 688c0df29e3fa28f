//! The page table that the sitemap job reads with Athena: CSV files in S3 and a table in the Glue catalogue.
//!
//! The catalogue's two calls go through the virtual environment's boto3: the Rust SDK for Glue would add more code to
//! compile than all other clients of this crate together.

use crate::deployment::{Deployment, PAGES_BUCKET};
use crate::error::LocalError;
use aws_sdk_s3::primitives::ByteStream;
use std::path::Path;
use std::process::Stdio;

/// The table's database.
pub const DATABASE: &str = "site";
/// The table.
pub const TABLE: &str = "pages";

const CATALOGUE_SCRIPT: &str = include_str!("page_table.py");

/// Uploads one file of the table.
///
/// # Errors
/// [`LocalError`] when the file cannot be read or stored.
pub async fn put_part(deployment: &Deployment, number: usize, file: &Path) -> Result<(), LocalError> {
    let key = format!("{TABLE}/part-{number:05}.csv");
    let body = ByteStream::from_path(file).await.map_err(LocalError::call(format!("read {}", file.display())))?;
    let put = deployment.hub().clients.s3.put_object().bucket(PAGES_BUCKET).key(&key).body(body);
    put.send().await.map_err(LocalError::call(format!("PutObject {PAGES_BUCKET}/{key}")))?;
    Ok(())
}

/// Enters the table into the catalogue: columns `loc` and `lastmod`, text, no header line.
///
/// # Errors
/// [`LocalError`] when Python or one of the calls fails.
pub async fn register(deployment: &Deployment, python: &Path) -> Result<(), LocalError> {
    let location = format!("s3://{PAGES_BUCKET}/{TABLE}/");
    let output = deployment
        .command(python)
        .args(["-I", "-c", CATALOGUE_SCRIPT, DATABASE, TABLE, &location])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .output()
        .await
        .map_err(LocalError::io("start", python))?;
    if output.status.success() {
        return Ok(());
    }
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(LocalError::call("enter the page table into the Glue catalogue")(message))
}
