//! What happened, counted under short names, and what must not have happened.

use std::{collections::BTreeMap, fmt::Display, sync::Mutex};

const TROUBLES_TOLD: usize = 40;

#[derive(Default)]
pub(crate) struct Ledger {
    counts: Mutex<BTreeMap<String, u64>>,
    troubles: Mutex<Troubles>,
}

#[derive(Default)]
struct Troubles {
    told: Vec<String>,
    count: usize,
}

impl Ledger {
    pub(crate) fn count(&self, what: &str) {
        self.add(what, 1);
    }

    pub(crate) fn add(&self, what: &str, number: u64) {
        let mut counts = self.counts.lock().unwrap();
        match counts.get_mut(what) {
            Some(count) => *count += number,
            None => drop(counts.insert(what.to_owned(), number)),
        }
    }

    pub(crate) fn number(&self, what: &str) -> u64 {
        self.counts.lock().unwrap().get(what).copied().unwrap_or(0)
    }

    /// Says what should not have happened, and goes on.
    pub(crate) fn trouble(&self, what: impl Display) {
        let mut troubles = self.troubles.lock().unwrap();
        troubles.count += 1;
        if troubles.told.len() < TROUBLES_TOLD {
            println!("!!! {what}");
            troubles.told.push(what.to_string());
        }
    }

    pub(crate) fn check(&self, what: &str, left: u64, right: u64) {
        println!(
            "  {} {what}: {left} {} {right}",
            if left == right { "ok " } else { "!!!" },
            if left == right { "=" } else { "is not" }
        );
        if left != right {
            self.trouble(format!("{what}: {left} is not {right}"));
        }
    }

    pub(crate) fn check_at_most(&self, what: &str, left: u64, right: u64) {
        println!(
            "  {} {what}: {left} {} {right}",
            if left <= right { "ok " } else { "!!!" },
            if left <= right { "<=" } else { "is more than" }
        );
        if left > right {
            self.trouble(format!("{what}: {left} is more than {right}"));
        }
    }

    pub(crate) fn troubles(&self) -> usize {
        self.troubles.lock().unwrap().count
    }

    pub(crate) fn table(&self) -> String {
        let counts = self.counts.lock().unwrap();
        let lines = counts
            .iter()
            .map(|(what, count)| format!("  {count:>9}  {what}\n"));
        lines.collect()
    }
}
