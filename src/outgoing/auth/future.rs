use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::Request;
use pin_project_lite::pin_project;
use tower::{BoxError, Service};

use crate::{error::AuthError, sent_or_refused::SentOrRefused};

use super::authenticator::Obtaining;

pin_project! {
    /// The future of [`AuthService`](super::AuthService).
    ///
    /// [`AuthLayer`](crate::AuthLayer) has an example.
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
        Decided {
            #[pin]
            outcome: SentOrRefused<F>,
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
            state: State::Decided {
                outcome: SentOrRefused::sent(future),
            },
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
            state: State::Decided {
                outcome: SentOrRefused::refused(error),
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

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        if let StateProjection::Decided { outcome } = state.as_mut().project() {
            return outcome.poll(cx);
        }
        state.poll_obtaining(cx)
    }
}

impl<S, B> State<S, S::Future, B>
where
    S: Service<Request<B>>,
    S::Error: Into<BoxError>,
{
    fn poll_obtaining(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<S::Response, BoxError>> {
        loop {
            let outcome = match self.as_mut().project() {
                StateProjection::Obtaining { call } => {
                    match ready!(Pin::new(&mut call.obtaining).poll(cx)) {
                        Ok(request) => SentOrRefused::sent(call.inner.call(request)),
                        Err(error) => SentOrRefused::refused(error),
                    }
                }
                StateProjection::Decided { outcome } => return outcome.poll(cx),
            };
            self.set(State::Decided { outcome });
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
