use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::{Request, request, response};

use crate::{
    error::AuthError,
    hop_by_hop::remove_hop_by_hop,
    origin::Origin,
    outgoing::origin_guard::OriginGuard,
    strategy::{
        authenticating::{Continuation, PendingRequest, State},
        rejection::Rejection,
        strategy::Strategy,
    },
    telemetry::{self, AuthenticationSpan, Requests},
};

/// Checks where requests go, has the strategy authenticate them, and counts them.
#[derive(Clone)]
pub(super) struct Authenticator<A> {
    guard: OriginGuard,
    strategy: A,
    requests: Requests,
}

/// The outcome of one call of the strategy.
pub(super) enum Authentication<B> {
    Done,
    Refused(AuthError),
    Pending(Pending<B>),
}

/// The work that obtains a credential, before it has the request.
pub(super) struct Pending<B> {
    obtain: Continuation<B>,
    backend: Origin,
    strategy: &'static str,
    span: AuthenticationSpan,
    requests: Requests,
}

/// A request whose credential is being obtained.
pub(super) struct Obtaining<B> {
    request: PendingRequest<B>,
    backend: Origin,
    strategy: &'static str,
    span: AuthenticationSpan,
    requests: Requests,
}

/// The outcome of a request that leaves, as it is counted.
const AUTHENTICATED: Result<(), AuthError> = Ok(());

impl<A> Authenticator<A> {
    pub(super) fn new(origin: Origin, strategy: A) -> Self {
        Self {
            guard: OriginGuard::new(origin),
            strategy,
            requests: Requests::default(),
        }
    }

    pub(super) fn client_fixes_origin(mut self) -> Self {
        self.guard = self.guard.client_fixes_origin();
        self
    }

    pub(super) fn origin(&self) -> &Origin {
        self.guard.origin()
    }

    pub(super) fn authenticate<B>(&self, request: &mut Request<B>) -> Authentication<B>
    where
        A: Strategy<B>,
    {
        let backend = self.guard.origin();
        let strategy = || self.strategy.name();
        if let Err(error) = self.guard.check(request) {
            let span = AuthenticationSpan::new(backend, strategy);
            return Authentication::Refused(self.refusal(span, strategy, error));
        }
        remove_hop_by_hop(request.headers_mut());
        let mut span = AuthenticationSpan::new(backend, strategy);
        let entered = span.enter();
        let state = self.strategy.authenticate(request).into_state();
        drop(entered);
        match state {
            State::Done => {
                span.end(&AUTHENTICATED);
                self.requests.count(backend, strategy, &AUTHENTICATED);
                Authentication::Done
            }
            State::Refused(error) => Authentication::Refused(self.refusal(span, strategy, error)),
            State::Pending(obtain) => Authentication::Pending(Pending {
                obtain,
                backend: backend.clone(),
                strategy: strategy(),
                span,
                requests: self.requests.clone(),
            }),
        }
    }

    #[cold]
    fn refusal(
        &self,
        mut span: AuthenticationSpan,
        strategy: impl Fn() -> &'static str,
        error: AuthError,
    ) -> AuthError {
        let backend = self.guard.origin();
        let error = error.with_backend(backend.clone());
        let outcome = Err::<(), _>(error.clone());
        telemetry::refused(strategy(), &error);
        span.end(&outcome);
        self.requests.count(backend, strategy, &outcome);
        error
    }

    /// Whether the response rejects the credential that the request was sent with, and what may help.
    pub(super) fn rejection<B>(
        &self,
        sent: &request::Parts,
        response: &response::Parts,
    ) -> Rejection
    where
        A: Strategy<B>,
    {
        self.observe::<B>(sent, self.strategy.rejected(sent, response))
    }

    /// As [`rejection`](Self::rejection), once the first bytes of the response's body are there.
    pub(super) fn rejection_in_body<B>(
        &self,
        sent: &request::Parts,
        response: &response::Parts,
        first_bytes: &[u8],
    ) -> Rejection
    where
        A: Strategy<B>,
    {
        let strategy = &self.strategy;
        self.observe::<B>(sent, strategy.rejected_in_body(sent, response, first_bytes))
    }

    fn observe<B>(&self, sent: &request::Parts, rejection: Rejection) -> Rejection
    where
        A: Strategy<B>,
    {
        if rejection == Rejection::AnotherCredential {
            tracing::debug!(method = %sent.method, "the credential was rejected: sending the request with a fresh one");
            telemetry::forced_refresh(self.strategy.name());
        }
        rejection
    }
}

impl<B> Pending<B> {
    pub(super) fn start(self, request: Request<B>) -> Obtaining<B> {
        Obtaining {
            request: (self.obtain)(request),
            backend: self.backend,
            strategy: self.strategy,
            span: self.span,
            requests: self.requests,
        }
    }
}

impl<B> Future for Obtaining<B> {
    type Output = Result<Request<B>, AuthError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Self {
            request,
            backend,
            strategy,
            span,
            requests,
        } = &mut *self;
        let entered = span.enter();
        let polled = request.as_mut().poll(cx);
        drop(entered);
        let outcome = ready!(polled).map_err(|error| error.with_backend(backend.clone()));
        if let Err(error) = &outcome {
            telemetry::refused(strategy, error);
        }
        span.end(&outcome);
        requests.count(backend, || strategy, &outcome);
        Poll::Ready(outcome)
    }
}
