//! Which process this is, without a system call each time.

use std::sync::Once;
use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

static GENERATION: AtomicU32 = AtomicU32::new(0);

/// A number that is another one in a forked child than in its parent: what a process made before the fork (a runtime,
/// a connection, a token not yet used) is not the child's to use.
///
/// ```
/// use idempotency::process::generation;
/// assert_eq!(generation(), generation());
/// ```
pub fn generation() -> u32 {
    #[cfg(unix)]
    {
        static WATCH: Once = Once::new();
        extern "C" fn in_child() {
            GENERATION.fetch_add(1, Ordering::Relaxed);
        }
        WATCH.call_once(|| {
            // SAFETY: the handler only adds to an atomic, which a forked child may do.
            let failed = unsafe { libc::pthread_atfork(None, None, Some(in_child)) };
            assert_eq!(failed, 0, "the operating system has no memory for a fork handler");
        });
    }
    GENERATION.load(Ordering::Relaxed)
}

/// A static of which a forked child has its own, so that it never meets a lock that its parent held. The value is made
/// when it is first asked for; a child leaks its parent's.
///
/// ```
/// use std::sync::Mutex;
/// use idempotency::process::PerProcess;
/// static SEEN: PerProcess<Mutex<u32>> = PerProcess::new();
/// *SEEN.get().lock().unwrap() += 1;
/// assert_eq!(*SEEN.get().lock().unwrap(), 1);
/// ```
#[derive(Debug)]
pub struct PerProcess<T: 'static>(AtomicPtr<(u32, T)>);

impl<T: Default + Sync> Default for PerProcess<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Default + Sync> PerProcess<T> {
    /// None is made yet.
    pub const fn new() -> Self {
        Self(AtomicPtr::new(std::ptr::null_mut()))
    }

    /// The value of this process.
    pub fn get(&'static self) -> &'static T {
        let (id, current) = (generation(), self.0.load(Ordering::Acquire));
        // SAFETY: null, or leaked by `Box::into_raw` below and never freed.
        match unsafe { current.as_ref() } {
            Some((owner, value)) if *owner == id => value,
            _ => self.make(id, current),
        }
    }

    #[cold]
    fn make(&'static self, id: u32, seen: *mut (u32, T)) -> &'static T {
        let new = Box::into_raw(Box::new((id, T::default())));
        match self.0.compare_exchange(seen, new, Ordering::AcqRel, Ordering::Acquire) {
            // SAFETY: just leaked, never freed.
            Ok(_) => unsafe { &(*new).1 },
            Err(_) => {
                // SAFETY: never shared. Another thread of this process was quicker.
                drop(unsafe { Box::from_raw(new) });
                self.get()
            }
        }
    }
}
