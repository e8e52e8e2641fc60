use std::{
    fmt, future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::{Request, Response};
use pin_project_lite::pin_project;
use tower::{BoxError, Service};

use crate::{error::AuthError, strategy::strategy::Strategy};

use super::{
    authenticator::{Authentication, Authenticator, Obtaining},
    layer::AuthService,
};

/// An [`AuthLayer`](crate::AuthLayer) that sends a request once more when its credential is rejected.
///
/// `B` is the body of the requests.
pub struct RetryRejected<B> {
    clone_body: fn(&B) -> Option<B>,
}

impl<B> RetryRejected<B> {
    pub(super) fn new(clone_body: fn(&B) -> Option<B>) -> Self {
        Self { clone_body }
    }

    fn clone_request(&self, request: &Request<B>) -> Option<Request<B>> {
        let mut clone = Request::new((self.clone_body)(request.body())?);
        *clone.method_mut() = request.method().clone();
        *clone.uri_mut() = request.uri().clone();
        *clone.version_mut() = request.version();
        *clone.headers_mut() = request.headers().clone();
        *clone.extensions_mut() = request.extensions().clone();
        Some(clone)
    }
}

impl<B> Clone for RetryRejected<B> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<B> Copy for RetryRejected<B> {}

impl<B> fmt::Debug for RetryRejected<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RetryRejected").finish_non_exhaustive()
    }
}

impl<S, A, B, ResBody> Service<Request<B>> for AuthService<S, A, RetryRejected<B>>
where
    S: Service<Request<B>, Response = Response<ResBody>> + Clone,
    S::Error: Into<BoxError>,
    A: Strategy<B> + Clone,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = RetryFuture<S, A, B>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let authentication = self.authenticator.authenticate(&mut request);
        if matches!(authentication, Authentication::Refused(_)) {
            self.give_readiness_back();
        }
        let mut calls = Calls {
            inner: self.take_ready(),
            authenticator: self.authenticator.clone(),
            retry: Some(self.retry),
            sent: None,
        };
        let state = match authentication {
            Authentication::Done => State::Sent {
                future: calls.send(request),
            },
            other => State::of(other, request),
        };
        RetryFuture { calls, state }
    }
}

pin_project! {
    /// The future of [`AuthService`](super::AuthService) with
    /// [`retry_rejected`](crate::AuthLayer::retry_rejected).
    #[must_use = "futures do nothing unless polled"]
    pub struct RetryFuture<S, A, B>
    where
        S: Service<Request<B>>,
    {
        calls: Calls<S, A, B>,
        #[pin]
        state: State<S::Future, B>,
    }
}

/// The means of sending a request, and of sending it once more.
struct Calls<S, A, B> {
    inner: S,
    authenticator: Authenticator<A>,
    /// Until a request was sent.
    retry: Option<RetryRejected<B>>,
    /// A copy of the first request, credential included.
    sent: Option<Request<B>>,
}

impl<S, A, B> Calls<S, A, B>
where
    S: Service<Request<B>>,
    A: Strategy<B>,
{
    fn send(&mut self, request: Request<B>) -> S::Future {
        let retry = self.retry.take();
        self.sent = retry.and_then(|retry| retry.clone_request(&request));
        self.inner.call(request)
    }

    /// Authenticates the copy of a rejected request, or returns the response.
    fn authenticate_again<ResBody>(
        &mut self,
        response: Response<ResBody>,
    ) -> Result<State<S::Future, B>, Response<ResBody>> {
        if !response.status().is_client_error() {
            return Err(response);
        }
        let Some(sent) = self.sent.take() else {
            return Err(response);
        };
        let (sent, sent_body) = sent.into_parts();
        let (head, body) = response.into_parts();
        if !self.authenticator.may_try_again(&sent, &head) {
            return Err(Response::from_parts(head, body));
        }
        let mut request = Request::from_parts(sent, sent_body);
        let authentication = self.authenticator.authenticate(&mut request);
        Ok(State::of(authentication, request))
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<F, B> {
        Obtaining {
            obtaining: Box<Obtaining<B>>,
        },
        Authenticated {
            request: future::Ready<Request<B>>,
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

impl<F, B> State<F, B> {
    fn of(authentication: Authentication<B>, request: Request<B>) -> Self {
        match authentication {
            Authentication::Done => Self::authenticated(request),
            Authentication::Refused(error) => Self::refused(error),
            Authentication::Pending(pending) => Self::Obtaining {
                obtaining: Box::new(pending.start(request)),
            },
        }
    }

    fn authenticated(request: Request<B>) -> Self {
        Self::Authenticated {
            request: future::ready(request),
        }
    }

    fn refused(error: AuthError) -> Self {
        Self::Refused {
            error: future::ready(error),
        }
    }
}

impl<S, A, B, ResBody> Future for RetryFuture<S, A, B>
where
    S: Service<Request<B>, Response = Response<ResBody>>,
    S::Error: Into<BoxError>,
    A: Strategy<B>,
{
    type Output = Result<Response<ResBody>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let (calls, mut state) = (this.calls, this.state);
        loop {
            let next = match state.as_mut().project() {
                StateProjection::Obtaining { obtaining } => {
                    match ready!(Pin::new(obtaining).poll(cx)) {
                        Ok(request) => State::authenticated(request),
                        Err(error) => State::refused(error),
                    }
                }
                StateProjection::Authenticated { request } => {
                    if let Err(error) = ready!(calls.inner.poll_ready(cx)) {
                        return Poll::Ready(Err(error.into()));
                    }
                    let request = ready!(Pin::new(request).poll(cx));
                    State::Sent {
                        future: calls.send(request),
                    }
                }
                StateProjection::Sent { future } => match ready!(future.poll(cx)) {
                    Ok(response) => match calls.authenticate_again(response) {
                        Ok(next) => next,
                        Err(response) => return Poll::Ready(Ok(response)),
                    },
                    Err(error) => return Poll::Ready(Err(error.into())),
                },
                StateProjection::Refused { error } => {
                    return Pin::new(error).poll(cx).map(|error| Err(error.into()));
                }
            };
            state.set(next);
        }
    }
}

impl<S, A, B> fmt::Debug for RetryFuture<S, A, B>
where
    S: Service<Request<B>>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RetryFuture").finish_non_exhaustive()
    }
}
