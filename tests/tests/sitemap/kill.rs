//! A refresh is killed at every S3 call that it makes, in every way, and crawlers look on.

use crate::edge::FILES_URL;
use crate::store::PUBLIC;
use crate::world::{AFTER_LEASE_MS, FATES, Fate, Input, Job, Rules, World, common, pages, wanted};
use std::collections::BTreeMap;
use tidemark_sitemap::publish::INDEX_NEW;
use tidemark_sitemap::robots::{self, Scope};
use tidemark_tests::random::Random;

pub(crate) const RULES: Rules = Rules { target: 40, max: 50, grace_hours: 0, per_index: 50_000 };
/// Indexes that are soon full, so that several come and go.
pub(crate) const SMALL_INDEXES: Rules = Rules { per_index: 2, ..RULES };

/// The bucket of the site's own files.
const WWW: &str = "www";

/// Kills the run from `first` to `second` at every call, and lets the same run, and one on `third`, follow. Returns how
/// many calls there were.
fn kill_everywhere(rules: Rules, [first, second, third]: [&Input; 3]) -> usize {
    let before = World::new(rules, true);
    before.run(&Job::new("first", first));
    before.pass();
    let job = Job::new("second", second).later(AFTER_LEASE_MS);
    kill_at_every_call(&before, &job, [first, second, third])
}

/// Kills `job`, which leads from `first` to `second`, at every call, and lets the same job, and a run on `third`, follow.
pub(crate) fn kill_at_every_call(before: &World, job: &Job, [first, second, third]: [&Input; 3]) -> usize {
    let unhurt = before.copy();
    unhurt.must_keep(common(&[first, second]));
    let calls = unhurt.run(job);
    assert_eq!(unhurt.crawl(), wanted(second));
    for at in 1..=calls {
        for fate in FATES {
            let world = before.copy();
            world.must_keep(common(&[first, second]));
            let (outcome, hurt) = world.run_into(job, at, fate);
            let context = format!("call {at} ({hurt}) met {fate:?}");
            if matches!(fate, Fate::Busy | Fate::LoseAnswer) {
                let error = outcome.as_ref().and_then(|outcome| outcome.as_ref().err());
                assert!(error.is_none(), "{context}: {error:?}");
            }
            if matches!(outcome, Some(Ok(_))) {
                assert_eq!(world.outcome(), unhurt.outcome(), "{context}: it ends as if nothing had been");
                continue;
            }
            assert_mended(&world, &unhurt, job, [first, second, third], at, fate, &context);
        }
    }
    calls
}

/// What `world`, a killed run's, comes to: by the same run again, by another, and by one that is killed as well.
fn assert_mended(
    world: &World,
    unhurt: &World,
    job: &Job,
    [first, second, third]: [&Input; 3],
    at: usize,
    fate: Fate,
    context: &str,
) {
    let resumed = world.copy();
    resumed.run(&job.again());
    assert_eq!(resumed.outcome(), unhurt.outcome(), "{context}: the resumed run ends byte for byte like an unhurt one");

    let keep = common(&[first, second, third]);
    let other = world.copy();
    other.must_keep(keep.clone());
    let after = |id, input| Job { now_ms: job.now_ms, ..Job::new(id, input) }.later(AFTER_LEASE_MS);
    let third_job = after("third", third);
    other.run(&third_job);
    assert_eq!((other.crawl(), other.disagreement()), (wanted(third), None), "{context}: and another run follows");

    let twice = world.copy();
    twice.must_keep(keep);
    twice.run_into(&third_job, at, fate);
    twice.run(&after("last", first).later(AFTER_LEASE_MS));
    assert_eq!(
        (twice.crawl(), twice.disagreement()),
        (wanted(first), None),
        "{context}: and one that is killed as well"
    );
}

/// Four shards; the first splits, the second has edits, the third nearly empties and joins the fourth, the edge grows.
fn everything_at_once() -> [Input; 3] {
    let first = pages((0..160).map(|n| n * 10));
    let mut second = first.clone();
    second.extend((0..40).map(|n| (n * 5 + 1, 2)));
    second.insert(500, 3);
    second.retain(|page, _| !(800..1180).contains(page));
    second.extend((0..60).map(|n| (3000 + n, 4)));
    let mut third = pages((0..200).map(|n| n * 8));
    third.extend((0..60).map(|n| (n * 10, 5)));
    [first, second, third]
}

#[test]
fn a_run_killed_at_any_call_loses_no_page_and_the_resumed_one_ends_the_same() {
    let inputs = everything_at_once();
    let [first, second, third] = inputs.each_ref();
    for grace_hours in [0, 24] {
        let calls = kill_everywhere(Rules { grace_hours, ..RULES }, [first, second, third]);
        assert!(calls > 20, "{calls} calls only");
    }
    kill_everywhere(RULES, [second, first, third]);
}

#[test]
fn a_run_killed_at_any_call_loses_no_page_while_indexes_come_and_go() {
    let inputs = everything_at_once();
    let [first, second, third] = inputs.each_ref();
    for grace_hours in [0, 24] {
        kill_everywhere(Rules { grace_hours, ..SMALL_INDEXES }, [first, second, third]);
    }
    kill_everywhere(SMALL_INDEXES, [second, first, third]);
    // Nothing of the first index is left; then the last ones go.
    let (long, short) = (pages((0..240).map(|n| n * 10)), pages((80..120).map(|n| n * 10)));
    for grace_hours in [0, 24] {
        kill_everywhere(Rules { grace_hours, ..SMALL_INDEXES }, [&long, &short, third]);
    }
    kill_everywhere(SMALL_INDEXES, [&short, &long, &pages(5_000..5_100)]);
}

#[test]
fn robots_txt_is_told_of_the_indexes_that_come() {
    let world = World::new(SMALL_INDEXES, true);
    world.run(&Job::new("first", &pages(0..80)));
    assert_eq!(world.manifest().unwrap().indexes().len(), 1);
    assert!(!world.report().contains(INDEX_NEW), "the first one is no news");
    world.run(&Job::new("second", &pages(0..240)).later(AFTER_LEASE_MS));
    assert_eq!(world.manifest().unwrap().indexes().len(), 3);
    assert!(world.report().contains(INDEX_NEW));
}

#[test]
fn robots_txt_that_runs_may_write_names_what_is_committed_wherever_they_are_killed() {
    const FOREIGN: &str = "User-agent: *\nDisallow: /cart\n";
    let (few, many) = (pages(0..80), pages(0..240));
    let before = World::new(SMALL_INDEXES, true);
    let other = format!("{FILES_URL}/news/sitemap-index.xml");
    let text = robots::with_lines(FOREIGN.as_bytes(), Scope::All, std::slice::from_ref(&other)).unwrap();
    before.store.objects().put(WWW, "robots.txt", text, BTreeMap::new());
    before.set("robots", "\"s3://www/robots.txt\"");
    let text = |world: &World| {
        let objects = world.store.objects();
        String::from_utf8(objects.get(WWW, "robots.txt").unwrap().bytes.to_vec()).unwrap()
    };
    // Nothing is named that crawlers do not find.
    let named = |world: &World| {
        let text = text(world);
        let addresses: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("Sitemap: ")).collect();
        assert!(text.starts_with(FOREIGN) && addresses[0] == other, "{text}");
        let files: Vec<&str> =
            addresses[1..].iter().map(|at| at.strip_prefix(FILES_URL).unwrap().trim_matches('/')).collect();
        let objects = world.store.objects();
        assert!(files.iter().all(|file| objects.get(PUBLIC, file).is_some()), "{files:?}");
        files.len()
    };
    before.run(&Job::new("first", &few));
    assert_eq!(named(&before), 1);
    let job = Job::new("second", &many).later(AFTER_LEASE_MS);
    let unhurt = before.copy();
    let calls = unhurt.run(&job);
    assert_eq!((named(&unhurt), unhurt.report().contains(INDEX_NEW)), (3, false), "nobody has to do anything");
    for at in 1..=calls {
        for fate in FATES {
            let world = before.copy();
            let (_, hurt) = world.run_into(&job, at, fate);
            let committed = world.manifest().unwrap().indexes().len();
            assert!((1..=committed).contains(&named(&world)), "call {at} ({hurt}) met {fate:?}");
            world.run(&job.again());
            assert_eq!(text(&world), text(&unhurt), "call {at} ({hurt}) met {fate:?}");
            world.run(&Job::new("third", &few).later(2 * AFTER_LEASE_MS));
            assert_eq!(named(&world), 1);
        }
    }
}

#[test]
fn a_run_killed_while_one_thing_changes_loses_no_page() {
    let first = pages((0..90).map(|n| n * 10));
    let mut third = first.clone();
    third.extend((0..30).map(|n| (n * 9 + 1, 1)));
    let mut edited = first.clone();
    edited.insert(500, 9);
    let mut split = first.clone();
    split.extend((0..20).map(|n| (n * 10 + 1, 1)));
    let mut merged = first.clone();
    merged.retain(|page, _| !(0..390).contains(page));
    let mut grown = first.clone();
    grown.extend((0..60).map(|n| (2000 + n, 1)));
    for second in [edited, split, merged, grown] {
        kill_everywhere(RULES, [&first, &second, &third]);
    }
    kill_everywhere(RULES, [&first, &pages(5000..5100), &third]);
}

#[test]
fn another_packing_renames_every_file_and_loses_no_page_wherever_it_is_killed() {
    for rules in [RULES, SMALL_INDEXES] {
        rename_every_file(rules);
    }
}

fn rename_every_file(rules: Rules) {
    let first = pages((0..90).map(|n| n * 10));
    let mut third = first.clone();
    third.extend((0..30).map(|n| (n * 9 + 1, 1)));
    let before = World::new(rules, true);
    before.run(&Job::new("first", &first));
    before.pass();
    before.set("content_encoding", "true");
    let job = Job::new("second", &first).later(AFTER_LEASE_MS);
    kill_at_every_call(&before, &job, [&first, &first, &third]);
    before.must_keep(common(&[&first]));
    before.run(&job);
    let manifest = before.manifest().unwrap();
    assert!(manifest.shards.iter().all(|shard| shard.file.ends_with(".xml")), "{manifest:?}");
    assert_eq!(manifest.retired.iter().filter(|old| old.file.ends_with(".xml.gz")).count(), 3);
}

#[test]
fn a_rollback_killed_at_any_call_loses_no_page_and_the_resumed_one_ends_the_same() {
    let [first, second, third] = everything_at_once();
    for (rules, grace_hours, one, other) in [
        (RULES, 0, &first, &second),
        (RULES, 24, &first, &second),
        (RULES, 24, &second, &first),
        (SMALL_INDEXES, 0, &first, &second),
        (SMALL_INDEXES, 24, &second, &first),
    ] {
        let world = World::new(Rules { grace_hours, ..rules }, true);
        world.run(&Job::new("first", one));
        world.run(&Job::new("second", other).later(AFTER_LEASE_MS));
        world.pass();
        let back = Job::rollback("back", None).later(2 * AFTER_LEASE_MS);
        kill_at_every_call(&world, &back, [other, one, &third]);
    }
}

#[test]
fn a_rollback_after_a_run_that_was_killed_at_any_call_loses_no_page() {
    for rules in [RULES, SMALL_INDEXES] {
        roll_back_after_every_kill(rules);
    }
}

fn roll_back_after_every_kill(rules: Rules) {
    let [first, second, third] = everything_at_once();
    let before = World::new(rules, true);
    before.run(&Job::new("first", &first));
    before.run(&Job::new("second", &second).later(AFTER_LEASE_MS));
    before.pass();
    let job = Job::new("third", &third).later(2 * AFTER_LEASE_MS);
    let calls = before.copy().run(&job);
    for at in 1..=calls {
        for fate in [Fate::DieBefore, Fate::DieAfter] {
            let world = before.copy();
            world.must_keep(common(&[&first, &second, &third]));
            let (_, hurt) = world.run_into(&job, at, fate);
            let committed = world.manifest().unwrap().run == "third";
            world.run(&Job::rollback("back", None).later(3 * AFTER_LEASE_MS));
            let restored = if committed { &second } else { &first };
            let context = format!("call {at} ({hurt}) met {fate:?}");
            assert_eq!((world.crawl(), world.disagreement()), (wanted(restored), None), "{context}");
            world.run(&Job::rollback("forward", None).later(4 * AFTER_LEASE_MS));
            let restored = if committed { &third } else { &second };
            assert_eq!((world.crawl(), world.disagreement()), (wanted(restored), None), "{context}");
        }
    }
}

#[test]
fn random_changes_survive_a_kill_at_any_call() {
    let seed = std::env::var("SEED").map_or(20_251_122, |seed| seed.parse().unwrap());
    println!("SEED={seed} replays this");
    let mut random = Random::new(seed);
    for _ in 0..2 {
        let mut input = |count: u64| -> Input {
            let day = |random: &mut Random| u32::try_from(random.below(28)).unwrap();
            (0..count).map(|_| (u32::try_from(random.below(400)).unwrap(), day(&mut random))).collect()
        };
        let (first, mut second, third) = (input(150), input(60), input(150));
        let (from, to) = (random.below(300), random.below(120));
        second.extend(first.iter().filter(|(page, _)| !(from..from + to).contains(&u64::from(**page))));
        for rules in [RULES, SMALL_INDEXES] {
            kill_everywhere(rules, [&first, &second, &third]);
        }
    }
}

#[test]
fn a_run_that_changes_nothing_writes_nothing_that_crawlers_see() {
    let input = pages(0..150);
    let world = World::new(RULES, true);
    world.run(&Job::new("first", &input));
    let (before, manifest) = (world.outcome(), world.state().state.manifest);
    let world = world.copy();
    world.run(&Job::new("second", &input).later(AFTER_LEASE_MS));
    assert_eq!((world.outcome(), world.state().state.manifest), (before, manifest));
    assert_eq!(world.store.objects().public_writes, [""; 0]);

    let mut edited = input;
    edited.insert(70, 9);
    world.run(&Job::new("third", &edited).later(2 * AFTER_LEASE_MS));
    assert_eq!(world.store.objects().public_writes, ["sitemap-00002.xml.gz", "sitemap-index.xml"]);
}
