//! The engine: claim → run → complete, over any [`Store`].
//!
//! [`Idempotency`] is a store with the options of one call site. [`Idempotency::begin`] claims a key and gives an
//! [`Attempt`], which is renewed in the background until it is settled.
//!
//! Requests and results are bytes here. For functions with payloads and results of their own types there is
//! [`Idempotency::call`](crate::Idempotency::call).

mod attempt;
mod call;
mod current;
mod holding;
mod keeper;
mod options;
mod outage;
mod serving;
mod waiting;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;

use crate::clock::micros;
use crate::decide::{Claim, Decision, Held, Request, Resolution, decide};
use crate::error::{StoreError, StoreErrorKind};
use crate::key::StorageKey;
use crate::record::{Micros, Record, State, Token};
use crate::store::{Claimed, Listed, Store};

pub use attempt::{Attempt, Settled, Verdict};
pub use call::{Begun, Call};
pub use current::CurrentAttempt;
use holding::{Holding, Work};
use keeper::Keeper;
pub use options::{Options, OptionsError};

/// One store in one process, shared by every call site that uses it.
struct Engine {
    keeper: Arc<Keeper>,
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.keeper.close();
    }
}

/// An engine over a store, with the options of one call site. Cheap to clone.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// use idempotency::decide::Start;
/// use idempotency::engine::{Begun, Call, Verdict};
/// use idempotency::{Digest, Fingerprint, Idempotency, Key, Operation, Scope, stores::MemoryStore};
///
/// let charges = Idempotency::new(MemoryStore::new());
/// let scope = Scope { namespace: "", operation: Operation::Call("charge"), caller: None };
/// let payload = Fingerprint(Digest::new("charge").part(b"42 EUR").finish());
/// let call = Call::new(&scope, &Key::new("order-7")?, payload);
///
/// let Begun::Run(mut attempt) = charges.begin(&call).await? else { panic!("the key is free") };
/// assert_eq!(attempt.start(), Start::Now);
/// attempt.settle(Verdict::Complete((*b"charged").into())).await;
/// assert!(matches!(charges.begin(&call).await?, Begun::Replay(result) if *result == *b"charged"));
/// # Ok::<_, Box<dyn std::error::Error>>(()) }).unwrap();
/// ```
#[derive(Clone)]
pub struct Idempotency {
    engine: Arc<Engine>,
    options: Options,
}

impl std::fmt::Debug for Idempotency {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Idempotency").field("options", &self.options).finish_non_exhaustive()
    }
}

/// What a claim met.
enum Tried {
    Run(Attempt),
    Held(Held, Micros, Decision),
}

/// How many lapsed claims in a row one call tries to take over before it calls the key busy.
const TAKEOVERS: u32 = 4;

impl Idempotency {
    /// An engine of its own over a store, with the default options. Clone it to share it.
    pub fn new(store: impl Store) -> Self {
        let engine = Engine { keeper: Arc::new(Keeper::new(Arc::new(store), serving::start)) };
        Self { engine: Arc::new(engine), options: Options::default() }
    }

    /// This engine with other options.
    ///
    /// # Errors
    /// Where they contradict each other.
    pub fn with_options(&self, options: Options) -> Result<Self, OptionsError> {
        options.check()?;
        Ok(Self { engine: self.engine.clone(), options })
    }

    /// Whether both are of one engine, whatever their options are.
    #[cfg(feature = "tower")]
    pub(crate) fn shares_engine(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.engine, &other.engine)
    }

    /// Its options.
    pub fn options(&self) -> Options {
        self.options
    }

    /// Claims the key, or says what stands in the way; waits where the options say so.
    ///
    /// Dropping the future releases a claim that may have been made.
    ///
    /// # Errors
    /// Where the store fails: nothing ran.
    pub async fn begin(&self, call: &Call) -> Result<Begun, StoreError> {
        let mut claim = Claim {
            record: Record {
                state: State::InFlight,
                after_crash: self.options.after_crash,
                token: Token::random(),
                fence: 0,
                lease: micros(self.options.lease_or_default()),
                ttl: micros(self.options.ttl),
                fingerprint: call.fingerprint,
                label: call.label.clone(),
                result: Arc::default(),
            },
            takes_over: None,
        };
        match self.claim(&call.key, &mut claim).await? {
            Tried::Held(_, _, Decision::InFlight { .. }) if !self.options.wait.is_zero() => {
                self.wait_for(&call.key, claim).await
            }
            tried => Ok(tried.into()),
        }
    }

    /// What becomes of an attempt that [`Attempt::start`] did not let begin: its claim is renewed, or, where another has
    /// taken it over, the call begins anew.
    ///
    /// # Errors
    /// Where the store fails: nothing ran.
    pub async fn begin_again(&self, call: &Call, attempt: Attempt) -> Result<Begun, StoreError> {
        if attempt.renew().await? {
            return Ok(Begun::Run(attempt));
        }
        drop(attempt);
        self.begin(call).await
    }

    /// What stands under a key, and the clock its lease is on.
    pub async fn get(&self, key: &StorageKey) -> Result<Option<(Held, Micros)>, StoreError> {
        self.engine.keeper.ask(self.engine.keeper.store.get(key)).await
    }

    /// An operator's word on the record of exactly this fence: `Some` completes it with a result, `None` removes it, so
    /// that a repeat runs. Only a record that is unknown or lapsed is resolved, unless `force` asks for any: a live claim,
    /// whose attempt then loses it, or a stored result. `false`: no such record stands there, and nothing changed.
    pub async fn resolve(
        &self,
        key: &StorageKey,
        fence: u64,
        result: Option<Arc<[u8]>>,
        force: bool,
    ) -> Result<bool, StoreError> {
        let Some((held, _)) = self.get(key).await? else {
            return Ok(false);
        };
        // A token of its own: whatever the old attempt still sends is refused.
        let into =
            result.map(|result| Record { state: State::Completed, token: Token::random(), result, ..held.record });
        let keeper = &self.engine.keeper;
        let resolved = keeper.ask(keeper.store.resolve(key, &Resolution { fence, into, force })).await?;
        keeper.rooms.tell(key);
        Ok(resolved)
    }

    /// Removes what has expired from a store that does not do it by itself; how many records.
    pub async fn purge(&self) -> Result<u64, StoreError> {
        self.engine.keeper.ask(self.engine.keeper.store.purge()).await
    }

    /// What has no result yet: in flight, lapsed or unknown; at most so many records. It looks at every record.
    pub async fn unfinished(&self, most: usize) -> Result<Vec<Listed>, StoreError> {
        self.engine.keeper.ask(self.engine.keeper.store.unfinished(most)).await
    }

    /// Waits until every completion and release in the background has ended, but not longer than `limit`. Returns
    /// whether all have ended. Call it at a shutdown.
    pub async fn drain(&self, limit: Duration) -> bool {
        self.engine.keeper.drain(limit).await
    }

    async fn claim(&self, key: &StorageKey, claim: &mut Claim) -> Result<Tried, StoreError> {
        let request = Request {
            fingerprint: claim.record.fingerprint,
            token: claim.record.token,
            after_crash: claim.record.after_crash,
        };
        let handle = Handle::try_current().map_err(|source| {
            StoreError::new(
                StoreErrorKind::Setup,
                "the engine renews leases on a Tokio runtime, and there is none here",
            )
            .with_source(source)
        })?;
        let keeper = &self.engine.keeper;
        let guard = Unclaim { keeper, handle: &handle, key, claim, is_open: true };
        for _ in 0..=TAKEOVERS {
            let sent = Instant::now();
            match keeper.ask_twice(sent, || keeper.store.claim(key, guard.claim)).await {
                Ok(Claimed::Yes { fence }) => {
                    let record = Record { fence, ..guard.claim.record.clone() };
                    guard.defuse();
                    return Ok(Tried::Run(self.attempt(handle.clone(), key, record, sent)));
                }
                Ok(Claimed::No { held, now }) => match decide(Some(&held), &request, now) {
                    Decision::Run if held.record.token == request.token => {
                        guard.defuse();
                        return Ok(Tried::Run(self.attempt(handle.clone(), key, held.record, sent)));
                    }
                    Decision::Run | Decision::Unknown if held.is_lapsed(now) => {
                        // Whoever finds a lapsed claim asks first whether its owner may still live.
                        let left = match keeper.held(held.record.token) {
                            Some(own) if keeper.attend(&own).await => continue,
                            Some(_) => Some(self.options.lease_or_default()),
                            None => keeper.outage.grace_left(),
                        };
                        let decision = match left {
                            Some(left) => Decision::InFlight { lease_left: micros(left) },
                            None => decide(Some(&held), &request, now),
                        };
                        if decision != Decision::Run {
                            guard.defuse();
                            return Ok(Tried::Held(held, now, decision));
                        }
                        guard.claim.takes_over = Some(held.record);
                    }
                    decision => {
                        guard.defuse();
                        return Ok(Tried::Held(held, now, decision));
                    }
                },
                Err(error) => {
                    keeper.outage.tell_foreign(key, &error);
                    if !error.may_be_executed() {
                        guard.defuse();
                    }
                    return Err(error);
                }
            }
        }
        guard.defuse();
        let message = format!("{} attempts on one key crashed and were taken over while this one tried", TAKEOVERS + 1);
        Err(StoreError::new(StoreErrorKind::NotExecuted, message))
    }

    fn attempt(&self, handle: Handle, key: &StorageKey, record: Record, sent: Instant) -> Attempt {
        let run_limit = self.options.run_limit.unwrap_or(self.options.ttl);
        Attempt::new(self.engine.clone(), handle, *key, record, sent, run_limit)
    }
}

/// The work's own panic is a failure as its error is; told from a drop, after which nobody knows.
#[cfg(any(feature = "functions", feature = "tower"))]
pub(crate) async fn caught<F: Future>(work: F) -> std::thread::Result<F::Output> {
    let mut work = std::pin::pin!(work);
    std::future::poll_fn(|context| {
        // What it leaves half done is seen by nobody: the panic goes on.
        match std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work.as_mut().poll(context))) {
            Ok(std::task::Poll::Pending) => std::task::Poll::Pending,
            Ok(std::task::Poll::Ready(output)) => std::task::Poll::Ready(Ok(output)),
            Err(panic) => std::task::Poll::Ready(Err(panic)),
        }
    })
    .await
}

impl From<Tried> for Begun {
    fn from(tried: Tried) -> Self {
        match tried {
            Tried::Run(attempt) => Begun::Run(attempt),
            Tried::Held(held, _, decision) => Begun::held(held.record, decision),
        }
    }
}

/// Releases a claim that may have been made, unless its answer came.
struct Unclaim<'a> {
    keeper: &'a Arc<Keeper>,
    handle: &'a Handle,
    key: &'a StorageKey,
    claim: &'a mut Claim,
    is_open: bool,
}

impl Unclaim<'_> {
    fn defuse(mut self) {
        self.is_open = false;
    }
}

impl Drop for Unclaim<'_> {
    fn drop(&mut self) {
        if self.is_open {
            let (record, now) = (self.claim.record.clone(), Instant::now());
            let work = Work::Release { is_answered: false };
            let holding = Holding::new(*self.key, record, self.handle.clone(), now, Duration::ZERO, work);
            self.keeper.give_back(&Arc::new(holding));
        }
    }
}
