//! The decoders of cache sync, compiled from their own source without the rest of their crate: a fuzz build then takes
//! a minute, not the AWS SDKs under a sanitizer. And what must hold of everything that they decode.

#[path = "../../cache-sync/src/arguments.rs"]
pub mod arguments;
#[path = "../../cache-sync/src/change.rs"]
pub mod change;
#[path = "../../cache-sync/src/event.rs"]
pub mod event;
#[path = "../../cache-sync/src/frame.rs"]
pub mod frame;
#[path = "../../cache-sync/src/kpl.rs"]
pub mod kpl;
#[path = "../../cache-sync/src/messagepack.rs"]
pub mod messagepack;
#[path = "../../cache-sync/src/plain_json.rs"]
mod plain_json;
#[path = "../../cache-sync/src/record.rs"]
pub mod record;
#[path = "../../cache-sync/src/wire.rs"]
pub mod wire;

use change::Change;
use frame::{BODY_BYTES_MAX, Frame, FrameBuilder};
use record::{Content, Data};

/// Decodes a record's data; whatever comes of it keeps the rules and survives every form.
pub fn decode(bytes: Vec<u8>) {
    let bound = bytes.len().max(BODY_BYTES_MAX);
    let Ok(data) = Data::new(bytes) else { return };
    assert!(data.len_bytes() <= bound);
    let Ok(Content::Changes(changes)) = data.decode("7") else { return };
    for change in changes.iter().flatten() {
        hold(change);
    }
}

fn hold(change: &Change<'_>) {
    change.check().expect("a decoded change keeps the rules");
    let json = change.to_json();
    assert_eq!(Change::from_json(&json).as_ref(), Ok(change));
    let messagepack = change.to_messagepack();
    assert_eq!(Change::from_messagepack(&messagepack).as_ref(), Ok(change));
    let mut builder = FrameBuilder::new(BODY_BYTES_MAX);
    if builder.push(change).is_ok() {
        let frame = Frame::open(builder.finish()).expect("a frame that was built opens");
        assert_eq!(frame.changes().expect("and decodes"), [Ok(change.clone())]);
    }
}
