use std::{
    convert::Infallible,
    fmt,
    future::{Ready, ready},
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{
    HeaderValue, Method, Request, Response, StatusCode,
    header::{
        ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
        ALLOW, CONTENT_TYPE,
    },
};
use http_body_util::Full;
use serde_json::{Map, Value, json};
use tower::Service;

use crate::oauth::http_client::parse_url;

const WELL_KNOWN: &str = "/.well-known/oauth-protected-resource";

/// A service that tells callers which issuer's tokens a resource accepts (protected
/// resource metadata, RFC 9728 §3).
///
/// Needs the feature `incoming`.
///
/// [`TokenValidator::resource_metadata`](crate::TokenValidator::resource_metadata) creates
/// it. Anyone may read the metadata: route its [`path`](Self::path) to this service, and
/// not through [`TokenValidatorLayer`](crate::TokenValidatorLayer). It answers `GET` and
/// `HEAD` for that path, also for web pages of other origins (CORS), and 404 for any other
/// path.
///
/// ```
/// use axum::{Router, routing::get};
/// use tower_identity::{TokenValidator, TokenValidatorLayer};
///
/// fn router(validator: TokenValidator) -> Router {
///     let metadata = validator.resource_metadata();
///     let router = Router::new()
///         .route("/mcp", get(async || "hello"))
///         .layer(TokenValidatorLayer::new(validator));
///     match metadata {
///         // Outside of the layer.
///         Some(metadata) => {
///             let path = metadata.path().to_owned();
///             router.route_service(&path, metadata)
///         }
///         // The validator has no `resource`.
///         None => router,
///     }
/// }
/// # let _ = router;
/// ```
#[derive(Clone)]
pub struct ProtectedResourceMetadata {
    inner: Arc<Inner>,
}

struct Inner {
    url: String,
    path: String,
    document: Bytes,
}

impl ProtectedResourceMetadata {
    /// `more` are further members. The error is a sentence whose subject is the resource's URL.
    pub(super) fn new(
        resource: &str,
        insecure: bool,
        issuers: &[String],
        scopes: &[String],
        more: Map<String, Value>,
    ) -> Result<Self, &'static str> {
        let (uri, origin) = parse_url(resource, insecure)?;
        let path = match uri.path() {
            "/" => WELL_KNOWN.to_owned(),
            path => format!("{WELL_KNOWN}{path}"),
        };
        let query = uri
            .query()
            .map(|query| format!("?{query}"))
            .unwrap_or_default();
        let mut document = json!({
            "resource": resource,
            "authorization_servers": issuers,
            "bearer_methods_supported": ["header"],
        });
        if let Some(document) = document.as_object_mut() {
            if !scopes.is_empty() {
                document.insert("scopes_supported".to_owned(), json!(scopes));
            }
            document.extend(more);
        }
        Ok(Self {
            inner: Arc::new(Inner {
                url: format!("{origin}{path}{query}"),
                path,
                document: document.to_string().into(),
            }),
        })
    }

    /// The URL of the metadata, which challenges name as `resource_metadata`: the URL of the resource, with the well-known
    /// path between host and path (RFC 9728 §3.1).
    pub fn url(&self) -> &str {
        &self.inner.url
    }

    /// The path of the URL, for a router.
    pub fn path(&self) -> &str {
        &self.inner.path
    }

    fn answer<B>(&self, request: &Request<B>) -> Response<Full<Bytes>> {
        let mut response = Response::default();
        if request.uri().path() != self.inner.path {
            *response.status_mut() = StatusCode::NOT_FOUND;
            return response;
        }
        let headers = response.headers_mut();
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
        match *request.method() {
            Method::GET | Method::HEAD => {
                headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
                // The server leaves the body of an answer to `HEAD` out.
                *response.body_mut() = Full::new(self.inner.document.clone());
            }
            Method::OPTIONS => {
                let methods = HeaderValue::from_static("GET, HEAD, OPTIONS");
                headers.insert(ACCESS_CONTROL_ALLOW_METHODS, methods);
                headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static("*"));
                *response.status_mut() = StatusCode::NO_CONTENT;
            }
            _ => {
                headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD, OPTIONS"));
                *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
            }
        }
        response
    }
}

impl<B> Service<Request<B>> for ProtectedResourceMetadata {
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

impl fmt::Debug for ProtectedResourceMetadata {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProtectedResourceMetadata")
            .field("url", &self.inner.url)
            .finish_non_exhaustive()
    }
}
