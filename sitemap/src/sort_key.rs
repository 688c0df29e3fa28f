//! What rows are sorted by in place of their address, where a site says so: a value of each row, as its ID or the day of
//! its first publication, that stays what it is as long as the page does.
//!
//! Promises: whole numbers of up to 20 digits sort as numbers, everything else as text; rows with one key, or none, by
//! their address. So the order is total, whatever the values are.

/// Longest key, in bytes.
pub const KEY_BYTES_MAX: usize = 200;
/// Digits that a number is brought to.
const DIGITS: usize = 20;
/// Ends a key. It sorts before all that a key may hold.
const END: u8 = b'\t';

/// Why a row has no key.
pub const MISSING: &str = "sort key is missing: sorted by its address, before all that have one";
/// Why the key of a row is not taken.
pub const UNUSABLE: &str =
    "sort key is longer than 200 bytes, or no plain text: sorted by its address, before all that have one";

/// Appends what a row with this sort key is sorted by before its address.
///
/// # Errors
/// Why the row is sorted as one without a key.
pub fn append(given: &[u8], out: &mut Vec<u8>) -> Result<(), &'static str> {
    let given = given.trim_ascii();
    let plain = std::str::from_utf8(given).is_ok_and(|text| !text.chars().any(char::is_control));
    let outcome = match given {
        [] => Err(MISSING),
        _ if !plain || given.len() > KEY_BYTES_MAX => Err(UNUSABLE),
        _ => {
            append_plain(given, out);
            Ok(())
        }
    };
    out.push(END);
    outcome
}

fn append_plain(given: &[u8], out: &mut Vec<u8>) {
    let zeros = given.iter().take_while(|byte| **byte == b'0').count();
    let number = &given[zeros..];
    if given.iter().all(u8::is_ascii_digit) && number.len() <= DIGITS {
        out.resize(out.len() + DIGITS - number.len(), b'0');
        out.extend_from_slice(number);
    } else {
        out.extend_from_slice(given);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(given: &str) -> Vec<u8> {
        let mut out = Vec::new();
        append(given.as_bytes(), &mut out).unwrap();
        out
    }

    #[test]
    fn numbers_sort_as_numbers_and_text_as_text() {
        let numbers = ["0", "7", "9", "10", "0011", "99999999999999999999"].map(key);
        let texts = ["2025-01-02", "2025-10-01", "a", "b", "ba"].map(key);
        assert!(numbers.is_sorted() && texts.is_sorted(), "{numbers:?} {texts:?}");
        assert_eq!((key("007"), key(" 7 ")), (key("7"), key("7")));
        assert!(key("b") < key("b!"), "the end of a key sorts before all that it may hold");
    }

    #[test]
    fn what_is_no_key_sorts_before_all_keys() {
        let long = "x".repeat(KEY_BYTES_MAX + 1);
        for (given, reason) in [("", MISSING), ("  ", MISSING), ("a\tb", UNUSABLE), (&long, UNUSABLE)] {
            let mut out = Vec::new();
            assert_eq!(append(given.as_bytes(), &mut out), Err(reason));
            assert_eq!(out, b"\t");
        }
        assert_eq!(append(b"\xff", &mut Vec::new()), Err(UNUSABLE));
    }

    proptest! {
        #[test]
        fn the_order_of_numbers_is_theirs(one in any::<u64>(), other in any::<u64>()) {
            prop_assert_eq!(key(&one.to_string()).cmp(&key(&other.to_string())), one.cmp(&other));
        }
    }
}
