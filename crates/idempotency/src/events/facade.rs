//! Events as metrics of the [`metrics`](https://docs.rs/metrics) facade, which exporters of every kind listen to.

use std::sync::atomic::AtomicU64;

use ::metrics::{
    Key, Label, Level, Metadata, Unit, describe_counter, describe_gauge, describe_histogram, with_recorder,
};

use super::{Event, METRICS, Measure, MetricKind, Observation, measure_dropped, observe};

/// Hands every event's measures to the recorder of the process, whichever is installed.
///
/// ```
/// use idempotency::{Idempotency, events, stores};
/// ///
/// let metrics = events::to_metrics();
/// // Once the recorder of your exporter is installed it has `idempotency_calls` and the others.
/// drop(metrics); // or .forever()
/// ```
pub fn to_metrics() -> Observation {
    for metric in METRICS {
        let unit = match metric.unit {
            "s" => Unit::Seconds,
            "By" => Unit::Bytes,
            _ => Unit::Count,
        };
        match metric.kind {
            MetricKind::Counter => describe_counter!(metric.name, unit, metric.help),
            MetricKind::Gauge => describe_gauge!(metric.name, unit, metric.help),
            MetricKind::Histogram => describe_histogram!(metric.name, unit, metric.help),
        }
    }
    let told = AtomicU64::new(super::dropped());
    observe(move |event: &Event| {
        event.measures(record);
        measure_dropped(&told).into_iter().for_each(record);
    })
}

fn record(measure: Measure) {
    let Measure { metric, value, .. } = measure;
    let labels = metric.labels.iter().zip(measure.labels()).map(|(name, value)| Label::from_static_parts(name, value));
    let key = Key::from_parts(metric.name, labels.collect::<Vec<_>>());
    let metadata = Metadata::new("idempotency", Level::INFO, Some(module_path!()));
    with_recorder(|recorder| match metric.kind {
        MetricKind::Counter => recorder.register_counter(&key, &metadata).increment(value as u64),
        MetricKind::Gauge => recorder.register_gauge(&key, &metadata).increment(value),
        MetricKind::Histogram => recorder.register_histogram(&key, &metadata).record(value),
    });
}
