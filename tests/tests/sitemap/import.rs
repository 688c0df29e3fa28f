//! A sitemap of another tool is taken over in the bucket where it lies: killed at every call, with crawlers looking on;
//! and refused wherever they could lose a page.

use crate::athena::Stage;
use crate::edge::FILES_URL;
use crate::kill::{RULES, kill_at_every_call};
use crate::rollback::{roll_back, versions};
use crate::store::{PUBLIC, STATE};
use crate::world::{AFTER_LEASE_MS, Fate, Input, Job, Rules, Work, World, common, pages, wanted};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::time::Duration;
use tidemark_cron::jobs::sitemap_import;
use tidemark_sitemap::import::TakenOver;
use tidemark_sitemap::keys::INDEX;
use tidemark_tests::indexnow::{Engine, KEY};

/// Where the old index lies: in the place of ours, or beside it.
const OLD: &str = "sitemap.xml";
const KEPT: [&str; 2] = ["products-1.xml.gz", "sitemap-00007.xml.gz"];
/// One has the name that a new file would have next.
const LEFT: [&str; 2] = ["mixed-1.xml.gz", "sitemap-00008.xml.gz"];

/// Which pages each file of the old sitemap holds: two among each other's.
fn old_files() -> [(&'static str, Vec<u32>); 4] {
    [
        (KEPT[0], (0..40).rev().map(|n| n * 10).collect()),
        (LEFT[0], (0..10).map(|n| 500 + n * 4).collect()),
        (LEFT[1], (0..10).map(|n| 502 + n * 4).collect()),
        (KEPT[1], (0..30).map(|n| 1000 + n).collect()),
    ]
}

fn old_pages() -> Input {
    pages(old_files().into_iter().flat_map(|(_, pages)| pages))
}

/// Most of them, with edits, new ones among them and behind, and so many in the first file's range that it splits.
fn next_pages() -> Input {
    let mut next = old_pages();
    next.extend((0..30).map(|n| (n * 10 + 1, 3)));
    next.retain(|page, _| !(1003..1008).contains(page));
    next.extend((0..20).map(|n| (2000 + n, 4)));
    next.insert(506, 9);
    next
}

fn gzip(xml: &str) -> Vec<u8> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    out.write_all(xml.as_bytes()).unwrap();
    out.finish().unwrap()
}

/// A file as another program writes it, with spacing of its own.
fn old_file(base: &str, pages: &[u32]) -> Vec<u8> {
    let url = |page: &u32| {
        format!("  <url>\n    <loc>{base}/p/{page:06}</loc>\n    <lastmod>2025-01-02</lastmod>\n  </url>\n")
    };
    let urls: String = pages.iter().map(url).collect();
    gzip(&format!("<urlset xmlns=\"http://www.sitemaps.org/schemas/sitemap/0.9\">\n{urls}</urlset>"))
}

fn old_index(files_url: &str, files: &[&str]) -> Vec<u8> {
    let entry = |file: &&str| {
        let loc = if file.contains("://") { (*file).to_owned() } else { format!("{files_url}/{file}") };
        format!("  <sitemap><loc>{loc}</loc>\n<lastmod>2025-02-0{}</lastmod></sitemap>\n", file.len() % 7 + 1)
    };
    let entries: String = files.iter().map(entry).collect();
    format!("<sitemapindex xmlns=\"http://www.sitemaps.org/schemas/sitemap/0.9\">\n{entries}</sitemapindex>")
        .into_bytes()
}

fn put(world: &World, key: &str, bytes: Vec<u8>) {
    world.store.objects().put(PUBLIC, key, bytes, BTreeMap::new());
}

/// Puts an index where our crawlers do not look, or one that they would not follow.
fn put_unseen(world: &World, key: &str, bytes: Vec<u8>) {
    let edge = world.store.objects().edge.take();
    put(world, key, bytes);
    world.store.objects().edge = edge;
}

/// A site that another tool made a sitemap of, whose index is `index`.
fn old_world(rules: Rules, index: &str) -> World {
    let world = World::new(rules, true);
    for (file, pages) in old_files() {
        put(&world, file, old_file(FILES_URL, &pages));
    }
    let bytes = old_index(FILES_URL, &old_files().map(|(file, _)| file));
    if index == INDEX {
        put(&world, index, bytes)
    } else {
        put_unseen(&world, index, bytes)
    }
    world.pass();
    world.store.objects().public_writes.clear();
    world
}

fn compare_only(job: &Job) -> Job {
    let Work::Import { indexes, input, .. } = job.work.clone() else { panic!("no import") };
    Job { work: Work::Import { indexes, input, switch: false }, ..job.clone() }
}

fn taken(world: &World, job: &Job) -> TakenOver {
    let mut running = world.start(0, job);
    while let Some(call) = running.next_call(&world.store) {
        let answer = world.store.perform(&call.request);
        call.answer(answer);
    }
    running.outcome.expect("an end").unwrap();
    assert_eq!(world.store.objects().breaches, Vec::<String>::new());
    running.taken_over.lock().unwrap().clone().expect("a takeover")
}

/// Why `job` is refused; nothing that crawlers see was written, and nothing committed.
fn refused(world: &World, job: &Job) -> String {
    let committed = |world: &World| {
        let objects = world.store.objects();
        objects.all(STATE).into_iter().filter(|(key, _)| key.contains("/manifests/")).count()
    };
    let (before, writes) = (committed(world), world.store.objects().public_writes.len());
    let (outcome, _) = world.run_into(job, usize::MAX, Fate::Busy);
    assert_eq!((committed(world), world.store.objects().public_writes.len()), (before, writes));
    outcome.expect("an end").expect_err("a refusal").to_string()
}

#[test]
fn comparing_tells_what_is_kept_and_writes_nothing() {
    for index in [INDEX, OLD] {
        let world = old_world(RULES, index);
        let before = world.store.objects().all(STATE);
        let told = taken(&world, &compare_only(&Job::import("look", &[index], &next_pages())));
        assert_eq!(world.store.objects().all(STATE), before);
        assert_eq!(world.store.objects().public_writes, [""; 0]);
        assert_eq!((told.kept.as_slice(), told.urls, told.foreign), (KEPT.map(str::to_owned).as_slice(), 90, 0));
        let reasons: Vec<_> = told.not_kept.iter().map(|(file, reason)| format!("{file}: {reason}")).collect();
        let among = |one, other| format!("{one}: its pages lie among those of {other}");
        assert_eq!(reasons, [among(LEFT[0], LEFT[1]), among(LEFT[1], LEFT[0])]);
        let comparison = &told.comparison;
        let counts = (comparison.same, comparison.only_there, comparison.only_here, comparison.lastmod_differs);
        assert_eq!(counts, (84, 5, 50, 1), "{comparison:?}");
        assert!(!told.switched && told.manifest.is_none());
    }
}

#[test]
fn a_takeover_killed_at_any_call_loses_no_page_and_the_resumed_one_ends_the_same() {
    let (old, next) = (old_pages(), next_pages());
    for grace_hours in [0, 24] {
        let before = old_world(Rules { grace_hours, ..RULES }, INDEX);
        let job = Job::import("import", &[INDEX], &next);
        let calls = kill_at_every_call(&before, &job, [&old, &old, &next]);
        assert!(calls > 10, "{calls} calls only");
    }
}

#[test]
fn an_index_elsewhere_stays_and_ours_names_all_that_it_named_or_nothing() {
    let before = old_world(RULES, OLD);
    let job = Job::import("import", &[OLD], &next_pages());
    let unhurt = before.copy();
    let calls = unhurt.run(&job);
    assert_eq!(unhurt.crawl(), wanted(&old_pages()));
    assert_eq!(unhurt.store.objects().public_writes, [INDEX], "no file of theirs is touched");
    for at in 1..=calls {
        for fate in [Fate::DieBefore, Fate::DieAfter, Fate::LoseAnswer] {
            let world = before.copy();
            world.run_into(&job, at, fate);
            let seen = world.crawl();
            assert!(seen.is_empty() || seen == wanted(&old_pages()), "call {at} met {fate:?}");
            world.run(&job.again());
            assert_eq!(world.outcome(), unhurt.outcome(), "call {at} met {fate:?}");
        }
    }
    let again = Job::import("again", &[OLD], &next_pages()).later(AFTER_LEASE_MS);
    let problem = refused(&unhurt, &again);
    assert!(problem.contains("has a sitemap already, by the run import"), "{problem}");
    assert_eq!(taken(&unhurt, &compare_only(&again)).urls, 90, "comparing is always allowed");
}

#[test]
fn the_first_run_keeps_names_and_loses_no_page_wherever_it_is_killed() {
    let (old, next) = (old_pages(), next_pages());
    let mut third = next.clone();
    third.retain(|page, _| page % 3 != 0);
    for index in [INDEX, OLD] {
        let world = old_world(RULES, index);
        world.run(&Job::import("import", &[index], &next));
        world.pass();
        let job = Job::new("first", &next).later(AFTER_LEASE_MS);
        let calls = kill_at_every_call(&world, &job, [&old, &next, &third]);
        assert!(calls > 20, "{calls} calls only");

        world.must_keep(common(&[&old, &next]));
        world.run(&job);
        let manifest = world.manifest().unwrap();
        let files: BTreeSet<&str> = manifest.shards.iter().map(|shard| shard.file.as_str()).collect();
        assert!(KEPT.iter().all(|file| files.contains(file)), "{files:?}");
        let rewritten = world.store.objects().public_writes.clone();
        assert!(KEPT.iter().all(|file| rewritten.iter().filter(|key| key == file).count() == 1), "{rewritten:?}");
        assert!(files.iter().all(|file| KEPT.contains(file) || *file > "sitemap-00007"), "{files:?}");
        let retired: BTreeSet<&str> = manifest.retired.iter().map(|old| old.file.as_str()).collect();
        assert_eq!((retired, manifest.outgoing.len()), (BTreeSet::from(LEFT), 0));
        world.run(&Job::new("second", &next).later(2 * AFTER_LEASE_MS));
        let left = world.store.objects().all(PUBLIC);
        assert!(LEFT.iter().all(|file| !left.contains_key(*file)), "they went after the grace");
        assert_eq!((world.crawl(), world.disagreement()), (wanted(&next), None));
    }
}

#[test]
fn there_are_no_plans_until_the_first_run() {
    let world = old_world(RULES, OLD);
    let next = next_pages();
    world.run(&Job::import("import", &[OLD], &next));
    let plan = Job { work: Work::Plan(next.clone()), ..Job::new("plan", &next) };
    let problem = refused(&world, &plan.later(AFTER_LEASE_MS));
    assert!(problem.contains("are still those of the tool"), "{problem}");
    world.run(&Job::new("first", &next).later(AFTER_LEASE_MS));
    world.run(&plan.later(2 * AFTER_LEASE_MS));
}

#[test]
fn several_indexes_become_one_that_names_all() {
    let next = next_pages();
    let world = old_world(RULES, OLD);
    let files = old_files().map(|(file, _)| file);
    put_unseen(&world, OLD, old_index(FILES_URL, &files[..2]));
    put_unseen(&world, INDEX, old_index(FILES_URL, &files[2..]));
    let told = taken(&world, &Job::import("import", &[OLD, INDEX], &next));
    assert_eq!((told.kept.as_slice(), told.urls), (KEPT.map(str::to_owned).as_slice(), 90));
    assert_eq!(told.old_indexes, [OLD, INDEX].map(|index| format!("{FILES_URL}/{index}")));
    assert_eq!(world.crawl(), wanted(&old_pages()));
    world.pass();
    world.must_keep(common(&[&old_pages(), &next]));
    world.run(&Job::new("first", &next).later(AFTER_LEASE_MS));
    world.run(&Job::new("second", &next).later(2 * AFTER_LEASE_MS));
    assert_eq!((world.crawl(), world.disagreement()), (wanted(&next), None));

    let world = old_world(Rules { per_index: 3, ..RULES }, OLD);
    let problem = refused(&world, &Job::import("import", &[OLD], &next));
    assert!(problem.contains("names 4 files: at most 3"), "{problem}");
}

#[test]
fn a_run_in_the_place_of_a_killed_takeover_clears_its_files_away() {
    let before = old_world(RULES, INDEX);
    let import = Job::import("import", &[INDEX], &next_pages());
    let calls = before.copy().run(&import);
    let index_written = (1..=calls).find_map(|at| {
        let world = before.copy();
        let (_, hurt) = world.run_into(&import, at, Fate::DieAfter);
        (hurt == format!("PUT {PUBLIC}/{INDEX}")).then_some(world)
    });
    let world = index_written.expect("a write of the index");
    world.run(&Job::new("first", &next_pages()).later(AFTER_LEASE_MS));
    world.run(&Job::new("second", &next_pages()).later(2 * AFTER_LEASE_MS));
    let left = world.store.objects().all(PUBLIC);
    let manifest = world.manifest().unwrap();
    for (file, _) in old_files() {
        let known = manifest.shards.iter().any(|shard| shard.file == file);
        assert_eq!(left.contains_key(file), known, "{file}");
    }
}

#[test]
fn an_index_in_our_place_is_replaced_only_where_it_is_the_one_that_was_read() {
    let job = Job::import("import", &[INDEX], &next_pages());
    let mut world = old_world(RULES, INDEX);
    world.web.insert(INDEX.to_owned(), old_index(FILES_URL, &KEPT));
    let problem = refused(&world, &job);
    assert!(problem.contains("is not what lies at s3://public/sitemap-index.xml"), "{problem}");

    let world = old_world(RULES, INDEX);
    let theirs = old_index(FILES_URL, &LEFT);
    let mut running = world.start(0, &job);
    while let Some(call) = running.next_call(&world.store) {
        if call.describe() == format!("PUT {PUBLIC}/{INDEX}") {
            put(&world, INDEX, theirs.clone());
        }
        let answer = world.store.perform(&call.request);
        call.answer(answer);
    }
    let problem = running.outcome.expect("an end").unwrap_err().to_string();
    assert!(problem.contains("somebody else wrote it"), "{problem}");
    assert_eq!(*world.store.objects().get(PUBLIC, INDEX).unwrap().bytes, theirs);
    assert!(world.manifest().is_none());

    let world = old_world(RULES, OLD);
    put(&world, INDEX, theirs.clone());
    let problem = refused(&world, &Job::import("import", &[OLD], &next_pages()));
    assert!(problem.contains("is in the place of our index"), "{problem}");
    assert_eq!(*world.store.objects().get(PUBLIC, INDEX).unwrap().bytes, theirs);
}

#[test]
fn what_the_web_shows_otherwise_or_elsewhere_is_not_kept_and_not_lost() {
    let job = |index| Job::import("import", &[index], &next_pages());
    let mut world = old_world(RULES, OLD);
    let shown = old_file(FILES_URL, &[1000, 1001]);
    world.web.insert(KEPT[1].to_owned(), shown);
    let told = taken(&world, &job(OLD));
    assert_eq!(told.kept, [KEPT[0]]);
    let otherwise = (KEPT[1].to_owned(), "says something else in the bucket than on the web".to_owned());
    assert!(told.not_kept.contains(&otherwise), "{:?}", told.not_kept);
    let manifest = world.manifest().unwrap();
    assert_eq!(manifest.outgoing, LEFT, "what may be somebody else's is not removed");
    let index = world.store.objects().get(PUBLIC, INDEX).unwrap().bytes.clone();
    assert!(String::from_utf8_lossy(&index).contains(KEPT[1]), "the index names it all the same");

    let elsewhere = "https://cdn.example/products-9.xml.gz";
    for index in [INDEX, OLD] {
        let mut world = old_world(RULES, index);
        let files = [KEPT[0], KEPT[1], elsewhere];
        world.web.insert("products-9.xml.gz".to_owned(), old_file(FILES_URL, &[3000]));
        put(&world, "products-9.xml.gz", old_file(FILES_URL, &[3001]));
        put_unseen(&world, index, old_index(FILES_URL, &files));
        if index == INDEX {
            let problem = refused(&world, &job(index));
            assert!(problem.contains(elsewhere) && problem.contains("another name"), "{problem}");
        } else {
            let told = taken(&world, &job(index));
            assert_eq!((told.unnamed, told.switched), (vec![elsewhere.to_owned()], true));
        }
    }

    let world = old_world(RULES, OLD);
    put_unseen(&world, OLD, old_index(FILES_URL, &LEFT));
    let problem = refused(&world, &job(OLD));
    assert!(problem.contains("no file of it can be kept"), "{problem}");
}

#[test]
fn nothing_is_taken_over_without_the_lease_or_against_a_run() {
    let import = Job::import("import", &[OLD], &next_pages());
    let before = old_world(RULES, OLD);
    let world = before.copy();
    let mut other = world.start(1, &Job::new("other", &next_pages()));
    while let Some(call) = other.next_call(&world.store) {
        let takes = call.describe().starts_with(&format!("PUT {STATE}"));
        let answer = world.store.perform(&call.request);
        call.answer(answer);
        if takes {
            break;
        }
    }
    let problem = refused(&world, &import);
    assert!(problem.contains("leased by other"), "{problem}");

    let world = before.copy();
    let mut killed = world.start(1, &Job::new("killed", &next_pages()));
    while let Some(call) = killed.next_call(&world.store) {
        let publishes = call.describe().starts_with(&format!("PUT {PUBLIC}"));
        let answer = world.store.perform(&call.request);
        call.answer(answer);
        if publishes {
            break;
        }
    }
    let problem = refused(&world, &import.later(AFTER_LEASE_MS));
    assert!(problem.contains("killed before its first commit"), "{problem}");

    let world = before.copy();
    for (id, later) in [("one", 0), ("two", 1)] {
        world.run(&Job::new(id, &pages(later..90)).later(i64::from(later) * AFTER_LEASE_MS));
    }
    let hold = Job { work: Work::RollBack { to: None, hold: true }, ..Job::rollback("hold", None) };
    world.run(&hold.later(2 * AFTER_LEASE_MS));
    let problem = refused(&world, &import.later(3 * AFTER_LEASE_MS));
    assert!(problem.contains("held since the rollback hold"), "{problem}");
}

/// Rows of the model of Athena.
fn rows(pages: impl IntoIterator<Item = u32>, day: u32) -> serde_json::Value {
    pages.into_iter().map(|page| json!([format!("/p/{page:06}"), format!("2025-01-{day:02}"), "2025-01-01"])).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_job_takes_over_from_the_web_and_a_rollback_reaches_the_takeover() {
    let mut stage = Stage::start().await;
    versions(&stage).await;
    let maps = crate::athena::PUBLIC;
    let files_url = stage.cloud.object_url(maps, "shop");
    let engine = Engine::start(&[200]).unwrap();
    let settings = format!(
        "base_url = \"https://a.example\"\nfiles_url = \"{files_url}\"\nlastmod_zone = \"UTC\"\n[query]\nsql = \"SELECT loc, lastmod FROM pages ORDER BY loc\"\n\
         database = \"d\"\noutput = \"s3://state/athena/\"\n[publish]\nbucket = \"{maps}\"\nprefix = \"shop\"\n\
         edge_ttl_seconds = 0\n[shards]\ntarget_urls = 100\nmax_urls = 120\n\
         [indexnow]\nkey = \"{KEY}\"\nendpoints = [\"{}\"]\n",
        engine.url()
    );
    stage.put("sites/s.toml", settings).await;
    stage.tell(json!({ "rows": rows(0..150, 2) }));
    let a: Vec<u32> = (0..100).collect();
    let b: Vec<u32> = (100..160).collect();
    let old = [
        ("shop/items-1.xml.gz", old_file("https://a.example", &a)),
        ("shop/items-2.xml.gz", old_file("https://a.example", &b)),
    ];
    let index = old_index(&files_url, &["items-1.xml.gz", "items-2.xml.gz"]);
    for (key, bytes) in old.iter().cloned().chain([("shop/sitemap_index.xml", index)]) {
        stage.around.s3.put_object().bucket(maps).key(key).body(bytes.into()).send().await.unwrap();
    }
    let args = json!({ "site": "s", "from": [format!("{files_url}/sitemap_index.xml")], "switch": false });
    let take = async |stage: &Stage, switch: bool| {
        let mut args = args.clone();
        args["switch"] = switch.into();
        sitemap_import::run(&stage.around, &args, "import", Duration::from_secs(600)).await
    };
    let looked = take(&stage, false).await.unwrap();
    assert_eq!((looked.kept.len(), looked.switched), (2, false));
    let taken = take(&stage, true).await.unwrap();
    assert_eq!((taken.kept.len(), taken.comparison.same, taken.comparison.only_there), (2, 150, 10));
    assert!(taken.switched && taken.index == format!("{files_url}/sitemap-index.xml"));
    assert_eq!(stage.keys(crate::athena::STATE, "athena/unload/").await, [""; 0], "what the query wrote is removed");
    assert_eq!(take(&stage, true).await.unwrap().manifest, taken.manifest, "a repeated trigger");

    let done = stage.run("s").await.unwrap();
    assert_eq!((done.urls, done.published.files_new.len()), (150, 0));
    assert_eq!(done.published.files_rewritten, ["items-1.xml.gz", "items-2.xml.gz"]);
    let problem = done.told.and_then(|told| told.problem).unwrap_or_default();
    assert!(problem.contains("the files before were another tool's"), "{problem}");
    assert_eq!(engine.asked(), 0, "the first run tells nothing by IndexNow");
    let back = roll_back(&stage, "back", None, false).await.unwrap();
    assert_eq!((back.restores.as_str(), back.urls), ("import", 160));
    for (key, bytes) in old {
        let object = stage.around.s3.get_object().bucket(maps).key(key).send().await.unwrap();
        assert!(object.body.collect().await.unwrap().to_vec() == bytes, "{key} is theirs again");
    }
}

#[test]
fn a_rollback_to_a_takeover_that_left_files_behind_is_refused() {
    let world = old_world(RULES, OLD);
    world.run(&Job::import("import", &[OLD], &next_pages()));
    world.run(&Job::new("first", &next_pages()).later(AFTER_LEASE_MS));
    let problem = refused(&world, &Job::rollback("back", None).later(2 * AFTER_LEASE_MS));
    assert!(problem.contains("import took over another tool's sitemap, and 2 of its files went"), "{problem}");
}
