use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, header::WWW_AUTHENTICATE};
use http_body::Body;
use http_body_util::Full;
use serde_json::Value;
use tower::{BoxError, Service};

use crate::{Origin, dpop::bound_token};

#[cfg(feature = "dpop")]
use crate::incoming::dpop::ClientRequest;

use super::{
    Answer, AnswerFuture, ReceivedRequest, TestIssuer, issuer::token::bound_to, origin_of,
};

/// A backend in the test's process, as a Tower service, which keeps the requests that it is sent.
///
/// Needs the feature `testing`.
///
/// It answers 200 without a body, unless a test says otherwise. A request for another host fails, as it would not reach
/// this backend. Clones are the same backend.
///
/// ```
/// use http::Request;
/// use tower::{ServiceBuilder, ServiceExt};
/// use tower_identity::{
///     AuthLayer, UpstreamInject,
///     testing::{TestBackend, identity},
/// };
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), tower::BoxError> {
/// let backend = TestBackend::new("https://api.example.com");
/// let client = ServiceBuilder::new()
///     .layer(AuthLayer::new(backend.origin(), UpstreamInject::new("github")?))
///     .service(backend.clone());
///
/// let mut request = Request::get("https://api.example.com/repos")
///     .body(String::new())?;
/// request
///     .extensions_mut()
///     .insert(identity("alice", [("github", "gho_16C7e42F292c")]));
/// client.oneshot(request).await?;
///
/// assert_eq!(backend.request().bearer_token(), Some("gho_16C7e42F292c"));
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct TestBackend {
    origin: Origin,
    guard: Option<Guard>,
    answer: Arc<Answering>,
    state: Arc<Mutex<State>>,
}

type Answering = dyn Fn(&ReceivedRequest) -> Answer + Send + Sync;

/// The issuer whose tokens the backend takes.
#[derive(Clone)]
struct Guard {
    #[cfg(feature = "dpop")]
    origin: Origin,
    issuer: TestIssuer,
    audience: Arc<str>,
}

#[derive(Default)]
struct State {
    requests: Vec<ReceivedRequest>,
    next: VecDeque<Answer>,
    is_down: bool,
}

impl TestBackend {
    /// Creates a backend at this origin, for example `https://api.example.com`.
    ///
    /// # Panics
    ///
    /// If it is not an [`Origin`].
    #[track_caller]
    pub fn new(origin: &str) -> Self {
        Self {
            origin: origin_of(origin),
            guard: None,
            answer: Arc::new(|_| Answer::new(200)),
            state: Arc::default(),
        }
    }

    /// Answers 401 to requests without a good access token of this issuer.
    ///
    /// A token is good if [`TestIssuer::claims`] knows it at that time: it is not expired, not revoked, and of this issuer.
    /// A token with the claim `aud` must be for `audience`. An opaque token without that claim is accepted. A token that is
    /// bound to a key must come as `Authorization: DPoP` with a proof of the key (feature `dpop`).
    ///
    /// `audience` is compared as it is written, so a `/` at the end makes a difference.
    #[must_use]
    pub fn protected_by(mut self, issuer: &TestIssuer, audience: &str) -> Self {
        self.guard = Some(Guard {
            #[cfg(feature = "dpop")]
            origin: self.origin.clone(),
            issuer: issuer.clone(),
            audience: audience.into(),
        });
        self
    }

    /// Answers so to each request that nothing else is scripted for, and that is not refused.
    ///
    /// ```
    /// use serde_json::json;
    /// use tower_identity::testing::{Answer, TestBackend};
    ///
    /// let backend = TestBackend::new("https://api.example.com").answering(
    ///     |request| match request.uri.path() {
    ///         "/repos" => Answer::json(200, &json!(["tower-identity"])),
    ///         _ => Answer::new(404),
    ///     },
    /// );
    /// ```
    #[must_use]
    pub fn answering<F>(mut self, answer: F) -> Self
    where
        F: Fn(&ReceivedRequest) -> Answer + Send + Sync + 'static,
    {
        self.answer = Arc::new(answer);
        self
    }

    /// Answers so to the next request that has no scripted answer yet, whatever it is.
    pub fn answer_next(&self, answer: Answer) {
        self.state().next.push_back(answer);
    }

    /// Answers 503 to everything from now on, or no longer does.
    pub fn set_down(&self, is_down: bool) {
        self.state().is_down = is_down;
    }

    /// Returns the origin, for an [`AuthLayer`](crate::AuthLayer).
    pub fn origin(&self) -> Origin {
        self.origin.clone()
    }

    /// Returns all requests so far, in the order in which they came.
    pub fn requests(&self) -> Vec<ReceivedRequest> {
        self.state().requests.clone()
    }

    /// Returns the newest request.
    ///
    /// # Panics
    ///
    /// If there was none.
    #[track_caller]
    pub fn request(&self) -> ReceivedRequest {
        let newest = self.state().requests.last().cloned();
        newest.expect("no request has reached the backend")
    }

    fn answer(&self, request: ReceivedRequest) -> Answer {
        if !request.is_for(&self.origin) {
            return Answer::failed(
                "the request is for another host than that of the test's backend",
            );
        }
        let scripted = {
            let mut state = self.state();
            state.requests.push(request.clone());
            if state.is_down {
                return Answer::new(503);
            }
            state.next.pop_front()
        };
        if let Some(scripted) = scripted {
            return scripted;
        }
        match &self.guard {
            Some(guard) if request.headers.get("authorization").is_none() => guard.challenge(),
            Some(guard) if !guard.admits(&request) => refusal_of(&request),
            _ => (self.answer)(&request),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// In the scheme that the request has (RFC 6750 §3.1, RFC 9449 §7.1).
fn refusal_of(request: &ReceivedRequest) -> Answer {
    let authorization = request.headers.get("authorization");
    if authorization.and_then(bound_token).is_none() {
        return Answer::unauthorized();
    }
    let challenge = HeaderValue::from_static(r#"DPoP error="invalid_token""#);
    Answer::new(401).set(WWW_AUTHENTICATE, challenge)
}

impl Guard {
    /// Without credentials there is no error code (RFC 6750 §3.1).
    fn challenge(&self) -> Answer {
        Answer::new(401).set(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))
    }

    fn admits(&self, request: &ReceivedRequest) -> bool {
        let mut values = request.headers.get_all("authorization").iter();
        let (Some(value), None) = (values.next(), values.next()) else {
            return false;
        };
        let token = value.to_str().ok().and_then(|value| value.split_once(' '));
        let Some((scheme, token)) = token else {
            return false;
        };
        let Some(claims) = self.issuer.claims(token) else {
            return false;
        };
        let is_for_this = match claims.get("aud") {
            None => true,
            Some(Value::Array(audiences)) => {
                audiences.iter().any(|audience| audience == &*self.audience)
            }
            Some(audience) => audience == &*self.audience,
        };
        let is_own = match bound_to(&claims) {
            // Whoever has stolen it sends it so, too.
            Some(_) if scheme.eq_ignore_ascii_case("Bearer") => false,
            Some(key) => self.proves(request, scheme, token, key),
            None => scheme.eq_ignore_ascii_case("Bearer") && !claims.contains_key("cnf"),
        };
        is_for_this && is_own
    }

    #[cfg(feature = "dpop")]
    fn proves(&self, request: &ReceivedRequest, scheme: &str, token: &str, key: &str) -> bool {
        let expected = ClientRequest {
            headers: &request.headers,
            method: &request.method,
            url: &self.origin.to_string(),
            path: request.uri.path(),
            token: Some(token),
        };
        let proof = expected.check(self.issuer.now());
        scheme.eq_ignore_ascii_case("DPoP") && proof.is_ok_and(|proof| proof.thumbprint == key)
    }

    #[cfg(not(feature = "dpop"))]
    fn proves(&self, _: &ReceivedRequest, _: &str, _: &str, _: &str) -> bool {
        false
    }
}

impl<B> Service<Request<B>> for TestBackend
where
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    type Response = Response<Full<Bytes>>;
    type Error = BoxError;
    type Future = AnswerFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> AnswerFuture {
        let backend = self.clone();
        AnswerFuture::new(async move {
            let request = ReceivedRequest::read(request).await?;
            backend.answer(request).give().await
        })
    }
}

impl fmt::Debug for TestBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TestBackend")
            .field("origin", &self.origin)
            .finish_non_exhaustive()
    }
}
