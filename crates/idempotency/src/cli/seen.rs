//! [`Seen`]: a record as an operator sees it.

use serde_json::{Map, Value, json};

use super::output::Colour;
use super::words;
use crate::clock::wall_clock;
use crate::decide::Held;
use crate::key::StorageKey;
use crate::record::{AfterCrash, Micros, State};
use crate::seen::{Named, Standing, harmless};
use crate::store::Listed;

impl Standing {
    /// In the order of a record's life.
    pub(super) const ALL: [Self; 5] = [Self::InFlight, Self::Lapsed, Self::Unknown, Self::Completed, Self::NotKept];
    pub(super) const UNFINISHED: [Self; 3] = [Self::InFlight, Self::Lapsed, Self::Unknown];

    /// The state that its records are stored in.
    pub(super) fn stored(self) -> State {
        match self {
            Self::InFlight | Self::Lapsed => State::InFlight,
            Self::Unknown => State::Unknown,
            Self::Completed => State::Completed,
            Self::NotKept => State::NotKept,
        }
    }

    pub(super) fn colour(self) -> Colour {
        match self {
            Self::InFlight => Colour::Cyan,
            Self::Lapsed => Colour::Yellow,
            Self::Unknown => Colour::Red,
            Self::Completed => Colour::Green,
            Self::NotKept => Colour::Dim,
        }
    }
}

/// A record as an operator sees it.
pub(super) struct Seen {
    pub(super) id: StorageKey,
    pub(super) standing: Standing,
    /// The operation and the key in words; cut where they are long.
    pub(super) label: String,
    pub(super) fence: u64,
    /// How long the attempt may go on without a word.
    pub(super) lease_left: Micros,
    /// How long the record is still kept; `None`: it is not known.
    pub(super) life_left: Option<Micros>,
    pub(super) size: usize,
    after_crash: AfterCrash,
}

impl Seen {
    pub(super) fn of(found: &Listed) -> Self {
        Self::with(found.key, &found.held, found.now, found.life_left, found.size)
    }

    pub(super) fn with(id: StorageKey, held: &Held, now: Micros, life_left: Option<Micros>, size: usize) -> Self {
        let record = &held.record;
        Self {
            id,
            standing: Standing::of(held, now),
            label: record.label.to_string(),
            fence: record.fence,
            lease_left: if record.state == State::InFlight { held.lease_end.saturating_sub(now) } else { 0 },
            life_left,
            size,
            after_crash: record.after_crash,
        }
    }

    /// How long ago its attempt began. A fence is the time of its claim by the store's clock, unless that was set back.
    pub(super) fn age(&self) -> Micros {
        wall_clock().saturating_sub(self.fence)
    }

    /// Its operation and key, for a terminal.
    pub(super) fn shown(&self) -> String {
        harmless(&self.label)
    }

    /// What it was used for: of a request method and path, of a function its name.
    pub(super) fn operation(&self) -> &str {
        Named::of(&self.label).operation
    }

    /// Whether it is of this operation. A label holds the operation, a space and the key; a long one is cut.
    pub(super) fn is_of(&self, operation: &str) -> bool {
        match self.label.strip_prefix(operation) {
            Some(rest) => rest.is_empty() || rest.starts_with(' '),
            None => self.label.len() >= 190 && operation.starts_with(&self.label),
        }
    }

    pub(super) fn json(&self) -> Map<String, Value> {
        let seconds = |micros: Micros| (micros as f64 / 1e5).round() / 10.0;
        let mut said = Map::new();
        said.insert("label".into(), json!(self.label));
        said.insert("state".into(), json!(self.standing.words()));
        said.insert("begun".into(), json!(words::time(self.fence)));
        said.insert("age".into(), json!(seconds(self.age())));
        said.insert("fence".into(), json!(self.fence));
        if self.standing == Standing::InFlight {
            said.insert("lease_left".into(), json!(seconds(self.lease_left)));
        }
        if let Some(left) = self.life_left {
            said.insert("ttl_left".into(), json!(seconds(left)));
        }
        said.insert("after_crash".into(), json!(self.after_crash()));
        said.insert("size".into(), json!(self.size));
        said.insert("id".into(), json!(self.id.to_string()));
        said
    }

    pub(super) fn after_crash(&self) -> &'static str {
        match self.after_crash {
            AfterCrash::Rerun => "rerun",
            AfterCrash::Refuse => "refuse",
        }
    }
}
