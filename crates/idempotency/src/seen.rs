//! What an operator sees of a record, on a terminal and on the page: where it stands, what it is about, and text of
//! strangers made harmless.

use std::fmt::Write as _;

use crate::decide::Held;
use crate::record::{Micros, State};

/// Where a record stands: of a claim the lease counts too. In the order in which they want to be seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
pub(crate) enum Standing {
    /// Nobody knows whether the effect happened
    Unknown,
    /// Its attempt has not been heard of for the time of its lease
    Lapsed,
    /// Its attempt runs
    InFlight,
    /// Done, with its result
    Completed,
    /// Done, without its result
    NotKept,
}

impl Standing {
    pub(crate) fn of(held: &Held, now: Micros) -> Self {
        match held.record.state {
            State::InFlight if held.is_lapsed(now) => Self::Lapsed,
            State::InFlight => Self::InFlight,
            State::Unknown => Self::Unknown,
            State::Completed => Self::Completed,
            State::NotKept => Self::NotKept,
        }
    }

    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Lapsed => "lapsed",
            Self::InFlight => "in flight",
            Self::Completed => "completed",
            Self::NotKept => "not kept",
        }
    }

    /// Whether a person may decide: nobody is at work, and nobody knows of a result.
    pub(crate) fn is_open(self) -> bool {
        matches!(self, Self::Unknown | Self::Lapsed)
    }
}

/// Methods that stand before a path.
const METHODS: [&str; 10] = ["CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE"];

/// A record's label, taken apart: `POST /pay` and `order-7`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Named<'a> {
    pub(crate) operation: &'a str,
    /// It may be cut, and of an operation whose name has spaces it is too long: it never stands in the operation.
    pub(crate) key: &'a str,
}

impl<'a> Named<'a> {
    pub(crate) fn of(label: &'a str) -> Self {
        let (first, rest) = label.split_once(' ').unwrap_or((label, ""));
        if !METHODS.contains(&first) || !rest.starts_with('/') {
            return Self { operation: first, key: rest };
        }
        // A label that was cut in its path has no key.
        let (path, key) = rest.split_once(' ').unwrap_or((rest, ""));
        Self { operation: &label[..first.len() + 1 + path.len()], key }
    }
}

/// Text of a stranger's: what could move a terminal's cursor or turn the direction of text around is written out.
pub(crate) fn harmless(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for letter in text.chars() {
        if letter.is_control()
            || matches!(letter, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
        {
            let _ = write!(safe, "{}", letter.escape_default());
        } else {
            safe.push(letter);
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operation_has_nothing_of_a_key() {
        let parts = |label| {
            let Named { operation, key } = Named::of(label);
            [operation, key]
        };
        assert_eq!(parts("POST /pay order 7"), ["POST /pay", "order 7"]);
        assert_eq!(parts("POST /a-path-that-was-cut"), ["POST /a-path-that-was-cut", ""]);
        assert_eq!(parts("shop.charge order-7"), ["shop.charge", "order-7"]);
        assert_eq!(parts("POST secret"), ["POST", "secret"]);
        assert_eq!(parts("my webhook evt_1"), ["my", "webhook evt_1"]);
        assert_eq!(parts("JOB /pay"), ["JOB", "/pay"]);
        assert_eq!(parts(""), ["", ""]);
    }

    #[test]
    fn text_of_a_stranger_moves_nothing() {
        assert_eq!(harmless("POST /pay \x1b[2Jé\u{9b}1m\u{202e}\n"), "POST /pay \\u{1b}[2Jé\\u{9b}1m\\u{202e}\\n");
    }
}
