use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use crate::{error::AuthError, ready_or_pending::ReadyOrPending};

/// The future of [`CredentialCache::obtain`](crate::CredentialCache::obtain) and
/// [`CredentialCache::replace`](crate::CredentialCache::replace).
///
/// Needs the feature `token-exchange`.
///
/// Dropping it does not cancel the fetch: the credential is still obtained and cached.
///
/// [`CredentialCache`](crate::CredentialCache) has an example.
#[must_use = "futures do nothing unless polled"]
pub struct Obtaining<C> {
    outcome: ReadyOrPending<BoxedAnswer<C>>,
}

type BoxedAnswer<C> = Pin<Box<dyn Future<Output = Result<C, AuthError>> + Send>>;

impl<C> Obtaining<C> {
    pub(super) fn ready(outcome: Result<C, AuthError>) -> Self {
        Self {
            outcome: ReadyOrPending::ready(outcome),
        }
    }

    pub(super) fn pending(
        answer: impl Future<Output = Result<C, AuthError>> + Send + 'static,
    ) -> Self {
        Self {
            outcome: ReadyOrPending::Pending(Box::pin(answer)),
        }
    }
}

impl<C> Future for Obtaining<C> {
    type Output = Result<C, AuthError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.outcome).poll(cx)
    }
}

impl<C> fmt::Debug for Obtaining<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Obtaining({:?})", self.outcome)
    }
}
