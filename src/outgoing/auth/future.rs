use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::{Request, Response};
use pin_project_lite::pin_project;
use tower::{BoxError, Service};

use crate::{error::AuthError, sent_or_refused::SentOrRefused};

use super::{
    authenticator::{Obtained, Obtaining},
    proof_of_possession::Learning,
};

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
            // Where the request has a proof, for the nonce of the response.
            learning: Option<Learning>,
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
                learning: None,
            },
        }
    }

    pub(super) fn proven(future: S::Future, learning: Learning) -> Self {
        Self {
            state: State::Decided {
                outcome: SentOrRefused::sent(future),
                learning: Some(learning),
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
                learning: None,
            },
        }
    }
}

impl<S, B, ResBody> Future for AuthFuture<S, B>
where
    S: Service<Request<B>, Response = Response<ResBody>>,
    S::Error: Into<BoxError>,
{
    type Output = Result<S::Response, BoxError>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        if let StateProjection::Decided { outcome, learning } = state.as_mut().project() {
            let polled = outcome.poll(cx);
            if let Some(learning) = learning {
                learn(learning, &polled);
            }
            return polled;
        }
        state.poll_obtaining(cx)
    }
}

impl<S, B, ResBody> State<S, S::Future, B>
where
    S: Service<Request<B>, Response = Response<ResBody>>,
    S::Error: Into<BoxError>,
{
    fn poll_obtaining(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<S::Response, BoxError>> {
        loop {
            let (outcome, learning) = match self.as_mut().project() {
                StateProjection::Obtaining { call } => {
                    match ready!(Pin::new(&mut call.obtaining).poll(cx)) {
                        Ok(Obtained { request, bound }) => {
                            let future = call.inner.call(request);
                            let learning =
                                bound.map(|bound| call.obtaining.proofs().learning(&bound.key));
                            (SentOrRefused::sent(future), learning)
                        }
                        Err(error) => (SentOrRefused::refused(error), None),
                    }
                }
                StateProjection::Decided { outcome, learning } => {
                    let polled = outcome.poll(cx);
                    if let Some(learning) = learning {
                        learn(learning, &polled);
                    }
                    return polled;
                }
            };
            self.set(State::Decided { outcome, learning });
        }
    }
}

#[cold]
fn learn<ResBody>(learning: &Learning, polled: &Poll<Result<Response<ResBody>, BoxError>>) {
    if let Poll::Ready(Ok(response)) = polled {
        learning.learn(response.headers());
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
