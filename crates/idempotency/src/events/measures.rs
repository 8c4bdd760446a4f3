//! What is counted of events: one table of metrics, for every library that takes them.
//!
//! Labels have few values: names of operations are bounded, and no label has a key, a caller or a record.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::{Event, What};
use crate::process::PerProcess;

/// How a metric's values are added up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MetricKind {
    /// It only grows.
    Counter,
    /// It grows and falls.
    Gauge,
    /// Values are counted by their size.
    Histogram,
}

/// A metric.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Metric {
    /// Its name in Prometheus, without a suffix of its kind.
    pub name: &'static str,
    /// How its values are added up.
    pub kind: MetricKind,
    /// Its unit in UCUM: `s`, `By`, `1`.
    pub unit: &'static str,
    /// What it says.
    pub help: &'static str,
    /// The names of its labels.
    pub labels: &'static [&'static str],
    /// The upper bounds of a histogram's buckets.
    pub buckets: &'static [f64],
}

const SECONDS: &[f64] = &[
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
    60.0,
];
const BYTES: &[f64] = &[64.0, 256.0, 1024.0, 4096.0, 16384.0, 65536.0, 262_144.0, 1_048_576.0];

macro_rules! metrics {
    ($($constant:ident = $name:literal $kind:ident $unit:literal [$($label:literal),*] $buckets:expr, $help:literal;)*) => {
        $(pub(crate) const $constant: &Metric = &Metric {
            name: $name, kind: MetricKind::$kind, unit: $unit, help: $help, labels: &[$($label),*], buckets: $buckets,
        };)*

        /// Every metric there is.
        pub const METRICS: &[&Metric] = &[$($constant),*];
    };
}

metrics! {
    CALLS = "idempotency_calls" Counter "1" ["operation", "outcome"] &[],
        "Calls with a key, by what came of the key: claimed, taken_over, replayed, conflict, in_flight, unknown, not_kept, unavailable, refused.";
    REFUSED = "idempotency_refused" Counter "1" ["reason"] &[],
        "Calls that were refused before the store was asked, by the row of the table of refusals.";
    ATTEMPTS = "idempotency_attempts" Counter "1" ["operation", "outcome"] &[],
        "Attempts that ended: completed, not_kept, unknown, released, held, lost, given_up.";
    IN_FLIGHT = "idempotency_attempts_in_flight" Gauge "1" ["operation"] &[],
        "Attempts of this process that have not ended.";
    DEFERRED = "idempotency_attempts_deferred" Gauge "1" ["store"] &[],
        "Attempts that have ended, and whose end the store has not taken yet.";
    ATTEMPT_TIME = "idempotency_attempt_seconds" Histogram "s" ["operation"] SECONDS,
        "From the claim of an attempt to the store's answer to its end.";
    WAIT_TIME = "idempotency_wait_seconds" Histogram "s" ["operation"] SECONDS,
        "How long repeats waited for an attempt in flight.";
    RESULT_SIZE = "idempotency_result_bytes" Histogram "By" ["operation"] BYTES,
        "The size of results when they were stored.";
    STORE_TIME = "idempotency_store_operation_seconds" Histogram "s" ["store", "command"] SECONDS,
        "How long the operations of a store took, failed ones too.";
    STORE_ERRORS = "idempotency_store_errors" Counter "1" ["store", "command", "error"] &[],
        "Operations of a store that failed, by the kind of the error.";
    STORE_DOWN = "idempotency_store_down" Gauge "1" ["store"] &[],
        "Stores of this process that can't be used now.";
    LATE = "idempotency_renewals_late" Counter "1" ["operation"] &[],
        "Leases that were renewed late by more than a tenth of a lease: the process has too much to do, or its store is slow.";
    CLAIMS_LOST = "idempotency_claims_lost" Counter "1" ["operation"] &[],
        "Claims that were found to be another's while their work ran.";
    DROPPED = "idempotency_events_dropped" Counter "1" [] &[],
        "Events that were not counted, because observers were too slow.";
    OLDEST_IN_FLIGHT = "idempotency_oldest_in_flight_seconds" Gauge "s" ["store"] &[],
        "The age of the oldest claim in flight or lapsed; 0 without one. Needs a look at the store now and then.";
    OLDEST_UNKNOWN = "idempotency_oldest_unknown_seconds" Gauge "s" ["store"] &[],
        "The age of the oldest record whose outcome is unknown; 0 without one. Needs a look at the store now and then.";
    LOOKS_FAILED = "idempotency_looks_failed" Counter "1" ["store"] &[],
        "Looks at the store for the oldest records that failed.";
}

/// One change of a metric.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Measure {
    /// Of which metric.
    pub metric: &'static Metric,
    /// What is added to a counter or a gauge; what a histogram counts.
    pub value: f64,
    labels: [&'static str; 3],
}

impl Measure {
    /// The values of its labels, in the order of their names.
    pub fn labels(&self) -> &[&'static str] {
        &self.labels[..self.metric.labels.len()]
    }
}

/// What changes in the metrics because events were dropped ([`dropped`](super::dropped)): those beyond what `told` has,
/// which is brought up to date.
pub fn measure_dropped(told: &AtomicU64) -> Option<Measure> {
    let now = super::dropped();
    let new = now.saturating_sub(told.swap(now, Ordering::Relaxed));
    (new > 0).then_some(Measure { metric: DROPPED, value: new as f64, labels: [""; 3] })
}

impl Event {
    /// What changes in the metrics.
    ///
    /// ```
    /// use idempotency::{Idempotency, events, stores};
    /// use std::sync::mpsc;
    /// use std::time::Duration;
    ///
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
    /// let (told, seen) = mpsc::channel();
    /// let observation = events::observe(move |event: &events::Event| event.measures(|measure| drop(told.send(measure))));
    /// let payments = Idempotency::new(stores::open("memory://")?);
    /// payments.call("measured charge", "order-7")?.run(async |_| Ok::<_, std::io::Error>("receipt".to_owned())).await?;
    /// assert!(events::flush(Duration::from_secs(5)));
    /// drop(observation);
    /// let first = seen.try_iter().find(|measure| measure.labels().first() == Some(&"measured charge"));
    /// let first = first.unwrap();
    /// assert_eq!((first.metric.name, first.labels()[1], first.value), ("idempotency_calls", "claimed", 1.0));
    /// # Ok::<_, Box<dyn std::error::Error>>(()) }).unwrap();
    /// ```
    pub fn measures(&self, mut add: impl FnMut(Measure)) {
        let (operation, store) = (self.operation().map_or("", bounded), self.store);
        let mut of = |metric, labels, value| add(Measure { metric, labels, value });
        if let Some(outcome) = call_outcome(&self.what) {
            of(CALLS, [operation, outcome, ""], 1.0);
        }
        if let Some((outcome, took)) = attempt_outcome(&self.what) {
            of(ATTEMPTS, [operation, outcome, ""], 1.0);
            of(IN_FLIGHT, [operation, "", ""], -1.0);
            if let Some(took) = took {
                of(ATTEMPT_TIME, [operation, "", ""], took.as_secs_f64());
            }
        }
        if self.what.was_deferred() {
            of(DEFERRED, [store, "", ""], -1.0);
        }
        match &self.what {
            What::Claimed { .. } => of(IN_FLIGHT, [operation, "", ""], 1.0),
            What::Refused { row } => of(REFUSED, [row, "", ""], 1.0),
            What::Waited { took } => of(WAIT_TIME, [operation, "", ""], took.as_secs_f64()),
            What::Completed { bytes, .. } => of(RESULT_SIZE, [operation, "", ""], *bytes as f64),
            What::Deferred => of(DEFERRED, [store, "", ""], 1.0),
            What::RenewedLate { .. } => of(LATE, [operation, "", ""], 1.0),
            What::ClaimLost { .. } => of(CLAIMS_LOST, [operation, "", ""], 1.0),
            What::StoreOperation { name, took, error } => {
                of(STORE_TIME, [store, name, ""], took.as_secs_f64());
                if let Some(kind) = error {
                    of(STORE_ERRORS, [store, name, kind.name()], 1.0);
                }
            }
            What::StoreFailed { .. } => of(STORE_DOWN, [store, "", ""], 1.0),
            What::StoreRecovered => of(STORE_DOWN, [store, "", ""], -1.0),
            _ => {}
        }
    }
}

/// What came of a call's key.
fn call_outcome(what: &What) -> Option<&'static str> {
    Some(match what {
        What::Claimed { takes_over: true, .. } => "taken_over",
        What::Claimed { .. }
        | What::Replayed { .. }
        | What::Conflict
        | What::InFlight { .. }
        | What::Unknown
        | What::NotKept
        | What::Unavailable { .. }
        | What::Refused { .. } => what.name(),
        _ => return None,
    })
}

/// How an attempt ended, and how long it took.
fn attempt_outcome(what: &What) -> Option<(&'static str, Option<std::time::Duration>)> {
    Some(match what {
        What::Completed { took, .. } => ("completed", Some(*took)),
        What::CompletedWithoutResult { took, .. } => ("not_kept", Some(*took)),
        What::EndedUnknown { took, .. } => ("unknown", Some(*took)),
        What::Released { took, .. } => ("released", Some(*took)),
        What::Held { took } => ("held", Some(*took)),
        What::Lost { took, .. } => ("lost", Some(*took)),
        What::GivenUp { .. } => ("given_up", None),
        _ => return None,
    })
}

/// How many operations have a label of their own.
const MOST_OPERATIONS: usize = 200;

/// How many operations are remembered with their labels.
const MOST_REMEMBERED: usize = 2_000;

/// The longest label, in bytes. Longer operations are made by clients, and are not remembered.
const LONGEST: usize = 120;

/// The labels that operations have. What is in them is never freed: there are few.
#[derive(Default)]
struct Labels {
    of: HashMap<Box<str>, &'static str>,
    all: HashSet<&'static str>,
}

/// The label of an operation: segments of a path that look like numbers or ids are `{}`. What comes after the first 200
/// labels is `(other)`, and so is what is too long.
fn bounded(operation: &str) -> &'static str {
    static LABELS: PerProcess<Mutex<Labels>> = PerProcess::new();
    let mut labels = LABELS.get().lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = labels.of.get(operation) {
        return known;
    }
    let named = template(operation);
    if named.len() > LONGEST {
        return "(other)";
    }
    let label = match labels.all.get(&*named) {
        Some(known) => known,
        None if labels.all.len() < MOST_OPERATIONS => {
            let label: &'static str = named.leak();
            labels.all.insert(label);
            label
        }
        None => "(other)",
    };
    if labels.of.len() < MOST_REMEMBERED && operation.len() <= LONGEST {
        labels.of.insert(operation.into(), label);
    }
    label
}

fn template(operation: &str) -> String {
    let Some((method, path)) = operation.split_once(" /") else { return operation.to_owned() };
    let mut template = method.to_owned() + " ";
    for segment in path.split('/') {
        template.push('/');
        template.push_str(if is_id(segment) { "{}" } else { segment });
    }
    template
}

/// Whether a segment of a path rather names one of many things. A word may have a number at its end, or a version's.
fn is_id(segment: &str) -> bool {
    let bytes = segment.as_bytes();
    let digits = bytes.iter().filter(|byte| byte.is_ascii_digit()).count();
    let numbers = bytes.chunk_by(|one, next| one.is_ascii_digit() == next.is_ascii_digit());
    let numbers = numbers.filter(|run| run[0].is_ascii_digit()).count();
    let is_version = segment.len() <= 3 && segment.starts_with('v');
    let is_hex = bytes.iter().all(|byte| byte.is_ascii_hexdigit() || *byte == b'-');
    let is_mixed = bytes.iter().any(u8::is_ascii_uppercase) && bytes.iter().any(u8::is_ascii_lowercase);
    let looks_made = digits * 3 >= segment.len() || is_hex || is_mixed || numbers > 1 || segment.len() >= 20;
    digits > 0 && !is_version && looks_made || segment.len() > 32 || segment.contains('%')
}

#[cfg(test)]
mod tests {
    use super::{bounded, template};

    #[test]
    fn a_path_with_ids_is_a_template() {
        for (operation, expected) in [
            ("shop.charge", "shop.charge"),
            ("POST /pay", "POST /pay"),
            ("POST /v1/orders/17/pay", "POST /v1/orders/{}/pay"),
            ("PUT /users/0b3e1f6a-9c5e-4a53-8f0f-6d3f0a1b2c3d", "PUT /users/{}"),
            ("PATCH /carts/5f3cab12de90", "PATCH /carts/{}"),
            ("POST /orders/ord_2931", "POST /orders/{}"),
            ("POST /oauth2/token", "POST /oauth2/token"),
            ("POST /orders/01ARZ3NDEKTSVRRFFQGSFAV", "POST /orders/{}"),
            ("POST /videos/dQw4w9WgXcQ", "POST /videos/{}"),
            ("POST /customers/cus_NffrFeUfNV2Hib/pay", "POST /customers/{}/pay"),
            ("POST /carts/k3j9xyzab", "POST /carts/{}"),
            ("POST /users/ann%40example.org", "POST /users/{}"),
            ("POST /addLineItem", "POST /addLineItem"),
            ("POST /a/eyJhbGciOiJIUzUxMiIsInR5cCI6IkpXVCJ9abcdef", "POST /a/{}"),
        ] {
            assert_eq!(template(operation), expected);
        }
    }

    #[test]
    fn what_clients_make_up_takes_no_memory_and_no_labels_without_end() {
        assert_eq!(bounded(&format!("POST /{}", "a/".repeat(4_000))), "(other)");
        let labels: std::collections::HashSet<_> = ('a'..='z')
            .flat_map(|first| ('a'..='z').map(move |second| bounded(&format!("POST /{first}{second}"))))
            .collect();
        assert!(labels.len() <= super::MOST_OPERATIONS + 1);
        assert!(labels.contains("(other)"));
    }
}
