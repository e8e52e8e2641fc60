//! A service that keeps what it is sent, and identities to send.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use http::{HeaderMap, Method, Request, Response, Uri};
use tower::Service;
use tower_identity::{AccessToken, HealthCheck, Identity, UpstreamToken};

/// What arrived at a [`RecordingService`].
#[derive(Clone, Debug)]
pub(crate) struct Arrival {
    pub(crate) method: Method,
    pub(crate) uri: Uri,
    pub(crate) headers: HeaderMap,
    pub(crate) identity: Option<Identity>,
    pub(crate) health_check: bool,
}

impl Arrival {
    /// Every value of a header, in order.
    pub(crate) fn header(&self, name: &str) -> Vec<&str> {
        self.headers
            .get_all(name)
            .iter()
            .map(|value| value.to_str().unwrap())
            .collect()
    }

    /// The subject of the identity that arrived.
    pub(crate) fn subject(&self) -> Option<&str> {
        self.identity.as_ref().map(Identity::subject)
    }
}

/// Answers 200 to every request and keeps it. It panics when it is called on an instance that was not polled ready.
#[derive(Debug, Default)]
pub(crate) struct RecordingService {
    arrivals: Arc<Mutex<Vec<Arrival>>>,
    ready: bool,
}

impl RecordingService {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// All that arrived so far, at any clone.
    pub(crate) fn arrivals(&self) -> Vec<Arrival> {
        self.arrivals.lock().unwrap().clone()
    }

    /// The one request that arrived.
    pub(crate) fn arrival(&self) -> Arrival {
        let arrivals = self.arrivals();
        assert_eq!(arrivals.len(), 1, "one request should have arrived");
        arrivals.into_iter().next().unwrap()
    }
}

impl Clone for RecordingService {
    /// Readiness is not cloned: a service may promise it to one instance only.
    fn clone(&self) -> Self {
        Self {
            arrivals: self.arrivals.clone(),
            ready: false,
        }
    }
}

impl<B> Service<Request<B>> for RecordingService {
    type Response = Response<()>;
    type Error = Infallible;
    type Future = Ready<Result<Response<()>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.ready = true;
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        assert!(
            std::mem::take(&mut self.ready),
            "called without having been polled ready"
        );
        let (parts, _) = request.into_parts();
        self.arrivals.lock().unwrap().push(Arrival {
            method: parts.method,
            uri: parts.uri,
            headers: parts.headers,
            identity: parts.extensions.get().cloned(),
            health_check: parts.extensions.get::<HealthCheck>().is_some(),
        });
        ready(Ok(Response::new(())))
    }
}

/// An identity of `subject` at one issuer, with `token` for the provider `github`.
pub(crate) fn identity(subject: &str, token: &str) -> Identity {
    Identity::builder(subject)
        .issuer("https://idp.example.com")
        .upstream("github", upstream_token(token))
        .build()
        .unwrap()
}

pub(crate) fn upstream_token(token: &str) -> UpstreamToken {
    UpstreamToken::new(AccessToken::new(token).unwrap())
}

/// A request to `https://mcp.example.com/mcp`, on behalf of `identity`.
pub(crate) fn request(method: Method, identity: impl Into<Option<Identity>>) -> Request<String> {
    request_to("https://mcp.example.com/mcp", method, identity)
}

/// A request to `uri`, on behalf of `identity`.
pub(crate) fn request_to(
    uri: &str,
    method: Method,
    identity: impl Into<Option<Identity>>,
) -> Request<String> {
    let mut request = Request::builder()
        .method(method)
        .uri(uri)
        .body(String::from("{}"))
        .unwrap();
    if let Some(identity) = identity.into() {
        request.extensions_mut().insert(identity);
    }
    request
}
