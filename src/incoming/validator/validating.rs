use std::{
    fmt, future,
    pin::Pin,
    task::{Context, Poll},
};

use crate::{error::AuthError, identity::Identity, oauth::http_client::BoxFuture};

/// The future of [`TokenValidator::validate`](super::TokenValidator::validate).
#[must_use = "futures do nothing unless polled"]
pub struct Validating {
    state: State,
}

enum State {
    Ready(future::Ready<Result<Identity, AuthError>>),
    Pending(PendingValidation),
}

pub(in crate::incoming) type PendingValidation = BoxFuture<Result<Identity, AuthError>>;

impl Validating {
    pub(super) fn ready(outcome: Result<Identity, AuthError>) -> Self {
        Self {
            state: State::Ready(future::ready(outcome)),
        }
    }

    pub(super) fn pending(
        outcome: impl Future<Output = Result<Identity, AuthError>> + Send + 'static,
    ) -> Self {
        Self {
            state: State::Pending(Box::pin(outcome)),
        }
    }

    pub(in crate::incoming) fn into_ready(
        self,
    ) -> Result<Result<Identity, AuthError>, PendingValidation> {
        match self.state {
            State::Ready(outcome) => Ok(outcome.into_inner()),
            State::Pending(outcome) => Err(outcome),
        }
    }
}

impl Future for Validating {
    type Output = Result<Identity, AuthError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.state {
            State::Ready(outcome) => Pin::new(outcome).poll(cx),
            State::Pending(outcome) => outcome.as_mut().poll(cx),
        }
    }
}

impl fmt::Debug for Validating {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &self.state {
            State::Ready(_) => "ready",
            State::Pending(_) => "pending",
        };
        write!(f, "Validating({state})")
    }
}
