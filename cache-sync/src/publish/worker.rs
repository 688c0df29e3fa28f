//! The publisher's one task: owns the lanes' queues, keeps one record of each lane on its way, and is the only owner of
//! retries.
//!
//! A record's bytes are made once and never change, so a retry that was stored twice carries the same numbers. While it
//! waits for its next try, the lane waits with it: nothing of the lane overtakes.

use super::encode::{RECORD_BYTES_MAX, RECORD_CHANGES_MAX, RecordBuilder, RecordFormat};
use super::error::PublishError;
use super::{Receipt, Room};
use crate::change::{Change, Producer};
use crate::frame::Full;
use crate::lane::{Lane, Lanes};
use crate::position::{Position, Sequence};
use aws_sdk_kinesis::error::{DisplayErrorContext, ProvideErrorMetadata};
use aws_sdk_kinesis::primitives::Blob;
use aws_sdk_kinesis::types::{PutRecordsRequestEntry, PutRecordsResultEntry};
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use std::borrow::Cow;
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use tidemark_runtime::clock::Clock;
use tokio::sync::{mpsc, oneshot};

/// Most records in one PutRecords call (the API's own bound).
pub const CALL_RECORDS_MAX: usize = 500;
/// Most bytes in one PutRecords call, partition keys included; the API takes 10 MiB, and half of it is confirmed sooner.
pub const CALL_BYTES_MAX: usize = 5 << 20;
/// Most PutRecords calls on their way at once.
pub const CALLS_MAX: usize = 8;
/// First wait before a record is tried again; it doubles with each try.
pub const BACKOFF_MIN: Duration = Duration::from_millis(50);
/// Longest wait before a record is tried again.
pub const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// Messages taken from the inbox at once.
const INBOX_BATCH: usize = 1_024;

/// What the publisher's handle tells its task.
#[derive(Debug)]
pub(super) enum Message {
    Queue(Queued),
    /// Answers when what was queued before has ended, with how many changes were not confirmed since the last flush.
    Flush(oneshot::Sender<u64>),
    /// As a flush, and nothing is taken any more.
    Close(oneshot::Sender<u64>),
}

/// One change or heartbeat on its way into a lane's queue.
#[derive(Debug)]
pub(super) struct Queued {
    pub(super) lane: Lane,
    pub(super) slot: u16,
    pub(super) content: Content,
    /// Bytes that it takes in a record, at most.
    pub(super) bytes: usize,
    pub(super) confirm: oneshot::Sender<Result<Receipt, PublishError>>,
    /// Given back when this has ended.
    pub(super) room: Option<Room>,
}

#[derive(Debug)]
pub(super) enum Content {
    Change(Change<'static>),
    /// A record of its own, as it is.
    Heartbeat(Vec<u8>),
}

/// How the task works; fixed when it starts.
#[derive(Debug)]
pub(super) struct Manner {
    pub(super) kinesis: aws_sdk_kinesis::Client,
    pub(super) stream: Arc<str>,
    pub(super) producer: String,
    pub(super) linger: Duration,
    pub(super) retry_for: Duration,
    pub(super) format: RecordFormat,
    pub(super) jitter: Jitter,
    pub(super) clock: Clock,
}

/// Something that waits in a lane's queue.
#[derive(Debug)]
struct Waiting {
    ticket: u64,
    since_ms: i64,
    queued: Queued,
}

/// One record of a lane, from its making until it is confirmed or given up.
#[derive(Debug)]
struct Record {
    lane: Lane,
    data: Blob,
    /// Who waits for it, in the order of the record's changes.
    parties: Vec<Party>,
    /// The number of its first change in the order of all.
    ticket: u64,
    made_ms: i64,
    attempts: u32,
    due_ms: i64,
}

#[derive(Debug)]
struct Party {
    slot: u16,
    confirm: oneshot::Sender<Result<Receipt, PublishError>>,
    _room: Option<Room>,
}

impl Record {
    /// Bytes as PutRecords counts them.
    fn bytes(&self) -> usize {
        self.data.as_ref().len() + self.lane.to_string().len()
    }
}

/// A lane's queue.
#[derive(Debug)]
struct LaneQueue {
    lane: Lane,
    waiting: VecDeque<Waiting>,
    waiting_bytes: usize,
    /// The lane's one record, where it waits to be sent, the first time or again.
    record: Option<Record>,
    /// The first ticket of the lane's one record, while it is on its way.
    sent: Option<u64>,
    last_seq: u64,
    /// What has a ticket up to this goes without lingering.
    urgent: Option<u64>,
    /// Under which time the lane stands in [`Worker::due`].
    due_ms: Option<i64>,
}

impl LaneQueue {
    fn new(lane: Lane) -> Self {
        let (waiting, waiting_bytes, record, sent) = (VecDeque::new(), 0, None, None);
        Self { lane, waiting, waiting_bytes, record, sent, last_seq: 0, urgent: None, due_ms: None }
    }

    /// When the lane's next record is to be sent, if one may be.
    fn due_ms(&self, linger: Duration) -> Option<i64> {
        if self.sent.is_some() {
            return None;
        }
        if let Some(record) = &self.record {
            return Some(record.due_ms);
        }
        let first = self.waiting.front()?;
        let full = self.waiting_bytes >= RECORD_BYTES_MAX || self.waiting.len() >= RECORD_CHANGES_MAX;
        let urgent = self.urgent.is_some_and(|urgent| first.ticket <= urgent);
        Some(if full || urgent { first.since_ms } else { first.since_ms.saturating_add(milliseconds(linger)) })
    }

    /// The ticket of the oldest thing that has not ended.
    fn oldest(&self) -> Option<u64> {
        let record = self.record.as_ref().map(|record| record.ticket);
        self.sent.or(record).or_else(|| self.waiting.front().map(|waiting| waiting.ticket))
    }
}

/// The answers of a PutRecords call, one for each record, or what became of the whole call.
type Answers = Result<Vec<Result<Sequence, Fault>>, Fault>;

/// A PutRecords call that has ended.
struct Call {
    records: Vec<Record>,
    answers: Answers,
}

/// Why a record was not confirmed.
#[derive(Clone, Debug)]
struct Fault {
    message: Arc<str>,
    /// No retry mends it, and nothing was stored.
    lasting: bool,
}

impl Fault {
    fn passing(message: impl Into<Arc<str>>) -> Self {
        Self { message: message.into(), lasting: false }
    }
}

/// The task.
pub(super) struct Worker {
    manner: Manner,
    inbox: mpsc::UnboundedReceiver<Message>,
    /// Whether the inbox may give more.
    open: bool,
    /// Whether nothing is to linger any more.
    closing: bool,
    lanes: Vec<LaneQueue>,
    /// Lanes that have something to send, by when.
    due: BTreeSet<(i64, u16)>,
    calls: FuturesUnordered<BoxFuture<'static, Call>>,
    builder: RecordBuilder,
    last_ticket: u64,
    /// Changes and heartbeats that have not ended.
    unfinished: u64,
    /// Changes and heartbeats that were given up since the last flush.
    given_up: u64,
    flushes: Vec<(u64, oneshot::Sender<u64>)>,
    closes: Vec<oneshot::Sender<u64>>,
}

impl Worker {
    pub(super) fn new(manner: Manner, lanes: Lanes, inbox: mpsc::UnboundedReceiver<Message>) -> Self {
        Self {
            builder: RecordBuilder::new(manner.format),
            manner,
            inbox,
            open: true,
            closing: false,
            lanes: lanes.all().map(LaneQueue::new).collect(),
            due: BTreeSet::new(),
            calls: FuturesUnordered::new(),
            last_ticket: 0,
            unfinished: 0,
            given_up: 0,
            flushes: Vec::new(),
            closes: Vec::new(),
        }
    }

    /// Works until the publisher is closed or dropped and everything queued has ended.
    pub(super) async fn run(mut self) {
        let mut messages = Vec::with_capacity(INBOX_BATCH);
        loop {
            self.send_due();
            self.answer_flushes();
            if !self.open && self.unfinished == 0 {
                break;
            }
            let pause = self.until_due();
            tokio::select! {
                biased;
                Some(call) = self.calls.next(), if !self.calls.is_empty() => self.settle(call),
                taken = self.inbox.recv_many(&mut messages, INBOX_BATCH), if self.open => {
                    for message in messages.drain(..) {
                        self.take(message);
                    }
                    if taken == 0 {
                        self.open = false;
                        self.stop_lingering();
                    }
                }
                () = self.manner.clock.sleep(pause.unwrap_or_default()), if pause.is_some() => {}
            }
        }
        let given_up = std::mem::take(&mut self.given_up);
        for close in self.closes.drain(..) {
            close.send(given_up).ok();
        }
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Queue(queued) => self.queue(queued),
            Message::Flush(answer) => {
                let last = self.last_ticket;
                for index in 0..self.lanes.len() {
                    if self.lanes[index].oldest().is_some() {
                        self.lanes[index].urgent = Some(last);
                        self.schedule(index);
                    }
                }
                self.flushes.push((last, answer));
            }
            Message::Close(answer) => {
                self.inbox.close();
                self.closes.push(answer);
                self.stop_lingering();
            }
        }
    }

    fn queue(&mut self, mut queued: Queued) {
        self.last_ticket += 1;
        self.unfinished += 1;
        let index = usize::from(queued.lane.0);
        let lane = &mut self.lanes[index];
        match &mut queued.content {
            // In the order of the queue, and never again: a number that was given up stays unused.
            Content::Change(change) => {
                lane.last_seq += 1;
                change.producer = Some(Producer { id: Cow::Owned(self.manner.producer.clone()), seq: lane.last_seq });
            }
            Content::Heartbeat(_) => lane.urgent = Some(self.last_ticket),
        }
        lane.waiting_bytes += queued.bytes;
        lane.waiting.push_back(Waiting { ticket: self.last_ticket, since_ms: self.manner.clock.now_ms(), queued });
        self.schedule(index);
    }

    fn stop_lingering(&mut self) {
        self.closing = true;
        for index in 0..self.lanes.len() {
            self.schedule(index);
        }
    }

    /// Puts the lane where it belongs among those that have something to send.
    fn schedule(&mut self, index: usize) {
        let lane = &mut self.lanes[index];
        let linger = if self.closing { Duration::ZERO } else { self.manner.linger };
        let due_ms = lane.due_ms(linger);
        if lane.due_ms != due_ms {
            if let Some(before) = lane.due_ms {
                self.due.remove(&(before, lane.lane.0));
            }
            if let Some(due_ms) = due_ms {
                self.due.insert((due_ms, lane.lane.0));
            }
            lane.due_ms = due_ms;
        }
    }

    /// How long nothing needs to be sent; `None` where only an answer or a message changes that.
    fn until_due(&self) -> Option<Duration> {
        if self.calls.len() >= CALLS_MAX {
            return None;
        }
        let (due_ms, _) = self.due.first()?;
        let left_ms = due_ms.saturating_sub(self.manner.clock.now_ms());
        Some(Duration::from_millis(u64::try_from(left_ms).unwrap_or(0)).min(BACKOFF_MAX))
    }

    /// Sends what is due, as far as calls may be on their way at once.
    fn send_due(&mut self) {
        let now_ms = self.manner.clock.now_ms();
        while self.calls.len() < CALLS_MAX {
            let records = self.next_call(now_ms);
            if records.is_empty() {
                break;
            }
            let (kinesis, stream) = (self.manner.kinesis.clone(), self.manner.stream.clone());
            self.calls.push(Box::pin(async move {
                let answers = put(&kinesis, &stream, &records).await;
                Call { records, answers }
            }));
        }
    }

    /// The records of the next call, at most one of each lane.
    fn next_call(&mut self, now_ms: i64) -> Vec<Record> {
        let (mut records, mut bytes) = (Vec::new(), 0);
        while records.len() < CALL_RECORDS_MAX {
            let Some((due_ms, lane)) = self.due.first().copied() else { break };
            // What lies further ahead than anything is put was put there before the clock went back.
            let ahead_ms = due_ms.saturating_sub(now_ms);
            if ahead_ms > 0 && ahead_ms <= milliseconds(BACKOFF_MAX) {
                break;
            }
            let index = usize::from(lane);
            let Some(record) = self.record_of(index, now_ms) else {
                self.schedule(index);
                continue;
            };
            if !records.is_empty() && bytes + record.bytes() > CALL_BYTES_MAX {
                self.lanes[index].record = Some(record);
                self.schedule(index);
                break;
            }
            bytes += record.bytes();
            self.lanes[index].sent = Some(record.ticket);
            self.schedule(index);
            records.push(record);
        }
        records
    }

    /// The lane's record: the one that waits to be tried again, else a new one of what is queued.
    fn record_of(&mut self, index: usize, now_ms: i64) -> Option<Record> {
        let lane = &mut self.lanes[index];
        if let Some(record) = lane.record.take() {
            return Some(record);
        }
        let (mut parties, mut heartbeat) = (Vec::new(), None);
        let ticket = lane.waiting.front()?.ticket;
        while let Some(Waiting { queued, .. }) = lane.waiting.front() {
            match &queued.content {
                // A heartbeat is a record of its own.
                Content::Heartbeat(_) if !parties.is_empty() => break,
                Content::Heartbeat(data) => heartbeat = Some(data.clone()),
                Content::Change(change) => match self.builder.push(change) {
                    Ok(()) => {}
                    Err(Full) if !parties.is_empty() => break,
                    Err(Full) => {
                        self.refuse_first(index);
                        return None;
                    }
                },
            }
            let Some(Waiting { queued, .. }) = lane.waiting.pop_front() else { break };
            lane.waiting_bytes -= queued.bytes;
            parties.push(Party { slot: queued.slot, confirm: queued.confirm, _room: queued.room });
            if heartbeat.is_some() {
                break;
            }
        }
        let data = Blob::new(heartbeat.unwrap_or_else(|| self.builder.finish()));
        Some(Record { lane: lane.lane, data, parties, ticket, made_ms: now_ms, attempts: 0, due_ms: now_ms })
    }

    /// Ends what is first in the lane's queue and does not fit an empty record. It is checked before it is queued, so
    /// this is only a second line.
    fn refuse_first(&mut self, index: usize) {
        let lane = &mut self.lanes[index];
        if let Some(Waiting { queued, .. }) = lane.waiting.pop_front() {
            lane.waiting_bytes -= queued.bytes;
            self.unfinished -= 1;
            self.given_up += 1;
            queued.confirm.send(Err(PublishError::TooLarge { bytes: queued.bytes })).ok();
        }
    }

    /// Takes in what a call answered. PutRecords fails entry by entry; the answer's entries stand in the request's order.
    fn settle(&mut self, call: Call) {
        let now_ms = self.manner.clock.now_ms();
        let count = call.records.len();
        let answers = match call.answers {
            Ok(answers) if answers.len() == count => answers,
            Ok(answers) => {
                let message = format!("PutRecords answered {} of {count} records", answers.len());
                vec![Err(Fault::passing(message)); count]
            }
            Err(fault) => vec![Err(fault); count],
        };
        for (record, answer) in call.records.into_iter().zip(answers) {
            let index = usize::from(record.lane.0);
            self.lanes[index].sent = None;
            match answer {
                Ok(sequence) => self.confirm(record, &sequence),
                Err(fault) => self.try_again(record, fault, now_ms),
            }
            self.schedule(index);
        }
    }

    fn confirm(&mut self, record: Record, sequence: &Sequence) {
        self.unfinished -= record.parties.len() as u64;
        for (index, party) in (0..).zip(record.parties) {
            let position = Position { sequence: sequence.clone(), index };
            party.confirm.send(Ok(Receipt { lane: record.lane, slot: party.slot, position })).ok();
        }
    }

    /// Lets the record wait for its next try, with its lane behind it, or gives it up.
    fn try_again(&mut self, mut record: Record, fault: Fault, now_ms: i64) {
        record.attempts += 1;
        let over = now_ms.saturating_sub(record.made_ms) >= milliseconds(self.manner.retry_for);
        if fault.lasting || over {
            self.give_up(record, &fault);
            return;
        }
        let pause = self.manner.jitter.backoff(record.attempts);
        tracing::debug!(lane = %record.lane, attempts = record.attempts, message = &*fault.message, ?pause, "not stored");
        record.due_ms = now_ms.saturating_add(milliseconds(pause));
        let index = usize::from(record.lane.0);
        self.lanes[index].record = Some(record);
    }

    /// Ends a record without its lane: what is queued behind it goes on with higher numbers, so that the record, where it
    /// still comes to the stream, is skipped once one of them was applied.
    fn give_up(&mut self, record: Record, fault: &Fault) {
        let changes = record.parties.len() as u64;
        self.unfinished -= changes;
        self.given_up += changes;
        let (stream, lane, attempts) = (self.manner.stream.clone(), record.lane, record.attempts);
        let message = fault.message.clone();
        tracing::error!(stream = &*stream, %lane, attempts, changes, message = &*message, "changes not confirmed");
        let error = if fault.lasting {
            PublishError::Rejected { stream, lane, message }
        } else {
            PublishError::Unconfirmed { stream, lane, attempts, message }
        };
        for party in record.parties {
            party.confirm.send(Err(error.clone())).ok();
        }
    }

    fn answer_flushes(&mut self) {
        if self.flushes.is_empty() {
            return;
        }
        let oldest = self.lanes.iter().filter_map(LaneQueue::oldest).min().unwrap_or(u64::MAX);
        for (last, answer) in std::mem::take(&mut self.flushes) {
            if last < oldest {
                answer.send(std::mem::take(&mut self.given_up)).ok();
            } else {
                self.flushes.push((last, answer));
            }
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let changes = self.unfinished + self.inbox.len() as u64;
        if changes > 0 {
            tracing::error!(
                stream = &*self.manner.stream,
                changes,
                "the publisher ended without close: these changes are not on the stream, or not known to be"
            );
        }
    }
}

async fn put(kinesis: &aws_sdk_kinesis::Client, stream: &str, records: &[Record]) -> Answers {
    let mut request = kinesis.put_records().stream_name(stream);
    for record in records {
        let entry = PutRecordsRequestEntry::builder().partition_key(record.lane.to_string()).data(record.data.clone());
        let entry = entry.build().map_err(|error| Fault { message: error.to_string().into(), lasting: true })?;
        request = request.records(entry);
    }
    match request.send().await {
        Ok(answer) => Ok(answer.records.iter().map(entry_answer).collect()),
        Err(error) => {
            let lasting = error.code().is_some_and(|code| LASTING.contains(&code));
            Err(Fault { message: DisplayErrorContext(error).to_string().into(), lasting })
        }
    }
}

/// Errors after which nothing was stored and nothing will be, until an operator has changed something.
const LASTING: [&str; 9] = [
    "AccessDeniedException",
    "InvalidArgumentException",
    "KMSAccessDeniedException",
    "KMSDisabledException",
    "KMSInvalidStateException",
    "KMSNotFoundException",
    "KMSOptInRequired",
    "ResourceNotFoundException",
    "ValidationException",
];

fn entry_answer(entry: &PutRecordsResultEntry) -> Result<Sequence, Fault> {
    match (entry.sequence_number(), entry.error_code()) {
        (Some(sequence), None) => {
            sequence.parse().map_err(|error: crate::position::PositionError| Fault::passing(error.to_string()))
        }
        (_, code) => {
            let words = [code.unwrap_or("no sequence number"), entry.error_message().unwrap_or_default()];
            Err(Fault::passing(words.join(": ")))
        }
    }
}

/// Randomness for waits, from a seed: retries of many publishers do not come together.
#[derive(Debug)]
pub(super) struct Jitter(u64);

impl Jitter {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// SplitMix64: <https://prng.di.unimi.it/splitmix64.c>.
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// The wait after `attempts` tries: doubling, and between half and all of it.
    pub(super) fn backoff(&mut self, attempts: u32) -> Duration {
        let doubled = BACKOFF_MIN.saturating_mul(1 << attempts.saturating_sub(1).min(16));
        let whole_us = u64::try_from(doubled.min(BACKOFF_MAX).as_micros()).unwrap_or(u64::MAX);
        Duration::from_micros(whole_us / 2 + self.next() % (whole_us / 2 + 1))
    }
}

fn milliseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
