//! Changes as Redis commands.
//!
//! A collection command on an absent key creates nothing, and one that meets another type deletes the key: both need
//! a look at the key in the same step, so such a command is guarded by a small script. Behind a DEL in the same change
//! the key's type is known, and the plain command goes.

use super::fence::Transaction;
use crate::change::{Bytes, Command, End};
use crate::position::Position;
use redis::{Cmd, Value};

/// Most arguments in one Redis command; more are split into several of the same transaction. (Lua unpacks some 8,000.)
const ARGUMENTS_MAX: usize = 2_000;

/// Answers 0 where the key is absent, 1 where the command was applied, and the error where it failed: then the key is
/// gone, so that no region serves a value that is neither old nor new, and the lane record says which change it was.
const GUARD: &str = "if redis.call('EXISTS',KEYS[1])==0 then return 0 end \
local r=redis.pcall(ARGV[2],KEYS[1],unpack(ARGV,3)) \
if type(r)~='table' or not r.err then return 1 end \
redis.call('DEL',KEYS[1]) \
redis.call('HSET',KEYS[2],'failed',(redis.call('HGET',KEYS[2],'failed') or '')..ARGV[1]..' '..r.err..'\\n') \
return r.err";

/// Puts a value that was built aside in place of the key's; where it is gone, so is the key.
const ADOPT: &str = "if redis.call('EXISTS',KEYS[1])==1 then \
redis.call('RENAME',KEYS[1],KEYS[3]) \
if ARGV[2]=='' then redis.call('PERSIST',KEYS[3]) else redis.call('PEXPIREAT',KEYS[3],ARGV[2]) end return 1 end \
redis.call('DEL',KEYS[3]) \
local e='the value built aside was evicted' \
redis.call('HSET',KEYS[2],'failed',(redis.call('HGET',KEYS[2],'failed') or '')..ARGV[1]..' '..e..'\\n') \
return e";

/// One operation of a transaction.
pub(super) enum Op {
    /// A command that goes as it stands; its first argument is its key.
    Plain(Cmd),
    /// A command that runs only where its key is there; `position` names the change where it fails.
    Guarded {
        /// Name, key and arguments.
        command: Cmd,
        /// Position of the change.
        position: String,
    },
    /// Renames a value that was built aside.
    Adopt {
        /// Where it was built.
        aside: String,
        /// The key it is for.
        key: Vec<u8>,
        /// Absolute expiry in milliseconds since the epoch.
        expires_at_ms: Option<i64>,
        /// Position of the change.
        position: String,
    },
}

impl From<Cmd> for Op {
    fn from(command: Cmd) -> Self {
        Op::Plain(command)
    }
}

impl Op {
    /// The one command that does it on a standalone Redis.
    pub(super) fn into_command(self, record_key: &str) -> Cmd {
        match self {
            Op::Plain(command) => command,
            Op::Guarded { command, position } => {
                let mut arguments = arguments(&command);
                let (name, key) = (arguments.next().unwrap_or_default(), arguments.next().unwrap_or_default());
                let mut eval = redis::cmd("EVAL");
                eval.arg(GUARD).arg(2).arg(key).arg(record_key).arg(position).arg(name);
                for argument in arguments {
                    eval.arg(argument);
                }
                eval
            }
            Op::Adopt { aside, key, expires_at_ms, position } => {
                let mut eval = redis::cmd("EVAL");
                eval.arg(ADOPT).arg(3).arg(aside).arg(record_key).arg(key).arg(position);
                eval.arg(expires_at_ms.map(|at| at.to_string()).unwrap_or_default());
                eval
            }
        }
    }
}

/// A command's name and arguments.
pub(super) fn arguments(command: &Cmd) -> impl Iterator<Item = &[u8]> {
    command.args_iter().map(|argument| match argument {
        redis::Arg::Simple(bytes) => bytes,
        _ => &[],
    })
}

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

/// A command of a change as Redis takes it.
enum Form<'c> {
    /// Works whatever the key holds.
    Plain(Cmd, SentKind),
    /// Works on one type: its name, the type, and its arguments.
    Collection(&'static str, Kind, Vec<&'c Bytes<'c>>),
}

/// Adds the commands of the change at `position` on `key`; relative expiries count from `base_ms`.
pub(super) fn add(
    transaction: &mut Transaction,
    key: &[u8],
    commands: &[Command<'_>],
    base_ms: i64,
    position: &Position,
) -> Vec<Sent> {
    let mut known = Known::Nothing;
    let mut sent = Vec::with_capacity(commands.len());
    for command in commands {
        match form(key, command, base_ms) {
            Form::Plain(plain, kind) => {
                known = match command {
                    Command::Set { .. } => Known::Kind(Kind::String),
                    Command::Delete => Known::Absent,
                    _ => known,
                };
                sent.push(Sent { answer: transaction.add(plain), kind });
            }
            Form::Collection(name, kind, arguments) => {
                let certain = known == Known::Absent || known == Known::Kind(kind);
                for some in arguments.chunks(ARGUMENTS_MAX) {
                    let mut command = redis::cmd(name);
                    command.arg(key);
                    for argument in some {
                        command.arg(argument.as_ref());
                    }
                    sent.push(if certain {
                        Sent { answer: transaction.add(command), kind: SentKind::Plain }
                    } else {
                        let guarded = Op::Guarded { command, position: position.to_string() };
                        Sent { answer: transaction.add(guarded), kind: SentKind::Guarded }
                    });
                }
                if certain {
                    known = Known::Kind(kind);
                }
            }
        }
    }
    sent
}

fn form<'c>(key: &[u8], command: &'c Command<'c>, base_ms: i64) -> Form<'c> {
    let pairs =
        |pairs: &'c [(Bytes<'c>, Bytes<'c>)]| pairs.iter().flat_map(|(first, second)| [first, second]).collect();
    match command {
        Command::Set { value, expiry } => {
            Form::Plain(set(key, value, expiry.map(|expiry| expiry.at_ms(base_ms))), SentKind::Plain)
        }
        Command::Delete => Form::Plain(delete(key), SentKind::Plain),
        Command::Expire(expiry) => {
            let mut expire = redis::cmd("PEXPIREAT");
            expire.arg(key).arg(expiry.at_ms(base_ms));
            Form::Plain(expire, SentKind::Renewal)
        }
        Command::Persist => {
            let mut persist = redis::cmd("PERSIST");
            persist.arg(key);
            Form::Plain(persist, SentKind::Plain)
        }
        Command::HashSet(fields) => Form::Collection("HSET", Kind::Hash, pairs(fields)),
        Command::HashDelete(fields) => Form::Collection("HDEL", Kind::Hash, fields.iter().collect()),
        Command::SetAdd(members) => Form::Collection("SADD", Kind::Set, members.iter().collect()),
        Command::SetRemove(members) => Form::Collection("SREM", Kind::Set, members.iter().collect()),
        Command::SortedSetAdd(members) => Form::Collection("ZADD", Kind::SortedSet, pairs(members)),
        Command::SortedSetRemove(members) => Form::Collection("ZREM", Kind::SortedSet, members.iter().collect()),
        Command::Push { end: End::Left, values } => Form::Collection("LPUSH", Kind::List, values.iter().collect()),
        Command::Push { end: End::Right, values } => Form::Collection("RPUSH", Kind::List, values.iter().collect()),
    }
}

/// Renames the value built at `aside` to the key of the change at `position`.
pub(super) fn adopt(
    transaction: &mut Transaction,
    aside: String,
    key: &[u8],
    expires_at_ms: Option<i64>,
    position: &Position,
) -> Sent {
    let adopt = Op::Adopt { aside, key: key.to_vec(), expires_at_ms, position: position.to_string() };
    Sent { answer: transaction.add(adopt), kind: SentKind::Guarded }
}

/// Whether no command of a change can fail, whatever the key holds: only then may a later change make it needless.
pub(super) fn cannot_fail(commands: &[Command<'_>]) -> bool {
    let free = |command: &Command<'_>| {
        matches!(command, Command::Set { .. } | Command::Delete | Command::Expire(_) | Command::Persist)
    };
    commands.iter().all(free)
}

/// Whether a change leaves nothing of what the key held.
pub(super) fn replaces(commands: &[Command<'_>]) -> bool {
    matches!(commands.first(), Some(Command::Set { .. } | Command::Delete))
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
