//! No file is open across a `fork()`.
//!
//! SQLite keeps what it knows of its locks per process, and a child inherits that knowledge without the locks
//! (<https://sqlite.org/howtocorrupt.html>, section 2.6). So every thread of this module closes its file before a fork
//! and opens it again after it.

use std::cell::RefCell;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, Once, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::Job;

/// A queue; `None` only wakes its thread.
pub(super) type Jobs = Sender<Option<Job>>;

struct State {
    forking: bool,
    /// How many threads have a file open.
    open: usize,
    threads: Vec<Weak<Jobs>>,
}

static STATE: Mutex<State> = Mutex::new(State { forking: false, open: 0, threads: Vec::new() });
static CHANGED: Condvar = Condvar::new();

/// How long a fork waits for commits that are under way.
const PATIENCE: Duration = Duration::from_secs(2);

fn state() -> MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes a thread known by its queue.
pub(super) fn watch(jobs: &Arc<Jobs>) {
    static HANDLERS: Once = Once::new();
    #[cfg(unix)]
    HANDLERS.call_once(|| {
        // SAFETY: the handlers wait, lock and unlock; none of them may panic.
        let failed = unsafe { libc::pthread_atfork(Some(before), Some(after), Some(in_child)) };
        assert_eq!(failed, 0, "the operating system has no memory for fork handlers");
    });
    let mut state = state();
    state.threads.retain(|known| known.strong_count() > 0);
    state.threads.push(Arc::downgrade(jobs));
}

/// Leave to have the file open; waits while a fork is under way.
pub(super) struct Leave(());

impl Leave {
    pub(super) fn take() -> Self {
        let mut state = state();
        while state.forking {
            state = CHANGED.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.open += 1;
        Self(())
    }

    /// Whether a fork waits for it to be given back.
    pub(super) fn is_over(&self) -> bool {
        state().forking
    }
}

impl Drop for Leave {
    fn drop(&mut self) {
        let mut state = state();
        state.open = state.open.saturating_sub(1);
        CHANGED.notify_all();
    }
}

thread_local! {
    /// Held while the process forks, so that the child does not inherit the lock from a thread that it has not got.
    static HELD: RefCell<Option<MutexGuard<'static, State>>> = const { RefCell::new(None) };
}

extern "C" fn before() {
    let mut state = state();
    state.forking = true;
    state.threads.iter().filter_map(Weak::upgrade).for_each(|jobs| drop(jobs.send(None)));
    let give_up = Instant::now() + PATIENCE;
    while state.open > 0 && Instant::now() < give_up {
        let left = give_up.saturating_duration_since(Instant::now());
        state = CHANGED.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
    }
    HELD.set(Some(state));
}

extern "C" fn after() {
    if let Some(mut state) = HELD.take() {
        state.forking = false;
        CHANGED.notify_all();
    }
}

extern "C" fn in_child() {
    if let Some(mut state) = HELD.take() {
        state.forking = false;
        state.open = 0;
        // Their threads are the parent's; dropping a queue here would touch what these may have left half done.
        std::mem::take(&mut state.threads).into_iter().for_each(std::mem::forget);
    }
}
