//! Cuts a stream of bytes into lines, with a bound on how long a line may be.
//!
//! * read from the socket into [`Lines::buffer`], then call [`Lines::next_line`] until it gives `None`
//! * a line that is too long is reported once and skipped to its end; what follows is read as if nothing had happened
//! * half a line at the end of the stream is dropped: its sender died in the middle of it

use bytes::{Bytes, BytesMut};

/// A line was longer than the limit and has been skipped, or is being skipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line longer than {max_line_bytes} bytes")]
pub struct TooLong {
    /// The limit.
    pub max_line_bytes: usize,
}

/// The splitter. Holds at most one unfinished line: `max_line_bytes` and what one read brings.
#[derive(Debug)]
pub struct Lines {
    buffer: BytesMut,
    max_line_bytes: usize,
    /// Bytes at the front that are known to hold no LF, so that each is looked at once.
    scanned: usize,
    skipping: bool,
}

impl Lines {
    /// Makes a splitter for lines of at most `max_line_bytes`, LF not counted.
    pub fn new(max_line_bytes: usize) -> Self {
        Self { buffer: BytesMut::new(), max_line_bytes, scanned: 0, skipping: false }
    }

    /// Gives the place to append what was read. Only append.
    pub fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// Takes the next whole line, without its LF, or says that one was too long. `None`: read more.
    pub fn next_line(&mut self) -> Option<Result<Bytes, TooLong>> {
        loop {
            let Some(offset) = memchr::memchr(b'\n', &self.buffer[self.scanned..]) else {
                self.scanned = self.buffer.len();
                if self.skipping || self.scanned > self.max_line_bytes {
                    self.buffer.clear();
                    self.scanned = 0;
                    return self.report();
                }
                return None;
            };
            let mut line = self.buffer.split_to(self.scanned + offset + 1);
            self.scanned = 0;
            if self.skipping {
                self.skipping = false;
                continue;
            }
            line.truncate(line.len() - 1);
            if line.len() > self.max_line_bytes {
                return Some(Err(TooLong { max_line_bytes: self.max_line_bytes }));
            }
            return Some(Ok(line.freeze()));
        }
    }

    /// Reports the line that is being skipped, the first time only.
    fn report(&mut self) -> Option<Result<Bytes, TooLong>> {
        let first = !std::mem::replace(&mut self.skipping, true);
        first.then_some(Err(TooLong { max_line_bytes: self.max_line_bytes }))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn split(max: usize, pieces: &[&[u8]]) -> Vec<Result<Vec<u8>, TooLong>> {
        let mut lines = Lines::new(max);
        let mut got = Vec::new();
        for piece in pieces {
            lines.buffer().extend_from_slice(piece);
            while let Some(line) = lines.next_line() {
                got.push(line.map(|l| l.to_vec()));
            }
            assert!(lines.buffer.len() <= max, "the buffer holds at most one unfinished line");
        }
        got
    }

    const LONG: Result<Vec<u8>, TooLong> = Err(TooLong { max_line_bytes: 4 });

    #[test]
    fn a_long_line_is_reported_once_and_the_next_one_is_read() {
        assert_eq!(split(4, &[b"abc", b"de", b"fgh", b"ij\nok\n"]), [LONG, Ok(b"ok".to_vec())]);
        assert_eq!(split(4, &[b"abcdefgh\nok\n"]), [LONG, Ok(b"ok".to_vec())]);
        assert_eq!(split(4, &[b"abcd\n"]), [Ok(b"abcd".to_vec())]);
        assert_eq!(split(4, &[b"abcd", b"e\nabcde\n"]), [LONG, LONG]);
    }

    #[test]
    fn half_a_line_is_never_given() {
        assert_eq!(split(9, &[b"whole\nhalf"]), [Ok(b"whole".to_vec())]);
    }

    proptest! {
        #[test]
        fn the_way_bytes_arrive_changes_nothing(data in proptest::collection::vec(prop_oneof![Just(b'\n'), Just(b'a')], 0..80), cut in 1usize..9) {
            let reference: Vec<_> = data
                .split_inclusive(|b| *b == b'\n')
                .filter_map(|line| match line.strip_suffix(b"\n") {
                    Some(line) if line.len() > 4 => Some(LONG),
                    Some(line) => Some(Ok(line.to_vec())),
                    None => (line.len() > 4).then_some(LONG),
                })
                .collect();
            let pieces: Vec<&[u8]> = data.chunks(cut).collect();
            prop_assert_eq!(split(4, &pieces), reference);
        }
    }
}
