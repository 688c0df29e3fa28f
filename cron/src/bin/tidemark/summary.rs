//! What a run did, as people read it. Programs read the record itself, which is JSON.

use comfy_table::{CellAlignment, Table, presets};
use serde::Deserialize;
use serde_json::Value;
use tidemark_sitemap::report::Report;

/// Entries of a list that are shown; the rest is counted.
const SHOWN_MAX: usize = 5;
/// The columns of sitemaps after their name, and where their counts stand.
const COLUMNS: [(&str, &str); 10] = [
    ("URLs", "/urls"),
    ("shards", "/shards"),
    ("new", "/published/files_new"),
    ("rewritten", "/published/files_rewritten"),
    ("removed", "/published/files_removed"),
    ("indexes written", "/published/indexes_written"),
    ("rows", "/report/input"),
    ("rejected", "/report/rejected"),
    ("duplicates", "/report/duplicates"),
    ("excluded", "/report/excluded"),
];

/// The `summary` of a run's record as lines, each with its end: of sitemaps a table, and below it what changed in each;
/// else a line `name: value` for every value, with the names that it is nested in before a dot. What is told in millionths
/// of a dollar is shown in dollars.
pub(crate) fn text(summary: &Value) -> String {
    let mut out = String::new();
    match summary["sitemaps"].as_array() {
        Some(sitemaps) => {
            out.push_str(&format!("{}\n", table(sitemaps)));
            sitemaps.iter().for_each(|sitemap| tell_sitemap(sitemap, &mut out));
        }
        None => tell("", summary, &mut out),
    }
    out
}

fn table(sitemaps: &[Value]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header(std::iter::once("sitemap").chain(COLUMNS.map(|(name, _)| name)));
    for sitemap in sitemaps {
        let counts = COLUMNS.map(|(_, pointer)| sitemap.pointer(pointer).map_or(0, count).to_string());
        table.add_row(std::iter::once(name(sitemap).to_owned()).chain(counts));
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

fn name(sitemap: &Value) -> &str {
    sitemap["site"].as_str().unwrap_or_default()
}

/// A count, how many there are in a list, or the sum of counts by reason.
fn count(value: &Value) -> u64 {
    match value {
        Value::Array(items) => items.len() as u64,
        Value::Object(counts) => counts.values().filter_map(Value::as_u64).sum(),
        other => other.as_u64().unwrap_or_default(),
    }
}

/// The files of a sitemap that changed, the reasons for which rows did not simply pass, and what was told to others.
fn tell_sitemap(sitemap: &Value, out: &mut String) {
    out.push_str(&format!("{}\n", name(sitemap)));
    let published = &sitemap["published"];
    let files = [
        ("new", &published["files_new"]),
        ("rewritten", &published["files_rewritten"]),
        ("removed", &published["files_removed"]),
        ("indexes written", &published["indexes_written"]),
        ("new indexes, for robots.txt", &published["indexes_new"]),
    ];
    if files.iter().all(|(_, files)| count(files) == 0) {
        let input = if sitemap["input_unchanged"] == true { ": the input is that of the run before" } else { "" };
        out.push_str(&format!("  nothing changed{input}\n"));
    }
    for (what, files) in files.into_iter().filter(|(_, files)| count(files) > 0) {
        tell(what, files, out);
    }
    let report = Report::deserialize(&sitemap["report"]).ok().filter(|report| report.input > 0);
    for line in report.iter().flat_map(|report| report.to_string().lines().map(str::to_owned).collect::<Vec<_>>()) {
        out.push_str(&format!("  {line}\n"));
    }
    for what in ["rejects", "accepted", "robots", "told", "invalidated"] {
        tell(what, &sitemap[what], out);
    }
}

/// A line for every value in `value`, which is called `name`; what is not there has none.
fn tell(name: &str, value: &Value, out: &mut String) {
    let inner = |key: &str| if name.is_empty() { key.to_owned() } else { format!("{name}.{key}") };
    match value {
        Value::Null => {}
        Value::Object(fields) => fields.iter().for_each(|(key, value)| tell(&inner(key), value, out)),
        Value::Array(items) if items.iter().any(|item| item.is_object() || item.is_array()) => {
            (1..).zip(items).for_each(|(number, item): (usize, _)| tell(&inner(&number.to_string()), item, out));
        }
        Value::Array(items) => tell_plain(name, &listed(items), out),
        plain => match (name.strip_suffix("_microusd"), plain.as_u64()) {
            (Some(name), Some(microusd)) => tell_plain(name, &format!("${:.6}", microusd as f64 / 1e6), out),
            _ => tell_plain(name, &shown(plain), out),
        },
    }
}

fn tell_plain(name: &str, text: &str, out: &mut String) {
    out.push_str(&format!("  {}: {text}\n", name.replace('_', " ")));
}

fn shown(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn listed(items: &[Value]) -> String {
    let first = items.iter().take(SHOWN_MAX).map(shown).collect::<Vec<_>>().join(", ");
    match items.len() {
        0 => "none".to_owned(),
        all if all > SHOWN_MAX => format!("{first} and {} more", all - SHOWN_MAX),
        _ => first,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn sitemap(site: &str, files_new: &[String]) -> Value {
        let (input, rejected) = if files_new.is_empty() { (0, json!({})) } else { (3010, json!({ "no address": 3 })) };
        json!({
            "site": site, "urls": 3000, "shards": 8, "input_unchanged": files_new.is_empty(),
            "report": {
                "input": input, "emitted": 3000, "duplicates": 7, "excluded": {}, "rejected": rejected, "dropped": {}, "flagged": {},
                "samples": [{ "outcome": "rejected", "reason": "no address", "line": 17, "value": "mailto:x" }],
            },
            "published": {
                "files_new": files_new, "files_rewritten": if files_new.is_empty() { vec![] } else { vec!["sitemap-00001.xml.gz"] },
                "files_removed": [], "indexes_written": if files_new.is_empty() { vec![] } else { vec!["sitemap-index.xml"] }, "indexes_new": [],
            },
            "rejects": null, "told": { "drained": { "told": 4 } }, "robots": { "written": false, "problem": null },
        })
    }

    #[test]
    fn sitemaps_are_a_table_of_counts_and_what_changed_in_each() {
        let files: Vec<String> = (2..9).map(|number| format!("sitemap-{number:05}.xml.gz")).collect();
        let text = text(&json!({ "sitemaps": [sitemap("shop", &files), sitemap("shop.news", &[])] }));
        let row = |site: &str| {
            let line = text.lines().find(|line| line.starts_with(&format!("│ {site} "))).unwrap();
            line.split(['│', '┆']).map(str::trim).filter(|cell| !cell.is_empty()).map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(row("sitemap")[1..], COLUMNS.map(|(name, _)| name.to_owned()));
        assert_eq!(row("shop"), ["shop", "3000", "8", "7", "1", "0", "1", "3010", "3", "7", "0"]);
        assert_eq!(row("shop.news"), ["shop.news", "3000", "8", "0", "0", "0", "0", "0", "0", "7", "0"]);
        let below = text.rsplit_once('┘').unwrap().1;
        let wanted = "\nshop\n  new: sitemap-00002.xml.gz, sitemap-00003.xml.gz, sitemap-00004.xml.gz, \
                      sitemap-00005.xml.gz, sitemap-00006.xml.gz and 2 more\n  rewritten: sitemap-00001.xml.gz\n  \
                      indexes written: sitemap-index.xml\n  \
                      3010 rows read = 3000 emitted + 7 duplicates + 0 excluded + 3 rejected\n    rejected: 3 x no address\n      \
                      line 17: mailto:x\n  robots.written: false\n  told.drained.told: 4\n\
                      shop.news\n  nothing changed: the input is that of the run before\n  robots.written: false\n  \
                      told.drained.told: 4\n";
        assert_eq!(below, wanted);
        let widths: Vec<usize> = text.lines().take(6).map(|line| line.chars().count()).collect();
        assert!(widths.iter().all(|width| *width == widths[0]), "aligned: {text}");
    }

    #[test]
    fn other_summaries_are_lines_of_names_and_values() {
        let summary = json!({
            "region": "us-east-1", "keys_written": 5, "dry_run": false, "hold": null, "files_retired": [],
            "published": { "files_new": ["a", "b"] }, "drops": [{ "before": 9 }], "cost_microusd": 12_345,
        });
        let mut lines: Vec<_> = text(&summary).lines().map(str::to_owned).collect();
        lines.sort();
        let wanted = [
            "  cost: $0.012345",
            "  drops.1.before: 9",
            "  dry run: false",
            "  files retired: none",
            "  keys written: 5",
            "  published.files new: a, b",
            "  region: us-east-1",
        ];
        assert_eq!(lines, wanted);
        assert_eq!(text(&Value::Null), "");
    }
}
