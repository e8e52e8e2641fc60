//! Locks, tasks and timers: std's and Tokio's, or under `--cfg shuttle` those of shuttle's scheduler.

#[cfg(not(all(test, shuttle)))]
pub(crate) use std::sync::Mutex;
#[cfg(all(feature = "token-exchange", not(all(test, shuttle))))]
pub(crate) use std::sync::MutexGuard;

#[cfg(all(test, shuttle))]
pub(crate) use shuttle::sync::Mutex;
#[cfg(all(feature = "token-exchange", test, shuttle))]
pub(crate) use shuttle::sync::MutexGuard;

#[cfg(all(feature = "token-exchange", not(all(test, shuttle))))]
pub(crate) use on_tokio::*;

#[cfg(all(feature = "token-exchange", test, shuttle))]
pub(crate) use on_shuttle::*;

/// Why foreign work has no outcome.
#[cfg(feature = "token-exchange")]
#[cfg_attr(
    all(test, shuttle),
    allow(
        dead_code,
        reason = "shuttle reports panics itself, and time does not pass"
    )
)]
pub(crate) enum Unfinished {
    Panicked,
    Late,
}

#[cfg(all(feature = "token-exchange", not(all(test, shuttle))))]
mod on_tokio {
    use std::time::Duration;

    use tokio::{
        runtime::Handle,
        task::{JoinHandle, spawn_blocking},
        time::timeout,
    };
    #[cfg(feature = "incoming")]
    pub(crate) use tokio::{spawn, time::sleep};

    use super::Unfinished;

    pub(crate) struct Runtime(Handle);

    impl Runtime {
        pub(crate) fn current() -> Option<Self> {
            Handle::try_current().ok().map(Self)
        }

        pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
            self.0.spawn(task);
        }
    }

    /// Returns a number from 0 to 1, for jitter.
    pub(crate) fn random() -> f64 {
        fastrand::f64()
    }

    pub(crate) async fn within<T>(limit: Duration, future: impl Future<Output = T>) -> Option<T> {
        timeout(limit, future).await.ok()
    }

    /// Runs the future as a task, so that neither a panic nor a call that does not return reaches the caller.
    pub(crate) async fn bounded<T: Send + 'static>(
        limit: Duration,
        future: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, Unfinished> {
        let mut task = AbortOnDrop(tokio::spawn(future));
        match timeout(limit, &mut task.0).await {
            Ok(Ok(outcome)) => Ok(outcome),
            Ok(Err(_)) => Err(Unfinished::Panicked),
            Err(_) => Err(Unfinished::Late),
        }
    }

    struct AbortOnDrop<T>(JoinHandle<T>);

    impl<T> Drop for AbortOnDrop<T> {
        fn drop(&mut self) {
            self.0.abort();
        }
    }

    /// Runs `work` where it may block. Returns `None` if it panics.
    pub(crate) fn blocking<T: Send + 'static>(
        work: impl FnOnce() -> T + Send + 'static,
    ) -> impl Future<Output = Option<T>> + Send + 'static {
        let task = spawn_blocking(work);
        async { task.await.ok() }
    }
}

/// Under shuttle, time does not pass. A timeout is never reached, and a sleep only yields to other tasks.
#[cfg(all(feature = "token-exchange", test, shuttle))]
mod on_shuttle {
    use std::time::Duration;

    #[cfg(feature = "incoming")]
    pub(crate) use shuttle::future::spawn;

    pub(crate) struct Runtime;

    impl Runtime {
        pub(crate) fn current() -> Option<Self> {
            Some(Self)
        }

        pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
            shuttle::future::spawn(task);
        }
    }

    /// Returns no jitter, but lets the scheduler switch tasks.
    pub(crate) fn random() -> f64 {
        crate::shuttle_tests::switch();
        0.0
    }

    pub(crate) async fn within<T>(_limit: Duration, future: impl Future<Output = T>) -> Option<T> {
        Some(future.await)
    }

    pub(crate) async fn bounded<T>(
        _limit: Duration,
        future: impl Future<Output = T>,
    ) -> Result<T, super::Unfinished> {
        Ok(future.await)
    }

    pub(crate) fn blocking<T: Send + 'static>(
        work: impl FnOnce() -> T + Send + 'static,
    ) -> impl Future<Output = Option<T>> + Send + 'static {
        async { Some(work()) }
    }

    #[cfg(feature = "incoming")]
    pub(crate) async fn sleep(_duration: Duration) {
        shuttle::future::yield_now().await;
    }
}
