//! Any change that the contract allows, for property tests of every form.

use super::*;
use proptest::collection::vec;
use proptest::prelude::*;

fn bytes() -> impl Strategy<Value = Bytes<'static>> {
    prop_oneof![vec(any::<u8>(), 0..40), "[a-z\"\\\\é]{0,12}".prop_map(String::into_bytes)].prop_map(Cow::Owned)
}

fn key() -> impl Strategy<Value = Bytes<'static>> {
    bytes().prop_filter("a key", |key| check_key(key).is_ok())
}

fn above_zero() -> impl Strategy<Value = Expiry> {
    (1..=i64::MAX, any::<bool>()).prop_map(|(ms, absolute)| if absolute { Expiry::AtMs(ms) } else { Expiry::InMs(ms) })
}

fn expiry() -> impl Strategy<Value = Expiry> {
    (any::<i64>(), any::<bool>()).prop_map(|(ms, absolute)| if absolute { Expiry::AtMs(ms) } else { Expiry::InMs(ms) })
}

fn scored() -> impl Strategy<Value = Vec<(Bytes<'static>, Bytes<'static>)>> {
    let score = any::<i32>().prop_map(|score| Cow::Owned(score.to_string().into_bytes()));
    vec((score, bytes()), 1..4)
}

fn command() -> impl Strategy<Value = Command<'static>> {
    prop_oneof![
        4 => (bytes(), proptest::option::of(above_zero())).prop_map(|(value, expiry)| Command::Set { value, expiry }),
        1 => Just(Command::Delete),
        1 => expiry().prop_map(Command::Expire),
        1 => Just(Command::Persist),
        1 => vec((bytes(), bytes()), 1..4).prop_map(Command::HashSet),
        1 => vec(bytes(), 1..4).prop_map(Command::HashDelete),
        1 => vec(bytes(), 1..4).prop_map(Command::SetAdd),
        1 => vec(bytes(), 1..4).prop_map(Command::SetRemove),
        1 => scored().prop_map(Command::SortedSetAdd),
        1 => vec(bytes(), 1..4).prop_map(Command::SortedSetRemove),
        1 => (any::<bool>(), vec(bytes(), 1..4)).prop_map(|(left, values)| Command::Push {
            end: if left { End::Left } else { End::Right },
            values,
        }),
    ]
}

fn body() -> impl Strategy<Value = Body<'static>> {
    let commands = vec(command(), 1..5).prop_map(|mut commands| {
        if commands.iter().any(|command| matches!(command, Command::Push { .. })) {
            commands.insert(0, Command::Delete);
        }
        Body::Commands(commands)
    });
    let reference = ("[a-z]{0,9}", "[a-f0-9]{64}", any::<u64>(), any::<Option<i64>>());
    let reference = reference.prop_map(|(bucket, sha256, bytes, expires_at_ms)| {
        Body::Reference(
            Reference { bucket, object: Reference::object_of(&sha256), sha256, bytes, expires_at_ms }.into(),
        )
    });
    prop_oneof![9 => commands, 1 => reference]
}

/// Any change that [`Change::check`] passes.
pub(crate) fn change() -> impl Strategy<Value = Change<'static>> {
    let producer = proptest::option::of(("[a-z0-9]{1,32}|8f3a", any::<u64>()));
    (key(), body(), proptest::option::of(0..=i64::MAX), producer).prop_map(|(key, body, at_ms, producer)| {
        let producer = producer.map(|(id, seq)| Producer { id: id.into(), seq });
        Change { key, body, at_ms, producer }
    })
}
