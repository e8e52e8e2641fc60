use std::{
    fmt, future, mem,
    ops::ControlFlow,
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::{Request, Response, header::CONTENT_TYPE, request, response};
use http_body::Body;
use pin_project_lite::pin_project;
use tower::{BoxError, Service};

use crate::{
    error::{AuthError, AuthErrorKind},
    sent_or_refused::SentOrRefused,
    strategy::{rejection::Rejection, strategy::Strategy},
};

use super::{
    authenticator::{Authentication, Authenticator, Bound, Obtained, Obtaining, Widened},
    layer::AuthService,
    peeked_body::{PeekedBody, Peeking},
    proof_of_possession::wants_nonce,
    step_up::Operation,
};

/// An [`AuthLayer`](crate::AuthLayer) that sends a request once more when its credential is rejected, or when its proof
/// lacks the backend's nonce.
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
    ResBody: Body,
{
    type Response = Response<PeekedBody<ResBody>>;
    type Error = BoxError;
    type Future = RetryFuture<S, A, B, ResBody>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let recalled = self.authenticator.recall(&mut request);
        let authentication = self.authenticator.authenticate(&mut request);
        if matches!(authentication, Authentication::Refused(_)) {
            self.give_readiness_back();
            if let Some(operation) = recalled {
                self.authenticator.forget(operation);
            }
        }
        let mut calls = Calls {
            inner: self.take_ready(),
            authenticator: self.authenticator.clone(),
            retry: self.retry,
            may_retry: MayRetry {
                with_nonce: true,
                with_another_credential: true,
            },
            sent: None,
            bound: None,
            recalled,
            widened: None,
        };
        let state = match authentication {
            Authentication::Done => State::sent(calls.send(request)),
            Authentication::Bound(bound) => {
                calls.bound = Some(bound);
                State::sent(calls.send(request))
            }
            Authentication::Refused(error) => State::refused(error),
            Authentication::Pending(pending) => State::obtaining(pending.start(request), None),
        };
        RetryFuture { calls, state }
    }
}

pin_project! {
    /// The future of [`AuthService`](super::AuthService) with
    /// [`retry_rejected`](crate::AuthLayer::retry_rejected).
    ///
    /// [`AuthLayer`](crate::AuthLayer) has an example.
    #[must_use = "futures do nothing unless polled"]
    pub struct RetryFuture<S, A, B, ResBody>
    where
        S: Service<Request<B>>,
        ResBody: Body,
    {
        calls: Calls<S, A, B>,
        #[pin]
        state: State<S::Future, B, ResBody>,
    }
}

/// The means of sending a request, and of sending it once more.
struct Calls<S, A, B> {
    inner: S,
    authenticator: Authenticator<A>,
    retry: RetryRejected<B>,
    may_retry: MayRetry,
    /// A copy of the request that was sent, credential included, if it may be sent again.
    sent: Option<(request::Parts, B)>,
    /// The key of the token that was sent, if it has one.
    bound: Option<Bound>,
    /// The operation, if it succeeded with more scope before.
    recalled: Option<Operation>,
    /// The scope that is being asked for, because the backend did.
    widened: Option<Widened>,
}

/// The retries that are left. Each is tried once.
struct MayRetry {
    with_nonce: bool,
    with_another_credential: bool,
}

impl<S, A, B> Calls<S, A, B>
where
    S: Service<Request<B>>,
    A: Strategy<B>,
{
    fn send(&mut self, mut request: Request<B>) -> S::Future {
        let may_retry = &self.may_retry;
        let is_copied =
            may_retry.with_another_credential || (may_retry.with_nonce && self.bound.is_some());
        let clone = is_copied
            .then(|| self.retry.clone_request(&request))
            .flatten();
        self.sent = clone.map(Request::into_parts);
        self.authenticator.hide_scope(&mut request);
        self.inner.call(request)
    }

    /// Decides what follows a response.
    fn after<ResBody: Body>(&mut self, response: Response<ResBody>) -> Next<S::Future, B, ResBody> {
        let response = match self.after_proof(response) {
            ControlFlow::Continue(response) => response,
            ControlFlow::Break(next) => return next,
        };
        let is_asked_about =
            response.status().is_client_error() && self.may_retry.with_another_credential;
        let Some((sent, _)) = self.sent.as_ref().filter(|_| is_asked_about) else {
            return ControlFlow::Break(response.map(PeekedBody::untouched));
        };
        let (head, body) = response.into_parts();
        match self.authenticator.rejection::<B>(sent, &head) {
            Rejection::SaidInBody if !is_event_stream(&head) => {
                ControlFlow::Continue(State::peeking(head, body))
            }
            rejection => {
                let response = Response::from_parts(head, PeekedBody::untouched(body));
                self.after_rejection(rejection, response)
            }
        }
    }

    /// Learns the nonce of a response to a proof. Breaks with the next step if the request must be sent once more with
    /// this nonce.
    fn after_proof<ResBody: Body>(
        &mut self,
        response: Response<ResBody>,
    ) -> ControlFlow<Next<S::Future, B, ResBody>, Response<ResBody>> {
        let Some(bound) = self.bound.take() else {
            return ControlFlow::Continue(response);
        };
        self.authenticator
            .proofs()
            .learning(&bound.key)
            .learn(response.headers());
        let (head, body) = response.into_parts();
        let is_wanted = self.may_retry.with_nonce && wants_nonce(&bound.nonce, &head);
        let response = Response::from_parts(head, body);
        let Some((head, body)) = self.sent.take_if(|_| is_wanted) else {
            return ControlFlow::Continue(response);
        };
        self.may_retry.with_nonce = false;
        let mut request = Request::from_parts(head, body);
        let proving = self.authenticator.prove_again(bound.key, &mut request);
        ControlFlow::Break(
            self.after_authentication(proving, request, || response.map(PeekedBody::untouched)),
        )
    }

    /// Decides what follows a response of whose body the first bytes were read.
    fn after_peeking<ResBody: Body>(
        &mut self,
        peeked: &mut Peeked<ResBody>,
    ) -> Next<S::Future, B, ResBody> {
        let Peeked { head, body } = peeked;
        let rejection = self.sent.as_ref().map(|(sent, _)| {
            let bytes = body.bytes();
            self.authenticator.rejection_in_body::<B>(sent, head, bytes)
        });
        let response = peeked.take_response();
        self.after_rejection(rejection.unwrap_or(Rejection::NotRejected), response)
    }

    /// Authenticates the copy of the request, if another credential may help. `response` is the answer if there is none.
    fn after_rejection<ResBody: Body>(
        &mut self,
        rejection: Rejection,
        response: Response<PeekedBody<ResBody>>,
    ) -> Next<S::Future, B, ResBody> {
        let Some((mut head, body)) = self.sent.take() else {
            return ControlFlow::Break(response);
        };
        match rejection {
            Rejection::AnotherCredential => {}
            Rejection::MoreScope => {
                let authenticator = &self.authenticator;
                self.widened = authenticator.widen::<B>(&mut head, response.headers());
                if self.widened.is_none() {
                    return ControlFlow::Break(response);
                }
            }
            _ => return ControlFlow::Break(response),
        }
        self.may_retry.with_another_credential = false;
        let mut request = Request::from_parts(head, body);
        let authentication = self.authenticator.authenticate(&mut request);
        self.after_authentication(authentication, request, || response)
    }

    /// Has the request sent once more. `response` is the answer if that cannot be.
    fn after_authentication<ResBody: Body>(
        &mut self,
        authentication: Authentication<B>,
        request: Request<B>,
        response: impl FnOnce() -> Response<PeekedBody<ResBody>>,
    ) -> Next<S::Future, B, ResBody> {
        ControlFlow::Continue(match authentication {
            Authentication::Done => {
                self.obtained(None);
                State::authenticated(request)
            }
            Authentication::Bound(bound) => {
                self.obtained(Some(bound));
                State::authenticated(request)
            }
            Authentication::Refused(error) if self.keeps_rejection(&error) => {
                return ControlFlow::Break(response());
            }
            Authentication::Refused(error) => State::refused(error),
            Authentication::Pending(pending) => {
                State::obtaining(pending.start(request), Some(response()))
            }
        })
    }
}

impl<S, A, B> Calls<S, A, B> {
    fn obtained(&mut self, bound: Option<Bound>) {
        self.bound = bound;
        if let Some(widened) = self.widened.take() {
            self.authenticator.remember(widened);
        }
    }

    /// Whether the rejection says more than the error that came of it.
    fn keeps_rejection(&self, error: &AuthError) -> bool {
        self.widened.is_some() || is_passing(error)
    }
}

/// Whether the error is over soon without anybody's help. Then the rejection says more.
fn is_passing(error: &AuthError) -> bool {
    error.kind() == AuthErrorKind::Unavailable
}

/// Events may be far apart, and none of them is an error that ends the response.
fn is_event_stream(head: &response::Parts) -> bool {
    let content_type = head.headers.get(CONTENT_TYPE);
    content_type.is_some_and(|value| value.as_bytes().starts_with(b"text/event-stream"))
}

/// A response of whose body the first bytes are being read.
struct Peeked<ResBody: Body> {
    head: response::Parts,
    body: Peeking<ResBody>,
}

impl<ResBody: Body> Peeked<ResBody> {
    fn take_response(&mut self) -> Response<PeekedBody<ResBody>> {
        let (empty, ()) = Response::new(()).into_parts();
        Response::from_parts(mem::replace(&mut self.head, empty), self.body.take())
    }
}

/// A request whose credential is being obtained.
struct Waiting<B, ResBody: Body> {
    obtaining: Obtaining<B>,
    /// The response to its first credential, which is the answer if no other can be had now.
    rejection: Option<Response<PeekedBody<ResBody>>>,
}

/// The next state, or the response for the caller.
type Next<F, B, ResBody> = ControlFlow<Response<PeekedBody<ResBody>>, State<F, B, ResBody>>;

pin_project! {
    #[project = StateProjection]
    enum State<F, B, ResBody>
    where
        ResBody: Body,
    {
        Obtaining {
            waiting: Box<Waiting<B, ResBody>>,
        },
        Authenticated {
            request: future::Ready<Request<B>>,
        },
        Decided {
            #[pin]
            outcome: SentOrRefused<F>,
        },
        Peeking {
            peeked: Box<Peeked<ResBody>>,
        },
    }
}

impl<F, B, ResBody: Body> State<F, B, ResBody> {
    fn obtaining(
        obtaining: Obtaining<B>,
        rejection: Option<Response<PeekedBody<ResBody>>>,
    ) -> Self {
        Self::Obtaining {
            waiting: Box::new(Waiting {
                obtaining,
                rejection,
            }),
        }
    }

    fn authenticated(request: Request<B>) -> Self {
        Self::Authenticated {
            request: future::ready(request),
        }
    }

    fn sent(future: F) -> Self {
        Self::Decided {
            outcome: SentOrRefused::sent(future),
        }
    }

    fn refused(error: AuthError) -> Self {
        Self::Decided {
            outcome: SentOrRefused::refused(error),
        }
    }

    fn peeking(head: response::Parts, body: ResBody) -> Self {
        let body = Peeking::start(body);
        Self::Peeking {
            peeked: Box::new(Peeked { head, body }),
        }
    }
}

impl<S, A, B, ResBody> Future for RetryFuture<S, A, B, ResBody>
where
    S: Service<Request<B>, Response = Response<ResBody>>,
    S::Error: Into<BoxError>,
    A: Strategy<B>,
    ResBody: Body,
{
    type Output = Result<Response<PeekedBody<ResBody>>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let (calls, mut state) = (this.calls, this.state);
        loop {
            let next = match state.as_mut().project() {
                StateProjection::Obtaining { waiting } => {
                    let obtained = ready!(Pin::new(&mut waiting.obtaining).poll(cx));
                    match (obtained, waiting.rejection.take()) {
                        (Ok(Obtained { request, bound }), _) => {
                            calls.obtained(bound);
                            ControlFlow::Continue(State::authenticated(request))
                        }
                        (Err(error), Some(response)) if calls.keeps_rejection(&error) => {
                            ControlFlow::Break(response)
                        }
                        (Err(error), _) => {
                            if let Some(operation) = calls.recalled {
                                calls.authenticator.forget(operation);
                            }
                            ControlFlow::Continue(State::refused(error))
                        }
                    }
                }
                StateProjection::Authenticated { request } => {
                    if let Err(error) = ready!(calls.inner.poll_ready(cx)) {
                        return Poll::Ready(Err(error.into()));
                    }
                    let request = ready!(Pin::new(request).poll(cx));
                    ControlFlow::Continue(State::sent(calls.send(request)))
                }
                StateProjection::Decided { outcome } => calls.after(ready!(outcome.poll(cx))?),
                StateProjection::Peeking { peeked } => {
                    ready!(peeked.body.poll(cx));
                    calls.after_peeking(peeked)
                }
            };
            match next {
                ControlFlow::Continue(next) => state.set(next),
                ControlFlow::Break(response) => return Poll::Ready(Ok(response)),
            }
        }
    }
}

impl<S, A, B, ResBody> fmt::Debug for RetryFuture<S, A, B, ResBody>
where
    S: Service<Request<B>>,
    ResBody: Body,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RetryFuture").finish_non_exhaustive()
    }
}
