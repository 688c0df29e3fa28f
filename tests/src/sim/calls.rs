//! Calls under way: every call that the code under test makes to the cloud or to Redis waits here until the schedule
//! says what becomes of it. So the order of things comes from the seed, never from timing.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, oneshot};
use tokio::task::AbortHandle;

/// Rounds of the runtime without anything new after which everybody is taken to be waiting.
const QUIET_ROUNDS: u32 = 8;
/// A Redis on this machine that says nothing for so long is broken.
pub(super) const REDIS_SILENCE_MAX: Duration = Duration::from_secs(60);

/// Over what a call goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hop {
    /// Kinesis, writing.
    Put,
    /// Kinesis, reading.
    Read,
    /// Lambda.
    Invoke,
    /// S3.
    Object,
    /// A region's Redis.
    Redis,
    /// A clock.
    Sleep,
}

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It has its effect and is answered.
    Pass,
    /// As `Pass`, but of a PutRecords only the entries whose bits are set are stored.
    Partly(u64),
    /// It has its effect, and the answer is lost.
    LoseAnswer,
    /// It is refused for being one too many.
    Throttle,
    /// It fails without an effect.
    Fail,
    /// The caller is told of a time-out now; the call waits again, and may have its effect later.
    Late,
}

/// A call that waits.
#[derive(Clone, Debug)]
pub(super) struct Waiting {
    pub(super) id: u64,
    pub(super) hop: Hop,
    /// Whether its caller was told of a time-out already.
    pub(super) late: bool,
    pub(super) what: String,
}

/// All calls under way. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Calls(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    last_id: u64,
    /// Counts everything that happens; where it stands still, nothing does.
    progress: u64,
    /// Answers that a real server still owes.
    owed: usize,
    waiting: BTreeMap<u64, (Waiting, oneshot::Sender<Fate>)>,
    invocations: Vec<(String, AbortHandle)>,
    /// Whether something may be under way on the thread for what blocks.
    blocks: bool,
}

impl Calls {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the schedule's decision. A caller that is dropped meanwhile leaves.
    pub(super) async fn wait(&self, hop: Hop, late: bool, what: String) -> Fate {
        let (decide, decided) = oneshot::channel();
        let id = {
            let mut state = self.state();
            state.progress += 1;
            state.last_id += 1;
            let id = state.last_id;
            state.waiting.insert(id, (Waiting { id, hop, late, what }, decide));
            id
        };
        let _leaves = Leaves { calls: self, id };
        decided.await.unwrap_or(Fate::Fail)
    }

    /// The calls that wait, oldest first.
    pub(super) fn waiting(&self) -> Vec<Waiting> {
        self.state().waiting.values().map(|(waiting, _)| waiting.clone()).collect()
    }

    /// Decides on the call `id`.
    pub(super) fn decide(&self, id: u64, fate: Fate) {
        let decided = self.state().waiting.remove(&id);
        if let Some((_, decide)) = decided {
            decide.send(fate).ok();
        }
    }

    /// Something happened that others may act upon.
    pub(super) fn progressed(&self) {
        self.state().progress += 1;
        self.0.changed.notify_one();
    }

    /// A real server owes an answer while the returned value lives.
    pub(super) fn owes(&self) -> Owes<'_> {
        self.state().owed += 1;
        Owes(self)
    }

    /// Something may go on, on the thread for what blocks: the hash of a large value.
    pub(super) fn block(&self) {
        self.state().blocks = true;
    }

    /// Remembers an invocation that the schedule may kill.
    pub(super) fn add_invocation(&self, what: String, kill: AbortHandle) {
        let mut state = self.state();
        state.invocations.retain(|(_, kill)| !kill.is_finished());
        state.invocations.push((what, kill));
    }

    /// The invocations that are running.
    pub(super) fn invocations(&self) -> Vec<(String, AbortHandle)> {
        let mut state = self.state();
        state.invocations.retain(|(_, kill)| !kill.is_finished());
        state.invocations.clone()
    }

    /// Returns when every task waits for the schedule.
    pub(super) async fn settle(&self) {
        let (mut quiet, mut last) = (0, 0);
        while quiet < QUIET_ROUNDS {
            let (progress, owed) = {
                let state = self.state();
                (state.progress, state.owed)
            };
            if owed > 0 {
                let silent = tokio::time::timeout(REDIS_SILENCE_MAX, self.0.changed.notified()).await.is_err();
                assert!(!silent, "redis owes {owed} answers");
                quiet = 0;
                continue;
            }
            quiet = if progress == last { quiet + 1 } else { 0 };
            last = progress;
            tokio::task::yield_now().await;
            let blocks = quiet == QUIET_ROUNDS && std::mem::take(&mut self.state().blocks);
            if blocks {
                // There is one such thread, so this is done when everything before it is.
                tokio::task::spawn_blocking(|| ()).await.ok();
                quiet = 0;
            }
        }
    }
}

struct Leaves<'c> {
    calls: &'c Calls,
    id: u64,
}

impl Drop for Leaves<'_> {
    fn drop(&mut self) {
        self.calls.state().waiting.remove(&self.id);
    }
}

/// An answer that a real server owes.
pub(super) struct Owes<'c>(&'c Calls);

impl Drop for Owes<'_> {
    fn drop(&mut self) {
        self.0.state().owed -= 1;
        self.0.progressed();
    }
}
