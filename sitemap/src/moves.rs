//! Pages that change their shard though both shards stay: where rows are sorted by a key, a page may get another one.
//!
//! Between the writes of the two files such a page could be in neither. So the file that gains one is given a new name, and
//! publishing treats it as it does a split: the page, and all of that shard, are in a new file before the old ones change.

use crate::build::{Built, Packing, Stray, new_file};
use crate::difference::{DifferenceError, copy_changed, page_of, sorted_pages, unpack};
use crate::keys;
use crate::manifest::Retired;
use crate::refresh::Pass;
use crate::sort::SortError;
use aws_sdk_s3::Client;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::Path;
use std::{fs, io, iter};

/// Gives the shards of `built` that gain pages of others that stay new files. The public files as they are lie in `dir`;
/// sorts in `work_dir`.
///
/// # Errors
/// Where a file cannot be read or moved.
pub(crate) fn set_apart(
    built: &mut Built,
    strays: &[Stray],
    (packing, since_ms): (Packing, i64),
    (dir, work_dir): (&Path, &Path),
) -> Result<(), DifferenceError<io::Error>> {
    let files = staying(built);
    if files.len() < 2 {
        return Ok(());
    }
    let gaining = gaining(built, &files, dir, work_dir)?;
    let mut used: HashSet<String> = built.manifest.shards.iter().map(|shard| shard.file.clone()).collect();
    let mut number = built.previous.next_number;
    for file in gaining {
        let change = built.changes.iter_mut().find(|change| change.file == file);
        let shard = built.manifest.shards.iter_mut().find(|shard| shard.file == file);
        let (Some(change), Some(shard)) = (change, shard) else { continue };
        // Numbers begin where this run's own did, so that a run after a killed one finds its files again.
        let mut names = iter::repeat_with(|| new_file(packing, strays, &mut number, &shard.file_hash));
        let name = names.find(|name| !used.contains(name)).unwrap_or_default();
        let staged = change.staged.with_file_name(&name);
        fs::rename(&change.staged, &staged).map_err(DifferenceError::Other)?;
        (change.file, change.staged) = (name.clone(), staged);
        // Publishing gives it its index.
        (shard.file, shard.index) = (name.clone(), 1);
        built.strays.retain(|stray| *stray != name);
        built.manifest.retired.retain(|old| old.file != name);
        built.manifest.retired.push(Retired { file, since_ms });
        used.insert(name);
    }
    built.manifest.next_number = built.manifest.next_number.max(number);
    Ok(())
}

/// The same for files in the site's bucket, which are copied for that.
///
/// # Errors
/// As [`set_apart`].
pub(crate) async fn set_apart_public(
    s3: &Client,
    pass: &Pass<'_>,
    mut built: Built,
) -> Result<Built, DifferenceError<io::Error>> {
    if staying(&built).len() < 2 {
        return Ok(built);
    }
    let (work_dir, options) = (pass.attempt.work_dir, pass.options);
    let public = work_dir.join(keys::PUBLIC_DIR);
    fs::create_dir_all(&public).map_err(DifferenceError::Other)?;
    copy_changed(s3, &pass.site.target, &built, &public).await.map_err(DifferenceError::Other)?;
    set_apart(&mut built, pass.strays, (options.packing, options.changed_ms), (&public, work_dir))?;
    Ok(built)
}

/// The files that stay and change: a page moves from one of them to another, or not at all.
fn staying(built: &Built) -> Vec<String> {
    let known: HashSet<&str> = built.previous.shards.iter().map(|shard| shard.file.as_str()).collect();
    let files = built.changes.iter().map(|change| change.file.as_str());
    files.filter(|file| known.contains(file)).map(str::to_owned).collect()
}

/// Those of `files`, which all stay, into which a page comes that is in another of them now.
fn gaining(
    built: &Built,
    files: &[String],
    dir: &Path,
    work_dir: &Path,
) -> Result<BTreeSet<String>, DifferenceError<io::Error>> {
    let made: HashMap<&str, &Path> =
        built.changes.iter().map(|change| (change.file.as_str(), change.staged.as_path())).collect();
    let mut read_old = |file: &str| match fs::read(dir.join(file)) {
        Ok(bytes) => unpack(bytes),
        // It went, and crawlers find nothing in it.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    };
    let mut read_new = |file: &str| fs::read(made[file]).and_then(unpack);
    let sorter = sorted_pages((files, &mut read_old), (files, &mut read_new), work_dir)?;
    let (mut gaining, mut loc, mut homes) = (BTreeSet::new(), String::new(), Vec::new());
    sorter.drain(|record| {
        let Some((is_new, file, page)) = page_of(record) else { return Ok(()) };
        if page.loc != loc {
            loc = page.loc;
            homes.clear();
        }
        if !is_new {
            homes.push(file);
        } else if !homes.is_empty() && !homes.contains(&file) {
            gaining.extend(files.get(file).cloned());
        }
        Ok::<_, SortError>(())
    })?;
    Ok(gaining)
}
