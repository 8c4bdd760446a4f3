//! [`Gathering`]: operations that come while others are under way go out together, in one statement: they share its
//! transaction and its commit.
//!
//! They share its end too. Nobody is answered before the commit, so what an operation is told of another one of its
//! statement is as good as stored. Where the server refuses a statement, each of its operations is sent again by itself.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_postgres::Row;

use super::connect::{Connection, Parameters, Which};
use super::pool::Pool;
use super::{errors, parameters};
use crate::error::{StoreError, StoreErrorKind};
use crate::key::StorageKey;

/// How many statements of one kind are under way at once: who comes meanwhile waits for the next one.
const TURNS: usize = 2;

/// The most operations of one statement. Each takes a lock or two in the server, which has room for some thousands.
const MOST: usize = 32;

/// The most bytes of one statement that has more than one operation.
const MOST_BYTES: usize = 256 * 1024;

/// One operation: its key, and the other values in the order that `claim.sql` and `complete.sql` have them.
pub(super) struct Step {
    pub(super) key: StorageKey,
    pub(super) bytes: [Option<Vec<u8>>; 2],
    pub(super) numbers: [i64; 2],
}

impl Step {
    fn size(&self) -> usize {
        self.bytes.iter().flatten().map(Vec::len).sum()
    }
}

/// Operations of one kind.
pub(super) struct Gathering {
    which: Which,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    under_way: usize,
    waiting: VecDeque<Entry>,
}

/// An operation that waits for its turn, or for its answer.
struct Entry {
    step: Arc<Step>,
    place: Arc<Mutex<Place>>,
    answer: oneshot::Sender<Result<Row, StoreError>>,
}

/// Where an operation is.
enum Place {
    Waiting,
    /// Its statement was sent, and has ended when this is closed.
    Sent(watch::Receiver<()>),
    /// Nobody waits for it any more, and it is not sent.
    Gone,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Gathering {
    pub(super) fn of(which: Which) -> Arc<Self> {
        Arc::new(Self { which, state: Mutex::default() })
    }

    /// Runs one operation: at once, or together with those that come meanwhile.
    pub(super) async fn ask(self: &Arc<Self>, pool: &Arc<Pool>, step: &Arc<Step>) -> Result<Row, StoreError> {
        let limit = pool.options.time_limit;
        let deadline = Instant::now() + limit;
        loop {
            let mut asker =
                Asker { gathering: self, pool, key: &step.key, place: Arc::new(Mutex::new(Place::Waiting)) };
            let (answer, answered) = oneshot::channel();
            self.enter(pool, Entry { step: step.clone(), place: asker.place.clone(), answer });
            match timeout_at(deadline, answered).await {
                Ok(Ok(answer)) => {
                    asker.heard();
                    return answer;
                }
                Err(_) if asker.leave() => return Err(errors::timed_out(limit)),
                Err(_) => return Err(errors::not_connected_within(limit)),
                // Its turn was a task of another runtime, which has ended.
                Ok(Err(_)) if asker.leave() => return Err(errors::runtime_ended()),
                Ok(Err(_)) => {}
            }
        }
    }

    fn enter(self: &Arc<Self>, pool: &Arc<Pool>, entry: Entry) {
        let mut state = locked(&self.state);
        state.waiting.push_back(entry);
        if state.under_way < TURNS {
            state.under_way += 1;
            let turn = Turn { gathering: self.clone(), pool: pool.clone(), is_over: false };
            tokio::spawn(turn.serve());
        }
    }

    /// What goes out now; it has ended when `ended` is closed.
    fn take(&self, ended: &watch::Receiver<()>) -> Vec<Entry> {
        let mut state = locked(&self.state);
        let (mut taken, mut size) = (vec![], 0);
        while taken.len() < MOST
            && let Some(entry) = state.waiting.pop_front()
        {
            size += entry.step.size();
            if !taken.is_empty() && size > MOST_BYTES {
                state.waiting.push_front(entry);
                break;
            }
            let mut place = locked(&entry.place);
            if matches!(*place, Place::Waiting) {
                *place = Place::Sent(ended.clone());
                drop(place);
                taken.push(entry);
            }
        }
        taken
    }

    async fn send(&self, pool: &Arc<Pool>, connection: &Arc<Connection>, entries: Vec<Entry>) {
        let limit = pool.options.time_limit;
        let error = match timeout(limit, self.rows(pool, connection, &entries)).await {
            Ok(Ok(rows)) if rows.len() == entries.len() => {
                for (entry, row) in entries.into_iter().zip(rows) {
                    entry.tell(Ok(row));
                }
                return;
            }
            // It has done nothing. Which of them it does not take, each finds out by itself.
            Ok(Err(error)) if entries.len() > 1 && errors::may_be_of_one(&error) => {
                for entry in entries {
                    match pool.get().await {
                        Ok(connection) => Box::pin(self.send(pool, &connection, vec![entry])).await,
                        Err(error) => entry.tell(Err(error)),
                    }
                }
                return;
            }
            Ok(Err(error)) => error,
            Ok(Ok(_)) => StoreError::new(StoreErrorKind::Unknown, "a function has no answer"),
            Err(_) => {
                pool.forget(connection);
                errors::timed_out(limit)
            }
        };
        for entry in entries {
            entry.tell(Err(error.clone()));
        }
    }

    async fn rows(&self, pool: &Arc<Pool>, connection: &Connection, entries: &[Entry]) -> Result<Vec<Row>, StoreError> {
        let statements = &pool.statements;
        let (one, many, sql) = match self.which {
            Which::Claim => (&statements.claim, Which::Claims, &statements.claims),
            _ => (&statements.complete, Which::Completions, &statements.completions),
        };
        // By itself an operation needs no lists, which cost the server a tenth of it.
        if let [Entry { step, .. }] = entries {
            let Step { key, bytes: [first, second], numbers: [third, fourth] } = &**step;
            let values: Parameters<'_> = parameters![
                &key.0[..] => BYTEA, first => BYTEA, second => BYTEA, third => INT8, fourth => INT8
            ];
            return pool.rows(connection, self.which, one, values).await;
        }
        let keys: Vec<&[u8]> = entries.iter().map(|entry| &entry.step.key.0[..]).collect();
        let bytes = |at: usize| -> Vec<_> { entries.iter().map(|entry| entry.step.bytes[at].as_deref()).collect() };
        let numbers = |at: usize| -> Vec<_> { entries.iter().map(|entry| entry.step.numbers[at]).collect() };
        let (first, second, third, fourth) = (bytes(0), bytes(1), numbers(0), numbers(1));
        let values: Parameters<'_> = parameters![
            keys => BYTEA_ARRAY, first => BYTEA_ARRAY, second => BYTEA_ARRAY, third => INT8_ARRAY, fourth => INT8_ARRAY
        ];
        pool.rows(connection, many, sql, values).await
    }
}

impl Entry {
    fn tell(self, answer: Result<Row, StoreError>) {
        drop(self.answer.send(answer)); // whoever has left hears nothing
    }
}

/// Who waits for an operation.
struct Asker<'a> {
    gathering: &'a Gathering,
    pool: &'a Pool,
    key: &'a StorageKey,
    place: Arc<Mutex<Place>>,
}

impl Asker<'_> {
    /// Waits no more; whether the operation was sent. If it was not, it never is.
    fn leave(&mut self) -> bool {
        let Place::Sent(ended) = std::mem::replace(&mut *locked(&self.place), Place::Gone) else { return false };
        if self.gathering.which == Which::Claim {
            self.pool.leave_unanswered(self.key, ended);
        }
        true
    }

    /// The answer came.
    fn heard(&mut self) {
        *locked(&self.place) = Place::Gone;
    }
}

impl Drop for Asker<'_> {
    fn drop(&mut self) {
        self.leave();
    }
}

/// A task that sends what waits, for as long as something does.
struct Turn {
    gathering: Arc<Gathering>,
    pool: Arc<Pool>,
    is_over: bool,
}

impl Turn {
    async fn serve(mut self) {
        let Self { gathering, pool, .. } = &self;
        loop {
            // Whoever comes while a connection is opened goes along.
            let connection = pool.get().await;
            let (ends, ended) = watch::channel(());
            let entries = gathering.take(&ended);
            match connection {
                Ok(connection) if !entries.is_empty() => gathering.send(pool, &connection, entries).await,
                Ok(_) => {}
                Err(error) => entries.into_iter().for_each(|entry| entry.tell(Err(error.clone()))),
            }
            drop(ends);
            let mut state = locked(&gathering.state);
            if state.waiting.is_empty() {
                state.under_way -= 1;
                break;
            }
        }
        self.is_over = true;
    }
}

impl Drop for Turn {
    /// Its runtime has ended before it: whoever waits enters again, on a runtime that lives.
    fn drop(&mut self) {
        if !self.is_over {
            let mut state = locked(&self.gathering.state);
            state.under_way -= 1;
            let waiting = std::mem::take(&mut state.waiting);
            drop(state);
            drop(waiting);
        }
    }
}
