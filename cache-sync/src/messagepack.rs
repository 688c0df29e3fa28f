//! MessagePack, as far as it must be known before serde reads it: where one value ends, so that each change of an array
//! stands alone, and what a change may not have.
//!
//! Format: <https://github.com/msgpack/msgpack/blob/master/spec.md>

/// Deepest nesting of a value; a change has three levels.
const DEPTH_MAX: usize = 16;

/// Bytes that are no MessagePack value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// They end too early.
    #[error("it ends within a value")]
    Cut,
    /// 0xc1.
    #[error("byte 0xc1 is never used")]
    NeverUsed,
    /// Deeper than any change.
    #[error("it is nested more than {DEPTH_MAX} levels deep")]
    Deep,
}

/// One value: its bytes, and what keeps it from being a change although its end is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Value<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) fault: Option<&'static str>,
}

/// Whether a value that begins with this byte is a map.
pub(crate) fn is_map(first: u8) -> bool {
    matches!(first, 0x80..=0x8f | 0xde | 0xdf)
}

/// Whether a value that begins with this byte is an array.
pub(crate) fn is_array(first: u8) -> bool {
    matches!(first, 0x90..=0x9f | 0xdc | 0xdd)
}

/// The first value and what follows it.
pub(crate) fn split(bytes: &[u8]) -> Result<(Value<'_>, &[u8]), Malformed> {
    let mut scan = Scan { rest: bytes, fault: None };
    scan.value(0)?;
    Ok((Value { bytes: &bytes[..bytes.len() - scan.rest.len()], fault: scan.fault }, scan.rest))
}

/// How many values an array has, and its bytes from the first on; `None` where it is no array.
pub(crate) fn array(bytes: &[u8]) -> Result<Option<(usize, &[u8])>, Malformed> {
    let mut scan = Scan { rest: bytes, fault: None };
    let count = match scan.byte()? {
        first @ 0x90..=0x9f => usize::from(first & 15),
        0xdc => scan.number(2)?,
        0xdd => scan.number(4)?,
        _ => return Ok(None),
    };
    Ok(Some((count, scan.rest)))
}

struct Scan<'a> {
    rest: &'a [u8],
    fault: Option<&'static str>,
}

impl<'a> Scan<'a> {
    fn byte(&mut self) -> Result<u8, Malformed> {
        let (first, rest) = self.rest.split_first().ok_or(Malformed::Cut)?;
        self.rest = rest;
        Ok(*first)
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(Malformed::Cut)?;
        self.rest = rest;
        Ok(taken)
    }

    fn number(&mut self, bytes: usize) -> Result<usize, Malformed> {
        Ok(self.take(bytes)?.iter().fold(0, |number, byte| number << 8 | usize::from(*byte)))
    }

    fn text(&mut self, bytes: usize) -> Result<(), Malformed> {
        if std::str::from_utf8(self.take(bytes)?).is_err() {
            self.fault = Some("a str is not UTF-8: send bytes as bin");
        }
        Ok(())
    }

    fn values(&mut self, count: usize, depth: usize) -> Result<(), Malformed> {
        (0..count).try_for_each(|_| self.value(depth + 1))
    }

    fn pairs(&mut self, count: usize, depth: usize) -> Result<(), Malformed> {
        for _ in 0..count {
            if !matches!(self.rest.first(), Some(0xa0..=0xbf | 0xd9..=0xdb) | None) {
                self.fault = Some("a name in a map is not a str");
            }
            self.values(2, depth)?;
        }
        Ok(())
    }

    fn value(&mut self, depth: usize) -> Result<(), Malformed> {
        if depth > DEPTH_MAX {
            return Err(Malformed::Deep);
        }
        match self.byte()? {
            0x00..=0x7f | 0xe0..=0xff | 0xc0 | 0xc2 | 0xc3 => Ok(()),
            0xc1 => Err(Malformed::NeverUsed),
            first @ 0x80..=0x8f => self.pairs(usize::from(first & 15), depth),
            first @ 0x90..=0x9f => self.values(usize::from(first & 15), depth),
            first @ 0xa0..=0xbf => self.text(usize::from(first & 31)),
            first @ 0xc4..=0xc6 => {
                let bytes = self.number(1 << (first - 0xc4))?;
                self.take(bytes).map(drop)
            }
            first @ 0xc7..=0xc9 => {
                let bytes = self.number(1 << (first - 0xc7))?;
                self.extension(bytes)
            }
            0xca => self.take(4).map(drop),
            0xcb => self.take(8).map(drop),
            first @ 0xcc..=0xcf => self.take(1 << (first - 0xcc)).map(drop),
            first @ 0xd0..=0xd3 => self.take(1 << (first - 0xd0)).map(drop),
            first @ 0xd4..=0xd8 => self.extension(1 << (first - 0xd4)),
            first @ 0xd9..=0xdb => {
                let bytes = self.number(1 << (first - 0xd9))?;
                self.text(bytes)
            }
            first @ (0xdc | 0xdd) => {
                let count = self.number(if first == 0xdc { 2 } else { 4 })?;
                self.values(count, depth)
            }
            first @ (0xde | 0xdf) => {
                let count = self.number(if first == 0xde { 2 } else { 4 })?;
                self.pairs(count, depth)
            }
        }
    }

    fn extension(&mut self, bytes: usize) -> Result<(), Malformed> {
        self.fault = Some("a change has no extension types");
        self.take(1 + bytes).map(drop)
    }
}
