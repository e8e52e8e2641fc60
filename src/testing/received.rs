use std::fmt;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Uri, header::AUTHORIZATION};
use http_body::Body;
use http_body_util::BodyExt;
use serde_json::Value;
use tower::BoxError;

use crate::Origin;

/// A request as a [`TestIssuer`](super::TestIssuer) or a [`TestBackend`](super::TestBackend) received it.
///
/// Needs the feature `testing`.
///
/// ```
/// use http::Request;
/// use tower::ServiceExt;
/// use tower_identity::testing::TestBackend;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), tower::BoxError> {
/// let backend = TestBackend::new("https://api.example.com");
/// let request = Request::post("https://api.example.com/items")
///     .header("x-tenant", "blue")
///     .body(r#"{ "name": "lamp" }"#.to_owned())?;
/// backend.clone().oneshot(request).await?;
///
/// let received = backend.request();
/// assert_eq!(received.uri.path(), "/items");
/// assert_eq!(received.header("x-tenant"), Some("blue"));
/// assert_eq!(received.bearer_token(), None);
/// assert_eq!(received.json()["name"], "lamp");
/// # Ok(())
/// # }
/// ```
///
/// `Debug` shows neither the body nor a header that is marked as sensitive.
#[derive(Clone)]
#[non_exhaustive]
pub struct ReceivedRequest {
    /// The method.
    pub method: Method,
    /// The URI, absolute unless the request came over a connection.
    pub uri: Uri,
    /// The headers.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
}

impl ReceivedRequest {
    pub(super) async fn read<B>(request: Request<B>) -> Result<Self, BoxError>
    where
        B: Body,
        B::Error: Into<BoxError>,
    {
        let (head, body) = request.into_parts();
        let body = body.collect().await.map_err(Into::into)?;
        Ok(Self {
            method: head.method,
            uri: head.uri,
            headers: head.headers,
            body: body.to_bytes(),
        })
    }

    /// Returns the value of a header. A header that is there more than once panics, because a test must not overlook a
    /// second credential.
    ///
    /// # Panics
    ///
    /// If the header has several values, or one that is not visible ASCII.
    #[track_caller]
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.get_all(name).iter();
        let value = values.next()?;
        assert!(values.next().is_none(), "there are several `{name}`");
        Some(value.to_str().expect("a header is visible ASCII"))
    }

    /// Returns the bearer token, without its scheme.
    ///
    /// # Panics
    ///
    /// If there are several `Authorization` headers.
    #[track_caller]
    pub fn bearer_token(&self) -> Option<&str> {
        let (scheme, token) = self.header(AUTHORIZATION.as_str())?.split_once(' ')?;
        scheme.eq_ignore_ascii_case("Bearer").then_some(token)
    }

    /// Returns a parameter of a form, for example `grant_type`. One that is there more than once panics.
    ///
    /// # Panics
    ///
    /// If the parameter is there several times.
    #[track_caller]
    pub fn parameter(&self, name: &str) -> Option<String> {
        let mut values = form_urlencoded::parse(&self.body)
            .filter_map(|(key, value)| (key == name).then_some(value));
        let value = values.next()?.into_owned();
        assert!(values.next().is_none(), "there are several `{name}`");
        Some(value)
    }

    /// Returns the body as JSON, or `null` if it is something else.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// Whether the request can have come to this host. A request over a connection has only a path.
    pub(super) fn is_for(&self, origin: &Origin) -> bool {
        self.uri
            .authority()
            .is_none_or(|authority| origin.is_authority(authority))
    }
}

impl fmt::Debug for ReceivedRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReceivedRequest")
            .field("method", &self.method)
            .field("uri", &self.uri)
            .field("headers", &self.headers)
            .field("body", &format_args!("{} bytes", self.body.len()))
            .finish()
    }
}
