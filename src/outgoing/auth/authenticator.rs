use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::{HeaderMap, Request, request, response};

use crate::{
    error::AuthError,
    hop_by_hop::NotableHeaders,
    origin::Origin,
    outgoing::origin_guard::OriginGuard,
    strategy::{
        authenticating::{Continuation, PendingRequest, State},
        rejection::Rejection,
        strategy::Strategy,
        wider_scope::WiderScope,
    },
    telemetry::{self, AuthenticationSpan, Requests},
    trailers::remove_trailers_of_credentials,
};

use super::step_up::{Ceiling, Operation, StepUp};

/// Checks where requests go, has the strategy authenticate them, and counts them.
#[derive(Clone)]
pub(super) struct Authenticator<A> {
    guard: OriginGuard,
    strategy: A,
    requests: Requests,
    step_up: Option<Arc<StepUp>>,
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
    observer: Observer,
}

/// A request whose credential is being obtained.
pub(super) struct Obtaining<B> {
    request: PendingRequest<B>,
    observer: Observer,
}

/// Reports the outcome of an authentication that does not end at once.
struct Observer {
    backend: Origin,
    strategy: &'static str,
    span: AuthenticationSpan,
    requests: Requests,
}

/// A request whose strategy is asked for more scope.
pub(super) struct Widened {
    operation: Operation,
    wider: WiderScope,
    ceiling: Arc<[String]>,
}

/// The outcome of a request that leaves, as it is counted.
const AUTHENTICATED: Result<(), AuthError> = Ok(());

impl<A> Authenticator<A> {
    pub(super) fn new(origin: Origin, strategy: A) -> Self {
        Self {
            guard: OriginGuard::new(origin),
            strategy,
            requests: Requests::default(),
            step_up: None,
        }
    }

    pub(super) fn step_up_to(&mut self, ceiling: Ceiling) {
        self.step_up = Some(Arc::new(StepUp::new(ceiling)));
    }

    /// Asks for the scope with which the operation of this request succeeded before.
    pub(super) fn recall<B>(&self, request: &mut Request<B>) -> Option<Operation> {
        let step_up = self.step_up.as_ref()?;
        let operation = step_up.operation(
            request.method(),
            request.uri(),
            request.headers(),
            request.extensions(),
        )?;
        let wider = step_up.recall(operation)?;
        wider.put_into(request.extensions_mut());
        Some(operation)
    }

    pub(super) fn forget(&self, operation: Operation) {
        if let Some(step_up) = &self.step_up {
            step_up.forget(operation);
        }
    }

    /// Asks for the scope that a response says is missing, with the next call of the strategy.
    pub(super) fn widen<B>(
        &self,
        sent: &mut request::Parts,
        response: &HeaderMap,
    ) -> Option<Widened>
    where
        A: Strategy<B>,
    {
        let step_up = self.step_up.as_ref()?;
        let operation =
            step_up.operation(&sent.method, &sent.uri, &sent.headers, &sent.extensions)?;
        let held = || self.strategy.held_scopes(sent);
        let (wider, ceiling) = step_up.widen(operation, sent, response, held)?;
        wider.put_into(&mut sent.extensions);
        Some(Widened {
            operation,
            wider,
            ceiling,
        })
    }

    /// Has the same operation ask for this scope at once.
    pub(super) fn remember(&self, widened: Widened) {
        if let Some(step_up) = &self.step_up {
            step_up.remember(widened.operation, widened.wider, widened.ceiling);
        }
    }

    /// The scope is for the strategy of this layer, and for no other.
    pub(super) fn hide_scope<B>(&self, request: &mut Request<B>) {
        if self.step_up.is_some() {
            request.extensions_mut().remove::<WiderScope>();
        }
    }

    pub(super) fn client_fixes_origin(mut self) -> Self {
        self.guard = self.guard.client_fixes_origin();
        self
    }

    pub(super) fn origin(&self) -> &Origin {
        self.guard.origin()
    }

    #[inline]
    pub(super) fn authenticate<B>(&self, request: &mut Request<B>) -> Authentication<B>
    where
        A: Strategy<B>,
    {
        let backend = self.guard.origin();
        let strategy = || self.strategy.name();
        let notable = NotableHeaders::of(request.headers());
        if let Err(error) = self.guard.check(request, notable) {
            let span = AuthenticationSpan::new(backend, strategy);
            return Authentication::Refused(self.observer(strategy(), span).refused(error));
        }
        let announces_trailers = notable.remove_hop_by_hop(request.headers_mut());
        let mut span = AuthenticationSpan::new(backend, strategy);
        let entered = span.enter();
        let state = self.strategy.authenticate(request).into_state();
        drop(entered);
        match state {
            State::Done => {
                if announces_trailers {
                    remove_trailers_of_credentials(request.headers_mut());
                }
                span.end(&AUTHENTICATED);
                self.requests.count(backend, strategy, &AUTHENTICATED);
                Authentication::Done
            }
            State::Refused(error) => {
                Authentication::Refused(self.observer(strategy(), span).refused(error))
            }
            State::Pending(obtain) => Authentication::Pending(Pending {
                obtain,
                observer: self.observer(strategy(), span),
            }),
        }
    }

    #[cold]
    fn observer(&self, strategy: &'static str, span: AuthenticationSpan) -> Observer {
        Observer {
            backend: self.guard.origin().clone(),
            strategy,
            span,
            requests: self.requests.clone(),
        }
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
            observer: self.observer,
        }
    }
}

impl<B> Future for Obtaining<B> {
    type Output = Result<Request<B>, AuthError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { request, observer } = &mut *self;
        let entered = observer.span.enter();
        let polled = request.as_mut().poll(cx);
        drop(entered);
        Poll::Ready(match ready!(polled) {
            Ok(mut request) => {
                remove_trailers_of_credentials(request.headers_mut());
                observer.end(&AUTHENTICATED);
                Ok(request)
            }
            Err(error) => Err(observer.refused(error)),
        })
    }
}

impl Observer {
    fn refused(&mut self, error: AuthError) -> AuthError {
        let error = error.with_backend(self.backend.clone());
        telemetry::refused(self.strategy, &error);
        self.end(&Err(error.clone()));
        error
    }

    fn end(&mut self, outcome: &Result<(), AuthError>) {
        self.span.end(outcome);
        self.requests
            .count(&self.backend, || self.strategy, outcome);
    }
}
