//! [`Driver`]: which thread drives the runtime.
//!
//! A thread that waits for the store drives the runtime itself: it writes to the server and reads its answer, and no
//! other thread has to be woken for that, twice. While nobody waits, a thread of our own drives it. That thread stands
//! by while calls follow each other closely, and takes over when they pause, or when a loop has work under way.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::Poll;
use std::thread::{self, Thread};
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::sync::Notify;
use tokio::time::sleep;

/// How long calls have to pause until our own thread drives again: what goes on in the background is late by this much.
const PAUSE: Duration = Duration::from_millis(3);

/// How long calls have to pause before our own thread drives again, after somebody has waited for long.
const LONG_PAUSE: Duration = Duration::from_millis(50);

pub struct Driver {
    runtime: Runtime,
    own: OnceLock<Thread>,
    /// Whether our own thread leaves the runtime to those who wait.
    stands_by: AtomicBool,
    leave: Notify,
    /// How many threads wait, and how many have begun to.
    waiting: AtomicUsize,
    begun: AtomicUsize,
    /// What loops have under way.
    under_way: AtomicUsize,
}

/// Something that is counted until it is dropped, however that comes.
pub struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Driver {
    pub fn new(runtime: Runtime) -> Self {
        Self {
            runtime,
            own: OnceLock::new(),
            stands_by: AtomicBool::new(false),
            leave: Notify::new(),
            waiting: AtomicUsize::new(0),
            begun: AtomicUsize::new(0),
            under_way: AtomicUsize::new(0),
        }
    }

    /// Starts our own thread.
    ///
    /// # Errors
    /// Where the operating system gives none.
    pub fn start(&'static self) -> std::io::Result<()> {
        let thread = thread::Builder::new().name("idempotency".into());
        let served = thread.spawn(|| {
            loop {
                self.runtime.block_on(self.leave.notified());
                self.stand_by();
            }
        });
        let _ = self.own.set(served?.thread().clone());
        Ok(())
    }

    /// Until calls pause, or a loop has work under way.
    fn stand_by(&self) {
        self.stands_by.store(true, Ordering::SeqCst);
        let mut pause = PAUSE;
        while self.under_way.load(Ordering::SeqCst) == 0 {
            let begun = self.begun.load(Ordering::Relaxed);
            thread::park_timeout(pause);
            if self.begun.load(Ordering::Relaxed) != begun {
                pause = PAUSE;
            } else if self.waiting.load(Ordering::SeqCst) != 0 {
                // Somebody waits for long, and drives meanwhile: there is nothing to look after.
                pause = (pause * 2).min(LONG_PAUSE);
            } else {
                break;
            }
        }
        self.stands_by.store(false, Ordering::SeqCst);
    }

    /// Says that a loop submits work: until that is dropped, our own thread drives.
    pub fn under_way(&'static self) -> Counted<'static> {
        let counted = Counted::new(&self.under_way);
        if self.stands_by.load(Ordering::SeqCst)
            && let Some(own) = self.own.get()
        {
            own.unpark();
        }
        counted
    }

    /// Drives the runtime until a future ends, at most for so long.
    pub fn wait<F: Future>(&self, mut future: Pin<&mut F>, limit: Duration) -> Option<F::Output> {
        let _counted = Counted::new(&self.waiting);
        self.begun.fetch_add(1, Ordering::Relaxed);
        // What a loop has under way keeps our own thread at it, which then reads the answer for this one too.
        if self.under_way.load(Ordering::SeqCst) == 0 && !self.stands_by.load(Ordering::SeqCst) {
            self.leave.notify_one();
        }
        self.runtime.block_on(async {
            let mut limit = std::pin::pin!(sleep(limit));
            poll_fn(|context| match future.as_mut().poll(context) {
                Poll::Ready(output) => Poll::Ready(Some(output)),
                Poll::Pending => limit.as_mut().poll(context).map(|()| None),
            })
            .await
        })
    }
}
