//! The demo's pages: the packages of this machine's Debian archive, or a bundled part of that list, and as many
//! made-up product pages as asked for. They are written in parts of bounded size.

use anyhow::{Context as _, Result, anyhow};
use std::collections::HashSet;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// A list shorter than this is taken for an apt without package lists.
const APT_PACKAGES_MIN: usize = 1_000;
const PART_BYTES_MAX: u64 = 64 * 1024 * 1024;
const BUNDLED: &[u8] = include_bytes!("../../../data/packages.tsv.gz");
/// Unpacked size at most; the list is this project's own.
const BUNDLED_BYTES_MAX: usize = 8 * 1024 * 1024;

/// One package of a Debian archive.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) section: String,
    pub(crate) version: String,
    pub(crate) architecture: String,
}

impl Package {
    /// The page of the package, as a path under the site's base address. Names and versions stand in it as they are:
    /// `+`, `~`, `:` and `.` are legal there, and the `&` is the XML writer's to escape.
    pub(crate) fn path(&self) -> String {
        format!("/{}/{}?arch={}&version={}", self.section, self.name, self.architecture, self.version)
    }
}

/// The packages and where they come from.
#[derive(Debug)]
pub(crate) struct Packages {
    pub(crate) packages: Vec<Package>,
    pub(crate) origin: &'static str,
}

/// The archive's packages, one a name; the bundled list where apt has none.
pub(crate) fn packages() -> Result<Packages> {
    let of_apt = apt_packages().unwrap_or_default();
    if of_apt.len() >= APT_PACKAGES_MIN {
        return Ok(Packages { packages: of_apt, origin: "this machine's apt" });
    }
    Ok(Packages { packages: bundled_packages()?, origin: "the bundled list" })
}

/// Ends a child that is no longer read from.
struct Reaped(Child);

impl Drop for Reaped {
    fn drop(&mut self) {
        // It may have ended by itself; either way there is nothing more to do about it.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn apt_packages() -> Result<Vec<Package>> {
    let mut command = Command::new("apt-cache");
    command.arg("dumpavail").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = Reaped(command.spawn().context("start apt-cache dumpavail")?);
    let output = child.0.stdout.take().context("apt-cache dumpavail has no output")?;
    read_control(BufReader::new(output))
}

/// Reads paragraphs of `Field: value` lines, as apt's lists have them.
fn read_control(mut input: impl BufRead) -> Result<Vec<Package>> {
    let mut packages = Vec::new();
    let mut seen = HashSet::new();
    let mut package = Package::default();
    let mut line = Vec::new();
    loop {
        line.clear();
        let end = input.read_until(b'\n', &mut line).context("read the package list")? == 0;
        let text = String::from_utf8_lossy(&line);
        let text = text.trim_end();
        if text.is_empty() {
            let package = std::mem::take(&mut package);
            if !package.name.is_empty() && seen.insert(package.name.clone()) {
                packages.push(package);
            }
            if end {
                return Ok(packages);
            }
            continue;
        }
        match text.split_once(": ") {
            Some(("Package", value)) => value.clone_into(&mut package.name),
            Some(("Section", value)) => value.clone_into(&mut package.section),
            Some(("Version", value)) => value.clone_into(&mut package.version),
            Some(("Architecture", value)) => value.clone_into(&mut package.architecture),
            _ => {}
        }
    }
}

fn bundled_packages() -> Result<Vec<Package>> {
    let text = gunzip(BUNDLED, BUNDLED_BYTES_MAX).context("unpack the bundled package list")?;
    let text = String::from_utf8(text).context("the bundled package list is not UTF-8")?;
    text.lines()
        .map(|line| {
            let fields: Vec<&str> = line.split('\t').collect();
            let [name, section, version, architecture] = fields.as_slice() else {
                return Err(anyhow!("the bundled package list has a line of {} fields: {line:?}", fields.len()));
            };
            let [name, section, version, architecture] =
                [name, section, version, architecture].map(|f| (*f).to_owned());
            Ok(Package { name, section, version, architecture })
        })
        .collect()
}

/// Unpacks one gzip member, of at most `bytes_max`.
pub(crate) fn gunzip(packed: &[u8], bytes_max: usize) -> Result<Vec<u8>> {
    // The last four bytes are the unpacked size modulo 2^32; both sides are bounded far below that.
    let size = packed.last_chunk::<4>().map(|bytes| u32::from_le_bytes(*bytes)).context("gzip: too short")?;
    let size = usize::try_from(size).context("gzip: size")?;
    if size > bytes_max {
        return Err(anyhow!("gzip: {size} bytes unpacked, more than {bytes_max}"));
    }
    let mut unpacked = vec![0; size];
    let written = libdeflater::Decompressor::new()
        .gzip_decompress(packed, &mut unpacked)
        .map_err(|error| anyhow!("gzip: {error}"))?;
    unpacked.truncate(written);
    Ok(unpacked)
}

/// Writes the page table in parts into `folder` and hands each finished part, with its number, to `finished`. Returns
/// the number of rows.
pub(crate) fn write_parts(
    packages: &[Package],
    product_pages: u64,
    folder: &Path,
    mut finished: impl FnMut(usize, PathBuf) -> Result<()>,
) -> Result<u64> {
    let mut rows = 0;
    let mut part = Part::create(folder, 0)?;
    let package_rows = packages.iter().map(|package| (package.path(), String::new()));
    let product_rows = (0..product_pages).map(product);
    for (loc, lastmod) in package_rows.chain(product_rows) {
        part.write(&loc, &lastmod)?;
        rows += 1;
        if part.bytes >= PART_BYTES_MAX {
            let next = Part::create(folder, part.number + 1)?;
            let (number, path) = std::mem::replace(&mut part, next).close()?;
            finished(number, path)?;
        }
    }
    let (number, path) = part.close()?;
    finished(number, path)?;
    Ok(rows)
}

/// The made-up product page `number`: its path and the day it was last changed.
fn product(number: u64) -> (String, String) {
    const CATEGORIES: [&str; 8] = ["audio", "bikes", "books", "garden", "kitchen", "lamps", "shoes", "tools"];
    let category = CATEGORIES[usize::try_from(number % 8).unwrap_or(0)];
    let lastmod = format!("2026-{:02}-{:02}", 1 + number / 28 % 10, 1 + number % 28);
    (format!("/products/{category}/item-{number:09}?ref=list&page={}", number / 100), lastmod)
}

/// One CSV file of the page table.
struct Part {
    number: usize,
    path: PathBuf,
    file: BufWriter<File>,
    bytes: u64,
    line: String,
}

impl Part {
    fn create(folder: &Path, number: usize) -> Result<Self> {
        let path = folder.join(format!("part-{number:05}.csv"));
        let file = File::create(&path).with_context(|| format!("create {}", path.display()))?;
        Ok(Self { number, path, file: BufWriter::new(file), bytes: 0, line: String::new() })
    }

    /// Both fields are quoted; a quote inside is doubled.
    fn write(&mut self, loc: &str, lastmod: &str) -> Result<()> {
        self.line.clear();
        writeln!(self.line, "\"{}\",\"{}\"", loc.replace('"', "\"\""), lastmod.replace('"', "\"\""))?;
        self.file.write_all(self.line.as_bytes()).with_context(|| format!("write {}", self.path.display()))?;
        self.bytes += self.line.len() as u64;
        Ok(())
    }

    fn close(self) -> Result<(usize, PathBuf)> {
        self.file.into_inner().with_context(|| format!("write {}", self.path.display()))?;
        Ok((self.number, self.path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_control_file_gives_each_package_once() {
        let text = "Package: g++\nVersion: 4:12.2.0-3\nArchitecture: amd64\nSection: devel\nTag: a,\n b\n\n\
                    Package: g++\nVersion: 4:11\n\nPackage: 0ad\nVersion: 0.0.26~rc1\nArchitecture: all\nSection: games\n";
        let packages = read_control(text.as_bytes()).unwrap();
        assert_eq!(packages.len(), 2);
        assert_eq!(packages[0].path(), "/devel/g++?arch=amd64&version=4:12.2.0-3");
        assert_eq!(packages[1].path(), "/games/0ad?arch=all&version=0.0.26~rc1");
    }

    #[test]
    fn the_bundled_list_reads_and_holds_names_that_need_care() {
        let packages = bundled_packages().unwrap();
        assert!(packages.len() > 5_000);
        assert!(packages.iter().any(|package| package.name.contains("++")));
    }

    #[test]
    fn parts_hold_every_row_and_their_locs_are_all_different() {
        let folder = tempfile::tempdir().unwrap();
        let packages = bundled_packages().unwrap();
        let mut lines = Vec::new();
        let rows = write_parts(&packages, 1_000, folder.path(), |_, path| {
            lines.extend(std::fs::read_to_string(path)?.lines().map(str::to_owned));
            Ok(())
        })
        .unwrap();
        assert_eq!(rows, packages.len() as u64 + 1_000);
        assert_eq!(lines.len() as u64, rows);
        lines.sort_unstable();
        lines.dedup();
        assert_eq!(lines.len() as u64, rows);
    }
}
