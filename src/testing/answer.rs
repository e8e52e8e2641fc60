use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Response, StatusCode,
    header::{CACHE_CONTROL, CONTENT_TYPE, WWW_AUTHENTICATE},
};
use http_body_util::Full;
use serde_json::{Value, json};
use tower::BoxError;

use crate::runtime::sleep;

const JSON: HeaderValue = HeaderValue::from_static("application/json; charset=utf-8");

/// An answer that a [`TestIssuer`](super::TestIssuer) or a [`TestBackend`](super::TestBackend) gives to a request.
///
/// Needs the feature `testing`.
///
/// ```
/// use tower_identity::testing::{Answer, TestBackend};
///
/// let backend = TestBackend::new("https://api.example.com");
/// backend.answer_next(Answer::unauthorized());
/// backend.answer_next(
///     Answer::new(403).header(
///         "www-authenticate",
///         r#"Bearer error="insufficient_scope", scope="write""#,
///     ),
/// );
/// backend.answer_next(Answer::connection_lost());
/// ```
#[derive(Clone, Debug)]
#[must_use = "nothing is answered with it before it is given to an issuer or a backend"]
pub struct Answer {
    outcome: Outcome,
    delay: Duration,
}

#[derive(Clone, Debug)]
enum Outcome {
    Respond {
        status: StatusCode,
        headers: HeaderMap,
        body: Bytes,
    },
    Fail(&'static str),
}

impl Answer {
    /// Creates an answer with this status, without a body.
    ///
    /// # Panics
    ///
    /// If `status` is not from 100 to 999.
    #[track_caller]
    pub fn new(status: u16) -> Self {
        Self::of(Outcome::Respond {
            status: StatusCode::from_u16(status).expect("a status is from 100 to 999"),
            headers: HeaderMap::new(),
            body: Bytes::new(),
        })
    }

    /// Creates an answer with a body in JSON.
    ///
    /// # Panics
    ///
    /// If `status` is not from 100 to 999.
    #[track_caller]
    pub fn json(status: u16, body: &Value) -> Self {
        Self::new(status)
            .set(CONTENT_TYPE, JSON)
            .body(body.to_string())
    }

    /// Creates an error of a token endpoint, for example `invalid_grant` (RFC 6749 §5.2).
    ///
    /// The status is 401 for `invalid_client`, 503 for `temporarily_unavailable`, and 400 for all others.
    pub fn oauth_error(code: &str) -> Self {
        let status = match code {
            "invalid_client" => 401,
            "temporarily_unavailable" => 503,
            _ => 400,
        };
        Self::json(status, &json!({ "error": code }))
            .set(CACHE_CONTROL, HeaderValue::from_static("no-store"))
    }

    /// Creates the 401 of a backend that rejects a token: `Bearer error="invalid_token"` (RFC 6750 §3.1).
    pub fn unauthorized() -> Self {
        let challenge = HeaderValue::from_static(r#"Bearer error="invalid_token""#);
        Self::new(401).set(WWW_AUTHENTICATE, challenge)
    }

    /// Creates no answer: the connection breaks after the request was received, and the service fails.
    pub fn connection_lost() -> Self {
        Self::of(Outcome::Fail("the connection was lost, as the test said"))
    }

    /// Sets a header, in place of all its values before.
    ///
    /// # Panics
    ///
    /// If it cannot be a header, or there is no answer that could have it.
    #[track_caller]
    pub fn header(self, name: &str, value: &str) -> Self {
        let name = HeaderName::try_from(name).expect("it is the name of a header");
        let value = HeaderValue::try_from(value).expect("it is the value of a header");
        self.set(name, value)
    }

    /// Sets the body.
    ///
    /// # Panics
    ///
    /// If there is no answer that could have it.
    #[track_caller]
    pub fn body(mut self, bytes: impl Into<Bytes>) -> Self {
        match &mut self.outcome {
            Outcome::Respond { body, .. } => *body = bytes.into(),
            Outcome::Fail(_) => panic!("a lost connection has no body"),
        }
        self
    }

    /// Answers only after this time by Tokio's clock.
    ///
    /// Under `#[tokio::test(start_paused = true)]` nobody waits for it, and a timeout is over at once.
    pub fn after(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    pub(super) fn failed(fault: &'static str) -> Self {
        Self::of(Outcome::Fail(fault))
    }

    #[track_caller]
    pub(super) fn set(mut self, name: HeaderName, value: HeaderValue) -> Self {
        match &mut self.outcome {
            Outcome::Respond { headers, .. } => drop(headers.insert(name, value)),
            Outcome::Fail(_) => panic!("a lost connection has no headers"),
        }
        self
    }

    pub(super) async fn give(self) -> Result<Response<Full<Bytes>>, BoxError> {
        if !self.delay.is_zero() {
            sleep(self.delay).await;
        }
        match self.outcome {
            Outcome::Fail(fault) => Err(fault.into()),
            Outcome::Respond {
                status,
                headers,
                body,
            } => {
                let mut response = Response::new(Full::new(body));
                *response.status_mut() = status;
                *response.headers_mut() = headers;
                Ok(response)
            }
        }
    }

    fn of(outcome: Outcome) -> Self {
        Self {
            outcome,
            delay: Duration::ZERO,
        }
    }
}

/// The future of [`TestIssuer`](super::TestIssuer) and [`TestBackend`](super::TestBackend).
///
/// Needs the feature `testing`.
#[must_use = "futures do nothing unless polled"]
pub struct AnswerFuture {
    #[allow(clippy::type_complexity, reason = "it is written once")]
    answering: Pin<Box<dyn Future<Output = Result<Response<Full<Bytes>>, BoxError>> + Send>>,
}

impl AnswerFuture {
    pub(super) fn new(
        answering: impl Future<Output = Result<Response<Full<Bytes>>, BoxError>> + Send + 'static,
    ) -> Self {
        let answering = Box::pin(answering);
        Self { answering }
    }
}

impl Future for AnswerFuture {
    type Output = Result<Response<Full<Bytes>>, BoxError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.answering.as_mut().poll(cx)
    }
}

impl fmt::Debug for AnswerFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AnswerFuture").finish_non_exhaustive()
    }
}
