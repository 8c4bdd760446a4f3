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
use std::sync::atomic::{AtomicUsize, Ordering};
#[cfg(feature = "functions")]
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;

use crate::clock::micros;
use crate::decide::{Claim, Decision, Held, Request, Resolution, decide};
use crate::error::{StoreError, StoreErrorKind};
use crate::events::{self, About, What};
use crate::fingerprint::Digest;
use crate::form::{RecordForm, is_hidden};
use crate::key::{Label, StorageKey};
use crate::record::{Micros, Record, State, Token};
use crate::result_tags::is_sealed;
use crate::store::{Claimed, Health, Listing, Page, Store};

pub use attempt::{Attempt, Settled, Verdict};
pub use call::{Begun, Call};
pub use current::CurrentAttempt;
use holding::{Holding, Work};
use keeper::Keeper;
pub use options::{Options, OptionsError};

/// One store in one process, shared by every call site that uses it.
struct Engine {
    keeper: Arc<Keeper>,
    /// The schemas in which a transaction of the caller's has found the tables. They are few.
    #[cfg(feature = "functions")]
    found: Mutex<Vec<String>>,
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
        let engine = Engine {
            keeper: Arc::new(Keeper::new(Arc::new(store), serving::start)),
            #[cfg(feature = "functions")]
            found: Mutex::default(),
        };
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

    /// What its store is called in events and metrics: `redis`.
    pub fn store_kind(&self) -> &'static str {
        self.engine.keeper.store.kind()
    }

    /// What its store turns records into before they leave the process: whoever writes records of these keys elsewhere, as in
    /// [`transactions`](crate::transactions), does the same.
    pub fn form(&self) -> Option<Arc<dyn RecordForm>> {
        self.engine.keeper.store.form()
    }

    /// Whether a transaction of the caller's has found the tables in this schema.
    #[cfg(feature = "functions")]
    pub(crate) fn has_found(&self, schema: &str) -> bool {
        self.found().iter().any(|found| found == schema)
    }

    /// A transaction of the caller's has found the tables in this schema.
    #[cfg(feature = "functions")]
    pub(crate) fn find(&self, schema: &str) {
        let mut found = self.found();
        if !found.iter().any(|found| found == schema) {
            found.push(schema.to_owned());
        }
    }

    #[cfg(feature = "functions")]
    fn found(&self) -> MutexGuard<'_, Vec<String>> {
        self.engine.found.lock().unwrap_or_else(PoisonError::into_inner)
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
        let begun = self.begin_untold(call).await;
        let what = match &begun {
            Ok(begun) => begun.what(),
            Err(error) => Some(What::Unavailable { error: error.kind() }),
        };
        if let Some(what) = what {
            self.say(call, what);
        }
        begun
    }

    /// Tells what came of a call that did not run.
    fn say(&self, call: &Call, what: What) {
        let about = || Some(About { label: call.label.clone(), key: Some(call.key), fence: 0 });
        events::tell(self.engine.keeper.store.kind(), about, what);
    }

    async fn begin_untold(&self, call: &Call) -> Result<Begun, StoreError> {
        let claim = Claim {
            record: Record {
                state: State::InFlight,
                after_crash: self.options.after_crash,
                token: Token::random(),
                fence: 0,
                lease: micros(self.options.lease_or_default()),
                ttl: micros(self.options.ttl),
                fingerprint: call.fingerprint,
                label: call.label.words().clone(),
                result: Arc::default(),
            },
            takes_over: None,
        };
        let mut asking = Asking::new(&self.engine.keeper, call, claim)?;
        match self.claim(&mut asking).await? {
            Tried::Held(_, _, Decision::InFlight { .. }) if !self.options.wait.is_zero() => {
                let began = Instant::now();
                let begun = self.wait_for(asking).await;
                self.say(call, What::Waited { took: began.elapsed() });
                begun
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
        self.engine.keeper.ask("get", self.engine.keeper.store.get(key)).await
    }

    /// An operator's word on the record of exactly this fence: `Some` completes it with a result, `None` removes it, so
    /// that a repeat runs. Only a record that is unknown or lapsed is resolved, unless `force` asks for any: a live claim
    /// or a stored result. `false`: no such record stands there, and nothing changed.
    ///
    /// An attempt whose record was completed stores nothing any more. One whose record was removed may still store its
    /// end until its lease ends, unless another record stands there: what has had its effect is not to be run again. Look
    /// once more after the lease.
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
        if result.is_some() && is_hidden(&held.record.label) {
            return Err(StoreError::foreign(key, "its name is hidden; who gives it a result needs the key of names"));
        }
        // A token of its own: whatever the old attempt still sends is refused.
        let into =
            result.map(|result| Record { state: State::Completed, token: Token::random(), result, ..held.record });
        let keeper = &self.engine.keeper;
        let resolved = keeper.ask("resolve", keeper.store.resolve(key, &Resolution { fence, into, force })).await?;
        keeper.rooms.tell(key);
        Ok(resolved)
    }

    /// Removes what has expired from a store that does not do it by itself; how many records.
    pub async fn purge(&self) -> Result<u64, StoreError> {
        self.engine.keeper.ask("purge", self.engine.keeper.store.purge()).await
    }

    /// A page of the store's records, without their results.
    pub async fn list(&self, listing: &Listing) -> Result<Page, StoreError> {
        self.engine.keeper.ask("list", self.engine.keeper.store.list(listing)).await
    }

    /// What the store is, and what of its settings endangers the promises; an error where it does not answer.
    pub async fn health(&self) -> Result<Health, StoreError> {
        let nobody = StorageKey(Digest::new("idempotency health 1").part(&Token::random().0).finish());
        self.get(&nobody).await?;
        self.engine.keeper.ask("health", self.engine.keeper.store.health()).await
    }

    /// Waits until every completion and release in the background has ended, but not longer than `limit`. Returns
    /// whether all have ended. Call it at a shutdown.
    pub async fn drain(&self, limit: Duration) -> bool {
        self.engine.keeper.drain(limit).await
    }

    async fn claim(&self, asking: &mut Asking<'_>) -> Result<Tried, StoreError> {
        let request = asking.request();
        let keeper = asking.keeper;
        for _ in 0..=TAKEOVERS {
            let sent = Instant::now();
            match asking.ask(sent).await {
                Ok(Claimed::Yes { fence }) => {
                    let record = Record { fence, ..asking.claim.record.clone() };
                    return Ok(Tried::Run(self.attempt(asking, record, sent)));
                }
                Ok(Claimed::No { held, now }) => match decide(Some(&held), &request, now) {
                    // Claimed by an earlier sending: what is left of its lease counts from now.
                    Decision::Run if held.record.token == request.token => {
                        let passed = held.record.lease.saturating_sub(held.lease_end.saturating_sub(now));
                        let sent = sent.checked_sub(Duration::from_micros(passed)).unwrap_or(sent);
                        return Ok(Tried::Run(self.attempt(asking, held.record, sent)));
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
                            return Ok(Tried::Held(held, now, decision));
                        }
                        asking.claim.takes_over = Some(held.record);
                    }
                    Decision::Replay | Decision::NotKept if is_sealed(&held.record.result) => {
                        let error = StoreError::sealed(asking.key);
                        keeper.outage.tell_foreign(asking.key, &error);
                        return Err(error);
                    }
                    decision => return Ok(Tried::Held(held, now, decision)),
                },
                Err(error) => {
                    keeper.outage.tell_foreign(asking.key, &error);
                    return Err(error);
                }
            }
        }
        let message = format!("{} attempts on one key crashed and were taken over while this one tried", TAKEOVERS + 1);
        Err(StoreError::new(StoreErrorKind::NotExecuted, message))
    }

    fn attempt(&self, asking: &mut Asking<'_>, record: Record, sent: Instant) -> Attempt {
        let run_limit = self.options.run_limit.unwrap_or(self.options.ttl);
        let may_arrive = std::mem::take(&mut asking.may_arrive);
        let lease = Duration::from_micros(record.lease);
        let holding = asking.holding(record, sent, run_limit, Work::Renew).that(may_arrive);
        let takes_over = asking.claim.takes_over.is_some();
        asking.keeper.say(&holding, What::Claimed { takes_over, lease });
        Attempt::new(self.engine.clone(), holding)
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

/// What a call has asked of the store. It is released at the end, where a claim may have been made or may still arrive that
/// no attempt has.
struct Asking<'a> {
    keeper: &'a Arc<Keeper>,
    handle: Handle,
    key: &'a StorageKey,
    label: &'a Label,
    claim: Claim,
    /// A sending got no answer, or has not got it yet.
    may_arrive: bool,
}

impl<'a> Asking<'a> {
    fn new(keeper: &'a Arc<Keeper>, call: &'a Call, claim: Claim) -> Result<Self, StoreError> {
        let handle = Handle::try_current().map_err(|source| {
            StoreError::new(
                StoreErrorKind::Setup,
                "the engine renews leases on a Tokio runtime, and there is none here",
            )
            .with_source(source)
        })?;
        Ok(Self { keeper, handle, key: &call.key, label: &call.label, claim, may_arrive: false })
    }

    fn holding(&self, record: Record, sent: Instant, run_limit: Duration, work: Work) -> Holding {
        Holding::new(*self.key, record, self.label.clone(), self.handle.clone(), sent, run_limit, work)
    }

    fn request(&self) -> Request {
        let record = &self.claim.record;
        Request { fingerprint: record.fingerprint, token: record.token, after_crash: record.after_crash }
    }

    /// Sends the claim, twice where the first sending fails quickly.
    async fn ask(&mut self, sent: Instant) -> Result<Claimed, StoreError> {
        let had_arrived = !std::mem::replace(&mut self.may_arrive, true);
        let (keeper, key, claim) = (self.keeper, self.key, &self.claim);
        let unanswered = AtomicUsize::new(0);
        let answer = keeper
            .ask_twice(sent, || async {
                let answer = keeper.ask("claim", keeper.store.claim(key, claim)).await;
                if answer.as_ref().is_err_and(StoreError::may_be_executed) {
                    unanswered.fetch_add(1, Ordering::Relaxed);
                }
                answer
            })
            .await;
        self.may_arrive = !(had_arrived && unanswered.into_inner() == 0);
        answer
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        if self.may_arrive {
            let (record, now) = (self.claim.record.clone(), Instant::now());
            let work = Work::Release { is_answered: false };
            let holding = self.holding(record, now, Duration::ZERO, work);
            self.keeper.give_back(&Arc::new(holding));
        }
    }
}
