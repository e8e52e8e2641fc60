//! A recorder of metrics that keeps sums alone, and knows what was counted while a strategy was asked.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use metrics::{
    Counter, CounterFn, Gauge, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder,
    SharedString, Unit,
};

tokio::task_local! {
    /// Set while a request is in an `AuthService`.
    pub(crate) static IN_STRATEGY: ();
}

#[derive(Clone, Default)]
pub(crate) struct Sums {
    series: Arc<Mutex<BTreeMap<String, Arc<Sum>>>>,
}

#[derive(Default)]
struct Sum {
    in_strategy: AtomicU64,
    elsewhere: AtomicU64,
}

impl Sums {
    /// What was counted in the series that has all of these in its name and labels.
    pub(crate) fn of(&self, parts: &[&str]) -> u64 {
        self.in_strategies(parts) + self.sum(parts, |sum| &sum.elsewhere)
    }

    /// As [`of`](Self::of), while a strategy was asked.
    pub(crate) fn in_strategies(&self, parts: &[&str]) -> u64 {
        self.sum(parts, |sum| &sum.in_strategy)
    }

    fn sum(&self, parts: &[&str], side: fn(&Sum) -> &AtomicU64) -> u64 {
        let series = self.series.lock().unwrap();
        let named = series
            .iter()
            .filter(|(name, _)| parts.iter().all(|part| name.contains(part)));
        named.map(|(_, sum)| side(sum).load(Relaxed)).sum()
    }

    fn series(&self, key: &Key) -> Arc<Sum> {
        let mut name = format!("{}{{", key.name());
        for label in key.labels() {
            name.push_str(&format!("{}={};", label.key(), label.value()));
        }
        let mut series = self.series.lock().unwrap();
        Arc::clone(series.entry(name).or_default())
    }
}

impl Recorder for Sums {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.series(key))
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::from_arc(self.series(key))
    }
}

impl CounterFn for Sum {
    fn increment(&self, value: u64) {
        let side = match IN_STRATEGY.try_with(|()| ()) {
            Ok(()) => &self.in_strategy,
            Err(_) => &self.elsewhere,
        };
        side.fetch_add(value, Relaxed);
    }

    fn absolute(&self, _: u64) {}
}

impl HistogramFn for Sum {
    fn record(&self, _: f64) {
        self.increment(1);
    }
}
