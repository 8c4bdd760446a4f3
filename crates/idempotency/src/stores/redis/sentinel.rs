//! [`Sentinels`]: who the primary is.
//!
//! Not by the client library's own: its list of sentinels stays as it was given, so that it finds nobody once they have
//! moved; it takes their answers in the order of that list, so that one that is silent costs the whole time limit; and
//! of two that disagree it takes the first, which may be the one that was cut off.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use redis::aio::ConnectionLike;
use redis::{FromRedisValue, Pipeline, Value};
use tokio::time::{sleep_until, timeout};

use super::dial::{Dial, Opened};
use super::errors::not_connected;
use super::options::RedisAddress;
use crate::error::{StoreError, StoreErrorKind};

/// After how many time limits sentinels are asked again while the connection to the primary stands.
const PAUSE: u32 = 10;

/// Sentinels of one service.
pub(super) struct Sentinels {
    service: String,
    given: Vec<RedisAddress>,
    /// Those that were given, and those that they have told of.
    known: Mutex<Vec<RedisAddress>>,
    /// To a sentinel.
    dial: Dial,
    /// To the primary.
    primary: Arc<Dial>,
    time_limit: Duration,
    since: Instant,
    /// When they are to be asked again, in ms after `since`.
    due: AtomicU64,
}

/// What a sentinel says.
struct Told {
    /// `None`: it does not know the service.
    primary: Option<RedisAddress>,
    /// How new its knowledge is: each failover is given a greater number.
    epoch: u64,
    others: Vec<RedisAddress>,
}

impl Sentinels {
    pub(super) fn new(
        service: String,
        given: Vec<RedisAddress>,
        dial: Dial,
        primary: Arc<Dial>,
        time_limit: Duration,
    ) -> Self {
        let known = Mutex::new(given.clone());
        Self { service, given, known, dial, primary, time_limit, since: Instant::now(), due: AtomicU64::new(0) }
    }

    /// A connection to the primary.
    pub(super) async fn open(&self) -> Result<(RedisAddress, Opened), StoreError> {
        let mut last = None;
        for at in self.primaries().await? {
            match self.primary.open(&at).await {
                Ok(opened) => return Ok((at, opened)),
                // The newest word counts: what is wrong there is what is to be told.
                Err(error) => last = last.or(Some(error)),
            }
        }
        Err(last.unwrap_or_else(|| {
            let message = format!(
                "no sentinel knows a Redis primary by the name {:?}; the name of the service stands after the hosts",
                self.service
            );
            StoreError::new(StoreErrorKind::Setup, message)
        }))
    }

    /// Whether a while has passed since they were asked.
    pub(super) fn is_due(&self) -> bool {
        let (due, now) = (self.due.load(Ordering::Relaxed), self.now());
        let next = now + millis(self.time_limit * PAUSE);
        now >= due && self.due.compare_exchange(due, next, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// A connection to the primary, if it is another one by now.
    pub(super) async fn replacement(&self, used: &RedisAddress) -> Option<(RedisAddress, Opened)> {
        let at = self.primaries().await.ok()?.into_iter().next().filter(|at| at != used)?;
        let opened = timeout(self.time_limit, self.primary.open(&at)).await.ok()?.ok()?;
        Some((at, opened))
    }

    fn now(&self) -> u64 {
        millis(self.since.elapsed())
    }

    /// Who is the primary, by the newest word of those that answer; then who others take for it.
    ///
    /// All are asked at once. The answers of more than half of them do, where others take longer: one that is cut off is
    /// outvoted. The one that has just promoted a replica is the first to know it.
    async fn primaries(&self) -> Result<Vec<RedisAddress>, StoreError> {
        self.due.store(self.now() + millis(self.time_limit * PAUSE), Ordering::Relaxed);
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut asked: FuturesUnordered<_> = known.iter().map(|at| async move { (at, self.ask(at).await) }).collect();
        // The rest of the time is for the primary.
        let mut end = tokio::time::Instant::now() + self.time_limit / 2;
        let (mut told, mut error) = (vec![], None::<StoreError>);
        loop {
            let answer = tokio::select! {
                answer = asked.next() => answer,
                () = sleep_until(end) => None,
            };
            match answer {
                Some((at, Ok(answer))) => {
                    told.push((at.clone(), answer));
                    if told.len() == known.len() / 2 + 1 {
                        end = end.min(tokio::time::Instant::now() + self.time_limit / 10);
                    }
                }
                Some((_, Err(failed))) => {
                    // A refusal is for somebody to mend; what can't be reached may come back.
                    if error.as_ref().is_none_or(StoreError::is_passing) {
                        error = Some(failed);
                    }
                }
                None => break,
            }
        }
        drop(asked);
        if told.is_empty() {
            return Err(error.unwrap_or_else(|| {
                let message = format!("no sentinel answered within {:?}", self.time_limit / 2);
                StoreError::new(StoreErrorKind::NotExecuted, message)
            }));
        }
        told.sort_by_key(|(_, told)| Reverse(told.epoch));
        let (mut sentinels, mut primaries) = (self.given.clone(), vec![]);
        for (at, told) in told {
            sentinels.push(at);
            sentinels.extend(told.others);
            primaries.extend(told.primary);
        }
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = each_once(sentinels);
        Ok(each_once(primaries))
    }

    async fn ask(&self, at: &RedisAddress) -> Result<Told, StoreError> {
        let mut connection = self.dial.open(at).await?.connection;
        let mut questions = Pipeline::with_capacity(3);
        for question in ["GET-MASTER-ADDR-BY-NAME", "MASTER", "SENTINELS"] {
            questions.cmd("SENTINEL").arg(question).arg(&self.service);
        }
        let answers = connection.req_packed_commands(&questions, 0, 3).await;
        let answers = answers.map_err(|source| not_connected(at, source))?;
        let mut answers = answers.into_iter().map(Value::extract_error);
        let mut next = || answers.next().unwrap_or(Ok(Value::Nil));
        // The first names a replica that is being promoted at once; the second when all others follow it.
        let primary = next().map_err(|source| match source.to_string().contains("unknown command") {
            true => {
                let message = format!("the Redis server at {at} is no sentinel; write redis://{at} for a server");
                StoreError::new(StoreErrorKind::Setup, message).with_source(source)
            }
            false => not_connected(at, source),
        })?;
        let (master, others) = (next().ok(), next().ok());
        let primary = <Option<(String, u16)>>::from_redis_value(primary).ok().flatten();
        let epoch = master.and_then(fields).and_then(|fields| fields.get("config-epoch")?.parse().ok());
        let others = match others {
            Some(Value::Array(others)) => others.into_iter().filter_map(fields).filter_map(|sentinel| {
                let port = sentinel.get("port")?.parse().ok()?;
                Some(RedisAddress::Host(sentinel.get("ip")?.clone(), port))
            }),
            _ => return Ok(Told { primary: primary.map(host), epoch: epoch.unwrap_or(0), others: vec![] }),
        };
        Ok(Told { primary: primary.map(host), epoch: epoch.unwrap_or(0), others: others.collect() })
    }
}

fn host((host, port): (String, u16)) -> RedisAddress {
    RedisAddress::Host(host, port)
}

fn millis(duration: Duration) -> u64 {
    duration.as_millis().try_into().unwrap_or(u64::MAX)
}

fn fields(value: Value) -> Option<HashMap<String, String>> {
    FromRedisValue::from_redis_value(value).ok()
}

fn each_once(addresses: Vec<RedisAddress>) -> Vec<RedisAddress> {
    let mut once = Vec::with_capacity(addresses.len());
    for address in addresses {
        if !once.contains(&address) {
            once.push(address);
        }
    }
    once
}
