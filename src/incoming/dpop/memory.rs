use std::{
    collections::{HashMap, hash_map::Entry},
    fmt,
    sync::PoisonError,
    time::Duration,
};

use crate::runtime::Mutex;

use super::forgotten::Forgotten;

/// From this capacity on, the memory has parts, so that requests do not wait for each other.
const LARGE: usize = 4096;
const PARTS: usize = 16;
/// How long a part that is full is not looked through again.
const PAUSE: u64 = 1000;
/// How long a part does not warn again.
const WARNING_PAUSE: u64 = 60_000;

/// The proofs that were accepted, for as long as they would be accepted again. Times are in milliseconds since 1970.
pub(super) struct ProofMemory {
    parts: Vec<Mutex<Part>>,
    capacity: usize,
}

#[derive(Default)]
struct Part {
    /// When each proof says that it was made.
    seen: HashMap<[u8; 16], u64>,
    /// Where the clock was set back, one of these proofs could pass again.
    forgotten: Forgotten,
    swept_at: u64,
    warned_at: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Memorized {
    New,
    Seen,
    /// It may have been seen, like any proof that says that it was made until `last`.
    Unknown {
        last: u64,
        is_to_warn: bool,
    },
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

    /// Notes a proof that was made at `issued_at`, and is accepted for `window` before and after that.
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
        let part = &mut *part;
        let since = now.abs_diff(part.swept_at);
        let is_full = part.seen.len() >= self.capacity;
        if since >= window / 2 || (is_full && since >= PAUSE) {
            part.sweep(now, window, self.capacity);
        }
        let is_full = part.seen.len() >= self.capacity;
        let forgotten = part.forgotten.span_with(issued_at);
        match (part.seen.entry(*id), forgotten) {
            (Entry::Occupied(_), _) => Memorized::Seen,
            (Entry::Vacant(_), Some(last)) => Memorized::Unknown {
                last,
                is_to_warn: part.is_to_warn(now),
            },
            (Entry::Vacant(_), None) if is_full => Memorized::Full,
            (Entry::Vacant(entry), None) => {
                entry.insert(issued_at);
                Memorized::New
            }
        }
    }
}

impl Part {
    /// Forgets what is not accepted any more, and if there is no room, also what is not accepted yet, because the clock was
    /// set back.
    fn sweep(&mut self, now: u64, window: u64, capacity: usize) {
        // Parts of a millisecond were cut off.
        let first = now.saturating_sub(window).saturating_sub(1);
        self.forget_outside(first, u64::MAX);
        if self.seen.len() >= capacity {
            self.forget_outside(first, now.saturating_add(window).saturating_add(1));
        }
        self.swept_at = now;
    }

    fn forget_outside(&mut self, first: u64, last: u64) {
        self.seen.retain(|_, issued_at| {
            let may_pass = (first..=last).contains(issued_at);
            if !may_pass {
                self.forgotten.add(*issued_at);
            }
            may_pass
        });
    }

    #[cold]
    fn is_to_warn(&mut self, now: u64) -> bool {
        let since = self.warned_at.map(|warned_at| now.abs_diff(warned_at));
        let is_to_warn = since.is_none_or(|since| since >= WARNING_PAUSE);
        if is_to_warn {
            self.warned_at = Some(now);
        }
        is_to_warn
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
    use std::collections::BTreeMap;

    use proptest::prelude::*;

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
        for is_to_warn in [true, false] {
            let unknown = Memorized::Unknown {
                last: NOW,
                is_to_warn,
            };
            assert_eq!(memory.note(&id(1), NOW, NOW, WINDOW), unknown);
        }
        for (number, issued_at) in [(3, NOW + 1), (4, NOW - 1)] {
            let noted = memory.note(&id(number), issued_at, NOW, WINDOW);
            assert_eq!(noted, Memorized::New);
        }
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

    /// An event of a memory, with times in seconds.
    #[derive(Clone, Debug)]
    enum Event {
        /// The clock goes on, or is set.
        Clock(i64),
        /// One of the proofs of these minutes is presented, and noted after its validation took so long.
        Presented { which: u64, validation: u64 },
    }

    fn event(steps: impl Strategy<Value = i64>) -> impl Strategy<Value = Event> {
        let presented = (0..7u64, prop_oneof![9 => Just(0), 1 => 0..200u64]);
        prop_oneof![
            1 => steps.prop_map(Event::Clock),
            2 => presented.prop_map(|(which, validation)| Event::Presented { which, validation }),
        ]
    }

    /// A memory of three proofs, where one is made every half minute.
    struct Trial {
        memory: ProofMemory,
        now: u64,
        /// How often, by when the proof was made.
        accepted: BTreeMap<u64, u64>,
    }

    impl Trial {
        fn new() -> Self {
            Self {
                memory: ProofMemory::new(3),
                now: NOW,
                accepted: BTreeMap::new(),
            }
        }

        fn step(&mut self, seconds: i64) {
            self.now = self.now.saturating_add_signed(seconds * 1000);
        }

        /// A proof near the present time: when it was made.
        fn proof(&self, which: u64) -> u64 {
            (self.now / 30_000 + which - 3) * 30_000
        }

        /// `None` if the validator would refuse the proof without asking the memory.
        fn present(&mut self, issued_at: u64, validation: u64) -> Option<Memorized> {
            if self.now.abs_diff(issued_at) > 60_000 {
                return None;
            }
            let now = self.now + validation * 1000;
            let id = id(u32::try_from(issued_at / 30_000).unwrap());
            let noted = self.memory.note(&id, issued_at, now, WINDOW);
            if noted == Memorized::New {
                *self.accepted.entry(issued_at).or_default() += 1;
            }
            Some(noted)
        }
    }

    proptest! {
        #[test]
        fn no_proof_is_accepted_twice_however_the_clock_is_set(
            events in prop::collection::vec(event(prop_oneof![3 => -60..90i64, 1 => -1500..1500i64]), 0..300),
        ) {
            let mut trial = Trial::new();
            for event in events {
                match event {
                    Event::Clock(step) => trial.step(step),
                    Event::Presented { which, validation } => {
                        trial.present(trial.proof(which), validation);
                        prop_assert!(trial.memory.parts[0].lock().unwrap().seen.len() <= 3);
                    }
                }
            }
            prop_assert!(trial.accepted.values().all(|times| *times == 1), "{:?}", trial.accepted);
        }

        #[test]
        fn while_the_clock_only_goes_on_each_use_is_known_and_a_first_one_is_refused_only_where_the_memory_is_full(
            events in prop::collection::vec(event(0..40i64), 0..300),
        ) {
            let mut trial = Trial::new();
            for event in events {
                match event {
                    Event::Clock(step) => trial.step(step),
                    Event::Presented { which, .. } => {
                        let proof = trial.proof(which);
                        let was_accepted = trial.accepted.contains_key(&proof);
                        let kept = trial.accepted.range(trial.now - 60_001..).count();
                        match trial.present(proof, 0) {
                            None => {}
                            Some(Memorized::New) => prop_assert!(!was_accepted && kept < 3),
                            Some(Memorized::Seen) => prop_assert!(was_accepted),
                            Some(Memorized::Full) => prop_assert!(!was_accepted && kept == 3),
                            Some(Memorized::Unknown { .. }) => prop_assert!(false, "{proof}"),
                        }
                    }
                }
            }
        }
    }
}
