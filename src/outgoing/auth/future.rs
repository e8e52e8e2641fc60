use std::{
    fmt, future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::Request;
use pin_project_lite::pin_project;
use tower::{BoxError, Service};

use crate::{
    error::AuthError,
    origin::Origin,
    strategy::authenticating::PendingRequest,
    telemetry::{AuthenticationSpan, Requests},
};

pin_project! {
    /// The future of [`AuthService`](super::AuthService).
    #[must_use = "futures do nothing unless polled"]
    pub struct AuthFuture<S, B>
    where
        S: Service<Request<B>>,
    {
        #[pin]
        state: State<S, S::Future, B>,
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<S, F, B> {
        // It is boxed so that a request whose credential is known moves less.
        Obtaining {
            obtaining: Box<Obtaining<S, B>>,
        },
        Sent {
            #[pin]
            future: F,
        },
        Refused {
            error: future::Ready<AuthError>,
        },
    }
}

/// A request whose credential is being obtained, and the service that was found ready for it.
pub(super) struct Obtaining<S, B> {
    pub(super) request: PendingRequest<B>,
    pub(super) inner: S,
    pub(super) backend: Origin,
    pub(super) strategy: &'static str,
    pub(super) span: AuthenticationSpan,
    pub(super) requests: Requests,
}

impl<S, B> Obtaining<S, B> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Request<B>, AuthError>> {
        let entered = self.span.enter();
        let polled = self.request.as_mut().poll(cx);
        drop(entered);
        let outcome = ready!(polled);
        self.span.end(&outcome);
        self.requests
            .count(&self.backend, || self.strategy, &outcome);
        Poll::Ready(outcome.map_err(|error| error.with_backend(self.backend.clone())))
    }
}

impl<S, B> AuthFuture<S, B>
where
    S: Service<Request<B>>,
{
    #[inline]
    pub(super) fn sent(future: S::Future) -> Self {
        Self {
            state: State::Sent { future },
        }
    }

    pub(super) fn obtaining(obtaining: Obtaining<S, B>) -> Self {
        Self {
            state: State::Obtaining {
                obtaining: Box::new(obtaining),
            },
        }
    }

    pub(super) fn refused(error: AuthError) -> Self {
        Self {
            state: State::Refused {
                error: future::ready(error),
            },
        }
    }
}

impl<S, B> Future for AuthFuture<S, B>
where
    S: Service<Request<B>>,
    S::Error: Into<BoxError>,
{
    type Output = Result<S::Response, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        loop {
            let next = match state.as_mut().project() {
                StateProjection::Obtaining { obtaining } => match ready!(obtaining.poll(cx)) {
                    Ok(request) => State::Sent {
                        future: obtaining.inner.call(request),
                    },
                    Err(error) => State::Refused {
                        error: future::ready(error),
                    },
                },
                StateProjection::Sent { future } => return future.poll(cx).map_err(Into::into),
                StateProjection::Refused { error } => {
                    return Pin::new(error).poll(cx).map(|error| Err(error.into()));
                }
            };
            state.set(next);
        }
    }
}

impl<S, B> fmt::Debug for AuthFuture<S, B>
where
    S: Service<Request<B>>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthFuture").finish_non_exhaustive()
    }
}
