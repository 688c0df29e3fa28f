//! Sitemaps that are sorted by a key of their pages: killed at every call while keys change, and while they are cut anew.

use crate::kill::{RULES, SMALL_INDEXES, kill_at_every_call};
use crate::world::{AFTER_LEASE_MS, Fate, Input, Job, KEY_CHANGES_ON, Rules, World, pages, wanted};
use std::collections::BTreeSet;

/// Many pages, some of which get another key, among others; a part grows and splits, a part goes.
fn inputs() -> [Input; 3] {
    let first = pages((0..160).map(|n| n * 10));
    let mut second = first.clone();
    second.extend((0..12).map(|n| (n * 130, KEY_CHANGES_ON)));
    second.extend((0..40).map(|n| (n * 5 + 1, 2)));
    second.retain(|page, _| !(800..1000).contains(page));
    second.insert(500, 3);
    let mut third = pages((0..200).map(|n| n * 8));
    third.extend((0..20).map(|n| (n * 80, KEY_CHANGES_ON)));
    [first, second, third]
}

fn sorted_world(rules: Rules, first: &Input) -> World {
    let world = World::new(rules, true);
    world.sort_by_key(true);
    world.run(&Job::new("first", first));
    world.pass();
    world
}

#[test]
fn a_run_killed_at_any_call_loses_no_page_whose_key_changes() {
    let [first, second, third] = inputs();
    for (rules, grace_hours) in [(RULES, 0), (RULES, 24), (SMALL_INDEXES, 0)] {
        let world = sorted_world(Rules { grace_hours, ..rules }, &first);
        let job = Job::new("second", &second).later(AFTER_LEASE_MS);
        kill_at_every_call(&world, &job, [&first, &second, &third]);
    }
}

#[test]
fn two_pages_that_change_places_go_through_new_files_and_all_others_keep_theirs() {
    let first = pages((0..160).map(|n| n * 10));
    let mut second = first.clone();
    second.extend([0, 10, 20].map(|page| (page, KEY_CHANGES_ON)));
    let world = sorted_world(Rules { grace_hours: 24, ..RULES }, &first);
    let files = |world: &World| -> BTreeSet<String> {
        world.manifest().unwrap().shards.into_iter().map(|shard| shard.file).collect()
    };
    let before = files(&world);
    world.run(&Job::new("second", &second).later(AFTER_LEASE_MS));
    let (after, manifest) = (files(&world), world.manifest().unwrap());
    let gone: BTreeSet<_> = before.difference(&after).cloned().collect();
    assert!((1..=3).contains(&gone.len()), "{gone:?}");
    assert_eq!(manifest.retired.iter().map(|old| old.file.clone()).collect::<BTreeSet<_>>(), gone);
    assert_eq!(manifest.sort_key, "sort_key");
    assert_eq!((world.crawl(), world.disagreement()), (wanted(&second), None));

    let world = world.copy();
    world.run(&Job::new("third", &second).later(2 * AFTER_LEASE_MS));
    assert_eq!(world.store.objects().public_writes, [""; 0], "nothing changed");
}

#[test]
fn a_rollback_goes_back_over_changes_of_keys_one_run_at_a_time() {
    let first = pages((0..160).map(|n| n * 10));
    let mut second = first.clone();
    second.extend((0..40).map(|n| (n * 40, 3)));
    let mut third = second.clone();
    third.extend((0..3).map(|n| (n * 10, KEY_CHANGES_ON)));
    let world = sorted_world(Rules { grace_hours: 24, ..RULES }, &first);
    world.run(&Job::new("second", &second).later(AFTER_LEASE_MS));
    world.run(&Job::new("third", &third).later(2 * AFTER_LEASE_MS));
    world.pass();
    let far = Job::rollback("far", Some("first")).later(3 * AFTER_LEASE_MS);
    let (outcome, _) = world.copy().run_into(&far, usize::MAX, Fate::Busy);
    let problem = outcome.expect("an end").expect_err("a refusal").to_string();
    assert!(problem.contains("roll back to second first"), "{problem}");

    let back = Job::rollback("back", Some("second")).later(3 * AFTER_LEASE_MS);
    kill_at_every_call(&world, &back, [&third, &second, &first]);
}

#[test]
fn a_sitemap_that_is_cut_anew_loses_no_page_wherever_it_is_killed() {
    let [first, second, third] = inputs();
    for (rules, grace_hours) in [(RULES, 0), (RULES, 24), (SMALL_INDEXES, 0)] {
        for by_key in [true, false] {
            let world = World::new(Rules { grace_hours, ..rules }, true);
            world.sort_by_key(!by_key);
            world.run(&Job::new("first", &first));
            world.pass();
            let before = world.manifest().unwrap();
            world.sort_by_key(by_key);
            let job = Job::new("second", &second).later(AFTER_LEASE_MS);
            kill_at_every_call(&world, &job, [&first, &second, &third]);

            world.run(&job);
            let after = world.manifest().unwrap();
            let known = |file: &str| before.shards.iter().any(|shard| shard.file == file);
            assert!(after.shards.iter().all(|shard| !known(&shard.file)), "a URL that moves goes into a new file");
            assert_eq!(after.sort_key, if by_key { "sort_key" } else { "loc" });
            world.run(&Job::rollback("back", None).later(2 * AFTER_LEASE_MS));
            assert_eq!((world.crawl(), world.disagreement()), (wanted(&first), None));
        }
    }
}
