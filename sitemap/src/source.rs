//! Page lists in files: CSV, TSV, NDJSON and Parquet, plain or compressed with gzip or zstd.
//!
//! Each format is a reader that pushes rows into a [`Sink`]; none holds more than one row. Parquet's holds a page of
//! every column; where its pages are large, the file is spooled first (`List`).

mod csv;
pub mod merge;
mod ndjson;
mod nested;
mod parquet;
mod spool;
mod value;

use crate::columns::Columns;
use crate::pages::RawPage;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use twox_hash::XxHash3_128;

/// Longest row in a text file, in bytes.
const ROW_BYTES_MAX: usize = 4 << 20;
/// What the readers of all lists that are read side by side may hold, in bytes: what a list would hold beyond its share
/// of that, and beyond [`HELD_EACH_BYTES`], it is spooled for.
const HELD_BYTES: u64 = 16 << 20;
/// What the reader of any list may hold, in bytes: usual writers make pages of a MiB at most.
const HELD_EACH_BYTES: u64 = 3 << 20;
/// What text readers read at once, in bytes.
const CHUNK_BYTES: usize = 256 << 10;

/// Where rows go.
pub trait Sink {
    /// What ends the reading early.
    type Stop;

    /// What the columns of the page list are called.
    fn columns(&self) -> Columns {
        Columns::default()
    }

    /// Takes one row.
    ///
    /// # Errors
    /// What ends the reading.
    fn page(&mut self, page: &RawPage<'_>) -> Result<(), Self::Stop>;

    /// Takes one row that has nothing but `lastmod` and a `loc` of ASCII letters, digits and `-./:;=?_` alone, as nearly
    /// all are in most lists: a taker that has a shorter way for such rows than [`Self::page`] goes it here.
    ///
    /// # Errors
    /// What ends the reading.
    fn plain_page(&mut self, loc: &[u8], lastmod: &[u8], line: u64) -> Result<(), Self::Stop> {
        self.page(&RawPage::plain(loc, lastmod, line))
    }

    /// Takes note of a row that cannot be read: its line, what is wrong, what stood there, and details.
    ///
    /// # Errors
    /// What ends the reading.
    fn refuse(&mut self, line: u64, problem: &str, value: &[u8], detail: &str) -> Result<(), Self::Stop>;
}

/// How a page list has to be called.
pub(crate) const NAME_IT: &str =
    "name it .csv, .tsv, .ndjson or .jsonl (with .gz or .zst after it where compressed), or .parquet";

/// Why a page list could not be read to its end.
#[derive(Debug, thiserror::Error)]
pub enum SourceError<S> {
    /// It cannot be opened.
    #[error("cannot open {path}: give the page list as a .csv, .tsv, .ndjson or .parquet file that can be read")]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Its name tells no known format.
    #[error("cannot tell the format of {path} from its name: {NAME_IT}")]
    Format {
        /// The file.
        path: PathBuf,
    },
    /// Its header lacks something.
    #[error("{path}, line 1: {problem}")]
    Header {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// It breaks off, or cannot be decoded.
    #[error("{path}, line {line}: {problem}")]
    Broken {
        /// The file.
        path: PathBuf,
        /// Where.
        line: u64,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// It had to be copied, and could not be.
    #[error("cannot copy the rows of {path} to {dir}, which its large pages take: free space there")]
    Spool {
        /// The file.
        path: PathBuf,
        /// Where to.
        dir: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The taker of the rows wants no more.
    #[error("stopped")]
    Stopped(S),
}

impl<S> SourceError<S> {
    /// The same error for another taker of the rows; nothing where the taker itself ended the reading.
    pub(crate) fn unstopped<T>(self) -> Option<SourceError<T>> {
        match self {
            Self::Open { path, source } => Some(SourceError::Open { path, source }),
            Self::Format { path } => Some(SourceError::Format { path }),
            Self::Header { path, problem } => Some(SourceError::Header { path, problem }),
            Self::Broken { path, line, problem } => Some(SourceError::Broken { path, line, problem }),
            Self::Spool { path, dir, source } => Some(SourceError::Spool { path, dir, source }),
            Self::Stopped(_) => None,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Csv { delimiter: u8 },
    Ndjson,
    Parquet,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Packing {
    Plain,
    Gzip,
    Zstd,
}

/// Reads the page list at `path` into `sink`; the name tells the format. Works in `work_dir` where it has to. Returns the
/// XXH3-128 of the file as it lies there.
///
/// # Errors
/// A [`SourceError`] that names the file, the line and what to do.
pub fn read<T: Sink>(path: &Path, work_dir: &Path, sink: &mut T) -> Result<u128, SourceError<T::Stop>> {
    let open = |source| SourceError::Open { path: path.to_owned(), source };
    match kind(path) {
        Some((Format::Parquet, _)) | None => {
            read_rows(path, work_dir, sink)?;
            hash(path).map_err(open)
        }
        Some(text) => {
            let mut file = Hashed { file: open_file(path)?, hash: XxHash3_128::new() };
            read_text(path, text, &mut file, sink)?;
            io::copy(&mut file, &mut io::sink()).map_err(open)?;
            Ok(file.hash.finish_128())
        }
    }
}

/// Reads the page list at `path` into `sink`, as [`read`] does, without hashing the file.
///
/// # Errors
/// A [`SourceError`] that names the file, the line and what to do.
pub fn read_rows<T: Sink>(path: &Path, work_dir: &Path, sink: &mut T) -> Result<(), SourceError<T::Stop>> {
    List::prepare(path, 1, work_dir, sink.columns())?.read(sink)
}

/// A page list that can be read beside others with little memory.
struct List<'p> {
    path: &'p Path,
    rows: Rows,
}

enum Rows {
    InFile(Format, Packing),
    Spooled(spool::Spool),
}

impl<'p> List<'p> {
    /// Looks at the list at `path`, one of `count` that are read side by side, and spools it in `work_dir` where its
    /// reader would hold much at once. Of several lists, one is to be prepared after the other.
    fn prepare<S>(path: &'p Path, count: usize, work_dir: &Path, columns: Columns) -> Result<Self, SourceError<S>> {
        let (format, packing) = kind(path).ok_or_else(|| SourceError::Format { path: path.to_owned() })?;
        if format == Format::Parquet {
            let held_max = (HELD_BYTES / count.max(1) as u64).max(HELD_EACH_BYTES);
            if parquet::held_bytes(path, open_file(path)?, &columns)? > held_max {
                return Ok(Self { path, rows: Rows::Spooled(spool_rows(path, work_dir, columns)?) });
            }
        }
        Ok(Self { path, rows: Rows::InFile(format, packing) })
    }

    #[cfg(test)]
    fn is_spooled(&self) -> bool {
        matches!(self.rows, Rows::Spooled(_))
    }

    fn read<T: Sink>(self, sink: &mut T) -> Result<(), SourceError<T::Stop>> {
        let Self { path, rows } = self;
        match rows {
            Rows::InFile(Format::Parquet, _) => parquet::read(path, open_file(path)?, sink),
            Rows::InFile(format, packing) => read_text(path, (format, packing), &mut open_file(path)?, sink),
            Rows::Spooled(spool) => spool.read(sink).map_err(|error| match error {
                spool::Unread::Stopped(stop) => SourceError::Stopped(stop),
                spool::Unread::Io(source) => SourceError::Open { path: path.to_owned(), source },
            }),
        }
    }
}

fn spool_rows<S>(path: &Path, work_dir: &Path, columns: Columns) -> Result<spool::Spool, SourceError<S>> {
    let failed = |source| SourceError::Spool { path: path.to_owned(), dir: work_dir.to_owned(), source };
    let mut writer = spool::Writer::create(work_dir, columns).map_err(failed)?;
    match parquet::read(path, open_file(path)?, &mut writer) {
        Ok(()) => writer.finish().map_err(failed),
        Err(SourceError::Stopped(source)) => Err(failed(source)),
        Err(error) => Err(error.unstopped().unwrap_or_else(|| failed(io::Error::other("stopped")))),
    }
}

fn open_file<S>(path: &Path) -> Result<File, SourceError<S>> {
    let open = |source| SourceError::Open { path: path.to_owned(), source };
    let kind = std::fs::metadata(path).map_err(open)?;
    if kind.is_dir() {
        return Err(open(io::Error::from(io::ErrorKind::IsADirectory)));
    }
    // A pipe can be read once, and a list that is not sorted is read twice.
    if !kind.is_file() {
        return Err(open(io::Error::other(
            "it is no file that can be read twice: give what comes by a pipe as --input -",
        )));
    }
    File::open(path).map_err(open)
}

fn read_text<T: Sink>(
    path: &Path,
    (format, packing): (Format, Packing),
    mut file: &mut dyn Read,
    sink: &mut T,
) -> Result<(), SourceError<T::Stop>> {
    let text = |reader: &mut dyn Read, sink: &mut T| match format {
        Format::Csv { delimiter } => csv::read(path, reader, delimiter, sink),
        _ => ndjson::read(path, reader, sink),
    };
    match packing {
        Packing::Plain => text(file, sink),
        Packing::Gzip => {
            let buffered = io::BufReader::with_capacity(CHUNK_BYTES, file);
            text(&mut flate2::bufread::MultiGzDecoder::new(buffered), sink)
        }
        Packing::Zstd => {
            let open = |source| SourceError::Open { path: path.to_owned(), source };
            text(&mut zstd::Decoder::new(&mut file).map_err(open)?, sink)
        }
    }
}

/// What to tell of a text file that gives `error` while it is read: where the system did not say it, an unpacker did.
fn unreadable(error: &io::Error) -> String {
    if error.raw_os_error().is_some() {
        return format!("cannot be read: {error}");
    }
    format!("cannot be unpacked ({error}): it is cut off, damaged, or something stands behind its end: pack it anew")
}

/// The XXH3-128 of the file at `path`, as [`read`] gives it.
///
/// # Errors
/// A [`SourceError`] that names the file.
pub(crate) fn hash_of<S>(path: &Path) -> Result<u128, SourceError<S>> {
    hash(path).map_err(|source| SourceError::Open { path: path.to_owned(), source })
}

/// The XXH3-128 of the file at `path`.
///
/// # Errors
/// Where it cannot be read.
pub fn hash(path: &Path) -> io::Result<u128> {
    let mut file = Hashed { file: File::open(path)?, hash: XxHash3_128::new() };
    let mut buffer = vec![0; CHUNK_BYTES];
    while file.read(&mut buffer)? > 0 {}
    Ok(file.hash.finish_128())
}

/// A file that hashes what is read of it.
struct Hashed {
    file: File,
    hash: XxHash3_128,
}

impl Read for Hashed {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(out)?;
        self.hash.write(&out[..count]);
        Ok(count)
    }
}

/// Whether a file called `name` is a page list.
pub(crate) fn is_page_list(name: &str) -> bool {
    kind(Path::new(name)).is_some()
}

fn kind(path: &Path) -> Option<(Format, Packing)> {
    let name = path.file_name()?.to_str()?.to_ascii_lowercase();
    let (stem, packing) = match name.rsplit_once('.')? {
        (stem, "gz") => (stem, Packing::Gzip),
        (stem, "zst") => (stem, Packing::Zstd),
        _ => (name.as_str(), Packing::Plain),
    };
    let format = match stem.rsplit_once('.')?.1 {
        "csv" => Format::Csv { delimiter: b',' },
        "tsv" => Format::Csv { delimiter: b'\t' },
        "ndjson" | "jsonl" => Format::Ndjson,
        "parquet" if packing == Packing::Plain => Format::Parquet,
        _ => return None,
    };
    Some((format, packing))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Keeps what it is given, as text.
    #[derive(Debug, Default)]
    pub(crate) struct Kept {
        pub(crate) pages: Vec<(u64, Vec<String>)>,
        pub(crate) refused: Vec<(u64, String)>,
        /// The lines of pages that came as plain ones.
        pub(crate) plain: Vec<u64>,
        pub(crate) columns: Columns,
    }

    impl Sink for Kept {
        type Stop = ();

        fn columns(&self) -> Columns {
            self.columns.clone()
        }

        fn page(&mut self, page: &RawPage<'_>) -> Result<(), ()> {
            self.pages.push((page.line, page.fields.map(|f| String::from_utf8_lossy(f).into_owned()).to_vec()));
            Ok(())
        }

        fn plain_page(&mut self, loc: &[u8], lastmod: &[u8], line: u64) -> Result<(), ()> {
            self.plain.push(line);
            self.page(&RawPage::plain(loc, lastmod, line))
        }

        fn refuse(&mut self, line: u64, problem: &str, _: &[u8], detail: &str) -> Result<(), ()> {
            self.refused.push((line, format!("{problem} {detail}")));
            Ok(())
        }
    }

    #[test]
    fn the_name_tells_the_format() {
        assert_eq!(kind(Path::new("a/b.csv")), Some((Format::Csv { delimiter: b',' }, Packing::Plain)));
        assert_eq!(kind(Path::new("B.TSV.GZ")), Some((Format::Csv { delimiter: b'\t' }, Packing::Gzip)));
        assert_eq!(kind(Path::new("b.jsonl.zst")), Some((Format::Ndjson, Packing::Zstd)));
        assert_eq!(kind(Path::new("b.parquet")), Some((Format::Parquet, Packing::Plain)));
        for bad in ["b", "b.gz", "b.txt", "b.parquet.gz"] {
            assert_eq!(kind(Path::new(bad)), None, "{bad}");
        }
    }

    #[test]
    fn the_hash_is_of_the_file_as_it_lies_there() {
        use std::io::Write;
        let dir = tempfile::tempdir().unwrap();
        let text = b"loc\n/a\n/b\n";
        let mut zipped = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        zipped.write_all(text).unwrap();
        let files = [
            ("a.csv", text.to_vec()),
            ("a.csv.gz", zipped.finish().unwrap()),
            ("a.csv.zst", zstd::encode_all(&text[..], 1).unwrap()),
        ];
        for (name, bytes) in files {
            let path = dir.path().join(name);
            std::fs::write(&path, &bytes).unwrap();
            let mut kept = Kept::default();
            assert_eq!(read(&path, dir.path(), &mut kept).unwrap(), twox_hash::XxHash3_128::oneshot(&bytes), "{name}");
            assert_eq!(hash(&path).unwrap(), twox_hash::XxHash3_128::oneshot(&bytes), "{name}");
            assert_eq!(kept.pages.len(), 2);
        }
    }

    #[test]
    fn what_was_packed_and_is_not_whole_or_has_something_behind_it_is_told() {
        use std::io::Write;
        let dir = tempfile::tempdir().unwrap();
        let mut zipped = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        zipped.write_all(b"loc\n/a\n").unwrap();
        let (zipped, packed) = (zipped.finish().unwrap(), zstd::encode_all(&b"loc\n/a\n"[..], 1).unwrap());
        let and = |bytes: &[u8]| [bytes, b"behind it"].concat();
        let cut = |bytes: &[u8]| bytes[..bytes.len() - 1].to_vec();
        let cases = [(and(&zipped), "gz"), (cut(&zipped), "gz"), (and(&packed), "zst"), (cut(&packed), "zst")];
        for (bytes, packing) in cases {
            for format in ["csv", "ndjson"] {
                let path = dir.path().join(format!("a.{format}.{packing}"));
                std::fs::write(&path, &bytes).unwrap();
                let error = read(&path, dir.path(), &mut Kept::default()).unwrap_err().to_string();
                assert!(error.contains(&format!("a.{format}.{packing}")) && error.contains("pack it anew"), "{error}");
            }
        }
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = read(Path::new("/nowhere/pages.csv"), Path::new("/nowhere"), &mut Kept::default()).unwrap_err();
        assert!(error.to_string().contains("/nowhere/pages.csv"));
        let error = open_file::<()>(Path::new("/dev/null")).unwrap_err();
        assert!(std::error::Error::source(&error).unwrap().to_string().contains("--input -"));
        let error = read(Path::new("pages.txt"), Path::new("/nowhere"), &mut Kept::default()).unwrap_err();
        assert!(error.to_string().contains("name it .csv"));
    }
}
