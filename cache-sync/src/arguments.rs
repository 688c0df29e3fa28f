//! Commands as their arguments: which ones the contract allows, and what to use instead of those that it refuses.
//!
//! CONTRACT.md has the same tables, and a test holds both together.

use crate::change::{Bytes, Command, End, Expiry};
use std::borrow::Cow;

/// One argument of a command, its name included.
#[derive(Clone, Debug)]
pub(crate) struct Arg<'a>(pub(crate) Bytes<'a>);

/// Commands that are refused for one reason.
#[derive(Clone, Copy, Debug)]
pub struct Refusal {
    /// Their names.
    pub names: &'static [&'static str],
    /// What is wrong with them.
    pub why: &'static str,
    /// What to use instead.
    pub instead: &'static str,
}

const STEP: &str = "it is a step, not a result";
const DEPENDS: &str = "its result depends on what the region holds";

/// Every write command of Redis that the contract refuses.
pub const REFUSED: &[Refusal] = &[
    Refusal {
        names: &[
            "INCR",
            "INCRBY",
            "INCRBYFLOAT",
            "DECR",
            "DECRBY",
            "APPEND",
            "SETRANGE",
            "SETBIT",
            "BITFIELD",
            "BITOP",
            "GETSET",
            "GETDEL",
            "GETEX",
        ],
        why: STEP,
        instead: "SET the resulting value",
    },
    Refusal { names: &["SETNX", "MSETNX", "HSETNX"], why: DEPENDS, instead: "decide first, then SET or HSET" },
    Refusal { names: &["MSET", "MSETEX"], why: "it writes several keys", instead: "publish one SET for each" },
    Refusal {
        names: &["HINCRBY", "HINCRBYFLOAT", "HGETDEL"],
        why: STEP,
        instead: "HSET the resulting value or HDEL the field",
    },
    Refusal {
        names: &["HEXPIRE", "HPEXPIRE", "HEXPIREAT", "HPEXPIREAT", "HPERSIST", "HSETEX", "HGETEX"],
        why: "fields of their own expiry are not in Redis 6.2",
        instead: "a key for each field, with its expiry",
    },
    Refusal { names: &["ZINCRBY"], why: STEP, instead: "ZADD the resulting score" },
    Refusal {
        names: &[
            "LPOP",
            "RPOP",
            "LREM",
            "LSET",
            "LTRIM",
            "LINSERT",
            "LPUSHX",
            "RPUSHX",
            "LMOVE",
            "RPOPLPUSH",
            "LMPOP",
            "BLPOP",
            "BRPOP",
            "BLMOVE",
            "BRPOPLPUSH",
            "BLMPOP",
        ],
        why: STEP,
        instead: "send DEL and RPUSH of the whole list as one change",
    },
    Refusal { names: &["SPOP", "SMOVE"], why: STEP, instead: "SREM and SADD the members, one change for each key" },
    Refusal {
        names: &[
            "ZPOPMIN",
            "ZPOPMAX",
            "ZMPOP",
            "BZPOPMIN",
            "BZPOPMAX",
            "BZMPOP",
            "ZREMRANGEBYRANK",
            "ZREMRANGEBYSCORE",
            "ZREMRANGEBYLEX",
        ],
        why: DEPENDS,
        instead: "ZREM the members",
    },
    Refusal {
        names: &[
            "SINTERSTORE",
            "SUNIONSTORE",
            "SDIFFSTORE",
            "ZUNIONSTORE",
            "ZINTERSTORE",
            "ZDIFFSTORE",
            "ZRANGESTORE",
            "GEOSEARCHSTORE",
            "GEORADIUS",
            "GEORADIUSBYMEMBER",
            "SORT",
            "COPY",
            "RENAME",
            "RENAMENX",
        ],
        why: "it reads another key",
        instead: "send DEL and the resulting members as one change",
    },
    Refusal {
        names: &["GEOADD"],
        why: "the score of a place is the server's to compute",
        instead: "ZADD the members with their geohash scores, or SET the places",
    },
    Refusal {
        names: &["PFADD", "PFMERGE", "PFCOUNT", "PFDEBUG"],
        why: STEP,
        instead: "SET the bytes of the resulting HyperLogLog",
    },
    Refusal {
        names: &[
            "XADD",
            "XTRIM",
            "XDEL",
            "XDELEX",
            "XSETID",
            "XGROUP",
            "XACK",
            "XACKDEL",
            "XCLAIM",
            "XAUTOCLAIM",
            "XREADGROUP",
        ],
        why: "a stream is a log, not a cache",
        instead: "a list or a sorted set of the newest entries, or keep the stream in one region",
    },
    Refusal {
        names: &["RESTORE", "RESTORE-ASKING", "MIGRATE"],
        why: "its payload is of one server's version",
        instead: "SET, or DEL and the members as one change",
    },
    Refusal {
        names: &["FLUSHALL", "FLUSHDB", "SWAPDB", "MOVE"],
        why: "it is not a change of one key",
        instead: "publish DEL for each key",
    },
    Refusal {
        names: &["EVAL", "EVALSHA", "FCALL", "FUNCTION", "MULTI", "EXEC"],
        why: "what it does is not in the change",
        instead: "send the resulting writes as commands of one change (\"cmds\")",
    },
];

/// Why a command is refused and what to use instead, where it is one of [`REFUSED`].
#[must_use]
pub fn instead_of(name: &str) -> Option<String> {
    let refusal = REFUSED.iter().find(|refusal| refusal.names.contains(&name))?;
    Some(format!("{name} is refused: {}: {}", refusal.why, refusal.instead))
}

/// The key and the commands of a change. Values are moved out of `lists` as far as it got; keys stay, so that
/// [`named_keys`] finds them after an error.
pub(crate) fn parse<'a>(lists: &mut [Vec<Arg<'a>>]) -> Result<(Bytes<'a>, Vec<Command<'a>>), String> {
    let mut commands = Vec::with_capacity(lists.len());
    for list in lists.iter_mut() {
        commands.push(command(list)?);
    }
    let mut keys = lists.iter().map(|list| &list[1].0);
    let first = keys.next().ok_or("a change has at least one command")?;
    if keys.any(|key| key != first) {
        return Err("a change writes one key: publish one change for each key".into());
    }
    let key = std::mem::take(&mut lists[0][1].0);
    Ok((key, commands))
}

/// Every key that some commands name, sorted and once each.
pub(crate) fn named_keys(lists: &[Vec<Arg<'_>>]) -> Vec<Vec<u8>> {
    let mut keys: Vec<Vec<u8>> = lists.iter().flat_map(|args| keys_of_command(args)).collect();
    keys.sort();
    keys.dedup();
    keys
}

fn keys_of_command(args: &[Arg<'_>]) -> Vec<Vec<u8>> {
    let Some((name, rest)) = args.split_first() else { return Vec::new() };
    let step = match upper(&name.0).as_ref() {
        "DEL" | "UNLINK" => 1,
        "MSET" | "MSETNX" => 2,
        _ => rest.len().max(1),
    };
    rest.iter().step_by(step).map(|key| key.0.to_vec()).collect()
}

fn upper<'n>(name: &'n [u8]) -> Cow<'n, str> {
    match std::str::from_utf8(name) {
        Ok(text) if !name.iter().any(u8::is_ascii_lowercase) => Cow::Borrowed(text),
        _ => Cow::Owned(String::from_utf8_lossy(name).to_ascii_uppercase()),
    }
}

/// One command of its arguments, with its key left where it is.
pub(crate) fn command<'a>(list: &mut [Arg<'a>]) -> Result<Command<'a>, String> {
    let (name, rest) = list.split_first_mut().ok_or("a command is empty")?;
    let name = upper(&name.0);
    let known = rest.split_first_mut().map(|(_, args)| of_arguments(&name, args));
    match known {
        Some(Ok(Some(command))) => Ok(command),
        Some(Err(reason)) => Err(format!("{name}: {reason}")),
        None | Some(Ok(None)) => Err(instead_of(&name).unwrap_or_else(|| match known {
            None => format!("{name} has no key"),
            Some(_) => format!("{name}: not a command of the contract: see the tables of commands in CONTRACT.md"),
        })),
    }
}

/// `None` where the name is not one of the allowed.
fn of_arguments<'a>(name: &str, args: &mut [Arg<'a>]) -> Result<Option<Command<'a>>, String> {
    Ok(Some(match name {
        "SET" => set(args)?,
        "SETEX" => set_with_expiry(args, 1_000)?,
        "PSETEX" => set_with_expiry(args, 1)?,
        "DEL" | "UNLINK" => {
            none_left(args, "one key a change: publish one change for each key")?;
            Command::Delete
        }
        "EXPIRE" => Command::Expire(Expiry::InMs(expiry(args, 1_000)?)),
        "PEXPIRE" => Command::Expire(Expiry::InMs(expiry(args, 1)?)),
        "EXPIREAT" => Command::Expire(Expiry::AtMs(expiry(args, 1_000)?)),
        "PEXPIREAT" => Command::Expire(Expiry::AtMs(expiry(args, 1)?)),
        "PERSIST" => {
            none_left(args, "takes only a key")?;
            Command::Persist
        }
        "HSET" | "HMSET" => Command::HashSet(pairs(args, "field and value")?),
        "HDEL" => Command::HashDelete(some(args)?),
        "SADD" => Command::SetAdd(some(args)?),
        "SREM" => Command::SetRemove(some(args)?),
        "ZADD" => Command::SortedSetAdd(scored(args)?),
        "ZREM" => Command::SortedSetRemove(some(args)?),
        "RPUSH" => Command::Push { end: End::Right, values: some(args)? },
        "LPUSH" => Command::Push { end: End::Left, values: some(args)? },
        _ => return Ok(None),
    }))
}

fn set<'a>(args: &mut [Arg<'a>]) -> Result<Command<'a>, String> {
    let (value, mut options) = args.split_first_mut().ok_or("has no value")?;
    let mut expiry = None;
    while let Some((option, rest)) = options.split_first_mut() {
        let option = upper(&option.0);
        let relative = matches!(option.as_ref(), "EX" | "PX");
        let unit_ms = match option.as_ref() {
            "EX" | "EXAT" => 1_000,
            "PX" | "PXAT" => 1,
            "NX" | "XX" | "IFEQ" | "IFNE" | "IFDEQ" | "IFDNE" => {
                return Err(format!("{option} depends on what the region holds: decide first, then SET"));
            }
            "KEEPTTL" => return Err("KEEPTTL depends on what the region holds: send the expiry with the value".into()),
            "GET" => return Err("GET reads: a change only writes".into()),
            other => return Err(format!("option {other:?} is not known: use EX, PX, EXAT or PXAT")),
        };
        let (number, rest) = rest.split_first_mut().ok_or_else(|| format!("{option} has no number"))?;
        let ms = integer(&number.0, unit_ms)?;
        if expiry.replace(if relative { Expiry::InMs(ms) } else { Expiry::AtMs(ms) }).is_some() {
            return Err("has two expiries".into());
        }
        options = rest;
    }
    Ok(Command::Set { value: take(value), expiry })
}

fn set_with_expiry<'a>(args: &mut [Arg<'a>], unit_ms: i64) -> Result<Command<'a>, String> {
    let [number, value] = args else { return Err("takes a key, a number and a value".into()) };
    let expiry = Some(Expiry::InMs(integer(&number.0, unit_ms)?));
    Ok(Command::Set { value: take(value), expiry })
}

fn expiry(args: &[Arg<'_>], unit_ms: i64) -> Result<i64, String> {
    match args {
        [number] => integer(&number.0, unit_ms),
        [_, _, ..] => Err("NX, XX, GT and LT depend on what the region holds: send the expiry alone".into()),
        [] => Err("has no number".into()),
    }
}

fn integer(text: &[u8], unit_ms: i64) -> Result<i64, String> {
    let number: Option<i64> = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
    number
        .and_then(|number| number.checked_mul(unit_ms))
        .ok_or_else(|| format!("{:?} is not an integer in range", String::from_utf8_lossy(text)))
}

fn take<'a>(arg: &mut Arg<'a>) -> Bytes<'a> {
    std::mem::take(&mut arg.0)
}

fn none_left(args: &[Arg<'_>], reason: &str) -> Result<(), String> {
    if args.is_empty() { Ok(()) } else { Err(reason.to_owned()) }
}

fn some<'a>(args: &mut [Arg<'a>]) -> Result<Vec<Bytes<'a>>, String> {
    if args.is_empty() { Err("has nothing behind its key".into()) } else { Ok(args.iter_mut().map(take).collect()) }
}

fn pairs<'a>(args: &mut [Arg<'a>], what: &str) -> Result<Vec<(Bytes<'a>, Bytes<'a>)>, String> {
    let (pairs, odd) = args.as_chunks_mut::<2>();
    if pairs.is_empty() || !odd.is_empty() {
        return Err(format!("takes pairs of {what}"));
    }
    Ok(pairs.iter_mut().map(|[first, second]| (take(first), take(second))).collect())
}

fn scored<'a>(args: &mut [Arg<'a>]) -> Result<Vec<(Bytes<'a>, Bytes<'a>)>, String> {
    if let Some(flag) = args.first().map(|first| upper(&first.0))
        && ["NX", "XX", "GT", "LT", "CH", "INCR"].contains(&flag.as_ref())
    {
        return Err(format!("flag {flag} is refused: ZADD the resulting scores"));
    }
    pairs(args, "score and member")
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTRACT: &str = include_str!("../CONTRACT.md");

    /// Cells of the table under the heading that is `heading`.
    fn table(heading: &str) -> Vec<Vec<&'static str>> {
        let (_, text) = CONTRACT.split_once(heading).unwrap_or_else(|| panic!("no {heading:?}"));
        let rows = text.lines().skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|'));
        rows.skip(2).map(|row| row.trim_matches('|').split(" | ").map(str::trim).collect()).collect()
    }

    fn quoted(cell: &str) -> Vec<&str> {
        cell.split('`').skip(1).step_by(2).collect()
    }

    #[test]
    fn the_contracts_table_of_refused_commands_is_the_one_that_is_used() {
        let rows = table("### Refused commands");
        assert_eq!(rows.len(), REFUSED.len());
        for (row, refusal) in rows.iter().zip(REFUSED) {
            assert_eq!(quoted(row[0]), refusal.names);
            assert_eq!((row[1], row[2]), (refusal.why, refusal.instead));
        }
    }

    #[test]
    fn the_contracts_table_of_refused_options_says_what_is_answered() {
        let rows = table("### Refused options");
        assert!(rows.len() > 5);
        for row in rows {
            let command = quoted(row[0])[0];
            let json = format!("{{\"v\":1,\"cmds\":[{command}]}}");
            let refused = crate::change::Change::from_json(&json).unwrap_err();
            assert!(refused.reason.contains(row[1]), "{command}: {}", refused.reason);
        }
    }

    #[test]
    fn the_contracts_table_of_allowed_commands_is_the_one_that_is_used() {
        let allowed: Vec<&str> = table("### Allowed commands").iter().flat_map(|row| quoted(row[0])).collect();
        for name in &allowed {
            assert!(!matches!(of_arguments(name, &mut []), Ok(None)), "{name}");
            assert!(instead_of(name).is_none(), "{name}");
        }
        for name in REFUSED.iter().flat_map(|refusal| refusal.names) {
            assert!(matches!(of_arguments(name, &mut []), Ok(None)), "{name}");
        }
        assert_eq!(allowed.len(), 19);
    }

    #[test]
    fn every_write_command_of_redis_is_allowed_or_refused_by_name() {
        // `COMMAND LIST FILTERBY ACLCAT write` of Redis 7.0.15, and what 7.4 and 8 added.
        const WRITES: &str = "append bitfield bitop blmove blmpop blpop brpop brpoplpush bzmpop bzpopmax bzpopmin copy \
            decr decrby del expire expireat flushall flushdb geoadd georadius georadiusbymember geosearchstore getdel \
            getex getset hdel hincrby hincrbyfloat hmset hset hsetnx incr incrby incrbyfloat linsert lmove lmpop lpop \
            lpush lpushx lrem lset ltrim migrate move mset msetnx persist pexpire pexpireat pfadd pfdebug pfmerge \
            psetex rename renamenx restore restore-asking rpop rpoplpush rpush rpushx sadd sdiffstore set setbit setex \
            setnx setrange sinterstore smove sort spop srem sunionstore swapdb unlink xack xadd xautoclaim xclaim xdel \
            xgroup xreadgroup xsetid xtrim zadd zdiffstore zincrby zinterstore zmpop zpopmax zpopmin zrangestore zrem \
            zremrangebylex zremrangebyrank zremrangebyscore zunionstore \
            hexpire hpexpire hexpireat hpexpireat hpersist hsetex hgetex hgetdel";
        for name in WRITES.split_whitespace().map(str::to_ascii_uppercase) {
            let allowed = !matches!(of_arguments(&name, &mut []), Ok(None));
            assert!(allowed != instead_of(&name).is_some(), "{name}");
        }
    }
}
