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

#[cfg(all(feature = "token-exchange", not(all(test, shuttle))))]
mod on_tokio {
    use std::time::Duration;

    use tokio::{runtime::Handle, time::timeout};
    #[cfg(feature = "incoming")]
    pub(crate) use tokio::{spawn, time::sleep};

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

    #[cfg(feature = "incoming")]
    pub(crate) async fn sleep(_duration: Duration) {
        shuttle::future::yield_now().await;
    }
}
