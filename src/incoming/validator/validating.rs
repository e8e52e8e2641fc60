use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use crate::{
    error::AuthError, identity::Identity, oauth::http_client::BoxFuture,
    ready_or_pending::ReadyOrPending,
};

/// The future of [`TokenValidator::validate`](crate::TokenValidator::validate).
///
/// Needs the feature `incoming`.
///
/// [`TokenValidator`](crate::TokenValidator) has an example.
#[must_use = "futures do nothing unless polled"]
pub struct Validating {
    outcome: ReadyOrPending<PendingValidation>,
}

pub(in crate::incoming) type PendingValidation = BoxFuture<Result<Identity, AuthError>>;

impl Validating {
    pub(super) fn ready(outcome: Result<Identity, AuthError>) -> Self {
        Self {
            outcome: ReadyOrPending::ready(outcome),
        }
    }

    pub(super) fn pending(
        outcome: impl Future<Output = Result<Identity, AuthError>> + Send + 'static,
    ) -> Self {
        Self {
            outcome: ReadyOrPending::Pending(Box::pin(outcome)),
        }
    }

    pub(in crate::incoming) fn into_ready(
        self,
    ) -> Result<Result<Identity, AuthError>, PendingValidation> {
        match self.outcome {
            ReadyOrPending::Ready(outcome) => Ok(outcome.into_inner()),
            ReadyOrPending::Pending(outcome) => Err(outcome),
        }
    }
}

impl Future for Validating {
    type Output = Result<Identity, AuthError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.outcome).poll(cx)
    }
}

impl fmt::Debug for Validating {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Validating({:?})", self.outcome)
    }
}
