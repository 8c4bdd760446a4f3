//! The store of the model: [`Step::apply`] on a real value, with every rule of `decide.rs` in it.
//!
//! The model's small numbers become a record and a clock, and what the step makes of them becomes small numbers again.

use std::collections::HashMap;
use std::sync::Mutex;

use idempotency::decide::{Claim, Resolution};
use idempotency::step::{self, Answer, Change, Step};
use idempotency::store::{Claimed, Completed};
use idempotency::{AfterCrash, Decision, Fingerprint, Micros, Record, State, Token, decide};

use super::world::{LEASE, Stored, TTL, Who};

/// A tick in µs.
pub const TICK: Micros = 1_000;
/// The store's clock; it stands still, and what was before moves away from it.
pub const NOW: Micros = 1_000_000;

const OPERATOR: Token = Token([255; 16]);

/// What is asked of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ask {
    Claim { takes_over: Option<Who> },
    Renew,
    Complete { state: State, recreates: u8 },
    Release,
}

/// What the store says, and what follows from it by [`decide`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    Claimed,
    Met(Met),
    Done(bool),
    Stored,
    /// What stands there instead.
    Refused(Option<Stored>),
}

/// What a claim met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Met {
    Itself,
    /// A lapsed claim, which it may take over.
    Lapsed(Who),
    InFlight,
    Replay,
    NotKept,
    Unknown,
    Mismatch,
}

/// Who asks, and under which policy and payload each attempt does.
#[derive(Clone, Debug)]
pub struct Attempts<const N: usize> {
    pub policies: [AfterCrash; N],
    pub payloads: [u8; N],
}

impl<const N: usize> Attempts<N> {
    /// Whether they differ in nothing but their tokens and fences.
    pub fn are_alike(&self) -> bool {
        self.policies.windows(2).all(|pair| pair[0] == pair[1])
            && self.payloads.windows(2).all(|pair| pair[0] == pair[1])
    }

    pub fn token(who: Who) -> Token {
        Token([who + 1; 16])
    }

    /// An attempt's record as the store wrote it. Fences tell attempts apart; all claims are in the past.
    pub fn record(&self, who: Who, state: State) -> Record {
        Record {
            state,
            after_crash: self.policies[usize::from(who)],
            token: Self::token(who),
            fence: NOW - 100 + u64::from(who),
            lease: u64::from(LEASE) * TICK,
            ttl: u64::from(TTL) * TICK,
            fingerprint: Fingerprint([self.payloads[usize::from(who)]; 32]),
            label: "".into(),
            result: if state == State::Completed { [who].into() } else { [].into() },
        }
    }

    /// The record that an operator puts in an attempt's place.
    pub fn word(&self, who: Who) -> Record {
        Record { token: OPERATOR, result: [255].into(), ..self.record(who, State::Completed) }
    }

    fn value(&self, stored: Stored) -> Vec<u8> {
        let Stored { state, claimed_by, by_operator, left } = stored;
        let record = if by_operator { self.word(claimed_by) } else { self.record(claimed_by, state) };
        let written = NOW - u64::from(TTL - left) * TICK;
        match Step::Complete(record, Micros::MAX).apply(None, written) {
            Ok((Change::Write(value), _)) => value,
            other => panic!("an absent record is written, not {other:?}"),
        }
    }

    /// The record of a value, if it is what the model holds it for.
    fn read(&self, value: &[u8]) -> Stored {
        let Ok((_, Answer::Found(Some((held, _))))) = Step::Get.apply(Some(value), NOW) else {
            panic!("a live record is found");
        };
        let left = step::expires(value).expect("a value of ours") - NOW;
        assert!(left.is_multiple_of(TICK), "time passes in whole ticks");
        let by_operator = held.record.token == OPERATOR;
        let claimed_by = match by_operator {
            true => (held.record.fence + 100 - NOW) as Who,
            false => held.record.token.0[0] - 1,
        };
        Stored { state: held.record.state, claimed_by, by_operator, left: (left / TICK) as u8 }
    }

    /// The step that an attempt asks for. `recreate_until` is the time after which an absent record is not written.
    fn step(&self, who: Who, ask: Ask) -> Step {
        match ask {
            Ask::Claim { takes_over } => {
                let record = Record { fence: 0, ..self.record(who, State::InFlight) };
                Step::Claim(Claim { record, takes_over: takes_over.map(|seen| self.record(seen, State::InFlight)) })
            }
            Ask::Renew => Step::Renew(Self::token(who)),
            Ask::Complete { state, recreates } => {
                Step::Complete(self.record(who, state), NOW + u64::from(recreates) * TICK)
            }
            Ask::Release => Step::Release(Self::token(who)),
        }
    }

    fn apply(&self, stored: Option<Stored>, step: &Step) -> (Option<Stored>, Answer) {
        let value = stored.map(|stored| self.value(stored));
        let (change, answer) = step.apply(value.as_deref(), NOW).expect("a value of ours");
        let stored = match change {
            Change::Nothing => stored,
            Change::Remove => None,
            Change::Write(value) => Some(self.read(&value)),
        };
        (stored, answer)
    }

    fn ask(&self, stored: Option<Stored>, who: Who, ask: Ask) -> (Option<Stored>, Told) {
        let (stands, answer) = self.apply(stored, &self.step(who, ask));
        let told = match answer {
            Answer::Claimed(Claimed::Yes { fence }) => {
                assert_eq!(fence, NOW, "a fence is the store's clock, which is ahead of every claim before");
                Told::Claimed
            }
            Answer::Claimed(Claimed::No { held, now }) => {
                let own = self.record(who, State::InFlight);
                let request =
                    decide::Request { fingerprint: own.fingerprint, token: own.token, after_crash: own.after_crash };
                Told::Met(match decide(Some(&held), &request, now) {
                    Decision::Run if held.record.token == own.token => Met::Itself,
                    Decision::Run => Met::Lapsed(held.record.token.0[0] - 1),
                    Decision::InFlight { .. } => Met::InFlight,
                    Decision::Replay => Met::Replay,
                    Decision::NotKept => Met::NotKept,
                    Decision::Unknown => Met::Unknown,
                    Decision::Mismatch => Met::Mismatch,
                })
            }
            Answer::Done(done) => Told::Done(done),
            Answer::Completed(Completed::Stored | Completed::NotKept) => Told::Stored,
            Answer::Completed(Completed::Refused(_)) => Told::Refused(stands),
            Answer::Found(_) => unreachable!("nobody looks"),
        };
        (stands, told)
    }

    /// What an operator's word makes of the record that claim `seen` left.
    pub fn resolve(&self, stored: Option<Stored>, seen: Who, completes: bool, force: bool) -> Option<Stored> {
        let into = completes.then(|| self.word(seen));
        let fence = self.record(seen, State::InFlight).fence;
        self.apply(stored, &Step::Resolve(Resolution { fence, into, force })).0
    }
}

/// A question to the store, and what it makes of it.
type Known = HashMap<(Option<Stored>, Who, Ask), (Option<Stored>, Told)>;

/// [`Attempts::ask`], which depends on nothing else, asked once for each question.
#[derive(Debug, Default)]
pub struct Answers(Mutex<Known>);

impl Answers {
    pub fn ask<const N: usize>(
        &self,
        attempts: &Attempts<N>,
        stored: Option<Stored>,
        who: usize,
        ask: Ask,
    ) -> (Option<Stored>, Told) {
        let who = who as Who;
        let mut known = self.0.lock().expect("no step panics");
        *known.entry((stored, who, ask)).or_insert_with(|| attempts.ask(stored, who, ask))
    }
}
