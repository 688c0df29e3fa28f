//! Two refreshes at once: the second took the lease while the first was still at work, or the same run was triggered
//! twice. Every order of their S3 calls is tried. After every write the index must name valid files alone; at the end the
//! committed manifest and the files must agree, or the next run must mend them.

use crate::store::{STATE, Store};
use crate::world::{AFTER_LEASE_MS, Input, Job, Rules, Running, Work, World, pages, wanted};
use std::collections::{BTreeMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::task::{Context, Poll, Waker};
use tidemark_runtime::state::{Held, StateStore};
use tidemark_tests::random::Random;

/// A split takes a second index.
const RULES: Rules = Rules { target: 4, max: 6, grace_hours: 0, per_index: 2 };
/// Turns of two that take one lease, after which the order no longer branches.
const TAKING_CALLS_MAX: u32 = 10;

/// A world with runs in it, and what each of them has been answered so far, by call.
struct Race {
    world: World,
    runs: Vec<Running>,
    answered: Vec<BTreeMap<String, DefaultHasher>>,
}

/// A call that waits: whose it is, and how many of its calls wait before it.
type Turn = (usize, usize);

impl Race {
    fn begin(before: &World, jobs: &[Job]) -> Self {
        let world = before.copy();
        let runs = jobs.iter().enumerate().map(|(actor, job)| world.start(actor, job)).collect();
        Self { world, runs, answered: vec![BTreeMap::new(); jobs.len()] }
    }

    /// The calls that wait, and what they are.
    fn waiting(&mut self) -> Vec<(Turn, String)> {
        let mut turns = Vec::new();
        for (actor, run) in self.runs.iter_mut().enumerate() {
            run.advance(&self.world.store);
            let calls = self.world.store.waiting(actor);
            turns.extend(calls.into_iter().enumerate().map(|(older, call)| ((actor, older), call)));
        }
        turns
    }

    fn step(&mut self, (actor, older): Turn) {
        let (call, answer) = self.runs[actor].step_at(&self.world.store, older);
        answer.hash(self.answered[actor].entry(call).or_default());
    }

    /// What decides how it goes on: the buckets, and what each run knows.
    fn fingerprint(&self) -> u64 {
        let mut all = DefaultHasher::new();
        let objects = self.world.store.objects();
        for bucket in [crate::store::PUBLIC, crate::store::STATE] {
            objects.all(bucket).iter().for_each(|(key, object)| (key, &object.etag).hash(&mut all));
        }
        // In which order calls that went side by side were answered is forgotten.
        for (actor, answered) in self.answered.iter().enumerate() {
            answered.iter().for_each(|(call, answers)| (actor, call, answers.finish()).hash(&mut all));
        }
        all.finish()
    }
}

/// How the ends of all orders were.
#[derive(Debug, Default)]
struct Ends {
    orders: usize,
    agreed: usize,
    mended: usize,
    both_committed: usize,
}

/// Goes through every order of the calls of `jobs`. Two orders that lead to the same buckets and the same knowledge go
/// on as one.
fn every_order(before: &World, jobs: &[Job], next: &Job) -> Ends {
    let (mut seen, mut ends) = (HashSet::new(), Ends::default());
    let mut open: Vec<Vec<Turn>> = vec![Vec::new()];
    while let Some(mut order) = open.pop() {
        let mut race = Race::begin(before, jobs);
        order.iter().for_each(|turn| race.step(*turn));
        loop {
            let waiting = race.waiting();
            if !seen.insert(race.fingerprint()) {
                break;
            }
            let Some(first) = waiting.first() else {
                end(&race, next, &order, &mut ends);
                break;
            };
            // Whatever nobody else touches may as well come first: only calls that meet branch.
            let alone = waiting.iter().find(|(_, call)| is_private(call));
            let (first, _) = alone.unwrap_or(first);
            if alone.is_none() {
                open.extend(waiting[1..].iter().map(|(turn, _)| [order.as_slice(), &[*turn]].concat()));
            }
            order.push(*first);
            race.step(*first);
        }
    }
    ends
}

/// Whether a call is for an object that no other run writes: settings, and a run's own manifest.
fn is_private(call: &str) -> bool {
    call.contains(" state/sites/") || call.contains("/manifests/")
}

/// Both runs are over: the committed manifest and the bytes agree, or the next run mends it.
fn end(race: &Race, next: &Job, order: &[Turn], ends: &mut Ends) {
    ends.orders += 1;
    let committed = |run: &&Running| matches!(run.outcome, Some(Ok(_)));
    ends.both_committed += usize::from(race.runs.iter().filter(committed).count() == race.runs.len());
    assert_eq!(race.world.store.objects().breaches, Vec::<String>::new());
    match race.world.disagreement() {
        None => ends.agreed += 1,
        Some(_) => ends.mended += 1,
    }
    let world = race.world.copy();
    world.run(next);
    let Work::Refresh(input) = &next.work else { panic!("a refresh is to mend it") };
    assert_eq!((world.crawl(), world.disagreement()), (wanted(input), None), "after the order {order:?}");
}

fn race(first: &Input, one: &Input, other: &Input) -> Ends {
    let before = World::new(RULES, false);
    before.run(&Job::new("first", first));
    // To the second run the first one's lease has run out, whenever it looks.
    let jobs = [Job::new("one", one), Job::new("other", other).later(AFTER_LEASE_MS)];
    let next = Job::new("next", other).later(3 * AFTER_LEASE_MS);
    let ends = every_order(&before, &jobs, &next);
    eprintln!("{ends:?}");
    assert!(ends.agreed > 1, "{ends:?}");
    ends
}

/// Two shards of four pages.
fn two_shards() -> Input {
    pages((0..8).map(|n| n * 10))
}

fn with(input: &Input, pages: &[(u32, u32)]) -> Input {
    let mut input = input.clone();
    input.extend(pages.iter().copied());
    input
}

#[test]
fn a_run_that_lost_its_lease_harms_nothing_whatever_the_order_of_edits() {
    let first = two_shards();
    race(&first, &with(&first, &[(10, 5)]), &with(&first, &[(10, 6), (60, 6)]));
}

#[test]
fn a_run_that_lost_its_lease_harms_nothing_whatever_the_order_of_splits() {
    let first = two_shards();
    let split = with(&first, &[(1, 1), (2, 1), (3, 1)]);
    race(&first, &split, &with(&first, &[(60, 6)]));
}

#[test]
fn a_run_that_lost_its_lease_harms_nothing_whatever_the_order_of_merges() {
    let first = two_shards();
    let mut merged = first.clone();
    merged.retain(|page, _| *page >= 40);
    race(&first, &merged, &with(&first, &[(1, 1), (2, 1), (3, 1)]));
}

/// A run that is overtaken before it publishes finds out when it renews its lease, and not by what others wrote.
#[test]
fn a_run_whose_lease_is_not_renewed_writes_nothing_more() {
    let first = two_shards();
    let world = World::new(RULES, false);
    world.run(&Job::new("first", &first));
    let mut one = world.start(1, &Job::new("one", &with(&first, &[(10, 5)])));
    let mut leases = 0;
    while one.advance(&world.store) {
        leases += usize::from(world.store.waiting(1) == ["PUT state/sitemaps/shop/state.json"]);
        // The first is the taking.
        if leases == 2 {
            break;
        }
        one.step(&world.store);
    }
    // The other run edits another shard, so that no file of the first one's stands in its way.
    world.run(&Job::new("other", &with(&first, &[(60, 6)])).later(AFTER_LEASE_MS));
    let written = world.store.objects().public_writes.len();
    while one.advance(&world.store) {
        one.step(&world.store);
    }
    let Some(Err(error)) = &one.outcome else { panic!("it went through") };
    assert!(error.to_string().contains("renewing the lease"), "{error}");
    assert_eq!(world.store.objects().public_writes.len(), written);
}

#[test]
fn a_run_by_plan_and_one_without_harm_nothing_whatever_their_order() {
    let first = two_shards();
    let (planned, other) = (with(&first, &[(10, 5)]), with(&first, &[(10, 6), (60, 6)]));
    let before = World::new(RULES, false);
    before.run(&Job::new("first", &first));
    before.run(&Job { work: Work::Plan(planned.clone()), ..Job::new("plan", &first) }.later(1));
    let by_plan = Job { work: Work::Planned("plan", planned.clone()), ..Job::new("by plan", &planned) };
    let jobs = [by_plan, Job::new("other", &other).later(AFTER_LEASE_MS)];
    let ends = every_order(&before, &jobs, &Job::new("next", &other).later(3 * AFTER_LEASE_MS));
    eprintln!("{ends:?}");
    assert!(ends.agreed > 1, "{ends:?}");
}

#[test]
fn one_run_that_was_triggered_twice_ends_as_one() {
    let first = two_shards();
    let second = with(&first, &[(10, 5)]);
    let before = World::new(RULES, false);
    before.run(&Job::new("first", &first));
    let job = Job::new("second", &second).later(AFTER_LEASE_MS);
    let next = Job::new("next", &second).later(3 * AFTER_LEASE_MS);
    let ends = every_order(&before, &[job.clone(), job.again()], &next);
    eprintln!("{ends:?}");
    assert!(ends.agreed > 1, "{ends:?}");
}

/// Two triggers of one run in one instant write the very same bytes, and whoever is refused finds what he wrote.
#[test]
fn two_triggers_of_one_run_never_hold_one_lease_whatever_the_order_of_their_calls() {
    for order in 0..1_u32 << TAKING_CALLS_MAX {
        let store = Store::default();
        let take = |actor| {
            let states = StateStore::new(store.client(actor), STATE);
            async move { states.acquire::<()>("sitemaps/s/state.json", "run", 1_000, AFTER_LEASE_MS).await }
        };
        let mut takes = [Box::pin(take(0)), Box::pin(take(1))];
        let mut taken = [None, None];
        for turn in 0.. {
            let open = |actor: &usize| taken[*actor].is_none();
            let Some(last) = (0..2).rfind(open) else { break };
            let actor = Some(usize::from(order >> turn.min(31) & 1 == 1)).filter(open).unwrap_or(last);
            match takes[actor].as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(outcome) => taken[actor] = Some(outcome.expect("the holder itself may take it again")),
                Poll::Pending => {
                    let Some(call) = store.next(actor) else { continue };
                    let answer = store.perform(&call.request);
                    call.answer(answer);
                }
            }
        }
        let tokens = taken.map(|held| held.map(|held: Held<()>| held.token()));
        assert_ne!(tokens[0], tokens[1], "after the order {order:b}");
    }
}

/// Lets the runs take turns at random, to their ends.
fn random_order(mut race: Race, next: &Job, random: &mut Random, ends: &mut Ends) {
    let mut order = Vec::new();
    while let waiting @ [_, ..] = race.waiting().as_slice() {
        let (turn, _) = waiting[usize::try_from(random.below(waiting.len() as u64)).unwrap()];
        order.push(turn);
        race.step(turn);
    }
    end(&race, next, &order, ends);
}

#[test]
fn three_runs_in_random_orders_harm_nothing() {
    let seed = std::env::var("SEED").map_or(7, |seed| seed.parse().unwrap());
    println!("SEED={seed} replays this");
    let mut random = Random::new(seed);
    let first = pages((0..20).map(|n| n * 10));
    for _ in 0..40 {
        let mut input = || -> Input {
            let mut input = first.clone();
            for _ in 0..random.below(12) {
                let page = u32::try_from(random.below(220)).unwrap();
                if random.once_in(3) {
                    input.remove(&page)
                } else {
                    input.insert(page, page % 7)
                };
            }
            input
        };
        let (one, other, third) = (input(), input(), input());
        let before = World::new(RULES, false);
        before.run(&Job::new("first", &first));
        let after = |id, input, leases| Job::new(id, input).later(leases * AFTER_LEASE_MS);
        let jobs = [after("one", &one, 1), after("other", &other, 2), after("third", &third, 3)];
        let race = Race::begin(&before, &jobs);
        random_order(race, &after("next", &third, 5), &mut random, &mut Ends::default());
    }
}
