//! The history as one HTML document. Charts are SVG that is stretched to its box; words stand in HTML beside them, so
//! that they keep their size on a phone.

use super::{Entry, History};
use std::collections::BTreeMap;
use std::fmt::Write;

const STYLE: &str = include_str!("page.css");
/// Runs in the table.
const ROWS_MAX: usize = 30;
/// The charts' own units.
const WIDTH: f64 = 1000.0;
const HEIGHT: f64 = 200.0;

type Series = (&'static str, &'static str, fn(&Entry) -> u64);

const CHANGES: [Series; 3] = [
    ("new", "new", |run| run.files_new),
    ("rewritten", "rewritten", |run| run.files_rewritten),
    ("removed", "removed", |run| run.files_removed),
];

pub(super) fn render(history: &History) -> String {
    let title = escape(&history.sitemap);
    let mut out = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<meta name=\"robots\" content=\"noindex\">\n\
         <title>Sitemap of {title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{title}</h1>\n"
    );
    match history.runs.last() {
        None => out.push_str("<p>No run yet.</p>\n"),
        Some(last) => {
            summary(&mut out, history, last);
            line_chart(&mut out, "URLs over runs", &history.runs, |run| run.urls);
            line_chart(&mut out, "Shards over runs", &history.runs, |run| run.shards);
            changes_chart(&mut out, &history.runs);
            reasons(&mut out, "Rejected rows of the last run, by reason", &last.rejected);
            reasons(&mut out, "Excluded rows of the last run, by reason", &last.excluded);
            reasons(&mut out, "Fields dropped in the last run, by reason", &last.dropped);
            reasons(&mut out, "To look at in the last run", &last.flagged);
            accepted(&mut out, &history.runs);
            samples(&mut out, history);
            table(&mut out, &history.runs);
        }
    }
    out.push_str("</main>\n</body>\n</html>\n");
    out
}

/// Formatting into a `String` cannot fail.
macro_rules! put {
    ($out:expr, $($part:tt)*) => { write!($out, $($part)*).unwrap_or_default() };
}

/// Drops that somebody allowed, the last first.
fn accepted(out: &mut String, runs: &[Entry]) {
    let mut runs = runs.iter().rev().filter_map(|run| Some((run, run.accepted.as_ref()?))).peekable();
    if runs.peek().is_none() {
        return;
    }
    out.push_str("<h2>Drops that were allowed</h2>\n<ul>\n");
    for (run, accepted) in runs.take(ROWS_MAX) {
        let drops: Vec<String> = accepted.drops.iter().map(ToString::to_string).collect();
        put!(out, "<li>{}: {} ({})</li>\n", escape(&run.run), escape(&drops.join("; ")), escape(&accepted.by));
    }
    out.push_str("</ul>\n");
}

fn summary(out: &mut String, history: &History, last: &Entry) {
    let before = history.runs.len().checked_sub(2).map(|at| &history.runs[at]);
    let step = |value: fn(&Entry) -> u64| match before.map(|before| (value(last), value(before))) {
        Some((now, then)) if now > then => format!("+{}", grouped(now - then)),
        Some((now, then)) if now < then => format!("-{}", grouped(then - now)),
        Some(_) => "unchanged".to_owned(),
        None => "first run".to_owned(),
    };
    let sum = |counts: &BTreeMap<String, u64>| counts.values().sum::<u64>();
    let tiles = [
        ("URLs", grouped(last.urls), step(|run| run.urls)),
        ("shards", grouped(last.shards), step(|run| run.shards)),
        ("files written", grouped(last.files_new + last.files_rewritten), "in the last run".to_owned()),
        ("rows read", grouped(last.input), format!("{} duplicates", grouped(last.duplicates))),
        ("rejected", grouped(sum(&last.rejected)), format!("{} excluded", grouped(sum(&last.excluded)))),
    ];
    put!(
        out,
        "<p>Last run {} on {}, in {} s.</p>\n<ul class=\"tiles\">\n",
        escape(&last.run),
        time(last.at_ms),
        seconds(last.took_ms)
    );
    for (name, value, beside) in tiles {
        put!(out, "<li><b>{value}</b> {name}<small>{beside}</small></li>\n");
    }
    out.push_str("</ul>\n");
}

fn line_chart(out: &mut String, title: &str, runs: &[Entry], value: fn(&Entry) -> u64) {
    let (least, most) = runs.iter().map(value).fold((u64::MAX, 0), |(least, most), v| (least.min(v), most.max(v)));
    // A scale that begins at zero, unless all values are close together: then their differences are what is to be seen.
    let from = if least > most / 2 && least < most { least - (most - least).min(least) } else { 0 };
    let height = |value: u64| HEIGHT - (value - from) as f64 / (most - from).max(1) as f64 * (HEIGHT - 10.0);
    let place = |at: usize| if runs.len() < 2 { WIDTH / 2.0 } else { at as f64 / (runs.len() - 1) as f64 * WIDTH };
    let points: Vec<(f64, f64)> = runs.iter().enumerate().map(|(at, run)| (place(at), height(value(run)))).collect();
    let path: String = points.iter().map(|(x, y)| format!("{x:.1},{y:.1} ")).collect();
    open_chart(out, title, &grouped(most), &grouped(from), runs);
    let (first, last) = (points.first().map_or(0.0, |p| p.0), points.last().map_or(0.0, |p| p.0));
    put!(
        out,
        "<polygon class=\"area\" points=\"{first:.1},{HEIGHT} {path}{last:.1},{HEIGHT}\"/>\n<polyline points=\"{}\"/>\n",
        path.trim_end()
    );
    if let [(x, y)] = points.as_slice() {
        put!(out, "<circle cx=\"{x}\" cy=\"{y:.1}\" r=\"4\"/>\n");
    }
    hints(out, runs, |run| grouped(value(run)));
    close_chart(out, runs);
}

fn changes_chart(out: &mut String, runs: &[Entry]) {
    let total = |run: &Entry| CHANGES.iter().map(|(_, _, value)| value(run)).sum::<u64>();
    let most = runs.iter().map(total).max().unwrap_or(0);
    open_chart(out, "Files changed per run", &grouped(most), "0", runs);
    let step = WIDTH / runs.len().max(1) as f64;
    for (at, run) in runs.iter().enumerate() {
        let mut top = HEIGHT;
        for (class, _, value) in CHANGES {
            let size = value(run) as f64 / most.max(1) as f64 * (HEIGHT - 10.0);
            if size > 0.0 {
                top -= size;
                let (x, width) = (at as f64 * step + step * 0.1, step * 0.8);
                put!(
                    out,
                    "<rect class=\"{class}\" x=\"{x:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{size:.1}\"/>\n"
                );
            }
        }
    }
    hints(out, runs, |run| CHANGES.map(|(_, name, value)| format!("{} {name}", value(run))).join(", "));
    close_chart(out, runs);
    out.push_str("<p class=\"legend\">");
    for (class, name, _) in CHANGES {
        put!(out, "<span><i class=\"{class}\"></i>{name}</span> ");
    }
    out.push_str("</p>\n");
}

fn open_chart(out: &mut String, title: &str, most: &str, least: &str, runs: &[Entry]) {
    put!(
        out,
        "<h2>{title}</h2>\n<div class=\"chart\"><div class=\"scale\"><span>{most}</span><span>{least}</span></div>\n\
         <svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" preserveAspectRatio=\"none\" role=\"img\" aria-label=\"{title}: {} runs\">\n",
        runs.len()
    );
}

/// What a pointer over a run's part of the chart shows.
fn hints(out: &mut String, runs: &[Entry], said: impl Fn(&Entry) -> String) {
    let step = WIDTH / runs.len().max(1) as f64;
    for (at, run) in runs.iter().enumerate() {
        let x = at as f64 * step;
        let (time, said) = (time(run.at_ms), escape(&said(run)));
        put!(
            out,
            "<rect class=\"hint\" x=\"{x:.1}\" y=\"0\" width=\"{step:.1}\" height=\"{HEIGHT}\"><title>{time}: {said}</title></rect>\n"
        );
    }
}

fn close_chart(out: &mut String, runs: &[Entry]) {
    let day = |run: Option<&Entry>| run.map(|run| time(run.at_ms)).unwrap_or_default();
    let last = if runs.len() > 1 { day(runs.last()) } else { String::new() };
    put!(out, "</svg></div>\n<p class=\"axis\"><span>{}</span><span>{last}</span></p>\n", day(runs.first()));
}

fn reasons(out: &mut String, title: &str, counts: &BTreeMap<String, u64>) {
    let most = counts.values().copied().max().unwrap_or(0).max(1);
    if counts.is_empty() {
        return;
    }
    let mut sorted: Vec<_> = counts.iter().collect();
    sorted.sort_by_key(|(reason, count)| (std::cmp::Reverse(**count), reason.as_str()));
    put!(out, "<h2>{title}</h2>\n<ul class=\"bars\">\n");
    for (reason, count) in sorted {
        let share = *count as f64 / most as f64 * 100.0;
        put!(
            out,
            "<li><span>{}</span><b>{}</b><i style=\"width:{share:.1}%\"></i></li>\n",
            escape(reason),
            grouped(*count)
        );
    }
    out.push_str("</ul>\n");
}

fn samples(out: &mut String, history: &History) {
    if history.samples.is_empty() {
        return;
    }
    out.push_str("<h2>Examples</h2>\n<div class=\"wide\"><table>\n<tr><th>line</th><th>what</th><th>value</th></tr>\n");
    for sample in &history.samples {
        let (reason, value) = (escape(&sample.reason), escape(&sample.value));
        put!(out, "<tr><td>{}</td><td>{reason}</td><td><code>{value}</code></td></tr>\n", sample.line);
    }
    out.push_str("</table></div>\n");
}

fn table(out: &mut String, runs: &[Entry]) {
    out.push_str(
        "<h2>Runs</h2>\n<div class=\"wide\"><table>\n<tr><th>time (UTC)</th><th>URLs</th><th>shards</th><th>new</th>\
         <th>rewritten</th><th>removed</th><th>rejected</th><th>seconds</th></tr>\n",
    );
    for run in runs.iter().rev().take(ROWS_MAX) {
        let numbers =
            [run.urls, run.shards, run.files_new, run.files_rewritten, run.files_removed, run.rejected.values().sum()];
        put!(out, "<tr><td>{}</td>", time(run.at_ms));
        for number in numbers {
            put!(out, "<td>{}</td>", grouped(number));
        }
        put!(out, "<td>{}</td></tr>\n", seconds(run.took_ms));
    }
    out.push_str("</table></div>\n");
}

fn time(at_ms: i64) -> String {
    jiff::Timestamp::from_millisecond(at_ms)
        .map_or_else(|_| String::new(), |at| at.strftime("%Y-%m-%d %H:%M").to_string())
}

fn seconds(ms: i64) -> String {
    format!("{:.1}", ms.max(0) as f64 / 1000.0)
}

/// `1234567` as `1,234,567`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (at, digit) in digits.char_indices() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Text as it may stand in an element or in a quoted attribute. A colon of an address is written so that nothing takes
/// it for a link.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            ':' => out.push_str("&#58;"),
            '=' => out.push_str("&#61;"),
            c => out.push(c),
        }
    }
    out
}
