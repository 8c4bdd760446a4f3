//! [`PerProcess`]: a static of which a forked child has its own, so that it never meets a lock that its parent held.

use std::sync::atomic::{AtomicPtr, Ordering};

use idempotency::process::generation;

/// A value of this process, made when first asked for. A child leaks its parent's.
pub struct PerProcess<T: 'static>(AtomicPtr<(u32, T)>);

impl<T: Default + Sync> PerProcess<T> {
    pub const fn new() -> Self {
        Self(AtomicPtr::new(std::ptr::null_mut()))
    }

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
