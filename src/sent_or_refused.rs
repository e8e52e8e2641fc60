use std::{
    future,
    pin::Pin,
    task::{Context, Poll},
};

use pin_project_lite::pin_project;
use tower::BoxError;

use crate::error::AuthError;

pin_project! {
    /// The future of a layer that either sends a request or refuses it with the error `R`.
    #[project = SentOrRefusedProjection]
    pub(crate) enum SentOrRefused<F, R = AuthError> {
        Sent {
            #[pin]
            future: F,
        },
        Refused {
            error: future::Ready<R>,
        },
    }
}

impl<F, R> SentOrRefused<F, R> {
    #[inline]
    pub(crate) fn sent(future: F) -> Self {
        Self::Sent { future }
    }

    pub(crate) fn refused(error: R) -> Self {
        Self::Refused {
            error: future::ready(error),
        }
    }

    /// Resolves to what the inner service returned, or to `Err` for a request that was refused.
    #[cfg(any(feature = "incoming", feature = "reqwest"))]
    #[inline]
    pub(crate) fn poll_outcome(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<F::Output, R>>
    where
        F: Future,
    {
        match self.project() {
            SentOrRefusedProjection::Sent { future } => future.poll(cx).map(Ok),
            SentOrRefusedProjection::Refused { error } => Pin::new(error).poll(cx).map(Err),
        }
    }
}

impl<F, T, E> Future for SentOrRefused<F>
where
    F: Future<Output = Result<T, E>>,
    E: Into<BoxError>,
{
    type Output = Result<T, BoxError>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project() {
            SentOrRefusedProjection::Sent { future } => future.poll(cx).map_err(Into::into),
            SentOrRefusedProjection::Refused { error } => poll_refused(error, cx),
        }
    }
}

#[cold]
fn poll_refused<T>(
    error: &mut future::Ready<AuthError>,
    cx: &mut Context<'_>,
) -> Poll<Result<T, BoxError>> {
    Pin::new(error).poll(cx).map(|error| Err(error.into()))
}
