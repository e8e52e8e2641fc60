//! Tests of the state that requests share, under shuttle's schedulers. Tests of private parts are beside those parts.
//!
//! `RUSTFLAGS="--cfg shuttle" cargo test --all-features --lib shuttle_tests`

mod fallback;
#[cfg(feature = "token-exchange")]
mod rejections;

use std::{
    future::poll_fn,
    ops::Deref,
    pin::Pin,
    sync::atomic::Ordering::SeqCst,
    task::Poll,
    time::{Instant, SystemTime},
};

use shuttle::{
    Config, Runner,
    scheduler::{PctScheduler, RandomScheduler},
    sync::atomic::AtomicBool,
};

use crate::{
    clock::{Clock, ManualClock},
    identity::Identity,
};

const ITERATIONS: usize = 10_000;
const ITERATIONS_OF_A_STACK: usize = 2_000;
const PREEMPTIONS: usize = 3;

/// In bytes. A whole stack of layers, unoptimized, overflows shuttle's own 32 KiB.
const STACK_SIZE: usize = 512 * 1024;

pub(crate) fn check(test: impl Fn() + Send + Sync + Clone + 'static) {
    check_iterations(ITERATIONS, test);
}

/// Fewer iterations, for a test that takes ten times as long as that of a part alone.
pub(crate) fn check_stack(test: impl Fn() + Send + Sync + Clone + 'static) {
    check_iterations(ITERATIONS_OF_A_STACK, test);
}

fn check_iterations(iterations: usize, test: impl Fn() + Send + Sync + Clone + 'static) {
    let mut config = Config::new();
    config.stack_size = STACK_SIZE;
    Runner::new(RandomScheduler::new(iterations), config.clone()).run(test.clone());
    Runner::new(PctScheduler::new(PREEMPTIONS, iterations), config).run(test);
}

pub(crate) fn identity(subject: &str) -> Identity {
    Identity::builder(subject)
        .issuer("https://idp.example.com")
        .build()
        .unwrap()
}

/// Where the scheduler may switch, though nothing of shuttle's is used there.
pub(crate) fn switch() {
    AtomicBool::new(false).load(SeqCst);
}

/// The caches are none of shuttle's: the scheduler switches where time is read, around them.
#[derive(Debug)]
pub(crate) struct SwitchingClock(ManualClock);

impl Default for SwitchingClock {
    fn default() -> Self {
        Self(ManualClock::new(SystemTime::UNIX_EPOCH))
    }
}

impl Clock for SwitchingClock {
    fn now(&self) -> SystemTime {
        switch();
        self.0.now()
    }

    fn monotonic(&self) -> Instant {
        self.0.monotonic()
    }
}

impl Deref for SwitchingClock {
    type Target = ManualClock;

    fn deref(&self) -> &ManualClock {
        &self.0
    }
}

/// Gives up when `future` was polled that many times and is not done.
pub(crate) async fn poll_at_most<F: Future + Unpin>(
    times: usize,
    mut future: F,
) -> Option<F::Output> {
    let mut left = times;
    poll_fn(|context| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        if left == 0 {
            context.waker().wake_by_ref();
        }
        Pin::new(&mut future).poll(context).map(Some)
    })
    .await
}
