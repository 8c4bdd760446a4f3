//! [`Totals`]: metrics, added up in Rust until Python takes them. A call costs no Python for it.

use std::collections::HashMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use foldhash::fast::RandomState;
use idempotency::events::{self, METRICS, Measure, Metric, MetricKind, Observation, measure_dropped};
use idempotency::process::PerProcess;
use pyo3::prelude::*;
use pyo3::types::{PyList, PyTuple};

/// What is known of a metric with certain labels.
enum Total {
    Sum(f64),
    /// How many values each bucket got, the last one those beyond all bounds; and their sum.
    Sizes(Vec<u64>, f64),
}

/// Where a metric and its labels stand in memory: all are static, and text is slow to hash. Labels that stand in two places
/// are two rows, and add up all the same.
type Place = (usize, [(usize, usize); 3]);

type Sums = HashMap<Place, (Measure, Total), RandomState>;

fn place(measure: &Measure) -> Place {
    let mut labels = [(0, 0); 3];
    for (at, label) in labels.iter_mut().zip(measure.labels()) {
        *at = (label.as_ptr().addr(), label.len());
    }
    (std::ptr::from_ref(measure.metric).addr(), labels)
}

/// What has not been taken yet; a forked child begins anew.
struct Adding(&'static PerProcess<Mutex<Sums>>);

impl Adding {
    fn sums(&self) -> MutexGuard<'_, Sums> {
        self.0.get().lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Adds what changes.
fn add(sums: &mut Sums, measure: Measure) {
    let metric = measure.metric;
    let new = || match metric.kind {
        MetricKind::Histogram => Total::Sizes(vec![0; metric.buckets.len() + 1], 0.0),
        _ => Total::Sum(0.0),
    };
    let (_, total) = sums.entry(place(&measure)).or_insert_with(|| (measure, new()));
    match total {
        Total::Sum(sum) => *sum += measure.value,
        Total::Sizes(counts, sum) => {
            counts[metric.buckets.partition_point(|bound| *bound < measure.value)] += 1;
            *sum += measure.value;
        }
    }
}

/// Metrics that are added up from now on, in this process and in its children.
#[pyclass(frozen, module = "pyidempotent._native")]
pub struct Totals {
    adding: Arc<Adding>,
    dropped: AtomicU64,
    observation: Mutex<Option<Observation>>,
}

#[pymethods]
impl Totals {
    #[new]
    fn new() -> Self {
        // There are few of them: one for each library that takes metrics.
        let adding = Arc::new(Adding(Box::leak(Box::new(PerProcess::new()))));
        let told = adding.clone();
        let observation = events::observe(move |event: &events::Event| {
            let mut sums = told.sums();
            event.measures(|measure| add(&mut sums, measure));
        });
        Self { adding, dropped: AtomicU64::new(events::dropped()), observation: Mutex::new(Some(observation)) }
    }

    /// What has changed since the last time: the metric's name, the values of its labels, and what is to be added; for a
    /// histogram how many values each bucket got, and their sum.
    fn take<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let mut sums = self.adding.sums();
        measure_dropped(&self.dropped).into_iter().for_each(|measure| add(&mut sums, measure));
        let taken = std::mem::take(&mut *sums);
        drop(sums);
        let rows = PyList::empty(py);
        for (measure, total) in taken.into_values() {
            let (name, labels) = (measure.metric.name, PyTuple::new(py, measure.labels())?);
            match total {
                Total::Sum(sum) => rows.append((name, labels, sum))?,
                Total::Sizes(counts, sum) => rows.append((name, labels, (counts, sum)))?,
            }
        }
        Ok(rows)
    }

    fn stop(&self) {
        self.observation.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

/// Every metric: its name, kind, unit, words, labels and bounds.
#[pyfunction]
pub fn metrics(py: Python<'_>) -> PyResult<Bound<'_, PyList>> {
    let kind = |kind| match kind {
        MetricKind::Counter => "counter",
        MetricKind::Gauge => "gauge",
        _ => "histogram",
    };
    let row = |metric: &&'static Metric| {
        let Metric { name, unit, help, labels, buckets, .. } = **metric;
        (name, kind(metric.kind), unit, help, labels.to_vec(), buckets.to_vec())
    };
    PyList::new(py, METRICS.iter().map(row))
}
