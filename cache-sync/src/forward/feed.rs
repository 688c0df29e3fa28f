//! The feed: brings lanes that are behind from their marks to the stream's tip.
//!
//! Why to the tip, and not to the batch in hand: what the mapping was acknowledged before the lane was found behind is
//! on the stream by then, also where the batch in hand is an old one that comes late. While a lane is fed nothing else
//! is acknowledged for it, for that would move its mark, which every write here names. So a lane that becomes ready
//! behind the tip lacks nothing that will not be delivered.

use super::{Deadline, Envelope, Forward, ForwardError, refused};
use crate::event::{Event, EventRecord};
use crate::lane::Lane;
use crate::position::Sequence;
use crate::protocol::{Behind, Counts, Follows, Outcome, Reason, ReplayAnswer};
use crate::stream::{End, Range, StreamError};
use std::collections::BTreeMap;
use std::time::Duration;

/// Fed records that go into one request, in bytes of base64.
const FED_BYTES_MAX: usize = 4_000_000;
/// What must be left of the invocation's time to begin another read or request.
const TIME_RESERVE: Duration = Duration::from_secs(5);

impl Forward {
    /// Reads the stream from the marks of the lanes that are behind to its tip, and then makes them ready. `event`, the
    /// batch in hand, lies before the tip, so it is applied with the rest.
    pub(super) async fn feed(
        &self,
        event: &Envelope,
        behind: BTreeMap<Lane, Behind>,
        deadline: &impl Deadline,
    ) -> Result<Counts, ForwardError> {
        let mut awaited = last_sequences(event)?;
        awaited.retain(|lane, _| behind.contains_key(lane));
        let (mut ranges, mut follows) = (BTreeMap::new(), BTreeMap::new());
        for (lane, found) in behind {
            tracing::warn!(%lane, region = self.region.region(), reason = ?found.reason, mark = ?found.mark, "feeding");
            let from = found.mark.as_ref().map(|mark| mark.sequence.clone());
            ranges.insert(lane, Range { from, until: End::Tip });
            follows.insert(lane, Follows { mark: found.mark, replication_id: found.replication_id });
        }
        let mut counts = Counts::default();
        let mut reader = self.stream.reader(ranges).await?;
        while let Some(page) = reader.page().await? {
            for chunk in by_size(&page) {
                self.check_time(follows.len(), deadline)?;
                counts.add(self.feed_chunk(chunk, &mut follows).await?);
                forget_reached(&mut awaited, chunk);
            }
            self.check_time(follows.len(), deadline)?;
        }
        // A tip before what was delivered is none.
        if let Some((lane, until)) = awaited.pop_first() {
            return Err(StreamError::NotReached { lane, until: until.as_str().to_owned() }.into());
        }
        counts.add(self.join(follows).await?);
        Ok(counts)
    }

    async fn feed_chunk(
        &self,
        records: &[EventRecord<'static>],
        follows: &mut BTreeMap<Lane, Follows>,
    ) -> Result<Counts, ForwardError> {
        let lanes: Vec<Lane> = records.iter().filter_map(lane).collect();
        let named: BTreeMap<Lane, Follows> =
            follows.iter().filter(|(lane, _)| lanes.contains(lane)).map(|(lane, f)| (*lane, f.clone())).collect();
        let answer = self.deliver(&mut event_of(records)?, named, false).await?;
        check_applied(&answer, &lanes, self.region.region())?;
        self.meter.fed(records.len());
        for (lane, outcome) in &answer.lanes {
            if let (Outcome::Applied { mark }, Some(follows)) = (outcome, follows.get_mut(lane)) {
                follows.mark.clone_from(mark);
            }
        }
        Ok(answer.counts)
    }

    /// Makes lanes ready that stand at the tip: a write of nothing that names the marks they were fed to.
    async fn join(&self, follows: BTreeMap<Lane, Follows>) -> Result<Counts, ForwardError> {
        let answer = self.deliver(&mut event_of(&[])?, follows.clone(), true).await?;
        check_applied(&answer, follows.keys(), self.region.region())?;
        Ok(answer.counts)
    }

    fn check_time(&self, lanes: usize, deadline: &impl Deadline) -> Result<(), ForwardError> {
        if deadline.left() > TIME_RESERVE {
            return Ok(());
        }
        Err(ForwardError::OutOfTime { lanes, region: self.region.region().to_owned() })
    }
}

fn check_applied<'l>(
    answer: &ReplayAnswer,
    lanes: impl IntoIterator<Item = &'l Lane>,
    region: &str,
) -> Result<(), ForwardError> {
    for lane in lanes {
        let overtaken = || ForwardError::Overtaken { lane: *lane, region: region.to_owned() };
        match answer.lanes.get(lane) {
            Some(Outcome::Applied { .. }) => {}
            // The stream was read from the mark on, so the heartbeat was lost before it.
            Some(Outcome::Behind(Behind { reason: Reason::BrokenChain, .. })) => {
                let why = "a heartbeat is missing on the stream behind its mark";
                return Err(ForwardError::NeedsResync { lane: *lane, region: region.to_owned(), why });
            }
            Some(other) => return Err(refused(*lane, other, region).unwrap_or_else(overtaken)),
            None => return Err(overtaken()),
        }
    }
    Ok(())
}

fn event_of(records: &[EventRecord<'static>]) -> Result<Envelope, ForwardError> {
    Envelope::of_records(records).map_err(ForwardError::Event)
}

fn lane(record: &EventRecord<'_>) -> Option<Lane> {
    record.kinesis.partition_key.parse().ok().map(Lane)
}

/// Each lane's last sequence number in the event.
fn last_sequences(event: &Envelope) -> Result<BTreeMap<Lane, Sequence>, ForwardError> {
    let event = event.event().and_then(Event::from_json).map_err(ForwardError::Event)?;
    let mut lasts: BTreeMap<Lane, Sequence> = BTreeMap::new();
    for record in &event.records {
        if let (Some(lane), Ok(sequence)) = (lane(record), record.kinesis.sequence_number.parse()) {
            lasts.insert(lane, sequence);
        }
    }
    Ok(lasts)
}

/// Forgets the lanes of which the records reach what was awaited.
fn forget_reached(awaited: &mut BTreeMap<Lane, Sequence>, records: &[EventRecord<'_>]) {
    for record in records {
        if let (Some(lane), Ok(sequence)) = (lane(record), record.kinesis.sequence_number.parse::<Sequence>())
            && awaited.get(&lane).is_some_and(|until| sequence >= *until)
        {
            awaited.remove(&lane);
        }
    }
}

/// Cuts fed records into requests of bounded size, at least one record each.
fn by_size<'p>(page: &'p [EventRecord<'static>]) -> impl Iterator<Item = &'p [EventRecord<'static>]> {
    let mut rest = page;
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let fits = rest.iter().take_while(|record| {
            let fits = bytes == 0 || bytes + record.kinesis.data.len() <= FED_BYTES_MAX;
            bytes += record.kinesis.data.len().max(1);
            fits
        });
        let (chunk, behind) = rest.split_at(fits.count());
        rest = behind;
        (!chunk.is_empty()).then_some(chunk)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::borrow::Cow;

    fn record(lane: u16, sequence: &str) -> EventRecord<'static> {
        let kinesis = crate::event::KinesisRecord {
            partition_key: Cow::Owned(lane.to_string()),
            sequence_number: Cow::Owned(sequence.to_owned()),
            data: Cow::Borrowed("AA=="),
            approximate_arrival_timestamp: 1.5,
        };
        EventRecord { event_id: Cow::Owned(format!("shardId-000:{sequence}")), kinesis }
    }

    #[test]
    fn a_feed_awaits_the_last_record_of_every_lane_in_hand() {
        let event = event_of(&[record(0, "8"), record(1, "9"), record(0, "10"), record(2, "11")]).unwrap();
        let mut awaited = last_sequences(&event).unwrap();
        forget_reached(&mut awaited, &[record(0, "9"), record(1, "009"), record(3, "90")]);
        let left: Vec<(Lane, &str)> = awaited.iter().map(|(lane, sequence)| (*lane, sequence.as_str())).collect();
        assert_eq!(left, [(Lane(0), "10"), (Lane(2), "11")]);
        forget_reached(&mut awaited, &[record(2, "12"), record(0, "10")]);
        assert!(awaited.is_empty());
    }

    #[test]
    fn what_is_not_a_mapping_event_is_an_error() {
        let event: Envelope = serde_json::from_str("{\"hello\":1}").unwrap();
        assert!(matches!(last_sequences(&event), Err(ForwardError::Event(_))));
    }

    #[test]
    fn fed_records_are_cut_by_size_and_none_is_lost() {
        let mut page = vec![record(0, "1"), record(0, "2"), record(0, "3")];
        page[1].kinesis.data = Cow::Owned("A".repeat(FED_BYTES_MAX));
        let cut: Vec<usize> = by_size(&page).map(<[_]>::len).collect();
        assert_eq!(cut, [1, 1, 1]);
    }
}
