//! What becomes of a row: admitted, excluded or rejected, with its reason.

use super::*;
use crate::row::Row;

fn gate(zone: Option<&str>) -> Gate {
    let lastmod_zone = zone.map(|name| TimeZone::get(name).unwrap());
    let base = BaseUrl::parse("https://example.com").unwrap();
    of(Policy { lastmod_zone, ..Policy::new(base, 1_763_800_000_000) })
}

fn of(policy: Policy) -> Gate {
    Gate::new(policy, Ledger::new(Box::new(io::sink()))).unwrap()
}

fn fields(fields: [&str; 6]) -> RawPage<'_> {
    let mut page = RawPage { line: 2, ..RawPage::default() };
    page.fields[..6].copy_from_slice(&fields.map(str::as_bytes));
    page
}

#[test]
fn settings_may_be_left_out_and_a_mistake_names_its_line() {
    assert_eq!(Settings::parse("").unwrap(), Settings::default());
    let text = "hosts = [\"m.example.com\"]\nengines = [\"baidu\"]\n[canonical]\nquery = \"drop\"\n\
                [select]\nkinds = [\"product\"]\n[news]\nlanguage = \"en\"\n[columns]\nloc = \"url\"\n";
    let settings = Settings::parse(text).unwrap();
    assert_eq!(settings.narrow(Limits::default()).bytes_max, 10_485_760);
    let policy = Policy::new(BaseUrl::parse("https://example.com").unwrap(), 0).with(settings);
    assert_eq!((policy.columns.find("url"), policy.select.kinds.len(), policy.hosts.len()), (Some(0), 1, 1));
    let error = Settings::parse("[canonical]\nqueries = \"drop\"").unwrap_err().to_string();
    assert!(error.contains("line 2") && error.contains("queries"), "{error}");
}

#[test]
fn a_row_of_another_sitemap_is_excluded_with_the_reason_and_kinds_are_counted() {
    let base = BaseUrl::parse("https://example.com").unwrap();
    let select = Select { kinds: vec!["product".into()], within_hours: Some(48), ..Select::default() };
    let mut gate = of(Policy { select, ..Policy::new(base, 1_763_800_000_000) });
    let mut out = Vec::new();
    for (kind, lastmod, taken) in [
        ("product", "2025-11-22", true),
        ("product", "2025-11-19", false),
        ("product", "", false),
        ("article", "2025-11-22", false),
        ("", "2025-11-22", false),
    ] {
        let mut page = fields(["/abcdef", lastmod, "", "", "", ""]);
        page.fields[Column::Kind as usize] = kind.as_bytes();
        assert_eq!(gate.admit(&page, &mut out).unwrap(), taken, "{kind} {lastmod}");
    }
    let report = gate.close(1).unwrap();
    assert!(report.adds_up());
    assert_eq!(report.excluded.values().copied().collect::<Vec<_>>(), [2, 1, 1], "{report}");
    assert_eq!(report.kinds.get("product"), Some(&1));
}

#[test]
fn a_bad_field_is_dropped_and_its_row_stays() {
    let (mut gate, mut out) = (gate(None), Vec::new());
    assert!(gate.admit(&fields(["/abcdef", "2025-13-01", "sometimes", "1.1", "", ""]), &mut out).unwrap());
    let row = Row::first(&out).unwrap();
    assert_eq!(row.loc(), b"https://example.com/abcdef");
    assert!(row.lastmod().is_empty() && row.changefreq().is_empty() && row.priority().is_empty());
    let report = gate.close(1).unwrap();
    assert_eq!(report.dropped.values().sum::<u64>(), 3);
    assert!(report.adds_up() && report.rejected.is_empty());
}

#[test]
fn what_is_not_to_be_indexed_is_excluded_and_counted() {
    let (mut gate, mut out) = (gate(None), Vec::new());
    let cases =
        [("no", ""), (" FALSE ", ""), ("", "404"), ("", " 410"), ("", "301.0"), ("yes", "redirect"), ("yes", "404.0")];
    for (index, status) in cases {
        assert!(!gate.admit(&fields(["/abcdef", "", "", "", index, status]), &mut out).unwrap());
        assert!(out.is_empty(), "what is left out leaves nothing behind");
    }
    for (index, status) in [("yes", "200"), ("", "500"), ("maybe", "soon")] {
        assert!(gate.admit(&fields(["/abcdef", "", "", "", index, status]), &mut out).unwrap());
    }
    let report = gate.close(3).unwrap();
    assert_eq!((report.excluded_total(), report.flagged.values().sum::<u64>()), (7, 2));
    assert!(report.adds_up());
}

#[test]
fn a_future_lastmod_is_flagged_and_kept() {
    let (mut gate, mut out) = (gate(None), Vec::new());
    for lastmod in ["2025-11-22", "2025-11-23T23:00:00Z", "2025-11-24", "2040-01-01T00:00:00Z"] {
        out.clear();
        assert!(gate.admit(&fields(["/abcdef", lastmod, "", "", "", ""]), &mut out).unwrap());
        assert_eq!(Row::first(&out).unwrap().lastmod(), lastmod.as_bytes());
    }
    assert_eq!(gate.close(4).unwrap().flagged.values().sum::<u64>(), 2);
}

#[test]
fn priorities_that_are_written_otherwise_are_rounded() {
    let cases = [
        (".5", "0.5"),
        ("1e0", "1.0"),
        ("0.3333333333333333", "0.3333"),
        ("1e-7", "0.0"),
        ("0.30000000000000004", "0.3"),
    ];
    for (given, wanted) in cases {
        assert_eq!(rounded(given).as_deref(), Some(wanted), "{given}");
        assert!(is_priority(wanted.as_bytes()));
    }
    for bad in ["1.00001", "-0.1", "nan", "inf", "0,5", "", "high"] {
        assert_eq!(rounded(bad), None, "{bad}");
    }
}

#[test]
fn priorities_are_decimals_from_zero_to_one() {
    for good in ["0", "1", "0.5", "1.0", "0.85", "1.00"] {
        assert!(is_priority(good.as_bytes()), "{good}");
    }
    for bad in ["", ".5", "1.", "1.1", "-0.1", "2", "0,5", "1e-1", "0.1234567"] {
        assert!(!is_priority(bad.as_bytes()), "{bad}");
    }
}

#[test]
fn the_short_way_makes_the_row_that_the_long_one_makes() {
    let base = || Policy::new(BaseUrl::parse("https://example.com/shop").unwrap(), 1_763_800_000_000);
    let own = "https://example.com";
    let policies = [
        base(),
        base().with(Settings::parse("hosts = [\"m.example.com\"]").unwrap()),
        base().with(Settings::parse("canonical.trailing_slash = \"remove\"").unwrap()),
        base().with(Settings::parse("canonical.scheme = \"base\"").unwrap()),
        base().with(Settings::parse("sort_key = true").unwrap()),
        base().with(Settings::parse("[select]\nwithin_hours = 48").unwrap()),
        base().with(Settings::parse("[select]\nnews = true\n[news]\nname = \"a\"\nlanguage = \"en\"").unwrap()),
    ];
    let (longest, too_long) = ("a".repeat(2047 - own.len() - 1), "a".repeat(2048 - own.len() - 1));
    let locs = [
        format!("{own}/a/"),
        own.to_owned(),
        format!("{own}?b=1"),
        format!("{own}.evil.org/"),
        format!("{own}:443/a"),
        format!("{own}/{longest}"),
        format!("{own}/{too_long}"),
        "https://m.example.com/a".to_owned(),
        "http://example.com/a".to_owned(),
        "/a".to_owned(),
        "a".to_owned(),
        String::new(),
    ];
    let lastmods = [
        "2025-11-20T23:59:59Z",
        "2025-11-21T00:00:00Z",
        "2025-11-22T01:00:00Z",
        "2025-11-24T00:00:00Z",
        "2025-02-30T00:00:00Z",
        "2025-11-20T23:59:59",
        "2025-11-20",
        "",
    ];
    let mut short_ways = 0;
    for policy in policies {
        let (mut short, mut long) = (of(policy.clone()), of(policy));
        for (loc, lastmod) in locs.iter().flat_map(|loc| lastmods.map(|lastmod| (loc.as_bytes(), lastmod.as_bytes()))) {
            let page = RawPage::plain(loc, lastmod, 7);
            let (mut out, mut wanted) = (b"before".to_vec(), b"before".to_vec());
            let is_short = short.admit_plain(loc, lastmod, &mut out);
            assert!(is_short || out == b"before", "nothing was done");
            let admitted = is_short || short.admit(&page, &mut out).unwrap();
            assert_eq!(admitted, long.admit(&page, &mut wanted).unwrap(), "{page:?}");
            assert_eq!(out, wanted, "{page:?}");
            assert_eq!((short.moved, &short.elsewhere), (long.moved, &long.elsewhere));
            short_ways += u32::from(is_short);
        }
        assert_eq!(short.ledger.report, long.ledger.report);
    }
    // Four addresses at one time and on one day, by three of the policies.
    assert_eq!(short_ways, 24);
}
