//! What goes through an `AuthService`, counted above it and beneath it, and what goes to an issuer.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::{Duration, UNIX_EPOCH},
};

use bytes::Bytes;
use futures_util::FutureExt;
use http::{Extensions, HeaderValue, Request, Response, request, response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use tokio::time::timeout;
use tower::{BoxError, Service};
use tower_identity::{
    AuthError, AuthErrorKind, Authenticating, Clock, Identity, ManualClock, Strategy,
    strategy::Rejection,
};

use super::{
    backends::{Backend, LEFT_AT},
    recorder::IN_STRATEGY,
    settings::TOKEN_LIMIT,
};

pub(crate) type Body = Full<Bytes>;
pub(crate) type HttpClient = Client<HttpConnector, Body>;

type BoxFuture<T> = Pin<Box<dyn Future<Output = Result<T, BoxError>> + Send>>;

/// A client whose idle connections end soon, so that it is seen what does not end.
pub(crate) fn http_client() -> HttpClient {
    Client::builder(TokioExecutor::new())
        .pool_idle_timeout(Duration::from_secs(2))
        .pool_timer(TokioTimer::new())
        .build_http()
}

/// All requests to one backend, of both gateways.
#[derive(Default)]
pub(crate) struct Passage {
    pub(crate) entered: AtomicU64,
    pub(crate) left: AtomicU64,
    pub(crate) given_up: AtomicU64,
    /// By the kind of the error.
    pub(crate) refused: [AtomicU64; KINDS.len()],
    /// Whose user had the token that the strategy needs.
    pub(crate) had_subject: AtomicU64,
    /// Of these, the ones that were refused before a cache was asked.
    pub(crate) had_expired_subject: AtomicU64,
}

pub(crate) const KINDS: [(AuthErrorKind, &str); 9] = [
    (AuthErrorKind::MissingIdentity, "missing_identity"),
    (AuthErrorKind::MissingToken, "missing_token"),
    (AuthErrorKind::Expired, "expired"),
    (AuthErrorKind::Rejected, "rejected"),
    (AuthErrorKind::InsufficientScope, "insufficient_scope"),
    (AuthErrorKind::Unavailable, "unavailable"),
    (AuthErrorKind::Configuration, "configuration"),
    (AuthErrorKind::WrongOrigin, "wrong_origin"),
    (AuthErrorKind::PayloadTooLarge, "payload_too_large"),
];

pub(crate) fn kind_name(kind: AuthErrorKind) -> &'static str {
    KINDS[kind_index(kind)].1
}

fn kind_index(kind: AuthErrorKind) -> usize {
    KINDS.iter().position(|(known, _)| *known == kind).unwrap()
}

impl Passage {
    pub(crate) fn refused(&self) -> u64 {
        self.refused.iter().map(|count| count.load(Relaxed)).sum()
    }
}

/// A service around an `AuthService`, which is around [`Leaving`].
#[derive(Clone)]
pub(crate) struct Entering<S> {
    pub(crate) inner: S,
    pub(crate) backend: Backend,
    pub(crate) passage: Arc<Passage>,
}

#[derive(Clone)]
struct HasLeft(Arc<AtomicBool>);

impl<S, ResBody> Service<Request<Body>> for Entering<S>
where
    S: Service<Request<Body>, Response = Response<ResBody>, Error = BoxError>,
    S::Future: Send + 'static,
    ResBody: 'static,
{
    type Response = Response<ResBody>;
    type Error = BoxError;
    type Future = BoxFuture<Response<ResBody>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let has_left = Arc::new(AtomicBool::new(false));
        let has_subject = has_subject(self.backend, request.extensions());
        let mut visit = Visit {
            passage: Arc::clone(&self.passage),
            has_left: Arc::clone(&has_left),
            has_ended: false,
        };
        request.extensions_mut().insert(HasLeft(has_left));
        self.passage.entered.fetch_add(1, Relaxed);
        self.passage
            .had_subject
            .fetch_add(has_subject.into(), Relaxed);
        let answering = IN_STRATEGY.sync_scope((), || self.inner.call(request));
        Box::pin(async move {
            let answer = IN_STRATEGY.scope((), answering).await;
            visit.end(answer.as_ref().err(), has_subject);
            answer
        })
    }
}

fn has_subject(backend: Backend, extensions: &Extensions) -> bool {
    let identity = extensions.get::<Identity>();
    match backend {
        Backend::Upstream => false,
        Backend::Exchange | Backend::Aws => identity.and_then(Identity::token).is_some(),
        Backend::CrossApp => {
            let upstream = identity.and_then(|identity| identity.upstream("hub"));
            upstream.is_some_and(|upstream| upstream.id_token().is_some())
        }
    }
}

/// A strategy beneath [`Entering`]: what is sent once more enters once more.
#[derive(Clone)]
pub(crate) struct EnteringAgain<A> {
    pub(crate) strategy: A,
    pub(crate) backend: Backend,
    pub(crate) passage: Arc<Passage>,
}

impl<A> EnteringAgain<A> {
    fn enters_again(&self, sent: &request::Parts, rejection: Rejection) -> Rejection {
        if rejection == Rejection::AnotherCredential {
            self.passage.entered.fetch_add(1, Relaxed);
            let has_subject = has_subject(self.backend, &sent.extensions);
            self.passage
                .had_subject
                .fetch_add(has_subject.into(), Relaxed);
            if let Some(HasLeft(has_left)) = sent.extensions.get() {
                has_left.store(false, Relaxed);
            }
        }
        rejection
    }
}

impl<A: Strategy<Body>> Strategy<Body> for EnteringAgain<A> {
    fn authenticate(&self, request: &mut Request<Body>) -> Authenticating<Body> {
        self.strategy.authenticate(request)
    }

    fn rejected(&self, sent: &request::Parts, response: &response::Parts) -> Rejection {
        let rejection = self.strategy.rejected(sent, response);
        self.enters_again(sent, rejection)
    }

    fn rejected_in_body(
        &self,
        sent: &request::Parts,
        response: &response::Parts,
        first_bytes: &[u8],
    ) -> Rejection {
        let strategy = &self.strategy;
        let rejection = strategy.rejected_in_body(sent, response, first_bytes);
        self.enters_again(sent, rejection)
    }

    fn name(&self) -> &'static str {
        self.strategy.name()
    }
}

struct Visit {
    passage: Arc<Passage>,
    has_left: Arc<AtomicBool>,
    has_ended: bool,
}

impl Visit {
    fn end(&mut self, error: Option<&BoxError>, has_subject: bool) {
        self.has_ended = true;
        let error = error.and_then(|error| AuthError::find_in(error.as_ref()));
        if let Some(error) = error.filter(|_| !self.has_left.load(Relaxed)) {
            let kind = error.kind();
            self.passage.refused[kind_index(kind)].fetch_add(1, Relaxed);
            let before_look_up = [AuthErrorKind::Expired, AuthErrorKind::WrongOrigin];
            if has_subject && before_look_up.contains(&kind) {
                self.passage.had_expired_subject.fetch_add(1, Relaxed);
            }
        }
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        if !self.has_ended && !self.has_left.load(Relaxed) {
            self.passage.given_up.fetch_add(1, Relaxed);
        }
    }
}

/// The client beneath an `AuthService`. It writes down when the request left.
#[derive(Clone)]
pub(crate) struct Leaving {
    pub(crate) client: HttpClient,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) passage: Arc<Passage>,
}

impl Service<Request<Body>> for Leaving {
    type Response = Response<Incoming>;
    type Error = BoxError;
    type Future = BoxFuture<Response<Incoming>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        self.passage.left.fetch_add(1, Relaxed);
        if let Some(HasLeft(has_left)) = request.extensions().get() {
            has_left.store(true, Relaxed);
        }
        let now = self.clock.now().duration_since(UNIX_EPOCH).unwrap();
        let now = HeaderValue::from_str(&now.as_millis().to_string()).unwrap();
        request.headers_mut().insert(LEFT_AT, now);
        let answering = self.client.request(request);
        Box::pin(async move { Ok(answering.await?) })
    }
}

/// The client of an issuer, which does not wait for long.
#[derive(Clone)]
pub(crate) struct TokenClient {
    client: HttpClient,
    asked: Arc<Asked>,
    on_silence: OnSilence,
}

/// Called with the form that got no answer, whoever is to blame: the issuer, or a machine that is too busy.
pub(crate) type OnSilence = Arc<dyn Fn(&[u8]) + Send + Sync>;

#[derive(Default)]
pub(crate) struct Asked {
    pub(crate) calls: AtomicU64,
    pub(crate) answers: AtomicU64,
    pub(crate) grants: AtomicU64,
}

impl TokenClient {
    pub(crate) fn new(asked: Arc<Asked>, on_silence: OnSilence) -> Self {
        Self {
            client: http_client(),
            asked,
            on_silence,
        }
    }
}

impl Service<Request<Body>> for TokenClient {
    type Response = Response<Incoming>;
    type Error = BoxError;
    type Future = BoxFuture<Response<Incoming>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        self.asked.calls.fetch_add(1, Relaxed);
        let asked = Arc::clone(&self.asked);
        let form = request.body().clone().collect().now_or_never();
        let mut waiting = Waiting {
            form: form.unwrap().unwrap().to_bytes(),
            on_silence: Arc::clone(&self.on_silence),
            is_answered: false,
        };
        let answering = self.client.request(request);
        Box::pin(async move {
            let answer = timeout(TOKEN_LIMIT, answering).await??;
            waiting.end();
            asked.answers.fetch_add(1, Relaxed);
            let is_grant = answer.status().is_success();
            asked.grants.fetch_add(is_grant.into(), Relaxed);
            Ok(answer)
        })
    }
}

struct Waiting {
    form: Bytes,
    on_silence: OnSilence,
    is_answered: bool,
}

impl Waiting {
    fn end(&mut self) {
        self.is_answered = true;
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if !self.is_answered {
            (self.on_silence)(&self.form);
        }
    }
}
