//! The write lock goes round among the processes that want it.
//!
//! SQLite has no queue of writers. Its own way to wait asks ten times a second in the end, so a writer without a pause
//! keeps others out for seconds. Here those that wait ask every [`ASK`], and a writer without a pause makes one of
//! [`PAUSE`] every [`STRETCH`], in which each of them asks.

use std::cell::Cell;
use std::time::{Duration, Instant};

use rusqlite::Connection;

const ASK: Duration = Duration::from_micros(500);
const PAUSE: Duration = Duration::from_millis(2);
const STRETCH: Duration = Duration::from_millis(100);

thread_local! {
    /// The longest that this thread waits for the lock, and until when it waits now.
    static WAIT: Cell<(Duration, Option<Instant>)> = const { Cell::new((Duration::ZERO, None)) };
}

/// Sets how long the connection waits for another one's lock. A thread has one connection.
pub(super) fn wait_at_most(connection: &mut Connection, limit: Duration) -> rusqlite::Result<()> {
    WAIT.set((limit, None));
    connection.busy_handler(Some(|asked| {
        let (limit, until) = WAIT.get();
        let now = Instant::now();
        let until = until.filter(|_| asked > 0).unwrap_or(now + limit);
        WAIT.set((limit, Some(until)));
        let goes_on = now < until;
        if goes_on {
            std::thread::sleep(ASK);
        }
        goes_on
    }))
}

/// How long one connection has written without a pause.
pub(super) struct Turn {
    began: Cell<Instant>,
    ended: Cell<Instant>,
}

impl Turn {
    pub(super) fn new() -> Self {
        Self { began: Cell::new(Instant::now()), ended: Cell::new(Instant::now()) }
    }

    /// Leave to write until it is dropped. Pauses first if the last pause is long ago.
    pub(super) fn take(&self) -> impl Drop {
        let pause = self.ended.get().elapsed();
        if pause < PAUSE && self.began.get().elapsed() > STRETCH {
            std::thread::sleep(PAUSE - pause);
        }
        if self.ended.get().elapsed() >= PAUSE {
            self.began.set(Instant::now());
        }
        Taken(self)
    }
}

struct Taken<'a>(&'a Turn);

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.0.ended.set(Instant::now());
    }
}
