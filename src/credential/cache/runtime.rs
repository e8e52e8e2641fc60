//! What the flights need of a runtime: Tokio, or shuttle's scheduler under `--cfg shuttle`.

#[cfg(not(all(test, shuttle)))]
pub(super) use {std::sync::Mutex, tokio_runtime::Runtime};

#[cfg(all(test, shuttle))]
pub(super) use {shuttle::sync::Mutex, shuttle_runtime::Runtime};

#[cfg(not(all(test, shuttle)))]
mod tokio_runtime {
    use std::time::Duration;

    use tokio::{runtime::Handle, time::timeout};

    pub(in super::super) struct Runtime(Handle);

    impl Runtime {
        pub(in super::super) fn current() -> Option<Self> {
            Handle::try_current().ok().map(Self)
        }

        pub(in super::super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
            self.0.spawn(task);
        }

        pub(in super::super) async fn within<T>(
            limit: Duration,
            future: impl Future<Output = T>,
        ) -> Option<T> {
            timeout(limit, future).await.ok()
        }
    }
}

#[cfg(all(test, shuttle))]
mod shuttle_runtime {
    use std::time::Duration;

    pub(in super::super) struct Runtime;

    impl Runtime {
        pub(in super::super) fn current() -> Option<Self> {
            Some(Self)
        }

        pub(in super::super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
            shuttle::future::spawn(task);
        }

        pub(in super::super) async fn within<T>(
            _limit: Duration,
            future: impl Future<Output = T>,
        ) -> Option<T> {
            Some(future.await)
        }
    }
}
