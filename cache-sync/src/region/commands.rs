//! Changes as Redis commands.
//!
//! A collection command on an absent key creates nothing, and one that meets another type deletes the key: both need
//! a look at the key in the same step, so such a command is guarded by a small script. Behind a DEL in the same change
//! the key's type is known, and the plain command goes.
//!
//! Neighbouring SETs without expiry go as one MSET, which means the same: whatever the keys held goes, and so do their
//! expiries. Inside a transaction it fails no more than they do, which is never: memory and rights are looked at for the
//! transaction as a whole, before any of it is done.

use super::batch::Step;
use super::fence::Transaction;
use crate::change::{Bytes, Command, End};
use redis::{Cmd, Value};

/// Most arguments in one Redis command; more are split into several of the same transaction. (Lua unpacks some 8,000.)
const ARGUMENTS_MAX: usize = 2_000;
/// What a SET with expiry takes besides key and value, in bytes: its own words and a time.
const SET_WORDS_BYTES: usize = 24;

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
    /// MSET of some keys.
    Sets(Cmd),
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
            Op::Plain(command) | Op::Sets(command) => command,
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

/// Which answer of a transaction belongs to one command of a step, and how it is to be read.
#[derive(Debug)]
pub(super) struct Sent<'s, 'a> {
    pub(super) step: &'s Step<'a>,
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

impl Sent<'_, '_> {
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
    /// SET of a value that does not expire.
    Set(&'c [u8]),
    /// Works whatever the key holds.
    Plain(Cmd, SentKind),
    /// Works on one type: its name, the type, and its arguments.
    Collection(&'static str, Kind, Vec<&'c Bytes<'c>>),
}

/// Adds the commands of a step's change on `key`, and to `sent` where their answers will be; relative expiries count
/// from `base_ms`.
pub(super) fn add<'s, 'a>(
    transaction: &mut Transaction,
    sent: &mut Vec<Sent<'s, 'a>>,
    step: &'s Step<'a>,
    key: &[u8],
    commands: &[Command<'_>],
    base_ms: i64,
) {
    let mut known = Known::Nothing;
    for command in commands {
        match form(key, command, base_ms) {
            Form::Set(value) => {
                known = Known::Kind(Kind::String);
                sent.push(Sent { step, answer: add_set(transaction, key, value), kind: SentKind::Plain });
            }
            Form::Plain(plain, kind) => {
                known = match command {
                    Command::Set { .. } => Known::Kind(Kind::String),
                    Command::Delete => Known::Absent,
                    _ => known,
                };
                sent.push(Sent { step, answer: transaction.add(plain), kind });
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
                        Sent { step, answer: transaction.add(command), kind: SentKind::Plain }
                    } else {
                        let guarded = Op::Guarded { command, position: step.position.to_string() };
                        Sent { step, answer: transaction.add(guarded), kind: SentKind::Guarded }
                    });
                }
                if certain {
                    known = Known::Kind(kind);
                }
            }
        }
    }
}

/// Adds a SET without expiry, to the MSET before it where there is one, and returns the index of its answer.
fn add_set(transaction: &mut Transaction, key: &[u8], value: &[u8]) -> usize {
    if let Some(Op::Sets(sets)) = transaction.ops.last_mut()
        && sets.args_iter().len() < ARGUMENTS_MAX
    {
        sets.arg(key).arg(value);
        return transaction.ops.len() - 1;
    }
    let mut sets = redis::cmd("MSET");
    sets.arg(key).arg(value);
    transaction.add(Op::Sets(sets))
}

fn form<'c>(key: &[u8], command: &'c Command<'c>, base_ms: i64) -> Form<'c> {
    let pairs =
        |pairs: &'c [(Bytes<'c>, Bytes<'c>)]| pairs.iter().flat_map(|(first, second)| [first, second]).collect();
    match command {
        Command::Set { value, expiry: None } => Form::Set(value),
        Command::Set { value, expiry: Some(expiry) } => {
            Form::Plain(set(key, value, Some(expiry.at_ms(base_ms))), SentKind::Plain)
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

/// Renames the value built at `aside` to the key of the step's change.
pub(super) fn adopt<'s, 'a>(
    transaction: &mut Transaction,
    step: &'s Step<'a>,
    aside: String,
    key: &[u8],
    expires_at_ms: Option<i64>,
) -> Sent<'s, 'a> {
    let adopt = Op::Adopt { aside, key: key.to_vec(), expires_at_ms, position: step.position.to_string() };
    Sent { step, answer: transaction.add(adopt), kind: SentKind::Guarded }
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
    let mut set = Cmd::with_capacity(5, key.len() + value.len() + SET_WORDS_BYTES);
    set.arg("SET").arg(key).arg(value);
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

#[cfg(test)]
mod tests {
    use super::super::fence::Unit;
    use super::*;
    use crate::lane::Lane;

    /// The transaction's commands, each as its arguments.
    fn sent(commands: &[(&str, Command<'_>)]) -> (Vec<Vec<String>>, Vec<usize>) {
        let mut transaction = Transaction::new(Unit::lane(Lane(0)));
        let mut answers = Vec::new();
        for (key, command) in commands {
            match form(key.as_bytes(), command, 0) {
                Form::Set(value) => answers.push(add_set(&mut transaction, key.as_bytes(), value)),
                Form::Plain(plain, _) => answers.push(transaction.add(plain)),
                Form::Collection(..) => unreachable!("not among these commands"),
            }
        }
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let commands = transaction.ops.into_iter().map(|op| op.into_command("record"));
        (commands.map(|command| arguments(&command).map(text).collect()).collect(), answers)
    }

    fn set(value: &'static str) -> Command<'static> {
        Command::Set { value: value.as_bytes().into(), expiry: None }
    }

    #[test]
    fn neighbouring_sets_are_one_command_and_keep_their_order_with_others() {
        let expiring = Command::Set { value: b"3"[..].into(), expiry: Some(crate::change::Expiry::AtMs(9)) };
        let (commands, answers) = sent(&[
            ("a", set("1")),
            ("b", set("2")),
            ("a", expiring),
            ("a", set("4")),
            ("b", Command::Delete),
            ("b", set("5")),
        ]);
        let texts: Vec<String> = commands.iter().map(|command| command.join(" ")).collect();
        assert_eq!(texts, ["MSET a 1 b 2", "SET a 3 PXAT 9", "MSET a 4", "DEL b", "MSET b 5"]);
        assert_eq!(answers, [0, 0, 1, 2, 3, 4]);
    }

    #[test]
    fn a_command_has_a_bounded_number_of_arguments() {
        let many: Vec<(String, Command<'_>)> = (0..2_500).map(|number| (number.to_string(), set("v"))).collect();
        let many: Vec<(&str, Command<'_>)> = many.iter().map(|(key, set)| (key.as_str(), set.clone())).collect();
        let (commands, answers) = sent(&many);
        assert_eq!(commands.iter().map(Vec::len).collect::<Vec<_>>(), [2_001, 2_001, 1_001]);
        assert_eq!((answers[999], answers[1_000], answers[2_499]), (0, 1, 2));
    }
}
