//! The publisher's frame: many changes in one record, compact, compressed and checksummed (layout: CONTRACT.md).
//!
//! Promises: what was pushed is what is decoded; a frame that was cut or altered is not decoded at all; a compressed
//! frame never grows past [`BODY_BYTES_MAX`] or [`GROWTH_MAX`] times its size, and holds no more changes and items than
//! its size allows; one bad change leaves the others alone.

use crate::change::{Body, Bytes, Change, Command, End, Expiry, Producer, Reference, Refused};
use crate::record::CHANGES_MAX;
use std::borrow::Cow;

/// The first two bytes of a frame.
pub const MAGIC: [u8; 2] = *b"TM";
/// The layout that this crate reads and writes, the third byte.
pub const VERSION: u8 = 1;
/// Largest body of a compressed frame after decompression, in bytes.
pub const BODY_BYTES_MAX: usize = 1 << 20;
/// Most that a compressed body may grow, as a multiple of its size; a batch of such frames stays bounded too.
pub const GROWTH_MAX: usize = 16;

/// Fewest bytes that a frame has for each of its changes, so that a batch of small records does not become millions of
/// changes. A change that is stored has as many at least.
pub const CHANGE_BYTES_MIN: usize = 5;

/// Magic, version, codec, number of changes and size of the body.
const HEADER_BYTES: usize = 12;
/// CRC-32 of all that stands before it.
const CHECKSUM_BYTES: usize = 4;
/// Smaller bodies are stored: compressing them costs more than it saves.
const COMPRESS_BYTES_MIN: usize = 256;
const ZSTD_LEVEL: i32 = 1;

const STORED: u8 = 0;
const ZSTD: u8 = 1;

/// Why a frame cannot be decoded.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// Shorter than its header and checksum.
    #[error("the frame is cut short: {0} bytes")]
    Short(usize),
    /// A layout of another version.
    #[error("frame version {0} is not known: this reads {VERSION}")]
    Version(u8),
    /// A codec that version 1 does not have.
    #[error("frame codec {0} is not known: 0 is stored, 1 is zstd")]
    Codec(u8),
    /// Altered or cut on its way.
    #[error("the frame's checksum does not hold: it was altered or cut")]
    Checksum,
    /// Its body would grow too much.
    #[error(
        "the frame's body has {bytes} bytes, compressed {compressed}: at most {BODY_BYTES_MAX}, and {GROWTH_MAX} times the compressed size"
    )]
    Growth {
        /// Size of the body as the header names it.
        bytes: usize,
        /// Size as it came.
        compressed: usize,
    },
    /// It names more changes than its size may hold.
    #[error("the frame holds {count} changes in {bytes} bytes: at least {CHANGE_BYTES_MIN} bytes for each")]
    Dense {
        /// How many changes its header names.
        count: usize,
        /// Its size.
        bytes: usize,
    },
    /// The body does not decompress to the size that the header names.
    #[error("the frame's body does not decompress to the {0} bytes that its header names")]
    Compressed(usize),
    /// More changes than a record may hold.
    #[error("the frame holds {0} changes: at most {CHANGES_MAX}")]
    TooMany(usize),
    /// Lengths that do not fit each other.
    #[error("the frame's body is malformed: {0}")]
    Malformed(&'static str),
}

/// Whether a record's data is a frame.
#[must_use]
pub fn is_frame(data: &[u8]) -> bool {
    data.starts_with(&MAGIC)
}

/// The change does not fit the frame beside what is in it; nothing was added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the change does not fit the frame")]
pub struct Full;

/// Collects changes of one lane into a frame.
///
/// The size is known at every moment: [`FrameBuilder::len_bytes`] is the size of the frame if nothing is compressed,
/// [`FrameBuilder::finish`] never returns more than that, and [`FrameBuilder::push`] refuses with [`Full`] what would
/// take it past the bound given to [`FrameBuilder::new`]. So where `push` refuses a change to an empty builder, that
/// change fits no frame of that bound.
#[derive(Debug)]
pub struct FrameBuilder {
    bytes_max: usize,
    frame: Vec<u8>,
    item: Vec<u8>,
    count: usize,
    /// Commands of changes that have several, and members, fields and values of collections.
    items: usize,
    base: Base,
}

/// What the items of a frame count from; taken from its first change.
#[derive(Clone, Debug, Default)]
struct Base {
    producer: String,
    ms: i64,
    seq: u64,
}

impl FrameBuilder {
    /// An empty frame that will have at most `bytes_max` bytes; at most [`BODY_BYTES_MAX`] whatever is asked for.
    #[must_use]
    pub fn new(bytes_max: usize) -> Self {
        let bytes_max = bytes_max.min(BODY_BYTES_MAX);
        Self { bytes_max, frame: Vec::new(), item: Vec::new(), count: 0, items: 0, base: Base::default() }
    }

    /// Adds a change, which must be one that [`Change::check`] passes.
    ///
    /// # Errors
    /// [`Full`] where the frame would pass its bound in bytes or [`CHANGES_MAX`]; the frame is as it was.
    pub fn push(&mut self, change: &Change<'_>) -> Result<(), Full> {
        if self.count == CHANGES_MAX {
            return Err(Full);
        }
        if self.count == 0 {
            self.begin(change);
        }
        self.item.clear();
        put_change(&mut self.item, change, &self.base);
        if self.frame.len() + varint_bytes(self.item.len()) + self.item.len() + CHECKSUM_BYTES > self.bytes_max {
            return Err(Full);
        }
        put_varint(&mut self.frame, self.item.len() as u64);
        self.frame.extend_from_slice(&self.item);
        self.count += 1;
        self.items += items(change);
        Ok(())
    }

    fn begin(&mut self, change: &Change<'_>) {
        let (producer, seq) = match &change.producer {
            Some(producer) => (producer.id.clone().into_owned(), producer.seq),
            None => (String::new(), 0),
        };
        self.base = Base { producer, ms: change.at_ms.unwrap_or_default(), seq };
        self.frame.clear();
        self.frame.extend_from_slice(&[0; HEADER_BYTES]);
        put_bytes(&mut self.frame, self.base.producer.as_bytes());
        self.frame.extend_from_slice(&self.base.ms.to_le_bytes());
        self.frame.extend_from_slice(&self.base.seq.to_le_bytes());
    }

    /// How many changes are in it.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether nothing is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Size of the frame without compression: [`FrameBuilder::finish`] returns no more. 0 while it is empty.
    #[must_use]
    pub fn len_bytes(&self) -> usize {
        if self.count == 0 { 0 } else { self.frame.len() + CHECKSUM_BYTES }
    }

    /// The frame, and an empty builder with the same bound in its place. Compressed where that saves anything.
    ///
    /// An empty builder gives a frame of no changes.
    pub fn finish(&mut self) -> Vec<u8> {
        if self.count == 0 {
            self.frame.clear();
            self.frame.extend_from_slice(&[0; HEADER_BYTES]);
            self.frame.extend_from_slice(&[0; 17]);
        }
        let mut frame = std::mem::take(&mut self.frame);
        let (count, items) = (std::mem::take(&mut self.count), std::mem::take(&mut self.items));
        let body_bytes = frame.len() - HEADER_BYTES;
        let mut codec = STORED;
        if let Some(compressed) = compressed(&frame, count, items) {
            (frame, codec) = (compressed, ZSTD);
        }
        frame[..2].copy_from_slice(&MAGIC);
        frame[2] = VERSION;
        frame[3] = codec;
        frame[4..8].copy_from_slice(&(count as u32).to_le_bytes());
        frame[8..HEADER_BYTES].copy_from_slice(&(body_bytes as u32).to_le_bytes());
        let checksum = crc32fast::hash(&frame);
        frame.extend_from_slice(&checksum.to_le_bytes());
        frame
    }
}

/// What [`Reader::count`] counts when it reads the change.
fn items(change: &Change<'_>) -> usize {
    let Body::Commands(commands) = &change.body else { return 0 };
    let several = if commands.len() == 1 { 0 } else { commands.len() };
    let of_command = |command: &Command<'_>| match command {
        Command::HashSet(pairs) | Command::SortedSetAdd(pairs) => 2 * pairs.len(),
        Command::HashDelete(list)
        | Command::SetAdd(list)
        | Command::SetRemove(list)
        | Command::SortedSetRemove(list)
        | Command::Push { values: list, .. } => list.len(),
        Command::Set { .. } | Command::Delete | Command::Expire(_) | Command::Persist => 0,
    };
    several + commands.iter().map(of_command).sum::<usize>()
}

/// A frame with its body compressed and its header still empty, where that is worth it.
fn compressed(frame: &[u8], count: usize, items: usize) -> Option<Vec<u8>> {
    let body = &frame[HEADER_BYTES..];
    if body.len() < COMPRESS_BYTES_MIN {
        return None;
    }
    let compressed = zstd::bulk::compress(body, ZSTD_LEVEL).ok()?;
    let dense = count * CHANGE_BYTES_MIN > compressed.len() || items > compressed.len();
    let worth = compressed.len() < body.len() && body.len() <= compressed.len() * GROWTH_MAX && !dense;
    worth.then(|| {
        let mut frame = Vec::with_capacity(HEADER_BYTES + compressed.len() + CHECKSUM_BYTES);
        frame.extend_from_slice(&[0; HEADER_BYTES]);
        frame.extend_from_slice(&compressed);
        frame
    })
}

/// A frame whose checksum holds, with its body decompressed; changes borrow from it.
#[derive(Debug)]
pub struct Frame {
    count: usize,
    /// Most items that its changes may have: one for each byte as it came.
    items_max: usize,
    bytes: Vec<u8>,
    body: std::ops::Range<usize>,
}

impl Frame {
    /// Checks a frame and decompresses its body; a stored one is not copied.
    ///
    /// # Errors
    /// [`FrameError`].
    pub fn open(data: Vec<u8>) -> Result<Self, FrameError> {
        let [_, _, version, codec, header @ ..] = data.as_slice() else { return Err(FrameError::Short(data.len())) };
        if data.len() < HEADER_BYTES + CHECKSUM_BYTES {
            return Err(FrameError::Short(data.len()));
        }
        if *version != VERSION {
            return Err(FrameError::Version(*version));
        }
        let (count, bytes) = (u32_at(header, 0), u32_at(header, 4));
        let end = data.len() - CHECKSUM_BYTES;
        if crc32fast::hash(&data[..end]) as usize != u32_at(&data, end) {
            return Err(FrameError::Checksum);
        }
        if count > CHANGES_MAX {
            return Err(FrameError::TooMany(count));
        }
        if count * CHANGE_BYTES_MIN > data.len() {
            return Err(FrameError::Dense { count, bytes: data.len() });
        }
        let body = HEADER_BYTES..end;
        match *codec {
            STORED if bytes == body.len() => Ok(Self { count, items_max: data.len(), body, bytes: data }),
            STORED => Err(FrameError::Malformed("it has not the size that the header names")),
            ZSTD => {
                let compressed = &data[body];
                if bytes > BODY_BYTES_MAX || bytes > compressed.len() * GROWTH_MAX {
                    return Err(FrameError::Growth { bytes, compressed: compressed.len() });
                }
                let body = zstd::bulk::decompress(compressed, bytes).map_err(|_| FrameError::Compressed(bytes))?;
                if body.len() != bytes {
                    return Err(FrameError::Compressed(bytes));
                }
                Ok(Self { count, items_max: data.len(), body: 0..bytes, bytes: body })
            }
            other => Err(FrameError::Codec(other)),
        }
    }

    /// Size in memory, in bytes.
    #[must_use]
    pub fn len_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Decodes the changes; each stands alone.
    ///
    /// # Errors
    /// [`FrameError::Malformed`] where one change cannot be told from the next.
    pub fn changes(&self) -> Result<Vec<Result<Change<'_>, Refused>>, FrameError> {
        let mut reader = Reader { rest: &self.bytes[self.body.clone()], items_left: self.items_max };
        let base = reader.base().ok_or(FrameError::Malformed("it ends within what its changes count from"))?;
        if self.count > reader.rest.len() {
            return Err(FrameError::Malformed("it has fewer changes than the header names"));
        }
        let mut changes = Vec::with_capacity(self.count);
        for _ in 0..self.count {
            let item = reader.bytes().ok_or(FrameError::Malformed("it ends within a change"))?;
            changes.push(change(item, &base, &mut reader.items_left));
        }
        if reader.rest.is_empty() { Ok(changes) } else { Err(FrameError::Malformed("it has bytes behind its changes")) }
    }
}

fn u32_at(bytes: &[u8], at: usize) -> usize {
    bytes.get(at..at + 4).and_then(|four| four.try_into().ok()).map_or(0, |four| u32::from_le_bytes(four) as usize)
}

// --- items ---

/// Bits of an item's first byte.
const HAS_AT_MS: u8 = 1;
const FRAMES_PRODUCER: u8 = 2;
const OWN_PRODUCER: u8 = 4;
const SEVERAL: u8 = 8;
const KNOWN_BITS: u8 = 15;

/// The bytes that name commands.
mod op {
    pub(super) const SET: u8 = 1;
    pub(super) const SET_IN_MS: u8 = 2;
    pub(super) const SET_AT_MS: u8 = 3;
    pub(super) const DELETE: u8 = 4;
    pub(super) const EXPIRE_IN_MS: u8 = 5;
    pub(super) const EXPIRE_AT_MS: u8 = 6;
    pub(super) const PERSIST: u8 = 7;
    pub(super) const HASH_SET: u8 = 8;
    pub(super) const HASH_DELETE: u8 = 9;
    pub(super) const SET_ADD: u8 = 10;
    pub(super) const SET_REMOVE: u8 = 11;
    pub(super) const SORTED_SET_ADD: u8 = 12;
    pub(super) const SORTED_SET_REMOVE: u8 = 13;
    pub(super) const PUSH_RIGHT: u8 = 14;
    pub(super) const PUSH_LEFT: u8 = 15;
    pub(super) const REFERENCE: u8 = 16;
    pub(super) const REFERENCE_AT_MS: u8 = 17;
}

fn put_change(out: &mut Vec<u8>, change: &Change<'_>, base: &Base) {
    let several = match &change.body {
        Body::Commands(commands) if commands.len() != 1 => Some(commands.len()),
        _ => None,
    };
    let producer = change.producer.as_ref();
    let framed = producer.is_some_and(|producer| !base.producer.is_empty() && producer.id == base.producer);
    let mut bits = if several.is_some() { SEVERAL } else { 0 };
    bits |= if change.at_ms.is_some() { HAS_AT_MS } else { 0 };
    bits |= match producer {
        None => 0,
        Some(_) if framed => FRAMES_PRODUCER,
        Some(_) => OWN_PRODUCER,
    };
    out.push(bits);
    put_bytes(out, &change.key);
    if let Some(at_ms) = change.at_ms {
        put_signed(out, at_ms.wrapping_sub(base.ms));
    }
    if let Some(producer) = producer {
        if framed {
            put_varint(out, producer.seq.wrapping_sub(base.seq));
        } else {
            put_bytes(out, producer.id.as_bytes());
            put_varint(out, producer.seq);
        }
    }
    match &change.body {
        Body::Commands(commands) => {
            if let Some(count) = several {
                put_varint(out, count as u64);
            }
            commands.iter().for_each(|command| put_command(out, command));
        }
        Body::Reference(reference) => put_reference(out, reference),
    }
}

fn put_command(out: &mut Vec<u8>, command: &Command<'_>) {
    match command {
        Command::Set { value, expiry } => {
            match expiry {
                None => out.push(op::SET),
                Some(expiry) => put_expiry(out, *expiry, op::SET_IN_MS, op::SET_AT_MS),
            }
            put_bytes(out, value);
        }
        Command::Delete => out.push(op::DELETE),
        Command::Expire(expiry) => put_expiry(out, *expiry, op::EXPIRE_IN_MS, op::EXPIRE_AT_MS),
        Command::Persist => out.push(op::PERSIST),
        Command::HashSet(pairs) => put_pairs(out, op::HASH_SET, pairs),
        Command::HashDelete(fields) => put_list(out, op::HASH_DELETE, fields),
        Command::SetAdd(members) => put_list(out, op::SET_ADD, members),
        Command::SetRemove(members) => put_list(out, op::SET_REMOVE, members),
        Command::SortedSetAdd(pairs) => put_pairs(out, op::SORTED_SET_ADD, pairs),
        Command::SortedSetRemove(members) => put_list(out, op::SORTED_SET_REMOVE, members),
        Command::Push { end: End::Right, values } => put_list(out, op::PUSH_RIGHT, values),
        Command::Push { end: End::Left, values } => put_list(out, op::PUSH_LEFT, values),
    }
}

fn put_expiry(out: &mut Vec<u8>, expiry: Expiry, in_ms: u8, at_ms: u8) {
    let (op, ms) = match expiry {
        Expiry::InMs(ms) => (in_ms, ms),
        Expiry::AtMs(ms) => (at_ms, ms),
    };
    out.push(op);
    put_signed(out, ms);
}

fn put_list(out: &mut Vec<u8>, op: u8, items: &[Bytes<'_>]) {
    out.push(op);
    put_varint(out, items.len() as u64);
    items.iter().for_each(|item| put_bytes(out, item));
}

fn put_pairs(out: &mut Vec<u8>, op: u8, pairs: &[(Bytes<'_>, Bytes<'_>)]) {
    out.push(op);
    put_varint(out, pairs.len() as u64);
    for (first, second) in pairs {
        put_bytes(out, first);
        put_bytes(out, second);
    }
}

fn put_reference(out: &mut Vec<u8>, reference: &Reference) {
    match reference.expires_at_ms {
        None => out.push(op::REFERENCE),
        Some(at_ms) => {
            out.push(op::REFERENCE_AT_MS);
            put_signed(out, at_ms);
        }
    }
    for text in [&reference.bucket, &reference.object, &reference.sha256] {
        put_bytes(out, text.as_bytes());
    }
    put_varint(out, reference.bytes);
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Zigzag: small numbers of either sign are short.
fn put_signed(out: &mut Vec<u8>, number: i64) {
    put_varint(out, ((number << 1) ^ (number >> 63)) as u64);
}

/// Seven bits a byte, lowest first, the high bit set on all but the last (as in protobuf).
fn put_varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn varint_bytes(number: usize) -> usize {
    (number.max(1).ilog2() as usize) / 7 + 1
}

/// Reads items; `None` where they end too early.
struct Reader<'a> {
    rest: &'a [u8],
    items_left: usize,
}

impl<'a> Reader<'a> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*first)
    }

    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(count)?;
        self.rest = rest;
        Some(taken)
    }

    fn varint(&mut self) -> Option<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let part = u64::from(byte & 0x7f);
            number |= part << shift;
            if byte < 0x80 {
                // The tenth byte has one bit to give.
                return (shift < 63 || part <= 1).then_some(number);
            }
        }
        None
    }

    fn signed(&mut self) -> Option<i64> {
        let number = self.varint()?;
        Some((number >> 1) as i64 ^ -((number & 1) as i64))
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let count = usize::try_from(self.varint()?).ok()?;
        self.take(count)
    }

    fn borrowed(&mut self) -> Option<Bytes<'a>> {
        self.bytes().map(Cow::Borrowed)
    }

    fn text(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.bytes()?).ok()
    }

    /// How many of something follow that has at least `bytes_min` bytes, and as many items, each.
    fn count(&mut self, bytes_min: usize) -> Option<usize> {
        let count = usize::try_from(self.varint()?).ok().filter(|count| *count <= self.rest.len() / bytes_min)?;
        self.items_left = self.items_left.checked_sub(count * bytes_min)?;
        Some(count)
    }

    // Made as large as they will be, here and below: a vector that grows may end twice as large.
    fn list(&mut self) -> Option<Vec<Bytes<'a>>> {
        let count = self.count(1)?;
        let mut list = Vec::with_capacity(count);
        for _ in 0..count {
            list.push(self.borrowed()?);
        }
        Some(list)
    }

    fn pairs(&mut self) -> Option<Vec<(Bytes<'a>, Bytes<'a>)>> {
        let count = self.count(2)?;
        let mut pairs = Vec::with_capacity(count);
        for _ in 0..count {
            pairs.push((self.borrowed()?, self.borrowed()?));
        }
        Some(pairs)
    }

    fn commands(&mut self) -> Option<Vec<Command<'a>>> {
        let count = self.count(1)?;
        let mut commands = Vec::with_capacity(count);
        for _ in 0..count {
            let op = self.byte()?;
            commands.push(command(self, op)?);
        }
        Some(commands)
    }

    fn base(&mut self) -> Option<BorrowedBase<'a>> {
        let producer = self.text()?;
        let ms = i64::from_le_bytes(self.take(8)?.try_into().ok()?);
        let seq = u64::from_le_bytes(self.take(8)?.try_into().ok()?);
        Some(BorrowedBase { producer, ms, seq })
    }
}

struct BorrowedBase<'a> {
    producer: &'a str,
    ms: i64,
    seq: u64,
}

fn change<'a>(item: &'a [u8], base: &BorrowedBase<'a>, items_left: &mut usize) -> Result<Change<'a>, Refused> {
    let mut reader = Reader { rest: item, items_left: *items_left };
    let malformed = |key: &[u8]| Refused {
        keys: if key.is_empty() { Vec::new() } else { vec![key.to_vec()] },
        reason: "not a change: the frame's item is malformed".to_owned(),
        producer: None,
    };
    let bits = reader.byte().filter(|bits| bits & !KNOWN_BITS == 0).ok_or_else(|| malformed(&[]))?;
    let key = reader.bytes().ok_or_else(|| malformed(&[]))?;
    let change = rest_of_change(&mut reader, bits, key, base).filter(|_| reader.rest.is_empty());
    *items_left = reader.items_left;
    let change = change.ok_or_else(|| malformed(key))?;
    change.check()?;
    Ok(change)
}

fn rest_of_change<'a>(reader: &mut Reader<'a>, bits: u8, key: &'a [u8], base: &BorrowedBase<'a>) -> Option<Change<'a>> {
    let at_ms = match bits & HAS_AT_MS {
        0 => None,
        _ => Some(base.ms.wrapping_add(reader.signed()?)),
    };
    let producer = match bits & (FRAMES_PRODUCER | OWN_PRODUCER) {
        0 => None,
        FRAMES_PRODUCER => Some(Producer { id: base.producer.into(), seq: base.seq.wrapping_add(reader.varint()?) }),
        OWN_PRODUCER => Some(Producer { id: reader.text()?.into(), seq: reader.varint()? }),
        _ => return None,
    };
    let body = if bits & SEVERAL == 0 {
        let op = reader.byte()?;
        match op {
            op::REFERENCE | op::REFERENCE_AT_MS => Body::Reference(reference(reader, op)?.into()),
            _ => Body::Commands(vec![command(reader, op)?]),
        }
    } else {
        Body::Commands(reader.commands()?)
    };
    Some(Change { key: Cow::Borrowed(key), body, at_ms, producer })
}

fn command<'a>(reader: &mut Reader<'a>, op: u8) -> Option<Command<'a>> {
    Some(match op {
        op::SET => Command::Set { value: reader.borrowed()?, expiry: None },
        op::SET_IN_MS => {
            let expiry = Some(Expiry::InMs(reader.signed()?));
            Command::Set { value: reader.borrowed()?, expiry }
        }
        op::SET_AT_MS => {
            let expiry = Some(Expiry::AtMs(reader.signed()?));
            Command::Set { value: reader.borrowed()?, expiry }
        }
        op::DELETE => Command::Delete,
        op::EXPIRE_IN_MS => Command::Expire(Expiry::InMs(reader.signed()?)),
        op::EXPIRE_AT_MS => Command::Expire(Expiry::AtMs(reader.signed()?)),
        op::PERSIST => Command::Persist,
        op::HASH_SET => Command::HashSet(reader.pairs()?),
        op::HASH_DELETE => Command::HashDelete(reader.list()?),
        op::SET_ADD => Command::SetAdd(reader.list()?),
        op::SET_REMOVE => Command::SetRemove(reader.list()?),
        op::SORTED_SET_ADD => Command::SortedSetAdd(reader.pairs()?),
        op::SORTED_SET_REMOVE => Command::SortedSetRemove(reader.list()?),
        op::PUSH_RIGHT => Command::Push { end: End::Right, values: reader.list()? },
        op::PUSH_LEFT => Command::Push { end: End::Left, values: reader.list()? },
        _ => return None,
    })
}

fn reference(reader: &mut Reader<'_>, op: u8) -> Option<Reference> {
    let expires_at_ms = match op {
        op::REFERENCE => None,
        _ => Some(reader.signed()?),
    };
    let mut text = || reader.text().map(str::to_owned);
    let (bucket, object, sha256) = (text()?, text()?, text()?);
    Some(Reference { bucket, object, sha256, bytes: reader.varint()?, expires_at_ms })
}

#[cfg(test)]
mod tests;
