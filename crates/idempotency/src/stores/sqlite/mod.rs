//! [`SqliteStore`]: records in one file, for the processes of one machine.

mod file;
mod forks;
mod list;
mod turns;

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::oneshot;

use crate::decide::{self, Claim, Claiming, Held, Resolution, Settle};
use crate::error::{StoreError, StoreErrorKind};
use crate::key::StorageKey;
use crate::record::{Micros, Record};
use crate::store::{Claimed, Completed, Health, Listing, Page, Reply, Store, Watch};

use file::File;
use forks::{Jobs, Leave};

/// Records in one file, for any number of processes of one machine.
///
/// Durable: an answer is given after the commit has reached the disk (`synchronous=FULL`, write-ahead log).
/// Operations that wait at the same time share one commit. Leases run on the machine's boot-time clock, which nobody
/// sets; after a restart of the machine every lease has lapsed. A claim's `ttl` runs on that clock too, a result's on
/// the wall clock. Fences grow whatever is done to the clocks: the file keeps the highest.
///
/// SQLite has one writer at a time. Processes take turns: one that writes without a pause makes one of 2 ms every 100 ms,
/// and those that wait ask every 0.5 ms. A process that is stopped (SIGSTOP) in the middle of a commit keeps every other
/// writer out until it goes on or ends: their operations fail after the time limit, and say so.
///
/// **Give it a file of its own.** SQLite is compiled into this library. A second SQLite library in the same process
/// (Python's `sqlite3`, say) that opens and closes the same file takes away this one's locks, and the file gets
/// corrupted (<https://sqlite.org/howtocorrupt.html>, section 2.2.1). Looking at it from another process, as with the
/// `sqlite3` command, is safe. Not for network file systems.
///
/// ```
/// use idempotency::stores::SqliteStore;
/// let store = SqliteStore::open("idempotency.db"); // does no I/O yet
/// ```
pub struct SqliteStore {
    path: PathBuf,
    time_limit: Duration,
    jobs: OnceLock<Arc<Jobs>>,
}

impl std::fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SqliteStore")
            .field("path", &self.path)
            .field("time_limit", &self.time_limit)
            .finish_non_exhaustive()
    }
}

/// One operation, on its way to the thread that owns the file.
trait Operation: Send {
    /// Answers without a transaction where it can, which spares a replay the write lock. Whether it did.
    fn look(&mut self, file: &File) -> bool;
    /// Takes its step inside the transaction. An error undoes the whole batch.
    fn step(&mut self, file: &File) -> Result<(), StoreError>;
    /// Hands over its answer, or what undid it.
    fn deliver(self: Box<Self>, undone: Option<&StoreError>);
}

type Job = Box<dyn Operation>;

struct Work<T, L, S> {
    look: L,
    step: S,
    answer: Option<Result<T, StoreError>>,
    to: oneshot::Sender<Result<T, StoreError>>,
}

impl<T, L, S> Operation for Work<T, L, S>
where
    T: Send,
    L: FnMut(&File) -> Result<Option<T>, StoreError> + Send,
    S: FnMut(&File) -> Result<T, StoreError> + Send,
{
    fn look(&mut self, file: &File) -> bool {
        self.answer = (self.look)(file).transpose();
        self.answer.is_some()
    }

    fn step(&mut self, file: &File) -> Result<(), StoreError> {
        match (self.step)(file) {
            // What is not ours was read, not written: the others of the batch go on.
            Err(error) if error.kind() != StoreErrorKind::Foreign => Err(error),
            answer => {
                self.answer = Some(answer);
                Ok(())
            }
        }
    }

    fn deliver(self: Box<Self>, undone: Option<&StoreError>) {
        let answer = match undone {
            Some(error) => Err(error.clone()),
            None => self.answer.unwrap_or_else(|| Err(stopped())),
        };
        let _ = self.to.send(answer); // who asked may have gone
    }
}

fn stopped() -> StoreError {
    StoreError::new(StoreErrorKind::Unknown, "the thread of the SQLite store has stopped")
}

impl SqliteStore {
    /// The store in a file, which is made when first used. Does no I/O.
    pub fn open(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), time_limit: Duration::from_secs(5), jobs: OnceLock::new() }
    }

    /// The longest an operation may take, waiting for other processes included: by default 5 s.
    pub fn time_limit(self, time_limit: Duration) -> Self {
        Self { time_limit, ..self }
    }

    /// The queue of the thread that owns the file; the thread ends with the store. The next operation asks anew for a
    /// thread that the operating system refuses.
    fn jobs(&self) -> Result<&Jobs, StoreError> {
        if let Some(jobs) = self.jobs.get() {
            return Ok(jobs);
        }
        let (sender, receiver) = channel();
        let (path, time_limit) = (self.path.clone(), self.time_limit);
        let work = move || serve(&path, time_limit, &receiver);
        let started = std::thread::Builder::new().name("idempotency-sqlite".into()).spawn(work);
        started.map_err(|source| {
            let message = format!("the operating system refuses a thread for the SQLite store: {source}");
            StoreError::new(StoreErrorKind::NotExecuted, message).with_source(source)
        })?;
        // Where another caller was quicker, this thread ends with its queue.
        Ok(self.jobs.get_or_init(|| {
            let jobs = Arc::new(sender);
            forks::watch(&jobs);
            jobs
        }))
    }

    fn run<'a, T: Send + 'static>(
        &'a self,
        look: impl FnMut(&File) -> Result<Option<T>, StoreError> + Send + 'static,
        step: impl FnMut(&File) -> Result<T, StoreError> + Send + 'static,
    ) -> Reply<'a, T> {
        let (to, answer) = oneshot::channel();
        let jobs = self.jobs();
        let sent = jobs.map(|jobs| jobs.send(Some(Box::new(Work { look, step, answer: None, to }))));
        Box::pin(async move {
            sent?.map_err(|_| stopped())?;
            match tokio::time::timeout(self.time_limit, answer).await {
                Ok(answer) => answer.unwrap_or_else(|_| Err(stopped())),
                Err(_) => {
                    let message = format!("the SQLite store did not answer within {:?}", self.time_limit);
                    Err(StoreError::new(StoreErrorKind::Unknown, message))
                }
            }
        })
    }
}

/// The most operations that share a commit.
const BATCH: usize = 256;

/// How many expired records a commit takes along.
const SWEEP: u32 = 64;

fn serve(path: &Path, time_limit: Duration, jobs: &Receiver<Option<Job>>) {
    let mut opened: Option<(File, Leave)> = None;
    while let Ok(first) = jobs.recv() {
        opened = opened.filter(|(file, leave)| {
            if !file.is_there() {
                let path = file.path().display();
                tracing::error!("the file {path} of the SQLite store was removed or replaced: what it held is lost");
            }
            file.is_there() && !leave.is_over()
        });
        let batch: Vec<Job> = std::iter::once(first).chain(jobs.try_iter().take(BATCH - 1)).flatten().collect();
        if batch.is_empty() {
            continue;
        }
        let (file, leave) = match opened.take() {
            Some(opened) => opened,
            None => {
                let leave = Leave::take();
                match File::open(path, time_limit) {
                    Ok(file) => (file, leave),
                    Err(error) => {
                        batch.into_iter().for_each(|job| job.deliver(Some(&error)));
                        continue; // tried again with the next batch
                    }
                }
            }
        };
        run_batch(&file, batch);
        opened = Some((file, leave));
    }
}

fn run_batch(file: &File, batch: Vec<Job>) {
    let mut writes = Vec::with_capacity(batch.len());
    for mut job in batch {
        match job.look(file) {
            true => job.deliver(None),
            false => writes.push(job),
        }
    }
    if writes.is_empty() {
        return;
    }
    let undone = file.transaction(|| {
        writes.iter_mut().try_for_each(|job| job.step(file))?;
        file.sweep(SWEEP).map(drop)
    });
    let undone = undone.err();
    writes.into_iter().for_each(|job| job.deliver(undone.as_ref()));
}

/// Nothing can be answered without a transaction.
fn no_look<T>(_: &File) -> Result<Option<T>, StoreError> {
    Ok(None)
}

impl Store for SqliteStore {
    fn claim<'a>(&'a self, key: &'a StorageKey, claim: &'a Claim) -> Reply<'a, Claimed> {
        let (key, look_for, claim) = (*key, claim.clone(), claim.clone());
        self.run(
            move |file| {
                let now = file.lease_clock();
                // The fence does not matter here: nothing is written.
                match decide::claim(file.held(&key)?, &look_for, now, 0) {
                    Claiming::Stands(held) => Ok(Some(Claimed::No { held, now })),
                    Claiming::Write(_) => Ok(None),
                }
            },
            move |file| {
                let now = file.lease_clock();
                match decide::claim(file.held(&key)?, &claim, now, file.fence_clock()?) {
                    Claiming::Stands(held) => Ok(Claimed::No { held, now }),
                    Claiming::Write(record) => {
                        file.put(&key, &record)?;
                        file.gave(record.fence);
                        Ok(Claimed::Yes { fence: record.fence })
                    }
                }
            },
        )
    }

    fn renew<'a>(&'a self, key: &'a StorageKey, attempt: &'a Record) -> Reply<'a, bool> {
        let (key, token) = (*key, attempt.token);
        self.run(no_look, move |file| match file.held(&key)? {
            Some(held) if decide::owns(Some(&held), token) => file.put(&key, &held.record).map(|()| true),
            _ => Ok(false),
        })
    }

    fn complete<'a>(&'a self, key: &'a StorageKey, record: &'a Record, recreate_until: Micros) -> Reply<'a, Completed> {
        let (key, record) = (*key, record.clone());
        self.run(no_look, move |file| {
            let held = file.held(&key)?;
            match decide::complete(held.as_ref(), record.token, recreate_until, file.fence_clock()?) {
                Settle::Write => file.put(&key, &record).map(|()| Completed::Stored),
                Settle::Already => Ok(Completed::Stored),
                Settle::Refused => Ok(Completed::Refused(held)),
            }
        })
    }

    fn release<'a>(&'a self, key: &'a StorageKey, attempt: &'a Record) -> Reply<'a, bool> {
        let (key, token) = (*key, attempt.token);
        self.run(no_look, move |file| match decide::owns(file.held(&key)?.as_ref(), token) {
            true => file.remove(&key).map(|()| true),
            false => Ok(false),
        })
    }

    fn get<'a>(&'a self, key: &'a StorageKey) -> Reply<'a, Option<(Held, Micros)>> {
        let key = *key;
        let look = move |file: &File| Ok(file.held(&key)?.map(|held| (held, file.lease_clock())));
        self.run(move |file| look(file).map(Some), look)
    }

    fn resolve<'a>(&'a self, key: &'a StorageKey, resolution: &'a Resolution) -> Reply<'a, bool> {
        let (key, resolution) = (*key, resolution.clone());
        self.run(no_look, move |file| {
            if !decide::resolve(file.held(&key)?.as_ref(), &resolution, file.lease_clock()) {
                return Ok(false);
            }
            let into = resolution.into.as_ref();
            into.map_or_else(|| file.remove(&key), |record| file.put(&key, record)).map(|()| true)
        })
    }

    fn time_limit(&self) -> Duration {
        self.time_limit
    }

    fn purge(&self) -> Reply<'_, u64> {
        self.run(no_look, |file| file.sweep(u32::MAX))
    }

    fn list<'a>(&'a self, listing: &'a Listing) -> Reply<'a, Page> {
        let (listing, again) = (listing.clone(), listing.clone());
        self.run(move |file| file.page(&listing).map(Some), move |file| file.page(&again))
    }

    fn health(&self) -> Reply<'_, Health> {
        self.run(|file| file.health().map(Some), |file| file.health())
    }

    fn watch<'a>(&'a self, _key: &'a StorageKey) -> Reply<'a, Watch> {
        // Waiters of this process are told by the engine; another process's end is seen by looking.
        Box::pin(async { Ok(Watch { changed: None, poll: Duration::from_millis(20) }) })
    }
}
