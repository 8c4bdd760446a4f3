//! [`Capture`]: an answer as it is seen on its way out, part by part, within its limit.

use super::answer::{Malformed, has_body};

/// What is seen of an answer on its way out.
///
/// `B` is a part of the body, in whatever form a face has it.
///
/// ```
/// use idempotency::http::Capture;
/// let mut seen = Capture::new(1000);
/// seen.start(200, Some(4));
/// assert_eq!([seen.add("do", 2), seen.add("ne", 2)], [false, true]);
/// assert!(seen.is_whole() && seen.cut().is_none());
/// assert_eq!(seen.parts().concat(), "done");
/// ```
#[derive(Debug)]
pub struct Capture<B> {
    limit: usize,
    status: Option<u16>,
    /// As its Content-Length declares.
    length: Option<u64>,
    size: usize,
    parts: Vec<B>,
    cut: Option<String>,
    broke_off: bool,
}

impl<B> Capture<B> {
    /// Of an answer that has not started.
    ///
    /// `limit`: the most bytes of a body that are kept.
    pub fn new(limit: usize) -> Self {
        Self { limit, status: None, length: None, size: 0, parts: vec![], cut: None, broke_off: false }
    }

    /// Its status, and the length that its headers declare.
    pub fn start(&mut self, status: u16, length: Option<u64>) {
        (self.status, self.length) = (Some(status), length);
    }

    /// A part of its body, of `size` bytes; whether it completes the declared length.
    pub fn add(&mut self, part: B, size: usize) -> bool {
        self.size += size;
        if self.is_over() {
            match self.cut.replace(Malformed::Length.to_string()) {
                None => self.parts.push(part),
                Some(_) => self.parts.clear(),
            }
        } else if self.size > self.limit {
            self.cut = Some(format!("it has more than {} bytes, which is max_response_bytes", self.limit));
            self.parts.clear();
        } else {
            self.parts.push(part);
        }
        self.length.is_some_and(|length| self.size as u64 >= length)
    }

    /// Whether it is longer than the length that was declared.
    pub fn is_over(&self) -> bool {
        self.length.is_some_and(|length| self.size as u64 > length) && !self.has_no_body()
    }

    /// The length that was declared, where it is one of memory.
    pub fn length(&self) -> Option<usize> {
        self.length.and_then(|length| length.try_into().ok())
    }

    /// It can't be kept, and why.
    pub fn cut_off(&mut self, why: impl Into<String>) {
        self.cut = Some(why.into());
    }

    /// It ended before its end.
    pub fn break_off(&mut self) {
        self.broke_off = true;
    }

    /// Its status, once it has started.
    pub fn status(&self) -> Option<u16> {
        self.status
    }

    /// Why it can't be kept, where it can't.
    pub fn cut(&self) -> Option<&str> {
        self.cut.as_deref()
    }

    /// Whether it ended before its end.
    pub fn is_broken_off(&self) -> bool {
        self.broke_off
    }

    /// The parts of its body so far; none where it is too long.
    pub fn parts(&self) -> &[B] {
        &self.parts
    }

    /// Whether its length is known from its start: it does not stream.
    pub fn is_short(&self) -> bool {
        self.length.is_some() || self.has_no_body()
    }

    /// Whether it reached its end. A server breaks off an answer that is not as long as it said.
    pub fn is_whole(&self) -> bool {
        let is_short = self.length.is_some_and(|length| (self.size as u64) < length) && !self.has_no_body();
        !(self.broke_off || is_short)
    }

    fn has_no_body(&self) -> bool {
        self.status.is_some_and(|status| !has_body(status))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_long_is_cut_and_its_parts_are_given_up() {
        let mut seen = Capture::new(3);
        seen.start(200, None);
        assert!(!seen.add("ab", 2) && !seen.add("cd", 2));
        assert_eq!(seen.cut(), Some("it has more than 3 bytes, which is max_response_bytes"));
        assert!(seen.parts().is_empty() && seen.is_whole());
    }

    #[test]
    fn what_is_longer_than_it_said_is_cut() {
        let mut seen = Capture::new(9);
        seen.start(200, Some(3));
        assert!(!seen.add("ab", 2) && !seen.is_over());
        assert!(seen.add("cd", 2) && seen.is_over() && seen.is_whole());
        assert_eq!(seen.cut(), Some("its body is longer than its Content-Length"));
        assert_eq!(seen.parts(), ["ab", "cd"]);
        seen.add("ef", 2);
        assert!(seen.parts().is_empty());
    }

    #[test]
    fn what_is_shorter_than_it_said_broke_off() {
        let of = |status, length| {
            let mut seen = Capture::new(9);
            seen.start(status, length);
            seen.add("ab", 2);
            (seen.is_whole(), seen.is_short())
        };
        assert_eq!([of(200, Some(3)), of(200, Some(2)), of(200, None)], [(false, true), (true, true), (true, false)]);
        assert_eq!(of(304, Some(3)), (true, true)); // of the answer that has one
        let mut seen = Capture::<&str>::new(9);
        seen.start(204, None);
        seen.break_off();
        assert_eq!((seen.is_whole(), seen.is_short()), (false, true));
    }
}
