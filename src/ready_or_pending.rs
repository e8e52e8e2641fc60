use std::{
    fmt, future,
    pin::Pin,
    task::{Context, Poll},
};

/// The future of an outcome that is often known at once. Then it costs no allocation.
pub(crate) enum ReadyOrPending<F: Future> {
    Ready(future::Ready<F::Output>),
    Pending(F),
}

impl<F: Future> ReadyOrPending<F> {
    pub(crate) fn ready(outcome: F::Output) -> Self {
        Self::Ready(future::ready(outcome))
    }
}

impl<F: Future + Unpin> Future for ReadyOrPending<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.get_mut() {
            Self::Ready(outcome) => Pin::new(outcome).poll(cx),
            Self::Pending(future) => Pin::new(future).poll(cx),
        }
    }
}

impl<F: Future> fmt::Debug for ReadyOrPending<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ready(_) => "ready",
            Self::Pending(_) => "pending",
        })
    }
}
