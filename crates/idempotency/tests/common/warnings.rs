//! A subscriber that keeps the words of warnings.

use std::fmt::Debug;
use std::sync::{Arc, Mutex};

use tracing::field::Field;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// Keeps the words of warnings, a line each.
#[derive(Clone, Default)]
pub struct Warnings(Arc<Mutex<String>>);

impl Warnings {
    pub fn words(&self) -> String {
        self.0.lock().unwrap().clone()
    }
}

impl Subscriber for Warnings {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() == Level::WARN
    }
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, event: &Event<'_>) {
        let words = self.0.clone();
        event.record(&mut |_: &Field, value: &dyn Debug| words.lock().unwrap().push_str(&format!("{value:?}\n")));
    }
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}
