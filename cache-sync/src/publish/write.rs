//! What a service hands to the publisher: one cache write, by a typed helper or as raw commands.

use crate::arguments::{self, Arg};
use crate::change::{Bytes, Command, End, Expiry, Refused};
use std::borrow::Cow;
use std::time::Duration;

/// One cache write on one key: Redis write commands that every region applies as one, all of them or none.
///
/// What creates a collection (`replace_…`) begins with `DEL` and takes an expiry, so that no region ever serves half of
/// it or keeps it for ever by mistake. What changes a collection (`hash_set`, `set_add`, …) changes one that is there:
/// on an absent key it creates nothing. Keys and values are bytes. A time to live counts from the publishing and has
/// whole milliseconds; the key ends at the same instant in every region.
#[derive(Clone, Debug, PartialEq)]
pub struct CacheWrite {
    pub(super) key: Vec<u8>,
    pub(super) commands: Vec<Command<'static>>,
}

impl CacheWrite {
    /// Sets `key` to `value`, to expire after `ttl`; `None`: never.
    #[must_use]
    pub fn set(key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>, ttl: Option<Duration>) -> Self {
        Self::on(key, Command::Set { value: Cow::Owned(value.into()), expiry: ttl.map(expiry) })
    }

    /// Deletes `key`, whatever it holds.
    #[must_use]
    pub fn delete(key: impl Into<Vec<u8>>) -> Self {
        Self::on(key, Command::Delete)
    }

    /// Lets `key` expire after `ttl`. A region where it has expired already keeps it absent: where that must not
    /// happen, send value and expiry together.
    #[must_use]
    pub fn expire(key: impl Into<Vec<u8>>, ttl: Duration) -> Self {
        Self::on(key, Command::Expire(expiry(ttl)))
    }

    /// Takes the expiry off `key`.
    #[must_use]
    pub fn persist(key: impl Into<Vec<u8>>) -> Self {
        Self::on(key, Command::Persist)
    }

    /// Makes `key` a hash of exactly these fields and values; of none: deletes it.
    #[must_use]
    pub fn replace_hash<F: Into<Vec<u8>>, V: Into<Vec<u8>>>(
        key: impl Into<Vec<u8>>,
        fields: impl IntoIterator<Item = (F, V)>,
        ttl: Option<Duration>,
    ) -> Self {
        let fields = pairs(fields);
        let empty = fields.is_empty();
        Self::replacing(key, Command::HashSet(fields), empty, ttl)
    }

    /// Makes `key` a set of exactly these members; of none: deletes it.
    #[must_use]
    pub fn replace_set<M: Into<Vec<u8>>>(
        key: impl Into<Vec<u8>>,
        members: impl IntoIterator<Item = M>,
        ttl: Option<Duration>,
    ) -> Self {
        let members = items(members);
        let empty = members.is_empty();
        Self::replacing(key, Command::SetAdd(members), empty, ttl)
    }

    /// Makes `key` a sorted set of exactly these members and scores; of none: deletes it.
    #[must_use]
    pub fn replace_sorted_set<M: Into<Vec<u8>>>(
        key: impl Into<Vec<u8>>,
        members: impl IntoIterator<Item = (M, f64)>,
        ttl: Option<Duration>,
    ) -> Self {
        let members = scored(members);
        let empty = members.is_empty();
        Self::replacing(key, Command::SortedSetAdd(members), empty, ttl)
    }

    /// Makes `key` a list of exactly these elements in this order; of none: deletes it.
    #[must_use]
    pub fn replace_list<E: Into<Vec<u8>>>(
        key: impl Into<Vec<u8>>,
        elements: impl IntoIterator<Item = E>,
        ttl: Option<Duration>,
    ) -> Self {
        let values = items(elements);
        let empty = values.is_empty();
        Self::replacing(key, Command::Push { end: End::Right, values }, empty, ttl)
    }

    /// Sets fields of the hash at `key`, where there is one.
    #[must_use]
    pub fn hash_set<F: Into<Vec<u8>>, V: Into<Vec<u8>>>(
        key: impl Into<Vec<u8>>,
        fields: impl IntoIterator<Item = (F, V)>,
    ) -> Self {
        Self::on(key, Command::HashSet(pairs(fields)))
    }

    /// Removes fields of the hash at `key`.
    #[must_use]
    pub fn hash_delete<F: Into<Vec<u8>>>(key: impl Into<Vec<u8>>, fields: impl IntoIterator<Item = F>) -> Self {
        Self::on(key, Command::HashDelete(items(fields)))
    }

    /// Adds members to the set at `key`, where there is one.
    #[must_use]
    pub fn set_add<M: Into<Vec<u8>>>(key: impl Into<Vec<u8>>, members: impl IntoIterator<Item = M>) -> Self {
        Self::on(key, Command::SetAdd(items(members)))
    }

    /// Removes members of the set at `key`.
    #[must_use]
    pub fn set_remove<M: Into<Vec<u8>>>(key: impl Into<Vec<u8>>, members: impl IntoIterator<Item = M>) -> Self {
        Self::on(key, Command::SetRemove(items(members)))
    }

    /// Gives members of the sorted set at `key` these scores, where there is one.
    #[must_use]
    pub fn sorted_set_add<M: Into<Vec<u8>>>(
        key: impl Into<Vec<u8>>,
        members: impl IntoIterator<Item = (M, f64)>,
    ) -> Self {
        Self::on(key, Command::SortedSetAdd(scored(members)))
    }

    /// Removes members of the sorted set at `key`.
    #[must_use]
    pub fn sorted_set_remove<M: Into<Vec<u8>>>(key: impl Into<Vec<u8>>, members: impl IntoIterator<Item = M>) -> Self {
        Self::on(key, Command::SortedSetRemove(items(members)))
    }

    /// Raw commands on one key, each its name, the key and its arguments, as Redis takes them.
    ///
    /// # Errors
    /// [`Refused`] with what to use instead, where the wire contract does not have such a command.
    pub fn commands<C: IntoIterator<Item = A>, A: Into<Vec<u8>>>(
        commands: impl IntoIterator<Item = C>,
    ) -> Result<Self, Refused> {
        let arguments = |command: C| items(command).into_iter().map(Arg).collect();
        let mut lists: Vec<Vec<Arg<'static>>> = commands.into_iter().map(arguments).collect();
        match arguments::parse(&mut lists) {
            Ok((key, commands)) => Ok(Self { key: key.into_owned(), commands }),
            Err(reason) => Err(Refused { keys: arguments::named_keys(&lists), reason, producer: None }),
        }
    }

    /// The key.
    #[must_use]
    pub fn key(&self) -> &[u8] {
        &self.key
    }

    fn on(key: impl Into<Vec<u8>>, command: Command<'static>) -> Self {
        Self { key: key.into(), commands: vec![command] }
    }

    fn replacing(key: impl Into<Vec<u8>>, create: Command<'static>, empty: bool, ttl: Option<Duration>) -> Self {
        let mut write = Self::delete(key);
        if !empty {
            write.commands.push(create);
            write.commands.extend(ttl.map(|ttl| Command::Expire(expiry(ttl))));
        }
        write
    }
}

fn expiry(ttl: Duration) -> Expiry {
    Expiry::InMs(i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX))
}

fn items<A: Into<Vec<u8>>>(arguments: impl IntoIterator<Item = A>) -> Vec<Bytes<'static>> {
    arguments.into_iter().map(|argument| Cow::Owned(argument.into())).collect()
}

fn pairs<A: Into<Vec<u8>>, B: Into<Vec<u8>>>(
    pairs: impl IntoIterator<Item = (A, B)>,
) -> Vec<(Bytes<'static>, Bytes<'static>)> {
    pairs.into_iter().map(|(first, second)| (Cow::Owned(first.into()), Cow::Owned(second.into()))).collect()
}

fn scored<M: Into<Vec<u8>>>(members: impl IntoIterator<Item = (M, f64)>) -> Vec<(Bytes<'static>, Bytes<'static>)> {
    pairs(members.into_iter().map(|(member, score)| (score.to_string(), member)))
}
