//! The queue between those to whom something happens and those who observe it.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::{Event, Observer};
use crate::process::PerProcess;

/// How many events wait at the most.
const MOST: usize = 10_000;

/// How long the thread lets events gather, so that the first of many wakes it alone.
const GATHER: Duration = Duration::from_millis(10);

/// An observer, and those that came before it. Never freed: whoever hands events over needs no lock that a fork could
/// catch.
struct Node {
    observer: Box<dyn Observer>,
    is_active: AtomicBool,
    has_panicked: AtomicBool,
    next: *const Node,
}

static OBSERVERS: AtomicPtr<Node> = AtomicPtr::new(std::ptr::null_mut());
static ACTIVE: AtomicUsize = AtomicUsize::new(0);
static DROPPED: AtomicU64 = AtomicU64::new(0);
static QUEUE: PerProcess<Queue> = PerProcess::new();

// SAFETY: an observer may be shared by threads, the rest is atomic or never changes.
unsafe impl Sync for Node {}

/// Every observer, the newest first.
fn observers() -> impl Iterator<Item = &'static Node> {
    // SAFETY: null, or leaked by `observe` and never freed.
    let first = unsafe { OBSERVERS.load(Ordering::Acquire).as_ref() };
    // SAFETY: as above.
    std::iter::successors(first, |node| unsafe { node.next.as_ref() })
}

/// An observer is told of events for as long as this lives.
#[must_use = "the observer is told of nothing once this is dropped"]
pub struct Observation(&'static Node);

impl Observation {
    /// Lets the observer be told for as long as the process lives.
    pub fn forever(self) {
        std::mem::forget(self);
    }
}

impl std::fmt::Debug for Observation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Observation").finish_non_exhaustive()
    }
}

impl Drop for Observation {
    fn drop(&mut self) {
        self.0.is_active.store(false, Ordering::Release);
        ACTIVE.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Tells an observer of every event in this process from now on, and in its forked children.
///
/// The observer is called on a thread of its own, one event at a time. It may be slow: what has no room in the queue is
/// dropped and counted. If it panics, that event alone is lost to it.
///
/// Observers are few, and the memory of one is never freed.
pub fn observe(observer: impl Observer) -> Observation {
    let node = Box::into_raw(Box::new(Node {
        observer: Box::new(observer),
        is_active: AtomicBool::new(true),
        has_panicked: AtomicBool::new(false),
        next: std::ptr::null(),
    }));
    let mut first = OBSERVERS.load(Ordering::Acquire);
    loop {
        // SAFETY: nobody else has it yet.
        unsafe { (*node).next = first };
        match OBSERVERS.compare_exchange(first, node, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => break,
            Err(now) => first = now,
        }
    }
    ACTIVE.fetch_add(1, Ordering::Relaxed);
    // SAFETY: just leaked.
    Observation(unsafe { &*node })
}

/// How many events found no room, because an observer was too slow.
pub fn dropped() -> u64 {
    DROPPED.load(Ordering::Relaxed)
}

/// Waits until the observers were told of everything that has happened, but not longer than `limit`. Returns whether they
/// were. For tests, and before a process ends.
pub fn flush(limit: Duration) -> bool {
    let queue = QUEUE.get();
    let deadline = Instant::now() + limit;
    let mut waiting = queue.waiting();
    // What comes meanwhile is not waited for: in a busy process there is no end of it.
    let last = waiting.pushed;
    while waiting.handed_over < last {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return false;
        }
        waiting.is_hurried = true;
        queue.arrived.notify_one();
        waiting = queue.handed_over.wait_timeout(waiting, left).unwrap_or_else(PoisonError::into_inner).0;
    }
    true
}

pub(super) fn is_observed() -> bool {
    ACTIVE.load(Ordering::Relaxed) > 0
}

pub(super) fn push(event: Event) {
    if is_observed() {
        QUEUE.get().push(event);
    }
}

#[derive(Default)]
struct Queue {
    waiting: Mutex<Waiting>,
    arrived: Condvar,
    handed_over: Condvar,
}

#[derive(Default)]
struct Waiting {
    events: VecDeque<Event>,
    /// Whether there is a thread that hands them over.
    is_served: bool,
    /// Whether that thread waits for the first event.
    is_idle: bool,
    /// How many events there were so far, and how many of them the observers were told.
    pushed: u64,
    handed_over: u64,
    /// Somebody waits until all were handed over.
    is_hurried: bool,
}

impl Queue {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&'static self, event: Event) {
        let mut waiting = self.waiting();
        if waiting.events.len() >= MOST {
            DROPPED.fetch_add(1, Ordering::Relaxed);
            return;
        }
        waiting.events.push_back(event);
        waiting.pushed += 1;
        if !waiting.is_served {
            let thread = std::thread::Builder::new().name("idempotency-events".into());
            waiting.is_served = thread.spawn(|| self.serve()).is_ok();
        } else if std::mem::take(&mut waiting.is_idle) {
            self.arrived.notify_one();
        }
    }

    fn serve(&self) {
        let mut events = VecDeque::new();
        let mut told = 0;
        loop {
            let mut waiting = self.waiting();
            waiting.handed_over += told;
            waiting.is_hurried = false;
            self.handed_over.notify_all();
            while waiting.events.is_empty() {
                waiting.is_idle = true;
                waiting = self.arrived.wait(waiting).unwrap_or_else(PoisonError::into_inner);
            }
            waiting.is_idle = false;
            let gathered = self.arrived.wait_timeout_while(waiting, GATHER, |waiting| !waiting.is_hurried);
            waiting = gathered.unwrap_or_else(PoisonError::into_inner).0;
            std::mem::swap(&mut waiting.events, &mut events);
            drop(waiting);
            told = events.len() as u64;
            for event in events.drain(..) {
                observers().filter(|node| node.is_active.load(Ordering::Acquire)).for_each(|node| node.tell(&event));
            }
        }
    }
}

impl Node {
    fn tell(&self, event: &Event) {
        let told = catch_unwind(AssertUnwindSafe(|| self.observer.observe(event)));
        if told.is_err() && !self.has_panicked.swap(true, Ordering::Relaxed) {
            tracing::error!("an observer of events panicked; nobody else is harmed, and it is not said again");
        }
    }
}
