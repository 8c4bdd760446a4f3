//! [`RedisStore`]: records in Redis 6.2 or later, or Valkey.

mod cluster;
mod confirmations;
mod credentials;
mod dial;
mod errors;
mod health;
mod hints;
mod list;
mod node;
mod options;
mod route;
mod sentinel;
mod slots;
mod tls;

use std::sync::Arc;
use std::time::{Duration, Instant};

use redis::{Cmd, Script, Value};
use tokio::time::timeout;

use crate::decide::{Claim, Held, Resolution};
use crate::error::{StoreError, StoreErrorKind};
use crate::key::StorageKey;
use crate::record::{Micros, Record, State};
use crate::store::{Claimed, Completed, Health, Listing, Page, Reply, Store, Watch};
use crate::stores::anchor::Anchor;

use confirmations::Confirmations;
pub use credentials::{RedisCredentials, RedisLogin, RedisLoginReply};
use errors::{is_out_of_memory, timed_out};
use hints::Hints;
use node::Link;
pub use options::{RedisAddress, RedisOptions, RedisServers};
use route::{Route, Used};
pub use tls::{RedisTls, RedisVerify};

/// Records in Redis 6.2 or later, or Valkey: one value per record, one script per operation, one key per script, and the
/// server's clock. One server, the primary that sentinels know, or a cluster.
///
/// One connection carries everything (on a cluster one to each node) and is opened anew when it is lost; another one,
/// opened when somebody first waits, brings the hints. Every operation has a time limit. A command is sent again only
/// where a server has said that it was not executed. The lease lives in the key's expiry: its end is the
/// expiry less `ttl` and plus `lease`, so that a renewal is one PEXPIRE and needs no memory.
///
/// Set `maxmemory-policy noeviction`: any other policy may drop a claim, and a dropped claim is a second run.
///
/// ```no_run
/// use idempotency::stores::RedisStore;
/// let store = RedisStore::open("redis://localhost")?;
/// # Ok::<(), idempotency::StoreError>(())
/// ```
pub struct RedisStore {
    route: Arc<Route>,
    hints: Hints,
    /// Where writes must be elsewhere too.
    confirmations: Option<Confirmations>,
    prefix: Vec<u8>,
    time_limit: Duration,
    scripts: Scripts,
    anchor: Arc<Anchor>,
}

// Without the connection, which has a password.
impl std::fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedisStore")
            .field("prefix", &String::from_utf8_lossy(&self.prefix))
            .field("time_limit", &self.time_limit)
            .finish_non_exhaustive()
    }
}

/// A write that was answered.
struct Written {
    link: Link,
    name: Vec<u8>,
    deadline: Instant,
}

struct Scripts {
    claim: Script,
    renew: Script,
    complete: Script,
    release: Script,
    resolve: Script,
    get: Script,
}

/// Milliseconds, rounded up: a record never lives shorter than it was told.
fn millis(micros: Micros) -> i64 {
    micros.div_ceil(1000).try_into().unwrap_or(i64::MAX)
}

fn life(record: &Record) -> i64 {
    millis(record.ttl.max(record.lease)).max(1)
}

/// When an in-flight record has at most this much life left (ms), its lease has lapsed.
fn lapsed_at(record: &Record) -> i64 {
    life(record) - millis(record.lease)
}

impl RedisStore {
    /// The store at a URL, as [`RedisOptions::from_url`] reads it. Does no I/O.
    pub fn open(url: &str) -> Result<Self, StoreError> {
        Self::with_options(RedisOptions::from_url(url)?)
    }

    /// Opens a store with options. Does no I/O.
    pub fn with_options(options: RedisOptions) -> Result<Self, StoreError> {
        let RedisOptions { prefix, time_limit, .. } = options.clone();
        let route = Arc::new(Route::new(options)?);
        let script = Script::new;
        let confirms = route.dial().wanted().is_more();
        Ok(Self {
            confirmations: confirms.then(|| Confirmations::new(route.dial().clone(), prefix.as_bytes())),
            hints: Hints::new(route.clone(), time_limit),
            route,
            prefix: prefix.into_bytes(),
            time_limit,
            anchor: Arc::default(),
            scripts: Scripts {
                claim: script(include_str!("claim.lua")),
                renew: script(include_str!("renew.lua")),
                complete: script(include_str!("complete.lua")),
                release: script(include_str!("release.lua")),
                resolve: script(include_str!("resolve.lua")),
                get: script(include_str!("get.lua")),
            },
        })
    }

    fn name(&self, key: &StorageKey) -> Vec<u8> {
        [&self.prefix[..], key.to_string().as_bytes()].concat()
    }

    async fn run(&self, key: &StorageKey, script: &Script, args: impl FnOnce(&mut Cmd)) -> Result<Value, StoreError> {
        self.write(key, script, args).await.map(|(answer, _)| answer)
    }

    /// The answer, and what it takes to have the write confirmed.
    async fn write(
        &self,
        key: &StorageKey,
        script: &Script,
        args: impl FnOnce(&mut Cmd),
    ) -> Result<(Value, Written), StoreError> {
        let deadline = Instant::now() + self.time_limit;
        let (name, used) = (self.name(key), Used::default());
        // Into one buffer: the library's own invocation of a script takes one per argument first.
        let mut command = Cmd::with_capacity(8, 512);
        command.arg("EVALSHA").arg(script.get_hash()).arg(1).arg(&name);
        args(&mut command);
        self.anchor.hold(self.time_limit);
        self.within_limit(&used, async { self.route.run(&used, &name, &command, script, || self.shown(key)).await })
            .await
            .map(|(answer, link)| (answer, Written { link, name, deadline }))
    }

    /// Returns when a write is where it must be before it counts.
    async fn confirm(&self, written: Written) -> Result<(), StoreError> {
        let Some(confirmations) = &self.confirmations else { return Ok(()) };
        confirmations.confirm(&written.link, &written.name, written.deadline).await
    }

    async fn within_limit<T>(
        &self,
        used: &Used,
        work: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        match timeout(self.time_limit, work).await {
            Ok(answer) => answer,
            Err(_) => {
                used.forget();
                self.route.suspect();
                Err(timed_out(self.time_limit))
            }
        }
    }

    fn shown(&self, key: &StorageKey) -> String {
        format!("{}{key}", String::from_utf8_lossy(&self.prefix))
    }

    /// Reads `{record, life left in ms, clock in us}`.
    fn held(&self, key: &StorageKey, answer: &[Value]) -> Result<(Held, Micros), StoreError> {
        let [Value::BulkString(record), Value::Int(left), clock @ Value::BulkString(_)] = answer else {
            return Err(unexpected(&Value::Array(answer.to_vec())));
        };
        let record = Record::decode(record).map_err(|error| StoreError::foreign(self.shown(key), error))?;
        Ok(held(record, *left, clock))
    }
}

/// A record with the end of its lease, and the clock that it is on.
fn held(record: Record, left: i64, clock: &Value) -> (Held, Micros) {
    let now: Micros =
        redis::from_redis_value_ref::<String>(clock).ok().and_then(|n| n.parse().ok()).unwrap_or_default();
    let lease_end = match record.state {
        // Somebody has made the key PERSIST: its owner is taken to live.
        State::InFlight if left == -1 => now.saturating_add(record.lease),
        State::InFlight => now.saturating_add_signed((left - lapsed_at(&record)).saturating_mul(1000)),
        _ => now,
    };
    (Held { record, lease_end }, now)
}

fn unexpected(answer: &Value) -> StoreError {
    StoreError::new(
        StoreErrorKind::Unknown,
        format!("the Redis server answered something else than its script says: {answer:?}"),
    )
}

fn is_one(answer: &Value) -> Result<bool, StoreError> {
    match answer {
        Value::Int(n) => Ok(*n == 1),
        other => Err(unexpected(other)),
    }
}

impl Store for RedisStore {
    fn claim<'a>(&'a self, key: &'a StorageKey, claim: &'a Claim) -> Reply<'a, Claimed> {
        Box::pin(async move {
            let (answer, written) = self
                .write(key, &self.scripts.claim, |script| {
                    script.arg(claim.record.encode()).arg(life(&claim.record));
                    if let Some(seen) = &claim.takes_over {
                        script.arg(seen.encode()).arg(lapsed_at(seen));
                    }
                })
                .await
                .map_err(|error| if is_out_of_memory(&error) { full(error) } else { error })?;
            match answer {
                // A number of µs is exact in Lua's doubles until the year 2255, and in the integer Redis makes of it.
                Value::Int(fence) => {
                    self.confirm(written).await?;
                    Ok(Claimed::Yes { fence: fence.unsigned_abs() })
                }
                Value::BulkString(record) => {
                    let record =
                        Record::decode(&record).map_err(|error| StoreError::foreign(self.shown(key), error))?;
                    // Not in flight: no clock is needed to judge it.
                    Ok(Claimed::No { held: Held { record, lease_end: 0 }, now: 0 })
                }
                Value::Array(answer) => {
                    let (held, now) = self.held(key, &answer)?;
                    // Its own, from a sending that was not answered, or not confirmed.
                    if held.record.token == claim.record.token {
                        self.confirm(written).await?;
                    }
                    Ok(Claimed::No { held, now })
                }
                other => Err(unexpected(&other)),
            }
        })
    }

    fn renew<'a>(&'a self, key: &'a StorageKey, attempt: &'a Record) -> Reply<'a, bool> {
        Box::pin(async move {
            let answer = self.run(key, &self.scripts.renew, |script| {
                script.arg(&attempt.token.0).arg(life(attempt));
            });
            is_one(&answer.await?)
        })
    }

    fn complete<'a>(&'a self, key: &'a StorageKey, record: &'a Record, recreate_until: Micros) -> Reply<'a, Completed> {
        Box::pin(async move {
            let (answer, written) = self
                .write(key, &self.scripts.complete, |script| {
                    script.arg(&record.token.0).arg(record.encode()).arg(millis(record.ttl).max(1)).arg(recreate_until);
                })
                .await?;
            match answer {
                Value::Int(1) => self.confirm(written).await.map(|()| Completed::Stored),
                Value::Int(_) => Ok(Completed::Refused(None)),
                Value::Array(answer) => self.held(key, &answer).map(|(held, _)| Completed::Refused(Some(held))),
                other => Err(unexpected(&other)),
            }
        })
    }

    fn release<'a>(&'a self, key: &'a StorageKey, attempt: &'a Record) -> Reply<'a, bool> {
        Box::pin(async move {
            let answer = self.run(key, &self.scripts.release, |script| {
                script.arg(&attempt.token.0);
            });
            is_one(&answer.await?)
        })
    }

    fn get<'a>(&'a self, key: &'a StorageKey) -> Reply<'a, Option<(Held, Micros)>> {
        Box::pin(async move {
            match self.run(key, &self.scripts.get, |_| ()).await? {
                Value::Nil => Ok(None),
                Value::Array(answer) => self.held(key, &answer).map(Some),
                other => Err(unexpected(&other)),
            }
        })
    }

    fn resolve<'a>(&'a self, key: &'a StorageKey, resolution: &'a Resolution) -> Reply<'a, bool> {
        Box::pin(async move {
            let Resolution { fence, into, force } = resolution;
            let (answer, written) = self
                .write(key, &self.scripts.resolve, |script| {
                    script
                        .arg(format!("{fence:016}"))
                        .arg(into.as_ref().map(Record::encode).unwrap_or_default())
                        .arg(into.as_ref().map_or(0, life))
                        .arg(i32::from(*force));
                })
                .await?;
            let is_resolved = is_one(&answer)?;
            if is_resolved {
                self.confirm(written).await?;
            }
            Ok(is_resolved)
        })
    }

    fn time_limit(&self) -> Duration {
        self.time_limit
    }

    fn list<'a>(&'a self, listing: &'a Listing) -> Reply<'a, Page> {
        Box::pin(self.page(listing))
    }

    fn health(&self) -> Reply<'_, Health> {
        Box::pin(self.look())
    }

    fn watch<'a>(&'a self, key: &'a StorageKey) -> Reply<'a, Watch> {
        Box::pin(async move {
            let changed = self.hints.watch(self.name(key)).await;
            Ok(Watch { changed, poll: Duration::from_secs(1) })
        })
    }
}

fn full(error: StoreError) -> StoreError {
    let message =
        "the Redis server is out of memory (maxmemory) and takes no new claims; give it more memory or shorten ttl";
    StoreError::new(StoreErrorKind::Full, message).with_source(error)
}
