//! [`Confirmations`]: writes that replicas, or disks, are to have before they count.
//!
//! WAIT holds up everything behind it on its connection, and means the writes of that connection alone. So it has a
//! connection of its own to each server, where others' replays and renewals are not held up, and a write goes before it:
//! what is replicated is one sequence, and who has that write has every earlier one. One WAIT does for all writes that
//! were answered before it was sent; what is answered meanwhile shares the next one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use redis::aio::ConnectionLike;
use redis::{ErrorKind, Pipeline, RedisResult, Script, ServerErrorKind, Value};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::dial::{Dial, Opened, Wanted};
use super::node::Link;
use super::options::RedisAddress;
use super::slots::{SLOTS, slot};
use crate::error::{StoreError, StoreErrorKind};

/// How long the write before a WAIT stays, in ms.
const STAYS: u32 = 60_000;

/// What the server may take beyond the time that it was given.
const SLACK: Duration = Duration::from_millis(50);

pub(super) struct Confirmations {
    dial: Arc<Dial>,
    prefix: Vec<u8>,
    servers: Mutex<HashMap<RedisAddress, Arc<Server>>>,
}

/// A server, and who waits for its replicas.
struct Server {
    at: RedisAddress,
    dial: Arc<Dial>,
    prefix: Vec<u8>,
    script: Script,
    waiting: Mutex<Waiting>,
    connection: tokio::sync::Mutex<Option<Opened>>,
}

#[derive(Default)]
struct Waiting {
    /// Whether a task sends for those that wait.
    is_served: bool,
    next: Vec<Waiter>,
}

struct Waiter {
    /// The server's own name for the process that wrote: another one at its address has not this write.
    process: Option<Arc<str>>,
    slot: u16,
    deadline: Instant,
    to: oneshot::Sender<Result<(), String>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Confirmations {
    pub(super) fn new(dial: Arc<Dial>, prefix: &[u8]) -> Self {
        Self { dial, prefix: prefix.into(), servers: Mutex::default() }
    }

    /// Returns when what was written by this connection is where it is to be.
    ///
    /// # Errors
    /// [`StoreErrorKind::Unknown`], at the deadline or before it.
    pub(super) async fn confirm(&self, link: &Link, name: &[u8], deadline: Instant) -> Result<(), StoreError> {
        let (to, confirmed) = oneshot::channel();
        let server = self.server(&link.at);
        server.enter(Waiter { process: link.process.clone(), slot: slot(name), deadline, to });
        let left = deadline.saturating_duration_since(Instant::now());
        let why = match timeout(left, confirmed).await {
            Ok(Ok(Ok(()))) => return Ok(()),
            Ok(Ok(Err(why))) => why,
            Ok(Err(_)) => "nobody waits for it any more".into(),
            Err(_) => "there was no more time".into(),
        };
        let message = format!(
            "the Redis server at {} has written, but {} could not be confirmed: {why}",
            link.at,
            self.dial.wanted()
        );
        Err(StoreError::new(StoreErrorKind::Unknown, message))
    }

    fn server(&self, at: &RedisAddress) -> Arc<Server> {
        let mut servers = locked(&self.servers);
        if let Some(server) = servers.get(at) {
            return server.clone();
        }
        let server = Arc::new(Server {
            at: at.clone(),
            dial: self.dial.clone(),
            prefix: self.prefix.clone(),
            script: Script::new(include_str!("barrier.lua")),
            waiting: Mutex::default(),
            connection: tokio::sync::Mutex::default(),
        });
        servers.insert(at.clone(), server.clone());
        server
    }
}

impl Server {
    fn enter(self: &Arc<Self>, waiter: Waiter) {
        let mut waiting = locked(&self.waiting);
        waiting.next.push(waiter);
        if !waiting.is_served {
            waiting.is_served = true;
            tokio::spawn(self.clone().serve());
        }
    }

    async fn serve(self: Arc<Self>) {
        loop {
            // Those whose answers came together are woken together: the last of them is worth a turn.
            tokio::task::yield_now().await;
            let batch = {
                let mut waiting = locked(&self.waiting);
                let mut batch = std::mem::take(&mut waiting.next);
                batch.retain(|waiter| !waiter.to.is_closed());
                if batch.is_empty() {
                    waiting.is_served = false;
                    return;
                }
                batch
            };
            let deadline = batch.iter().map(|waiter| waiter.deadline).max().unwrap_or_else(Instant::now);
            let limit = deadline.saturating_duration_since(Instant::now());
            let outcome = match timeout(limit + SLACK, self.wait(&batch, deadline)).await {
                Ok(outcome) => outcome,
                Err(_) => {
                    // It was held: nobody else asks by this connection.
                    *self.connection.lock().await = None;
                    Err("the server did not answer".into())
                }
            };
            for waiter in batch {
                let outcome = match &outcome {
                    Ok(process) if *process != waiter.process => Err("another server answers there by now".into()),
                    Ok(_) => Ok(()),
                    Err(why) => Err(why.clone()),
                };
                let _ = waiter.to.send(outcome); // who waited may have gone
            }
        }
    }

    /// Asks for the writes of a batch. Returns who answered.
    async fn wait(&self, batch: &[Waiter], deadline: Instant) -> Result<Option<Arc<str>>, String> {
        let mut connection = self.connection.lock().await;
        let opened = match &mut *connection {
            Some(opened) => opened,
            none => none.insert(self.dial.open(&self.at).await.map_err(|error| error.to_string())?),
        };
        let process = opened.process.clone();
        let mut answers = self.ask(opened, batch, deadline).await;
        if answers.as_ref().is_ok_and(|answers| is_unknown_script(&answers[0])) {
            answers = match self.script.load_async(&mut opened.connection).await {
                Ok(_) => self.ask(opened, batch, deadline).await,
                Err(error) => Err(error),
            };
        }
        let answers = match answers {
            Ok(answers) => answers,
            Err(error) => {
                *connection = None;
                return Err(error.to_string());
            }
        };
        let mut answers = answers.into_iter().map(Value::extract_error);
        match answers.next() {
            Some(Ok(Value::Int(1))) => {}
            Some(Err(error)) => {
                // It may be a replica by now, or have lost the slot.
                *connection = None;
                return Err(error.to_string());
            }
            other => return Err(format!("it answered {other:?}")),
        }
        let Wanted { replicas, aof } = self.dial.wanted();
        if replicas > 0 {
            has_enough(answers.next(), |answer| match answer {
                Value::Int(have) => Some((*have, i64::from(replicas), "replicas have it")),
                _ => None,
            })?;
        }
        if aof > 0 {
            has_enough(answers.next(), |answer| match answer {
                Value::Array(both) => match both[..] {
                    [Value::Int(own), Value::Int(theirs)] => {
                        Some((own.min(1) + theirs, i64::from(aof), "servers have it on disk"))
                    }
                    _ => None,
                },
                _ => None,
            })?;
        }
        Ok(process)
    }

    async fn ask(&self, opened: &mut Opened, batch: &[Waiter], deadline: Instant) -> RedisResult<Vec<Value>> {
        // 0 would be without an end.
        let left = deadline.saturating_duration_since(Instant::now()).as_millis().max(1) as u64;
        let Wanted { replicas, aof } = self.dial.wanted();
        let mut commands = Pipeline::with_capacity(3);
        let name = self.name(batch);
        commands.cmd("EVALSHA").arg(self.script.get_hash()).arg(1).arg(name).arg(STAYS);
        if replicas > 0 {
            commands.cmd("WAIT").arg(replicas).arg(left);
        }
        if aof > 0 {
            commands.cmd("WAITAOF").arg(1).arg(aof - 1).arg(left);
        }
        opened.connection.req_packed_commands(&commands, 0, commands.len()).await
    }

    /// A name of ours that the server takes: on a cluster it must lie in a slot of the server's, as the keys do.
    fn name(&self, batch: &[Waiter]) -> Vec<u8> {
        let name = |number: usize| [&self.prefix[..], b"confirmed:", number.to_string().as_bytes()].concat();
        let Some(waiter) = batch.first().filter(|_| self.dial.is_cluster()) else { return name(0) };
        // One in SLOTS has the slot, or all if the prefix has a tag.
        (0..SLOTS * 16).map(name).find(|name| slot(name) == waiter.slot).unwrap_or_else(|| name(0))
    }
}

fn has_enough(
    answer: Option<RedisResult<Value>>,
    read: impl Fn(&Value) -> Option<(i64, i64, &'static str)>,
) -> Result<(), String> {
    match answer {
        Some(Ok(answer)) => match read(&answer) {
            Some((have, wanted, _)) if have >= wanted => Ok(()),
            Some((have, wanted, words)) => Err(format!("{have} of {wanted} {words}")),
            None => Err(format!("it answered {answer:?}")),
        },
        Some(Err(error)) => Err(error.to_string()),
        None => Err("it did not answer".into()),
    }
}

fn is_unknown_script(answer: &Value) -> bool {
    let error = answer.clone().extract_error().err();
    error.is_some_and(|error| error.kind() == ErrorKind::Server(ServerErrorKind::NoScript))
}
