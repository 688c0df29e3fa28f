//! The rows of one run, found and fetched once for all sitemaps of a site.
//!
//! The first sitemap that asks starts the query, under its lease; the first that needs rows has them downloaded. The
//! others read the same files, so they are of one state of the world and cost no further query. A result that would be
//! paged out of Athena is written down when several sitemaps want it. Memory is that of one sitemap, however many.

use crate::athena::{Athena, Statement, unload};
use crate::build::Order;
use crate::columns::Columns;
use crate::input::{self, Attempt, Found, Input, InputError, Reach, ReadError, Source};
use crate::keys;
use crate::pages::RawPage;
use crate::source::Sink;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

/// The rows of one run.
#[derive(Debug)]
pub(crate) struct Supply {
    work_dir: PathBuf,
    /// What their columns are called, where several sitemaps are made of them.
    shared: Option<Columns>,
    found: Option<Found>,
    input: Option<Input>,
    /// Where files of an UNLOAD lie.
    unloaded: Option<unload::Target>,
}

/// What a sitemap is made of, and its fingerprint, where there is one.
pub(crate) type Supplied<'a> = (&'a Input, Option<String>);

impl Supply {
    /// Nothing yet; files will go below `work_dir`. `shared` says what the columns are called where several sitemaps are
    /// made of them.
    pub(crate) fn new(work_dir: &Path, shared: Option<Columns>) -> Self {
        Self { work_dir: work_dir.to_owned(), shared, found: None, input: None, unloaded: None }
    }

    /// The rows of `what`, unless their fingerprint with this `salt` is `known`: then there is nothing. `salt` is what
    /// else the sitemap hangs on: the settings.
    ///
    /// # Errors
    /// An [`InputError`]. Whoever asks again gets the same, without another query.
    pub(crate) async fn rows(
        &mut self,
        reach: Reach<'_>,
        attempt: Attempt<'_>,
        what: (&Source, &Statement),
        (salt, known): (&[u8], Option<&str>),
    ) -> Result<Option<Supplied<'_>>, InputError> {
        let found = match self.found.take() {
            Some(found) => self.found.insert(found),
            None => {
                let found = self.find(reach, attempt, what).await?;
                self.found.insert(found)
            }
        };
        let fingerprint = found.fingerprint(salt);
        if fingerprint.is_some() && known == fingerprint.as_deref() {
            return Ok(None);
        }
        let input = match self.input.take() {
            Some(input) => input,
            None => {
                let input = found.open(reach, &self.work_dir).await?;
                match &self.shared {
                    Some(columns) if input.is_paged() => {
                        written_down(reach.athena, &input, columns, &self.work_dir.join(keys::INPUT_DIR)).await?
                    }
                    _ => input,
                }
            }
        };
        Ok(Some((self.input.insert(input), fingerprint)))
    }

    async fn find(
        &mut self,
        reach: Reach<'_>,
        attempt: Attempt<'_>,
        what: (&Source, &Statement),
    ) -> Result<Found, InputError> {
        let target = input::unload_target(reach, attempt);
        if what.0.unloads() {
            // What killed attempts of this run left; an attempt's own prefix must be empty besides.
            input::clear(reach.s3, reach.state_bucket, &keys::unload_run(attempt.site, attempt.run)).await?;
            self.unloaded = Some(target.clone());
        }
        input::find(reach, attempt, what, &target).await
    }

    /// Removes what an UNLOAD wrote. Call it in any case, when every sitemap is done.
    pub(crate) async fn clear(self, reach: Reach<'_>) {
        let Some(target) = self.unloaded else { return };
        if let Err(error) = input::clear(reach.s3, &target.bucket, &target.prefix).await {
            let prefix = target.prefix;
            tracing::warn!(%error, prefix, "files of an UNLOAD stay until the bucket's own rule removes them");
        }
    }
}

/// `input`, which pages through a query's result, as a file in `dir` that can be read again and again.
async fn written_down(athena: Athena<'_>, input: &Input, columns: &Columns, dir: &Path) -> Result<Input, InputError> {
    let path = dir.join(keys::RESULT_ROWS);
    let failed = |source| InputError::Io { path: path.clone(), source };
    let file = fs::create_dir_all(dir).and_then(|()| File::create(&path)).map_err(failed)?;
    let mut copy = Copy { columns: columns.clone(), file: BufWriter::new(file) };
    match input.read(athena, dir, Order::Unknown, &|_, _| false, &mut copy).await {
        Err(ReadError::Query(error)) => Err(error.into()),
        Err(ReadError::Source(error)) => Err(failed(io::Error::other(error))),
        Ok(_) => copy.file.flush().map(|()| Input::of_files(vec![path.clone()])).map_err(failed),
    }
}

/// Writes rows as NDJSON: one a line, so that a line's number is the row's.
struct Copy {
    columns: Columns,
    file: BufWriter<File>,
}

impl Sink for Copy {
    type Stop = io::Error;

    fn columns(&self) -> Columns {
        self.columns.clone()
    }

    fn page(&mut self, page: &RawPage<'_>) -> io::Result<()> {
        let named = self.columns.names().zip(page.fields).filter(|(_, field)| !field.is_empty());
        let row: BTreeMap<&str, Cow<'_, str>> =
            named.map(|(name, field)| (name, String::from_utf8_lossy(field))).collect();
        serde_json::to_writer(&mut self.file, &row)?;
        self.file.write_all(b"\n")
    }

    fn refuse(&mut self, line: u64, problem: &str, _: &[u8], _: &str) -> io::Result<()> {
        Err(io::Error::other(format!("row {line}: {problem}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::columns::Column;
    use crate::source;

    /// Keeps fields and lines.
    #[derive(Default)]
    struct Rows(Columns, Vec<(Vec<String>, u64)>);

    impl Sink for Rows {
        type Stop = std::convert::Infallible;

        fn columns(&self) -> Columns {
            self.0.clone()
        }

        fn page(&mut self, page: &RawPage<'_>) -> Result<(), Self::Stop> {
            let fields = page.fields.iter().map(|field| String::from_utf8_lossy(field).into_owned()).collect();
            self.1.push((fields, page.line));
            Ok(())
        }

        fn refuse(&mut self, line: u64, problem: &str, _: &[u8], _: &str) -> Result<(), Self::Stop> {
            panic!("{line}: {problem}")
        }
    }

    #[test]
    fn rows_that_are_written_down_are_read_back_as_they_were_whatever_their_columns_are_called() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(keys::RESULT_ROWS);
        let columns: Columns = toml::from_str("loc = \"URL\"\nkind = \"type\"").unwrap();
        let mut wanted = Vec::new();
        let mut copy = Copy { columns: columns.clone(), file: BufWriter::new(File::create(&path).unwrap()) };
        for (line, loc) in [(1, "/a"), (2, "/line\nbreak \"and\" \u{1F600}\\"), (3, "")] {
            let mut page = RawPage { line, ..RawPage::default() };
            page.fields[Column::Loc as usize] = loc.as_bytes();
            page.fields[Column::Lastmod as usize] = b"2025-11-22";
            page.fields[Column::Kind as usize] = b"null";
            page.fields[Column::Images as usize] = b"[\"/a.jpg\"]";
            copy.page(&page).unwrap();
            wanted.push((page.fields.iter().map(|f| String::from_utf8_lossy(f).into_owned()).collect(), line));
        }
        copy.file.flush().unwrap();
        let mut rows = Rows(columns, Vec::new());
        source::read_rows(&path, dir.path(), &mut rows).unwrap();
        assert_eq!(rows.1, wanted);
    }
}
