use std::{
    convert::Infallible,
    fmt,
    future::{Ready, ready},
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use serde_json::json;
use tower::Service;

use crate::oauth::{http_client::parse_url, published_document::PublishedDocument};

/// A service for the document that stands for this application at providers that know it by
/// a URL instead of a registration (draft-ietf-oauth-client-id-metadata-document).
///
/// Needs the feature `linking`.
///
/// [`AccountLinking::client_metadata`](crate::AccountLinking::client_metadata) makes it. Route
/// its [`path`](Self::path) to it, and let anyone read it. It answers `GET` and `HEAD` for
/// that path, and 404 for any other.
#[derive(Clone)]
pub struct ClientMetadata {
    inner: Arc<Inner>,
}

struct Inner {
    client_id: String,
    path: String,
    document: Bytes,
}

impl ClientMetadata {
    /// `None`, if the client's ID is not a URL that such a document can have.
    pub(super) fn new(client_id: &str, name: &str, redirect_uris: &[&str]) -> Option<Self> {
        let (uri, _) = parse_url(client_id, false).ok()?;
        let has_path = uri.path().len() > 1 && !uri.path().split('/').any(is_dots);
        if !has_path || uri.query().is_some() {
            return None;
        }
        let document = json!({
            "client_id": client_id,
            "client_name": name,
            "redirect_uris": redirect_uris,
            "grant_types": ["authorization_code", "refresh_token"],
            "response_types": ["code"],
            "token_endpoint_auth_method": "none",
        });
        Some(Self {
            inner: Arc::new(Inner {
                client_id: client_id.to_owned(),
                path: uri.path().to_owned(),
                document: document.to_string().into(),
            }),
        })
    }

    /// The path of the client's ID, for a router.
    pub fn path(&self) -> &str {
        &self.inner.path
    }

    fn answer<B>(&self, request: &Request<B>) -> Response<Full<Bytes>> {
        if request.uri().path() != self.inner.path {
            let mut response = Response::default();
            *response.status_mut() = StatusCode::NOT_FOUND;
            return response;
        }
        let document = PublishedDocument {
            content_type: "application/json",
            cache_control: "max-age=300",
            content: self.inner.document.clone(),
        };
        document.answer(request.method())
    }
}

/// The URL has no such part, because it is compared as text.
fn is_dots(part: &str) -> bool {
    matches!(part, "." | "..")
}

impl<B> Service<Request<B>> for ClientMetadata {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        ready(Ok(self.answer(&request)))
    }
}

impl fmt::Debug for ClientMetadata {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientMetadata")
            .field("client_id", &self.inner.client_id)
            .finish_non_exhaustive()
    }
}
