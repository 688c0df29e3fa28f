//! Changes as Redis commands.
//!
//! A collection command on an absent key creates nothing, and one that meets another type deletes the key: both need
//! a look at the key in the same step, so such a command goes through [`GUARD`]. Behind a DEL in the same change the
//! key's type is known, and the plain command goes.

use super::fence::Transaction;
use crate::change::{Bytes, Command, End};
use redis::{Cmd, Value};

/// Most arguments in one Redis command; more are split into several of the same transaction. (ElastiCache Serverless
/// takes 3,999, Lua unpacks some 8,000.)
const ARGUMENTS_MAX: usize = 2_000;

/// Answers 0 where the key is absent, 1 where the command was applied, and the error where it failed: then the key is
/// gone, so that no region serves a value that is neither old nor new.
const GUARD: &str = "if redis.call('EXISTS',KEYS[1])==0 then return 0 end \
local r=redis.pcall(ARGV[1],KEYS[1],unpack(ARGV,2)) \
if type(r)=='table' and r.err then redis.call('DEL',KEYS[1]) return r.err end return 1";

/// Which answers of a transaction belong to one command, and how they are to be read.
#[derive(Debug)]
pub(super) struct Sent {
    answer: usize,
    kind: SentKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SentKind {
    Plain,
    /// 0 means that the key was absent.
    Renewal,
    Guarded,
}

/// How a command ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ending {
    Applied,
    /// The key was absent, so nothing was created.
    Missed,
    /// Redis refused it; where it was guarded the key is deleted.
    Failed(String),
}

impl Sent {
    /// Reads the command's answer from what the transaction returned.
    pub(super) fn ending(&self, answers: &[Value]) -> Ending {
        match (self.kind, answers.get(self.answer)) {
            (_, Some(Value::ServerError(error))) => Ending::Failed(error.to_string()),
            (SentKind::Renewal | SentKind::Guarded, Some(Value::Int(0))) => Ending::Missed,
            (SentKind::Guarded, Some(Value::BulkString(error))) => {
                Ending::Failed(String::from_utf8_lossy(error).into_owned())
            }
            (_, Some(_)) => Ending::Applied,
            (_, None) => Ending::Failed("redis gave no answer".into()),
        }
    }
}

/// What is certain of the key's type in the middle of a change.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Known {
    Nothing,
    Absent,
    Kind(Kind),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    String,
    Hash,
    List,
    Set,
    SortedSet,
}

/// Adds the commands of one change on `key`; relative expiries count from `base_ms`.
pub(super) fn add(transaction: &mut Transaction, key: &[u8], commands: &[Command<'_>], base_ms: i64) -> Vec<Sent> {
    let mut known = Known::Nothing;
    let mut sent = Vec::with_capacity(commands.len());
    for command in commands {
        match command {
            Command::Set { value, expiry } => {
                let set = set(key, value, expiry.map(|expiry| expiry.at_ms(base_ms)));
                sent.push(Sent { answer: transaction.add(set), kind: SentKind::Plain });
                known = Known::Kind(Kind::String);
            }
            Command::Delete => {
                sent.push(Sent { answer: transaction.add(delete(key)), kind: SentKind::Plain });
                known = Known::Absent;
            }
            Command::Expire(expiry) => {
                let mut expire = redis::cmd("PEXPIREAT");
                expire.arg(key).arg(expiry.at_ms(base_ms));
                sent.push(Sent { answer: transaction.add(expire), kind: SentKind::Renewal });
            }
            Command::Persist => {
                let mut persist = redis::cmd("PERSIST");
                persist.arg(key);
                sent.push(Sent { answer: transaction.add(persist), kind: SentKind::Plain });
            }
            collection => add_collection(transaction, key, collection, &mut known, &mut sent),
        }
    }
    sent
}

fn add_collection(
    transaction: &mut Transaction,
    key: &[u8],
    command: &Command<'_>,
    known: &mut Known,
    sent: &mut Vec<Sent>,
) {
    let (name, kind, arguments) = collection_parts(command);
    let plain = *known == Known::Absent || *known == Known::Kind(kind);
    for some in arguments.chunks(ARGUMENTS_MAX) {
        let mut redis_command = redis::cmd(if plain { name } else { "EVAL" });
        if !plain {
            redis_command.arg(GUARD).arg(1);
        }
        redis_command.arg(key);
        if !plain {
            redis_command.arg(name);
        }
        for argument in some {
            redis_command.arg(argument.as_ref());
        }
        let kind = if plain { SentKind::Plain } else { SentKind::Guarded };
        sent.push(Sent { answer: transaction.add(redis_command), kind });
    }
    if plain {
        *known = Known::Kind(kind);
    }
}

/// The command's name, the type it works on, and its arguments; pairs stay together because the bound is even.
fn collection_parts<'c>(command: &'c Command<'_>) -> (&'static str, Kind, Vec<&'c Bytes<'c>>) {
    let flat = |pairs: &'c [(Bytes<'_>, Bytes<'_>)]| pairs.iter().flat_map(|(a, b)| [a, b]).collect();
    match command {
        Command::HashSet(pairs) => ("HSET", Kind::Hash, flat(pairs)),
        Command::HashDelete(fields) => ("HDEL", Kind::Hash, fields.iter().collect()),
        Command::SetAdd(members) => ("SADD", Kind::Set, members.iter().collect()),
        Command::SetRemove(members) => ("SREM", Kind::Set, members.iter().collect()),
        Command::SortedSetAdd(pairs) => ("ZADD", Kind::SortedSet, flat(pairs)),
        Command::SortedSetRemove(members) => ("ZREM", Kind::SortedSet, members.iter().collect()),
        Command::Push { end: End::Left, values } => ("LPUSH", Kind::List, values.iter().collect()),
        Command::Push { end: End::Right, values } => ("RPUSH", Kind::List, values.iter().collect()),
        Command::Set { .. } | Command::Delete | Command::Expire(_) | Command::Persist => {
            ("TYPE", Kind::String, Vec::new())
        }
    }
}

/// SET with an absolute expiry.
pub(super) fn set(key: &[u8], value: &[u8], expires_at_ms: Option<i64>) -> Cmd {
    let mut set = redis::cmd("SET");
    set.arg(key).arg(value);
    if let Some(at) = expires_at_ms {
        set.arg("PXAT").arg(at.max(1));
    }
    set
}

/// DEL.
pub(super) fn delete(key: &[u8]) -> Cmd {
    let mut delete = redis::cmd("DEL");
    delete.arg(key);
    delete
}
