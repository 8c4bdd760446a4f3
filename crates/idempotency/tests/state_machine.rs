//! The state machine against its promises: random histories on a clock that the test moves.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use idempotency::clock::{Clock, FakeClock};
use idempotency::decide::{Claim, Claiming, Held, Request, Resolution};
use idempotency::store::{Claimed, Completed, Reply, Store};
use idempotency::stores::MemoryStore;
use idempotency::{AfterCrash, Decision, Fingerprint, Micros, Record, State, StorageKey, Token, decide};
use proptest::collection::vec;
use proptest::prelude::*;

const KEY: StorageKey = StorageKey([7; 32]);

/// The memory store answers without waiting.
fn answer<T>(mut reply: Reply<'_, T>) -> T {
    match reply.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(answer) => answer.expect("the memory store answers"),
        Poll::Pending => panic!("the memory store waits"),
    }
}

fn record(token: u8, payload: u8, after_crash: AfterCrash) -> Record {
    Record {
        state: State::InFlight,
        after_crash,
        token: Token([token; 16]),
        fence: 0,
        lease: 100,
        ttl: 1_000,
        fingerprint: Fingerprint([payload; 32]),
        label: "test".into(),
        result: [].into(),
    }
}

fn request(record: &Record) -> Request {
    Request { fingerprint: record.fingerprint, token: record.token, after_crash: record.after_crash }
}

/// One step of a history; `who` is one of four attempts.
#[derive(Clone, Debug)]
enum Step {
    /// A new attempt: its own token, this payload and policy, a lease (µs) and a ttl (µs).
    Begin {
        who: usize,
        payload: u8,
        after_crash: AfterCrash,
        lease: Micros,
        ttl: Micros,
    },
    /// The same claim once more, as after a lost acknowledgement.
    Again {
        who: usize,
    },
    /// A takeover by what this attempt saw last, however long ago.
    TakeOver {
        who: usize,
    },
    Renew {
        who: usize,
    },
    Settle {
        who: usize,
        state: State,
        result: u8,
        recreate: bool,
    },
    Release {
        who: usize,
    },
    Resolve {
        fence_off: u64,
        result: Option<u8>,
        force: bool,
    },
    Pass {
        micros: u64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let who = 0usize..4;
    let policy = prop_oneof![2 => Just(AfterCrash::Rerun), 1 => Just(AfterCrash::Refuse)];
    let begin = (who.clone(), prop_oneof![4 => Just(0u8), 1 => Just(1)], policy, 20u64..200, 200u64..600)
        .prop_map(|(who, payload, after_crash, lease, ttl)| Step::Begin { who, payload, after_crash, lease, ttl });
    let state = prop_oneof![3 => Just(State::Completed), 1 => Just(State::NotKept), 1 => Just(State::Unknown)];
    let settle = (who.clone(), state, any::<u8>(), any::<bool>())
        .prop_map(|(who, state, result, recreate)| Step::Settle { who, state, result, recreate });
    let resolve = (0u64..2, proptest::option::of(any::<u8>()), any::<bool>())
        .prop_map(|(fence_off, result, force)| Step::Resolve { fence_off, result, force });
    prop_oneof![
        5 => begin,
        2 => who.clone().prop_map(|who| Step::Again { who }),
        4 => who.clone().prop_map(|who| Step::TakeOver { who }),
        3 => who.clone().prop_map(|who| Step::Renew { who }),
        2 => settle,
        1 => who.prop_map(|who| Step::Release { who }),
        1 => resolve,
        5 => (1u64..250).prop_map(|micros| Step::Pass { micros }),
    ]
}

/// What an attempt knows.
struct Player {
    record: Record,
    /// It was granted a claim, and believes in it until then. `None`: it has none.
    believes_until: Option<Micros>,
    /// The lapsed record that it was told it may take over.
    seen: Option<Record>,
}

struct World {
    clock: FakeClock,
    store: MemoryStore,
    players: Vec<Player>,
    last_token: u8,
    last_fence: u64,
    /// The stored result, and when it goes.
    kept: Option<(Record, Micros)>,
}

impl World {
    fn new() -> Self {
        let clock = FakeClock::default();
        let store = MemoryStore::with_clock(Arc::new(clock.clone()));
        let player = || Player { record: record(0, 0, AfterCrash::Rerun), believes_until: None, seen: None };
        let players = (0..4).map(|_| player()).collect();
        Self { clock, store, players, last_token: 0, last_fence: 0, kept: None }
    }

    fn held(&self) -> Option<Held> {
        answer(self.store.get(&KEY)).map(|(held, _)| held)
    }

    fn claim(&mut self, who: usize, takes_over: Option<Record>) {
        let (before, now) = (self.held(), self.clock.now());
        let claim = Claim { record: self.players[who].record.clone(), takes_over: takes_over.clone() };
        let decision = decide(before.as_ref(), &request(&claim.record), now);
        match answer(self.store.claim(&KEY, &claim)) {
            Claimed::Yes { fence } => {
                match &before {
                    None => {}
                    Some(held) => {
                        assert_eq!(Some(&held.record), takes_over.as_ref(), "only what was seen is taken over");
                        assert_eq!(held.record.state, State::InFlight);
                        assert!(held.lease_end <= now, "a live claim is not taken over");
                        assert_eq!(decision, Decision::Run, "a takeover is what decide allows");
                        assert_eq!(held.record.fingerprint, claim.record.fingerprint);
                        assert_eq!(held.record.after_crash, AfterCrash::Rerun, "refuse never reruns");
                        assert!(fence > held.record.fence);
                    }
                }
                assert!(fence > self.last_fence, "fences grow per key, over releases and expiry too");
                assert!(fence >= now, "a fence is not behind the clock");
                for (other, player) in self.players.iter().enumerate() {
                    let live = other != who && player.believes_until.is_some_and(|until| now < until);
                    assert!(!live, "attempt {other} holds a live claim beside {who}");
                }
                self.last_fence = fence;
                let player = &mut self.players[who];
                player.record.fence = fence;
                player.believes_until = Some(now + player.record.lease);
                let claimed = player.record.clone();
                assert_eq!(self.held().unwrap().record, claimed, "what was claimed is what stands");
            }
            Claimed::No { held, now: told } => {
                assert_eq!((Some(&held), told), (before.as_ref(), now), "a refusal tells what stands there");
                assert_eq!(self.held(), before, "a refused claim changes nothing");
                let lapsed = held.record.state == State::InFlight && held.lease_end <= now;
                self.check_decision(&held, &claim.record, &decision, now);
                let may = decision == Decision::Run && held.record.token != claim.record.token;
                self.players[who].seen = may.then_some(held.record);
                assert!(!may || lapsed);
            }
        }
    }

    /// The rules in the order in which they are promised.
    fn check_decision(&self, held: &Held, own: &Record, decision: &Decision, now: Micros) {
        let stands = &held.record;
        let refuse = stands.after_crash == AfterCrash::Refuse || own.after_crash == AfterCrash::Refuse;
        let expected = if stands.fingerprint != own.fingerprint {
            Decision::Mismatch
        } else if stands.state == State::Completed {
            Decision::Replay
        } else if stands.state == State::NotKept {
            Decision::NotKept
        } else if stands.state == State::Unknown {
            Decision::Unknown
        } else if stands.token == own.token {
            Decision::Run
        } else if now < held.lease_end {
            Decision::InFlight { lease_left: held.lease_end - now }
        } else if refuse {
            Decision::Unknown
        } else {
            Decision::Run
        };
        assert_eq!(*decision, expected);
    }

    fn take(&mut self, step: &Step) {
        // Two claims in one µs could have one fence after a release: the clock moves between them.
        self.clock.advance(Duration::from_micros(1));
        let (before, now) = (self.held(), self.clock.now());
        let owns = |record: &Record| before.as_ref().is_some_and(|held| held.record.token == record.token);
        let in_flight = before.as_ref().is_some_and(|held| held.record.state == State::InFlight);
        match *step {
            Step::Begin { who, payload, after_crash, lease, ttl } => {
                self.last_token += 1;
                let record = Record { lease, ttl, ..record(self.last_token, payload, after_crash) };
                // The slot's attempt before crashed: its claim, if it has one, stays in the store.
                self.players[who] = Player { record, believes_until: None, seen: None };
                self.claim(who, None);
            }
            Step::Again { who } if self.players[who].record.token.0[0] > 0 => {
                let own = self.players[who].record.clone();
                if owns(&own) && in_flight {
                    assert_eq!(decide(before.as_ref(), &request(&own), now), Decision::Run, "it recognises itself");
                    self.claim(who, None);
                    assert_eq!(self.held(), before, "a claim sent twice is written once");
                }
            }
            Step::TakeOver { who } => {
                if let Some(seen) = self.players[who].seen.take() {
                    self.claim(who, Some(seen));
                }
            }
            Step::Renew { who } => {
                let own = self.players[who].record.clone();
                let renewed = answer(self.store.renew(&KEY, &own));
                assert_eq!(renewed, owns(&own) && in_flight, "the owner renews, and nobody else");
                if renewed {
                    self.players[who].believes_until = Some(now + own.lease);
                    let held = self.held().unwrap();
                    assert_eq!(held.lease_end, now + own.lease);
                    assert_eq!(held.record, before.unwrap().record, "a renewal changes the lease alone");
                } else {
                    assert_eq!(self.held(), before, "who does not own it changes nothing");
                }
            }
            Step::Settle { who, state, result, recreate } => {
                let own = &self.players[who].record;
                // As the engine: until the lease ends that it was granted. It may arrive at any time after that.
                let until = self.players[who].believes_until.filter(|_| recreate).unwrap_or(0);
                let recreate = now < until;
                let done = Record { state, result: [result].into(), ..own.clone() };
                match answer(self.store.complete(&KEY, &done, until)) {
                    Completed::Stored if in_flight || before.is_none() => {
                        assert!(owns(own) || before.is_none() && recreate);
                        assert_eq!(self.held().unwrap().record, done);
                        self.kept = Some((done, now + own.ttl));
                    }
                    Completed::Stored => {
                        assert!(owns(own), "sent again by its own attempt");
                        assert_eq!(self.held(), before, "a stored result does not change");
                    }
                    Completed::Refused(stands) => {
                        assert!(!owns(own));
                        assert_eq!(stands, before, "a refusal tells what stands there");
                        assert_eq!(self.held(), before, "who does not own it changes nothing");
                    }
                    Completed::NotKept => panic!("there is room"),
                }
                self.players[who].believes_until = None;
            }
            Step::Release { who } => {
                let own = self.players[who].record.clone();
                let released = answer(self.store.release(&KEY, &own));
                assert_eq!(released, owns(&own) && in_flight, "the owner of a claim releases it, and nobody else");
                assert_eq!(self.held(), if released { None } else { before });
                self.players[who].believes_until = None;
            }
            Step::Resolve { fence_off, result, force } => {
                let Some(held) = before.clone() else { return };
                let into = result.map(|result| Record {
                    state: State::Completed,
                    token: Token([255; 16]),
                    result: [result].into(),
                    ..held.record.clone()
                });
                let resolution = Resolution { fence: held.record.fence + fence_off, into: into.clone(), force };
                let resolved = answer(self.store.resolve(&KEY, &resolution));
                let is_open = held.record.state == State::Unknown || in_flight && held.lease_end <= now;
                assert_eq!(resolved, fence_off == 0 && (is_open || force), "an operator decides what is open");
                if resolved {
                    // By hand: whatever attempt ran is out, and what it believes does not count any more.
                    self.players.iter_mut().for_each(|player| player.believes_until = None);
                    assert_eq!(self.held().map(|held| held.record), into);
                    self.kept = into.map(|record| (record, now + held.record.ttl));
                } else {
                    assert_eq!(self.held(), before);
                }
            }
            Step::Pass { micros } => self.clock.advance(Duration::from_micros(micros)),
            Step::Again { .. } => {}
        }
        self.check_what_is_kept();
    }

    fn check_what_is_kept(&mut self) {
        let now = self.clock.now();
        let stands = self.held().map(|held| held.record);
        if let Some((record, until)) = &self.kept {
            match now < *until {
                true => assert_eq!(stands.as_ref(), Some(record), "a stored result does not change until its ttl"),
                false => self.kept = None,
            }
        }
        if self.kept.is_none() {
            let live = stands.is_none_or(|record| record.state == State::InFlight);
            assert!(live, "what is stored goes after its ttl");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn every_history_keeps_the_promises(steps in vec(step(), 1..60)) {
        let mut world = World::new();
        for step in &steps {
            world.take(step);
        }
    }
}

#[test]
fn decide_answers_every_state_by_the_table() {
    use AfterCrash::{Refuse, Rerun};
    let own = request(&record(1, 0, Rerun));
    let (stranger, refusing) = (request(&record(2, 0, Rerun)), request(&record(2, 0, Refuse)));
    let other_payload = request(&record(1, 9, Rerun)); // not even with the record's own token
    let held = |state, after_crash| Held { record: Record { state, ..record(1, 0, after_crash) }, lease_end: 500 };
    let left = |lease_left| Decision::InFlight { lease_left };

    for request in [own, stranger, refusing, other_payload] {
        assert_eq!(decide(None, &request, 0), Decision::Run, "absent");
    }
    for state in [State::InFlight, State::Completed, State::NotKept, State::Unknown] {
        for (policy, now) in [(Rerun, 0), (Rerun, 500), (Refuse, 0), (Refuse, 500)] {
            let decision = decide(Some(&held(state, policy)), &other_payload, now);
            assert_eq!(decision, Decision::Mismatch, "{state:?} {policy:?} at {now}");
        }
    }
    let settled = [
        (State::Completed, Decision::Replay),
        (State::NotKept, Decision::NotKept),
        (State::Unknown, Decision::Unknown),
    ];
    for (state, decision) in settled {
        for (policy, request) in [(Rerun, own), (Rerun, stranger), (Refuse, refusing)] {
            assert_eq!(decide(Some(&held(state, policy)), &request, 0), decision);
            assert_eq!(decide(Some(&held(state, policy)), &request, 501), decision, "the lease says nothing any more");
        }
    }
    let in_flight = [
        (Rerun, own, 0, Decision::Run),
        (Rerun, own, 501, Decision::Run),
        (Refuse, own, 501, Decision::Run),
        (Rerun, stranger, 0, left(500)),
        (Rerun, stranger, 499, left(1)),
        (Rerun, stranger, 500, Decision::Run),
        (Rerun, refusing, 499, left(1)),
        (Rerun, refusing, 500, Decision::Unknown),
        (Refuse, stranger, 499, left(1)),
        (Refuse, stranger, 500, Decision::Unknown),
        (Refuse, refusing, 500, Decision::Unknown),
    ];
    for (policy, request, now, decision) in in_flight {
        let stands = held(State::InFlight, policy);
        assert_eq!(decide(Some(&stands), &request, now), decision, "{policy:?} {request:?} at {now}");
    }
}

#[test]
fn a_fence_grows_even_where_the_clock_is_behind_it() {
    let ahead = Record { fence: 9_000, ..record(1, 0, AfterCrash::Rerun) };
    let held = Held { record: ahead.clone(), lease_end: 500 };
    let claim = Claim { record: record(2, 0, AfterCrash::Rerun), takes_over: Some(ahead) };
    for (fence_clock, fence) in [(500, 9_001), (9_001, 9_001), (9_500, 9_500)] {
        let claimed = idempotency::decide::claim(Some(held.clone()), &claim, 500, fence_clock);
        assert!(matches!(claimed, Claiming::Write(Record { fence: grown, .. }) if grown == fence), "{claimed:?}");
    }
}
