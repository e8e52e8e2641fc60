//! The resident memory of this process, as Linux tells it.

use std::fs;

/// In KiB. `None` where there is no `/proc`.
pub(crate) fn resident() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// The median of the samples between two fractions of the run.
pub(crate) fn median(samples: &[u64], from: f64, to: f64) -> u64 {
    let at = |fraction: f64| (samples.len() as f64 * fraction) as usize;
    let mut part = samples[at(from)..at(to)].to_vec();
    part.sort_unstable();
    part[part.len() / 2]
}
