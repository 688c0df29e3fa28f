//! What a run needs from outside, and what it reads and writes in the state bucket.

use super::{Committed, LEASE_MS, RefreshError};
use crate::athena::{self, Athena, SqlText, Statement};
use crate::input::{Reach, Source};
use crate::invalidate::Invalidate;
use crate::keys;
use crate::manifest::Manifest;
use crate::parts::StartPart;
use crate::site::{self, Site};
use aws_sdk_s3::error::DisplayErrorContext;
use aws_sdk_s3::primitives::ByteStream;
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use std::sync::Arc;
use tidemark_runtime::clock::Clock;
use tidemark_runtime::state::{Document, Held, StateError, StateStore};

/// The committed manifest of the sitemap `name`, by [`keys::sitemap`]; nothing before its first run.
///
/// # Errors
/// Where state or manifest cannot be read.
pub async fn committed(
    s3: &aws_sdk_s3::Client,
    state_bucket: &str,
    name: &str,
) -> Result<Option<Manifest>, RefreshError> {
    let store = StateStore::new(s3.clone(), state_bucket);
    let Some(key) = state(&store, name).await?.manifest else { return Ok(None) };
    let Some(found) = store.load::<Box<RawValue>>(&key).await? else { return Ok(None) };
    let manifest = Manifest::from_json(found.value.get().as_bytes());
    manifest.map(Some).map_err(|source| RefreshError::Manifest { key, source })
}

/// What is committed of the sitemap `name`, as it stands at this moment: nobody holds its lease for that.
pub(crate) async fn state(store: &StateStore, name: &str) -> Result<Committed, StateError> {
    let found = store.load::<Document<Committed>>(&keys::state(name)).await?;
    Ok(found.map(|found| found.value.state).unwrap_or_default())
}

/// What a refresh needs from outside.
#[derive(Clone, Debug)]
pub struct Surroundings {
    /// Athena, in the hub.
    pub athena: aws_sdk_athena::Client,
    /// S3, in the hub.
    pub s3: aws_sdk_s3::Client,
    /// The bucket of settings and state.
    pub state_bucket: String,
    /// The time.
    pub clock: Clock,
    /// Starts further invocations, for sites that are built in parts.
    pub parts: Option<Arc<dyn StartPart>>,
    /// Reaches the CDN, for sites that want it told.
    pub edge: Option<Arc<dyn Invalidate>>,
}

impl Surroundings {
    /// What an input is read with.
    #[must_use]
    pub fn reach(&self) -> Reach<'_> {
        let athena = Athena { client: &self.athena, clock: &self.clock };
        Reach { athena, s3: &self.s3, state_bucket: &self.state_bucket }
    }

    /// The settings of the one sitemap called `sitemap` of `site`, or of its only one, and the text of all.
    pub(crate) async fn one(&self, site: &str, sitemap: Option<&str>) -> Result<(Site, Vec<u8>), RefreshError> {
        let (mut sites, text) = self.sites(site, sitemap).await?;
        match sites.pop() {
            Some(one) if sites.is_empty() => Ok((one, text)),
            last => {
                let known = sites.into_iter().chain(last).map(|site| site.sitemap.name).collect();
                Err(RefreshError::Several { site: site.to_owned(), known })
            }
        }
    }

    /// The settings of the sitemaps of the site `name`, or of the one that is `wanted`, and their text.
    pub(super) async fn sites(&self, name: &str, wanted: Option<&str>) -> Result<(Vec<Site>, Vec<u8>), RefreshError> {
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_')) {
            return Err(RefreshError::Name(name.to_owned()));
        }
        let key = keys::site(name);
        let text = self.read(&key).await?;
        let mut sites = site::parse(&format!("s3://{}/{key}", self.state_bucket), &String::from_utf8_lossy(&text))?;
        if let Some(wanted) = wanted {
            let known = sites.iter().map(|site| site.sitemap.name.clone()).collect();
            sites.retain(|site| site.sitemap.name == wanted);
            if sites.is_empty() {
                let (site, sitemap) = (name.to_owned(), wanted.to_owned());
                return Err(RefreshError::Sitemap { site, sitemap, known });
            }
        }
        Ok((sites, text))
    }

    /// The site's query with the values of its parameters; nothing where it has none.
    pub(crate) async fn statement(
        &self,
        parameters: &BTreeMap<String, String>,
        site: &Site,
    ) -> Result<Statement, RefreshError> {
        let Source::Query(query) = &site.source else { return Ok(Statement::default()) };
        let sql = match &query.sql {
            SqlText::Inline(sql) => sql.clone(),
            SqlText::File(name) => {
                let file = keys::site_file(name);
                let text = self.read(&file).await?;
                let sql = athena::settings::select(&String::from_utf8_lossy(&text));
                sql.map_err(|problem| RefreshError::Sql { file, problem })?
            }
        };
        Ok(athena::parameters::statement(&sql, &query.parameters, parameters)?)
    }

    /// Takes the sitemap's lease for `run`.
    pub(crate) async fn lease(&self, site: &str, run: &str) -> Result<Held<Committed>, RefreshError> {
        let store = StateStore::new(self.s3.clone(), &self.state_bucket);
        Ok(store.acquire(&keys::state(site), run, self.clock.now_ms(), LEASE_MS).await?)
    }

    /// The committed manifest, or an empty one.
    pub(crate) async fn manifest(&self, held: &Held<Committed>, site: &Site) -> Result<Manifest, RefreshError> {
        match &held.document.state.manifest {
            Some(key) => self.manifest_at(key).await,
            None => Ok(Manifest::empty(site.sitemap.base.as_str())),
        }
    }

    /// The manifest under `key`.
    pub(crate) async fn manifest_at(&self, key: &str) -> Result<Manifest, RefreshError> {
        let bytes = self.read(key).await?;
        Manifest::from_json(&bytes).map_err(|source| RefreshError::Manifest { key: key.to_owned(), source })
    }

    pub(crate) async fn read(&self, key: &str) -> Result<Vec<u8>, RefreshError> {
        let answer = self.s3.get_object().bucket(&self.state_bucket).key(key).send().await;
        let object = answer.map_err(|error| {
            if error.as_service_error().is_some_and(|error| error.is_no_such_key()) {
                return RefreshError::Missing { bucket: self.state_bucket.clone(), key: key.to_owned() };
            }
            self.object_error("reading", key, DisplayErrorContext(&error).to_string())
        })?;
        let bytes =
            object.body.collect().await.map_err(|error| self.object_error("reading", key, error.to_string()))?;
        Ok(bytes.to_vec())
    }

    pub(crate) async fn write(&self, key: &str, bytes: Vec<u8>, content_type: &str) -> Result<(), RefreshError> {
        let request = self.s3.put_object().bucket(&self.state_bucket).key(key).content_type(content_type);
        let sent = request.body(ByteStream::from(bytes)).send().await;
        sent.map_err(|error| self.object_error("writing", key, DisplayErrorContext(&error).to_string()))?;
        Ok(())
    }

    pub(crate) fn object_error(&self, operation: &'static str, key: &str, message: String) -> RefreshError {
        RefreshError::Object { operation, bucket: self.state_bucket.clone(), key: key.to_owned(), message }
    }
}
