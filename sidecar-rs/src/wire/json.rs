//! The checks that every foreign text passes before it is carried on.
//!
//! `serde_json` says whether the text is JSON; what it does not say, and every reader behind us needs, is checked here:
//! nesting of at most 64 levels in a line, no half of a surrogate pair (other languages cannot hold one), no raw CR or LF (a body
//! holding one could forge a line).

use serde_json::value::RawValue;

use super::limits::{MAX_JSON_DEPTH, MAX_MESSAGE_BYTES};
use crate::error::{Code, Failure};

/// Levels that the frame of a line puts around a body: the line and its payload.
const LEVELS_AROUND_BODY: usize = 2;

/// Reads bytes as UTF-8 text.
pub fn text(bytes: &[u8]) -> Result<&str, Failure> {
    std::str::from_utf8(bytes).map_err(|e| Failure::invalid(format!("not valid UTF-8 at byte {}", e.valid_up_to())))
}

/// Checks a body from a peer: one line that holds one JSON object of at most `MAX_MESSAGE_BYTES`.
///
/// Fails with `message_too_big` or `invalid_line`; the bytes are not changed and not copied.
pub fn check_message(message: &[u8]) -> Result<(), Failure> {
    if message.len() > MAX_MESSAGE_BYTES {
        let size = message.len();
        return Err(Failure::new(Code::MessageTooBig, format!("message of {size} bytes, limit {MAX_MESSAGE_BYTES}")));
    }
    let text = text(message)?;
    if !text.starts_with('{') {
        return Err(Failure::invalid("message must be a JSON object"));
    }
    serde_json::from_str::<&RawValue>(text).map_err(|e| Failure::invalid(format!("message: {e}")))?;
    check(text, LEVELS_AROUND_BODY, Ends::Refused)
}

/// Checks a line that `serde_json` has taken as JSON.
pub(super) fn check_line(valid: &str) -> Result<(), Failure> {
    check(valid, 0, Ends::Refused)
}

/// As [`check_line`], for a frame, which may hold line ends between its fields.
pub(super) fn check_frame(valid: &str) -> Result<(), Failure> {
    check(valid, 0, Ends::Allowed)
}

/// Raw CR and LF between fields; inside strings JSON itself forbids them.
#[derive(Clone, Copy, PartialEq)]
enum Ends {
    Refused,
    Allowed,
}

/// Says whether a text is beyond doubt: no more brackets than levels, no escapes, no control characters.
///
/// Nearly every line is, and this loop without branches is several times faster than the walk that it saves.
fn is_plain(valid: &[u8], depth: usize) -> bool {
    let mut brackets = depth;
    let mut odd = false;
    // 255, so that the count of one chunk fits a byte, which lets the compiler count 16 bytes at a time.
    for chunk in valid.chunks(255) {
        let (mut opened, mut seen) = (0u8, 0u8);
        for byte in chunk {
            opened += u8::from(byte | 0x20 == b'{'); // `[` and `{` differ in this bit only
            seen |= u8::from(*byte == b'\\') | u8::from(*byte < b' ');
        }
        brackets += usize::from(opened);
        odd |= seen != 0;
    }
    !odd && brackets <= MAX_JSON_DEPTH
}

/// Walks over JSON that is known to be valid, jumping over the inside of strings.
fn check(valid: &str, mut depth: usize, ends: Ends) -> Result<(), Failure> {
    let valid = valid.as_bytes();
    if is_plain(valid, depth) {
        return Ok(());
    }
    let mut at = 0;
    while let Some(&byte) = valid.get(at) {
        at += 1;
        match byte {
            b'{' | b'[' => {
                depth += 1;
                if depth > MAX_JSON_DEPTH {
                    return Err(Failure::invalid(format!("nested deeper than {MAX_JSON_DEPTH} levels")));
                }
            }
            // Valid JSON closes only what it opened; saturating, so that even a mistake of ours cannot panic.
            b'}' | b']' => depth = depth.saturating_sub(1),
            b'"' => at = end_of_string(valid, at)?,
            b'\r' | b'\n' if ends == Ends::Refused => {
                return Err(Failure::invalid("a raw line end inside the line"));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Gives the position behind the closing quote of the string whose inside starts at `at`.
fn end_of_string(valid: &[u8], mut at: usize) -> Result<usize, Failure> {
    loop {
        let Some(step) = memchr::memchr2(b'"', b'\\', &valid[at..]) else { return Ok(valid.len()) };
        at += step;
        if valid[at] == b'"' {
            return Ok(at + 1);
        }
        match unicode_escape(&valid[at..]) {
            None => at = (at + 2).min(valid.len()), // a short escape
            Some(0xD800..=0xDBFF) => match valid.get(at + 6..).and_then(unicode_escape) {
                Some(0xDC00..=0xDFFF) => at += 12,
                _ => return Err(Failure::invalid("half of a surrogate pair in a string")),
            },
            Some(0xDC00..=0xDFFF) => return Err(Failure::invalid("half of a surrogate pair in a string")),
            Some(_) => at += 6,
        }
    }
}

/// Reads `\uXXXX` at the start of `bytes`.
fn unicode_escape(bytes: &[u8]) -> Option<u16> {
    let hex = bytes.get(..6)?.strip_prefix(b"\\u")?;
    u16::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok()
}
