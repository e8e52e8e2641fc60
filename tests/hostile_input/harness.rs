//! What the bodies share: answers out of bytes, a runtime whose time stands still, and what an error shows.

use std::{
    cell::RefCell,
    collections::HashSet,
    convert::Infallible,
    error::Error,
    fmt::Write as _,
    future::{Ready, ready},
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Uri};
use http_body_util::Full;
use serde_json::{Map, Value};
use tokio::runtime::{Builder, Runtime};
use tower::Service;
use tower_identity::{AuthError, AuthErrorKind, BuildError, ManualClock};

/// Waits on a runtime of this thread. Its time is paused, so that a time-out takes none.
pub(crate) fn wait<F: Future>(future: F) -> F::Output {
    thread_local! {
        static RUNTIME: RefCell<Runtime> = RefCell::new(
            Builder::new_current_thread().enable_time().start_paused(true).build().unwrap(),
        );
    }
    RUNTIME.with_borrow(|runtime| runtime.block_on(future))
}

/// A time in the middle of nowhere, as a clock that stands still.
pub(crate) fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::new(now()))
}

pub(crate) fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(2_000_000_000)
}

/// The lines before the first that is `---`, and what is behind it.
pub(crate) fn split(bytes: &[u8]) -> (&[u8], &[u8]) {
    const SEPARATOR: &[u8] = b"\n---\n";

    let at = bytes
        .windows(SEPARATOR.len())
        .position(|window| window == SEPARATOR);
    match at {
        Some(at) => (&bytes[..at], &bytes[at + SEPARATOR.len()..]),
        None => (bytes, b""),
    }
}

/// An answer as it is on the wire, without the version and the reason: a status, headers, an empty line, a body.
pub(crate) fn answer(bytes: &[u8]) -> Response<Bytes> {
    let (status, headers, body) = message(bytes);
    let status = StatusCode::from_bytes(status.trim_ascii());
    let mut response = Response::new(body);
    *response.status_mut() = status.unwrap_or_default();
    *response.headers_mut() = headers;
    response
}

/// The first line of a message, its headers and its body. What cannot be a header is left out, so that each input is one.
pub(crate) fn message(bytes: &[u8]) -> (&[u8], HeaderMap, Bytes) {
    let mut rest = bytes;
    let first = line(&mut rest);
    let mut headers = HeaderMap::new();
    while !rest.is_empty() {
        let header = line(&mut rest);
        if header.is_empty() {
            break;
        }
        let Some(colon) = header.iter().position(|byte| *byte == b':') else {
            continue;
        };
        let name = HeaderName::from_bytes(header[..colon].trim_ascii());
        let value = HeaderValue::from_bytes(header[colon + 1..].trim_ascii());
        if let (Ok(name), Ok(value)) = (name, value)
            && headers.len() < 64
        {
            headers.append(name, value);
        }
    }
    (first, headers, Bytes::copy_from_slice(rest))
}

/// Takes the first line out of `rest`.
pub(crate) fn line<'a>(rest: &mut &'a [u8]) -> &'a [u8] {
    let end = rest.iter().position(|byte| *byte == b'\n');
    let (line, behind) = match end {
        Some(end) => (&rest[..end], &rest[end + 1..]),
        None => (*rest, &b""[..]),
    };
    *rest = behind;
    line
}

/// The members of a JSON object. What is no Unicode in it does not matter here.
pub(crate) fn members(json: &[u8]) -> Option<Map<String, Value>> {
    serde_json::from_str(&String::from_utf8_lossy(json)).ok()
}

/// A peer whose answer depends on nothing but the request.
pub(crate) struct Peer<F> {
    answers: F,
    asked: Arc<Mutex<Vec<(Uri, Bytes)>>>,
}

impl<F> Peer<F>
where
    F: Fn(&Request<Full<Bytes>>) -> Response<Bytes>,
{
    pub(crate) fn new(answers: F) -> Self {
        Self {
            answers,
            asked: Arc::default(),
        }
    }

    /// The URIs it was asked at, and the bodies that were sent there.
    pub(crate) fn asked(&self) -> Vec<(Uri, Bytes)> {
        self.asked.lock().unwrap().clone()
    }
}

impl<F: Clone> Clone for Peer<F> {
    fn clone(&self) -> Self {
        Self {
            answers: self.answers.clone(),
            asked: self.asked.clone(),
        }
    }
}

impl<F> Service<Request<Full<Bytes>>> for Peer<F>
where
    F: Fn(&Request<Full<Bytes>>) -> Response<Bytes>,
{
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Full<Bytes>>) -> Self::Future {
        let response = (self.answers)(&request).map(Full::new);
        let uri = request.uri().clone();
        let body = in_memory(request.into_body());
        self.asked.lock().unwrap().push((uri, body));
        ready(Ok(response))
    }
}

/// The bytes of a body that is in memory.
pub(crate) fn in_memory(body: Full<Bytes>) -> Bytes {
    use futures_util::FutureExt;
    use http_body_util::BodyExt;

    let collected = body.collect().now_or_never();
    collected.unwrap().unwrap().to_bytes()
}

/// All that an error shows to whoever prints it or walks through its sources.
pub(crate) fn shown(error: &(dyn Error + 'static)) -> String {
    let mut text = String::new();
    let mut next = Some(error);
    while let Some(error) = next {
        write!(text, "{error}\n{error:?}\n{error:#?}\n").unwrap();
        next = error.source();
    }
    text
}

/// Panics when a part of `input` of 12 bytes or more is in `text`, besides the words that are `public`.
pub(crate) fn assert_shows_nothing_of(input: &[u8], text: &str, public: &[&str]) {
    const PART: usize = 12;

    let private = public
        .iter()
        .fold(text.to_owned(), |text, word| text.replace(word, "\0"));
    let shown: HashSet<&[u8]> = private.as_bytes().windows(PART).collect();
    let shows = input.windows(PART).find(|part| shown.contains(part));
    assert_eq!(shows.map(String::from_utf8_lossy), None, "{text}");
}

/// Rules for every error of a builder, whatever is wrong.
pub(crate) fn assert_names_settings(error: &BuildError) {
    assert!(!error.invalid_settings().is_empty());
    let text = error.to_string();
    assert!(!text.chars().any(char::is_control), "{text:?}");
    for invalid in error.invalid_settings() {
        assert!(text.contains(invalid.setting()) && text.contains(invalid.message()));
    }
}

/// What every error keeps to, whatever it is about.
pub(crate) fn assert_is_well_formed(error: &AuthError) {
    let response = error.to_response::<Bytes>();
    let expected = match error.kind() {
        AuthErrorKind::MissingIdentity
        | AuthErrorKind::MissingToken
        | AuthErrorKind::Expired
        | AuthErrorKind::Rejected => 401,
        AuthErrorKind::InsufficientScope => 403,
        AuthErrorKind::PayloadTooLarge => 413,
        AuthErrorKind::Configuration => 500,
        AuthErrorKind::WrongOrigin => 502,
        AuthErrorKind::Unavailable => 503,
        kind => panic!("a kind that is not known here: {kind:?}"),
    };
    assert_eq!(response.status(), expected);
    let has_challenge = response.headers().contains_key("www-authenticate");
    assert_eq!(has_challenge, [401, 403].contains(&expected));
    let text = error.to_string();
    assert!(
        !text.is_empty() && !text.chars().any(char::is_control),
        "{text:?}"
    );
    if let Some(retry_after) = error.retry_after() {
        assert_eq!(error.kind(), AuthErrorKind::Unavailable);
        assert!(retry_after <= Duration::from_secs(3600), "{retry_after:?}");
    }
}
