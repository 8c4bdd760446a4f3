//! Which process this is, without a system call each time.

use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};

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
