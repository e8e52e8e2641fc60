use std::{
    collections::{HashMap, hash_map::Entry},
    fmt,
    sync::PoisonError,
    time::Duration,
};

use crate::runtime::Mutex;

/// From this capacity on, the memory has parts, so that requests do not wait for each other.
const LARGE: usize = 4096;
const PARTS: usize = 16;
/// How long a part that is full is not looked through again.
const PAUSE: u64 = 1000;

/// The proofs that were accepted, for as long as they would be accepted again. Times are in milliseconds since 1970.
pub(super) struct ProofMemory {
    parts: Vec<Mutex<Part>>,
    capacity: usize,
}

#[derive(Default)]
struct Part {
    /// When each proof says that it was made.
    seen: HashMap<[u8; 16], u64>,
    /// The newest of the proofs that were forgotten. Where the clock was set back, one of them could pass again.
    forgotten: u64,
    swept_at: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Memorized {
    New,
    /// It was seen, or may have been.
    Seen,
    Full,
}

impl ProofMemory {
    pub(super) fn new(capacity: usize) -> Self {
        let parts = if capacity < LARGE { 1 } else { PARTS };
        Self {
            parts: std::iter::repeat_with(Mutex::default).take(parts).collect(),
            // In parts it may be full a little sooner, as they do not fill evenly.
            capacity: capacity / parts,
        }
    }

    /// Notes a proof that was made at `issued_at`, and is accepted for `window` after that.
    pub(super) fn note(
        &self,
        id: &[u8; 32],
        issued_at: u64,
        now: u64,
        window: Duration,
    ) -> Memorized {
        // Half of a SHA-256 sum: nobody finds another proof with the same one.
        let Some((id, rest)) = id.split_first_chunk::<16>() else {
            return Memorized::Full;
        };
        let choice = usize::from(rest.first().copied().unwrap_or_default());
        let Some(part) = self.parts.get(choice % self.parts.len().max(1)) else {
            return Memorized::Full;
        };
        let window = u64::try_from(window.as_millis()).unwrap_or(u64::MAX);
        let mut part = part.lock().unwrap_or_else(PoisonError::into_inner);
        let since = now.abs_diff(part.swept_at);
        let is_full = part.seen.len() >= self.capacity;
        if since >= window / 2 || (is_full && since >= PAUSE) {
            part.sweep(now, window);
        }
        if issued_at <= part.forgotten {
            return Memorized::Seen;
        }
        let is_full = part.seen.len() >= self.capacity;
        match part.seen.entry(*id) {
            Entry::Occupied(_) => Memorized::Seen,
            Entry::Vacant(_) if is_full => Memorized::Full,
            Entry::Vacant(entry) => {
                entry.insert(issued_at);
                Memorized::New
            }
        }
    }
}

impl Part {
    /// Forgets what is not accepted any more.
    fn sweep(&mut self, now: u64, window: u64) {
        let mut forgotten = self.forgotten;
        self.seen.retain(|_, issued_at| {
            // Parts of a millisecond were cut off.
            let may_pass = issued_at.saturating_add(window).saturating_add(1) >= now;
            if !may_pass {
                forgotten = forgotten.max(*issued_at);
            }
            may_pass
        });
        self.forgotten = forgotten;
        self.swept_at = now;
    }
}

impl fmt::Debug for ProofMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProofMemory")
            .field("capacity", &(self.capacity * self.parts.len()))
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_secs(60);
    const NOW: u64 = 1_700_000_000_000;

    fn id(number: u32) -> [u8; 32] {
        use sha2::{Digest, Sha256};

        Sha256::digest(number.to_be_bytes()).into()
    }

    #[test]
    fn a_proof_is_remembered_for_as_long_as_it_would_pass() {
        let memory = ProofMemory::new(100);
        // Made by a clock that is ahead.
        let issued_at = NOW + 60_000;
        assert_eq!(memory.note(&id(1), issued_at, NOW, WINDOW), Memorized::New);
        for later in [0, 1, 59_999, 60_000, 119_999, 120_000] {
            let now = NOW + later;
            let noted = memory.note(&id(1), issued_at, now, WINDOW);
            assert_eq!(noted, Memorized::Seen, "{later}");
        }
    }

    #[test]
    fn a_proof_that_was_forgotten_does_not_pass_when_the_clock_is_set_back() {
        let memory = ProofMemory::new(100);
        assert_eq!(memory.note(&id(1), NOW, NOW, WINDOW), Memorized::New);
        let later = NOW + 3_600_000;
        assert_eq!(memory.note(&id(2), later, later, WINDOW), Memorized::New);
        assert_eq!(memory.note(&id(1), NOW, NOW, WINDOW), Memorized::Seen);
        assert_eq!(memory.note(&id(3), NOW + 1, NOW, WINDOW), Memorized::New);
    }

    #[test]
    fn a_new_proof_of_a_slow_clock_passes_although_older_ones_were_looked_through() {
        let memory = ProofMemory::new(100);
        assert_eq!(memory.note(&id(1), NOW, NOW, WINDOW), Memorized::New);
        let (slow, now) = (NOW - 19_000, NOW + 40_000);
        assert_eq!(memory.note(&id(2), slow, now, WINDOW), Memorized::New);
    }

    #[test]
    fn the_memory_never_holds_more_than_it_may_and_nothing_is_pushed_out() {
        for capacity in [1, 10, 5000] {
            let memory = ProofMemory::new(capacity);
            let mut kept = Vec::new();
            for number in 0..20_000 {
                if memory.note(&id(number), NOW, NOW, WINDOW) == Memorized::New {
                    kept.push(number);
                }
            }
            assert!(kept.len() <= capacity, "{}", kept.len());
            assert!(kept.len() * 10 >= capacity * 9, "{}", kept.len());
            for number in kept {
                let noted = memory.note(&id(number), NOW, NOW, WINDOW);
                assert_eq!(noted, Memorized::Seen);
            }
            let later = NOW + 61_000;
            assert_eq!(memory.note(&id(0), later, later, WINDOW), Memorized::New);
        }
    }
}
