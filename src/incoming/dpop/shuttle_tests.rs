//! The memory of proofs, under shuttle's schedulers.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, UNIX_EPOCH},
};

use shuttle::{
    rand::{Rng, thread_rng},
    thread,
};

use crate::{
    clock::Clock,
    shuttle_tests::{SwitchingClock, check, check_stack},
};

use super::memory::{Memorized, ProofMemory};

const WINDOW: Duration = Duration::from_secs(60);
/// So many proofs, one made each minute.
const PROOFS: u64 = 4;

/// A memory that is too small for all proofs, and the clock of its validators.
struct Gateway {
    memory: ProofMemory,
    clock: SwitchingClock,
    accepted: [AtomicUsize; PROOFS as usize],
}

impl Gateway {
    fn now(&self) -> u64 {
        let since_1970 = self.clock.now().duration_since(UNIX_EPOCH);
        u64::try_from(since_1970.unwrap().as_millis()).unwrap()
    }

    /// As a validator does: the proof is checked first, and noted after its token was.
    fn present(&self, proof: u64) {
        let issued_at = (proof + 1) * 60_000;
        if self.now().abs_diff(issued_at) > 60_000 {
            return;
        }
        let id = [u8::try_from(proof).unwrap(); 32];
        let noted = self.memory.note(&id, issued_at, self.now(), WINDOW);
        if noted == Memorized::New {
            self.accepted[usize::try_from(proof).unwrap()].fetch_add(1, SeqCst);
        }
    }
}

#[test]
fn no_interleaving_with_steps_of_the_clock_has_a_proof_accepted_twice() {
    check_stack(|| {
        let gateway = Arc::new(Gateway {
            memory: ProofMemory::new(2),
            clock: SwitchingClock::default(),
            accepted: Default::default(),
        });
        let clock = thread::spawn({
            let gateway = Arc::clone(&gateway);
            move || {
                for _ in 0..4 {
                    let seconds = thread_rng().gen_range(0..400);
                    gateway.clock.set(UNIX_EPOCH + Duration::from_secs(seconds));
                    thread::yield_now();
                }
            }
        });
        let callers: Vec<_> = (0..3)
            .map(|_| {
                let gateway = Arc::clone(&gateway);
                thread::spawn(move || {
                    for _ in 0..2 {
                        for proof in 0..PROOFS {
                            gateway.present(proof);
                        }
                    }
                })
            })
            .collect();
        for thread in callers.into_iter().chain([clock]) {
            thread.join().unwrap();
        }
        for accepted in &gateway.accepted {
            assert!(accepted.load(SeqCst) <= 1, "a proof was accepted twice");
        }
    });
}

#[test]
fn of_callers_with_the_same_proof_one_is_accepted_and_the_others_are_told_that_it_was_used() {
    check(|| {
        let memory = Arc::new(ProofMemory::new(2));
        let callers: Vec<_> = (0..3)
            .map(|_| {
                let memory = Arc::clone(&memory);
                thread::spawn(move || memory.note(&[1; 32], 60_000, 60_000, WINDOW))
            })
            .collect();
        let noted = callers.into_iter().map(|caller| caller.join().unwrap());
        let (new, other): (Vec<_>, Vec<_>) = noted.partition(|noted| *noted == Memorized::New);
        assert_eq!((new.len(), other), (1, vec![Memorized::Seen; 2]));
    });
}
