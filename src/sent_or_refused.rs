//! What the layers share that send a request as it is, or refuse it.

use std::{
    future,
    pin::Pin,
    task::{Context, Poll},
};

use pin_project_lite::pin_project;
use tower::BoxError;

use crate::error::AuthError;

pin_project! {
    /// The answer to a request that was sent, or the error of one that was refused.
    #[project = SentOrRefusedProjection]
    pub(crate) enum SentOrRefused<F> {
        Sent {
            #[pin]
            future: F,
        },
        Refused {
            error: future::Ready<AuthError>,
        },
    }
}

impl<F> SentOrRefused<F> {
    pub(crate) fn sent(future: F) -> Self {
        Self::Sent { future }
    }

    pub(crate) fn refused(error: AuthError) -> Self {
        Self::Refused {
            error: future::ready(error),
        }
    }
}

impl<F, T, E> Future for SentOrRefused<F>
where
    F: Future<Output = Result<T, E>>,
    E: Into<BoxError>,
{
    type Output = Result<T, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project() {
            SentOrRefusedProjection::Sent { future } => future.poll(cx).map_err(Into::into),
            SentOrRefusedProjection::Refused { error } => {
                Pin::new(error).poll(cx).map(|error| Err(error.into()))
            }
        }
    }
}
