//! A batch's lanes on their way over a few connections.
//!
//! A connection takes one lane after the other. It reads the record of the next one behind the last write of the one
//! before, in the same call, so that the fence costs a lane no round trip of its own. The comparison still happens
//! between that read and the lane's first write.

use super::Region;
use super::RegionError;
use super::batch::{Batch, Step};
use super::connection::{CONNECTIONS, Session};
use super::fence::{Unit, View, Watch};
use super::replay::producers;
use crate::lane::Lane;
use crate::protocol::{Counts, Outcome, Replay};
use std::collections::btree_map;
use std::sync::{Mutex, PoisonError};

/// What came of one lane.
pub(super) type Replayed = Result<(Outcome, Counts), RegionError>;

/// The lanes that no connection has taken yet.
pub(super) struct Queue<'b, 'a>(Mutex<btree_map::Iter<'b, Lane, Vec<Step<'a>>>>);

/// A lane whose turn has come.
pub(super) struct Due<'b, 'a> {
    pub(super) lane: Lane,
    pub(super) steps: &'b [Step<'a>],
    /// Its record, where it was read ahead; the connection watches it.
    pub(super) view: Option<View>,
}

/// The lane that a connection goes on with.
pub(super) struct Ahead<'q, 'b, 'a> {
    queue: &'q Queue<'b, 'a>,
    next: Option<Due<'b, 'a>>,
}

impl<'b, 'a> Queue<'b, 'a> {
    fn take(&self) -> Option<Due<'b, 'a>> {
        let next = self.0.lock().unwrap_or_else(PoisonError::into_inner).next();
        next.map(|(lane, steps)| Due { lane: *lane, steps, view: None })
    }
}

impl<'b, 'a> Ahead<'_, 'b, 'a> {
    /// What to read behind the last write of a lane: the record of the next one, which is this connection's from now on.
    pub(super) fn record(&mut self) -> Option<Watch<'b>> {
        self.next = self.next.take().or_else(|| self.queue.take());
        self.next.as_ref().map(|due| Watch { unit: Unit::lane(due.lane), producers: producers(due.steps) })
    }

    /// Keeps what was read; `None` where it is watched no more, with its connection gone.
    pub(super) fn found(&mut self, view: Option<View>) {
        if let Some(due) = &mut self.next {
            due.view = view;
        }
    }

    fn take(&mut self) -> Option<Due<'b, 'a>> {
        self.next.take().or_else(|| self.queue.take())
    }
}

impl Region {
    /// Replays every lane of a batch; a lane that fails leaves the others alone.
    pub(super) async fn replay_lanes(&self, batch: &Batch<'_>, request: &Replay<'_>) -> Vec<(Lane, Replayed)> {
        let queue = Queue(Mutex::new(batch.lanes.iter()));
        let connections = (0..CONNECTIONS).map(|_| self.replay_on_one_connection(&queue, request));
        futures::future::join_all(connections).await.into_iter().flatten().collect()
    }

    async fn replay_on_one_connection(&self, queue: &Queue<'_, '_>, request: &Replay<'_>) -> Vec<(Lane, Replayed)> {
        let (mut session, mut done) = (None, Vec::new());
        let mut ahead = Ahead { queue, next: None };
        while let Some(due) = ahead.take() {
            let lane = due.lane;
            let replayed = self.replay_due(&mut session, due, request, &mut ahead).await;
            done.push((lane, replayed));
        }
        if let Some(session) = session {
            self.connections.give_back(session);
        }
        done
    }

    /// Replays one lane; what fails on a connection takes it along.
    async fn replay_due(
        &self,
        session: &mut Option<Session>,
        due: Due<'_, '_>,
        request: &Replay<'_>,
        ahead: &mut Ahead<'_, '_, '_>,
    ) -> Replayed {
        let missing = self.missing(due.steps).await?;
        if !missing.is_empty() {
            return Ok((Outcome::Missing { objects: missing }, Counts::default()));
        }
        let mut own = match session.take() {
            Some(own) => own,
            None => self.connections.session().await?,
        };
        let replayed = self.replay_lane(&mut own, due, request, ahead).await;
        match replayed {
            Ok(_) => *session = Some(own),
            Err(_) => ahead.found(None),
        }
        replayed
    }
}
