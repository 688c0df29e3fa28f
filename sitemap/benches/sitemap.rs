//! What building a sitemap costs, in CPU time against what it could not cost less than, and in memory.
//!
//! Prints one JSON object a line. Both sides of a ratio run in turns in this process; medians count. Words on the
//! command line choose benchmarks by name; `BENCH_ROWS` and `BENCH_RUNS` change the size.

use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use rustix::time::{ClockId, clock_gettime};
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use tidemark_sitemap::build::{Options, Packing};
use tidemark_sitemap::loc::BaseUrl;
use tidemark_sitemap::pages::Policy;
use tidemark_sitemap::place::directory::{Directory, Outcome};

type Failure = Box<dyn std::error::Error>;

const BASE: &str = "https://www.example.com";
/// The word that makes this program build once and tell its own peak memory.
const MEASURE: &str = "measure-memory";

fn main() -> Result<(), Failure> {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    if let [word, out, inputs @ ..] = words.as_slice()
        && word == MEASURE
    {
        return measure_memory(&inputs.iter().map(PathBuf::from).collect::<Vec<_>>(), Path::new(out));
    }
    let number =
        |name: &str, default: u64| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default);
    let (rows, runs) = (number("BENCH_ROWS", 4_000_000), number("BENCH_RUNS", 5));
    let wanted = |name: &str| words.is_empty() || words.iter().any(|word| name.contains(word.as_str()));
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let input = dir.path().join("pages.csv");
    let timed = [
        "build_level4",
        "build_level1",
        "unchanged",
        "unchanged_file",
        "edits_1_percent",
        "peer_sitemap_rs",
        "peer_npm_sitemap",
    ];
    if timed.iter().any(|name| wanted(&format!("sitemap/{name}"))) {
        write_pages(&input, rows, Edits::None)?;
    }
    for (name, level) in [("sitemap/build_level4", 4), ("sitemap/build_level1", 1)] {
        if wanted(name) {
            against_bare_gzip(name, dir.path(), &input, level, runs)?;
        }
    }
    if wanted("sitemap/unchanged") || wanted("sitemap/unchanged_file") {
        unchanged(dir.path(), &input, runs)?;
    }
    if wanted("sitemap/edits_1_percent") {
        edited(dir.path(), &input, rows, runs)?;
    }
    if wanted("sitemap/peer_sitemap_rs") {
        against_sitemap_rs(dir.path(), &input, runs)?;
    }
    if wanted("sitemap/peer_npm_sitemap") {
        against_npm_sitemap(dir.path(), &input, runs)?;
    }
    for (name, rows) in [("sitemap/memory_4k", 4_000), ("sitemap/memory_20m", 20_000_000)] {
        if wanted(name) {
            let csv = dir.path().join("memory.csv");
            write_pages(&csv, rows, Edits::None)?;
            peak_memory(name, dir.path(), vec![csv])?;
        }
    }
    if wanted("sitemap/memory_parquet") {
        peak_memory("sitemap/memory_parquet", dir.path(), write_parquet(dir.path())?)?;
    }
    if wanted("sitemap/memory_hreflang") {
        let csv = dir.path().join("memory.csv");
        write_versions(&csv)?;
        peak_memory("sitemap/memory_hreflang", dir.path(), vec![csv])?;
    }
    Ok(())
}

/// Which pages of a list have another lastmod.
#[derive(Clone, Copy, PartialEq)]
enum Edits {
    None,
    /// Every hundredth, so that every shard has some.
    OnePercent,
}

/// A sorted page list as shops have them, about 103 bytes a row, with dates that repeat little.
fn write_pages(path: &Path, rows: u64, edits: Edits) -> Result<(), Failure> {
    const WORDS: [&str; 16] = [
        "cotton", "shirt", "blue", "steel", "bottle", "garden", "lamp", "chair", "winter", "jacket", "wooden", "table",
        "running", "shoes", "kitchen", "knife",
    ];
    let mut out = BufWriter::with_capacity(1 << 20, File::create(path)?);
    out.write_all(b"loc,lastmod\n")?;
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    for row in 0..rows {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let year = if edits == Edits::OnePercent && row % 100 == 50 { 2024 } else { 2025 };
        let word = |shift: u32| WORDS[(state >> shift) as usize & 15];
        let (month, day) = ((state >> 20) % 11 + 1, (state >> 28) % 28 + 1);
        let (hour, minute, second) = ((state >> 36) % 24, (state >> 42) % 60, (state >> 50) % 60);
        writeln!(
            out,
            "{BASE}/catalog/{:04}/product-{row:08}-{}-{}-{}-{:04x},{year}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z",
            row / 1000,
            word(0),
            word(4),
            word(8),
            (state >> 12) & 0xffff,
        )?;
    }
    out.flush()?;
    Ok(())
}

/// Pages in twenty languages each, which the links between them make shards of 50 MiB of: 24,465 pages a shard.
fn write_versions(path: &Path) -> Result<(), Failure> {
    const LANGUAGES: [&str; 20] = [
        "ar", "cs", "da", "de", "el", "en", "es", "fi", "fr", "he", "hu", "it", "ja", "ko", "nl", "pl", "pt", "sv",
        "tr", "zh",
    ];
    let mut out = BufWriter::with_capacity(1 << 20, File::create(path)?);
    out.write_all(b"loc,lastmod,locale,group\n")?;
    for page in 0..7_000 {
        for language in LANGUAGES {
            writeln!(out, "{BASE}/{language}/catalog/product-{page:08},2025-11-22,{language},{page}")?;
        }
    }
    Ok(out.flush()?)
}

/// Ten sorted lists that lie among each other, each one row group of 500,000 rows with one page a column, as DuckDB writes
/// it where it is told to: some 50 MB uncompressed a file.
fn write_parquet(dir: &Path) -> Result<Vec<PathBuf>, Failure> {
    const FILES: u64 = 10;
    const ROWS: u64 = 500_000;
    let schema = "message pages { required binary loc (UTF8); required binary lastmod (UTF8); }";
    let schema = Arc::new(parquet::schema::parser::parse_message_type(schema)?);
    let properties = WriterProperties::builder()
        .set_data_page_size_limit(usize::MAX)
        .set_data_page_row_count_limit(usize::MAX)
        .set_dictionary_enabled(false)
        .set_compression(parquet::basic::Compression::SNAPPY);
    let properties = Arc::new(properties.build());
    let mut paths = Vec::new();
    for file in 0..FILES {
        let path = dir.join(format!("memory-{file}.parquet"));
        let mut writer = SerializedFileWriter::new(File::create(&path)?, schema.clone(), properties.clone())?;
        let mut group = writer.next_row_group()?;
        let loc =
            |at: u64| format!("{BASE}/catalog/{:04}/product-{at:08}-cotton-bottle-knife-{:04x}", at / 1000, at % 977);
        let lastmod = |at: u64| format!("2025-{:02}-{:02}T{:02}:00:00Z", at % 11 + 1, at % 28 + 1, at % 24);
        for text in [&loc as &dyn Fn(u64) -> String, &lastmod] {
            let mut column = group.next_column()?.ok_or("no column")?;
            let values: Vec<ByteArray> = (0..ROWS).map(|row| text(row * FILES + file).into_bytes().into()).collect();
            column.typed::<ByteArrayType>().write_batch(&values, None, None)?;
            column.close()?;
        }
        group.close()?;
        writer.close()?;
        paths.push(path);
    }
    Ok(paths)
}

fn build(input: &Path, out: &Path, level: i32, packing: Packing) -> Result<Outcome, Failure> {
    build_all(&[input.to_owned()], out, level, packing)
}

fn build_all(inputs: &[PathBuf], out: &Path, level: i32, packing: Packing) -> Result<Outcome, Failure> {
    let policy = Policy::new(BaseUrl::parse(BASE)?, 1_763_800_000_000);
    let options = Options { level, packing, ..Options::new(policy, "bench") };
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    Ok(runtime.block_on(Directory::open(out)?.build(inputs, &options, BASE))?)
}

/// Ours from CSV to gzip files, over libdeflate alone on the XML that comes of it.
fn against_bare_gzip(name: &str, dir: &Path, input: &Path, level: i32, runs: u64) -> Result<(), Failure> {
    let plain = dir.join("plain");
    build(input, &plain, level, Packing::Plain)?;
    let shards = shards(&plain)?.iter().map(fs::read).collect::<Result<Vec<_>, _>>()?;
    fs::remove_dir_all(&plain)?;
    let (mut ours, mut bare) = (Vec::new(), Vec::new());
    let mut compressor = libdeflater::Compressor::new(libdeflater::CompressionLvl::new(level).map_err(|_| "level")?);
    let mut gzip = Vec::new();
    // Removed when all is measured: ext4 makes files slowly for some seconds after others were removed.
    let out = dir.join("out");
    for run in 0..runs {
        ours.push(cpu_s(|| build(input, &out.join(run.to_string()), level, Packing::Gzip).map(drop))?);
        bare.push(cpu_s(|| {
            for xml in &shards {
                gzip.resize(compressor.gzip_compress_bound(xml.len()), 0);
                compressor.gzip_compress(xml, &mut gzip)?;
            }
            Ok(())
        })?);
    }
    fs::remove_dir_all(out)?;
    let (ours, bare) = (median(ours), median(bare));
    print(name, ours, "cpu seconds", Some((ours / bare, "libdeflate alone on the same XML")), runs);
    Ok(())
}

/// A first run, over a second one with equal rows in a changed file, and over one with the very same file.
fn unchanged(dir: &Path, input: &Path, runs: u64) -> Result<(), Failure> {
    let (mut first, mut second, mut third) = (Vec::new(), Vec::new(), Vec::new());
    let out = dir.join("out");
    for _ in 0..runs {
        first.push(cpu_s(|| build(input, &out, 4, Packing::Gzip).map(drop))?);
        File::options().append(true).open(input)?.write_all(b"\n")?;
        let quiet = || {
            let published = build(input, &out, 4, Packing::Gzip)?.published;
            if !published.indexes_written.is_empty() || !published.files_rewritten.is_empty() {
                return Err("something was written".into());
            }
            Ok(())
        };
        second.push(cpu_s(quiet)?);
        third.push(cpu_s(quiet)?);
        fs::remove_dir_all(&out)?;
    }
    let (first, second, third) = (median(first), median(second), median(third));
    print("sitemap/unchanged", second, "cpu seconds", Some((first / second, "a first run")), runs);
    print("sitemap/unchanged_file", third, "cpu seconds", Some((first / third, "a first run")), runs);
    Ok(())
}

/// A first run, over a second one in which one page in a hundred is edited, spread evenly: every shard is made anew.
fn edited(dir: &Path, input: &Path, rows: u64, runs: u64) -> Result<(), Failure> {
    let (mut first, mut second) = (Vec::new(), Vec::new());
    let (out, edited) = (dir.join("out"), dir.join("edited.csv"));
    write_pages(&edited, rows, Edits::OnePercent)?;
    for _ in 0..runs {
        first.push(cpu_s(|| build(input, &out, 4, Packing::Gzip).map(drop))?);
        second.push(cpu_s(|| build(&edited, &out, 4, Packing::Gzip).map(drop))?);
        fs::remove_dir_all(&out)?;
    }
    fs::remove_file(edited)?;
    let (first, second) = (median(first), median(second));
    print("sitemap/edits_1_percent", second, "cpu seconds", Some((first / second, "a first run")), runs);
    Ok(())
}

/// From CSV to XML without compression, theirs over ours.
fn against_sitemap_rs(dir: &Path, input: &Path, runs: u64) -> Result<(), Failure> {
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..runs {
        ours.push(cpu_s(|| build(input, &dir.join("out"), 4, Packing::Plain).map(drop))?);
        fs::remove_dir_all(dir.join("out"))?;
        let peer = dir.join("peer");
        fs::create_dir_all(&peer)?;
        theirs.push(cpu_s(|| build_with_sitemap_rs(input, &peer))?);
        fs::remove_dir_all(peer)?;
    }
    let (ours, theirs) = (median(ours), median(theirs));
    print(
        "sitemap/peer_sitemap_rs",
        ours,
        "cpu seconds",
        Some((theirs / ours, "sitemap-rs 0.7 with the csv crate")),
        runs,
    );
    Ok(())
}

/// From CSV to XML without compression, theirs over ours; of theirs the whole process counts, as they are used.
fn against_npm_sitemap(dir: &Path, input: &Path, runs: u64) -> Result<(), Failure> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let (readers, script) = (root.join(".readers"), root.join("sitemap/benches/npm_sitemap.mjs"));
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..runs {
        ours.push(cpu_s(|| build(input, &dir.join("out"), 4, Packing::Plain).map(drop))?);
        fs::remove_dir_all(dir.join("out"))?;
        let peer = dir.join("peer");
        fs::create_dir_all(&peer)?;
        let told = Command::new(readers.join("bin/node")).arg(&script).args([&readers, input, &peer]).output();
        let told = told.map_err(|error| format!("node: {error}: run infra/local/prerequisites tests"))?;
        if !told.status.success() {
            return Err(String::from_utf8_lossy(&told.stderr).into_owned().into());
        }
        theirs.push(String::from_utf8(told.stdout)?.trim().parse()?);
        fs::remove_dir_all(peer)?;
    }
    let (ours, theirs) = (median(ours), median(theirs));
    let against = "npm's sitemap 9.0, the whole node process";
    print("sitemap/peer_npm_sitemap", ours, "cpu seconds", Some((theirs / ours, against)), runs);
    Ok(())
}

fn build_with_sitemap_rs(input: &Path, out: &Path) -> Result<(), Failure> {
    let mut reader = csv::Reader::from_path(input)?;
    let mut record = csv::ByteRecord::new();
    let mut urls = Vec::new();
    let mut number = 0;
    let mut write = |urls: Vec<sitemap_rs::url::Url>| -> Result<(), Failure> {
        number += 1;
        let file = BufWriter::with_capacity(1 << 20, File::create(out.join(format!("{number}.xml")))?);
        Ok(sitemap_rs::url_set::UrlSet::new(urls)?.write(file)?)
    };
    while reader.read_byte_record(&mut record)? {
        let (loc, lastmod) = (std::str::from_utf8(&record[0])?, std::str::from_utf8(&record[1])?);
        let lastmod = lastmod.parse::<jiff::Timestamp>()?.to_zoned(jiff::tz::TimeZone::UTC);
        urls.push(sitemap_rs::url::Url::builder(loc.to_owned()).last_modified(lastmod).build()?);
        if urls.len() == 40_000 {
            write(std::mem::take(&mut urls))?;
        }
    }
    if urls.is_empty() { Ok(()) } else { write(urls) }
}

/// The peak memory of a process of its own that builds from `inputs`, which then go.
fn peak_memory(name: &str, dir: &Path, inputs: Vec<PathBuf>) -> Result<(), Failure> {
    let out = dir.join("memory");
    let told = Command::new(std::env::current_exe()?).arg(MEASURE).arg(&out).args(&inputs).output()?;
    if !told.status.success() {
        return Err(String::from_utf8_lossy(&told.stderr).into_owned().into());
    }
    let kib: f64 = String::from_utf8(told.stdout)?.trim().parse()?;
    print(name, kib / 1024.0, "MiB", None, 1);
    fs::remove_dir_all(out)?;
    Ok(inputs.iter().try_for_each(fs::remove_file)?)
}

#[expect(clippy::print_stdout, reason = "tells its parent")]
fn measure_memory(inputs: &[PathBuf], out: &Path) -> Result<(), Failure> {
    build_all(inputs, out, 4, Packing::Gzip)?;
    let status = fs::read_to_string("/proc/self/status")?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).ok_or("no VmHWM")?;
    println!("{}", peak.trim().trim_end_matches(" kB"));
    Ok(())
}

fn shards(dir: &Path) -> Result<Vec<PathBuf>, Failure> {
    let paths = fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>, std::io::Error>>()?;
    let is_shard = |path: &PathBuf| path.is_file() && !path.ends_with(tidemark_sitemap::keys::INDEX);
    let mut shards: Vec<PathBuf> = paths.into_iter().filter(is_shard).collect();
    shards.sort();
    Ok(shards)
}

fn cpu_s(work: impl FnOnce() -> Result<(), Failure>) -> Result<f64, Failure> {
    let now_s = || {
        let now = clock_gettime(ClockId::ProcessCPUTime);
        now.tv_sec as f64 + now.tv_nsec as f64 / 1e9
    };
    let start = now_s();
    work()?;
    Ok(now_s() - start)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

#[expect(clippy::print_stdout, reason = "the benchmark's answer")]
fn print(name: &str, value: f64, unit: &str, ratio: Option<(f64, &str)>, runs: u64) {
    let round = |number: f64| (number * 1000.0).round() / 1000.0;
    let (ratio, against) = ratio.unzip();
    let ratio = ratio.map(round);
    let line = serde_json::json!({
        "name": name, "value": round(value), "unit": unit, "ratio": ratio, "against": against, "runs": runs,
    });
    println!("{line}");
}
