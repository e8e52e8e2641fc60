use std::{
    fmt, future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::Request;
use pin_project_lite::pin_project;
use tower::{BoxError, Service};

use crate::error::AuthError;

use super::authenticator::Obtaining;

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
            call: Box<Waiting<S, B>>,
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
struct Waiting<S, B> {
    obtaining: Obtaining<B>,
    inner: S,
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

    pub(super) fn obtaining(obtaining: Obtaining<B>, inner: S) -> Self {
        Self {
            state: State::Obtaining {
                call: Box::new(Waiting { obtaining, inner }),
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
                StateProjection::Obtaining { call } => {
                    match ready!(Pin::new(&mut call.obtaining).poll(cx)) {
                        Ok(request) => State::Sent {
                            future: call.inner.call(request),
                        },
                        Err(error) => State::Refused {
                            error: future::ready(error),
                        },
                    }
                }
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
